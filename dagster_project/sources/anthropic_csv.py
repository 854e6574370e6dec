"""Anthropic without an administrator's key: the cost report as the Console exports it to CSV.

Amounts are dollars, not the API's cents. Models, workspaces and keys have their names for people: a model's
becomes the API's, a workspace's and a key's stand for the id that is not told. The list price beside an
amount is not read: whether it is the line's or a token's is not documented.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

import duckdb
from duckdb import ConstantExpression as Literal

from dagster_project.days import Days
from dagster_project.records import Kind
from dagster_project.sources import Parsed, _anthropic_reports, _downloads, _exports, _line_items, anthropic
from dagster_project.sources._line_items import Line
from dagster_project.sources._sql import exact

KINDS: tuple[Kind, ...] = ("charge",)
TELLS = ("bill", "api key")
READS = "the Console's CSV export of costs, for who has no admin key (local, `s3://`, `gs://`, `az://`)"
RESTATES_DAYS = anthropic.RESTATES_DAYS
KEEPS_RAW = False

fetch = _exports.fetch


class Entry(_downloads.DownloadEntry):
    """An organisation's downloads. Beside an entry of the type `anthropic` they would count twice."""

    provider: ClassVar[str] = "anthropic"


REQUIRED = (
    *("usage_date_utc", "model", "workspace", "api_key", "usage_type", "context_window", "token_type"),
    *("cost_usd", "cost_type"),
)
COLUMNS = (*REQUIRED, "inference_geo", "speed")


def parse(entry: Entry, days: Days, raw: Path, connection: duckdb.DuckDBPyConnection) -> Parsed:
    """Raises SourceError naming file and column of what is no row, and for a day that is in two files."""
    rows = _exports.stage(entry, raw, connection, COLUMNS, REQUIRED, _projection(entry))
    _downloads.refuse_days_in_two_files(entry, rows)
    charges = _exports.charges(entry, _line_items.named(raw, rows, "text", _line))
    gone = _exports.days_without_files(entry, days, raw)
    return Parsed({"charge": charges}, {"unparsed_line_items": _line_items.unparsed(charges)}, gone)


_SEPARATOR = "\x1f"
_SAID = ("model", "usage_type", "speed", "context_window", "cost_type", "token_type")
"""The columns that say what was counted, joined to one text."""


def _projection(entry: Entry) -> str:
    said = ", ".join(f"coalesce({name}, '')" for name in _SAID)
    return f"""
select
  file,
  concat_ws('{_SEPARATOR}', {said}) as text,
  try_cast(usage_date_utc as timestamp)::date as usage_date,
  '{entry.provider}' as provider,
  {Literal(entry.account_id)} as account_id,
  case when workspace is null or lower(workspace) = 'default' then 'default' else workspace end
    as provider_project_id,
  workspace as provider_project_name,
  coalesce(api_key, 'no_key') as api_key_id,
  api_key as api_key_name,
  nullif(inference_geo, 'not_available') as region,
  concat_ws(', ', model, coalesce(token_type, cost_type)) as line_item,
  'usage' as charge_category,
  {exact("cost_usd")} as billed_cost,
  'USD' as currency,
  case
    when not coalesce(isfinite(usage_date), false) then 'usage_date_utc'
    when billed_cost is null then 'cost_usd'
    when cost_type is null then 'cost_type'
  end as broken
from logged"""


_METERS = {
    "input_no_cache": "input",
    "input_cache_read": "cache_read",
    "input_cache_write_5m": "cache_write_5m",
    "input_cache_write_1h": "cache_write_1h",
    "output": "output",
    **_anthropic_reports.TOKEN_METERS,
}
"""By `token_type`, as the Console or as the API calls it."""


def _line(text: str) -> Line:
    model, usage_type, speed, window, cost_type, token_type = text.split(_SEPARATOR)
    tier = "fast" if speed == "fast" else _TIERS.get(usage_type, usage_type or None)
    return Line(
        re.sub(r"[ .]+", "-", model.lower()) or None,
        _METERS.get(token_type) if token_type else _anthropic_reports.OTHER_METERS.get(cost_type),
        tier,
        None if not window else "short" if window.startswith(("0", "<", "\u2264")) else "long",
    )


_TIERS = {"message": "standard", "messages": "standard"}
