"""Bills that a provider exports as files: from the rows of its table to charge lines.

A line is all rows of one UTC day that agree in everything but quantities, amounts and names for people: an
export may be by the hour, by resource, or append a correction instead of editing a row. The sums are exact.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, NamedTuple

import duckdb
from duckdb import ConstantExpression as Literal
from pydantic import AfterValidator

from dagster_project import settings
from dagster_project.days import Days
from dagster_project.errors import SourceError
from dagster_project.records import COLUMNS, Kind
from dagster_project.sources import _files, _tables

RESTATES_DAYS = 40
"""A month is restated until its invoice is final, some days after its end."""

FILES = "as files (local, `s3://`, `gs://`, `az://`; CSV, Parquet, JSON, gz, zst)"
"""What a `path` may be, in Markdown."""

PERIODS = "periods.json"

REMEDY = "Nothing was replaced; the export has to say it, or its form has changed."

_DERIVED = ("record_id", "record_kind", "source")
_DELIVERY = re.compile(
    r"(?P<period>.*/(BILLING_PERIOD=\d{4}-\d\d|\d{8}-\d{8}))/(?P<delivery>(.*/)?)[^/]+", re.IGNORECASE
)
_BEGINS_WITH_ITS_TIME = re.compile(r"\d{4}-?\d\d-?\d\d[T\d]")
_TOKENS = re.compile(r"(?P<number>[1-9]\d{0,8})?(?P<thousands>[KM]?) ?tokens?", re.IGNORECASE)


class ExportEntry(settings.Entry):
    """Files that a provider exports a bill to, or that somebody downloads."""

    path: Annotated[settings.Text, AfterValidator(_files.check)]
    """A glob of files on disk or in an object store, with `{date:%Y-%m}` where their names say the month.
    Each row must stand in one of them only; of deliveries in folders of their own the latest is read."""


def fetch(entry: ExportEntry, days: Days, raw: Path) -> None:
    """The list of files, which stay where they are. Raises SourceError when there is none, or when it is not
    clear which delivery of a month is the latest.
    """
    found = _files.find(entry.name, entry.path, days)
    _files.write_manifest({file: found[file] for file in latest(entry.name, found)}, raw)


def latest(source: str, files: Collection[str]) -> list[str]:
    """The files of each period's latest delivery (`BILLING_PERIOD=2026-10/<delivery>/...`, or
    `20261001-20261101/<delivery>/...`), which is the last by name, if the names begin with their time.
    """
    deliveries: dict[str, set[str]] = defaultdict(set)
    for found in filter(None, map(_DELIVERY.fullmatch, files)):
        deliveries[found["period"]].add(found["delivery"])
    for period, names in deliveries.items():
        if len(names) > 1 and not all(map(_BEGINS_WITH_ITS_TIME.match, names)):
            raise SourceError(
                source,
                f"{len(names)} deliveries of one period, and nothing says which is the latest",
                where=period,
                remedy="Each holds all rows, so the bill would be counted several times: let the export "
                "overwrite its files, or `path` name one delivery, or the manifest that is in this folder.",
            )
    return [
        file
        for file in files
        if (found := _DELIVERY.fullmatch(file)) is None
        or found["delivery"] == max(deliveries[found["period"]])
    ]


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
    broken = rows.filter("broken is not null").aggregate("min({field: broken, file: file}), count(*)")
    first, count = broken.fetchall()[0]
    if first is not None:
        column = f"`{first['field']}`"
        what = f"{count} rows have no usable {column}" if count > 1 else f"a row has no usable {column}"
        raise SourceError(entry.name, what, where=first["file"], remedy=REMEDY)
    return rows


class Rows(NamedTuple):
    """How many rows a file has, and how many of those are not ours."""

    all: int
    left_out: int


def looked_through(
    entry: ExportEntry,
    raw: Path,
    connection: duckdb.DuckDBPyConnection,
    columns: Collection[str],
    ours: str,
) -> Mapping[str, Rows]:
    """The rows of each of the files that has any; `ours` is a condition on their `columns`. A second look at
    the files is cheaper than a first one at everything that other services say.
    """
    file = raw / "looked_through.parquet"
    count = f"select file, count(*), count(*) filter (not ({ours})) from logged group by file"
    _tables.extract(entry.name, connection, _files.read_manifest(raw), columns, (), count, file)
    return {name: Rows(*rows) for name, *rows in connection.read_parquet(str(file)).fetchall()}


def others(seen: Mapping[str, Rows]) -> dict[str, int]:
    """The rows of all files that were left out, as it is told."""
    return {"rows_of_other_services": sum(rows.left_out for rows in seen.values())}


def counted(rows: duckdb.DuckDBPyRelation, conditions: Mapping[str, str]) -> dict[str, int]:
    """How many of the `rows` meet each of the `conditions`, by what that is called."""
    figures = rows.aggregate(", ".join(f"count(*) filter ({condition})" for condition in conditions.values()))
    return dict(zip(conditions, figures.fetchall()[0], strict=True))


def charges(entry: settings.Entry, rows: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """One charge a line of the staged `rows`, in the columns of the schema.

    A quantity or list cost that one row of a line does not say is not said of the line.
    """
    said = ", ".join(name for name in rows.columns if name not in ("started_at", "ended_at"))
    of_days = rows.project(
        f"{said}, usage_date::timestamp as started_at, usage_date::timestamp + interval 1 day as ended_at"
    )
    return summed(entry, "charge", of_days, ("quantity", "billed_cost", "list_cost"))


def summed(
    entry: settings.Entry, kind: Kind, rows: duckdb.DuckDBPyRelation, measures: Collection[str]
) -> duckdb.DuckDBPyRelation:
    """One record for all `rows` that agree in everything but names and the `measures`, which are summed. Its
    id is made of what they agree in. A line of a bill does not say what one of its rows does not say; in a
    usage report, a row without a meter has used none of it.
    """
    there = [column.name for column in COLUMNS if column.name in rows.columns]
    if "tags" in there:  # a map has no order, and the next delivery may have another
        rows = rows.project("* replace (map_from_entries(list_sort(map_entries(tags))) as tags)")
    names = [name for name in there if name.endswith("_name")]
    said = [name for name in there if name not in {*measures, *names, *_DERIVED}]
    coordinates = ", ".join(f"{Literal(name)}: {name}" for name in said)
    combined = [f"max({name}) as {name}" for name in names] + [
        f"sum({name}) as {name}"
        if kind == "usage"
        else f"case when count({name}) = count(*) then sum({name}) end as {name}"
        for name in measures
        if name in there
    ]
    lines = rows.aggregate(", ".join([*said, *combined]), ", ".join(said)).project(
        f"*, md5(to_json({{{coordinates}}})::varchar) as record_id, {Literal(kind)} as record_kind, "
        f"{Literal(entry.name)} as source"
    )
    return _files.completed(lines)


def days_without_files(entry: ExportEntry, days: Days, raw: Path) -> Collection[date]:
    """The days of which no file says anything any more, where the names of files say their month."""
    return _files.days_without_files(entry.path, days, _files.read_manifest(raw))


def write_periods(periods: Iterable[tuple[date, date]], raw: Path) -> None:
    """The first and last days of what is read, where manifests say it."""
    bounds = [(str(first), str(last)) for first, last in periods]
    (raw / PERIODS).write_text(json.dumps(bounds), encoding="utf-8")


def days_outside_periods(days: Days, raw: Path) -> Collection[date]:
    """The days of which there is no manifest any more; none where `path` names the files themselves."""
    if not (raw / PERIODS).exists():
        return ()
    periods = json.loads((raw / PERIODS).read_text(encoding="utf-8"))
    return {day for day in days if not any(first <= str(day) <= last for first, last in periods)}


def usage_date(started: str, period: str) -> str:
    """SQL: the UTC day of a row, but one of its billing period: what a bill corrects of an earlier month is
    of the first day of its own, because the earlier bill is final. `period` is its first instant, if it is
    said.
    """
    # `infinity` is an instant, too; and greatest and least pass over what is null
    day, first = (
        f"if(isfinite({instant}), {instant}::timestamp::date, null)"
        for instant in (f"try_cast({text} as timestamptz)" for text in (started, period))
    )
    within = f"if({day} is null or {first} is null, null, least(greatest({day}, {first}), last_day({first})))"
    return f"if({period} is null, {day}, {within})"


def tokens_each(unit: str | None) -> int | None:
    """How many tokens one of a `unit` is ("Tokens", "1K tokens", "1000000 Tokens"); None for all else."""
    found = _TOKENS.fullmatch((unit or "").strip())
    if found is None:
        return None
    return int(found["number"] or 1) * {"": 1, "K": 1_000, "M": 1_000_000}[found["thousands"].upper()]
