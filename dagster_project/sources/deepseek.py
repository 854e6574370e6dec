"""DeepSeek: the two CSV files that its console exports, amounts of tokens and costs.

    amount-*.csv   user_id, utc_date, model, api_key_name, api_key, type, price, amount
    cost-*.csv     user_id, utc_date, model, wallet_type, cost, currency

A UTC day is `20261001` or `2026-10-01`. Costs are in yuan or dollars, by model and wallet but not by key and
meter: those are in the amounts, whose prices have no currency and are not read. Keys are kept as hashes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import duckdb
from duckdb import ConstantExpression as Literal

from dagster_project.days import Days
from dagster_project.errors import SourceError
from dagster_project.records import Kind
from dagster_project.sources import Parsed, _downloads, _exports, _files
from dagster_project.sources._request_log import LARGEST
from dagster_project.sources._sql import exact, is_currency, unless_within

KINDS: tuple[Kind, ...] = ("charge", "usage")
TELLS = ("bill", "usage", "api key")
READS = "the console's CSV files of amounts and costs (local, `s3://`, `gs://`, `az://`)"
RESTATES_DAYS = 7
"""It is not said how late usage may come; a download is taken again within a week."""

KEEPS_RAW = False

fetch = _exports.fetch


class Entry(_downloads.DownloadEntry):
    """An account's downloads; `path` names both files (`deepseek/*.csv`)."""

    provider: ClassVar[str] = "deepseek"


REQUIRED = ("user_id", "utc_date", "model")
OF_AMOUNTS = ("api_key_name", "api_key", "type", "amount")
OF_COSTS = ("wallet_type", "cost", "currency")

_METERS: Mapping[str, str] = {
    "request_count": "requests",
    "input_cache_miss_tokens": "input_tokens",
    "input_cache_hit_tokens": "cache_read_tokens",
    "output_tokens": "output_tokens",
}
"""By `type`: disjoint counts."""


def parse(entry: Entry, days: Days, raw: Path, connection: duckdb.DuckDBPyConnection) -> Parsed:
    """Raises SourceError naming file and column of what is no row, and for a day that is in two files."""
    columns = (*REQUIRED, *OF_AMOUNTS, *OF_COSTS)
    rows = _exports.stage(entry, raw, connection, columns, REQUIRED, _projection(entry))
    costs, amounts = rows.filter("not is_amount"), rows.filter("is_amount")
    if bool(costs.shape[0]) != bool(amounts.shape[0]):
        lacking, columns = ("amounts", OF_AMOUNTS) if costs.shape[0] else ("costs", OF_COSTS)
        raise SourceError(
            entry.name,
            f"no file of {lacking} has a row (of {', '.join(columns)})",
            where=entry.path,
            remedy="Put both files of the download where `path` finds them. Nothing was replaced.",
        )
    for of_a_kind in (costs, amounts):
        _downloads.refuse_days_in_two_files(entry, of_a_kind)
    charges = _exports.charges(entry, costs)
    others = amounts.filter(f"type not in {tuple(_METERS)}")
    return Parsed(
        {"charge": charges, "usage": _usage(entry, amounts)},
        {"unknown_types": others.shape[0]},
        _exports.days_without_files(entry, days, raw),
    )


def _usage(entry: Entry, amounts: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    who = "usage_date, provider, account_id, principal_id, model, api_key_id"
    meters = ", ".join(
        f"sum(count) filter (type = '{said}')::bigint as {column}" for said, column in _METERS.items()
    )
    coordinates = ", ".join(f"{name}: {name}" for name in who.split(", "))
    usage = amounts.aggregate(f"{who}, max(api_key_name) as api_key_name, {meters}", who).project(
        f"*, md5(to_json({{{coordinates}}})::varchar) as record_id, 'usage' as record_kind, "
        f"{Literal(entry.name)} as source, 'chat' as operation, "
        "usage_date::timestamp as started_at, usage_date::timestamp + interval 1 day as ended_at"
    )
    return _files.completed(usage)


def _projection(entry: Entry) -> str:
    return f"""
select
  file,
  type is not null as is_amount,
  type,
  coalesce(try_strptime(utc_date, '%Y%m%d'), try_strptime(utc_date, '%Y-%m-%d'))::date as usage_date,
  '{entry.provider}' as provider,
  {Literal(entry.account_id)} as account_id,
  user_id as principal_id,
  model,
  case when is_amount then coalesce(left(sha256(api_key), 16), 'no_key') end as api_key_id,
  api_key_name,
  try_cast(amount as decimal(18, 0)) as count,
  case when not is_amount then 'usage' end as charge_category,
  case when not is_amount then concat_ws(' | ', model, wallet_type) end as line_item,
  {exact("cost")} as billed_cost,
  upper(currency) as currency,
  case
    when usage_date is null then 'utc_date'
    when model is null then 'model'
    when is_amount and {unless_within("count", 0, LARGEST)} then 'amount'
    when is_amount and count <> try_cast(amount as decimal(38, 9)) then 'amount'
    when not is_amount and billed_cost is null then 'cost'
    when not is_amount and not {is_currency("upper(logged.currency)")}
      then 'currency'
  end as broken
from logged"""
