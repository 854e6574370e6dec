"""One pull: from what a source says to the day files of the lake.

    fetch ─▶ parse ─▶ staged Parquet ─▶ checked, one row per record ─▶ rolled up ─▶ every day replaced

Nothing in the lake changes before all of it has been fetched, parsed and checked; then each asked
day is replaced by what the source says now, including by nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path

import duckdb
import polars as pl

from dagster_project import rollup
from dagster_project.days import Days
from dagster_project.errors import ContractError, SourceError
from dagster_project.lake import Lake, replace_file, replace_folder
from dagster_project.records import COLUMNS, METERS, QUANTITIES, TAGS, Kind
from dagster_project.sources import Records, Source

MEMORY_LIMIT = "2GB"
"""What the engine may use before it spills to disk: a pull runs beside other things."""


@dataclass(frozen=True)
class DayOfKind:
    """What one pull put into the lake for one kind and day."""

    kind: Kind
    day: date
    rows: int
    billed_cost: Decimal | None
    reported_cost: Decimal | None
    tokens: int


@dataclass(frozen=True)
class Report:
    """A finished pull. `counts` holds the source's own figures and `duplicates dropped`."""

    source: str
    days: Days
    by_day: Sequence[DayOfKind]
    counts: Mapping[str, int]

    def rows(self, kind: Kind) -> int:
        return sum(part.rows for part in self.by_day if part.kind == kind)


def ingest(source: Source, days: Days, lake: Lake, active_tags: Sequence[str]) -> Report:
    """Pull `days` of `source` and replace them in the lake.

    Raises SourceError (the source could not be read), ContractError (its records break the schema);
    in both cases the lake is as it was.
    """
    with lake.scratch() as scratch, _connection(scratch) as connection:
        raw = scratch / "raw"
        raw.mkdir()
        source.module.fetch(source.entry, days, raw)
        parsed = source.module.parse(source.entry, days, raw, connection)
        _refuse_to_forget(source.name, parsed.days_without_files, lake)
        counts = Counter(parsed.counts)
        finished: list[tuple[Path, Path]] = []
        by_day: list[DayOfKind] = []
        for kind in source.module.KINDS:
            staged = scratch / kind
            _stage(connection, parsed.records[kind], source.name, kind, days, staged)
            for day in days:
                file = scratch / f"{kind}-{day}.parquet"
                counts["duplicates dropped"] += _write_day(connection, staged, day, file)
                by_day.append(_check_day(connection, source.name, kind, day, file))
                finished.append((file, lake.records(kind, source.name, day)))
                if kind in rollup.KINDS:
                    rolled = scratch / f"{kind}-{day}-rollup.parquet"
                    rollup.write(connection, file, active_tags, rolled)
                    finished.append((rolled, lake.rollup(kind, source.name, day)))
        for new, place in finished:
            replace_file(new, place)
        if source.module.KEEPS_RAW:
            replace_folder(raw, lake.raw(source.name, days))
    return Report(source.name, days, by_day, dict(counts))


def _refuse_to_forget(source: str, days: Collection[date], lake: Lake) -> None:
    """A day whose files are gone is not a day without requests: what was read of it stays."""
    for day in sorted(days):
        file = lake.records("request", source, day)
        rows = pl.scan_parquet(file).select(pl.len()).collect().item() if file.exists() else 0
        if rows:
            raise SourceError(
                source,
                f"no file of this day is left, and {rows} records of it were read before",
                where=str(day),
                remedy=f"Put its files back or ask for other days; remove {file} if the day is to be empty. "
                "Nothing was replaced.",
            )


class _connection:
    """A private in-memory engine that spills into the scratch folder."""

    def __init__(self, scratch: Path) -> None:
        self._engine = duckdb.connect(
            config={
                "memory_limit": MEMORY_LIMIT,
                "temp_directory": str(scratch / "spill"),
                "preserve_insertion_order": False,
                "autoinstall_known_extensions": False,
            }
        )

    def __enter__(self) -> duckdb.DuckDBPyConnection:
        self._engine.execute("set TimeZone = 'UTC'; set enable_progress_bar = false")
        return self._engine

    def __exit__(self, *_: object) -> None:
        self._engine.close()


def _stage(
    connection: duckdb.DuckDBPyConnection,
    records: Records,
    source: str,
    kind: Kind,
    days: Days,
    staged: Path,
) -> None:
    """Write the records of the asked days as Parquet, a folder per day, in the schema's exact types."""
    staged.mkdir()
    if isinstance(records, pl.DataFrame):
        frame = staged.with_suffix(".frame.parquet")
        records.write_parquet(frame)
        columns = ", ".join(
            f"map_from_entries({c.name}) as {c.name}" if c.type in (TAGS, QUANTITIES) else c.name
            for c in COLUMNS
        )
        relation = connection.sql(f"select {columns} from read_parquet('{frame}')")
    else:
        relation = records
    typed = ", ".join(f'"{column.name}"::{column.type} as "{column.name}"' for column in COLUMNS)
    wanted = f"usage_date between date '{days.first}' and date '{days.last}' or usage_date is null"
    connection.execute(
        f"copy ({relation.project(typed).filter(wanted).sql_query()}) to '{staged}' "
        "(format parquet, partition_by (usage_date), write_partition_columns true)"
    )
    if (staged / "usage_date=__HIVE_DEFAULT_PARTITION__").exists():
        raise ContractError(source=source, kind=kind, problems=["`usage_date` is null"])


def empty_records(connection: duckdb.DuckDBPyConnection, file: Path) -> None:
    """A file of records without a row: what a day that holds nothing looks like."""
    columns = ", ".join(f"null::{column.type} as {column.name}" for column in COLUMNS)
    connection.execute(f"copy (select {columns} limit 0) to '{file}' (format parquet)")


def _write_day(connection: duckdb.DuckDBPyConnection, staged: Path, day: date, file: Path) -> int:
    """Gather a staged day into one file with one row per record; returns the duplicates dropped.

    Of several deliveries of one record the last complete one stays: the latest end, then the one
    that says most about money and tokens.
    """
    parts = sorted((staged / f"usage_date={day}").glob("*.parquet"))
    if not parts:
        empty_records(connection, file)
        return 0
    rows = f"read_parquet({[str(part) for part in parts]})"
    total, distinct = connection.sql(f"select count(*), count(distinct record_id) from {rows}").fetchall()[0]
    names = ", ".join(column.name for column in COLUMNS)
    once = (
        ""
        if total == distinct
        else "qualify row_number() over (partition by record_id order by ended_at desc nulls last, "
        "reported_cost desc nulls last, output_tokens desc nulls last, input_tokens desc nulls last) = 1"
    )
    connection.execute(
        f"copy (select {names} from {rows} {once}) to '{file}' (format parquet, compression zstd)"
    )
    return total - distinct


def _check_day(
    connection: duckdb.DuckDBPyConnection, source: str, kind: Kind, day: date, file: Path
) -> DayOfKind:
    """The contract of `records.py`, checked on a finished file. Raises ContractError."""
    required = [column.name for column in COLUMNS if column.required]
    meters = [meter.column for meter in METERS]
    tokens = " + ".join(f"coalesce(sum({m.column}), 0)" for m in METERS if m.unit == "tokens")
    broken = {
        **{f"`{name}` is null": f"count(*) filter ({name} is null)" for name in required},
        **{f"`{name}` is negative": f"count(*) filter ({name} < 0)" for name in meters},
        f"`record_kind` is not {kind}": f"count(*) filter (record_kind <> '{kind}')",
        "`billed_cost` is null": f"count(*) filter ('{kind}' = 'charge' and billed_cost is null)",
        "`currency` is null": f"count(*) filter ('{kind}' = 'charge' and currency is null)",
        "`charge_category` is null": f"count(*) filter ('{kind}' = 'charge' and charge_category is null)",
        "`requests` is null": f"count(*) filter ('{kind}' = 'request' and requests is null)",
        "money or charge text on a record that is no charge": "count(*) filter "
        f"('{kind}' <> 'charge' and coalesce(billed_cost::varchar, currency, line_item) is not null)",
    }
    figures = [*broken.values(), "count(*)", "sum(billed_cost)", "sum(reported_cost)", tokens]
    row = connection.sql(f"select {', '.join(figures)} from read_parquet('{file}')").fetchall()[0]
    problems = [f"{what} in {count} rows of {day}" for what, count in zip(broken, row, strict=False) if count]
    if problems:
        raise ContractError(source=source, kind=kind, problems=problems)
    rows, billed, reported, total_tokens = row[len(broken) :]
    return DayOfKind(kind, day, rows, billed, reported, int(total_tokens))
