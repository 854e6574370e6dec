"""Usage and requests by the hour, in long form: one row per hour, identity, tags, model and meter.

A day of ten million requests becomes some hundred thousand rows, and everything after this prices,
matches and owns those. Only `active_tags` survive; the others stay on the request records, and so do the
values of one that has another on nearly every request: an id of a run, a text.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb

from dagster_project import settings
from dagster_project.rates import CONTEXT_BANDS
from dagster_project.records import METERS, Kind

KINDS: tuple[Kind, ...] = ("usage", "request")
"""The kinds that are rolled up; charges are few and each stays a line of its own."""

DIMENSIONS = (
    "usage_date",
    "source",
    "provider",
    "account_id",
    "provider_project_id",
    "provider_project_name",
    "api_key_id",
    "api_key_name",
    "principal_id",
    "principal_name",
    "gateway_key_id",
    "gateway_key_name",
    "gateway_team",
    "gateway_team_name",
    "gateway_user",
    "operation",
    "model",
    "service_tier",
    "context_tier",
    "region",
)


IS_BILLABLE = """(not coalesce(is_cache_hit, false)
  and (coalesce(status, 'ok') <> 'error' or coalesce(reported_cost, 0) > 0))"""
"""SQL of whether a request can be on the provider's bill: not a cache hit of the gateway, and not an error,
unless the gateway saw a cost (an answer cut off in the middle is billed)."""

QUANTITY = "DECIMAL(38,3)"
"""Quantities are priced and weighed in thousandths of their meter's unit: told so here, no division is
needed for it later."""

TOO_MANY = "(too many values)"
"""The value of a tag on a day on which it has more values than are reported by, but for the most frequent."""


@dataclass(frozen=True)
class Rolled:
    """The query for a rollup, and which tags had too many values on a day: the most that one had."""

    rows: str
    crowded: Mapping[str, int]


@contextmanager
def rolled_up(
    connection: duckdb.DuckDBPyConnection,
    records: Sequence[Path],
    active_tags: Sequence[str],
    tag_values: int = settings.DEFAULT_TAG_VALUES,
) -> Iterator[Rolled]:
    """While it lasts, the rollup of the usage or request records in Parquet files, in an order that is always
    the same. Of a tag with more than so many values on a day the most frequent stay, the rest is TOO_MANY.

    Columns: DIMENSIONS, `started_hour`, `tags`, `context_above_tokens` (the greatest of
    rates.CONTEXT_BANDS that the request's context exceeds, 0 below all, null where nobody knows),
    `is_billable`, `meter`, `quantity` (a QUANTITY), and `reported_cost` (USD, on each group's `requests`
    row only).
    """
    connection.execute(f"create temp table rolled as {_rolled(records, active_tags)}")
    try:
        crowded = _crowded(connection, active_tags, tag_values)
        if crowded:
            _keep_most_frequent(connection, active_tags, crowded, tag_values)
            again = _rolled(records, active_tags, crowded)
            connection.execute(f"create or replace temp table rolled as {again}")
        yield Rolled(_long(active_tags), crowded)
    finally:
        connection.execute("drop table rolled; drop table if exists kept_tags")


def _crowded(
    connection: duckdb.DuckDBPyConnection, active_tags: Sequence[str], tag_values: int
) -> dict[str, int]:
    """The tags that have too many values on a day, and the most that they have. Most rollups are smaller."""
    (rows,) = connection.execute("select count(*) from rolled").fetchall()[0]
    if rows <= tag_values or not active_tags:
        return {}
    counts = ", ".join(f"count(distinct tag_values[{n}])" for n in range(1, len(active_tags) + 1))
    most = ", ".join(f"max(columns[{n}])" for n in range(1, len(active_tags) + 1))
    (found,) = connection.execute(
        f"select {most} from (select [{counts}] as columns from rolled group by usage_date)"
    ).fetchall()
    return {key: count for key, count in zip(active_tags, found, strict=True) if count > tag_values}


def _keep_most_frequent(
    connection: duckdb.DuckDBPyConnection,
    active_tags: Sequence[str],
    crowded: Collection[str],
    tag_values: int,
) -> None:
    """Make the table `kept_tags`: of each crowded tag and day the values that most requests have."""
    of_tags = [
        f"select usage_date, {_text(key)} as key, tag_values[{active_tags.index(key) + 1}] as value, "
        "coalesce(sum(requests), 0) as requests from rolled where value is not null group by all"
        for key in crowded
    ]
    connection.execute(
        f"create or replace temp table kept_tags as select usage_date, key, value "
        f"from ({' union all '.join(of_tags)}) qualify {tag_values} >= "
        "row_number() over (partition by usage_date, key order by requests desc, value)"
    )


def _rolled(records: Sequence[Path], active_tags: Sequence[str], crowded: Collection[str] = ()) -> str:
    # Grouping by a list of the active tags' values is three times as fast as by a filtered map.
    kept = {key: f"kept_{n}" for n, key in enumerate(crowded)}
    values = ", ".join(
        f"case when tags[{_text(key)}] is not null then coalesce({kept[key]}.value, '{TOO_MANY}') end"
        if key in kept
        else f"tags[{_text(key)}]"
        for key in active_tags
    )
    joined = "".join(
        f"""
left join kept_tags as {table} on {table}.key = {_text(key)} and {table}.usage_date = records.usage_date
  and {table}.value = tags[{_text(key)}]"""
        for key, table in kept.items()
    )
    bands = " ".join(
        f"when context_tokens > {band} then {band}" for band in sorted(CONTEXT_BANDS, reverse=True)
    )
    own = [f"records.{name}" for name in DIMENSIONS]
    return f"""
select
  {", ".join(own)},
  date_trunc('hour', started_at) as started_hour,
  [{values}]::varchar[] as tag_values,
  case {bands} when context_tokens is not null then 0 end as context_above_tokens,
  {IS_BILLABLE} as is_billable,
  {", ".join(f"sum({meter.column}) as {meter.column}" for meter in METERS)},
  list(other_meters) filter (cardinality(other_meters) > 0) as other_meters,
  sum(reported_cost) as reported_cost
from read_parquet({[str(file) for file in records]}) as records{joined}
group by all
order by {", ".join(own)}, started_hour, tag_values, context_above_tokens, is_billable"""


def _long(active_tags: Sequence[str]) -> str:
    keys = f"[{', '.join(map(_text, active_tags))}]::varchar[]"
    group = f"""{", ".join(DIMENSIONS)}, started_hour,
  map_from_entries(list_filter(list_zip({keys}, tag_values), lambda tag: tag[2] is not null)) as tags,
  context_above_tokens, is_billable"""
    columns = ", ".join(
        f"{{'meter': '{meter.name}', 'quantity': {meter.column}::{QUANTITY}}}" for meter in METERS
    )
    return f"""
select * exclude (counted, reported_cost), counted.meter, counted.quantity,
  case when counted.meter = 'requests' then reported_cost end as reported_cost
from (select {group}, reported_cost, unnest([{columns}]) as counted from rolled)
where counted.quantity is not null
union all
(
  select {group}, entry.key, sum(entry.value)::{QUANTITY}, null::decimal(38,12)
  from (
    select *, unnest(flatten(list_transform(other_meters, lambda meters: map_entries(meters)))) as entry
    from rolled where other_meters is not null
  )
  group by all
  order by all
)"""


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
