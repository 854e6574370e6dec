"""Calls that several sources have logged: a gateway, a trace and the provider's own log may see the same one.

For each such call one source speaks, decided once per UTC day, before dbt reads the requests:

    the same request id of the same provider       is one call, whoever logged it
    sources in one list of `overlaps` (sources.yaml)
                                                   see the same traffic: for a provider, account, project and
                                                   key (what one of them does not know agrees with any) the
                                                   first in the list speaks for all calls of the day

Where all ids of such a source meet those of a later one for a model, a call whose id only the later one has
is one that the first has not seen, and is kept. Sources that nobody declared and whose ids do not meet are
taken to see different calls; `source_overlap` shows where they may not. Who stands first in sources.yaml, or
in the list, speaks; a call that a gateway answered from its cache is nobody's, whoever else has logged it.

What is kept of a source's day becomes a rollup of its own, `rollups/spoken`, which stands for that day's.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import date, timedelta
from itertools import combinations
from pathlib import Path

import duckdb
import polars as pl

from dagster_project import rollup
from dagster_project.ingest import connection_in, is_forgotten
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
    """Decide the days of which something has changed since they were decided. Called with the lock
    `warehouse`. A day stays as it was decided once request records of it, or of a day beside it, are
    forgotten (`retention`).
    """
    ranked = precedence(lake, configured)
    days = _days_of_several(_filled(lake, ranked))
    made_of = {str(day): _made_of(lake, ranked, configured, day) for day in days}
    decided = _decided(lake)
    for text, now in made_of.items():
        day = date.fromisoformat(text)
        is_settled = decided.get(text) == now or any(
            is_forgotten(lake, name, one) for name in ranked for one in _beside(day)
        )
        if is_settled and lake.set_aside(day).exists():
            continue
        with lake.scratch() as scratch, connection_in(scratch) as connection:
            _decide(connection, lake, ranked, configured, day, scratch)
    for file in (*lake.root.glob("rollups/spoken/*/*.parquet"), *lake.root.glob("set_aside/*.parquet")):
        if file.stem != "none" and file.stem not in made_of:
            file.unlink()
    if made_of == decided:
        return
    with lake.scratch() as scratch:
        written = scratch / "overlaps.json"
        written.write_text(json.dumps(made_of), encoding="utf-8")
        replace_file(written, lake.overlaps_decided)


def _decided(lake: Lake) -> dict[str, str]:
    """What each day's decision was made of; none of a file that a full disk cut off."""
    try:
        return json.loads(lake.overlaps_decided.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}


def _filled(lake: Lake, ranked: Sequence[str]) -> set[tuple[str, date]]:
    """The sources' days that have requests; none where there is one source only."""
    folders = [lake.root / "rollups" / "request" / name for name in ranked]
    files = [str(file) for folder in folders for file in folder.glob("*.parquet")]
    if len(ranked) < 2 or not files:
        return set()
    with duckdb.connect() as connection:
        filled = connection.execute(
            "select file_name from parquet_file_metadata(?) where num_rows > 0", [files]
        ).fetchall()
    places = [Path(file) for (file,) in filled]
    return {(place.parent.name, date.fromisoformat(place.stem)) for place in places}


def _days_of_several(filled: Collection[tuple[str, date]]) -> list[date]:
    """The days that have requests of one source, and of another one that day or beside it."""
    sources: defaultdict[date, set[str]] = defaultdict(set)
    for name, day in filled:
        sources[day].add(name)
    return sorted(
        day for day in sources if len(set().union(*(sources.get(one, set()) for one in _beside(day)))) > 1
    )


def _beside(day: date) -> list[date]:
    """The day and its neighbours: clocks differ, and so does when a call ended."""
    return [day + timedelta(days=n) for n in (-1, 0, 1)]


def _records_near(lake: Lake, ranked: Sequence[str], day: date) -> list[Path]:
    files = [lake.records("request", name, one) for name in ranked for one in _beside(day)]
    return [file for file in files if file.exists()]


def _made_of(lake: Lake, ranked: Sequence[str], configured: Settings, day: date) -> str:
    files = [
        (str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in _records_near(lake, ranked, day)
    ]
    said = [ranked, configured.overlaps, configured.active_tags, configured.tag_values, files]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


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
    summary = scratch / "set-aside.parquet"
    of_day = [str(file) for name in ranked if (file := lake.records("request", name, day)).exists()]
    connection.execute(
        f"""copy (
          select usage_date, source, spoken_by, {", ".join(WHO)}, reason,
            sum(requests)::bigint as requests, sum(reported_cost) as reported_cost
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
    lake.commit(finished, scratch)
    for source in {*ranked} - {name for (name,) in losing}:
        lake.spoken(source, day).unlink(missing_ok=True)


def _find_what_is_set_aside(
    connection: duckdb.DuckDBPyConnection, lake: Lake, ranked: Sequence[str], configured: Settings, day: date
) -> None:
    """Make the table `set_aside`: a row per record of the day that another source speaks for, and why."""
    who = ", ".join(WHO)

    def same(one: str, other: str, names: Sequence[str] = WHO) -> str:
        return " and ".join(f"{one}.{name} is not distinct from {other}.{name}" for name in names)

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
  select
    ranks.rank, source, usage_date, record_id, {who}, model, request_id,
    usage_date = date '{day}' and {rollup.IS_BILLABLE} as counts
  from read_parquet({near}) inner join ranks using (source)
  where coalesce(is_cache_hit, false) and request_id is not null
    or {rollup.IS_BILLABLE} and (usage_date = date '{day}' or request_id is not null);
create temp table met as  -- who was first to log what several sources have logged
  select provider, request_id, min(rank) as first_rank
  from seen where request_id is not null
  group by all having count(distinct rank) > 1;
create temp table units as select distinct rank, source, {who} from seen where counts;
create temp table spoken_for as select *, 0::bigint as speaker from units limit 0""")
    for rank in range(1, len(ranked)):
        # Who is spoken for itself does not speak: what it has seen is not counted.
        connection.execute(f"""
insert into spoken_for
select mine.rank, mine.source, {", ".join(f"mine.{name}" for name in WHO)}, min(other.rank)
from units as mine
inner join declared on mine.source = declared.source
inner join units as other on declared.other = other.source and other.rank < mine.rank
  and mine.provider = other.provider and {agree}
where mine.rank = {rank}
  and not exists (
    select 1 from spoken_for where spoken_for.rank = other.rank and {same("spoken_for", "other")}
  )
group by all""")
    connection.execute(f"""
create temp table met_pairs as  -- what a source calls the model of a call, and one that speaks for it
  select distinct mine.source, {", ".join(f"mine.{name}" for name in WHO)}, mine.model,
    other.source as other_source, other.model as other_model
  from seen as mine
  inner join seen as other on mine.provider = other.provider and mine.request_id = other.request_id
    and other.rank < mine.rank
  inner join declared on mine.source = declared.source and other.source = declared.other
  where mine.counts;
create temp table unmet as  -- models of which a later source has not the ids
  select distinct mine.source, mine.provider, mine.model, declared.source as later
  from seen as mine
  inner join declared on mine.source = declared.other
  where mine.counts and not exists (
    select 1 from seen as other
    where other.source = declared.source and other.provider = mine.provider
      and other.request_id = mine.request_id
  );
create temp table comparable as
  select source, {who}, model
  from met_pairs
  group by all
  having not bool_or(exists (
    select 1 from unmet
    where unmet.source = other_source and unmet.later = met_pairs.source
      and unmet.provider = met_pairs.provider and unmet.model is not distinct from other_model
  ));
create temp table set_aside as
  select mine.usage_date, mine.source, mine.record_id, speakers.source as spoken_by,
    case when met.first_rank < mine.rank then '{BY_ID}' else '{BY_DECLARATION}' end as reason
  from seen as mine
  left join met on mine.provider = met.provider and mine.request_id = met.request_id
  left join spoken_for on mine.source = spoken_for.source and {same("mine", "spoken_for")}
  left join comparable on mine.source = comparable.source
    and {same("mine", "comparable", (*WHO, "model"))}
  inner join ranks as speakers
    on speakers.rank = case when met.first_rank < mine.rank then met.first_rank else spoken_for.speaker end
  where mine.counts
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
    "requests": pl.Int64,
    "reported_cost": pl.Decimal(38, 12),
}
