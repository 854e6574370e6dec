"""Majordomo's request log: its table `llm_requests`, or the same rows as files.

Facts about the rows, seen in records of the real gateway:

* `input_tokens` includes cache reads and cache writes. Of which lifetime a write is, is not said.
* It cannot read a streamed answer: such a call is logged as a success with 0 tokens and 0 USD. Nothing is
  known of what it used, nor of what a caller gave up, so tokens and cost are null, and it is counted as
  `unmeasured`.
* A model that it has no price for costs 0 (`model_alias_found` is false): its cost is null.
* `model` is the snapshot that answered, but the name that was asked for where an answer could not be read.
* Calls that it refused, and those that the provider broke off, leave no row.
* Every `X-Majordomo-*` header is in `raw_metadata`, without the prefix; `indexed_metadata` holds only the
  keys that somebody has activated. Answers and bodies may be in the row; they are never selected.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import duckdb
from duckdb import ConstantExpression as Literal

from dagster_project.days import Days
from dagster_project.records import MONEY, Kind
from dagster_project.sources import Parsed, _operations, _postgres, _routes, _tags
from dagster_project.sources._request_log import (
    FILES,
    LARGEST,
    LOGGED,
    Listing,
    LogEntry,
    RequestLog,
)
from dagster_project.sources._sql import at_least_0, instant, lookup, unless_within
from dagster_project.sources._who_bills import WHO_BILLS

KINDS: tuple[Kind, ...] = ("request",)
TELLS = ("caller", "tags", "reported cost")
READS = f"the rows of `llm_requests` {FILES}, or that table in PostgreSQL"
RESTATES_DAYS = 3
KEEPS_RAW = False


class Entry(LogEntry):
    """A Majordomo gateway. A route's `deployment` is the alias, the hash or the id of the provider's key."""


COLUMNS: Mapping[str, str] = {
    "id": "VARCHAR",
    "majordomo_api_key_id": "VARCHAR",
    "proxy_key_id": "VARCHAR",
    "user_id": "VARCHAR",
    "provider_api_key_hash": "VARCHAR",
    "provider_api_key_alias": "VARCHAR",
    "provider": "VARCHAR",
    "model": "VARCHAR",
    "request_path": "VARCHAR",
    "requested_at": "VARCHAR",
    "responded_at": "VARCHAR",
    "response_time_ms": "BIGINT",
    "input_tokens": "BIGINT",
    "output_tokens": "BIGINT",
    "cached_tokens": "BIGINT",
    "cache_creation_tokens": "BIGINT",
    "total_cost": "VARCHAR",
    "status_code": "INTEGER",
    "model_alias_found": "BOOLEAN",
    "raw_metadata": "JSON",
}
"""All that is selected. What becomes money or an instant stays text until it is cast exactly."""

_NOT_TAGS = ("trace-id", "trace_id", "session-id", "session_id", "tags")
"""Metadata that say which call it was and nothing of who made it, and a list of tags in one header."""


def fetch(entry: Entry, days: Days, raw: Path) -> None:
    """Of files only the list; of the table the rows that ended in `days`, without bodies and messages.

    Raises SourceError when there is no file, or the table cannot be read.
    """
    LOG.fetch(entry, days, raw)


def parse(entry: Entry, days: Days, raw: Path, connection: duckdb.DuckDBPyConnection) -> Parsed:
    """Raises SourceError naming file and line of what is no JSON, or file and field of what is no record."""
    staged = LOG.stage(entry, raw, connection, COLUMNS, _projection(entry))
    unmeasured, unpriced, negative = staged.aggregate(
        "count(*) filter (is_unmeasured), count(*) filter (is_unpriced), count(*) filter (input_rest < 0)"
    ).fetchall()[0]
    counts = {"unmeasured": unmeasured, "unpriced": unpriced, "negative_remainders": negative}
    return LOG.parsed(entry, days, raw, staged, counts)


def _rows_query(table: _postgres.Table, days: Days) -> str:
    columns = ", ".join(f'"{name}"' for name in COLUMNS if name in table.columns)
    first, end = f"timestamptz '{days.first} 00:00Z'", f"timestamptz '{days.last} 00:00Z' + interval '1 day'"
    # Only `requested_at` has an index; no request takes a day.
    return f"""
select row_to_json(line)::text as line from (
  select {columns}
  from {table.name}
  where requested_at >= {first} - interval '1 day' and requested_at < {end}
    and coalesce(responded_at, requested_at) >= {first} and coalesce(responded_at, requested_at) < {end}
) as line"""


def _projection(entry: Entry) -> str:
    named = f"""
select
  * replace (nullif(nullif(model, ''), 'unknown') as model),
  {instant("requested_at")} as started_at,
  coalesce({instant("responded_at")}, started_at) as ended_at,
  {lookup(WHO_BILLS, "nullif(lower(provider), '')", "lower(provider)")} as served_by,
  coalesce(status_code between 200 and 299, false) as is_ok,
  (is_ok or status_code = 499) and input_tokens = 0 and output_tokens = 0 as is_unmeasured,
  is_ok and not is_unmeasured and not coalesce(model_alias_found, true) as is_unpriced,
  input_tokens - coalesce(cached_tokens, 0) - coalesce(cache_creation_tokens, 0) as input_rest,
  try_cast(total_cost as {MONEY}) as cost
from logged"""
    parts = [_tags.members("raw_metadata", ignored=_NOT_TAGS), _tags.labels("(raw_metadata -> 'tags')")]
    who_pays = _routes.identity(
        entry.routes,
        provider="served_by",
        model="model",
        deployments=("provider_api_key_alias", "provider_api_key_hash", "proxy_key_id"),
    )

    def said_of_the_call(*keys: str) -> str:
        return f"nullif(coalesce({', '.join(f'raw_metadata ->> {Literal(key)}' for key in keys)}), '')"

    def measured(tokens: str) -> str:
        return f"case when not is_unmeasured then {tokens} end"

    return f"""
select
  file,
  id as record_id,
  'request' as record_kind,
  {Literal(entry.name)} as source,
  started_at,
  ended_at,
  ended_at::date as usage_date,
  {", ".join(f"{sql} as {name}" for name, sql in who_pays.items())},
  majordomo_api_key_id as gateway_key_id,
  nullif(user_id, '') as gateway_user,
  tags,
  {_operations.of_path("request_path")} as operation,
  model,
  {measured("input_tokens")} as context_tokens,
  {said_of_the_call("trace-id", "trace_id")} as trace_id,
  {said_of_the_call("session-id", "session_id")} as session_id,
  case when is_ok then 'ok' when status_code = 499 then 'cancelled' else 'error' end as status,
  status_code as http_status,
  false as is_cache_hit,
  response_time_ms as latency_ms,
  1 as requests,
  {measured(at_least_0("input_rest"))} as input_tokens,
  {measured("cached_tokens")} as cache_read_tokens,
  {measured("cache_creation_tokens")} as cache_write_other_tokens,
  {measured("output_tokens")} as output_tokens,
  case when not (is_unmeasured or is_unpriced) then cost end as reported_cost,
  is_unmeasured,
  is_unpriced,
  input_rest,
  case
    when coalesce(id, '') = '' then 'id'
    when {unless_within("started_at", *LOGGED)} then 'requested_at'
    when {unless_within("ended_at", *LOGGED)} then 'responded_at'
    when status_code is null then 'status_code'
    when {unless_within("input_tokens", "0", LARGEST)} then 'input_tokens'
    when {unless_within("output_tokens", "0", LARGEST)} then 'output_tokens'
    when {unless_within("coalesce(cached_tokens, 0)", "0", LARGEST)} then 'cached_tokens'
    when {unless_within("coalesce(cache_creation_tokens, 0)", "0", LARGEST)} then 'cache_creation_tokens'
    when total_cost is not null and {unless_within("cost", "0", LARGEST)} then 'total_cost'
  end as broken,
  case when broken is not null then id end as broken_id
from ({_tags.tagged(named, parts, entry.tag_aliases)})"""


LOG = RequestLog(
    table="llm_requests",
    required=frozenset(
        {
            "id",
            "majordomo_api_key_id",
            "provider",
            "model",
            "requested_at",
            "responded_at",
            "input_tokens",
            "output_tokens",
            "total_cost",
            "status_code",
            "raw_metadata",
        }
    ),
    rows=_rows_query,
    listing=Listing("gateway_key", "api_keys", "id", "name"),
    not_known="It is no row of Majordomo's `llm_requests`; nothing was taken.",
)
