"""Google Cloud: the table of the billing export, for Vertex AI and the Gemini API, in BigQuery or as files.

The standard or the detailed table, or a view of it; as BigQuery writes it to Parquet or JSON, or flattened to
CSV. There `service.description` or `service_description` stands for what `service` holds elsewhere; `labels`
are JSON, `credits`, too, or their sum.

* A row is an hour of a project's use of a SKU. Its day is the UTC day of that use, not the month of its
  invoice. Late use and corrections are appended, so all rows of a day count, whenever they were exported.
* `cost` is without credits, which are charge lines of their own.
* The text of a SKU says model and meter. The unit beside it may be anything: what counts tokens has its
  amount in tokens, also where the unit says `requests`.
* No API key is in it. The labels of requests (Vertex AI only) and of projects are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import duckdb
from pydantic import AfterValidator, Field, field_validator, model_validator

from dagster_project.days import Days
from dagster_project.errors import SourceError
from dagster_project.records import Kind
from dagster_project.settings import Text
from dagster_project.sources import Parsed, _databases, _exports, _files, _line_items, _tags
from dagster_project.sources._line_items import COUNTS_TOKENS, Line
from dagster_project.sources._sql import exact, is_currency

if TYPE_CHECKING:
    from dagster_project.sources import _bigquery

KINDS: tuple[Kind, ...] = ("charge",)
TELLS = ("bill", "tags")
READS = (
    "Cloud Billing's table for Vertex AI and the Gemini API, in BigQuery (with the extra `bigquery`), or "
    "exported from there as files (local, `s3://`, `gs://`, `az://`; Parquet, JSON, CSV)"
)
RESTATES_DAYS = _exports.RESTATES_DAYS
KEEPS_RAW = False


class Entry(_exports.ExportEntry):
    """A billing account's export: exactly one of `table` and `path` says where it is."""

    provider: ClassVar[str] = "google"

    path: Annotated[Text, AfterValidator(_files.check)] | None = None
    """Files of the whole table, or by month of use: a day's rows are appended over days."""
    table: Annotated[Text, Field(pattern=r"^[A-Za-z0-9-]+\.[A-Za-z0-9_]+\.[A-Za-z0-9_-]+$")] | None = None
    """project.dataset.table in BigQuery, or a view of it. Credentials are those of the environment (ADC)."""
    job_project: Annotated[Text, Field(pattern=r"^[A-Za-z0-9-]+$")] | None = None
    """Who pays for the queries of the table, if that is not its own project."""

    services: Annotated[tuple[str, ...], Field(min_length=1)] = (
        *("Vertex AI*", "Gemini*", "Generative Language API"),
        *("*Claude*", "*Anthropic*", "*Llama*", "*Mistral*", "*DeepSeek*"),
    )
    """Globs of the services that are read, by description; models of partners are services, too. The tax of
    the whole invoice is of the service `Invoice`."""

    @model_validator(mode="after")
    def _one_place(self) -> Entry:
        if (self.path is None) == (self.table is None):
            raise ValueError("give either `path` or `table`")
        if self.job_project is not None and self.table is None:
            raise ValueError("`job_project` pays for the queries of a `table`")
        return self

    @field_validator("path")
    @classmethod
    def _by_month(cls, path: str | None) -> str | None:
        if path is not None and path.format(date=date(2026, 10, 1)) != path.format(date=date(2026, 10, 2)):
            raise ValueError("rows come days after their use: name its month ({date:%Y-%m}), not its day")
        return path


REQUIRED = ("billing_account_id", "usage_start_time", "cost", "cost_type", "currency", "credits")
"""A table without `credits` would bill too much; a row that says none has none."""

_NESTED: Mapping[str, tuple[str, ...]] = {
    "service": ("description",),
    "sku": ("description",),
    "project": ("id", "name", "labels"),
    "location": ("location", "region"),
    "usage": ("amount", "unit"),
}
COLUMNS = (
    *REQUIRED,
    *("cost_at_list", "labels", "tags"),
    *_NESTED,
    *(f"{name}{joint}{field}" for name, fields in _NESTED.items() for field in fields for joint in "._"),
)
"""All that is read. What `system_labels` and labels `goog-...` say is Google's, not the caller's."""

_CATEGORIES = (
    "map {'regular': 'usage', 'tax': 'tax', 'adjustment': 'adjustment', 'rounding_error': 'adjustment'}"
)
_CREDITS = """case
  when credits is null then null
  when json_type(case when json_valid(credits) then credits end) = 'ARRAY' then list_transform(
    from_json(
      credits, '[{"full_name": "VARCHAR", "name": "VARCHAR", "type": "VARCHAR", "amount": "VARCHAR"}]'),
    lambda credit: {'credit': coalesce(credit.full_name, credit.name, credit.type, 'credits'),
      'amount': credit.amount})
  else [{'credit': 'credits', 'amount': credits}] end"""


def fetch(entry: Entry, days: Days, raw: Path) -> None:
    """Of files only the list; of a table the rows of `days`, those of other services without what they say.

    Raises SourceError when there is no file, or the table cannot be read.
    """
    if entry.table is None:
        _exports.fetch(entry, days, raw)
        return
    try:
        from dagster_project.sources import _bigquery  # noqa: PLC0415 - an extra, which takes a second to load
    except ModuleNotFoundError as error:
        raise SourceError(
            entry.name,
            f"the package of {error.name} is not installed",
            where=f"table {entry.table}",
            remedy="Install what the extra `bigquery` is: pip install google-cloud-bigquery.",
        ) from None
    rows = raw / f"{entry.table}.ndjson.gz"  # an error in a row names the file
    with _bigquery.table(entry.name, entry.table, entry.job_project) as table:
        table.require_since(days.start)
        service = "service" if "service" in table.columns else "service_description"
        _databases.require(entry.name, table, (*REQUIRED, service))
        query = _rows_query(table, service)
        parameters = (
            ("first", "TIMESTAMP", days.start),
            ("until", "TIMESTAMP", days.end),
            # A day of ingestion may begin in another zone, and a partition too few would lose rows.
            ("exported", "TIMESTAMP", days.widened(1).start),
            ("services", "STRING", _line_items.expression_of_any(entry.services)),
        )
        table.write_lines(query, [said for said in parameters if f"@{said[0]}" in query], rows)
    _files.write_manifest({str(rows): rows.stat().st_size}, raw)


def _rows_query(table: _bigquery.Table, service: str) -> str:
    """GoogleSQL: rows as JSON, in which NUMERIC is text, and FLOAT64 the shortest number that means it.

    Most rows of a company are of other services: of those, and of what names none, only the service is read
    and how often. Nothing is exported before it is used; the streaming buffer is in no partition yet.
    """
    said = "service.description" if service == "service" else service
    read = ", ".join(f"{name} as {name}" for name in COLUMNS if name in table.columns)
    exported = ""
    if (at := table.partition) in ("_PARTITIONTIME", "export_time"):
        exported = f"and ({at} is null or {at} >= @exported)"
    return f"""
select line, count(*) as times
from (
  select
    if(
      regexp_contains(lower({said}), @services),
      to_json_string(struct({read})),
      to_json_string(struct({service} as {service}))
    ) as line
  from {table.name}
  where (usage_start_time is null or usage_start_time >= @first and usage_start_time < @until)
    {exported}
)
group by line"""


def parse(entry: Entry, days: Days, raw: Path, connection: duckdb.DuckDBPyConnection) -> Parsed:
    """Raises SourceError naming file and column of what is no row of the export."""
    rows = _exports.stage(entry, raw, connection, COLUMNS, REQUIRED, _projection(entry))
    ours = _line_items.named(raw, rows.filter("not is_other"), "sku", line_item)
    lines = ours.project(f"""* replace (
  case when charge_category = 'usage' then meter end as meter,
  case when quantity is null then null when {COUNTS_TOKENS} then 'tokens' else quantity_unit end
    as quantity_unit)""")
    charges = _exports.charges(entry, lines)
    gone = _exports.days_without_files(entry, days, raw) if entry.path else ()
    counts = {
        **_line_items.counts(rows, charges),
        "labels_not_understood": ours.filter("has_labels_not_understood").shape[0],
    }
    return Parsed({"charge": charges}, counts, gone)


def _projection(entry: Entry) -> str:
    is_ours = _line_items.any_of(["service_said"], entry.services)
    # Most rows of a company are of other services, and reading all of them would take most of the time.
    only_ours = ", ".join(f'case when not is_other then "{name}" end as "{name}"' for name in COLUMNS)
    ours = f"""
select file, service_said, is_other, {only_ours}
from (
  select
    *,
    {_said("service", "description")} as service_said,
    service_said is not null and not {is_ours} as is_other
  from logged
)"""
    amounts = f"""
select
  * replace (upper(currency) as currency),
  {_said("sku", "description")} as sku_said,
  {_exports.usage_date("usage_start_time", "null::varchar")} as usage_date,
  {_pairs("labels")} as request_labels,
  {_pairs("tags")} as resource_tags,
  {_pairs(_said("project", "labels"))} as labels_of_project,
  labels is not null and request_labels is null or tags is not null and resource_tags is null
    as has_labels_not_understood,
  unnest(list_concat([{{'credit': null::varchar, 'amount': cost}}], {_CREDITS}), recursive := true)
from ({ours})"""
    lines = f"""
select
  * exclude (tags),
  {exact("amount")} as billed_cost,
  case
    when credit is not null then 'credit'
    when cost_type = 'regular' and sku_said ilike '%provisioned throughput%' then 'purchase'
    else {_CATEGORIES}[cost_type]
  end as charge_category,
  charge_category in ('usage', 'purchase') as is_measured
from ({amounts})
where credit is null or billed_cost is distinct from 0"""
    tags = ("request_labels", "resource_tags", "labels_of_project")
    return f"""
select
  file,
  is_other,
  has_labels_not_understood,
  sku_said as sku,
  usage_date,
  '{entry.provider}' as provider,
  billing_account_id as account_id,
  {_said("project", "id")} as provider_project_id,
  {_said("project", "name")} as provider_project_name,
  tags,
  coalesce({_said("location", "region")}, {_said("location", "location")}) as region,
  charge_category,
  coalesce(credit, sku_said) as line_item,
  {_said("usage", "amount")} as usage_amount_said,
  case when is_measured then {exact("usage_amount_said")} end as quantity,
  {_said("usage", "unit")} as quantity_unit,
  billed_cost,
  case when credit is null then {exact("cost_at_list")} end as list_cost,
  currency,
  case
    when is_other then null
    when service_said is null then 'service.description'
    when sku_said is null then 'sku.description'
    when billing_account_id is null then 'billing_account_id'
    when usage_date is null then 'usage_start_time'
    when usage_amount_said is not null and {exact("usage_amount_said")} is null then 'usage.amount'
    when cost_at_list is not null and {exact("cost_at_list")} is null then 'cost_at_list'
    when billed_cost is null and credit is not null then 'credits'
    when billed_cost is null then 'cost'
    when not {is_currency("currency")} then 'currency'
    when charge_category is null then 'cost_type'
  end as broken
from ({_tags.tagged(lines, tags, {})})"""


def _said(record: str, field: str) -> str:
    """What a nested `record` says, or a flattened column of that name."""
    return (
        f"coalesce(case when json_valid({record}) then {record} ->> '$.{field}' end, "
        f'"{record}.{field}", {record}_{field})'
    )


def _pairs(labels: str) -> str:
    """Pairs of a list of labels, without those that Google sets."""
    pairs = f"""from_json({labels}, '[{{"key": "VARCHAR", "value": "VARCHAR"}}]')"""
    return f"""case when json_type(case when json_valid({labels}) then {labels} end) = 'ARRAY'
    then list_filter({pairs}, lambda pair: not starts_with(lower(pair.key), 'goog-')) end"""


_FAMILIES = {"gemini", "gemma", "claude", "llama", "mistral", "codestral", "deepseek", "imagen"}
_OF_A_MODEL = re.compile(
    r"v?\d[\w.]*(?<!\d[hkm])|pro|flash|lite|ultra|nano|fast|live|tts|preview|exp|embedding"
    r"|sonnet|opus|haiku|fable|mythos|maverick|scout|instruct|large|medium|small"
)
_TIERS = {"batch", "flex", "priority"}
_BANDS = {"short", "long"}
_MODALITIES = {"text", "image", "audio", "video"}
_EQUAL = {
    **dict.fromkeys(("cache", "caching", "cached"), "cached"),
    **dict.fromkeys(("read", "reads", "hit", "hits"), "read"),
    **dict.fromkeys(("write", "writes", "creation"), "write"),
    **dict.fromkeys(("query", "queries", "grounding"), "query"),
}
_OF_NO_MEANING = {
    *("generate", "content", "generatecontent", "embedcontent", "bidi", "predictions", "prediction"),
    *("token", "tokens", "count", "for", "ga", "global", "regional", "anthropic", "meta"),
}
_METERS: Mapping[frozenset[str], str] = {
    frozenset({"input"}): "input",
    frozenset({"output"}): "output",
    frozenset({"input", "output"}): "output",  # of requests whose input is of that band
    frozenset({"thinking", "output"}): "output",
    frozenset({"thinking", "input", "output"}): "output",
    frozenset({"non", "thinking", "output"}): "output",
    frozenset({"cached"}): "cache_read",
    frozenset({"cached", "input"}): "cache_read",
    frozenset({"cached", "read"}): "cache_read",
    frozenset({"cached", "read", "input"}): "cache_read",
    frozenset({"cached", "write"}): "cache_write_other",
    frozenset({"cached", "write", "input"}): "cache_write_other",
    frozenset({"cached", "write", "5m"}): "cache_write_5m",
    frozenset({"cached", "write", "1h"}): "cache_write_1h",
}


def line_item(text: str) -> Line:
    """What the text of a SKU says, whatever the order of its words. Observed are

    Generate content cached input token count gemini 2.5 flash input audio
    Generate_content text output token count for gemini 3 flash batch
    Generate content output token count gemini 2.5 flash short input text     output, of short input
    Generate content input token count gemini 3.7 flash image flex caching
    Gemini 2.5 Flash GA Thinking Text Output - Predictions
    Gemini 3.1 Flash Image Image Output - Batch Predictions                   a model called image
    Gemini 3 Flash Text Input Caching [Storage]
    Generate content search query gemini 3 paid one, Grounding with Google Search

    A SKU without a tier is of the standard one; but reading a cache had one SKU for all tiers at first.
    """
    words = [_EQUAL.get(word, word) for word in re.findall(r"[a-z0-9]+(?:\.\d+)*", text.lower())]
    if {"search", "query"} <= set(words):
        return Line(meter="web_search")
    model, others = _model(words)
    said = set(others)
    modalities, tiers, bands = _MODALITIES & said, _TIERS & said, _BANDS & said
    left = frozenset(said - modalities - tiers - bands - _OF_NO_MEANING)
    if model is None or max(map(len, (modalities, tiers, bands))) > 1:
        return Line(model=model)
    tier, band = next(iter(tiers), None), next(iter(bands), None)
    if left >= {"cached", "storage"} and left <= {"cached", "storage", "input", "hour", "hours"}:
        return Line(model, "cache_storage_token_hours", tier, band)
    if model.startswith("imagen") and left == {"generation"}:
        return Line(model, "images", tier or "standard")
    meter = _METERS.get(left)
    if meter is None:
        return Line(model, None, tier, band)
    if meter in ("input", "output") and modalities - {"text"}:
        meter = f"{meter}_{next(iter(modalities))}"
    return Line(model, meter, tier or (None if meter == "cache_read" else "standard"), band)


def _model(words: list[str]) -> tuple[str | None, list[str]]:
    """The model that `words` name as its API calls it, and the other words.

    `image` after it is of its name, unless it is the only word that says what kind of tokens these are.
    """
    start = next((at for at, word in enumerate(words) if word in _FAMILIES), None)
    if start is None:
        return None, words
    end = start + 1
    is_told = sum(word in _MODALITIES for word in words) > 1
    while end < len(words) and (
        _OF_A_MODEL.fullmatch(words[end])
        or (words[end] == "image" and is_told and "image" not in words[start:end])
    ):
        end += 1
    if end == start + 1:
        return None, words
    model = "-".join(words[start:end])
    return model.replace(".", "-") if model.startswith("claude") else model, words[:start] + words[end:]
