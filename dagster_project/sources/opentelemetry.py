"""OpenTelemetry traces of calls to models: OTLP/JSON, as SDKs and the collector's file exporter write it.

Only spans are read. Metrics hold the same tokens without a caller, cumulative and often twice.

A call is a span that says it reached a model, in any of these conventions, old names and new:

    gen_ai.*                    OpenTelemetry's, the SDKs' own spans, OpenLLMetry, LiteLLM, the AI SDK
    llm.usage.*                 OpenLLMetry's first names
    llm.token_count.*           OpenInference, of span kind LLM, EMBEDDING or RERANKER

Agents, chains, tools and workflows repeat what their calls say, and are none. Facts about the numbers,
seen in spans of the real instrumentations:

* Input includes cache reads and writes, output includes reasoning. Where the parts are more than the whole
  (old instrumentations of Anthropic count input without them), input is 0 and counted.
* Traces under-count. Spans have no usage when a stream stops early, breaks, or was not asked for its usage;
  these have null tokens and are counted as `unmeasured`. Retries within an SDK are one span; and what was
  sampled away is not there.
* OpenLLMetry counts one output token too many for each streamed answer of Anthropic.
* LiteLLM says nothing of a call whose tags it cannot read, and not which answers came from its cache.

Two instrumentations write two spans of one call, as do an application and its gateway. Spans are views of the
same calls when they have the same response id in one trace, or at one time; are nested, of the same model; or
stand below one parent at one time, of the same model, and some of them say no response id. Of such spans
those of one instrumentation in one service are the records: of the one that saw most calls, so no retry,
parallel call or error is lost; then of the one that measured most; then as in `_conventions`. The others are
counted as `set_aside`, and none of their numbers is used. Spans of one instrumentation in one service are
never views of each other, but for one that was delivered twice (`redelivered`).

Who called is said by the span or its further views, else by the nearest span above that says so, else by the
resources. Of all their attributes only tags are read that are well known, or listed in the entry.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import duckdb
from duckdb import ConstantExpression as Literal

from dagster_project.days import Days
from dagster_project.errors import SourceError
from dagster_project.records import MONEY, Kind
from dagster_project.sources import Parsed, _files, _routes, _tags
from dagster_project.sources import _conventions as said
from dagster_project.sources._request_log import (
    FILES,
    LARGEST,
    LOGGED,
    FilesEntry,
    refuse_broken,
)
from dagster_project.sources._sql import at_least_0, lookup, texts, unless_within

KINDS: tuple[Kind, ...] = ("request",)
TELLS = ("caller", "tags", "reported cost")
READS = f"spans of calls to models in OTLP/JSON, of any instrumentation, {FILES}"
RESTATES_DAYS = 3
KEEPS_RAW = False


class Entry(FilesEntry):
    """Applications, agents or gateways that trace their calls. A route's `deployment` is the host that was
    called, the model as it was asked for (on Azure, the deployment), or the name of the service.
    """

    tag_attributes: tuple[str, ...] = ()
    """Attributes of spans and resources that are tags, besides those that are well known."""


_ATTRIBUTES = """STRUCT(key VARCHAR, "value" STRUCT(
  "stringValue" VARCHAR, "intValue" VARCHAR, "doubleValue" VARCHAR, "boolValue" VARCHAR,
  "arrayValue" STRUCT("values" STRUCT("stringValue" VARCHAR)[])))[]"""

COLUMNS: Mapping[str, str] = {
    "resourceSpans": f"""STRUCT(
  resource STRUCT(attributes {_ATTRIBUTES}),
  "scopeSpans" STRUCT(scope STRUCT(name VARCHAR), spans STRUCT(
    "traceId" VARCHAR, "spanId" VARCHAR, "parentSpanId" VARCHAR,
    "startTimeUnixNano" VARCHAR, "endTimeUnixNano" VARCHAR, status STRUCT(code VARCHAR),
    attributes {_ATTRIBUTES},
    events STRUCT(name VARCHAR, "timeUnixNano" VARCHAR, attributes {_ATTRIBUTES})[])[])[])[]""",
}
"""All that is selected. Integers come as numbers or as texts, so all are read as texts."""

_HIGHEST = 100
"""Spans above a call; parents that go round in a circle end there."""

_SNAPSHOT_LESS = r"""regexp_replace(regexp_extract(lower(coalesce(model, '')), '[^/]*$'),
    '[-@](\d{4}-\d{2}-\d{2}|\d{8}|latest)$', '')"""
"""A model without its date: one view says the name that was asked for, another the snapshot that answered."""

_FIRST_TOKEN = "First Token Stream Event"
"""OpenInference says by an event when the answer began."""

_OF_EVENTS = """flatten(list_transform(
          list_filter(span.events, lambda e: starts_with(e.name, 'gen_ai.')), lambda e: e.attributes))"""


def fetch(entry: Entry, days: Days, raw: Path) -> None:
    """Only the list of files, because they may hold prompts. Raises SourceError when there is none."""
    _files.write_manifest(_files.find(entry.name, entry.path, days), raw)


def parse(entry: Entry, days: Days, raw: Path, connection: duckdb.DuckDBPyConnection) -> Parsed:
    """Raises SourceError naming file and line of what is no JSON, or file and field of what is no span."""
    connection.execute("set TimeZone = 'UTC'")
    files = _files.read_manifest(raw)
    spans, requests = raw / "spans.parquet", raw / "requests.parquet"
    _files.extract(entry.name, connection, files, COLUMNS, _spans(entry), spans)
    staged = connection.read_parquet(str(spans))
    _refuse(entry, staged)
    connection.execute(f"copy ({_requests(entry, spans)}) to {Literal(str(requests))} (format parquet)")
    seen = connection.read_parquet(str(requests))
    records = seen.filter("is_record")
    unmeasured, negative, set_aside, redelivered, unreadable = seen.aggregate("""
        count(*) filter (is_record and is_unmeasured), count(*) filter (is_record and has_negative_remainder),
        count(*) filter (not is_record), coalesce(sum(deliveries - 1), 0)::bigint,
        coalesce(sum(unreadable) filter (is_record), 0)::bigint""").fetchall()[0]
    [(without_spans,)] = staged.filter("broken = 'payload'").aggregate("count(*)").fetchall()
    counts = {
        "unmeasured": unmeasured,
        "negative_remainders": negative,
        "set_aside": set_aside,
        "redelivered": redelivered,
        "unreadable_counts": unreadable,
        "lines_without_spans": without_spans,
    }
    gone = _files.days_without_files(entry.path, days, files)
    return Parsed({"request": _files.completed(records)}, counts, gone)


def _refuse(entry: Entry, staged: duckdb.DuckDBPyRelation) -> None:
    lines, empty = staged.aggregate("count(*), count(*) filter (broken = 'payload')").fetchall()[0]
    if lines and lines == empty:
        what = f"none of the {lines} records holds spans"
        raise SourceError(entry.name, what, where=entry.path, remedy="Name files of traces in `path`.")
    refuse_broken(entry.name, staged, None, "It is no span of OTLP/JSON as known here; nothing was taken.")


def _spans(entry: Entry) -> str:
    """Every span from the rows of `logged`: its place in its trace, the tags that it and its resource say,
    and what a call says of itself (`call` is `sure`, or `unless above` another one).

    `broken` names the field that a call lacks (`payload` where a line has no spans).
    """
    tag = _tag_names(entry)
    prefixed = f"(?:{said.PREFIX})?(?:{tag})"
    told = [
        *said.SAID.values(),
        *said.COUNTED.values(),
        said.LABELS,
        said.PARAMETERS,
        ("metadata",),
    ]
    kept = "|".join([prefixed, *(re.escape(name) for names in told for name in names)])
    told_as = ",\n    ".join(f"{_said(*names)} as {name}" for name, names in said.SAID.items())
    counted = ",\n    ".join(f"{_said(*names)} as {name}_said" for name, names in said.COUNTED.items())
    counts = ",\n    ".join(f"{_whole(f'{name}_said')} as {name}" for name in said.COUNTED)
    unreadable = " + ".join(f"({name}_said is not null and {name} is null)::int" for name in said.COUNTED)
    measures = ", ".join(said.COUNTED)
    unstaged = ("keys", "texts", "parameters", "metadata", "labels", "api_base")
    left = ", ".join([*unstaged, *(f"{name}_said" for name in said.COUNTED)])
    return f"""
select * exclude ({left})
from (
  with packets as (
    -- A line without spans stays as one row, to be counted.
    select file, unnest(coalesce(nullif("resourceSpans", []), [null])) as packet from logged
  ), scopes as (
    select
      file,
      {_pairs("packet.resource.attributes", prefixed)} as resource_pairs,
      unnest(case when packet is null then [null] else packet."scopeSpans" end) as scoped,
      packet is null as is_empty
    from packets
  ), spans as (
    select
      file, resource_pairs, is_empty,
      coalesce(scoped.scope.name, '') as scope,
      unnest(case when is_empty then [null] else scoped.spans end) as span
    from scopes
  ), kept as (
    select
      file, is_empty, scope,
      lower(span."traceId") as trace_id,
      lower(span."spanId") as span_id,
      nullif(lower(span."parentSpanId"), '') as parent_id,
      try_cast(span."startTimeUnixNano" as bigint) as start_ns,
      try_cast(span."endTimeUnixNano" as bigint) as end_ns,
      coalesce(span.status.code in ('2', 'STATUS_CODE_ERROR'), false) as has_failed,
      try_cast(list_filter(span.events, lambda e: e.name = '{_FIRST_TOKEN}')[1]."timeUnixNano" as bigint)
        as first_token_ns,
      list_concat(
        {_pairs("span.attributes", kept)},
        {_pairs(_OF_EVENTS, kept)}
      ) as pairs,
      resource_pairs
    from spans
  ), named as (
    select
      *,
      list_transform(pairs, lambda pair: pair.key) as keys,
      -- LiteLLM writes nothing, or None, for none.
      list_transform(pairs, lambda pair: nullif(nullif(pair.value, ''), 'None')) as texts
    from kept
  ), told as (
    select
      *,
    {told_as},
    {counted},
    try_cast({_said(*said.PARAMETERS)} as json) as parameters,
    try_cast({_said("metadata")} as json) as metadata,
    try_cast({_said(*said.LABELS)} as json) as labels
    from named
  )
  select
    * exclude (pairs, resource_pairs, is_empty),
    {_claims("pairs", prefixed)}
      || coalesce({_claims(_tags.members("metadata"), tag)}, [])
      || coalesce({_claims(_tags.labels("labels"), tag)}, []) as claims,
    {_claims("resource_pairs", prefixed)} as resource_claims,
    list_filter(resource_pairs, lambda pair: pair.key = 'service.name')[1].value as service,
    {counts},
    {unreadable} as unreadable,
    coalesce(model_asked, parameters ->> 'model') as model_requested,
    -- What LiteLLM says to have answered is its own name of the model.
    coalesce(regexp_replace(prefixed_model, '^[^/]*/', ''), model_answered, model_named, model_requested)
      as model,
    coalesce(tier_answered, tier_asked, parameters ->> 'service_tier') as tier,
    try_cast(coalesce(streaming, parameters ->> 'stream') as boolean) as is_streaming,
    coalesce(host, nullif(regexp_extract(api_base, '://([^/:]+)', 1), '')) as called_host,
    -- LiteLLM's own id where it has no other.
    nullif(answer_id, own_id) as response_id,
    coalesce(
      {lookup(said.OPERATIONS, "lower(request_type)", "null")},
      {lookup(said.OPERATIONS, "lower(operation_said)", "null")},
      {lookup(said.KINDS, "lower(kind)", "null")}
    ) as operation,
    case
      when lower(operation_said) in ({texts(said.PARENTS)}) then null
      when lower(kind) not in ({texts(said.KINDS)}) then null
      when operation is not null then 'sure'
      when model is not null and coalesce(input_total_said, output_total_said) is not null
        then 'unless above'
    end as call,
    try(make_timestamp(start_ns // 1000)) as started_at,
    try(make_timestamp(end_ns // 1000)) as ended_at,
    case
      when is_empty then 'payload'
      when call is null then null
      when coalesce(trace_id, '') = '' then 'traceId'
      when coalesce(span_id, '') = '' then 'spanId'
      when {unless_within("started_at", *LOGGED)} then 'startTimeUnixNano'
      when {unless_within("ended_at", *LOGGED)} then 'endTimeUnixNano'
      when least({measures}) < 0 or greatest({measures}) > {LARGEST} then 'usage'
      when cost is not null and {unless_within(f"try_cast(cost as {MONEY})", "0", LARGEST)} then 'cost'
    end as broken,
    case when broken is not null then span_id end as broken_id
  from told
)"""


def _requests(entry: Entry, spans: Path) -> str:
    """A row for each call in `spans`, with what is counted beside; of a further view `is_record` is false."""
    who_pays = _routes.identity(
        entry.routes,
        provider="served_by",
        model="model",
        deployments=("called_host", "model_requested", "service"),
    )
    rows = _tags.tagged(_calls(spans), ["said_of_it"], {**said.ALIASES, **said.IDENTITY, **entry.tag_aliases})
    columns = dict.fromkeys(said.IDENTITY.values())
    return f"""
select
  trace_id || ':' || span_id as record_id,
  'request' as record_kind,
  {Literal(entry.name)} as source,
  started_at,
  ended_at,
  ended_at::date as usage_date,
  {", ".join(f"{sql} as {name}" for name, sql in who_pays.items())},
  {", ".join(f"tags['{column}'] as {column}" for column in columns)},
  map_from_entries(list_filter(map_entries(tags), lambda tag: tag.key not in ({texts(columns)}))) as tags,
  coalesce(operation, 'other') as operation,
  model,
  model_requested,
  case lower(tier) when 'default' then 'standard' when 'auto' then null else lower(tier) end as service_tier,
  input_total as context_tokens,
  response_id as request_id,
  trace_id,
  case
    when http_status = 499 or regexp_matches(error, '(?i)cancel|GeneratorExit') then 'cancelled'
    when has_failed or error is not null or http_status >= 400 then 'error'
    else 'ok'
  end as status,
  http_status,
  is_streaming,
  case when end_ns >= start_ns then (end_ns - start_ns) // 1000000 end as latency_ms,
  floor(coalesce(
    try_cast(first_chunk_seconds as decimal(20, 9)) * 1000,
    try_cast(first_chunk_ms as decimal(20, 9)),
    (first_token_ns - start_ns) / 1000000
  ))::bigint as ttft_ms,
  1 as requests,
  {at_least_0("input_rest")} as input_tokens,
  cache_read as cache_read_tokens,
  cache_write_5m as cache_write_5m_tokens,
  cache_write_1h as cache_write_1h_tokens,
  {at_least_0("cache_write - written_by_lifetime")} as cache_write_other_tokens,
  {at_least_0("output_rest")} as output_tokens,
  {at_least_0("audio_fresh")} as input_audio_tokens,
  audio_out as output_audio_tokens,
  {at_least_0("image_fresh")} as input_image_tokens,
  images_out as output_image_tokens,
  reasoning as reasoning_tokens,
  cost::{MONEY} as reported_cost,
  is_record,
  deliveries,
  unreadable,
  input_total is null or (output_total is null and operation = 'chat') as is_unmeasured,
  coalesce(least(input_rest, output_rest, audio_fresh, image_fresh, output_total - reasoning,
    cache_write - written_by_lifetime), 0) < 0 as has_negative_remainder
from ({rows})"""


def _calls(spans: Path) -> str:
    """Each call in `spans`: whether it `is_record`, and all that is said of who made it (`said_of_it`)."""
    longest_first = sorted(said.VIEWS, key=len, reverse=True)
    rank = " ".join(
        f"when starts_with(scope, '{of}') then {list(said.VIEWS).index(of)}" for of in longest_first
    )
    hosts = " ".join(f"when called_host glob '{host}' then '{bills}'" for host, bills in said.HOSTS.items())
    named = "nullif(lower(provider_said), 'unknown')"
    prefix = "case when contains(prefixed_model, '/') then lower(split_part(prefixed_model, '/', 1)) end"
    return f"""
with recursive spans as (
  select * from read_parquet({Literal(str(spans))}, file_row_number = true)
), delivered as (
  -- Only what tells calls apart; the rest joins in at the end.
  select
    file_row_number, trace_id, span_id, parent_id, start_ns, end_ns, scope, service, call, response_id,
    {_SNAPSHOT_LESS} as known_model,
    case {rank} end as rank,
    coalesce(input_total, output_total) is not null as is_measured,
    count(*) over (partition by trace_id, span_id) as deliveries
  from spans
  where trace_id <> '' and span_id <> ''
  qualify row_number() over (
    partition by trace_id, span_id order by is_measured desc, end_ns desc nulls last, file_row_number
  ) = 1
), above as (
  -- All spans above each call.
  select trace_id, span_id, parent_id as above_id, 1 as height
  from delivered where call is not null and parent_id is not null
  union all
  select above.trace_id, above.span_id, delivered.parent_id, height + 1
  from above join delivered on delivered.trace_id = above.trace_id and delivered.span_id = above.above_id
  where delivered.parent_id is not null and height < {_HIGHEST}
), calls as (
  select * from delivered
  where call = 'sure'
    or (call = 'unless above' and not exists (
      from above where above.trace_id = delivered.trace_id and above.above_id = delivered.span_id))
), topmost as (
  -- Nested views of one call: known by the highest of them.
  select calls.trace_id, calls.span_id, coalesce(arg_max(other.span_id, height), calls.span_id) as top_id
  from calls
  left join above using (trace_id, span_id)
  left join calls as other on other.trace_id = calls.trace_id and other.span_id = above.above_id
    and other.known_model = calls.known_model
  group by calls.trace_id, calls.span_id
), nested as (
  select
    calls.*, top_id, top.parent_id as place, top.start_ns as top_start, top.end_ns as top_end,
    count(calls.response_id) over (partition by calls.trace_id, top_id) > 0 as is_answered
  from calls
  join topmost using (trace_id, span_id)
  join calls as top on top.trace_id = calls.trace_id and top.span_id = top_id
), ended as (
  select *, max(top_end) over (
    partition by trace_id, place, known_model order by top_start, top_id, span_id
    rows between unbounded preceding and 1 preceding) as ended_before
  from nested
), timed as (
  -- Views side by side: at one place, without a moment between them.
  select *, count(*) filter (ended_before is null or ended_before < top_start) over (
    partition by trace_id, place, known_model order by top_start, top_id, span_id) as moment
  from ended
), answered as (
  select
    *,
    max(end_ns) over answers as answered_before,
    lag(trace_id) over answers as answered_in
  from timed
  window answers as (
    partition by response_id order by start_ns, trace_id, span_id
    rows between unbounded preceding and 1 preceding)
), beside as (
  select
    *,
    trace_id || ':' || case
      when bool_and(is_answered) over (partition by trace_id, place, known_model, moment) then top_id
      else min(top_id) over (partition by trace_id, place, known_model, moment)
    end as group_0,
    coalesce(response_id || ' ' || count(*) filter (
      answered_before is null or (answered_before < start_ns and answered_in <> trace_id)
    ) over (partition by response_id order by start_ns, trace_id, span_id),
      'none of ' || trace_id || ':' || span_id) as answer
  from answered
), {_joined_by_answer("beside", 0)}, {_joined_by_answer("joined_2", 2)}, seen as (
  select
    *,
    count(*) over views as calls_seen,
    count(*) filter (is_measured) over views as calls_measured
  from joined_4
  window views as (partition by group_4, scope, service)
), ranked as (
  select *, dense_rank() over (
    partition by group_4
    order by calls_seen desc, calls_measured desc, rank, scope, service) = 1 as is_record
  from seen
), chosen as (
  select *, count(*) filter (is_record) over (partition by group_4) as records from ranked
), views as (
  -- Which of a group's further views is whose is known where the group is one call.
  select
    one.file_row_number as record, other.file_row_number as line, other.trace_id, other.span_id,
    other.file_row_number <> one.file_row_number as is_other
  from chosen as one join chosen as other using (group_4)
  where one.is_record and (one.records = 1 or one.file_row_number = other.file_row_number)
), lines as (
  select record, line, 0 as height, is_other from views
  union all
  select record, delivered.file_row_number, height, is_other
  from views
  join above using (trace_id, span_id)
  join delivered on delivered.trace_id = views.trace_id and delivered.span_id = above_id
), told as (
  select
    record,
    flatten(list(claims order by height, is_other, line))
      || flatten(list(resource_claims order by height, is_other, line)) as said_of_it
  from lines join spans on spans.file_row_number = line
  group by record
)
select
  spans.*,
  is_record,
  deliveries,
  said_of_it,
  coalesce(
    case {hosts} end,
    {lookup(said.PROVIDERS, named, named)},
    {lookup(said.PROVIDERS, prefix, prefix)}
  ) as served_by,
  case when try_cast(http as integer) between 100 and 599 then http::integer end as http_status,
  coalesce(cache_write_5m, 0) + coalesce(cache_write_1h, 0) as written_by_lifetime,
  audio_in - coalesce(audio_read, 0) as audio_fresh,
  image_in - coalesce(image_read, 0) as image_fresh,
  coalesce(image_out, case when operation = 'image' then output_total end) as images_out,
  input_total - coalesce(cache_read, 0) - greatest(coalesce(cache_write, 0), written_by_lifetime)
    - coalesce(audio_fresh, 0) - coalesce(image_fresh, 0) as input_rest,
  output_total - coalesce(audio_out, 0) - coalesce(images_out, 0) as output_rest
from chosen
join spans using (file_row_number)
left join told on told.record = chosen.file_row_number"""


def _joined_by_answer(rows: str, n: int) -> str:
    """Two steps of making groups of `rows` with an answer in common one: along answers, and along groups."""
    return f"""joined_{n + 1} as (
  select *, min(group_{n}) over (partition by answer) as group_{n + 1} from {rows}
), joined_{n + 2} as (
  select *, min(group_{n + 1}) over (partition by group_{n}) as group_{n + 2} from joined_{n + 1}
)"""


def _said(*names: str) -> str:
    """The text of the first of these attributes that there is."""
    return f"coalesce({', '.join(f'texts[list_position(keys, {Literal(name)})]' for name in names)})"


def _whole(text: str) -> str:
    """The whole number in a text, 1024 or 1024.0; else null."""
    return f"try_cast(regexp_extract({text}, '^(-?[0-9]+)([.]0*)?$', 1) as bigint)"


def _pairs(attributes: str, pattern: str) -> str:
    """Key and text of the attributes whose key is a `pattern`; of a list of labels its JSON."""
    kinds = ", ".join(f'a.value."{kind}Value"' for kind in ("string", "int", "double", "bool"))
    text = f"coalesce({kinds})"
    listed = """to_json(list_transform(a.value."arrayValue"."values", lambda v: v."stringValue"))"""
    labels = f"""coalesce({listed}, try_cast({text} as json), to_json({text}))::varchar"""
    return f"""list_transform(
          list_filter({attributes}, lambda a: regexp_full_match(a.key, {Literal(pattern)})),
          lambda a: {{'key': a.key,
            'value': case when a.key in ({texts(said.LABELS)}) then {labels} else {text} end}})"""


def _claims(pairs: str, pattern: str) -> str:
    """Those `pairs` that are tags, without prefixes. What looks like an address or a key is no label."""
    return f"""list_transform(
      list_filter({pairs}, lambda pair: regexp_full_match(pair.key, {Literal(pattern)})
        and pair.value <> 'None' and not regexp_matches(pair.value, '@|^sk-')),
      lambda pair: {{
        'key': regexp_replace(pair.key, {Literal(f"^{said.PREFIX}")}, ''), 'value': pair.value}})"""


def _tag_names(entry: Entry) -> str:
    """A regular expression of the names of all tags that are read, in every spelling, without prefixes."""
    known = {**_tags.ALIASES, **said.ALIASES, **said.IDENTITY, **entry.tag_aliases}
    spelled = ["[-._ ]?".join(_tags.canonical_key(key).split("_")) for key in known]
    listed = [re.escape(re.sub(f"^{said.PREFIX}", "", name)) for name in entry.tag_attributes]
    return f"(?i:(?:x[-_])?(?:{'|'.join(dict.fromkeys([*spelled, *listed]))}))"
