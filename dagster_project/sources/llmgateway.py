"""The log of llmgateway.io, hosted or one's own: its table `log` in PostgreSQL, or rows of it as files.

Facts about the rows, read in its public source (the schema, the calculation of costs):

* Costs are `real`: seven digits at most. Where a row has `billing_cost` (realtime sessions), that is exact.
* `prompt_tokens` and `completion_tokens` count cached, image and audio tokens, too. Reasoning is taken to be
  within `completion_tokens`, as providers report it; the gateway's own cost adds it again (not for Google).
* `cache_write_tokens` is the sum of those of 5 minutes and 1 hour, where a row says these.
* `used_mode` says whose key was used: `api-keys` the caller's own, which its provider bills; `credits` the
  platform's. Who bills those the entry has to say, because a platform of one's own writes the same rows.
* A failed attempt is a row of its own (`retried_by_log_id` names the last); all share `request_id`.
* `created_at` is when the row was made, after the answer; it is UTC without saying so.
* `custom_headers` are tags. Messages and answers may be in the row; they are never selected.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import duckdb

from dagster_project.days import Days
from dagster_project.records import Kind
from dagster_project.sources import Parsed, _mapped_tables
from dagster_project.sources._map import Map
from dagster_project.sources._mapped_rows import Shape
from dagster_project.sources._request_log import LogEntry
from dagster_project.sources._who_bills import WHO_BILLS

KINDS: tuple[Kind, ...] = ("request",)
TELLS = ("caller", "tags", "reported cost")
READS = f"the rows of `log` {_mapped_tables.FILES}, or that table in PostgreSQL"
RESTATES_DAYS = 3
KEEPS_RAW = False


class Entry(LogEntry):
    """A platform or an organisation on it. A route's `deployment` is the id of the provider's key."""

    credits_billed_by: Literal["llmgateway", "provider"]
    """Who bills requests that are paid with credits: llmgateway.io, or, on a platform of one's own, the
    provider itself."""


MAP = Map.model_validate(
    {
        "columns": {
            "record_id": "id",
            "started_at": "created_at_less_duration",
            "ended_at": "created_at",
            "latency_ms": "duration",
            "ttft_ms": "time_to_first_token",
            "provider": {"column": "billed_by", "words": WHO_BILLS},
            "deployment": "provider_key_id",
            "model": "model",
            "model_requested": "requested_model",
            "service_tier": "used_service_tier",
            "gateway_key_id": "api_key_id",
            "gateway_team": "project_id",
            "trace_id": ["trace_id", "request_id"],
            "session_id": "session_id",
            "status": "outcome",
            "is_cache_hit": "cached",
            "is_streaming": "streamed",
            "input_tokens": "prompt_tokens",
            "cache_read_tokens": "cached_tokens",
            "cache_write_5m_tokens": "cache_write5m_tokens",
            "cache_write_1h_tokens": "cache_write1h_tokens",
            "cache_write_other_tokens": "cache_write_rest",
            "input_image_tokens": "image_input_tokens",
            "input_audio_tokens": "audio_input_tokens",
            "output_tokens": "completion_tokens",
            "output_image_tokens": "image_output_tokens",
            "output_audio_tokens": "audio_output_tokens",
            "reasoning_tokens": "reasoning_tokens",
            "reported_cost": ["billing_cost", "cost"],
        },
        "tags": {
            "columns": {"customer": "end_customer_id", "source": "source"},
            "maps": ["custom_headers"],
        },
        "parts": "inside",
    }
)

_YES = "lower({}) in ('true', 't', '1')"
_WRITTEN = "try_cast({} as decimal(38, 0))"


def _shape(entry: Entry) -> Shape:
    billed = "'llmgateway'" if entry.credits_billed_by == "llmgateway" else "used_provider"
    lifetimes = " - ".join(
        f"coalesce({_WRITTEN.format(name)}, 0)" for name in ("cache_write5m_tokens", "cache_write1h_tokens")
    )
    return Shape(
        query=f"""
select
  *,
  (try_cast(created_at as timestamp) - to_milliseconds(try_cast(duration as bigint)))::varchar
    as created_at_less_duration,
  case used_mode when 'api-keys' then used_provider when 'credits' then {billed} end as billed_by,
  coalesce(nullif(used_model_mapping, ''), regexp_replace(used_model, '^[^/]+/', '')) as model,
  case when {_YES.format("canceled")} then 'cancelled' when {_YES.format("has_error")} then 'error'
    else 'ok' end as outcome,
  coalesce(({_WRITTEN.format("cache_write_tokens")} - {lifetimes})::varchar, cache_write_tokens)
    as cache_write_rest
from logged""",
        reads=(
            "used_mode",
            "used_provider",
            "used_model",
            "used_model_mapping",
            "canceled",
            "has_error",
            "cache_write_tokens",
            "estimated_cost",
        ),
        makes=("created_at_less_duration", "billed_by", "model", "outcome", "cache_write_rest"),
        requires=(
            "id",
            "created_at",
            "duration",
            "used_mode",
            "used_provider",
            "used_model",
            "prompt_tokens",
        ),
        counts={"estimated_by_the_gateway": _YES.format("estimated_cost")},
    )


def fetch(entry: Entry, days: Days, raw: Path) -> None:
    """Of files only the list; of the table the rows of those days, without messages and answers.

    Raises SourceError when there is no file, or the table cannot be read.
    """
    _mapped_tables.fetch(entry, MAP, "log", days, raw, _shape(entry))


def parse(entry: Entry, days: Days, raw: Path, connection: duckdb.DuckDBPyConnection) -> Parsed:
    """Raises SourceError naming file and line of what is no row."""
    return _mapped_tables.parse(entry, MAP, "request", days, raw, connection, _shape(entry))
