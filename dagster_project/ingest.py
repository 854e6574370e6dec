"""One pull: from what a source says to the day files of the lake.

    fetch ─▶ parse ─▶ staged Parquet ─▶ checked, one row per record ─▶ rolled up ─▶ every day replaced
                └──▶ names, merged with those seen before    └──▶ compared with what the lake holds:
                                                                  the ledger of restatements

Nothing in the lake changes before all of it has been fetched, parsed, checked and compared; then each
asked day is replaced by what the source says now, including by nothing, in one commit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from shutil import copyfile

import duckdb
import polars as pl

from dagster_project import pulled_days, restatements, rollup, settings, small_days
from dagster_project.days import Days
from dagster_project.errors import ContractError, SourceError
from dagster_project.lake import Lake
from dagster_project.names import NO_NAMES, with_listed
from dagster_project.records import COLUMNS, METERS, QUANTITIES, TAGS, Kind
from dagster_project.small_days import SmallDay
from dagster_project.sources import Name, Records, Source

MEMORY_LIMIT = "1.5GB"
"""What the engine may use before it spills to disk: a pull runs beside other things, all in 2 GB."""

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
    """A finished pull. `counts` holds the source's own figures and `duplicates dropped`; `accepted` are
    days with far fewer rows than expected.
    """

    source: str
    days: Days
    by_day: Sequence[DayOfKind]
    counts: Mapping[str, int]
    restated: restatements.Restated
    accepted: Sequence[SmallDay]

    def rows(self, kind: Kind) -> int:
        return sum(part.rows for part in self.by_day if part.kind == kind)


def ingest(
    source: Source,
    days: Days,
    lake: Lake,
    active_tags: Sequence[str],
    instant: datetime,
    guards: settings.Guards = settings.DEFAULT_GUARDS,
    retention: settings.Retention = settings.KEEP_ALL,
    *,
    tag_values: int = settings.DEFAULT_TAG_VALUES,
    accept_small_days: bool = False,
) -> Report:
    """Pull `days` of `source` and replace them in the lake. `instant` is that of the pull itself,
    with its time zone. Answers older than the `retention` are not kept. `tag_values` are
    those that a tag may have on a day (`rollup`).

    Raises SourceError (the source could not be read, or finished days have far fewer rows than expected
    and that is not accepted), ContractError (its records break the schema); the lake is as it was then.
    """
    pulled_at = instant.astimezone(UTC).replace(tzinfo=None)
    pulling = lake.locked(f"pull-{source.name}")  # an older answer must not replace a newer one
    with pulling, lake.scratch() as scratch, connection_in(scratch) as connection:
        lake.wait_for_commit()
        raw = scratch / "raw"
        raw.mkdir()
        source.module.fetch(source.entry, days, raw)
        parsed = source.module.parse(source.entry, days, raw, connection)
        _refuse_problems(source.name, parsed.problems)
        known = pulled_days.read(lake.pulled_days(source.name))
        _refuse_to_forget(connection, source, parsed.days_without_files, known, lake)
        if "request" in source.kinds:
            _refuse_to_decide_by_halves(source.name, days, lake)
        counts = Counter(parsed.counts)
        finished: dict[Path, Path] = {}
        by_day: list[DayOfKind] = []
        for kind in source.kinds:
            staged = scratch / f"{kind}.parquet"
            delivered = _stage(connection, parsed.records[kind], source.name, kind, days, staged)
            for batch in _batches(days, delivered):
                is_large = sum(delivered[day] for day in batch) > BATCH_ROWS
                write = _write_large_day if is_large else _write_days
                once = _once(connection, staged, batch)
                files = write(connection, once, batch, scratch / f"{kind}-{batch[0]}")
                checked = _check(connection, source.name, kind, files)
                by_day += checked
                counts["duplicates dropped"] += sum(delivered[part.day] - part.rows for part in checked)
                finished |= {lake.records(kind, source.name, day): file for day, file in files.items()}
                if kind in rollup.KINDS:
                    folder = scratch / f"{kind}-{batch[0]}-rollup"
                    with rollup.rolled_up(
                        connection, list(files.values()), active_tags, tag_values
                    ) as rolled:
                        written = write(connection, rolled.rows, batch, folder)
                    finished |= {lake.rollup(kind, source.name, day): file for day, file in written.items()}
                    for key, values in rolled.crowded.items():
                        told = f"values of the tag `{key}`, too many to report by"
                        counts[told] = max(counts[told], values)
        small = _small_days(connection, source.name, by_day, known, lake, pulled_at.date(), guards)
        if small and not accept_small_days:
            raise small_days.refused(source.name, days, small)
        pull_id = restatements.next_pull_id(lake, source.name, pulled_at)
        ledger = scratch / "restatements.parquet"
        compared = _comparable(finished, source.name, lake)
        restated = restatements.write(connection, compared, pulled_at, pull_id, ledger)
        if restated.records:
            finished[lake.restatements(source.name, pull_id)] = ledger
        finished |= _merged(source.name, by_day, known, parsed.names, pulled_at, lake, scratch)
        if source.module.KEEPS_RAW and days.last >= retention.first_raw_day(pulled_at.date()):
            finished[lake.raw(source.name, days)] = raw
        with lake.locked("warehouse"):  # a build reads all days or none of them
            lake.commit(finished, scratch)
    return Report(source.name, days, by_day, dict(counts), restated, small)


def _merged(
    source: str,
    by_day: Sequence[DayOfKind],
    known: pl.DataFrame,
    listed: Collection[Name],
    pulled_at: datetime,
    lake: Lake,
    scratch: Path,
) -> dict[Path, Path]:
    """New files, by place, of what the lake keeps of all pulls of the source: its days and its names."""
    rows = [(part.kind, part.day, part.rows) for part in by_day]
    listed_before = lake.names(source)
    names = pl.read_parquet(listed_before) if listed_before.exists() else NO_NAMES
    merged = {
        lake.pulled_days(source): pulled_days.with_pulled(known, source, rows, pulled_at),
        lake.names(source): with_listed(names, source, listed, pulled_at.date()),
    }
    files = {place: scratch / f"{place.parent.name}.parquet" for place in merged}
    for place, file in files.items():
        merged[place].write_parquet(file)
    return files


def _comparable(finished: Mapping[Path, Path], source: str, lake: Lake) -> dict[Path, Path]:
    """Those of the finished files that the ledger tells the changes of."""
    folders = {lake.records_of(kind, source) for kind in restatements.KINDS}
    return {place: file for place, file in finished.items() if place.parent in folders}


def _small_days(
    connection: duckdb.DuckDBPyConnection,
    source: str,
    by_day: Sequence[DayOfKind],
    known: pl.DataFrame,
    lake: Lake,
    today: date,
    guards: settings.Guards,
) -> list[SmallDay]:
    """The finished days of a pull that have far fewer rows than the lake says they should."""
    found = []
    for kind, parts in groupby(by_day, key=attrgetter("kind")):
        pulled = {part.day: part.rows for part in parts}
        first = min(pulled) - timedelta(days=small_days.COMPARED_DAYS)
        held = _rows_held(connection, kind, source, Days(first, max(pulled)), known, lake)
        last_pulled = pulled_days.last_pulled(known, kind)
        whole = {
            day for day in held if day in last_pulled and small_days.is_finished(day, last_pulled[day].date())
        }
        found += small_days.of_kind(kind, pulled, held, whole, today, guards.smallest_day_share)
    return found


def _rows_held(
    connection: duckdb.DuckDBPyConnection,
    kind: Kind,
    source: str,
    days: Iterable[date],
    known: pl.DataFrame,
    lake: Lake,
) -> dict[date, int]:
    """Rows that those `days` have in the lake, or had before their records were too old to be kept."""
    files = [str(file) for day in days if (file := lake.records(kind, source, day)).exists()]
    if not files:
        return {}
    rows = connection.execute("select file_name, num_rows from parquet_file_metadata(?)", [files]).fetchall()
    held = {date.fromisoformat(Path(file).stem): count for file, count in rows}
    pulled = pulled_days.rows(known, kind)
    return {day: pulled.get(day, count) for day, count in held.items()}


def _refuse_problems(source: str, problems: Collection[str]) -> None:
    if problems:
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
        raise SourceError(
            source,
            "; ".join(list(problems)[:5]) + more,
            where="its rows",
            remedy="Nothing was replaced. Correct the entry in sources.yaml, or let it name a view without "
            f"such rows; `chargeback sources try {source}` shows how its rows are read.",
        )


def _refuse_to_forget(
    connection: duckdb.DuckDBPyConnection,
    source: Source,
    days: Collection[date],
    known: pl.DataFrame,
    lake: Lake,
) -> None:
    """A day that can be read no more is not a day of nothing: what was read of it stays."""
    for kind in source.kinds:
        for day, rows in sorted(_rows_held(connection, kind, source.name, days, known, lake).items()):
            if rows:
                raise SourceError(
                    source.name,
                    f"nothing of this day is left to read, and {rows} records of it were read before",
                    where=str(day),
                    remedy=f"Put its files back, if it is a log, or ask for other days; remove "
                    f"{lake.records(kind, source.name, day)} if the day is to be empty. "
                    "Nothing was replaced.",
                )


def _refuse_to_decide_by_halves(source: str, days: Days, lake: Lake) -> None:
    """Of calls that several sources have logged, who speaks is decided by their records (`overlaps`)."""
    for day in days:
        places = lake.root.glob(f"records/request/*/{day}.parquet") if lake.set_aside(day).exists() else ()
        for records in places:
            other = records.parent.name
            if other != source and is_forgotten(lake, other, day):
                raise SourceError(
                    source,
                    "several sources have logged calls of this day, and the request records that tell which "
                    f"are the same are forgotten (of `{other}`)",
                    where=str(day),
                    remedy=f"Pull this day of `{other}` first, or ask for later days; keep `request_days` "
                    "longer than any source is pulled again. Nothing was replaced.",
                )


def is_forgotten(lake: Lake, source: str, day: date) -> bool:
    """Whether the source has logged requests of the day, and their records are too old to be kept."""

    def has_rows(file: Path) -> bool:
        return file.exists() and pl.scan_parquet(file).head(1).collect().height > 0

    return has_rows(lake.rollup("request", source, day)) and not has_rows(
        lake.records("request", source, day)
    )


class connection_in:
    """A private in-memory engine that spills into the scratch folder."""

    def __init__(self, scratch: Path) -> None:
        self._engine = duckdb.connect(
            config={
                "memory_limit": MEMORY_LIMIT,
                "temp_directory": str(scratch / "spill"),
                "autoinstall_known_extensions": False,
                # A batch is written at once: in pieces, a day's bytes would depend on its neighbours.
                "partitioned_write_flush_threshold": BATCH_ROWS * len(METERS),
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
    typed = typed_relation(connection, records, staged.with_suffix(".frame.parquet"))
    wanted = f"usage_date between date '{days.first}' and date '{days.last}' or usage_date is null"
    connection.execute(f"copy ({typed.filter(wanted).sql_query()}) to '{staged}' (format parquet)")
    rows = f"select usage_date, count(*) from read_parquet('{staged}') group by usage_date"
    delivered = Counter(dict(connection.execute(rows).fetchall()))
    if delivered[None]:
        raise ContractError(source=source, kind=kind, problems=["`usage_date` is null"])
    return delivered


def typed_relation(
    connection: duckdb.DuckDBPyConnection, records: Records, frame: Path
) -> duckdb.DuckDBPyRelation:
    """The records in the schema's exact types. A frame is kept in the file `frame`."""
    relation = records
    if isinstance(relation, pl.DataFrame):
        relation.write_parquet(frame)
        columns = ", ".join(
            f"map_from_entries({c.name}) as {c.name}" if c.type in (TAGS, QUANTITIES) else c.name
            for c in COLUMNS
        )
        relation = connection.sql(f"select {columns} from read_parquet('{frame}')")
    return relation.project(
        ", ".join(f'"{column.name}"::{column.type} as "{column.name}"' for column in COLUMNS)
    )


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
    """The query for what is staged of `days`, with one row per record, in the order of time.

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
) = 1
order by usage_date, started_at, record_id"""


def _write_large_day(
    connection: duckdb.DuckDBPyConnection, rows: str, days: Sequence[date], folder: Path
) -> dict[date, Path]:
    """As `_write_days`, of one day, by all threads."""
    (day,) = days
    folder.mkdir()
    file = folder / f"{day}.parquet"
    connection.execute(f"copy ({rows}) to '{file}' ({_PARQUET})")
    return {day: file}


def _write_days(
    connection: duckdb.DuckDBPyConnection, rows: str, days: Sequence[date], folder: Path
) -> dict[date, Path]:
    """Write what the query `rows` says, in its order, a file in `folder` for each of `days`: an empty one
    where it says nothing about a day.
    """
    folder.mkdir()
    connection.execute("set threads = 1")  # several would each write a part of a day, in any order
    try:
        connection.execute(
            f"copy ({rows}) to '{folder}' "
            f"({_PARQUET}, partition_by (usage_date), write_partition_columns true)"
        )
    finally:
        connection.execute("reset threads")
    files = {}
    for day in days:
        if (written := folder / f"usage_date={day}").exists():
            (files[day],) = written.iterdir()
        else:
            empty = folder / "empty.parquet"
            if not empty.exists():
                connection.execute(f"copy (select * from ({rows}) limit 0) to '{empty}' ({_PARQUET})")
            files[day] = folder / f"{day}.parquet"
            copyfile(empty, files[day])
    return files


_PARQUET = "format parquet, compression zstd"


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
        # A gateway may log what it likes (LiteLLM did of Gemini's); its module counts such requests.
        "`reasoning_tokens` are more than the `output_tokens` that include them": "count(*) filter "
        f"('{kind}' = 'usage' and reasoning_tokens > coalesce(output_tokens, 0))",
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
