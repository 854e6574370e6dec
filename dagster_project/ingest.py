"""One pull: from what a source says to the day files of the lake.

    fetch ─▶ parse ─▶ staged Parquet ─▶ checked, one row per record ─▶ rolled up ─▶ every day replaced
                └──▶ names, merged with those seen before

Nothing in the lake changes before all of it has been fetched, parsed and checked; then each asked
day is replaced by what the source says now, including by nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from shutil import copyfile

import duckdb
import polars as pl

from dagster_project import rollup
from dagster_project.days import Days
from dagster_project.errors import ContractError, SourceError
from dagster_project.lake import Lake, replace_file, replace_folder
from dagster_project.names import NO_NAMES, with_listed
from dagster_project.records import COLUMNS, METERS, QUANTITIES, TAGS, Kind
from dagster_project.sources import Name, Records, Source

MEMORY_LIMIT = "2GB"
"""What the engine may use before it spills to disk: a pull runs beside other things."""

BATCH_DAYS = 31
BATCH_ROWS = 100_000
"""Small days are finished together: their own queries would cost more than they do. A large day is alone, as
writing by day takes the engine twice as long. Up to 100 open files it makes one of each day."""


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


def ingest(source: Source, days: Days, lake: Lake, active_tags: Sequence[str], seen_date: date) -> Report:
    """Pull `days` of `source` and replace them in the lake. `seen_date` is the UTC day of the pull itself.

    Raises SourceError (the source could not be read), ContractError (its records break the schema);
    in both cases the lake is as it was.
    """
    pulling = lake.locked(f"pull-{source.name}")  # an older answer must not replace a newer one
    with pulling, lake.scratch() as scratch, _connection(scratch) as connection:
        raw = scratch / "raw"
        raw.mkdir()
        source.module.fetch(source.entry, days, raw)
        parsed = source.module.parse(source.entry, days, raw, connection)
        _refuse_to_forget(source.name, parsed.days_without_files, lake)
        counts = Counter(parsed.counts)
        finished: list[tuple[Path, Path]] = []
        by_day: list[DayOfKind] = []
        for kind in source.module.KINDS:
            staged = scratch / f"{kind}.parquet"
            delivered = _stage(connection, parsed.records[kind], source.name, kind, days, staged)
            for batch in _batches(days, delivered):
                once = _once(connection, staged, batch)
                files = _write_days(connection, once, batch, scratch / f"{kind}-{batch[0]}")
                checked = _check(connection, source.name, kind, files)
                by_day += checked
                counts["duplicates dropped"] += sum(delivered[part.day] - part.rows for part in checked)
                finished += [(file, lake.records(kind, source.name, day)) for day, file in files.items()]
                if kind in rollup.KINDS:
                    folder = scratch / f"{kind}-{batch[0]}-rollup"
                    with rollup.rolled_up(connection, list(files.values()), active_tags) as rows:
                        rolled = _write_days(connection, rows, batch, folder)
                    finished += [(file, lake.rollup(kind, source.name, day)) for day, file in rolled.items()]
        named = _names(source.name, parsed.names, seen_date, lake, scratch)
        finished.append((named, lake.names(source.name)))
        with lake.locked("warehouse"):  # a build reads all days or none of them
            for new, place in finished:
                replace_file(new, place)
            if source.module.KEEPS_RAW:
                replace_folder(raw, lake.raw(source.name, days))
    return Report(source.name, days, by_day, dict(counts))


def _names(source: str, listed: Collection[Name], seen_date: date, lake: Lake, scratch: Path) -> Path:
    """The source's names, as a new file: those in the lake and those that were listed."""
    kept = lake.names(source)
    known = pl.read_parquet(kept) if kept.exists() else NO_NAMES
    file = scratch / "names.parquet"
    with_listed(known, source, listed, seen_date).write_parquet(file)
    return file


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
) -> Counter[date | None]:
    """Write the records of the asked days as one Parquet file, in the schema's exact types.

    Returns how many there are of each day, those delivered more than once included.
    """
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
        f"copy ({relation.project(typed).filter(wanted).sql_query()}) to '{staged}' (format parquet)"
    )
    rows = f"select usage_date, count(*) from read_parquet('{staged}') group by usage_date"
    delivered = Counter(dict(connection.execute(rows).fetchall()))
    if delivered[None]:
        raise ContractError(source=source, kind=kind, problems=["`usage_date` is null"])
    return delivered


def _batches(days: Days, delivered: Mapping[date, int]) -> Iterator[list[date]]:
    """All `days`, in order, in pieces that the engine finishes at once: BATCH_DAYS and BATCH_ROWS."""
    batch: list[date] = []
    rows = 0
    for day in days:
        if batch and (len(batch) == BATCH_DAYS or rows + delivered[day] > BATCH_ROWS):
            yield batch
            batch, rows = [], 0
        batch.append(day)
        rows += delivered[day]
    yield batch


def empty_records(connection: duckdb.DuckDBPyConnection, file: Path) -> None:
    """A file of records without a row: what a day that holds nothing looks like."""
    columns = ", ".join(f"null::{column.type} as {column.name}" for column in COLUMNS)
    connection.execute(f"copy (select {columns} limit 0) to '{file}' (format parquet)")


def _once(connection: duckdb.DuckDBPyConnection, staged: Path, days: Sequence[date]) -> str:
    """The query for what is staged of `days`, with one row per record.

    Of several deliveries of one record the last complete one stays: the latest end, then the one that
    says most about money and tokens. Those that agree in that are told apart by the rest of the row, so
    that the next pull chooses the same.
    """
    rows = f"read_parquet('{staged}')"
    asked = f"usage_date between date '{days[0]}' and date '{days[-1]}'"
    connection.execute(
        "create or replace temp table repeated as select usage_date, record_id "
        f"from {rows} where {asked} group by all having count(*) > 1"
    )
    names = ", ".join(column.name for column in COLUMNS)
    delivered = f"select {names} from {rows} as delivery"
    return f"""{delivered} anti join repeated using (usage_date, record_id) where {asked}
union all
{delivered} semi join repeated using (usage_date, record_id) where {asked}
qualify row_number() over (
  partition by usage_date, record_id
  order by ended_at desc nulls last, reported_cost desc nulls last, output_tokens desc nulls last,
    input_tokens desc nulls last, delivery
) = 1"""


def _write_days(
    connection: duckdb.DuckDBPyConnection, rows: str, days: Sequence[date], folder: Path
) -> dict[date, Path]:
    """Write what the query `rows` says, a file in `folder` for each of `days`: an empty one where it
    says nothing about a day.
    """
    folder.mkdir()
    parquet = "format parquet, compression zstd"
    if len(days) == 1:
        file = folder / f"{days[0]}.parquet"
        connection.execute(f"copy ({rows}) to '{file}' ({parquet})")
        return {days[0]: file}
    connection.execute(
        f"copy ({rows}) to '{folder}' ({parquet}, partition_by (usage_date), write_partition_columns true)"
    )
    files = {}
    for day in days:
        if (written := folder / f"usage_date={day}").exists():
            (files[day],) = written.iterdir()
        else:
            empty = folder / "empty.parquet"
            if not empty.exists():
                connection.execute(f"copy (select * from ({rows}) limit 0) to '{empty}' ({parquet})")
            files[day] = folder / f"{day}.parquet"
            copyfile(empty, files[day])
    return files


def _check(
    connection: duckdb.DuckDBPyConnection, source: str, kind: Kind, files: Mapping[date, Path]
) -> list[DayOfKind]:
    """The contract of `records.py`, checked on finished files. Raises ContractError."""
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
    figures = ["count(*)", "sum(billed_cost)", "sum(reported_cost)", tokens, *broken.values()]
    found = connection.execute(
        f"select usage_date, {', '.join(figures)} from read_parquet(?) group by all order by usage_date",
        [[str(file) for file in files.values()]],
    ).fetchall()
    problems = [
        f"{what} in {count} rows of {day}"
        for day, _, _, _, _, *counts in found
        for what, count in zip(broken, counts, strict=True)
        if count
    ]
    if problems:
        raise ContractError(source=source, kind=kind, problems=problems)
    held = {
        day: DayOfKind(kind, day, rows, billed, reported, int(total))
        for day, rows, billed, reported, total, *_ in found
    }
    return [held.get(day, DayOfKind(kind, day, 0, None, None, 0)) for day in files]
