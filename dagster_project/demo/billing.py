"""What the providers make of the requests: the true cost of each, the bill, and the usage reports.

The price is the public catalogue's, asked of the catalogue itself once per distinct rate; the bill is
exactly the sum of the true costs, plus lines that are no usage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import polars as pl
from genai_prices import Usage, calc_price

from dagster_project.days import Days
from dagster_project.demo.roster import DISCOUNT_PERCENT, LONG_CONTEXT, UNLISTED_USD, WORKLOADS
from dagster_project.demo.traffic import METERS, Request

CREDIT_USD = Decimal("-25.00")
"""OpenAI's promotional credit, a line of the first day of each month."""

LATE_HOUR = 18
"""OpenAI's first answer about the restated day ends here, UTC."""

PRICES_OF = datetime(2026, 10, 31, tzinfo=UTC)
"""The catalogue began to record batch and flex prices in mid-October; they were the same before."""

_COUNTED_AS = {
    "input": ("input_tokens",),
    "cache_read": ("input_tokens", "cache_read_tokens"),
    "cache_write_5m": ("input_tokens", "cache_write_tokens"),
    "cache_write_1h": ("input_tokens", "cache_write_tokens", "cache_write_1h_tokens"),
    "output": ("output_tokens",),
    "output_image": ("output_tokens", "output_image_tokens"),
    "web_searches": ("web_searches",),
    "file_searches": ("storage_searches",),
    "characters": ("input_characters",),
    "audio_seconds": ("audio_seconds", "input_audio_seconds"),
}
"""The counts of the catalogue that one unit of a meter raises; totals include their parts."""
_IN_TIER: Mapping[str, Mapping[str, str]] = {
    "standard": {},
    "batch": {"processing": "batch"},
    "flex": {"service_tier": "flex"},
}

Rate = tuple[str, str | None, str, bool, str]
"""Provider, model, service tier, whether the context is long, meter."""


def restated_day(days: Days) -> date:
    """The day of which OpenAI's first answer lacks the evening and has a line that is withdrawn later."""
    return days.first + timedelta(days=len(days) * 2 // 3)


def rates() -> dict[Rate, Decimal]:
    """USD per unit at list prices, for every rate that Acme uses."""
    used = {
        (work.provider, work.model, work.tier, is_long, meter)
        for work in WORKLOADS
        for meter in (*work.medians, *work.chances)
        for is_long in {False, work.model in LONG_CONTEXT}
    }
    used |= {("openai", None, "standard", False, meter) for meter in ("storage_gib_days", "code_sessions")}
    return {rate: _usd_per_unit(*rate) for rate in sorted(used, key=str)}


def _usd_per_unit(provider: str, model: str | None, tier: str, is_long: bool, meter: str) -> Decimal:
    if (model, meter) in UNLISTED_USD:
        return UNLISTED_USD[model, meter]
    if meter == "images":
        return Decimal(0)  # they are paid by their tokens

    def price(counts: Mapping[str, int]) -> Decimal:
        return calc_price(
            Usage(**counts),
            model,
            provider_id=provider,
            genai_request_timestamp=PRICES_OF,
            price_context=_IN_TIER[tier] or None,
        ).total_price

    # The context decides the price of every unit, so the units come on top of a long or an empty one.
    context = {"input_tokens": 1_000_000 if is_long else 0}
    units = 1000
    raised = {name: units + context.get(name, 0) for name in _COUNTED_AS[meter]}
    return (price(context | raised) - price(context)) / units


@dataclass(frozen=True)
class Line:
    """How a bill puts a rate: OpenAI's line item, or Anthropic's description with what it parses to.

    `quantity` of the line is `per_unit` for each unit of the meter, in `quantity_unit` (null for none).
    """

    text: str
    quantity_unit: str | None = None
    per_unit: Decimal = Decimal(1)
    cost_type: str | None = None
    token_type: str | None = None


_LINE_ITEMS = {
    "input": Line("{tier}{model}, input{context}", "tokens"),
    "cache_read": Line("{tier}{model}, cached input{context}", "tokens"),
    "output": Line("{tier}{model}, output{context}", "tokens"),
    "output_image": Line("{model} image, output", "tokens"),
    "images": Line("{model}, images", "images"),
    "web_searches": Line("web search tool calls"),
    "file_searches": Line("file search tool calls"),
    "characters": Line("{model}, characters", "characters"),
    "audio_seconds": Line("{model}, audio", "duration_seconds"),
    "video_seconds": Line("Sora 2 (720p) clips", "duration_seconds"),
    "code_sessions": Line("code interpreter sessions"),
    "storage_gib_days": Line("Vector storage", "gibibyte_hours", Decimal(24)),
}


def _line(rate: Rate) -> Line:
    """The line that a rate is billed on."""
    provider, model, tier, is_long, meter = rate
    if provider == "anthropic":
        return _anthropic_line(model, tier, is_long, meter)
    line = _LINE_ITEMS[meter]
    text = line.text.format(
        # Batches are on the lines of the standard tier, at half their price.
        tier="" if tier in ("standard", "batch") else f"{tier} | ",
        model=model,
        context=", long context" if is_long else "",
    )
    if model and "embedding" in model:
        return Line(text, "1000_tokens", Decimal("0.001"))
    return replace(line, text=text)


_TOKEN_TYPES = {
    "input": ("Input Tokens", "uncached_input_tokens"),
    "cache_read": ("Input Tokens, Cache Read", "cache_read_input_tokens"),
    "cache_write_5m": ("Input Tokens, Cache Write (5m)", "cache_creation.ephemeral_5m_input_tokens"),
    "cache_write_1h": ("Input Tokens, Cache Write (1h)", "cache_creation.ephemeral_1h_input_tokens"),
    "output": ("Output Tokens", "output_tokens"),
}


def _anthropic_line(model: str | None, tier: str, is_long: bool, meter: str) -> Line:
    if meter == "web_searches":
        return Line("Web Search Usage", cost_type="web_search")
    words, token_type = _TOKEN_TYPES[meter]
    how = ("Batch " if tier == "batch" else "") + ("Long Context " if is_long else "")
    return Line(f"{model} Usage - {how}{words}", "tokens", cost_type="tokens", token_type=token_type)


_LINES = f"""
select
  used.request_id, used.meter, used.quantity,
  used.quantity * rates.usd_per_unit as list_cost_usd,
  used.quantity * rates.usd_per_unit * rates.paid_share as cost_usd
from (unpivot requests on {", ".join(METERS)} into name meter value quantity) as used
left join rates
  on used.provider = rates.provider and used.model is not distinct from rates.model
  and used.service_tier = rates.service_tier and used.is_long_context = rates.is_long_context
  and used.meter = rates.meter
where used.is_billed and used.quantity > 0"""

_TRUTH = f"""
select
  requests.* exclude (seen, seconds, {", ".join(METERS)}),
  case when is_billed then costs.list_cost_usd else 0 end as list_cost_usd,
  case when is_billed then costs.cost_usd else 0 end as cost_usd
from requests
left join (
  select request_id, sum(list_cost_usd) as list_cost_usd, sum(cost_usd) as cost_usd from lines group by all
) as costs using (request_id)
order by request_id"""

_USAGE = f"""
select
  provider, usage_date, provider_project, api_key, "user", operation, model, service_tier,
  is_long_context, seen, count(*) as requests,
  {", ".join(f"sum({meter})::bigint as {meter}" for meter in METERS)}
from requests
where is_billed
group by all
order by all"""

_CHARGES = """
select
  requests.provider, requests.usage_date, requests.provider_project, requests.api_key, requests.seen,
  rates.text, rates.cost_type, rates.token_type, rates.quantity_unit,
  case when rates.cost_type = 'tokens' then requests.model end as model,
  case when rates.cost_type = 'tokens' then requests.service_tier end as service_tier,
  case when rates.cost_type = 'tokens' then requests.is_long_context end as is_long_context,
  sum(lines.quantity * rates.per_unit) as quantity,
  sum(lines.cost_usd) as cost_usd
from lines
join requests on lines.request_id = requests.request_id
join rates
  on requests.provider = rates.provider and requests.model is not distinct from rates.model
  and requests.service_tier = rates.service_tier and requests.is_long_context = rates.is_long_context
  and lines.meter = rates.meter
group by all
having sum(lines.cost_usd) > 0
union all by name
select * from no_usage
order by all"""


def write(requests: Sequence[Request], list_prices: Mapping[Rate, Decimal], days: Days, folder: Path) -> None:
    """Write truth.parquet (a row per request, with its exact part of the bill), charges.parquet and
    usage.parquet (finest lines; `seen` says whether the first, the final or both answers have them).
    """
    with TemporaryDirectory() as scratch, duckdb.connect() as connection:
        for name, frame in {
            "requests": _requests(requests, days),
            "rates": _rates(list_prices),
            "no_usage": _no_usage(days),
        }.items():
            file = Path(scratch) / f"{name}.parquet"
            frame.write_parquet(file)
            connection.execute(f"create table {name} as from read_parquet('{file}')")
        # Not null: a rate that is missing stops the simulation instead of making something free.
        connection.execute("""
create table lines (request_id varchar, meter varchar, quantity bigint not null,
  list_cost_usd decimal(38, 12) not null, cost_usd decimal(38, 12) not null)""")
        connection.execute(f"insert into lines {_LINES}")
        for name, query in (("truth", _TRUTH), ("usage", _USAGE), ("charges", _CHARGES)):
            connection.execute(f"copy ({query}) to '{folder / name}.parquet' (format parquet)")


def _requests(requests: Sequence[Request], days: Days) -> pl.DataFrame:
    """The requests as a table. `ended_at` is UTC without a zone, as all times in the warehouse are."""
    columns = dict(zip(Request._fields, zip(*requests, strict=True), strict=True))
    del columns["tags"], columns["headers"]
    restated = restated_day(days)
    return pl.DataFrame(
        columns
        | {
            "request_id": [f"{number:08}" for number in range(len(requests))],
            "ended_at": [request.ended_at.replace(tzinfo=None) for request in requests],
            "usage_date": [request.usage_date for request in requests],
            "is_billed": [request.is_billed for request in requests],
            "seen": [
                "final"
                if (request.provider, request.usage_date) == ("openai", restated)
                and request.ended_at.hour >= LATE_HOUR
                else "both"
                for request in requests
            ],
        },
        infer_schema_length=None,
    )


def _rates(list_prices: Mapping[Rate, Decimal]) -> pl.DataFrame:
    rows = [
        {
            **dict(zip(("provider", "model", "service_tier", "is_long_context", "meter"), rate, strict=True)),
            "usd_per_unit": usd,
            "paid_share": 1 - DISCOUNT_PERCENT[rate[0]] / 100,
            **asdict(_line(rate)),
        }
        for rate, usd in list_prices.items()
    ]
    decimals = {
        "usd_per_unit": pl.Decimal(20, 15),
        "paid_share": pl.Decimal(3, 2),
        "per_unit": pl.Decimal(6, 3),
    }
    return pl.DataFrame(rows, schema_overrides=decimals, infer_schema_length=None)


def _no_usage(days: Days) -> pl.DataFrame:
    """Lines of OpenAI's bill that nobody used anything for: credits, and one that is withdrawn later."""
    rows = [
        {
            "usage_date": day,
            "provider_project": None,
            "api_key": None,
            "seen": "both",
            "text": "Promotional credit",
            "cost_usd": CREDIT_USD,
        }
        for day in days
        if day.day == 1
    ]
    rows.append(
        {
            "usage_date": restated_day(days),
            "provider_project": "proj_old",
            "api_key": "key_exporter",
            "seen": "first",
            "text": "gpt-4o-mini-2024-07-18, output",
            "quantity_unit": "tokens",
            "quantity": Decimal(5_350_000),
            "cost_usd": Decimal("3.21"),
        }
    )
    return pl.DataFrame(
        [{"provider": "openai", **row} for row in rows],
        schema_overrides={"cost_usd": pl.Decimal(38, 12)},
        infer_schema_length=None,
    )
