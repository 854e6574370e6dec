"""Calls that several sources have logged: a gateway, a trace and the provider's own log may see the same one.

For each such call one source speaks, decided once per UTC day, before dbt reads the requests:

    the same request id of the same provider       is one call, whoever logged it
    sources in one list of `overlaps` (sources.yaml)
                                                   see the same traffic: for a provider, account, project and
                                                   key (what one of them does not know agrees with any) the
                                                   first in the list speaks for all calls of the day

Where the ids of two such sources do meet for a model, a call whose id only the later source has is one that
the first has not seen, and is kept. Sources that nobody declared and whose ids do not meet are taken to see
different calls; `source_overlap` shows where they may not. Who stands first in sources.yaml, or in the list,
speaks.

What is kept of a source's day becomes a rollup of its own, `rollups/spoken`, which stands for that day's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from itertools import combinations
from pathlib import Path

import duckdb
import polars as pl

from dagster_project import rollup
from dagster_project.ingest import connection_in
from dagster_project.lake import Lake, replace_file
from dagster_project.settings import Settings

WHO = ("provider", "account_id", "provider_project_id", "api_key_id")

BY_ID, BY_DECLARATION = "same request id", "declared to see the same calls"


def precedence(lake: Lake, configured: Settings) -> list[str]:
    """The sources that have requests, in the order in which they speak."""
    ranked = [name for name in configured.entries if (lake.root / "records" / "request" / name).exists()]
    for declared in configured.overlaps:
        members = [name for name in declared if name in ranked]
        places = sorted(map(ranked.index, members))
        for place, name in zip(places, members, strict=True):
            ranked[place] = name
    return ranked


def tables(lake: Lake, configured: Settings) -> dict[str, pl.DataFrame]:
    """For dbt: who speaks before whom (`speakers`), and which sources are declared (`declared_overlaps`)."""
    ranked = precedence(lake, configured)
    return {
        "speakers": pl.DataFrame(
            list(enumerate(ranked)), schema={"rank": pl.Int64, "source": pl.String}, orient="row"
        ),
        "declared_overlaps": pl.DataFrame(
            list(_declared(configured)),
            schema={"source": pl.String, "other_source": pl.String},
            orient="row",
        ),
    }


def _declared(configured: Settings) -> Iterator[tuple[str, str]]:
    """Each pair both ways."""
    for declared in configured.overlaps:
        for one, other in combinations(declared, 2):
            yield from ((one, other), (other, one))


def decide(lake: Lake, configured: Settings) -> None:
    """Decide the days of which something has changed since they were decided.

    A day whose request records were forgotten (`retention`) stays as it was decided.
    """
    ranked = precedence(lake, configured)
    days = _days_of_several(lake, ranked)
    decided = json.loads(lake.overlaps_decided.read_text()) if lake.overlaps_decided.exists() else {}
    made_of = {str(day): _made_of(lake, ranked, configured, day) for day in days}
    for day in days:
        is_known = decided.get(str(day)) == made_of[str(day)] and lake.set_aside(day).exists()
        if is_known or _is_forgotten(lake, ranked, day):
            continue
        with lake.scratch() as scratch, connection_in(scratch) as connection:
            _decide(connection, lake, ranked, configured, day, scratch)
    with lake.locked("warehouse"):
        for file in (*lake.root.glob("rollups/spoken/*/*.parquet"), *lake.root.glob("set_aside/*.parquet")):
            if file.stem != "none" and file.stem not in made_of:
                file.unlink()
        lake.overlaps_decided.parent.mkdir(parents=True, exist_ok=True)
        lake.overlaps_decided.write_text(json.dumps(made_of), encoding="utf-8")


def _days_of_several(lake: Lake, ranked: Sequence[str]) -> list[date]:
    """The days that more than one source has requests of."""
    if len(ranked) < 2:
        return []
    files = [
        str(file) for name in ranked for file in (lake.root / "rollups" / "request" / name).glob("*.parquet")
    ]
    with duckdb.connect() as connection:
        filled = connection.execute(
            "select file_name from parquet_file_metadata(?) where num_rows > 0", [files]
        ).fetchall()
    days = [date.fromisoformat(Path(file).stem) for (file,) in filled]
    return sorted({day for day in days if days.count(day) > 1})


def _records_near(lake: Lake, ranked: Sequence[str], day: date) -> list[Path]:
    """The files of the day and its neighbours: clocks differ, and so does when a call ended."""
    near = [day + timedelta(days=n) for n in (-1, 0, 1)]
    files = [lake.records("request", name, one) for name in ranked for one in near]
    return [file for file in files if file.exists()]


def _made_of(lake: Lake, ranked: Sequence[str], configured: Settings, day: date) -> str:
    files = [
        (str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in _records_near(lake, ranked, day)
    ]
    said = [ranked, configured.overlaps, configured.active_tags, configured.tag_values, files]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def _is_forgotten(lake: Lake, ranked: Sequence[str], day: date) -> bool:
    """Whether a rollup of the day has rows and its records have none."""
    return any(
        _has_rows(lake.rollup("request", name, day)) and not _has_rows(lake.records("request", name, day))
        for name in ranked
    )


def _has_rows(file: Path) -> bool:
    return file.exists() and pl.scan_parquet(file).head(1).collect().height > 0


def _decide(
    connection: duckdb.DuckDBPyConnection,
    lake: Lake,
    ranked: Sequence[str],
    configured: Settings,
    day: date,
    scratch: Path,
) -> None:
    _find_what_is_set_aside(connection, lake, ranked, configured, day)
    own = "usage_date, source, record_id"
    summary = scratch / "set_aside.parquet"
    of_day = [str(file) for name in ranked if (file := lake.records("request", name, day)).exists()]
    connection.execute(
        f"""copy (
          select usage_date, source, spoken_by, {", ".join(WHO)}, reason, count(*) as records,
            sum(requests)::bigint as requests, sum(context_tokens)::bigint as input_tokens,
            sum(output_tokens)::bigint as output_tokens, sum(reported_cost) as reported_cost
          from read_parquet($files) inner join set_aside using ({own})
          group by all order by all
        ) to '{summary}' (format parquet)""",
        {"files": of_day},
    )
    finished = {lake.set_aside(day): summary}
    losing = connection.execute("select distinct source from set_aside order by all").fetchall()
    for (source,) in losing:
        kept, rolled = scratch / f"{source}.parquet", scratch / f"{source}-rollup.parquet"
        connection.execute(
            f"""copy (
              select * from read_parquet('{lake.records("request", source, day)}')
              anti join set_aside using ({own})
            ) to '{kept}' (format parquet)"""
        )
        with rollup.rolled_up(connection, [kept], configured.active_tags, configured.tag_values) as rows:
            connection.execute(f"copy ({rows.rows}) to '{rolled}' (format parquet, compression zstd)")
        finished[lake.spoken(source, day)] = rolled
    with lake.locked("warehouse"):
        for source in {*ranked} - {name for (name,) in losing}:
            lake.spoken(source, day).unlink(missing_ok=True)
        for place, file in finished.items():
            replace_file(file, place)


def _find_what_is_set_aside(
    connection: duckdb.DuckDBPyConnection, lake: Lake, ranked: Sequence[str], configured: Settings, day: date
) -> None:
    """Make the table `set_aside`: a row per record of the day that another source speaks for, and why."""
    who = ", ".join(WHO)
    agree = " and ".join(
        f"(mine.{name} is null or other.{name} is null or mine.{name} = other.{name})" for name in WHO[1:]
    )
    names = ", ".join(f"({n}, '{name}')" for n, name in enumerate(ranked))
    pairs = ", ".join(f"('{one}', '{other}')" for one, other in _declared(configured)) or "(null, null)"
    near = [str(file) for file in _records_near(lake, ranked, day)]
    connection.execute(f"""
create temp table ranks as select * from (values {names}) as given (rank, source);
create temp table declared as select * from (values {pairs}) as given (source, other);
create temp table seen as
  select ranks.rank, source, usage_date, record_id, {who}, model, request_id
  from read_parquet({near}) inner join ranks using (source)
  where {rollup.IS_BILLABLE} and (usage_date = date '{day}' or request_id is not null);
create temp table met as  -- who was first to log what several sources have logged
  select provider, request_id, min(rank) as first_rank
  from seen where request_id is not null
  group by all having count(distinct rank) > 1;
create temp table units as select distinct rank, source, {who} from seen where usage_date = date '{day}';
create temp table spoken_for as
  select mine.rank, mine.source, {", ".join(f"mine.{name}" for name in WHO)}, min(other.rank) as speaker
  from units as mine
  inner join declared on mine.source = declared.source
  inner join units as other on declared.other = other.source and other.rank < mine.rank
    and mine.provider = other.provider and {agree}
  group by all;
create temp table comparable as  -- models of which the ids of a source and of one that speaks for it meet
  select distinct seen.source, {", ".join(f"seen.{name}" for name in WHO)}, seen.model
  from seen
  inner join met using (provider, request_id)
  inner join ranks on met.first_rank = ranks.rank
  inner join declared on seen.source = declared.source and ranks.source = declared.other
  where seen.usage_date = date '{day}' and met.first_rank < seen.rank;
create temp table set_aside as
  select mine.usage_date, mine.source, mine.record_id, speakers.source as spoken_by,
    case when met.first_rank < mine.rank then '{BY_ID}' else '{BY_DECLARATION}' end as reason
  from seen as mine
  left join met on mine.provider = met.provider and mine.request_id = met.request_id
  left join spoken_for on mine.source = spoken_for.source
    and {" and ".join(f"mine.{name} is not distinct from spoken_for.{name}" for name in WHO)}
  left join comparable on mine.source = comparable.source
    and {" and ".join(f"mine.{name} is not distinct from comparable.{name}" for name in (*WHO, "model"))}
  inner join ranks as speakers
    on speakers.rank = case when met.first_rank < mine.rank then met.first_rank else spoken_for.speaker end
  where mine.usage_date = date '{day}'
    and (met.first_rank < mine.rank or mine.request_id is null or comparable.source is null)""")


def empty(scratch: Path) -> Path:
    """A file of `set_aside` without a row."""
    file = scratch / "set_aside.parquet"
    pl.DataFrame(schema=_SUMMARY).write_parquet(file)
    return file


_SUMMARY: Mapping[str, pl.DataType | type[pl.DataType]] = {
    "usage_date": pl.Date,
    "source": pl.String,
    "spoken_by": pl.String,
    **dict.fromkeys(WHO, pl.String),
    "reason": pl.String,
    "records": pl.Int64,
    "requests": pl.Int64,
    "input_tokens": pl.Int64,
    "output_tokens": pl.Int64,
    "reported_cost": pl.Decimal(38, 12),
}
