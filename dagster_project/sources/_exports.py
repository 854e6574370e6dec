"""Bills that a provider exports as files: from the rows of its table to charge lines.

A line is all rows of one UTC day that agree in everything but their quantities and amounts: an export may be
by the hour, by resource, or append a correction instead of editing a row. The sums are exact.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import duckdb
from duckdb import ConstantExpression as Literal
from pydantic import AfterValidator

from dagster_project import settings
from dagster_project.days import Days
from dagster_project.errors import SourceError
from dagster_project.records import COLUMNS, MONEY, Kind
from dagster_project.sources import _files, _tables

RESTATES_DAYS = 40
"""A month is restated until its invoice is final, some days after its end."""

REMEDY = "Nothing was replaced; the export has to say it, or its form has changed."

_DERIVED = ("record_id", "record_kind", "source")


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
    if found := rows.filter("broken is not null").aggregate("min({c: broken, f: file}), count(*)").fetchone():
        first, count = found
        if first is not None:
            what = f"{count} rows have no usable `{first['c']}`" if count > 1 else f"no usable `{first['c']}`"
            raise SourceError(entry.name, what, where=first["f"], remedy=REMEDY)
    return rows


def charges(entry: settings.Entry, rows: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """One charge a line of the staged `rows`, in the columns of the schema.

    A quantity or list cost that one row of a line does not say is not said of the line.
    """
    of_days = rows.project("*, usage_date::timestamp as started_at, started_at + interval 1 day as ended_at")
    return summed(entry, "charge", of_days, ("quantity", "billed_cost", "list_cost"))


def summed(
    entry: settings.Entry, kind: Kind, rows: duckdb.DuckDBPyRelation, measures: Collection[str]
) -> duckdb.DuckDBPyRelation:
    """One record for all `rows` that agree in everything but the `measures`, which are summed; null where one
    of them is. Its id is made of what they agree in.
    """
    named = [column.name for column in COLUMNS if column.name in rows.columns]
    said = [name for name in named if name not in {*measures, *_DERIVED}]
    coordinates = ", ".join(f"{Literal(name)}: {name}" for name in said)
    sums = [
        f"case when count({name}) = count(*) then sum({name}) end as {name}"
        for name in measures
        if name in named
    ]
    lines = rows.aggregate(", ".join([*said, *sums]), ", ".join(said)).project(
        f"*, md5(to_json({{{coordinates}}})::varchar) as record_id, {Literal(kind)} as record_kind, "
        f"{Literal(entry.name)} as source"
    )
    return _files.completed(lines)


def exact(text: str, times: str = "1") -> str:
    """`text` `times` a number of up to 11 digits, to the 12 decimals that the lake keeps; null where it is no
    number, or one of a million millions.
    """
    # Not `try(...)`: a cast that two of them have in common is made once, outside of both, and fails.
    return f"try_cast(try_cast({text} as decimal(27, 15)) * {times} as {MONEY})"
