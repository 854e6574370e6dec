"""Helicone's request log: its ClickHouse table `request_response_rmt`, or what its export wrote, as files.

Facts about the rows, read in its public source (the migrations, the store behind its API):

* The table's `cost` is a whole number of 1e-9 USD; in the API and the export, which call the status
  `response_status`, it is USD.
* The table is a ReplacingMergeTree: until it merges, a dump without `final` has several rows of a request.
  The one with the last `updated_at` counts.
* `prompt_tokens` are the uncached ones; cached, audio and reasoning tokens are counted beside.
* A row of its own cache names the one that filled it in `cache_reference_id` (all zeros: none).
* `status` is HTTP's, or -2 while the call runs (no call yet), -3 cancelled, -4 stopped as a threat.
* `properties` are the `Helicone-Property-...` headers; `user_id` is a header, too: a claim, so it is a tag.

ClickHouse is not asked itself: `select * except (request_body, response_body) from request_response_rmt
where ... into outfile 'day.ndjson.gz' format JSONEachRow settings session_timezone = 'UTC'`.
"""

from __future__ import annotations

from pathlib import Path

import duckdb

from dagster_project.days import Days
from dagster_project.records import Kind
from dagster_project.sources import Parsed, _mapped_tables, _operations
from dagster_project.sources._map import Map
from dagster_project.sources._mapped_rows import Shape, newest
from dagster_project.sources._request_log import FilesEntry
from dagster_project.sources._who_bills import WHO_BILLS

KINDS: tuple[Kind, ...] = ("request",)
TELLS = ("caller", "tags", "reported cost")
READS = f"dumps of ClickHouse's `request_response_rmt`, or `@helicone/export`, {_mapped_tables.FILES}"
RESTATES_DAYS = 3
KEEPS_RAW = False


class Entry(FilesEntry):
    """A Helicone organisation. A route's `deployment` is the address that the call was sent to."""


MAP = Map.model_validate(
    {
        "columns": {
            "record_id": "request_id",
            "started_at": "request_created_at",
            "ended_at": "response_created_at",
            "provider": {"column": "known_provider", "words": WHO_BILLS},
            "deployment": "target_url",
            "operation": "operation",
            "model": ["model", "response_model", "request_model"],
            "gateway_team": "organization_id",
            "gateway_key_id": "proxy_key_id",
            "session_id": ["properties.Helicone-Session-Id", "request_properties.Helicone-Session-Id"],
            "status": {
                "column": ["status", "response_status"],
                "words": {"-3": "cancelled", "-4": "error"},
            },
            "http_status": "known_status",
            "is_cache_hit": "is_hit",
            "latency_ms": ["latency", "delay_ms"],
            "ttft_ms": "time_to_first_token",
            "input_tokens": "prompt_tokens",
            "cache_read_tokens": "prompt_cache_read_tokens",
            "cache_write_other_tokens": "prompt_cache_write_tokens",
            "input_audio_tokens": "prompt_audio_tokens",
            "output_tokens": "completion_tokens",
            "output_audio_tokens": "completion_audio_tokens",
            "reasoning_tokens": "reasoning_tokens",
            "reported_cost": "cost_in_usd",
        },
        "tags": {
            "columns": {"user": ["user_id", "request_user_id"]},
            "maps": ["properties", "request_properties"],
        },
        "parts": "beside",
        "reasoning": "beside",
    }
)

SHAPE = Shape(
    query=f"""
select
  *,
  nullif(lower(provider), 'custom') as known_provider,
  case when target_url <> '' then {_operations.of_path("target_url")} end as operation,
  case when regexp_full_match(coalesce(status, response_status), '[1-5]\\d\\d')
    then coalesce(status, response_status) end as known_status,
  (replace(replace(cache_reference_id, '0', ''), '-', '') <> '')::varchar as is_hit,
  case
    when cost is null or response_status is not null then cost
    when status is not null and regexp_full_match(cost, '\\d{{1,20}}')
      then (try_cast(cost as decimal(20, 0)) * 0.000000001)::varchar
    else concat(cost, ' of what?')
  end as cost_in_usd
from logged
qualify {newest("request_id", "try_cast(updated_at as timestamp)", "response_created_at")}""",
    reads=("provider", "cache_reference_id", "cost", "updated_at"),
    makes=("known_provider", "operation", "known_status", "is_hit", "cost_in_usd"),
    requires=("request_id", "request_created_at", "provider", "prompt_tokens"),
    skips="coalesce(status, response_status) = '-2'",
)


def fetch(entry: Entry, days: Days, raw: Path) -> None:
    """The list of files. Raises SourceError when there is none."""
    _mapped_tables.fetch(entry, MAP, None, days, raw)


def parse(entry: Entry, days: Days, raw: Path, connection: duckdb.DuckDBPyConnection) -> Parsed:
    """Raises SourceError naming file and line of what is no row."""
    return _mapped_tables.parse(entry, MAP, "request", days, raw, connection, SHAPE)
