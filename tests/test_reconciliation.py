"""Why the bill, the usage report and the gateways differ: each account is one story, worked out by hand.

Prices are the catalogue's: gpt-4o 2.50 USD per million input tokens, 1.25 cached or in a batch, and 10
output; gpt-5.5 5 input, 10 above 272,000 tokens of context.
"""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from random import Random

import pytest
from conftest import Books, written

from dagster_project.days import Days
from dagster_project.sources import declared

DAY = date(2026, 10, 5)
NEXT_DAY = date(2026, 10, 6)
NEXT_MONTH = date(2026, 11, 1)
M = 1_000_000
MODEL = {"model": "gpt-4o"}
LINE = {"meter": "input", "service_tier": "standard", "context_tier": "short", **MODEL}

CAUSES = {
    "billed": ("price", "tier_and_cache", "not_usage", "unsettled", "unexplained"),
    "usage": ("unseen_traffic", "over_coverage", "tier_and_cache", "price", "unsettled"),
}
DELTAS = {"billed": "billed_minus_usage_usd", "usage": "usage_minus_requests_usd"}
BILLED, USAGE = "billed minus usage", "usage minus requests"
MARTS = ("reconciliation_daily", "reconciliation_monthly", "reconciliation_by_key", "reconciliation_causes")

OPENAI, ANTHROPIC = {"provider": "openai"}, {"provider": "anthropic"}


def capacity(account: str) -> dict[str, object]:
    """12 USD a day for 4 million tokens, of which a million of gpt-4o's input is 2.50 otherwise."""
    return {
        **{"name": f"PTU of {account}", **OPENAI, "account": account, "amount": "12"},
        **{"every": "day", "from": DAY, "until": NEXT_DAY},
        "capacity": {"tokens_per_day": 4 * M, "service_tier": "provisioned", "model": "gpt-4o*"},
    }


def credits(account: str, amount: str, day: date = DAY) -> dict[str, object]:
    return {
        **{"name": f"Credits of {account}, {day:%B}", **OPENAI, "account": account},
        **{"amount": amount, "day": day, "prepaid": {**OPENAI, "account": account}},
    }


COSTS = [
    capacity("capacity"),
    capacity("capacity alone"),
    credits("prepaid", "100"),
    credits("prepaid alone", "12"),
    credits("prepaid alone", "4", NEXT_MONTH),
    credits("prepaid, late bill", "50"),
    {
        **{"name": "Credits of its own", **ANTHROPIC, "account": "pot: own", "amount": "3", "day": DAY},
        "prepaid": {**ANTHROPIC, "account": "pot: own"},
    },
    {"name": "Pot", **ANTHROPIC, "amount": "9", "day": DAY, "prepaid": ANTHROPIC},
]
PERCENTAGES = [
    {"name": "Gateway fee", "percent": 4, "of": {**OPENAI, "account": "percentages"}},
    {
        **{"name": "VAT", "percent": 19, "category": "tax"},
        "of": {**OPENAI, "account": "percentages", "category": "usage"},
    },
]

DECLARED = {
    "capacity": Decimal(12),
    "capacity alone": Decimal(12),
    "percentages": Decimal("1.84"),
    "prepaid": Decimal(100 - 9),
    "prepaid alone": Decimal(12),
    "prepaid, late bill": Decimal(50 - 10),
    "pot: first": Decimal("3.5"),
    "pot: second": Decimal("3.5"),
    "pot: own": Decimal(3),
    None: Decimal(9 - 2 - 7),
}
"""What that adds to the bills of DAY, less what their lines draw down."""


def counted(tokens: int, **line: object) -> dict[str, object]:
    return {**LINE, "quantity": Decimal(tokens), "quantity_unit": "tokens", **line}


def anything(books: Books, account: str, chance: Random) -> None:
    """A bill, a usage report and a log that have little to do with each other, or are not there."""
    one, below = chance.choice, chance.randrange

    def named(*tiers: str | None) -> dict[str, object]:
        return {
            "model": one(["gpt-4o", "gpt-5.5", "home-made", None]),
            "provider_project_id": one([None, "proj"]),
            "service_tier": one(["standard", "batch", None, *tiers]),
        }

    for _ in range(below(7)):
        books.charge(
            DAY,
            account,
            one([str(Decimal(below(-(10**13), 10**15)).scaleb(-12)), "0", "10", "-0.000000000001"]),
            charge_category=one(["usage"] * 4 + ["credit", "tax", "fee", "purchase", "adjustment"]),
            meter=one(
                ["input", "output", "cache_read", "web_search", "file_searches", "images", "requests", None]
            ),
            quantity=one([None, Decimal(below(10**7)), Decimal(-below(10**6)), Decimal("0.333333333333")]),
            quantity_unit=one(["tokens", "tokens", None, "searches"]),
            context_tier=one(["short", "long", None]),
            api_key_id=one([None, "key_1", "key_2", "no_key"]),
            **named(),
        )
    for _ in range(below(6)):
        books.used(
            DAY,
            account,
            one([None, "key_1", "key_2"]),
            context_tier=one([None, None, "short", "long"]),
            input_tokens=one([None, 0, 3, below(10**7)]),
            cache_read_tokens=one([None, below(10**6)]),
            output_tokens=one([None, below(10**6)]),
            web_searches=one([None, 5]),
            images=one([None, 2]),
            requests=one([None, 4]),
            **named(),
        )
    for _ in range(below(6)):
        books.asked(
            DAY,
            account,
            one([None, "key_1", "key_2"]),
            one(["vk_1", "vk_2"]),
            context_tokens=one([1000, 300_000]),
            input_tokens=one([None, 0, 3, below(10**7)]),
            cache_read_tokens=one([None, below(10**6)]),
            output_tokens=one([None, below(10**6)]),
            **named("priority"),
        )


@pytest.fixture(scope="module")
def books(tmp_path_factory) -> Books:  # noqa: PLR0915 - a book of short stories
    plans = {"costs": COSTS, "percentages": PERCENTAGES}
    entry = {"name": "plans", "type": "declared", "start_date": date(2026, 1, 1)}
    books = Books(tmp_path_factory.mktemp("home"), plans=declared.Entry.model_validate({**entry, **plans}))

    # a discount, on a bill that counts; a stale price, on one that does not
    books.charge(DAY, "discount", "9.00", **counted(4 * M))
    books.used(DAY, "discount", "key_cron", input_tokens=4 * M, **MODEL)
    books.charge(DAY, "stale", "12.50", **LINE)
    books.used(DAY, "stale", "key_cron", input_tokens=3 * M, **MODEL)
    books.used(DAY, "stale", "key_gateway", input_tokens=1 * M, **MODEL)

    # one key bypasses the gateway, a quarter of another does
    books.charge(DAY, "bypass", "15.00", **counted(6 * M))
    books.used(DAY, "bypass", "key_gateway", input_tokens=4 * M, **MODEL)
    books.used(DAY, "bypass", "key_cron", api_key_name="nightly", input_tokens=2 * M, **MODEL)
    books.asked(DAY, "bypass", "key_gateway", "vk", input_tokens=3 * M, **MODEL)

    # logged twice; and a key whose requests are on another day of the usage report
    books.charge(DAY, "twice", "5.00", **counted(2 * M))
    books.used(DAY, "twice", "key_gateway", input_tokens=2 * M, **MODEL)
    for _ in range(2):
        books.asked(DAY, "twice", "key_gateway", "vk", input_tokens=2 * M, **MODEL)
    books.charge(DAY, "skew", "2.50", **counted(1 * M))
    books.used(DAY, "skew", "key_gateway", input_tokens=1 * M, **MODEL)
    books.asked(DAY, "skew", "key_late", "vk", input_tokens=2 * M, **MODEL)

    # the usage report counts images, the gateway their tokens
    books.charge(DAY, "images", "1.00", model="gpt-image-1", meter="output_image")
    books.used(DAY, "images", "key_gateway", images=10, model="gpt-image-1")
    books.asked(DAY, "images", "key_gateway", "vk", output_image_tokens=50_000, model="gpt-image-1")

    # the gateway takes cached input for input; and sees 100,000 tokens less, too
    books.charge(DAY, "cache", "1.75", model="gpt-4o")
    books.used(DAY, "cache", "key_gateway", input_tokens=400_000, cache_read_tokens=600_000, **MODEL)
    books.asked(DAY, "cache", "key_gateway", "vk", input_tokens=1 * M, **MODEL)
    books.charge(DAY, "cache and bypass", "1.75", model="gpt-4o")
    books.used(
        DAY, "cache and bypass", "key_gateway", input_tokens=400_000, cache_read_tokens=600_000, **MODEL
    )
    books.asked(DAY, "cache and bypass", "key_gateway", "vk", input_tokens=700_000, **MODEL)

    # a batch that is billed or logged as standard
    batch = {"service_tier": "batch", **MODEL}
    books.charge(DAY, "batch counted", "10.00", **counted(4 * M))
    books.used(DAY, "batch counted", "key_cron", input_tokens=4 * M, **batch)
    books.charge(DAY, "batch uncounted", "10.00", **LINE)
    books.used(DAY, "batch uncounted", "key_cron", input_tokens=4 * M, **batch)
    books.charge(DAY, "batch logged", "5.00", **counted(4 * M, service_tier="batch"))
    books.used(DAY, "batch logged", "key_gateway", input_tokens=4 * M, **batch)
    books.asked(
        DAY, "batch logged", "key_gateway", "vk", input_tokens=4 * M, service_tier="standard", **MODEL
    )
    books.charge(DAY, "batch among", "25.00", **counted(10 * M))
    books.used(DAY, "batch among", "key_cron", input_tokens=6 * M, **MODEL)
    books.used(DAY, "batch among", "key_cron", input_tokens=4 * M, **batch)

    # the bill counts more than the usage report
    books.charge(DAY, "more", "12.50", **counted(5 * M))
    books.used(DAY, "more", "key_cron", input_tokens=4 * M, **MODEL)

    # long contexts that only the bill and the gateway tell apart
    long = {"model": "gpt-5.5", "quantity_unit": "tokens", "meter": "input", "service_tier": "standard"}
    books.charge(DAY, "long", "10.00", context_tier="long", quantity=Decimal(M), **long)
    books.charge(DAY, "long", "15.00", context_tier="short", quantity=Decimal(3 * M), **long)
    books.used(DAY, "long", "key_gateway", input_tokens=2 * M, model="gpt-5.5")
    books.used(DAY, "long", "key_cron", input_tokens=2 * M, model="gpt-5.5")
    for context in (300_000, 272_000):
        books.asked(DAY, "long", "key_gateway", "vk", input_tokens=M, context_tokens=context, model="gpt-5.5")

    # ... and do not agree on
    books.charge(DAY, "long disputed", "20.00", context_tier="long", quantity=Decimal(2 * M), **long)
    books.used(DAY, "long disputed", "key_gateway", input_tokens=2 * M, model="gpt-5.5")
    for context in (300_000, 272_000):
        books.asked(
            DAY,
            "long disputed",
            "key_gateway",
            "vk",
            input_tokens=M,
            context_tokens=context,
            model="gpt-5.5",
        )

    # lines that are no usage: a credit, a tax, a fee, a refund, tools
    books.charge(DAY, "other lines", "10.00", **counted(4 * M))
    books.charge(DAY, "other lines", "-1.50", charge_category="credit", line_item="Promotional credit")
    books.charge(DAY, "other lines", "0.85", charge_category="tax", line_item="VAT")
    books.charge(DAY, "other lines", "0.10", charge_category="fee", line_item="Platform fee")
    books.charge(DAY, "other lines", "-2.50", line_item="Refund", **counted(-1 * M))
    books.used(DAY, "other lines", "key_cron", input_tokens=4 * M, **MODEL)
    books.charge(DAY, "tools", "10.00", **counted(4 * M))
    books.charge(DAY, "tools", "0.30", meter="web_search", line_item="web search tool calls")
    books.charge(DAY, "tools", "0.05", meter="file_searches", line_item="file search tool calls")
    books.used(DAY, "tools", "key_cron", input_tokens=4 * M, **MODEL)
    books.used(DAY, "tools", "key_cron", web_searches=30, service_tier=None)

    # not in yet: the bill, the usage report
    books.used(DAY, "unbilled", "key_cron", input_tokens=4 * M, **MODEL)
    books.charge(DAY, "unbilled", "-1.00", charge_category="credit", line_item="Promotional credit")
    books.charge(DAY, "no report", "10.00", **LINE)
    books.asked(DAY, "no report", "key_gateway", "vk", input_tokens=1 * M, **MODEL)
    books.charge(DAY, "early credit", "-1.50", charge_category="credit")
    books.asked(DAY, "early credit", "key_gateway", "vk", input_tokens=2 * M, **MODEL)

    # a bill that counts stands for the usage report
    books.charge(DAY, "bill alone", "9.00", **counted(4 * M))
    books.asked(DAY, "bill alone", "key_gateway", "vk", input_tokens=1 * M, **MODEL)

    # ... where it counts; a line that names no meter does not take the requests of one that does
    books.charge(DAY, "some meters", "10.00", **counted(4 * M))
    books.charge(DAY, "some meters", "1.00", **MODEL)
    books.asked(DAY, "some meters", "key_gateway", "vk", input_tokens=1 * M, output_tokens=1000, **MODEL)

    # a model without a price
    homemade = {"model": "home-made", "meter": "output", "service_tier": "standard"}
    books.charge(DAY, "unpriced", "8.00", **homemade)
    books.used(DAY, "unpriced", "key_cron", output_tokens=300, model="home-made")

    # a line of any model, which counts in our prices for one of them only
    books.charge(DAY, "counted in part", "12.00", **counted(10 * M, model=None))
    books.used(DAY, "counted in part", "key_cron", input_tokens=4 * M, **MODEL)
    books.used(DAY, "counted in part", "key_cron", input_tokens=1 * M, model="home-made")

    # a line without usage, usage without a line, and what a bill's groups leave out
    books.charge(DAY, "surprise", "10.00", **counted(4 * M))
    books.charge(DAY, "surprise", "2.00", model="gpt-9", line_item="gpt-9, input")
    books.charge(DAY, "surprise", "6.00", api_key_id="key_nobody", line_item="unheard of", **counted(2 * M))
    books.charge(DAY, "surprise", "0.25", charge_category="adjustment", line_item="(remainder)")
    books.used(DAY, "surprise", "key_cron", input_tokens=4 * M, **MODEL)
    books.charge(DAY, "forgotten", "10.00", **counted(4 * M))
    books.used(DAY, "forgotten", "key_cron", input_tokens=4 * M, **MODEL)
    books.used(DAY, "forgotten", "key_cron", input_tokens=1 * M, model="gpt-5.5")
    books.charge(DAY, "one line", "9.00", charge_category="adjustment", line_item="Usage")
    books.used(DAY, "one line", "key_cron", input_tokens=4 * M, **MODEL)

    # nothing to reconcile with, in one month, and with one bill in the next
    books.asked(DAY, "gateway only", "key_gateway", "vk", input_tokens=2 * M, **MODEL)
    books.asked(NEXT_DAY, "months", "key_gateway", "vk", input_tokens=2 * M, **MODEL)
    for day in (DAY, NEXT_MONTH):
        books.charge(day, "months", "2.00", **counted(1 * M))
        books.used(day, "months", "key_gateway", input_tokens=1 * M, **MODEL)

    # a capacity beside usage whose bill is in, or is not
    for account, tokens in (("capacity", 3 * M), ("capacity alone", 4 * M)):
        books.used(DAY, account, "key_cron", input_tokens=tokens, service_tier="provisioned", **MODEL)
        books.used(DAY, account, "key_cron", input_tokens=M, model="gpt-5.5")
    books.charge(DAY, "capacity", "5.00", **counted(M, model="gpt-5.5"))

    # percentages of a line, and of a refund
    books.charge(DAY, "percentages", "9.00", **counted(4 * M))
    books.charge(DAY, "percentages", "-1.00", line_item="Refund", **counted(-M))
    books.used(DAY, "percentages", "key_cron", input_tokens=4 * M, **MODEL)

    # credits that billed usage draws down; that are all the bill there is; whose usage is not billed yet
    books.charge(DAY, "prepaid", "9.00", **counted(4 * M))
    books.used(DAY, "prepaid", "key_cron", input_tokens=4 * M, **MODEL)
    books.used(DAY, "prepaid alone", "key_cron", input_tokens=4 * M, **MODEL)
    books.used(NEXT_DAY, "prepaid alone", "key_cron", input_tokens=3 * M, **MODEL)
    books.used(NEXT_DAY, "prepaid alone", "key_bot", input_tokens=M, **MODEL)
    books.used(NEXT_MONTH, "prepaid alone", "key_bot", input_tokens=M, **MODEL)
    books.charge(DAY, "prepaid, late bill", "10.00", **counted(4 * M))
    for day in (DAY, NEXT_DAY):
        books.used(day, "prepaid, late bill", "key_cron", input_tokens=4 * M, **MODEL)

    # credits of a provider: one account is billed 2 by lines, two use 5 each that no line bills; so does one
    # that has credits of its own
    sonnet = {**ANTHROPIC, "model": "claude-opus-4-5"}
    books.charge(DAY, "pot: billed", "2.00", **ANTHROPIC, **counted(400_000, model=sonnet["model"]))
    books.used(DAY, "pot: billed", "key_cron", input_tokens=400_000, **sonnet)
    for account in ("pot: first", "pot: second", "pot: own"):
        books.used(DAY, account, "key_cron", input_tokens=M, **sonnet)

    # parts that no decimal can hold
    books.charge(DAY, "thirds", "0.100000000001", **counted(700_001))
    for number, tokens in enumerate((1, 333_333, 366_667), 1):
        books.used(DAY, "thirds", f"key_{number}", input_tokens=tokens, cache_read_tokens=7, **MODEL)
    books.asked(DAY, "thirds", None, "vk", input_tokens=700_003, output_tokens=11, **MODEL)
    books.asked(DAY, "thirds", "key_2", "vk", input_tokens=77_777, service_tier="priority", **MODEL)

    for number in range(100):
        anything(books, f"anything {number}", Random(number))

    books.pull(Days(DAY, NEXT_MONTH))
    selected = [f"+{mart}" for mart in MARTS]
    built = books.build(
        written(books.home, "teams: {}"), "--select", *selected, "--indirect-selection", "cautious"
    )
    assert built.returncode == 0, built.stdout[-4000:]
    return books


def causes(books: Books, account: str, day: date = DAY) -> dict[str, dict[str, Decimal]]:
    """The causes of each delta that are not zero; together they are the delta."""
    told: dict[str, dict[str, Decimal]] = {}
    for prefix, names in CAUSES.items():
        columns = [DELTAS[prefix], *(f"{prefix}_{name}_usd" for name in names)]
        ((delta, *parts),) = books.query(
            f"select {', '.join(columns)} from reconciliation_daily where account_id = ? and usage_date = ?",
            account,
            day,
        )
        assert delta == (None if None in parts else sum(parts))
        told[prefix] = {name: part for name, part in zip(names, parts, strict=True) if part}
    return told


def usd(**amounts: str) -> dict[str, Decimal]:
    return {cause: Decimal(amount) for cause, amount in amounts.items()}


@pytest.mark.parametrize(
    ("account", "of_the_bill", "of_the_usage"),
    [
        ("discount", usd(price="-1.00"), usd(unseen_traffic="10.00")),
        ("stale", usd(price="2.50"), usd(unseen_traffic="10.00")),
        ("bypass", {}, usd(unseen_traffic="7.50")),
        ("twice", {}, usd(over_coverage="-5.00")),
        ("skew", {}, usd(unseen_traffic="2.50", over_coverage="-5.00")),
        # 600,000 tokens at 1.25 were logged at 2.50
        ("cache", {}, usd(tier_and_cache="-0.75")),
        # half of what is cached is logged as input, at twice its price; the other half is not logged
        ("cache and bypass", {}, usd(tier_and_cache="-0.375", unseen_traffic="0.375")),
        # 50,000 image tokens at 40
        ("images", usd(tier_and_cache="1.00"), usd(tier_and_cache="-2.00")),
        ("batch counted", usd(tier_and_cache="5.00"), usd(unseen_traffic="5.00")),
        ("batch uncounted", usd(tier_and_cache="5.00"), usd(unseen_traffic="5.00")),
        ("batch logged", {}, usd(tier_and_cache="-5.00")),
        # 10 million at 2.50, but 6 at 2.50 and 4 at 1.25 were used
        ("batch among", usd(tier_and_cache="5.00"), usd(unseen_traffic="20.00")),
        ("more", usd(tier_and_cache="2.50"), usd(unseen_traffic="10.00")),
        ("long", {}, usd(unseen_traffic="10.00")),
        ("long disputed", {}, usd(tier_and_cache="5.00")),
        ("other lines", usd(not_usage="-3.05"), usd(unseen_traffic="10.00")),
        ("tools", usd(not_usage="0.35"), usd(unseen_traffic="10.00")),
        ("unbilled", usd(unsettled="-10.00", not_usage="-1.00"), usd(unseen_traffic="10.00")),
        ("no report", usd(unsettled="10.00"), usd(unsettled="-2.50")),
        ("early credit", usd(not_usage="-1.50"), usd(unsettled="-5.00")),
        ("bill alone", usd(price="-1.00"), usd(unseen_traffic="7.50")),
        ("some meters", usd(unsettled="1.00"), usd(unseen_traffic="7.50", unsettled="-0.01")),
        ("unpriced", usd(price="8.00"), {}),
        ("counted in part", usd(price="2.00"), usd(unseen_traffic="10.00")),
        ("surprise", usd(unexplained="8.25"), usd(unseen_traffic="10.00")),
        ("forgotten", usd(unexplained="-5.00"), usd(unseen_traffic="15.00")),
        ("one line", usd(price="-1.00"), usd(unseen_traffic="10.00")),
        # 9.00 for the 7.50 of three million tokens, and the fourth million idle
        ("capacity", usd(price="1.50", not_usage="3.00"), usd(unseen_traffic="12.50")),
        ("capacity alone", usd(price="2.00", unsettled="-5.00"), usd(unseen_traffic="15.00")),
        # 0.36 - 0.04 and 1.71 - 0.19 beside the refund
        ("percentages", usd(price="-1.00", not_usage="0.84"), usd(unseen_traffic="10.00")),
        ("prepaid", usd(price="-1.00", not_usage="91.00"), usd(unseen_traffic="10.00")),
        ("prepaid alone", usd(not_usage="2.00"), usd(unseen_traffic="10.00")),
        ("prepaid, late bill", usd(not_usage="40.00"), usd(unseen_traffic="10.00")),
        ("pot: billed", {}, usd(unseen_traffic="2.00")),
        # 9 less 2 are left for 5 of each
        ("pot: first", usd(unsettled="-1.50"), usd(unseen_traffic="5.00")),
        ("pot: second", usd(unsettled="-1.50"), usd(unseen_traffic="5.00")),
        ("pot: own", usd(unsettled="-2.00"), usd(unseen_traffic="5.00")),
    ],
)
def test_each_delta_has_its_causes(books, account, of_the_bill, of_the_usage):
    assert causes(books, account) == {"billed": of_the_bill, "usage": of_the_usage}


@pytest.mark.parametrize(
    ("account", "is_billed"),
    [("capacity", True), ("capacity alone", False), ("prepaid alone", True), ("pot: own", False)],
)
def test_a_day_is_billed_when_all_of_its_usage_is(books, account, is_billed):
    assert books.query(
        "select is_usage_billed from reconciliation_daily where account_id = ? and usage_date = ?",
        account,
        DAY,
    ) == [(is_billed,)]


def test_credits_are_left_for_usage_until_they_are_used_up_and_no_later_ones_pay_for_it(books):
    """2.00 of 12 are left for 10.00 of the second day; of 4 that are bought later, 2.50 are drawn."""
    assert causes(books, "prepaid alone", NEXT_DAY)["billed"] == usd(not_usage="-2.00", unsettled="-8.00")
    assert causes(books, "prepaid alone", NEXT_MONTH)["billed"] == usd(not_usage="1.50")
    # in proportion to what each key used
    assert books.query(
        "select api_key_id, billed_not_usage_usd, billed_unsettled_usd from reconciliation_by_key "
        "where account_id = 'prepaid alone' and usage_date = ? and api_key_id is not null order by all",
        NEXT_DAY,
    ) == [("key_bot", Decimal("-0.5"), Decimal(-2)), ("key_cron", Decimal("-1.5"), Decimal(-6))]


def test_usage_of_credits_that_lines_draw_is_late_where_it_has_none(books):
    assert causes(books, "prepaid, late bill", NEXT_DAY)["billed"] == usd(unsettled="-10.00")


def test_parts_that_no_decimal_holds_add_up_to_the_digit(books):
    ((billed, usage, requests),) = books.query(
        "select billed_usd, rated_usage_usd, rated_requests_usd from reconciliation_daily "
        "where account_id = 'thirds'"
    )
    told = causes(books, "thirds")
    assert billed == Decimal("0.100000000001")
    assert sum(told["billed"].values()) == billed - usage
    assert sum(told["usage"].values()) == usage - requests
    # 700,001 tokens at 2.50, and three times 7 cached ones at 1.25 that no line bills
    assert usage == Decimal("1.7500025") + Decimal("0.00002625")
    assert told["billed"]["unexplained"] == Decimal("-0.00002625")
    assert told["billed"]["price"] == Decimal("0.100000000001") - Decimal("1.7500025")


def evidence(books: Books, account: str, delta: str) -> list[tuple[str, str, Decimal]]:
    return books.query(
        "select cause, evidence, amount_usd from reconciliation_causes "
        "where account_id = ? and delta = ? and usage_date = ? order by all",
        account,
        delta,
        DAY,
    )


@pytest.mark.parametrize(
    ("account", "delta", "found"),
    [
        ("discount", BILLED, [("price", "gpt-4o input is billed at 0.9 of our price", "-1.00")]),
        ("stale", BILLED, [("price", "gpt-4o input is billed at 1.25 of our price", "2.50")]),
        ("unpriced", BILLED, [("price", "home-made output is billed and has no price of ours", "8.00")]),
        (
            "bypass",
            USAGE,
            [
                ("unseen_traffic", "key_cron (nightly) bypasses the gateways", "5.00"),
                ("unseen_traffic", "key_gateway: 25.0% was seen by no gateway", "2.50"),
            ],
        ),
        (
            "twice",
            USAGE,
            [("over_coverage", "key_gateway: its requests add up to more than the usage report", "-5.00")],
        ),
        (
            "skew",
            USAGE,
            [
                (
                    "over_coverage",
                    "key_late: requests of gpt-4o that the usage report does not have",
                    "-5.00",
                ),
                ("unseen_traffic", "key_gateway bypasses the gateways", "2.50"),
            ],
        ),
        (
            "other lines",
            BILLED,
            [
                ("not_usage", "credit: Promotional credit", "-1.50"),
                ("not_usage", "fee: Platform fee", "0.10"),
                ("not_usage", "tax: VAT", "0.85"),
                ("not_usage", "usage: Refund", "-2.50"),
            ],
        ),
        (
            "tools",
            BILLED,
            [
                ("not_usage", "usage: file search tool calls", "0.05"),
                ("not_usage", "usage: web search tool calls", "0.30"),
            ],
        ),
        (
            "unbilled",
            BILLED,
            [
                ("not_usage", "credit: Promotional credit", "-1.00"),
                ("unsettled", "no bill yet", "-10.00"),
            ],
        ),
        (
            "capacity",
            BILLED,
            [
                ("not_usage", "purchase: PTU of capacity (idle)", "3.00"),
                ("price", "gpt-4o input is billed at 1.2 of our price", "1.50"),
            ],
        ),
        (
            "capacity alone",
            BILLED,
            [
                ("price", "gpt-4o input is billed at 1.2 of our price", "2.00"),
                ("unsettled", "no bill yet", "-5.00"),
            ],
        ),
        (
            "percentages",
            BILLED,
            [
                ("not_usage", "fee: Gateway fee", "0.32"),
                ("not_usage", "tax: VAT", "1.52"),
                ("not_usage", "usage: Refund", "-1.00"),
                ("price", "gpt-4o input is billed at 0.9 of our price", "-1.00"),
            ],
        ),
        (
            "prepaid",
            BILLED,
            [
                ("not_usage", "credit: Credits of prepaid, October (drawdown)", "-9.00"),
                ("not_usage", "purchase: Credits of prepaid, October", "100.00"),
                ("price", "gpt-4o input is billed at 0.9 of our price", "-1.00"),
            ],
        ),
        (
            "prepaid alone",
            BILLED,
            [
                ("not_usage", "credit: Credits of prepaid alone, October (drawdown)", "-10.00"),
                ("not_usage", "purchase: Credits of prepaid alone, October", "12.00"),
            ],
        ),
        ("no report", USAGE, [("unsettled", "no usage report yet", "-2.50")]),
        (
            "surprise",
            BILLED,
            [
                (
                    "unexplained",
                    "adjustment: (remainder): names neither model nor meter, and other lines bill the usage",
                    "0.25",
                ),
                ("unexplained", "usage: gpt-9, input: the usage report has none of it", "2.00"),
                ("unexplained", "usage: unheard of: the usage report has none of it", "6.00"),
            ],
        ),
        (
            "forgotten",
            BILLED,
            [("unexplained", "key_cron: gpt-5.5 input was used and no line bills it", "-5.00")],
        ),
    ],
)
def test_each_cause_says_what_it_was_found_by(books, account, delta, found):
    assert evidence(books, account, delta) == [(cause, told, Decimal(usd)) for cause, told, usd in found]


def test_a_price_deviates_by_a_factor(books):
    assert books.query(
        "select account_id, model, meter, price_factor from reconciliation_causes "
        "where account_id in ('discount', 'stale', 'unpriced') and cause = 'price' order by all"
    ) == [
        ("discount", "gpt-4o", "input", Decimal("0.9")),
        ("stale", "gpt-4o", "input", Decimal("1.25")),
        ("unpriced", "home-made", "output", None),
    ]


def test_each_key_model_and_meter_is_reconciled(books):
    rows = books.query(
        "select api_key_id, api_key_name, meter, billed_usd, rated_usage_usd, rated_requests_usd, "
        "usage_unseen_traffic_usd from reconciliation_by_key where account_id = 'bypass' "
        "and meter <> 'requests' order by all"
    )
    assert rows == [
        ("key_cron", "nightly", "input", *map(Decimal, ("5", "5")), None, Decimal(5)),
        ("key_gateway", None, "input", *map(Decimal, ("10", "10", "7.5", "2.5"))),
    ]


def test_requests_alone_have_nothing_to_be_reconciled_with(books):
    assert books.query(
        "select billed_minus_usage_usd, usage_minus_requests_usd, usage_unsettled_usd, rated_requests_usd "
        "from reconciliation_daily where account_id = 'gateway only'"
    ) == [(None, None, None, Decimal(5))]
    assert not evidence(books, "gateway only", USAGE)


def test_months_are_their_days(books):
    rows = books.query(
        "select month, days, unbilled_days, unreported_days, billed_usd, rated_usage_usd, "
        "rated_requests_usd, rated_requests_alone_usd, billed_price_usd, usage_minus_requests_usd "
        "from reconciliation_monthly where account_id = 'months' order by month"
    )
    assert rows == [
        (date(2026, 10, 1), 2, 1, 1, *map(Decimal, ("2", "2.5", "5", "5", "-0.5", "2.5"))),
        (date(2026, 11, 1), 1, 0, 0, *map(Decimal, ("2", "2.5")), None, None, *map(Decimal, ("-0.5", "2.5"))),
    ]


def test_the_parts_were_held_against_the_whole(books):
    """The tests of the dbt project that block publication ran, on all of these stories."""
    results = json.loads((books.home / "target" / "run_results.json").read_text(encoding="utf-8"))["results"]
    ended = {result["unique_id"].split(".")[2]: result["status"] for result in results}
    for test in (
        "conserved_requests_onto_cells",
        "conserved_usage_reconciled",
        "reconciled_causes_sum_to_deltas",
        "reconciled_days_sum_to_months",
        "reconciled_evidence_sums_to_days",
        "reconciled_keys_sum_to_days",
        "reconciliation_difference_is_zero",
    ):
        assert ended[test] == "pass"


def test_what_was_unseen_is_never_negative_and_excess_never_positive(books):
    assert (
        books.query(
            "select account_id from reconciliation_by_key "
            "where usage_unseen_traffic_usd < 0 or usage_over_coverage_usd > 0"
        )
        == []
    )


def test_each_delta_is_the_sum_of_what_is_known(books):
    """Said once more in Python, for every account: the bill, and the causes of both deltas."""
    billed: dict[str | None, Decimal] = dict(DECLARED)
    for row in books.charges:
        if row["usage_date"] == DAY:
            billed[row["account_id"]] = billed.get(row["account_id"], Decimal(0)) + row["billed_cost"]
    of_the_bill, of_the_usage = (
        " + ".join(f"{prefix}_{name}_usd" for name in names) for prefix, names in CAUSES.items()
    )
    rows = books.query(
        "select account_id, billed_usd, coalesce(rated_usage_usd, 0), coalesce(rated_requests_usd, 0), "
        f"{of_the_bill}, {of_the_usage} from reconciliation_daily where usage_date = ?",
        DAY,
    )
    assert {account: usd for account, usd, *_ in rows if usd is not None} == billed
    reconciled = [row for row in rows if row[4] is not None]
    assert len(reconciled) > 100
    for _, usd, usage, requests, *found in reconciled:
        assert found == [(usd or 0) - usage, usage - requests]
