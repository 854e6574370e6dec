"""List prices: the catalogue of `genai_prices` as one dated table, to be joined to quantities in SQL.

The library prices one request at a time; a warehouse needs all the prices at once. So every model is
asked for its prices at each moment at which they may change and for each service tier, and the
answers are rows. Which price applies when stays the library's own decision. Ours are

*   what a meter costs that has no price of its own: as much as the nearest thing that it is part of,
    which is how the library charges it (a cache read is input, a 1-hour cache write is a cache
    write). It is a row like any other. Part of nothing that is priced: no row. Unpriced is not free.
*   the time before a tier's prices were first recorded: see `_carried_back`.

A model has the prices of the provider that bills it, or none. They are never those of another
provider, though the library would lend Azure the prices of OpenAI.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from importlib.metadata import version
from itertools import groupby, pairwise

import polars as pl
from genai_prices.data import providers
from genai_prices.data_units import unit_data
from genai_prices.types import (
    ModelInfo,
    ModelPrice,
    PriceContext,
    PriceVariant,
    StartDateConstraint,
    TieredPrices,
    TimeOfDateConstraint,
)
from genai_prices.units import UnitDef, UnitRegistry

CONTEXT_BANDS: tuple[int, ...] = (
    32_000,
    100_000,
    128_000,
    199_999,
    200_000,
    256_000,
    272_000,
    512_000,
    524_288,
)
"""Input tokens of a request above which some model of the catalogue has other prices."""

STANDARD = "standard"
"""The service tier whose prices are a model's own."""

RESOLVED = {
    "provider": pl.String,
    "model": pl.String,
    "model_key": pl.String,
    "catalogue_provider": pl.String,
    "is_priced": pl.Boolean,
}
RATE_CARD = {
    "provider": pl.String,
    "model_key": pl.String,
    "meter": pl.String,
    "service_tier": pl.String,
    "context_above_tokens": pl.Int64,
    "from_time": pl.Time,
    "to_time": pl.Time,
    "valid_from": pl.Date,
    "valid_to": pl.Date,
    "usd_per_unit": pl.Decimal(20, 15),
}

_CATALOGUE_IDS: Mapping[str, str] = {
    "cohere_chat": "cohere",
    "fireworks_ai": "fireworks",
    "github_copilot": "github-copilot",
    "meta_llama": "meta",
    "moonshot": "moonshotai",
    "together_ai": "together",
    "voyage": "voyageai",
    "xai": "x-ai",
}
"""Providers whose name in the records is not their id in the catalogue."""

_COUNTED_AS: Mapping[str, str] = {
    "requests": "requests",
    "input": "input_text_tokens",
    "cache_read": "cache_read_tokens",
    "cache_write_5m": "cache_write_5m_tokens",
    "cache_write_1h": "cache_write_1h_tokens",
    "cache_write_other": "cache_write_tokens",
    "output": "output_text_tokens",
    "input_audio": "input_audio_tokens",
    "output_audio": "output_audio_tokens",
    "input_image": "input_image_tokens",
    "output_image": "output_image_tokens",
    "web_search": "web_searches",
    "characters": "input_characters",
    "audio_seconds": "input_audio_seconds",
    "file_searches": "storage_searches",
}
"""The catalogue's name of what a meter counts. It has no price for an image as such."""

_TUNED = re.compile(r"^ft[-:]([^:]+)(:.*)?$", re.IGNORECASE)
"""A fine-tuned model of OpenAI: `ft-<model>` on the bill, else `ft:<model>:<organisation>:<suffix>:<id>`."""

_PROVIDERS = {provider.id: provider for provider in providers}
_UNITS = UnitRegistry(unit_data)


def catalogue_version() -> str:
    return f"genai-prices {version('genai-prices')}"


def resolve(models: Iterable[tuple[str, str]]) -> pl.DataFrame:
    """What the catalogue calls the models that records name, given as (provider, model).

    One row per distinct pair. `model_key` is the catalogue's id of the model and
    `catalogue_provider` that of its provider; where the catalogue does not know the model under its
    provider, they are the name in lower case, and null. `is_priced`: `rate_card` has rows for it.
    All fine-tuned models of one OpenAI model have one key, as they have one line of its bill.
    """
    rows = []
    for provider, name in sorted(set(models)):
        catalogue_id = _CATALOGUE_IDS.get(provider, provider)
        asked = _TUNED.sub(r"ft:\1", name) if provider == "openai" else name
        model = _model(catalogue_id, asked)
        if model is None:
            rows.append((provider, name, asked.lower(), None, False))
        else:
            rows.append((provider, name, model.id, catalogue_id, any(_rows(model))))
    return pl.DataFrame(rows, schema=RESOLVED, orient="row")


def rate_card(resolved: pl.DataFrame) -> pl.DataFrame:
    """Every list price of the models in `resolved`: USD for one unit (a token, a search, a second).

    One row per provider, model, meter, service tier, context band, time of day and validity.

    *   `context_above_tokens`: for requests with more input tokens than this, cached ones included,
        up to and with the meter's next greater one; 0 is for the rest of them. All of the request
        has the price, not its excess alone.
    *   From the UTC time of day `from_time` to before `to_time`, across midnight where that is the
        earlier one; both null: all day.
    *   On the UTC days from `valid_from` to before `valid_to`; 0001-01-01 and 9999-12-31 are open.

    So one row says what a meter costs at some moment, in some tier and context; or none does.
    """
    known = resolved.filter(pl.col("catalogue_provider").is_not_null())
    models = known.select("provider", "catalogue_provider", "model_key").unique().sort(pl.all())
    rows = [
        (provider, key, *row)
        for provider, catalogue_id, key in models.iter_rows()
        for row in _rows(_model(catalogue_id, key))
    ]
    return pl.DataFrame(rows, schema=RATE_CARD, orient="row")


def _model(catalogue_id: str, name: str) -> ModelInfo | None:
    """The provider's model with that id, else the one whose clauses match the name.

    Some ids are matched by no clause, not even by their own model's. They count all the same:
    as the key of an unknown model, such a name would take the known one's price unseen.
    """
    provider = _PROVIDERS.get(catalogue_id)
    if provider is None:
        return None
    with_id = (model for model in provider.models if model.id.lower() == name.lower())
    # `find_model` borrows from other providers only when it is given them.
    return next(with_id, None) or provider.find_model(name)


Rates = Mapping[str, Mapping[int, Decimal]]
"""USD for one unit, by meter and by the input tokens that the request has to exceed."""

Constraint = StartDateConstraint | TimeOfDateConstraint | None
Row = tuple[str, str, int, time | None, time | None, date, date, Decimal]


def _rows(model: ModelInfo) -> Iterator[Row]:
    """The rate card of one model: its columns from `meter` on."""
    contexts: dict[str, PriceContext] = {STANDARD: {}}
    contexts |= {_tier(variant.when): variant.when for variant in model.price_variants or ()}
    for tier, context in contexts.items():
        constraints = _constraints(model, context)
        for from_time, to_time in _times_of_day(constraints):
            for valid_from, valid_to, rates in _periods(model, context, constraints, from_time or time()):
                for meter, bands in rates.items():
                    for above, usd in bands.items():
                        yield meter, tier, above, from_time, to_time, valid_from, valid_to, usd


def _tier(when: PriceContext) -> str:
    """The service tier that selects a variant; anything else says what it is, like `route=eu`."""
    return ",".join(
        value if key in ("processing", "service_tier", "speed") else f"{key}={value}"
        for key, value in sorted(when.items())
    )


def _constraints(model: ModelInfo, context: PriceContext) -> list[Constraint]:
    """Of every price that may apply in the context: when it does."""
    prices = () if isinstance(model.prices, ModelPrice) else model.prices
    return [price.constraint for price in (*prices, *_variants(model, context))]


def _variants(model: ModelInfo, context: PriceContext) -> list[PriceVariant]:
    return [v for v in model.price_variants or () if v.when.items() <= context.items()]


def _times_of_day(constraints: Sequence[Constraint]) -> list[tuple[time | None, time | None]]:
    """The parts of a day between which prices may change. The last one goes on past midnight."""
    windows = [c for c in constraints if isinstance(c, TimeOfDateConstraint)]
    changes = sorted({_utc(edge) for c in windows for edge in (c.start_time, c.end_time)})
    return list(zip(changes, changes[1:] + changes[:1], strict=True)) or [(None, None)]


def _utc(edge: time) -> time:
    return datetime.combine(date(2000, 1, 1), edge, edge.tzinfo or UTC).astimezone(UTC).time()


def _periods(
    model: ModelInfo, context: PriceContext, constraints: Sequence[Constraint], moment: time
) -> Iterator[tuple[date, date, Rates]]:
    """The days from one change of the rates to the next, as they are at that time of day."""
    starts = {c.start_date for c in constraints if isinstance(c, StartDateConstraint)}
    days = pairwise(sorted({date.min, *starts, date.max}))
    rated = ((*ends, _rates_at(model, context, datetime.combine(ends[0], moment, UTC))) for ends in days)
    for rates, same in groupby(rated, key=lambda period: period[2]):
        periods = list(same)
        yield periods[0][0], periods[-1][1], rates


def _rates_at(model: ModelInfo, context: PriceContext, moment: datetime) -> Rates:
    if not context:
        return _rates(model.get_prices(moment))
    recorded = min(getattr(v.constraint, "start_date", date.min) for v in _variants(model, context))
    if moment.date() >= recorded:
        return _rates(model.get_prices(moment, context))
    first = datetime.combine(recorded, moment.timetz())
    return _carried_back(
        _rates(model.get_prices(first, context)),
        _rates(model.get_prices(first)),
        _rates(model.get_prices(moment)),
    )


def _carried_back(tier: Rates, standard_then: Rates, standard: Rates) -> Rates:
    """Rates of a tier before the catalogue began to record it: mostly in October 2026, years after
    there were batch and priority prices.

    While the standard rates were what they were when the tier was first recorded, it has its first
    recorded rates; before that it was as much cheaper or dearer than standard, in proportion.
    """

    def carried(meter: str) -> Mapping[int, Decimal]:
        now, then = standard[meter], standard_then.get(meter)
        if now == then:
            return tier[meter]
        if not then or not then[0]:
            return now
        return {above: _rounded(usd * tier[meter][0] / then[0]) for above, usd in now.items()}

    return {meter: carried(meter) for meter in standard}


def _rates(price: ModelPrice) -> Rates:
    rates = {}
    for meter, usage_key in _COUNTED_AS.items():
        units = [_UNITS.units[key] for key in (usage_key, *_UNITS.ancestor_usage_keys(usage_key))]
        priced = [unit for unit in units if getattr(price, unit.price_key) is not None]
        if priced:
            rates[meter] = _bands(price, max(priced, key=lambda unit: len(unit.dimensions)))
    return rates


def _bands(price: ModelPrice, unit: UnitDef) -> Mapping[int, Decimal]:
    found = getattr(price, unit.price_key)
    bands = {0: found}
    if isinstance(found, TieredPrices):
        bands = {0: found.base} | {tier.start: tier.price for tier in found.tiers}
    return {above: _rounded(usd / unit.per) for above, usd in bands.items()}


def _rounded(usd: Decimal) -> Decimal:
    """At fifteen decimals. That is exact but for prices by the hour and the odd third of a cent."""
    return usd.quantize(Decimal("1e-15"))
