"""Bills that a provider exports as files: from the rows of its table to charge lines.

A line is all rows of one UTC day that agree in everything but their quantities and amounts: an export may be
by the hour, by resource, or append a correction instead of editing a row. The sums are exact.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import date
from pathlib import Path
from typing import Annotated

import duckdb
from duckdb import ConstantExpression as Literal
from pydantic import AfterValidator

from dagster_project import settings
from dagster_project.days import Days
from dagster_project.errors import SourceError
from dagster_project.records import COLUMNS, MONEY
from dagster_project.sources import _files, _tables

RESTATES_DAYS = 40
"""A month is restated until its invoice is final, some days after its end."""

REMEDY = "Nothing was replaced; the export has to say it, or its form has changed."

_SUMMED = ("quantity", "billed_cost", "list_cost")
_DERIVED = ("record_id", "record_kind", "source", "started_at", "ended_at")


class ExportEntry(settings.Entry):
    """Files that a provider exports a bill to, or that somebody downloads."""

    path: Annotated[settings.Text, AfterValidator(_files.check)]
    """A glob of files on disk or in an object store, with `{date:%Y-%m}` where their names say the month.
    Each row must stand in one of them only: let it name the latest delivery of each month."""


def fetch(entry: ExportEntry, days: Days, raw: Path) -> None:
    """The list of files, which stay where they are. Raises SourceError when there is none."""
    _files.write_manifest(_files.find(entry.name, entry.path, days), raw)


def stage(
    entry: ExportEntry,
    raw: Path,
    connection: duckdb.DuckDBPyConnection,
    columns: Collection[str],
    required: Collection[str],
    projection: str,
) -> duckdb.DuckDBPyRelation:
    """What `projection` says of `logged`, whose `columns` are texts: its rows with `file`, columns of the
    schema, and `broken`, the name of the column that a row has no usable value of.

    Raises SourceError naming file and column, for one of the `required` that a table lacks too.
    """
    connection.execute("set TimeZone = 'UTC'")
    staged = raw / "lines.parquet"
    _tables.extract(entry.name, connection, _files.read_manifest(raw), columns, required, projection, staged)
    rows = connection.read_parquet(str(staged))
    broken = rows.filter("broken is not null").aggregate("min({c: broken, f: file}), count(*)")
    ((first, count),) = broken.fetchall()
    if first is not None:
        what = f"{count} rows have no usable `{first['c']}`" if count > 1 else f"no usable `{first['c']}`"
        raise SourceError(entry.name, what, where=first["f"], remedy=REMEDY)
    return rows


def charges(entry: ExportEntry, rows: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """One charge a line of the staged `rows`, in the columns of the schema.

    A quantity or list cost that one row of a line does not say is not said of the line.
    """
    said = [column.name for column in COLUMNS if column.name in rows.columns and column.name not in _SUMMED]
    coordinates = ", ".join(f"{Literal(name)}: {name}" for name in said)
    sums = ", ".join(
        f"case when count({name}) = count(*) then sum({name}) end as {name}"
        for name in _SUMMED
        if name in rows.columns
    )
    lines = rows.aggregate(f"{', '.join(said)}, {sums}", ", ".join(said)).project(
        f"*, md5(to_json({{{coordinates}}})::varchar) as record_id, 'charge' as record_kind, "
        f"{Literal(entry.name)} as source, usage_date::timestamp as started_at, "
        "usage_date::timestamp + interval 1 day as ended_at"
    )
    return _files.completed(lines)


def days_without_files(entry: ExportEntry, days: Days, raw: Path) -> Collection[date]:
    """The days of which no file says anything any more, where the names of files say their month."""
    return _files.days_without_files(entry.path, days, _files.read_manifest(raw))


def exact(text: str, times: str = "1") -> str:
    """`text` `times` something, to the 12 decimals that the lake keeps; null where it is no number."""
    return f"try(({text}::{MONEY} * {times})::{MONEY})"
