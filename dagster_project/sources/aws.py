"""Amazon Bedrock's bill: the rows of a Cost and Usage Report, CUR 2.0 of AWS Data Exports or the legacy one.

*   The columns of a legacy report as CSV (`lineItem/UsageType`) go by their names of CUR 2.0, in snake_case.
*   Bedrock is every product code that begins with `AmazonBedrock`, and what the AWS Marketplace sells as an
    "(Amazon Bedrock Edition)". Rows of other services are counted and left out.
*   Billed is the net unblended cost where a month's rows say it (an account with discounts), else the
    unblended cost: their sum over all types of line items is the invoice. Net costs have the discounts
    inside, so the rows of discounts are left out beside them, and counted. List is the public on-demand cost
    of usage.
*   A savings plan's coverage and its negation are both taken: they cancel out, and the plan's own fee is the
    cost. Where one is missing, the sum is still that of the bill.
*   Usage is in thousands or millions of tokens, as `pricing_unit` says, and becomes tokens; an amount in
    another unit stays as it is.
*   A caller is the IAM principal, in an export that includes it; its name is that of the user or session.
*   An application inference profile, or a project or workspace of the other endpoint, is an `api_key_id`: an
    application is given it to call with and puts it into each call, so the log of the invocations has it, too
    (`bedrock_logs`), and the ownership map asks for it as for a key. All else is everybody's: `no_key`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import duckdb
import polars as pl
from duckdb import ConstantExpression as Literal

from dagster_project.days import Days
from dagster_project.sources import Parsed, _aws_deliveries, _bedrock, _exports, _line_items, _tags
from dagster_project.sources._sql import exact, is_currency, quoted

KINDS = ("charge",)
TELLS = ("bill", "api key", "tags")
READS = (
    "Amazon Bedrock's rows of the Cost and Usage Report, CUR 2.0 or legacy, whole deliveries by their "
    f"manifests, or {_exports.FILES}"
)
KEEPS_RAW = False
RESTATES_DAYS = _exports.RESTATES_DAYS


class Entry(_exports.ExportEntry):
    """The bill of an AWS organisation, or of one account. Let `path` name its manifests
    (`s3://bills/acme/metadata/*/*Manifest.json`): of each month all files of the newest delivery are read."""

    provider: ClassVar[str] = "aws"

    tag_columns: tuple[str, ...] = ()
    """Columns of cost allocation tags, where they are not nested: `resource_tags_user_team`."""


REQUIRED = (
    "bill_payer_account_id",
    "line_item_usage_account_id",
    "line_item_usage_start_date",
    "line_item_line_item_type",
    "line_item_product_code",
    "line_item_usage_type",
    "line_item_usage_amount",
    "line_item_unblended_cost",
    "line_item_currency_code",
    "pricing_unit",
)
TAGS = ("resource_tags", "tags", "cost_category")
"""Nested columns of tags, the first to speak first."""

COLUMNS = (
    *REQUIRED,
    *TAGS,
    "bill_billing_period_start_date",
    "line_item_usage_account_name",
    "line_item_line_item_description",
    "line_item_resource_id",
    "line_item_iam_principal",
    "line_item_net_unblended_cost",
    "pricing_public_on_demand_cost",
    "product",
    "product_product_name",
    "product_servicename",
    "product_region_code",
)
"""All that is read."""

_PRODUCTS = ("line_item_product_code", "product", "product_product_name", "product_servicename")
_OURS = f"""coalesce(line_item_product_code like 'AmazonBedrock%', false)
  or contains(concat(product, product_product_name, product_servicename), '{_bedrock.EDITION}')"""
"""Which rows are Bedrock's, by what is said in the columns _PRODUCTS."""

_CATEGORIES: Mapping[str, str] = {
    "Usage": "usage",
    "DiscountedUsage": "usage",
    "SavingsPlanCoveredUsage": "usage",
    "SavingsPlanNegation": "adjustment",
    "Tax": "tax",
    "Fee": "purchase",
    "RIFee": "purchase",
    "SavingsPlanUpfrontFee": "purchase",
    "SavingsPlanRecurringFee": "purchase",
    "Credit": "credit",
    "Refund": "credit",
    "Discount": "credit",
    "BundledDiscount": "credit",
    "EdpDiscount": "credit",
    "PrivateRateDiscount": "credit",
    "SppDiscount": "credit",
    "DistributorDiscount": "credit",
}
"""By type of line item; one that is not here is an adjustment, and counted. A fee is what a subscription or a
reservation costs, used or not."""


def fetch(entry: Entry, days: Days, raw: Path) -> None:
    """The list of files. Raises SourceError when there is none, when deliveries cannot be told apart, or when
    one is not whole."""
    _aws_deliveries.fetch(entry, days, raw)


def parse(entry: Entry, days: Days, raw: Path, connection: duckdb.DuckDBPyConnection) -> Parsed:
    """Raises SourceError naming file and column of what is no row of a bill."""
    columns = (*COLUMNS, *entry.tag_columns)
    rows = _exports.stage(entry, raw, connection, columns, REQUIRED, _projection(entry))
    told = _line_items.told(
        rows,
        raw,
        ("usage_type", "product", "pricing_unit"),
        _told,
        {
            "model": pl.String,
            "meter": pl.String,
            "service_tier": pl.String,
            "context_tier": pl.String,
            "is_capacity": pl.Boolean,
            "tokens_each": pl.Int64,
        },
    )
    lines = told.query(
        "told", f"select {_LINE} from told window of_month as (partition by account_id, period)"
    )
    return Parsed(
        {"charge": _exports.charges(entry, lines.filter("not is_inside"))},
        _exports.others(_exports.looked_through(entry, raw, connection, _PRODUCTS, _OURS))
        | _exports.counted(lines, _COUNTS),
        _exports.days_outside_periods(days, raw),
    )


_COUNTS = {
    "discounts_inside_net_costs": "is_inside",
    "unknown_line_item_types": "category is null",
    "unparsed_usage_rows": "is_usage and meter is null and not is_capacity",
    "token_rows_of_unknown_unit": "is_usage and meter is not null and tokens_each is null",
}


def _told(usage_type: str | None, product: str | None, pricing_unit: str | None) -> Mapping[str, Any]:
    return {
        **_bedrock.line(usage_type, product)._asdict(),
        "tokens_each": _exports.tokens_each(pricing_unit),
    }


def _projection(entry: Entry) -> str:
    nested = (*TAGS, "product")
    plain = ", ".join(name for name in COLUMNS if name not in nested)
    read = ", ".join(f"case when json_valid({name}) then {name}::json end as {name}_json" for name in nested)
    not_json = " ".join(f"when not json_valid({name}) then '{name}'" for name in nested)
    flat = ", ".join(f"{Literal(name)}: {quoted(name)}" for name in entry.tag_columns)
    rows = f"""
select
  file,
  {plain},
  {read},
  {f"to_json({{{flat}}})" if flat else "null::json"} as flat_json,
  case {not_json} end as not_json,
  coalesce(
    product_product_name, product_json ->> 'product_name', product_servicename, product_json ->> 'servicename'
  ) as product_name
from logged
where {_OURS}"""
    tags = [_tags.allocated(f"{name}_json") for name in (*TAGS, "flat")]
    categories = ", ".join(f"{Literal(said)}: {Literal(meant)}" for said, meant in _CATEGORIES.items())
    return f"""
select
  file,
  {_exports.usage_date("line_item_usage_start_date", "bill_billing_period_start_date")} as usage_date,
  'aws' as provider,
  bill_payer_account_id as account_id,
  line_item_usage_account_id as provider_project_id,
  line_item_usage_account_name as provider_project_name,
  line_item_iam_principal as principal_id,
  {_bedrock.session("line_item_iam_principal")} as principal_name,
  tags,
  coalesce(product_region_code, product_json ->> 'region_code', product_json ->> 'region') as region,
  map {{{categories}}}[line_item_line_item_type] as category,
  coalesce(category, 'adjustment') as charge_category,
  coalesce(category = 'usage', false) as is_usage,
  case when is_usage then line_item_usage_type
    else coalesce(line_item_line_item_description, line_item_usage_type, line_item_line_item_type)
  end as line_item,
  upper(line_item_currency_code) as currency,

  -- what the line is made of
  try_cast(bill_billing_period_start_date as timestamptz)::date as period,
  line_item_resource_id as resource,
  product_name as product,
  pricing_unit,
  line_item_usage_type as usage_type,
  case when is_usage then line_item_usage_amount end as usage_amount,
  ends_with(line_item_line_item_type, 'Discount') as is_discount,
  {exact("line_item_unblended_cost")} as unblended_cost,
  {exact("line_item_net_unblended_cost")} as net_cost,
  {exact("pricing_public_on_demand_cost")} as public_cost,
  case
    when not_json is not null then not_json
    when bill_payer_account_id is null then 'bill_payer_account_id'
    when line_item_usage_account_id is null then 'line_item_usage_account_id'
    when line_item_line_item_type is null then 'line_item_line_item_type'
    when usage_date is null then 'line_item_usage_start_date'
    when is_usage and line_item_usage_type is null then 'line_item_usage_type'
    when is_usage and {exact("line_item_usage_amount")} is null then 'line_item_usage_amount'
    when unblended_cost is null then 'line_item_unblended_cost'
    when line_item_net_unblended_cost is not null and net_cost is null
      then 'line_item_net_unblended_cost'
    when pricing_public_on_demand_cost is not null and public_cost is null
      then 'pricing_public_on_demand_cost'
    when not {is_currency("line_item_currency_code")}
      then 'line_item_currency_code'
  end as broken
from ({_tags.tagged(rows, tags, {})})"""


_LINE = f"""
  * replace (case when is_usage and is_capacity then 'purchase' else charge_category end as charge_category),
  bool_or(net_cost is not null and not is_discount) over of_month as has_net_costs,
  bool_or(resource is not null) over of_month as has_resources,
  is_discount and has_net_costs as is_inside,
  case when has_net_costs then coalesce(net_cost, unblended_cost) else unblended_cost end as billed_cost,
  case when is_usage and (public_cost <> 0 or billed_cost = 0) then public_cost end as list_cost,
  case
    when regexp_matches(resource, '{_bedrock.OWNED}') then resource
    when is_usage and not is_capacity and has_resources then 'no_key'
  end as api_key_id,
  case when is_usage then {exact("usage_amount", "coalesce(tokens_each, 1)")} end as quantity,
  case when is_usage then if(tokens_each is null, pricing_unit, 'tokens') end as quantity_unit"""
"""What a row means beside all others of its month's bill, and with what its texts say."""
