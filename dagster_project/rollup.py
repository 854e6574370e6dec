"""Usage and requests by the hour, in long form: one row per hour, identity, tags, model and meter.

A day of ten million requests becomes some hundred thousand rows, and everything after this prices,
matches and owns those. Only `active_tags` survive; the others stay on the request records, and so do the
values of one that has another on nearly every request: an id of a run, a text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
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

TOO_MANY = "(too many values)"
"""The value of a tag on a day on which it has more values than are reported by."""


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
    the same. A tag with more than so many values on a day has the one value TOO_MANY.

    Columns: DIMENSIONS, `started_hour`, `tags`, `context_above_tokens` (the greatest of
    rates.CONTEXT_BANDS that the request's context exceeds, 0 below all, null where nobody knows),
    `is_billable`, `meter`, `quantity`, and `reported_cost` (USD, on each group's `requests` row only).
    """
    connection.execute(f"create temp table rolled as {_rolled(records, active_tags)}")
    try:
        crowded = _crowded(connection, active_tags, tag_values)
        if crowded:
            days = {key: list(of_days) for key, of_days in crowded.items()}
            connection.execute(
                f"create or replace temp table rolled as {_rolled(records, active_tags, days)}"
            )
        yield Rolled(_long(active_tags), {key: max(of_days.values()) for key, of_days in crowded.items()})
    finally:
        connection.execute("drop table rolled")


def _crowded(
    connection: duckdb.DuckDBPyConnection, active_tags: Sequence[str], tag_values: int
) -> dict[str, dict[date, int]]:
    """The tags that have too many values, and how many on which days. Most rollups have fewer rows."""
    (rows,) = connection.execute("select count(*) from rolled").fetchall()[0]
    if rows <= tag_values:
        return {}
    counts = ", ".join(f"count(distinct tag_values[{n}])" for n in range(1, len(active_tags) + 1)) or "0"
    found: dict[str, dict[date, int]] = {}
    for day, *values in connection.execute(
        f"select usage_date, {counts} from rolled group by all"
    ).fetchall():
        for key, count in zip(active_tags, values, strict=False):
            if count > tag_values:
                found.setdefault(key, {})[day] = count
    return found


def _rolled(
    records: Sequence[Path], active_tags: Sequence[str], crowded: Mapping[str, Sequence[date]] | None = None
) -> str:
    def value(key: str) -> str:
        said = f"tags[{_text(key)}]"
        if not crowded or key not in crowded:
            return said
        days = ", ".join(f"date '{day}'" for day in crowded[key])
        return f"case when usage_date in ({days}) and {said} is not null then '{TOO_MANY}' else {said} end"

    # Grouping by a list of the active tags' values is three times as fast as by a filtered map.
    values = ", ".join(map(value, active_tags))
    bands = " ".join(
        f"when context_tokens > {band} then {band}" for band in sorted(CONTEXT_BANDS, reverse=True)
    )
    return f"""
select
  {", ".join(DIMENSIONS)},
  date_trunc('hour', started_at) as started_hour,
  [{values}]::varchar[] as tag_values,
  case {bands} when context_tokens is not null then 0 end as context_above_tokens,
  {IS_BILLABLE} as is_billable,
  {", ".join(f"sum({meter.column}) as {meter.column}" for meter in METERS)},
  list(other_meters) filter (cardinality(other_meters) > 0) as other_meters,
  sum(reported_cost) as reported_cost
from read_parquet({[str(file) for file in records]})
group by all
order by {", ".join(DIMENSIONS)}, started_hour, tag_values, context_above_tokens, is_billable"""


def _long(active_tags: Sequence[str]) -> str:
    keys = f"[{', '.join(map(_text, active_tags))}]::varchar[]"
    group = f"""{", ".join(DIMENSIONS)}, started_hour,
  map_from_entries(list_filter(list_zip({keys}, tag_values), lambda tag: tag[2] is not null)) as tags,
  context_above_tokens, is_billable"""
    columns = ", ".join(
        f"{{'meter': '{meter.name}', 'quantity': {meter.column}::decimal(38,12)}}" for meter in METERS
    )
    return f"""
select * exclude (counted, reported_cost), counted.meter, counted.quantity,
  case when counted.meter = 'requests' then reported_cost end as reported_cost
from (select {group}, reported_cost, unnest([{columns}]) as counted from rolled)
where counted.quantity is not null
union all
(
  select {group}, entry.key, sum(entry.value)::decimal(38,12), null::decimal(38,12)
  from (
    select *, unnest(flatten(list_transform(other_meters, lambda meters: map_entries(meters)))) as entry
    from rolled where other_meters is not null
  )
  group by all
  order by all
)"""


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
