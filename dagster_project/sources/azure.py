"""Azure OpenAI and Foundry: Cost Management's exports of actual or amortized costs, as files.

* A row is a day's use of one meter by one resource. Agreements name columns differently (`Cost` and
  `costInBillingCurrency`, `ResourceId` and `InstanceId`); of each the first that a row says counts.
* `UnitOfMeasure` says of how many tokens a quantity counts (`1K`, `1M`): here all are tokens.
* Keys and deployments are not in it. A key belongs to a resource (an account of Azure AI), so the resource is
  what other providers call a project. Its id holds subscription and resource group, for globs of the map; a
  row without a resource has the narrowest of them that it names. Ids are compared in lower case.
* Actual costs hold what a reservation costs when it is bought, amortized ones spread it over its term. Both
  are all of the bill, so an entry reads one of them.
* Until the invoice, and some days after a month, a day's rows change: each delivery is the whole month.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import duckdb
from pydantic import Field

from dagster_project.days import Days
from dagster_project.errors import SourceError
from dagster_project.records import Kind
from dagster_project.sources import Parsed, _azure_runs, _exports, _line_items, _tags
from dagster_project.sources._line_items import COUNTS_TOKENS, Line
from dagster_project.sources._sql import exact, is_currency

KINDS: tuple[Kind, ...] = ("charge",)
TELLS = ("bill", "tags")
READS = (
    "Cost Management's exports of actual or amortized costs, whole runs by their manifests, or files "
    "(local, `az://`; CSV, gz, Parquet)"
)
RESTATES_DAYS = _exports.RESTATES_DAYS
KEEPS_RAW = False


class Entry(_exports.ExportEntry):
    """An export of a billing account or subscription. Let `path` name its manifests
    (`az://exports/acme/actual/**/manifest.json`): of each period the newest run is read, and all of it."""

    provider: ClassVar[str] = "azure"

    dataset: Literal["ActualCost", "AmortizedCost"] = "ActualCost"
    services: Annotated[tuple[str, ...], Field(min_length=1)] = (
        *("Foundry*", "Azure OpenAI*", "Azure AI*", "Cognitive Services"),
        *("Anthropic*", "Claude*"),
    )
    """Globs of the meter categories that are read, and of publishers and products of the marketplace."""


_NAMES: Mapping[str, tuple[str, ...]] = {
    "day_said": ("Date", "UsageDate", "UsageDateTime"),
    "cost_said": ("CostInBillingCurrency", "Cost", "PreTaxCost"),
    "currency_said": ("BillingCurrency", "BillingCurrencyCode", "Currency"),
    "quantity_said": ("Quantity", "UsageQuantity"),
    "resource": ("ResourceId", "InstanceId", "InstanceName"),
    "resource_group": ("ResourceGroup", "ResourceGroupName"),
    "subscription": ("SubscriptionId", "SubscriptionGuid"),
    "product_name": ("Product", "ProductName"),
    "location": ("ResourceLocation", "MeterRegion"),
}
"""What the agreements (EA, MCA, CSP, pay as you go) call a thing; the case of names does not matter."""

REQUIRED = ("MeterCategory", "MeterSubCategory", "MeterName", "UnitOfMeasure", "ChargeType", "Tags")
COLUMNS = (
    *REQUIRED,
    *(name for names in _NAMES.values() for name in names),
    *("BillingAccountId", "SubscriptionName", "ResourceName", "PublisherName", "PublisherType"),
    *("ReservationId", "PaygCostInBillingCurrency"),
)

_CATEGORIES: Mapping[str, str] = {
    "usage": "usage",
    "purchase": "purchase",
    "unusedreservation": "purchase",
    "unusedsavingsplan": "purchase",
    "refund": "credit",
    "credit": "credit",
    "tax": "tax",
    "adjustment": "adjustment",
    "roundingadjustment": "adjustment",
}
"""By `ChargeType`, in lower case."""


def fetch(entry: Entry, days: Days, raw: Path) -> None:
    """The list of files, which stay where they are: of manifests those of the newest runs.

    Raises SourceError when there is none, and where it is not clear which delivery of a period counts.
    """
    if _azure_runs.are_named(entry):
        _azure_runs.fetch(entry, entry.dataset, days, raw)
    else:
        _exports.fetch(entry, days, raw)
        _azure_runs.refuse_several_runs(entry, raw)


def parse(entry: Entry, days: Days, raw: Path, connection: duckdb.DuckDBPyConnection) -> Parsed:
    """Raises SourceError naming file and column of what is no row of the export, for a file that has not all
    rows, and for costs that are not those of the entry's `dataset`."""
    rows = _exports.stage(entry, raw, connection, COLUMNS, REQUIRED, _projection(entry))
    if _azure_runs.are_named(entry):
        counted = rows.aggregate("file, count(*)", "file").fetchall()
        _azure_runs.require_all_rows(entry, dict(counted), raw)
    _refuse_other_dataset(entry, rows)
    ours = _line_items.named(raw, rows.filter("not is_other"), "meter_said", line_item)
    lines = ours.project(f"""* replace (
  case when charge_category = 'usage' then meter end as meter,
  case when {COUNTS_TOKENS} then {exact("quantity", "unit_size")} else quantity end as quantity,
  case when {COUNTS_TOKENS} and quantity is not null and unit_size is not null then 'tokens'
    else quantity_unit end as quantity_unit)""")
    charges = _exports.charges(entry, lines)
    other_units = lines.filter(f"{COUNTS_TOKENS} and quantity is null")
    counts = {
        **_line_items.counts(rows, charges),
        "tokens_in_unknown_units": other_units.shape[0],
        "tags_not_understood": ours.filter("not are_tags_understood").shape[0],
    }
    if _azure_runs.are_named(entry):
        gone = _exports.days_outside_periods(days, raw)
    else:
        gone = _exports.days_without_files(entry, days, raw)
    return Parsed({"charge": charges}, counts, gone)


def _refuse_other_dataset(entry: Entry, rows: duckdb.DuckDBPyRelation) -> None:
    """Only amortized costs tell what of a commitment was not used; only actual ones when it was bought."""
    others = {
        "ActualCost": "charge_type like 'unused%'",
        "AmortizedCost": "charge_type = 'purchase' and is_reservation",
    }
    if found := rows.filter(others[entry.dataset]).aggregate("min(file)").fetchall()[0][0]:
        raise SourceError(
            entry.name,
            f"these are not (only) rows of {entry.dataset}",
            where=found,
            remedy="Actual and amortized costs are one bill twice: name files of one, and say which "
            "(`dataset`).",
        )


def _projection(entry: Entry) -> str:
    first_said = ",\n  ".join(f"coalesce({', '.join(names)}) as {column}" for column, names in _NAMES.items())
    known = f"""
select
  *,
  {first_said},
  lower(ChargeType) as charge_type,
  coalesce(nullif(concat_ws(' | ', MeterSubCategory, MeterName), ''), product_name) as meter_said,
  coalesce(PublisherType = 'Marketplace', false) as is_partners,
  not ({_line_items.any_of(["MeterCategory"], entry.services)} or is_partners and
    {_line_items.any_of(["PublisherName", "product_name"], entry.services)}) as is_other,
  coalesce(try_strptime(day_said, '%m/%d/%Y'), try_cast(day_said as timestamp))::date as usage_date,
  upper(currency_said) as currency_code,
  {exact("cost_said")} as billed_cost,
  regexp_extract(
    lower(UnitOfMeasure), '^(\\d{{1,9}}) ?([km]?)(?: tokens?)?$', ['number', 'thousands']
  ) as unit,
  try_cast(unit['number'] as bigint) * map {{'': 1, 'k': 1000, 'm': 1000000}}[unit['thousands']] as unit_size,
  '/subscriptions/' || lower(subscription) as in_subscription,
  in_subscription || '/resourcegroups/' || lower(resource_group) as in_group,
  case
    when is_other or tags is null then null
    when json_valid(tags) then tags
    when json_valid('{{' || tags || '}}') then '{{' || tags || '}}'
  end as tags_said
from logged"""
    understood = "tags is null or tags_said is not null as are_tags_understood"
    known = f"select * exclude (tags), {understood} from ({known})"
    categories = ", ".join(f"'{said}': '{meant}'" for said, meant in _CATEGORIES.items())
    return f"""
select
  file,
  is_other,
  meter_said,
  charge_type,
  ReservationId is not null as is_reservation,
  unit_size,
  are_tags_understood,
  usage_date,
  '{entry.provider}' as provider,
  BillingAccountId as account_id,
  coalesce(lower(resource), in_group, in_subscription) as provider_project_id,
  case
    when resource is not null then coalesce(ResourceName, regexp_extract(resource, '[^/]+$'))
    else coalesce(resource_group, SubscriptionName)
  end as provider_project_name,
  tags,
  lower(location) as region,
  map {{{categories}}}[charge_type] as charge_category,
  meter_said as line_item,
  charge_category in ('usage', 'purchase') as is_measured,
  case when is_measured then {exact("quantity_said")} end as quantity,
  case when is_measured then UnitOfMeasure end as quantity_unit,
  billed_cost,
  {exact("PaygCostInBillingCurrency")} as list_cost,
  currency_code as currency,
  case
    when is_other then null
    when usage_date is null then 'Date'
    when billed_cost is null then 'Cost'
    when not {is_currency("currency_code")} then 'BillingCurrency'
    when charge_category is null then 'ChargeType'
    when quantity_said is not null and {exact("quantity_said")} is null then 'Quantity'
    when PaygCostInBillingCurrency is not null and list_cost is null then 'PaygCostInBillingCurrency'
    when meter_said is null then 'MeterName'
  end as broken
from ({_tags.tagged(known, [_tags.members("tags_said")], {})})"""


_WORDS: Mapping[str, str] = {
    **dict.fromkeys(("in", "inp", "inpt", "input"), "input"),
    **dict.fromkeys(("out", "outp", "outpt", "opt", "output"), "output"),
    **dict.fromkeys(("cd", "cach", "cache", "cached", "cchd", "cched", "ccchd"), "cached"),
    **dict.fromkeys(("wr", "write", "writes"), "write"),
    **dict.fromkeys(("rd", "read", "reads", "hit", "hits"), "read"),
    **dict.fromkeys(("fl", "flex"), "flex"),
    **dict.fromkeys(("pp", "priority"), "priority"),
    **dict.fromkeys(("shco", "shortco"), "short"),
    **dict.fromkeys(("loco", "longco"), "long"),
    **dict.fromkeys(("aud", "audio"), "audio"),
    **dict.fromkeys(("img", "image"), "image"),
    **dict.fromkeys(("txt", "text"), "text"),
    **dict.fromkeys(("glbl", "gl", "glb", "global"), ""),
    **dict.fromkeys(("dz", "dzn", "dzone", "datazone", "regnl", "regional"), ""),
    **dict.fromkeys(("std", "standard", "token", "tokens", "1k", "1m"), ""),
    "batch": "batch",
    "mn": "mini",
}
"""What the abbreviations in names of meters mean; `opt` is output, `pp` is priority processing. What scope a
deployment has is not part of its model's name."""

_KINDS: Mapping[frozenset[str], str] = {
    frozenset({"input"}): "input",
    frozenset({"output"}): "output",
    frozenset({"cached"}): "cache_read",
    frozenset({"cached", "input"}): "cache_read",
    frozenset({"cached", "read"}): "cache_read",
    frozenset({"cached", "read", "input"}): "cache_read",
    frozenset({"cached", "write"}): "cache_write_other",
    frozenset({"cached", "write", "input"}): "cache_write_other",
}
_OF_A_KIND = {"input", "output", "cached", "write", "read"}
_TIERS = {"batch", "flex", "priority"}
_BANDS = {"short", "long"}
_MODALITIES = {"audio", "image", "text"}
_NO_USE_OF_A_MODEL = {"trng", "training", "hstng", "hosting", "grader", "grdr", "unit", "units", "images"}

_SNAPSHOTS = {
    re.sub(r"-\d{4}-(\d\d)-(\d\d)$", r"-\1\2", name): name
    for name in (
        *("gpt-4o-2024-05-13", "gpt-4o-2024-08-06", "gpt-4o-2024-11-20", "gpt-4o-mini-2024-07-18"),
        *("o1-2024-12-17", "o3-mini-2025-01-31", "o3-2025-04-16", "o4-mini-2025-04-16"),
        *("gpt-4.1-2025-04-14", "gpt-4.1-mini-2025-04-14", "gpt-4.1-nano-2025-04-14"),
        *("gpt-5-2025-08-07", "gpt-5-mini-2025-08-07", "gpt-5-nano-2025-08-07"),
    )
}
"""Snapshots as OpenAI calls them, by what meters call them: month and day, without the year."""

_HAS_ITS_FAMILY = re.compile(r"(gpt|o\d|codex|computer|chat|text|llama|phi|grok|[a-z]*stral|claude|mai)\b.*")


def line_item(text: str) -> Line:
    """What a meter's subcategory and name say. Observed are

    Azure OpenAI | gpt 4o 1120 cached Inp glbl Tokens
    Azure OpenAI | gpt-4o-mini-0718-Outp-regnl Tokens
    Azure OpenAI GPT5 | 5.6 sol ShortCo Cd Wr Std Gl 1M Tokens        gpt-5.6-sol, a write to its cache
    Azure OpenAI GPT5 | 54 inp Flex Gl 1M Tokens                      gpt-5.4
    Azure Deepseek Models | V4 Pro cached DZ Tokens                   deepseek-v4-pro
    Azure OpenAI | Provisioned Managed Global Unit                    capacity by the hour, no tokens

    A meter that names no tier is of the standard one: the others have meters of their own.
    """
    family, _, name = text.rpartition(" | ")
    if "provisioned" in name.lower():
        return Line(meter="provisioned_unit_hours")
    words = _words(name)
    said = set(words)
    if said & _NO_USE_OF_A_MODEL:
        return Line()
    if "embedding" in said or "embeddings" in said:
        model = _model(family, [word for word in words if word not in _TIERS])
        return Line(model, "input", _one(said & _TIERS) or "standard")
    kind = _KINDS.get(frozenset(said & _OF_A_KIND))
    modalities, tiers, bands = said & _MODALITIES, said & _TIERS, said & _BANDS
    if kind is None or max(map(len, (modalities, tiers, bands))) > 1:
        return Line()
    others = [word for word in words if word not in _OF_A_KIND | _MODALITIES | _TIERS | _BANDS]
    if kind in ("input", "output") and modalities - {"text"}:
        kind = f"{kind}_{_one(modalities)}"
    return Line(_model(family, others), kind, _one(tiers) or "standard", _one(bands))


def _one(words: set[str]) -> str | None:
    return next(iter(words), None)


def _words(name: str) -> list[str]:
    """The words of a meter's name, abbreviations and words that are glued together (`BatchOutp`, `aud1217`)
    written out, and without those that mean nothing here."""
    text = re.sub(r"\bdata zone\b", "datazone", name.lower())
    text = re.sub(r"\b(batch|aud|txt)(?=inp|out|opt|\d{4}\b)", r"\1 ", text)
    text = re.sub(r"^(gpt[ -])?image[ -](?=\d)", r"\1image_", text)  # a model, not what its tokens are
    words = (_WORDS.get(word, word) for word in re.split(r"[\s/-]+", text))
    return [word for word in words if word]


def _model(family: str, words: list[str]) -> str | None:
    """The model that `words` name as its maker does; its family may stand in the subcategory only."""
    maker = re.sub(r"^azure | models$", "", family.lower())
    if not words:
        words = re.split(r"[\s_-]+", maker)
    if maker.startswith("openai") and words[0][0].isdigit():
        words = ["gpt", re.sub(r"^([45])(\d)$", r"\1.\2", words[0]), *words[1:]]
    model = re.sub(r"^gpt-?(?=\d)", "gpt-", "-".join(words)).replace("_", "-")
    if maker and not maker.startswith("openai") and not _HAS_ITS_FAMILY.match(model):
        model = f"{maker}-{model}".replace(" ", "-")
    model = model.replace(".", "-") if model.startswith("claude") else model
    return _SNAPSHOTS.get(model, model) or None
