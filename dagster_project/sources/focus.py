"""Bills in FOCUS, the FinOps Open Cost and Usage Specification, 1.0 to 1.4 with what 1.5 drafts.

*   Rows of the service category "AI and Machine Learning" are read, or those whose service an entry's
    `services` name. A tax may be in a category of its own: name its service. Rows of all else are counted
    and left out.
*   Billed is `BilledCost`, the basis of the invoice. Prepaid credits so cost on the day of their purchase,
    and the usage that draws them down is billed 0; `EffectiveCost` would spread them. List is the `ListCost`
    of usage.
*   What a row says of tokens is in `SkuPriceDetails` (keys of the draft, with or without `x_`), else in AWS's
    `x_UsageType`, else in `SkuMeter` or `ChargeDescription`, as far as their words are plain.
*   Quantities are the consumed ones, else the priced ones. "Tokens", "1K Tokens" and "1000000 Tokens" become
    tokens; another unit stays as it is.
*   A charge is of a UTC day. A row that spans more, a month's fee say, is of the day that it starts. A
    correction of an earlier month is of the first day of the month whose bill it is on, since the earlier
    one is final.

A bill is read once: what another source pulls (`aws`, say) must not be in the rows that are read here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
from duckdb import ConstantExpression as Literal
from pydantic import Field

from dagster_project.days import Days
from dagster_project.sources import (
    Parsed,
    _aws_deliveries,
    _azure_runs,
    _bedrock,
    _exports,
    _line_items,
    _tags,
)
from dagster_project.sources._sql import exact, is_currency

KINDS = ("charge",)
TELLS = ("bill", "api key", "tags")
READS = (
    f"any provider's bill in FOCUS 1.0 to 1.4 {_exports.FILES}; of AWS and Azure whole deliveries by their "
    "manifests"
)
KEEPS_RAW = False
RESTATES_DAYS = _exports.RESTATES_DAYS

AI = "AI and Machine Learning"


class Entry(_exports.ExportEntry):
    """Files of one or more providers. Of an export of AWS or Azure let `path` name its manifests, as in `aws`
    and `azure`."""

    billed_by: str | None = Field(default=None, alias="provider")
    """The provider of all rows; unset, that of each row's `ServiceProviderName` or `ProviderName`."""
    services: tuple[str, ...] = ()
    """Globs of `ServiceName`; unset, all services of the category "AI and Machine Learning"."""


REQUIRED = (
    "BilledCost",
    "BillingAccountId",
    "BillingCurrency",
    "ChargeCategory",
    "ChargePeriodStart",
    "ServiceCategory",
    "ServiceName",
)

COLUMNS = (
    *REQUIRED,
    "BillingPeriodStart",
    "ChargeClass",
    "ChargeDescription",
    "ConsumedQuantity",
    "ConsumedUnit",
    "CredentialId",
    "InvoiceIssuerName",
    "ListCost",
    "PricingQuantity",
    "PricingUnit",
    "PrincipalId",
    "ProviderName",
    "RegionId",
    "ResourceId",
    "ServiceProviderName",
    "SkuMeter",
    "SkuPriceDetails",
    "SubAccountId",
    "SubAccountName",
    "Tags",
    "x_CredentialId",
    "x_PrincipalId",
    "x_UsageType",
)
"""All that is read. Those of the draft may begin with `x_`."""

CATEGORIES = ("Usage", "Purchase", "Tax", "Credit", "Adjustment")

_PROVIDERS: Mapping[str, str] = {
    "alibaba_cloud": "alibaba",
    "amazon": "aws",
    "amazon_web_services": "aws",
    "amazon_web_services_inc": "aws",
    "anthropic_pbc": "anthropic",
    "google_cloud": "google",
    "google_cloud_platform": "google",
    "google_llc": "google",
    "microsoft": "azure",
    "microsoft_azure": "azure",
    "microsoft_corporation": "azure",
    "mistral_ai": "mistral",
    "openai_llc": "openai",
    "together": "together_ai",
}
"""Names of providers, in lower_snake_case, and their ids; one that is not here is its own."""

_METERS: Mapping[tuple[str | None, str | None], str] = {
    ("Input", None): "input",
    ("Input", "Uncached"): "input",
    ("Input", "Read"): "cache_read",
    ("Input", "Write"): "cache_write_other",
    ("Output", None): "output",
}
"""By `TokenDirection` and `TokenCacheAction`. The lifetime of a cache write is in neither."""

_TIERS = {"batch", "flex", "priority"}


def fetch(entry: Entry, days: Days, raw: Path) -> None:
    """The list of files. Raises SourceError when there is none, when deliveries cannot be told apart, or when
    one is not whole."""
    if _azure_runs.are_named(entry):
        _azure_runs.fetch(entry, "FocusCost", days, raw)
    else:
        _aws_deliveries.fetch(entry, days, raw)


def parse(entry: Entry, days: Days, raw: Path, connection: duckdb.DuckDBPyConnection) -> Parsed:
    """Raises SourceError naming file and column of what is no row of FOCUS, and for a file that has not all
    rows."""
    seen = _exports.looked_through(entry, raw, connection, _SERVICES, _ours(entry))
    if _azure_runs.are_named(entry):
        _azure_runs.require_all_rows(entry, {file: found.all for file, found in seen.items()}, raw)
    rows = _exports.stage(entry, raw, connection, COLUMNS, REQUIRED, _projection(entry))
    told = _line_items.told(
        rows,
        raw,
        ("provider_name", "details", "text", "usage_type", "service", "unit"),
        _told,
        dict.fromkeys(("provider", "model", "meter", "service_tier", "context_tier"), pl.String)
        | {"is_capacity": pl.Boolean, "tokens_each": pl.Int64},
    )
    lines = told.project(
        "* replace (if(is_capacity and charge_category = 'usage', 'purchase', charge_category) "
        "as charge_category), "
        f"{exact('amount', 'coalesce(tokens_each, 1)')} as quantity, "
        "case when amount is not null then if(tokens_each is null, unit, 'tokens') end as quantity_unit"
    )
    unparsed = {"unparsed_usage_rows": "charge_category = 'usage' and meter is null"}
    return Parsed(
        {"charge": _exports.charges(entry, lines)},
        _exports.others(seen) | _exports.counted(lines, unparsed),
        _exports.days_outside_periods(days, raw),
    )


def _told(
    provider_name: str,
    details: str | None,
    text: str | None,
    usage_type: str | None,
    service: str,
    unit: str | None,
) -> Mapping[str, Any]:
    try:
        properties = json.loads(details or "{}")
    except RecursionError:  # an object within an object, thousands deep, names no model
        properties = {}

    def said(key: str) -> str | None:
        value = properties.get(key, properties.get(f"x_{key}"))
        return None if value is None else str(value)

    direction, action = said("TokenDirection"), said("TokenCacheAction")
    bedrock = _bedrock.line(usage_type, service)
    tokens_each = _exports.tokens_each(unit)
    words = set(re.findall(r"[a-z]+|\d+[hm]\b", (text or "").lower()))
    tiers = words & _TIERS
    # A name in another script has none of these letters, and is its own.
    name = re.sub("[^a-z0-9]+", "_", provider_name.lower()).strip("_") or provider_name.strip().lower()
    return {
        "provider": _PROVIDERS.get(name, name),
        "model": said("ModelId") or bedrock.model,
        "meter": _METERS.get((direction, action))
        if direction
        else bedrock.meter or (_meter(words) if tokens_each else None),
        "service_tier": said("ServiceTier")
        or bedrock.service_tier
        or (tiers.pop() if len(tiers) == 1 else None),
        "context_tier": bedrock.context_tier,
        "is_capacity": bedrock.is_capacity,
        "tokens_each": tokens_each,
    }


def _meter(words: set[str]) -> str | None:
    """The meter of a line of tokens, by the words of its text."""
    if words & {"cache", "cached", "caching"}:
        if words & {"write", "writes", "creation"}:
            lifetimes = words & {"5m", "1h"}
            return f"cache_write_{lifetimes.pop() if len(lifetimes) == 1 else 'other'}"
        return "cache_read" if words & {"read", "reads", "cached", "hit", "hits"} else None
    directions, modalities = words & {"input", "output"}, words & {"audio", "image", "video"}
    if len(directions) != 1 or modalities - {"audio", "image"} or len(modalities) > 1:
        return None
    return "_".join((*directions, *modalities))


_SERVICES = ("ServiceCategory", "ServiceName")


def _ours(entry: Entry) -> str:
    """Which rows are read, by the columns _SERVICES; a row that does not say them is read, and refused."""
    globs = [f"ServiceName glob {Literal(glob)}" for glob in entry.services]
    return f"coalesce({' or '.join(globs or [f'ServiceCategory = {Literal(AI)}'])}, true)"


def _projection(entry: Entry) -> str:
    plain = ", ".join(name for name in COLUMNS if name != "Tags")
    rows = f"""
select file, {plain}, case when json_valid(Tags) then Tags::json end as tags_json,
  not json_valid(Tags) as is_tagged_badly
from logged
where {_ours(entry)}"""
    categories = ", ".join(f"'{category}'" for category in CATEGORIES)
    billed_by = "null" if entry.billed_by is None else str(Literal(entry.billed_by))
    quantities = {name: f"{name} is not null and {exact(name)} is null" for name in _AMOUNTS}
    unreadable = " ".join(f"when {condition} then '{name}'" for name, condition in quantities.items())
    return f"""
select
  file,
  {_exports.usage_date("ChargePeriodStart", "BillingPeriodStart")} as usage_date,
  BillingAccountId as account_id,
  SubAccountId as provider_project_id,
  SubAccountName as provider_project_name,
  coalesce(
    CredentialId, x_CredentialId, if(regexp_matches(ResourceId, '{_bedrock.OWNED}'), ResourceId, null)
  ) as api_key_id,
  coalesce(PrincipalId, x_PrincipalId) as principal_id,
  {_bedrock.session("coalesce(PrincipalId, x_PrincipalId)")} as principal_name,
  tags,
  RegionId as region,
  case
    when ChargeCategory = 'Usage' and ChargeClass = 'Correction' then 'adjustment'
    else lower(ChargeCategory)
  end as charge_category,
  coalesce(if(ChargeCategory = 'Usage', x_UsageType, null), ChargeDescription, SkuMeter, ServiceName)
    as line_item,
  upper(BillingCurrency) as currency,
  {exact("BilledCost")} as billed_cost,
  case when ChargeCategory = 'Usage' then {exact("ListCost")} end as list_cost,

  -- what the line is made of
  coalesce({billed_by}, ServiceProviderName, ProviderName, InvoiceIssuerName) as provider_name,
  SkuPriceDetails as details,
  coalesce(SkuMeter, ChargeDescription) as text,
  x_UsageType as usage_type,
  ServiceName as service,
  coalesce(ConsumedQuantity, PricingQuantity) as amount,
  if(ConsumedQuantity is null, PricingUnit, ConsumedUnit) as unit,
  case
    when ServiceCategory is null then 'ServiceCategory'
    when ServiceName is null then 'ServiceName'
    when BillingAccountId is null then 'BillingAccountId'
    when not {is_currency("BillingCurrency")} then 'BillingCurrency'
    when not coalesce(ChargeCategory in ({categories}), false) then 'ChargeCategory'
    when usage_date is null then 'ChargePeriodStart'
    when billed_cost is null then 'BilledCost'
    {unreadable}
    when provider_name is null then 'ServiceProviderName'
    when details is not null
      and coalesce(case when json_valid(details) then json_type(details) end, '') <> 'OBJECT'
      then 'SkuPriceDetails'
    when is_tagged_badly then 'Tags'
  end as broken
from ({_tags.tagged(rows, [_tags.allocated("tags_json")], {})})"""


_AMOUNTS = ("ListCost", "ConsumedQuantity", "PricingQuantity")
