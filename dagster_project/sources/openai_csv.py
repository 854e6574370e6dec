"""OpenAI without an administrator's key: the cost report as the dashboard exports it to CSV.

A row is a UTC day and group; a day without any has a row that says nothing else. Amounts are dollars with
some 30 decimals. A key or user that is empty was not asked for, or is nobody's: it stays null.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import duckdb
from duckdb import ConstantExpression as Literal

from dagster_project.days import Days
from dagster_project.records import Kind
from dagster_project.sources import Parsed, _buckets, _downloads, _exports, _line_items, openai
from dagster_project.sources._line_items import Line
from dagster_project.sources._sql import exact, instant, is_currency

KINDS: tuple[Kind, ...] = ("charge",)
TELLS = ("bill", "api key")
READS = "the dashboard's CSV export of costs, for who has no admin key (local, `s3://`, `gs://`, `az://`)"
RESTATES_DAYS = openai.RESTATES_DAYS
KEEPS_RAW = False

fetch = _exports.fetch


class Entry(_downloads.DownloadEntry):
    """An OpenAI organisation's downloads. Beside an entry of the type `openai` they would count twice."""

    provider: ClassVar[str] = "openai"


REQUIRED = ("amount_value", "amount_currency", "line_item", "project_id")
COLUMNS = (
    *REQUIRED,
    *("start_time", "start_time_iso", "end_time", "end_time_iso"),
    *("quantity", "quantity_unit", "project_name", "api_key_id", "user_id"),
)
"""All that is read; not the addresses of users."""


@dataclass(frozen=True)
class _Line(Line):
    charge_category: str | None = None


def parse(entry: Entry, days: Days, raw: Path, connection: duckdb.DuckDBPyConnection) -> Parsed:
    """Raises SourceError naming file and column of what is no row, and for a day that is in two files."""
    rows = _exports.stage(entry, raw, connection, COLUMNS, REQUIRED, _projection(entry))
    _downloads.refuse_days_in_two_files(entry, rows)
    lines = _line_items.named(raw, rows.filter("not is_empty"), "text", _line, _Line)
    charges = _exports.charges(
        entry, lines.project("* replace (coalesce(charge_category, 'usage') as charge_category)")
    )
    gone = _exports.days_without_files(entry, days, raw)
    return Parsed({"charge": charges}, {"unparsed_line_items": _line_items.unparsed(charges)}, gone)


def _line(text: str) -> _Line:
    line = openai.line_item(text)
    return _Line(**asdict(line), charge_category=None if line.meter else _buckets.category(text))


def _projection(entry: Entry) -> str:
    known = f"""
select
  *,
  {instant("coalesce(start_time, start_time_iso)")} as started,
  {instant("coalesce(end_time, end_time_iso)")} as ended,
  coalesce(amount_value, amount_currency, line_item, project_id, api_key_id, user_id, quantity) is null
    as is_empty
from logged"""
    return f"""
select
  file,
  is_empty,
  line_item as text,
  started::date as usage_date,
  '{entry.provider}' as provider,
  {Literal(entry.account_id)} as account_id,
  project_id as provider_project_id,
  project_name as provider_project_name,
  api_key_id,
  user_id as principal_id,
  line_item,
  {exact("amount_value")} as billed_cost,
  upper(amount_currency) as currency,
  {exact("quantity", "case when quantity_unit = '1000_tokens' then 1000 else 1 end")} as quantity,
  case when quantity_unit = '1000_tokens' then 'tokens' else quantity_unit end as quantity_unit,
  case
    when started is null or started <> started::date then 'start_time'
    when ended - started not between interval 1 second and interval 1 day then 'end_time'
    when is_empty then null
    when billed_cost is null then 'amount_value'
    when known.quantity is not null and {exact("known.quantity")} is null then 'quantity'
    when not {is_currency("upper(amount_currency)")} then 'amount_currency'
  end as broken
from ({known}) as known"""
