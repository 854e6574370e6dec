"""Bifrost's log: its table `logs` in PostgreSQL or SQLite, or rows of it as files (of ClickHouse, too).

Facts about the rows, read in its public source (framework/logstore/tables.go):

* A row is an attempt: `fallback_index` counts the fallbacks; retries with another key stay in the row.
* `cost` is in USD and includes what looking the request up in the semantic cache cost.
* `prompt_tokens` count cached reads and writes, too: Bifrost answers in the form of OpenAI. Writes are in the
  JSON of `token_usage` only, and of no said lifetime. Tokens of a row without any usage are 0 by default:
  nothing is known of them, so they are null.
* `status` is `processing` until the call has ended: such a row is no call yet.
* A request may carry several teams, in `team_ids`. Then it has no single one: they are the tag `teams`.
* `cache_debug` tells a hit of the gateway's own cache.
* `metadata` is what callers said. Messages and answers may be in the row; they are never selected.
* In ClickHouse the table is a ReplacingMergeTree, and instants are in the server's zone: it is dumped with
  `final` and `settings session_timezone = 'UTC'`.
"""

from __future__ import annotations

from pathlib import Path

import duckdb

from dagster_project.days import Days
from dagster_project.records import Kind
from dagster_project.sources import Parsed, _databases, _mapped_tables
from dagster_project.sources._map import Map
from dagster_project.sources._mapped_rows import Shape
from dagster_project.sources._request_log import LogEntry
from dagster_project.sources._who_bills import WHO_BILLS

KINDS: tuple[Kind, ...] = ("request",)
TELLS = ("caller", "tags", "reported cost")
READS = f"dumps of `logs` {_mapped_tables.FILES}, or that table in {_databases.READ}"
RESTATES_DAYS = 3
KEEPS_RAW = False


class Entry(LogEntry):
    """A Bifrost gateway. A route's `deployment` is the id of the provider's key."""


MAP = Map.model_validate(
    {
        "columns": {
            "record_id": "id",
            "started_at": "timestamp",
            "latency_ms": "latency",
            "provider": {"column": "provider", "words": WHO_BILLS},
            "deployment": "selected_key_id",
            "model": "model",
            "model_requested": ["alias", "model"],
            "operation": "kind",
            "gateway_key_id": "virtual_key_id",
            "gateway_key_name": "virtual_key_name",
            "gateway_team": "one_team",
            "gateway_team_name": "one_team_name",
            "gateway_user": "user_id",
            "trace_id": "parent_request_id",
            "attempt": "fallback_index",
            "status": "status",
            "is_cache_hit": "cache_debug.cache_hit",
            "is_streaming": "stream",
            "input_tokens": "prompt_tokens",
            "cache_read_tokens": "cached_read_tokens",
            "cache_write_other_tokens": "token_usage.prompt_tokens_details.cached_write_tokens",
            "input_audio_tokens": "token_usage.prompt_tokens_details.audio_tokens",
            "output_tokens": "completion_tokens",
            "output_audio_tokens": "token_usage.completion_tokens_details.audio_tokens",
            "reasoning_tokens": "token_usage.completion_tokens_details.reasoning_tokens",
            "reported_cost": "cost",
        },
        "tags": {
            "columns": {"customer": "customer_id", "business_unit": "business_unit_id", "teams": "teams"},
            "maps": ["metadata"],
        },
        "parts": "inside",
    }
)

SHAPE = Shape(
    query="""
select
  * replace (
    case when is_measured then prompt_tokens end as prompt_tokens,
    case when is_measured then cached_read_tokens end as cached_read_tokens,
    case when is_measured then completion_tokens end as completion_tokens),
  case when len(several) > 1 then array_to_string(several, ',') end as teams,
  case when teams is null then coalesce(nullif(team_id, ''), several[1]) end as one_team,
  case when teams is null then team_name end as one_team_name,
  case
    when regexp_matches(object_type, 'embedding') then 'embedding'
    when regexp_matches(object_type, 'image') then 'image'
    when regexp_matches(object_type, 'speech') then 'speech'
    when regexp_matches(object_type, 'transcription') then 'transcription'
    when regexp_matches(object_type, 'rerank') then 'rerank'
    when regexp_matches(object_type, 'chat|completion|response') then 'chat'
    when object_type is not null then 'other'
  end as kind
from (
  select
    *,
    from_json(try_cast(team_ids as json), '["VARCHAR"]') as several,
    coalesce(token_usage, '') <> '' or coalesce(total_tokens, '0') <> '0' as is_measured
  from logged
)""",
    reads=("object_type", "team_id", "team_name", "team_ids", "total_tokens"),
    makes=("teams", "one_team", "one_team_name", "kind"),
    requires=("id", "timestamp", "provider", "model", "status", "prompt_tokens"),
    counts={"several_teams": "teams is not null", "unmeasured": "status = 'success' and not is_measured"},
    skips="status = 'processing'",
)


def fetch(entry: Entry, days: Days, raw: Path) -> None:
    """Of files only the list; of the table the rows of those days, without messages and answers.

    Raises SourceError when there is no file, or the table cannot be read.
    """
    _mapped_tables.fetch(entry, MAP, "logs", days, raw, SHAPE)


def parse(entry: Entry, days: Days, raw: Path, connection: duckdb.DuckDBPyConnection) -> Parsed:
    """Raises SourceError naming file and line of what is no row."""
    return _mapped_tables.parse(entry, MAP, "request", days, raw, connection, SHAPE)
