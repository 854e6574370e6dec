"""LiteLLM's request log: SpendLogs rows from its database or from files, or its logging payloads from files.

NemoRouter is built on LiteLLM and writes the same. Two shapes of record are told apart one by one:

    SpendLogs row             has `request_id`; times are ISO text without a zone, in UTC
    StandardLoggingPayload    has `id`; times are epoch seconds; 1.80 lacks `litellm_call_id` and more

Both describe the same requests, and their ids differ: one entry reads either the table or one sink's
files, never both. The table is the better one. The sinks lose records (when tags are not a list, the
whole payload is `null`; those are counted), and they hold prompts, of which nothing is ever selected.

Facts about the numbers, seen in records of 1.106 and 1.80:

* `prompt_tokens` includes cache reads and cache writes, `completion_tokens` includes reasoning.
* A failed or retried call is a record of its own; the id of the provider's answer may come twice.
* `response_cost` and `spend` hold what the gateway believes, its margin or discount included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb
from duckdb import ConstantExpression as Literal

from dagster_project.days import Days
from dagster_project.records import MONEY, Kind
from dagster_project.sources import Parsed, _postgres, _routes, _tags
from dagster_project.sources._request_log import (
    FILES,
    LARGEST,
    LOGGED,
    Listing,
    LogEntry,
    RequestLog,
)
from dagster_project.sources._sql import at_least_0, instant, lookup, unless_within

KINDS: tuple[Kind, ...] = ("request",)
TELLS = ("caller", "tags", "reported cost")
READS = f"StandardLoggingPayload or SpendLogs {FILES}, or the `LiteLLM_SpendLogs` table in PostgreSQL"
RESTATES_DAYS = 3
KEEPS_RAW = False


class Entry(LogEntry):
    """A LiteLLM proxy. It may put a team's folder before the day's, but not for keys without a team:
    `path: s3://bucket/prefix/**/{date:%Y-%m-%d}/*.json`.
    """


_USAGE = """STRUCT(
  prompt_tokens_details STRUCT(
    cached_tokens BIGINT, cache_creation_tokens BIGINT, cache_write_tokens BIGINT,
    cache_creation_token_details STRUCT(ephemeral_5m_input_tokens BIGINT, ephemeral_1h_input_tokens BIGINT),
    audio_tokens BIGINT, image_tokens BIGINT, web_search_requests BIGINT, character_count BIGINT),
  completion_tokens_details STRUCT(reasoning_tokens BIGINT, audio_tokens BIGINT, image_tokens BIGINT),
  server_tool_use STRUCT(web_search_requests BIGINT),
  cache_read_input_tokens BIGINT, cache_creation_input_tokens BIGINT, output_image_count BIGINT,
  service_tier VARCHAR, inference_geo VARCHAR)"""

COLUMNS: Mapping[str, str] = {
    "request_id": "VARCHAR",
    "id": "VARCHAR",
    "litellm_call_id": "VARCHAR",
    "trace_id": "VARCHAR",
    "session_id": "VARCHAR",
    "call_type": "VARCHAR",
    "status": "VARCHAR",
    "startTime": "VARCHAR",
    "endTime": "VARCHAR",
    "completionStartTime": "VARCHAR",
    "model": "VARCHAR",
    "model_id": "VARCHAR",
    "model_group": "VARCHAR",
    "custom_llm_provider": "VARCHAR",
    "api_base": "VARCHAR",
    "api_key": "VARCHAR",
    "team_id": "VARCHAR",
    "user": "VARCHAR",
    "end_user": "VARCHAR",
    "cache_hit": "VARCHAR",
    "stream": "BOOLEAN",
    "prompt_tokens": "BIGINT",
    "completion_tokens": "BIGINT",
    "spend": "VARCHAR",
    "response_cost": "VARCHAR",
    "request_tags": "JSON",
    "cost_breakdown": "STRUCT(service_tier VARCHAR, data_residency VARCHAR)",
    "error_information": "STRUCT(error_code VARCHAR)",
    "model_parameters": "STRUCT(stream BOOLEAN, service_tier VARCHAR)",
    "hidden_params": """STRUCT(additional_headers STRUCT(
  "x-litellm-attempted-retries" INTEGER, "x-litellm-attempted-fallbacks" INTEGER))""",
    "metadata": f"""STRUCT(
  user_api_key_hash VARCHAR, user_api_key_alias VARCHAR, user_api_key_team_id VARCHAR,
  user_api_key_team_alias VARCHAR, user_api_key_user_id VARCHAR, user_api_key_project_id VARCHAR,
  user_api_key_project_alias VARCHAR,
  status VARCHAR, attempted_retries INTEGER, attempted_fallbacks INTEGER,
  error_information STRUCT(error_code VARCHAR),
  cost_breakdown STRUCT(service_tier VARCHAR, data_residency VARCHAR),
  spend_logs_metadata JSON, requester_metadata JSON, requester_custom_headers JSON,
  user_api_key_auth_metadata JSON,
  usage_object {_USAGE}, additional_usage_values {_USAGE})""",
}
"""All that is selected, of both shapes together. Numbers that become money and instants stay text until
they are cast exactly; what callers fill stays JSON because it may be anything.
"""

_METADATA_MEMBERS: Mapping[str, tuple[str, ...]] = {
    "user_api_key_alias": (),
    "user_api_key_team_id": (),
    "user_api_key_team_alias": (),
    "user_api_key_user_id": (),
    "user_api_key_project_id": (),
    "user_api_key_project_alias": (),
    "status": (),
    "attempted_retries": (),
    "attempted_fallbacks": (),
    "error_information": ("error_code",),
    "cost_breakdown": ("service_tier", "data_residency"),
    "spend_logs_metadata": (),
    "usage_object": (),
    "additional_usage_values": (),
}
"""What leaves the database of the table's `metadata`, and of its members where only some of them may."""

_NOT_TAGS = (
    "headers",
    "tags",
    "spend_logs_metadata",
    "trace_id",
    "session_id",
    "user_id",
    "used_client_oauth_token",
)
"""Members of a request's metadata that are read elsewhere, or are LiteLLM's own."""

_PROVIDERS: Mapping[str, str] = {
    "gemini": "google",
    "vertex_ai": "google",
    "vertex_ai_beta": "google",
    "bedrock": "aws",
    "bedrock_converse": "aws",
    "sagemaker": "aws",
    "sagemaker_chat": "aws",
    "azure_ai": "azure",
    "azure_text": "azure",
    "text-completion-openai": "openai",
    "anthropic_text": "anthropic",
    "cohere_chat": "cohere",
    "text-completion-codestral": "mistral",
    "codestral": "mistral",
    **{name: name for name in ("openai", "anthropic", "azure", "cohere", "mistral", "openrouter")},
}
"""LiteLLM's names of who serves, and who bills; a name that is not here bills under itself."""

_DETAILS = (
    "cache_read_tokens",
    "cache_write_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "input_audio_tokens",
    "input_image_tokens",
    "output_audio_tokens",
    "output_image_tokens",
    "reasoning_tokens",
    "web_searches",
    "images",
    "characters",
)
"""Counts of the usage object."""

_OPERATIONS: Mapping[str, str] = {
    "completion": "chat",
    "text_completion": "chat",
    "responses": "chat",
    "anthropic_messages": "chat",
    "generate_content": "chat",
    "generate_content_stream": "chat",
    "embedding": "embedding",
    "image_generation": "image",
    "image_edit": "image",
    "image_variation": "image",
    "speech": "speech",
    "transcription": "transcription",
    "moderation": "moderation",
    "rerank": "rerank",
    "search": "search",
    "vector_store_search": "search",
}
"""LiteLLM's call types; each exists with an `a` before it too."""


def fetch(entry: Entry, days: Days, raw: Path) -> None:
    """Of files only the list; of the table the rows that ended in `days`, without any column or JSON member
    that could hold text of a request.

    Raises SourceError when there is no file, or the table cannot be read.
    """
    LOG.fetch(entry, days, raw)


def parse(entry: Entry, days: Days, raw: Path, connection: duckdb.DuckDBPyConnection) -> Parsed:
    """Raises SourceError naming file and line of what is no JSON, or file and field of what is no record."""
    staged = LOG.stage(entry, raw, connection, COLUMNS, _projection(entry))
    empty, clamped = staged.aggregate(
        "count(*) filter (broken = 'payload'), count(*) filter (has_negative_remainder)"
    ).fetchall()[0]
    counts = {"lost_payloads": empty, "negative_remainders": clamped}
    return LOG.parsed(entry, days, raw, staged, counts)


def _rows_query(table: _postgres.Table, days: Days) -> str:
    """One JSON text per row that ended in `days`, of the columns that this generation of the table has."""

    def member(name: str, parts: Sequence[str]) -> str:
        value = f"metadata->'{name}'"
        inside = ", ".join(f"'{part}', {value}->'{part}'" for part in parts)
        return f"'{name}', " + (f"jsonb_build_object({inside})" if parts else value)

    members = ", ".join(member(name, parts) for name, parts in _METADATA_MEMBERS.items())
    columns = ", ".join(f'"{name}"' for name in COLUMNS if name in table.columns - {"metadata"})
    first, end = f"timestamp '{days.first}'", f"timestamp '{days.last}' + interval '1 day'"
    # Only "startTime" has an index; no request takes a day.
    return f"""
select row_to_json(line)::text as line from (
  select {columns}, jsonb_build_object({members}) as metadata
  from {table.name}
  where "startTime" >= {first} - interval '1 day' and "startTime" < {end}
    and "endTime" >= {first} and "endTime" < {end}
) as line"""


def _projection(entry: Entry) -> str:
    """Records from the rows of `logged`: first one name for what both shapes say, then tags, then the rest.

    `broken` names the field that a record lacks (`payload` when it is no record at all).
    """
    provider = f"""coalesce(nullif(custom_llm_provider, ''),
    case when split_part(model, '/', 1) in ({", ".join(f"'{name}'" for name in _PROVIDERS)})
      and contains(model, '/') then split_part(model, '/', 1) end)"""
    written = _usage(
        "prompt_tokens_details.cache_creation_tokens",
        "prompt_tokens_details.cache_write_tokens",
        "cache_creation_input_tokens",
    )
    named = f"""
select
  file, request_tags, metadata, end_user, model_id, model_group, api_base, prompt_tokens, completion_tokens,
  request_id is not null as is_row,
  nullif(coalesce(request_id, id), '') as own_id,
  coalesce(litellm_call_id = own_id, false) as is_unanswered,
  case
    when request_id is not null then request_id
    when litellm_call_id is not null then litellm_call_id || ':' || status
    else id || ':' || status || ':' || "startTime"
  end as record_id,
  {instant('"startTime"')} as started_at,
  {instant('"endTime"')} as ended_at,
  {instant('"completionStartTime"')} as first_token_at,
  {provider} as served_by,
  {lookup(_PROVIDERS, "served_by", "served_by")} as known_provider,
  case when starts_with(model, served_by || '/') then substr(model, length(served_by) + 2)
    else nullif(nullif(model, ''), 'unknown-model') end as model,
  coalesce(nullif(api_key, ''), metadata.user_api_key_hash) as key_hash,
  coalesce(nullif(team_id, ''), metadata.user_api_key_team_id) as gateway_team,
  coalesce(nullif("user", ''), metadata.user_api_key_user_id) as gateway_user,
  {lookup(_OPERATIONS | {f"a{name}": to for name, to in _OPERATIONS.items()}, "call_type", "'other'")}
    as operation,
  lower(coalesce({_usage("service_tier")}, cost_breakdown.service_tier, metadata.cost_breakdown.service_tier,
    model_parameters.service_tier)) as tier,
  coalesce({_usage("inference_geo")}, cost_breakdown.data_residency, metadata.cost_breakdown.data_residency)
    as region,
  coalesce(trace_id, case when is_row then session_id end) as trace_id,
  case when not is_row then nullif(session_id, '') end as session_id,
  coalesce(
    try(metadata.attempted_retries + metadata.attempted_fallbacks),
    try(hidden_params.additional_headers."x-litellm-attempted-retries"
      + hidden_params.additional_headers."x-litellm-attempted-fallbacks")
  ) as attempt,
  try_cast(coalesce(error_information.error_code, metadata.error_information.error_code) as integer)
    as http_status,
  case coalesce(status, metadata.status, case when is_row then 'success' end)
    when 'success' then 'ok'
    when 'failure' then case when http_status = 499 then 'cancelled' else 'error' end
  end as status,
  coalesce(lower(cache_hit) = 'true', false) as is_cache_hit,
  coalesce(stream, model_parameters.stream, case when not is_row then false end) as is_streaming,
  coalesce(spend, response_cost) as cost,
  {_usage("prompt_tokens_details.cached_tokens", "cache_read_input_tokens")} as cache_read_tokens,
  {written} as cache_write_tokens,
  {_usage("prompt_tokens_details.cache_creation_token_details.ephemeral_5m_input_tokens")}
    as cache_write_5m_tokens,
  {_usage("prompt_tokens_details.cache_creation_token_details.ephemeral_1h_input_tokens")}
    as cache_write_1h_tokens,
  try(coalesce(cache_write_5m_tokens, 0) + coalesce(cache_write_1h_tokens, 0)) as cache_written_by_ttl,
  greatest(cache_write_tokens, cache_written_by_ttl) as cache_written,
  {_usage("prompt_tokens_details.audio_tokens")} as input_audio_tokens,
  {_usage("prompt_tokens_details.image_tokens")} as input_image_tokens,
  {_usage("completion_tokens_details.audio_tokens")} as output_audio_tokens,
  coalesce({_usage("completion_tokens_details.image_tokens")},
    -- An image model answers in image tokens only, and LiteLLM gives no details of them.
    case when operation = 'image' then completion_tokens end) as output_image_tokens,
  {_usage("completion_tokens_details.reasoning_tokens")} as reasoning_tokens,
  {_usage("server_tool_use.web_search_requests", "prompt_tokens_details.web_search_requests")}
    as web_searches,
  {_usage("output_image_count")} as images,
  {_usage("prompt_tokens_details.character_count")} as characters
from logged"""
    parts = [
        _tags.labels("request_tags"),
        _tags.members("metadata.spend_logs_metadata"),
        _tags.members("metadata.requester_metadata", ignored=_NOT_TAGS),
        _tags.headers("metadata.requester_custom_headers", entry.tag_aliases),
        _tags.members("metadata.user_api_key_auth_metadata"),
        """[{'key': 'project',
      'value': coalesce(metadata.user_api_key_project_alias, metadata.user_api_key_project_id)},
    {'key': 'end_user', 'value': end_user}]""",
    ]
    details = ", ".join(_DETAILS)
    who_pays = _routes.identity(
        entry.routes,
        provider="known_provider",
        model="model",
        deployments=("model_id", "model_group", "api_base"),
    )
    return f"""
select
  file,
  record_id,
  'request' as record_kind,
  {Literal(entry.name)} as source,
  started_at,
  ended_at,
  ended_at::date as usage_date,
  {", ".join(f"{sql} as {name}" for name, sql in who_pays.items())},
  -- LiteLLM logs the hash; a key in the clear can only be a mistake, and LiteLLM's hash of it is this one.
  case when starts_with(key_hash, 'sk-') then sha256(key_hash) else key_hash end as gateway_key_id,
  nullif(metadata.user_api_key_alias, '') as gateway_key_name,
  gateway_team,
  nullif(metadata.user_api_key_team_alias, '') as gateway_team_name,
  gateway_user,
  tags,
  operation,
  model,
  nullif(model_group, '') as model_requested,
  case tier when 'default' then 'standard' when 'auto' then null else tier end as service_tier,
  prompt_tokens as context_tokens,
  nullif(region, 'not_available') as region,
  case when status = 'ok' and not (is_unanswered or is_cache_hit) then own_id end as request_id,
  trace_id,
  session_id,
  coalesce(attempt, try_cast(regexp_extract(own_id, '-attempt-([0-9]+)$', 1) as integer)) as attempt,
  status,
  http_status,
  is_cache_hit,
  is_streaming,
  datesub('ms', started_at, ended_at) as latency_ms,
  case when is_streaming is not false and first_token_at < ended_at
    then datesub('ms', started_at, first_token_at) end as ttft_ms,
  1 as requests,
  try(prompt_tokens - coalesce(cache_read_tokens, 0) - cache_written
    - coalesce(input_audio_tokens, 0) - coalesce(input_image_tokens, 0)) as input_rest,
  {at_least_0("input_rest")} as input_tokens,
  cache_read_tokens,
  cache_write_5m_tokens,
  cache_write_1h_tokens,
  case when cache_write_tokens is not null then try(cache_written - cache_written_by_ttl) end
    as cache_write_other_tokens,
  try(completion_tokens - coalesce(output_audio_tokens, 0) - coalesce(output_image_tokens, 0)) as output_rest,
  {at_least_0("output_rest")} as output_tokens,
  input_audio_tokens,
  output_audio_tokens,
  input_image_tokens,
  output_image_tokens,
  web_searches,
  images,
  characters,
  reasoning_tokens,
  try_cast(cost as {MONEY}) as reported_cost,
  case
    when own_id is null and started_at is null and cost is null and prompt_tokens is null then 'payload'
    when own_id is null then 'id'
    when status is null then 'status'
    when {unless_within("started_at", *LOGGED)} then 'startTime'
    when {unless_within("ended_at", *LOGGED)} then 'endTime'
    when {unless_within("prompt_tokens", "0", LARGEST)} then 'prompt_tokens'
    when {unless_within("completion_tokens", "0", LARGEST)} then 'completion_tokens'
    when least({details}) < 0 or greatest({details}) > {LARGEST} then 'usage_object'
    when cost is not null and {unless_within("reported_cost", "0", LARGEST)} then 'spend or response_cost'
  end as broken,
  case when broken is not null then own_id end as broken_id,
  input_rest < 0 or output_rest < 0 or reasoning_tokens > completion_tokens as has_negative_remainder
from ({_tags.tagged(named, parts, entry.tag_aliases)})"""


def _usage(*members: str) -> str:
    """The first of `members` that the usage object has; where it is missing LiteLLM may have kept the same
    details in `additional_usage_values` (a stream that broke off, tags that it could not read)."""
    places = ("metadata.usage_object", "metadata.additional_usage_values")
    return f"coalesce({', '.join(f'{place}.{member}' for place in places for member in members)})"


LOG = RequestLog(
    table="LiteLLM_SpendLogs",
    required=frozenset(
        {
            "request_id",
            "startTime",
            "endTime",
            "model",
            "api_key",
            "prompt_tokens",
            "completion_tokens",
            "spend",
            "metadata",
        }
    ),
    rows=_rows_query,
    # Its older generations did not log the team's name with the requests.
    listing=Listing("gateway_team", "LiteLLM_TeamTable", "team_id", "team_alias"),
    not_known="It is neither a SpendLogs row nor a StandardLoggingPayload of a version known here; "
    "nothing was taken.",
)
