"""Kong's log of its AI plugins, as the logging plugins write it (one JSON object per request).

Facts about the rows, by its documentation (AI audit log reference; http-log):

* `ai` has a block per plugin that called a model (`ai.proxy`, `ai.ai-request-transformer`, ...): each is a
  call of its own, whose id is the request's and the plugin's name. Lines without one are other traffic.
* Names changed: 3.8 wrote `prompt_token` and `completion_token`; images and audio are `input_tokens`.
* Cached tokens are within the prompt's (`prompt_tokens_details.cached_tokens`, since 3.11), as in answers in
  the form of OpenAI. For Anthropic nothing public confirms it: what does not fit is a negative remainder.
* `cost` is in the unit of the prices that the plugin is configured with: USD, if those are.
* `cache.cache_status` is Hit where Kong's semantic cache answered.
* Times are milliseconds since 1970. The consumer and the credential are what Kong authenticated.
* Of the headers only those that are tags are taken; payloads may be in the line and are never read.
"""

from __future__ import annotations

from pathlib import Path

import duckdb

from dagster_project.days import Days
from dagster_project.records import Kind
from dagster_project.sources import Parsed, _mapped_tables, _operations
from dagster_project.sources._map import Map
from dagster_project.sources._mapped_rows import Shape
from dagster_project.sources._request_log import FILES, FilesEntry
from dagster_project.sources._who_bills import WHO_BILLS

KINDS: tuple[Kind, ...] = ("request",)
TELLS = ("caller", "tags", "reported cost")
READS = f"what its logging plugins write of AI plugins, {FILES}"
RESTATES_DAYS = 3
KEEPS_RAW = False


class Entry(FilesEntry):
    """A Kong gateway. A route's `deployment` is the name of Kong's service."""


MAP = Map.model_validate(
    {
        "columns": {
            "record_id": "request_id_and_plugin",
            "trace_id": "request.id",
            "started_at": "started_at",
            "latency_ms": "latencies.request",
            "provider": {"column": "block.meta.provider_name", "words": WHO_BILLS},
            "deployment": "service.name",
            "model": ["block.meta.response_model", "block.meta.request_model"],
            "model_requested": "block.meta.request_model",
            "operation": "operation",
            "gateway_key_id": "authenticated_entity.id",
            "gateway_user": ["consumer.username", "consumer.custom_id", "consumer.id"],
            "status": "response.status",
            "http_status": "response.status",
            "is_cache_hit": {
                "column": "block.cache.cache_status",
                "words": {"bypass": "false", "refresh": "false"},
            },
            "input_tokens": [
                "block.usage.prompt_tokens",
                "block.usage.prompt_token",
                "block.usage.input_tokens",
            ],
            "cache_read_tokens": "block.usage.prompt_tokens_details.cached_tokens",
            "input_audio_tokens": [
                "block.usage.prompt_tokens_details.audio_tokens",
                "block.usage.input_tokens_details.audio_tokens_count",
            ],
            "input_image_tokens": "block.usage.input_tokens_details.image_tokens",
            "output_tokens": [
                "block.usage.completion_tokens",
                "block.usage.completion_token",
                "block.usage.output_tokens",
            ],
            "reasoning_tokens": "block.usage.completion_tokens_details.reasoning_tokens",
            "output_audio_tokens": [
                "block.usage.completion_tokens_details.audio_tokens",
                "block.usage.output_tokens_details.audio_tokens",
            ],
            "reported_cost": "block.usage.cost",
        },
        "tags": {"headers": ["request.headers"]},
        "time": {"format": "ms"},
        "parts": "inside",
    }
)

SHAPE = Shape(
    query=f"""
select
  *,
  said -> plugin as block,
  try_cast(request as json) as asked,
  asked ->> 'id' || '-' || plugin as request_id_and_plugin,
  case when asked ->> 'uri' is not null then {_operations.of_path("(asked ->> 'uri')")} end as operation
from (
  select
    *,
    list_filter(json_keys(said), lambda name: json_type((said -> name) -> 'meta') = 'OBJECT'
      or json_type((said -> name) -> 'usage') = 'OBJECT') as plugins,
    unnest(case when len(plugins) > 0 then plugins else [null] end) as plugin
  from (select *, try_cast(ai as json) as said from logged)
)""",
    reads=("ai",),
    makes=("request_id_and_plugin", "block", "operation"),
    requires=("started_at", "request", "ai"),
    skips="plugin is null",
)


def fetch(entry: Entry, days: Days, raw: Path) -> None:
    """The list of files. Raises SourceError when there is none."""
    _mapped_tables.fetch(entry, MAP, None, days, raw)


def parse(entry: Entry, days: Days, raw: Path, connection: duckdb.DuckDBPyConnection) -> Parsed:
    """Raises SourceError naming file and line of what is no line of Kong's."""
    return _mapped_tables.parse(entry, MAP, "request", days, raw, connection, SHAPE)
