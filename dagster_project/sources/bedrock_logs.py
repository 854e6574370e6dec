"""Amazon Bedrock's model invocation logs, as it delivers them to S3: who called which model, in tokens.

Facts about the records, from the documentation where nothing else is said:

*   `inputTokenCount` has neither cache reads nor cache writes: what was not cached is beside what was. Calls
    of OpenAI's models were seen with the cached tokens inside (in one report of the runtime's answers);
    there they are subtracted, where they fit.
*   Of which lifetime a cache write is, is not said. Nor is the service tier, nor a cost.
*   `timestamp` is the only instant. A record may have neither `status` nor `errorCode`; such a call was
    answered.
*   `modelId` is what the caller asked for: a model, a geography's profile (`us.`, `global.`) or an ARN.
    Behind the ARN of an application inference profile is a model that the log does not name; the profile is
    the `api_key_id`, as on the bill (`aws`).
*   The account is the one that was called, on the bill the linked one: it is `provider_project_id`. That of
    an organisation is the payer's, and a route says it (`{provider: aws, account: "999988887777"}`).
*   Prompts and answers are in the records, and the large ones in files in a folder `data/` beside them: of
    both, nothing is selected.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import duckdb
from duckdb import ConstantExpression as Literal

from dagster_project.days import Days
from dagster_project.records import Kind
from dagster_project.sources import Parsed, _bedrock, _exports, _routes, _tags
from dagster_project.sources._request_log import (
    FILES,
    LARGEST,
    LOGGED,
    FilesEntry,
    RequestLog,
)
from dagster_project.sources._sql import instant, unless_within

KINDS: tuple[Kind, ...] = ("request",)
TELLS = ("caller", "tags")
READS = f"Amazon Bedrock's model invocation logs {FILES}"
RESTATES_DAYS = 3
"""Records are delivered within minutes, and to a folder of their hour."""
KEEPS_RAW = False


class Entry(FilesEntry):
    """The logs of one or more accounts. A route's `deployment` is the model or ARN that was asked for.

    `path`: s3://BUCKET/AWSLogs/*/BedrockModelInvocationLogs/*/{date:%Y/%m/%d}/*/*.json.gz
    """


COLUMNS: Mapping[str, str] = {
    "schemaType": "VARCHAR",
    "requestId": "VARCHAR",
    "timestamp": "VARCHAR",
    "accountId": "VARCHAR",
    "identity": "STRUCT(arn VARCHAR)",
    "region": "VARCHAR",
    "inferenceRegion": "VARCHAR",
    "operation": "VARCHAR",
    "modelId": "VARCHAR",
    "status": "VARCHAR",
    "errorCode": "VARCHAR",
    "input": "STRUCT(inputTokenCount BIGINT, cacheReadInputTokenCount BIGINT, "
    "cacheWriteInputTokenCount BIGINT)",
    "output": "STRUCT(outputTokenCount BIGINT)",
    "requestMetadata": "JSON",
}
"""All that is selected."""

_OPERATIONS: Mapping[str, str] = {
    "%embed%": "embedding",
    "%rerank%": "rerank",
    "%canvas%": "image",
    "%image%": "image",
    "%stability.%": "image",
}
"""Models that are no chat; the first that fits."""


def fetch(entry: Entry, days: Days, raw: Path) -> None:
    """The list of files, which stay where they are. Raises SourceError when there is none."""
    LOG.fetch(entry, days, raw)


def parse(entry: Entry, days: Days, raw: Path, connection: duckdb.DuckDBPyConnection) -> Parsed:
    """Raises SourceError naming file and line of what is no JSON, or file and field of what is no record."""
    staged = LOG.stage(entry, raw, connection, COLUMNS, _projection(entry))
    counts = {
        "not_invocations": "broken = 'payload'",
        "unmeasured": "broken is null and status = 'ok' and input_tokens is null",
        "cached_inside_input": "is_inside",
    }
    return LOG.parsed(entry, days, raw, staged, _exports.counted(staged, counts))


def _projection(entry: Entry) -> str:
    operations = " ".join(f"when modelId like '{name}' then '{what}'" for name, what in _OPERATIONS.items())
    named = f"""
select
  *,
  {instant('"timestamp"')} as started_at,
  try_cast(status as integer) as code,
  errorCode is null and coalesce(code between 200 and 299, status is null) as is_ok,
  regexp_matches(modelId, '{_bedrock.OWNED}') as is_owned,
  case
    when not regexp_matches(modelId, '^arn:') then modelId
    when regexp_matches(modelId, ':(foundation-model|inference-profile)/') then split_part(modelId, '/', -1)
  end as model,
  input.inputTokenCount as input_count,
  input.cacheReadInputTokenCount as cache_read,
  input.cacheWriteInputTokenCount as cache_write,
  output.outputTokenCount as output_count,
  coalesce(cache_read, 0) + coalesce(cache_write, 0) as cached,
  cached > 0 and cached <= input_count and coalesce(contains(model, 'openai.'), false) as is_inside
from logged"""
    who_pays = _routes.identity(entry.routes, provider="'aws'", model="model", deployments=("modelId",))
    otherwise = {
        "account_id": "accountId",
        "provider_project_id": "accountId",
        "api_key_id": "if(is_owned, modelId, 'no_key')",
    }
    identity = ", ".join(
        f"coalesce({sql}, {otherwise[name]}) as {name}" if name in otherwise else f"{sql} as {name}"
        for name, sql in who_pays.items()
    )
    return f"""
select
  file,
  requestId as record_id,
  'request' as record_kind,
  {Literal(entry.name)} as source,
  started_at,
  started_at::date as usage_date,
  {identity},
  identity.arn as principal_id,
  {_bedrock.session("identity.arn")} as principal_name,
  identity.arn as gateway_user,
  tags,
  case
    when operation ilike '%guardrail%' then 'moderation'
    {operations}
    when modelId is not null then 'chat'
  end as operation,
  model,
  modelId as model_requested,
  if(is_inside, input_count, input_count + cached) as context_tokens,
  coalesce(inferenceRegion, region) as region,
  requestId as request_id,
  if(is_ok, 'ok', 'error') as status,
  code as http_status,
  false as is_cache_hit,
  operation ilike '%stream' as is_streaming,
  1 as requests,
  if(is_inside, input_count - cached, input_count) as input_tokens,
  cache_read as cache_read_tokens,
  cache_write as cache_write_other_tokens,
  output_count as output_tokens,
  is_inside,
  case
    when coalesce(requestId, '') = '' or coalesce(schemaType <> 'ModelInvocationLog', false) then 'payload'
    when {unless_within("started_at", *LOGGED)} then 'timestamp'
    when coalesce(accountId, '') = '' then 'accountId'
    when coalesce(modelId, '') = '' then 'modelId'
    when status is not null and code is null then 'status'
    when {unless_within("coalesce(input_count, 0)", 0, LARGEST)} then 'inputTokenCount'
    when {unless_within("coalesce(output_count, 0)", 0, LARGEST)} then 'outputTokenCount'
    when {unless_within("coalesce(cache_read, 0)", 0, LARGEST)} then 'cacheReadInputTokenCount'
    when {unless_within("coalesce(cache_write, 0)", 0, LARGEST)} then 'cacheWriteInputTokenCount'
  end as broken,
  case when broken is not null then requestId end as broken_id
from ({_tags.tagged(named, [_tags.members("requestMetadata")], entry.tag_aliases)})"""


LOG = RequestLog(not_known="It is no record of Bedrock's model invocation logs; nothing was taken.")
