"""The rate card against the library that it is compiled from, and against prices as published."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path

import duckdb
import polars as pl
import pytest
import yaml
from genai_prices import Usage
from genai_prices.data import providers
from genai_prices.types import (
    ModelInfo,
    ModelPrice,
    Provider,
    StartDateConstraint,
    TieredPrices,
    TimeOfDateConstraint,
)

from dagster_project import rates, records

ROUNDING = Decimal("5e-16")
"""What fifteen decimals can do to the USD of one unit."""

LOOKUP = """
with card as (
  select *, lead(context_above_tokens, 1, 9223372036854775807) over (
    partition by provider, model_key, meter, service_tier, from_time, to_time, valid_from
    order by context_above_tokens
  ) as context_up_to_tokens
  from read_parquet('{folder}/card.parquet')
)
select case_id, sum(quantity * usd_per_unit) as usd
from read_parquet('{folder}/cases.parquet') as cases
left join card
  on cases.provider = card.provider and cases.model = card.model_key
  and cases.meter = card.meter and cases.service_tier = card.service_tier
  and cases.day >= card.valid_from and cases.day < card.valid_to
  and (cases.context_tokens > card.context_above_tokens or card.context_above_tokens = 0)
  and cases.context_tokens <= card.context_up_to_tokens
  and (card.from_time is null or case when card.from_time < card.to_time
    then cases.clock >= card.from_time and cases.clock < card.to_time
    else cases.clock >= card.from_time or cases.clock < card.to_time end)
group by case_id
order by case_id"""

CASES = {
    "case_id": pl.Int64,
    "provider": pl.String,
    "model": pl.String,
    "service_tier": pl.String,
    "day": pl.Date,
    "clock": pl.Time,
    "context_tokens": pl.Int64,
    "meter": pl.String,
    "quantity": pl.Decimal(18, 3),
}


def looked_up(folder: Path, card: pl.DataFrame, cases: list[tuple]) -> list[Decimal | None]:
    """USD of each case by one join, in the order of their ids; None where nothing has a price."""
    card.write_parquet(folder / "card.parquet")
    pl.DataFrame(cases, schema=CASES, orient="row").write_parquet(folder / "cases.parquet")
    with duckdb.connect() as connection:
        return [usd for _, usd in connection.sql(LOOKUP.format(folder=folder)).fetchall()]


# The whole catalogue. One request uses some of everything, each meter its own prime number of units.

PER_REQUEST = {
    "requests": 1,
    "cache_read": 1_009,
    "cache_write_5m": 2_003,
    "cache_write_1h": 3_001,
    "cache_write_other": 4_001,
    "output": 5_003,
    "input_audio": 6_007,
    "output_audio": 7_001,
    "input_image": 8_009,
    "output_image": 9_001,
    "web_search": 11,
    "characters": 10_007,
    "audio_seconds": 61,
    "file_searches": 13,
}
CACHED_OR_MEDIA = 1_009 + 2_003 + 3_001 + 4_001 + 6_007 + 8_009
SHORT = 31_013
"""All input tokens of a request that is below every threshold."""


def usage(input_tokens: int) -> Usage:
    """PER_REQUEST in the library's terms: totals that include their parts."""
    told = {
        "input_tokens": input_tokens,
        "input_text_tokens": input_tokens - CACHED_OR_MEDIA,
        "cache_read_tokens": 1_009,
        "cache_write_tokens": 2_003 + 3_001 + 4_001,
        "cache_write_5m_tokens": 2_003,
        "cache_write_1h_tokens": 3_001,
        "input_audio_tokens": 6_007,
        "input_image_tokens": 8_009,
        "output_tokens": 5_003 + 7_001 + 9_001,
        "output_text_tokens": 5_003,
        "output_audio_tokens": 7_001,
        "output_image_tokens": 9_001,
        "web_searches": 11,
        "storage_searches": 13,
        "input_characters": 10_007,
        "audio_seconds": 61,
        "input_audio_seconds": 61,
    }
    other_units = {"cache_audio_read_tokens", "cache_image_read_tokens", "input_video_tokens"}
    other_units |= {"output_video_tokens", "output_reasoning_tokens", "output_citation_tokens"}
    other_units |= {"input_document_pages", "input_annotated_document_pages", "input_text_messages"}
    return Usage(**told, **dict.fromkeys(other_units, 0))


def standard_prices(model: ModelInfo) -> list[tuple[object, ModelPrice]]:
    if isinstance(model.prices, ModelPrice):
        return [(None, model.prices)]
    return [(conditional.constraint, conditional.prices) for conditional in model.prices]


def every_price(model: ModelInfo) -> list[ModelPrice]:
    variants = model.price_variants or ()
    return [price for _, price in standard_prices(model)] + [variant.prices for variant in variants]


def amounts(value: Decimal | TieredPrices) -> list[Decimal]:
    return [value.base, *(tier.price for tier in value.tiers)] if isinstance(value, TieredPrices) else [value]


def moments(constraints: list[object]) -> Iterator[datetime]:
    """Both sides of every boundary: the last day of a price and the first of the next, and the second
    before and at the change of a time of day."""
    days = {date(2020, 2, 29), date(2030, 12, 31)}
    clocks = {time(12)}
    for constraint in constraints:
        match constraint:
            case StartDateConstraint(start_date=start):
                days |= {start - timedelta(days=1), start}
            case TimeOfDateConstraint(start_time=start, end_time=end):
                clocks |= {edge.replace(tzinfo=None) for edge in (start, end)}
                clocks |= {before(edge) for edge in (start, end)}
                clocks |= {time(0), time(23, 59, 59)}
    for day in sorted(days):
        for clock in sorted(clocks):
            yield datetime.combine(day, clock, UTC)


def before(edge: time) -> time:
    return (datetime.combine(date(2000, 1, 1), edge) - timedelta(seconds=1)).time()


def tiers_of(model: ModelInfo) -> Iterator[tuple[str, dict[str, str], list[object], date]]:
    """Each service tier: its name, what the library is told, its constraints, its first recorded day."""
    yield "standard", {}, [], date.min
    contexts = {tuple(variant.when.items()): variant.when for variant in model.price_variants or ()}
    for ((key, value),), context in contexts.items():
        tier = value if key in ("processing", "service_tier", "speed") else f"{key}={value}"
        constraints = [variant.constraint for variant in model.price_variants if variant.when == context]
        first = min(constraint.start_date if constraint else date.min for constraint in constraints)
        yield tier, context, constraints, first


def context_lengths(model: ModelInfo) -> list[int]:
    starts = {
        tier.start
        for price in every_price(model)
        for value in vars(price).values()
        if isinstance(value, TieredPrices)
        for tier in value.tiers
    }
    return sorted({SHORT} | {tokens for start in starts for tokens in (start, start + 1)})


def requests() -> Iterator[tuple[Provider, ModelInfo, str, dict[str, str], datetime, int]]:
    for provider in providers:
        for model in provider.models:
            always = [constraint for constraint, _ in standard_prices(model)]
            for tier, context, constraints, first in tiers_of(model):
                for moment in moments(always + constraints):
                    if moment.date() >= first:
                        for tokens in context_lengths(model):
                            yield provider, model, tier, context, moment, tokens


@pytest.fixture(scope="module")
def whole_catalogue() -> pl.DataFrame:
    return rates.rate_card(
        rates.resolve((provider.id, model.id) for provider in providers for model in provider.models)
    )


def test_it_agrees_with_the_library_on_its_whole_catalogue(whole_catalogue, tmp_path):
    asked = list(requests())
    cases = [
        (case_id, provider.id, model.id, tier, moment.date(), moment.time(), tokens, meter, Decimal(quantity))
        for case_id, (provider, model, tier, _, moment, tokens) in enumerate(asked)
        for meter, quantity in (PER_REQUEST | {"input": tokens - CACHED_OR_MEDIA}).items()
    ]
    ours = looked_up(tmp_path, whole_catalogue, cases)

    wrong, rounded = [], set()
    for (provider, model, tier, context, moment, tokens), usd in zip(asked, ours, strict=True):
        theirs = model.calc_price(
            usage(tokens), provider, genai_request_timestamp=moment, price_context=context
        ).total_price
        difference = abs((usd or 0) - theirs)
        if difference:
            rounded.add((provider.id, model.id))
        if difference > ROUNDING * (tokens + 50_000):
            wrong.append((provider.id, model.id, tier, str(moment), tokens, usd, theirs))
    assert not wrong, f"{len(wrong)} of {len(asked)}, for example {wrong[:3]}"
    assert len(asked) > 6_000
    assert rounded <= with_more_than_fifteen_decimals()


def with_more_than_fifteen_decimals() -> set[tuple[str, str]]:
    """Models with a price by the hour (3,600 seconds), or one in less than billionths per million."""
    return {
        (provider.id, model.id)
        for provider in providers
        for model in provider.models
        for price in every_price(model)
        for key, value in vars(price).items()
        for usd in amounts(value)
        if key.endswith("_hours") or usd * 10**9 % 1
    }


def test_what_rounding_can_do_is_less_than_a_millionth_of_a_price(whole_catalogue):
    """5e-16 USD on a unit, of which the cheapest, a token, is 1.1e-9 USD."""
    prices = whole_catalogue.filter(pl.col("usd_per_unit") > 0)["usd_per_unit"]
    assert ROUNDING / prices.min() < Decimal("1e-6")


def test_every_context_threshold_of_the_catalogue_is_a_band(whole_catalogue):
    thresholds = set(whole_catalogue["context_above_tokens"]) - {0}
    missing = thresholds - set(rates.CONTEXT_BANDS)
    assert not missing, f"add {sorted(missing)} to rates.CONTEXT_BANDS and rebuild the rollups"
    assert sorted(rates.CONTEXT_BANDS) == list(rates.CONTEXT_BANDS)


def test_every_meter_but_images_can_have_a_price(whole_catalogue):
    meters = {meter.name for meter in records.METERS} | {"file_searches"}
    assert meters - set(whole_catalogue["meter"]) == {"images"}
    assert set(whole_catalogue["meter"]) <= meters


def test_at_no_moment_has_a_meter_two_prices(whole_catalogue):
    last = (pl.col("valid_from").shift(-1) >= pl.col("valid_to")).fill_null(True)
    keys = ["provider", "model_key", "meter", "service_tier", "context_above_tokens", "from_time", "to_time"]
    overlapping = (
        whole_catalogue.sort("valid_from")
        .with_columns(is_disjoint=last.over(keys))
        .filter(~pl.col("is_disjoint") | (pl.col("valid_from") >= pl.col("valid_to")))
    )
    assert overlapping.is_empty()


# Prices as people know them: USD for a million tokens or for a thousand searches.

TODAY = date(2026, 11, 20)
M, K = 1_000_000, 1_000

KNOWN = [
    # provider, model as recorded, tier, day, input tokens of the request, meter, quantity, USD
    ("openai", "gpt-4o", "standard", TODAY, 500, "input", M, "2.50"),
    ("openai", "gpt-4o", "standard", TODAY, 500, "output", M, "10"),
    ("openai", "gpt-4o", "standard", TODAY, 500, "cache_read", M, "1.25"),
    ("openai", "gpt-4o", "standard", TODAY, 500, "web_search", K, "10"),
    ("openai", "gpt-4o", "standard", TODAY, 500, "file_searches", K, "2.50"),
    ("openai", "gpt-4o", "batch", TODAY, 500, "input", M, "1.25"),
    ("openai", "gpt-4o", "batch", TODAY, 500, "output", M, "5"),
    ("openai", "gpt-4o", "priority", TODAY, 500, "output", M, "17"),
    ("openai", "gpt-4o-2024-08-06", "standard", TODAY, 500, "input", M, "2.50"),
    ("openai", "gpt-4o-2024-05-13", "standard", TODAY, 500, "input", M, "5"),
    ("openai", "ft:gpt-4o-2024-08-06:acme::a1b2", "standard", TODAY, 500, "input", M, "3.75"),
    # the whole request is dearer as soon as it has one token more than 272,000
    ("openai", "gpt-5.5", "standard", TODAY, 272_000, "input", M, "5"),
    ("openai", "gpt-5.5", "standard", TODAY, 272_001, "input", M, "10"),
    ("openai", "gpt-5.5", "standard", TODAY, 272_000, "output", M, "30"),
    ("openai", "gpt-5.5", "standard", TODAY, 272_001, "output", M, "45"),
    ("openai", "gpt-5.5", "batch", TODAY, 272_001, "output", M, "22.50"),
    ("openai", "gpt-5.5", "priority", TODAY, 272_001, "output", M, "75"),
    ("anthropic", "claude-opus-5-5", "standard", TODAY, 500, "input", M, "4"),
    ("anthropic", "claude-opus-5-5", "standard", TODAY, 500, "output", M, "20"),
    ("anthropic", "claude-opus-5-5", "standard", TODAY, 500, "cache_read", M, "0.20"),
    ("anthropic", "claude-opus-5-5", "standard", TODAY, 500, "cache_write_5m", M, "5"),
    ("anthropic", "claude-opus-5-5", "standard", TODAY, 500, "cache_write_other", M, "5"),
    ("anthropic", "claude-opus-5-5", "standard", TODAY, 500, "cache_write_1h", M, "8"),
    ("anthropic", "claude-opus-5-5", "batch", TODAY, 500, "cache_write_1h", M, "4"),
    ("anthropic", "claude-opus-5-5", "fast", TODAY, 500, "output", M, "40"),
    ("anthropic", "claude-sonnet-4-5-20250929", "standard", TODAY, 200_000, "input", M, "3"),
    ("anthropic", "claude-sonnet-4-5-20250929", "standard", TODAY, 200_001, "input", M, "6"),
    ("anthropic", "claude-sonnet-4-5-20250929", "standard", TODAY, 200_001, "cache_read", M, "0.60"),
    ("anthropic", "claude-haiku-5-5", "standard", TODAY, 100_000, "output", M, "0.50"),
    ("anthropic", "claude-haiku-5-5", "standard", TODAY, 100_001, "output", M, "2.50"),
    # the last day of a price and the first of the next
    ("openai", "o3", "standard", date(2025, 6, 9), 500, "input", M, "10"),
    ("openai", "o3", "standard", date(2025, 6, 10), 500, "input", M, "2"),
    ("anthropic", "claude-opus-4-6", "standard", date(2026, 3, 12), 200_001, "output", M, "37.50"),
    ("anthropic", "claude-opus-4-6", "standard", date(2026, 3, 13), 200_001, "output", M, "25"),
    # a meter without a price of its own: a cache write and a picture are input, unless they say otherwise
    ("openai", "gpt-4o", "standard", TODAY, 500, "cache_write_other", M, "2.50"),
    ("openai", "gpt-4o", "standard", TODAY, 500, "input_image", M, "2.50"),
    # ... and what is part of nothing that has a price has none
    ("openai", "text-embedding-3-small", "standard", TODAY, 500, "input", M, "0.02"),
    ("openai", "text-embedding-3-small", "standard", TODAY, 500, "output", M, None),
    ("openai", "gpt-4o", "standard", TODAY, 500, "images", 1, None),
    ("openai", "tts-1", "standard", TODAY, 0, "characters", M, "15"),
    ("openai", "whisper-1", "standard", TODAY, 0, "audio_seconds", 60, "0.006"),
    # a name in the records that the catalogue spells otherwise
    ("xai", "grok-4.20", "standard", TODAY, 199_999, "output", M, "2.50"),
    ("xai", "grok-4.20", "standard", TODAY, 200_000, "output", M, "5"),
]


def test_prices_as_published(tmp_path):
    resolved = rates.resolve((provider, model) for provider, model, *_ in KNOWN)
    keys = {(provider, model): key for provider, model, key, *_ in resolved.iter_rows()}
    cases = [
        (case_id, provider, keys[provider, model], tier, day, time(12), tokens, meter, Decimal(quantity))
        for case_id, (provider, model, tier, day, tokens, meter, quantity, _) in enumerate(KNOWN)
    ]
    found = looked_up(tmp_path, rates.rate_card(resolved), cases)
    got = [(*known[:-1], usd) for known, usd in zip(KNOWN, found, strict=True)]
    assert got == [(*known[:-1], known[-1] and Decimal(known[-1])) for known in KNOWN]


# Before a tier was recorded. Most batch prices of the catalogue begin on 2026-10-14, others on 2026-10-12.

CARRIED_BACK = [
    # provider, model, tier, day, input tokens, meter, USD per million, why
    ("openai", "gpt-4o", "batch", date(2025, 1, 1), 500, "output", "5"),  # as first recorded
    ("openai", "gpt-5.5", "flex", date(2026, 10, 11), 272_001, "output", "22.50"),
    ("google", "gemini-4-argon", "batch", date(2026, 10, 13), 500, "input", "1"),
    ("google", "gemini-4-argon", "batch", date(2026, 11, 30), 500, "input", "1"),
    ("google", "gemini-4-argon", "batch", date(2026, 12, 1), 500, "input", "2"),
    # standard was 10 and became 2 on 2025-06-10; the batch price was recorded when it was 1 beside 2
    ("openai", "o3", "batch", date(2025, 6, 10), 500, "input", "1"),
    ("openai", "o3", "batch", date(2025, 6, 9), 500, "input", "5"),
    # cached input kept its price of 0.50: so did priority cached input, 0.875
    ("openai", "o3", "priority", date(2025, 6, 9), 500, "cache_read", "0.875"),
    # standard had a long-context price of 10 until 2026-03-12; batch was recorded later, 2.50 beside 5
    ("anthropic", "claude-opus-4-6", "batch", date(2026, 3, 12), 200_000, "input", "2.50"),
    ("anthropic", "claude-opus-4-6", "batch", date(2026, 3, 12), 200_001, "input", "5"),
    ("anthropic", "claude-opus-4-6", "batch", date(2026, 3, 13), 200_001, "input", "2.50"),
]


def test_a_tier_holds_before_it_was_recorded(tmp_path):
    card = rates.rate_card(rates.resolve((provider, model) for provider, model, *_ in CARRIED_BACK))
    cases = [
        (case_id, provider, model, tier, day, time(12), tokens, meter, Decimal(M))
        for case_id, (provider, model, tier, day, tokens, meter, _) in enumerate(CARRIED_BACK)
    ]
    found = looked_up(tmp_path, card, cases)
    got = [(*case[:-1], usd) for case, usd in zip(CARRIED_BACK, found, strict=True)]
    assert got == [(*case[:-1], Decimal(case[-1])) for case in CARRIED_BACK]


def test_one_price_is_one_row():
    """gpt-4o has cost the same since the catalogue knows it, in batches too."""
    card = rates.rate_card(rates.resolve([("openai", "gpt-4o")]))
    tiers = card.filter(pl.col("meter") == "output").select("service_tier", "valid_from", "valid_to")
    always = (date(1, 1, 1), date(9999, 12, 31))
    names = {"standard", "default", "priority", "fast", "batch"}
    assert sorted(tiers.rows()) == sorted((name, *always) for name in names)


# Names.

NAMES = [
    # provider, model as recorded, key, provider in the catalogue, priced
    ("openai", "gpt-4o-2024-08-06", "gpt-4o", "openai", True),
    ("openai", "GPT-4o", "gpt-4o", "openai", True),
    ("openai", "gpt-4o-20240806", "gpt-4o", "openai", True),
    ("anthropic", "claude-sonnet-4-5-20250929", "claude-sonnet-4-5", "anthropic", True),
    ("openrouter", "openai/gpt-4o", "openai/gpt-4o", "openrouter", True),
    ("together_ai", "ServiceNow-AI/Unheard-Of", "servicenow-ai/unheard-of", None, False),
    ("xai", "grok-4.20", "grok-4.20", "x-ai", True),
    # matched by no clause, but an id of the catalogue
    ("mistral", "pixtral-large", "pixtral-large", "mistral", True),
    # unknown, which is not free
    ("openai", "gpt-99", "gpt-99", None, False),
    # fine-tuned: as in usage reports and logs, and as on the bill, which names the base alone
    ("openai", "ft:gpt-4o-2024-08-06:acme::a1b2", "ft:gpt-4o", "openai", True),
    ("openai", "ft-gpt-4o-2024-08-06", "ft:gpt-4o", "openai", True),
    ("openai", "ft:GPT-99:acme:my-suffix:a1b2", "ft:gpt-99", None, False),
    ("openai", "ft-gpt-99", "ft:gpt-99", None, False),
    ("openai", "ft-", "ft-", None, False),
    ("azure", "ft-gpt-99", "ft-gpt-99", None, False),
    ("openai", "Acme-Experiment", "acme-experiment", None, False),
    ("hosted_vllm", "meta-llama/Llama-3.3-70B", "meta-llama/llama-3.3-70b", None, False),
    # known, and nobody recorded a price
    ("openai", "omni-moderation-latest", "moderation", "openai", False),
    # sold by others: no provider lends its price
    ("azure", "gpt-4o", "gpt-4o", None, False),
    ("anthropic", "gpt-4o", "gpt-4o", None, False),
    ("hosted_vllm", "gpt-4o", "gpt-4o", None, False),
]


def test_names():
    resolved = rates.resolve((provider, model) for provider, model, *_ in [*NAMES, *NAMES])
    assert sorted(resolved.rows()) == sorted(NAMES)


def test_a_model_has_rows_or_is_not_priced():
    resolved = rates.resolve((provider, model) for provider, model, *_ in NAMES)
    with_rows = set(rates.rate_card(resolved).select("provider", "model_key").rows())
    priced = resolved.filter("is_priced").select("provider", "model_key").rows()
    assert with_rows == set(priced)


def test_free_is_a_price():
    price = ModelPrice(input_mtok=Decimal(0), cache_read_mtok=Decimal("0.5"))
    assert rates._rates(price)["input"] == rates._rates(price)["cache_write_1h"] == {0: 0}
    assert rates._rates(price)["cache_read"] == {0: Decimal("0.0000005")}
    assert rates._rates(ModelPrice()) == {}


def test_a_cache_write_has_the_price_of_its_lifetime_or_of_any_cache_write():
    prices = {"input_mtok": 1, "cache_write_mtok": 2, "cache_write_5m_mtok": 3}
    found = rates._rates(ModelPrice(**{key: Decimal(usd) for key, usd in prices.items()}))
    per_million = {meter: bands[0] * M for meter, bands in found.items() if meter.startswith("cache_")}
    assert per_million == {"cache_write_5m": 3, "cache_write_1h": 2, "cache_write_other": 2, "cache_read": 1}


def test_a_tier_that_was_recorded_beside_a_free_price_says_nothing_about_another_price():
    free, paid = {"input": {0: Decimal(0)}}, {"input": {0: Decimal(3)}}
    assert rates._carried_back(tier=free, standard_then=free, standard=paid) == paid
    assert rates._carried_back(tier={}, standard_then={}, standard=paid) == paid


def test_the_same_name_has_each_sellers_own_price():
    card = rates.rate_card(
        rates.resolve([("groq", "llama-3.3-70b-versatile"), ("openai", "gpt-4o"), ("azure", "gpt-4o")])
    )
    assert set(card["provider"]) == {"groq", "openai"}


def test_the_names_of_providers_that_are_translated_are_in_the_catalogue():
    ids = {provider.id for provider in providers}
    assert set(rates._CATALOGUE_IDS.values()) <= ids
    assert not set(rates._CATALOGUE_IDS) & ids


@pytest.mark.parametrize("models", [[], [("hosted_vllm", "gpt-4o")]])
def test_nothing_priced_is_an_empty_table_of_the_same_columns(models):
    card = rates.rate_card(rates.resolve(models))
    assert card.is_empty()
    assert dict(card.schema) == rates.RATE_CARD


def test_the_version_names_the_catalogue():
    assert rates.catalogue_version().startswith("genai-prices ")


# Contract prices: each row of the seed that is wrong, and what is wrong with it.

CONTRACT_PRICES = """
provider,account_id,model,meter,service_tier,valid_from,valid_to,usd_per_million,discount_percent,note
openai,,,,,2026-01-01,,,10,
openai,,,,,2026-07-01,,,12.5,
openai,acme-eu,,,,2026-01-01,,,-10,
anthropic,,claude-opus-*,output,batch,2026-01-01,2027-01-01,0,,
anthropic,,claude-opus-*,input,batch,2026-01-01,,2,50,both usd_per_million and discount_percent are set
azure,,,input,,2026-01-01,,,,neither usd_per_million nor discount_percent is set
aws,,,input,,2026-01-01,,-1,,usd_per_million is negative
google,,,,,2026-01-01,,,100.5,discount_percent is more than 100
groq,,,,,2026-01-01,,2.5,,usd_per_million is set for no meter
mistral,,,,,2026-01-01,2026-01-01,,10,valid_to is not after valid_from
cohere,,command,,,2026-01-01,,,10,another row says as much from the same day on
cohere,,command,,,2026-01-01,2026-02-01,,20,another row says as much from the same day on
"""
DBT = Path(__file__).parents[1] / "dbt"


def test_malformed_contract_prices_are_told(tmp_path):
    (tmp_path / "contract_prices.csv").write_text(CONTRACT_PRICES.lstrip())
    seed = yaml.safe_load((DBT / "seeds/contract_prices.yml").read_text())["seeds"][0]
    types = seed["config"]["column_types"]
    columns = ", ".join(f"{name} {type_}" for name, type_ in types.items())
    test = (DBT / "tests/contract_prices_are_well_formed.sql").read_text()
    with duckdb.connect() as connection:
        connection.execute(f"create table contract_prices ({columns})")
        connection.execute(f"copy contract_prices from '{tmp_path}/contract_prices.csv' (header)")
        told = test.replace('{{ ref("contract_prices") }}', "contract_prices")
        found = connection.sql(f"select problem, note from ({told}) order by all").fetchall()
        wrong = connection.sql(
            "select note from contract_prices where note is not null order by all"
        ).fetchall()
    assert found == [(note, note) for (note,) in wrong]


def test_the_seed_has_the_columns_that_are_described():
    seed = yaml.safe_load((DBT / "seeds/contract_prices.yml").read_text())["seeds"][0]
    header = (DBT / "seeds/contract_prices.csv").read_text().splitlines()[0].split(",")
    assert header == list(seed["config"]["column_types"]) == [column["name"] for column in seed["columns"]]
