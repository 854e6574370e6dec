"""Declared costs in the warehouse: percentages, prepaid credits and capacities.

Each account is one story, all built by one run of the real dbt project.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from conftest import ALLOCATED, Books, written

from dagster_project import closing
from dagster_project.days import Days
from dagster_project.sources import declared

FIRST, SECOND, THIRD, FOURTH, FIFTH = (date(2026, 10, day) for day in (1, 2, 3, 4, 5))
M = 1_000_000

OWNERSHIP = """
teams: {support: {}, search: {}, platform: {}}
services:
  cron: {team: search, match: {api_key: key_cron}}
  bot: {team: support, match: {api_key: key_bot}}
policies:
  - {match: {line_item: "Credits*"}, policy: central, team: platform}
  - {match: {line_item: "PTU (idle)"}, policy: central, team: platform}
  - {match: {line_item: "Seats"}, policy: proportional, over: provider}
  - {match: {line_item: "VAT"}, policy: proportional}
"""

WITH_THE_OLD_TEAM = OWNERSHIP.replace("teams: {", "teams: {gone: {cost_center: CC-9}, ").replace(
    "services:", "services:\n  old: {team: gone, match: {api_key: key_old}}"
)

OPENAI = {"provider": "openai"}
COSTS = [
    # three purchases for one account, another for whoever is left, one in euros
    {"name": "Credits one", **OPENAI, "amount": "10", "day": FIRST, "prepaid": {**OPENAI, "account": "pre"}},
    {"name": "Credits two", **OPENAI, "amount": "20", "day": THIRD, "prepaid": {**OPENAI, "account": "pre"}},
    {"name": "Credits three", **OPENAI, "amount": "5", "day": FIFTH, "prepaid": {**OPENAI, "account": "pre"}},
    {"name": "Credits all", **OPENAI, "amount": "1", "day": SECOND, "prepaid": {"provider": "mistral"}},
    {
        **{"name": "Credits in euros", **OPENAI, "amount": "0.7", "currency": "EUR", "day": FIRST},
        "prepaid": {"provider": "mistral", "account": "eu"},
    },
    # all that is ever paid for what the account uses: no bill says when, and the rate changes
    {
        **{"name": "Credits to top up", **OPENAI, "amount": "10", "currency": "EUR", "day": FIRST},
        "prepaid": {**OPENAI, "account": "topped up"},
    },
    {
        **{"name": "Credits of more", **OPENAI, "amount": "3", "day": THIRD},
        "prepaid": {**OPENAI, "account": "dollars"},
    },
    {
        **{"name": "PTU", "provider": "openai", "account": "east", "amount": "31", "every": "month"},
        **{"from": FIRST, "until": FIFTH},
        "capacity": {"tokens_per_day": 4 * M, "service_tier": "provisioned", "model": "gpt-4o*"},
    },
    # credits beside a capacity of the same model
    {
        **{"name": "Provisioned", **OPENAI, "account": "both", "amount": "1", "every": "day"},
        **{"from": FIRST, "until": SECOND},
        "capacity": {"tokens_per_day": 4 * M, "service_tier": "provisioned"},
    },
    {
        **{"name": "Credits of both", **OPENAI, "amount": "10", "day": FIRST},
        "prepaid": {**OPENAI, "account": "both"},
    },
    {
        **{"name": "Seats", "provider": "openai", "amount": "1.00", "quantity": 3, "unit": "seats"},
        **{"every": "day", "from": SECOND, "until": THIRD},
    },
]
RANDOM_DAYS = list(Days(FIRST, date(2026, 10, 6)))


def random_pots() -> Iterator[tuple[str, list[tuple[date, Decimal]], list[tuple[date, Decimal]]]]:
    """An account, what it bought, and what it used (or was refunded), each in any order of days."""
    chance = random.Random(20261001)
    for number in range(60):
        bought = [
            (chance.choice(RANDOM_DAYS), Decimal(chance.randint(1, 30))) for _ in range(chance.randint(1, 3))
        ]
        used = [
            (chance.choice(RANDOM_DAYS), Decimal(chance.choice([-9, -2, 1, 3, 8, 20])) + Decimal("1e-12"))
            for _ in range(chance.randint(0, 7))
        ]
        yield f"random {number}", bought, used


POTS = list(random_pots())
UNBILLED_POTS = [
    (f"{account}, unbilled", bought, [(day, whole) for day, amount in used if (whole := amount // 1) > 0])
    for account, bought, used in POTS[::3]
]
COSTS += [
    {
        **{"name": f"Credits of {account} {n}", "provider": provider, "amount": str(amount), "day": day},
        "prepaid": {"provider": provider, "account": account},
    }
    for provider, pots in (("cohere", POTS), ("openai", UNBILLED_POTS))
    for account, bought, _ in pots
    for n, (day, amount) in enumerate(bought)
]
PERCENTAGES = [
    {
        **{"name": "Gateway fee", "percent": "4", "from": SECOND},
        "of": {"provider": "openrouter", "category": "purchase"},
    },
    {
        "name": "VAT",
        "percent": 19,
        "category": "tax",
        "of": {"provider": "openrouter", "line_item": "Cr?dits *"},
    },
]


@pytest.fixture(scope="module")
def books(tmp_path_factory) -> Books:
    entry = {"name": "plans", "type": "declared", "start_date": date(2026, 1, 1)}
    books = Books(
        tmp_path_factory.mktemp("home"),
        plans=declared.Entry.model_validate({**entry, "costs": COSTS, "percentages": PERCENTAGES}),
        seeds={"fx_rates": ["EUR,2026-10-01,2026-10-02,1.1,ours", "EUR,2026-10-02,2027-01-01,1.2,ours"]},
    )

    # 4, 5 - 2, 12, 30 and 1 of usage: 10 run out in the middle of the third day, 20 in that of the fourth
    for day, amount in ((FIRST, "4"), (SECOND, "5"), (THIRD, "12"), (FOURTH, "30"), (FIFTH, "1")):
        books.charge(day, "pre", amount, api_key_id="key_cron", model="gpt-4o", meter="input")
    books.charge(SECOND, "pre", "-2", api_key_id="key_cron", model="gpt-4o", meter="input")
    books.charge(THIRD, "pre", "-1", charge_category="credit", line_item="Grant")

    # euros are drawn by their account only, at the rate of the purchase
    euros = {"provider": "mistral", "currency": "EUR", "api_key_id": "key_bot"}
    books.charge(FIRST, "eu", "0.3", **euros)
    books.charge(SECOND, "eu", "0.5", **euros)
    books.charge(SECOND, "eu", "0.25", provider="mistral", api_key_id="key_bot")
    # nothing was bought before the second day, and what was not covered then stays paid
    books.charge(FIRST, "any", "5", provider="mistral", api_key_id="key_bot")
    books.charge(THIRD, "any", "0.5", provider="mistral", api_key_id="key_bot")

    # 5.00 of the first day's 11.00 are used by two keys, and 8.00 of the second, when 6.00 are left
    topped = {"model": "gpt-4o", "provider": "openai"}
    books.used(FIRST, "topped up", "key_cron", input_tokens=M, **topped)
    books.used(FIRST, "topped up", "key_bot", input_tokens=M, requests=3, **topped)
    books.used(SECOND, "topped up", "key_cron", input_tokens=2 * M, output_tokens=100_000, **topped)
    books.used(SECOND, "topped up", "key_bot", input_tokens=800_000, **topped)
    books.used(SECOND, "topped up", None, model="nobody prices it", provider="openai", input_tokens=M)
    books.used(SECOND, "dollars", "key_bot", input_tokens=M, **topped)
    books.used(THIRD, "dollars", "key_bot", input_tokens=M, **topped)

    books.used(FIRST, "both", "key_cron", input_tokens=4 * M, service_tier="provisioned", **topped)
    books.used(FIRST, "both", "key_bot", input_tokens=M, **topped)

    # 1.00 a day for 4 million tokens: 1 of gpt-4o and 0.5 of its mini; just others; 2 and 4; nothing
    ptu = {"provider": "openai", "service_tier": "provisioned"}
    books.used(FIRST, "east", "key_cron", model="gpt-4o", input_tokens=600_000, output_tokens=100_000, **ptu)
    books.used(FIRST, "east", "key_bot", model="gpt-4o", input_tokens=300_000, requests=7, **ptu)
    books.used(FIRST, "east", "key_bot", model="gpt-4o-mini", input_tokens=500_000, **ptu)
    books.used(SECOND, "east", "key_bot", model="gpt-4o", provider="openai", input_tokens=9 * M)
    books.used(SECOND, "east", "key_bot", model="gpt-5.5", input_tokens=9 * M, **ptu)
    books.used(THIRD, "east", "key_cron", model="gpt-4o", input_tokens=2 * M, **ptu)
    books.used(THIRD, "east", "key_bot", model="gpt-4o-mini", input_tokens=4 * M, **ptu)
    # pay-as-you-go beside a capacity of which nothing is idle, with no bill yet
    books.used(THIRD, "east", "key_bot", model="gpt-5.5", provider="openai", input_tokens=M)

    # 4 percent of what is bought, from its first day; refunds and lines of no text, too
    bought = {"provider": "openrouter", "charge_category": "purchase"}
    books.charge(FIRST, "router", "100", line_item="Credits A", **bought)
    books.charge(SECOND, "router", "0.000000000013", line_item="Credits B", api_key_id="key_bot", **bought)
    books.charge(SECOND, "router", "-50", line_item="credits C", api_key_id="key_cron", **bought)
    books.charge(THIRD, "router", "25", **{**bought, "line_item": None})
    books.charge(SECOND, "router", "7", provider="openrouter", line_item="usage", api_key_id="key_bot")

    books.charge(FIRST, "old", "6", provider="vertex", api_key_id="key_old")

    for account, _, used in POTS:
        for day, amount in used:
            books.charge(day, account, str(amount), provider="cohere", api_key_id="key_bot")

    for account, _, used in UNBILLED_POTS:
        for day, amount in used:
            tokens = int(amount) * 400_000
            books.used(day, account, "key_bot", provider="openai", model="gpt-4o", input_tokens=tokens)

    books.pull(Days(FIRST, date(2026, 10, 6)))
    built = books.build(written(books.home, WITH_THE_OLD_TEAM), *ALLOCATED)
    assert built.returncode == 0, built.stdout[-4000:]
    return books


def lines(books: Books, where: str) -> list[tuple[date, str, str]]:
    rows = books.query(
        "select usage_date, line_item, billed_cost from fct_charges "
        f"where {where} order by usage_date, line_item"
    )
    return [(day, item, short(amount)) for day, item, amount in rows]


def short(amount: Decimal) -> str:
    return f"{amount:f}".rstrip("0").rstrip(".") if amount else "0"


def by_team(books: Books, where: str) -> dict[str, str]:
    rows = books.query(f"select team, sum(cost_usd) from fct_cost_allocations where {where} group by all")
    return {team: short(amount) for team, amount in rows}


OF_PRE = "regexp_matches(line_item, '^Credits (one|two|three)')"


def test_credits_are_drawn_first_in_first_out_until_they_are_used_up(books) -> None:
    assert lines(books, OF_PRE) == [
        (FIRST, "Credits one", "10"),
        (FIRST, "Credits one (drawdown)", "-4"),
        (SECOND, "Credits one (drawdown)", "-3"),
        (THIRD, "Credits one (drawdown)", "-3"),
        (THIRD, "Credits two", "20"),
        # 12 - 3, and of 30 what is left
        (THIRD, "Credits two (drawdown)", "-9"),
        (FOURTH, "Credits two (drawdown)", "-11"),
        # the 19 that nothing was left for stay paid otherwise
        (FIFTH, "Credits three", "5"),
        (FIFTH, "Credits three (drawdown)", "-1"),
    ]
    # users pay the 50 that they used less the grant, and the buyer keeps what is left of 35
    assert by_team(books, f"account_id = 'pre' or {OF_PRE}") == {"search": "49", "platform": "4"}


def drawn_by_hand(
    bought: Sequence[tuple[date, Decimal]], used: Sequence[tuple[date, Decimal]]
) -> dict[date, Decimal]:
    """What each day draws: a refund gives credits back, and what it is beyond them is used up first."""
    left, drawn, refunded = Decimal(0), Decimal(0), Decimal(0)
    found = {}
    for day in RANDOM_DAYS[RANDOM_DAYS.index(min(day for day, _ in bought)) :]:
        left += sum(amount for bought_on, amount in bought if bought_on == day)
        net = sum((amount for used_on, amount in used if used_on == day), Decimal(0))
        if net >= 0:
            from_refunds = min(net, refunded)
            refunded -= from_refunds
            today = min(net - from_refunds, left)
        else:
            today = -min(-net, drawn)
            refunded += -net + today
        left, drawn = left - today, drawn + today
        if today:
            found[day] = today
    return found


@pytest.mark.parametrize(("account", "bought", "used"), POTS)
def test_any_credits_are_drawn_as_by_hand(books, account, bought, used) -> None:
    rows = books.query(
        "select usage_date, -sum(billed_cost) from fct_charges where line_item like ? "
        "group by all having sum(billed_cost) <> 0",
        f"Credits of {account} _ (drawdown)",
    )
    assert dict(rows) == drawn_by_hand(bought, used)


@pytest.mark.parametrize(("account", "bought", "used"), UNBILLED_POTS)
def test_any_credits_are_drawn_by_usage_that_no_line_bills_and_the_rest_is_estimated(
    books, account, bought, used
) -> None:
    """2.50 USD for a million tokens, as a bill of the same amounts would say."""
    drawn = drawn_by_hand(bought, used)
    assert drawn == dict(
        books.query(
            "select usage_date, sum(cost_usd) from fct_cost_allocations "
            "where account_id = ? and cost_basis = 'billed' group by all having sum(cost_usd) <> 0",
            account,
        )
    )
    ((everything,),) = books.query(
        "select sum(cost_usd) from fct_cost_allocations where account_id = ? or line_item like ?",
        account,
        f"Credits of {account} %",
    )
    paid = sum(amount for _, amount in bought)
    assert everything == paid + sum(amount for _, amount in used) - sum(drawn.values())


def test_credits_of_an_account_and_a_currency_are_drawn_by_it_alone(books) -> None:
    assert lines(books, "line_item like 'Credits in euros%' or line_item like 'Credits all%'") == [
        (FIRST, "Credits in euros", "0.7"),
        (FIRST, "Credits in euros (drawdown)", "-0.3"),
        (SECOND, "Credits all", "1"),
        # the account's dollars have no credits of their own, and draw those of the provider
        (SECOND, "Credits all (drawdown)", "-0.25"),
        (SECOND, "Credits in euros (drawdown)", "-0.4"),
        (THIRD, "Credits all (drawdown)", "-0.5"),
    ]
    # 0.7 at 1.1; the usage of the second day was billed at 1.2
    assert by_team(books, "line_item like 'Credits in euros%'") == {"platform": "0"}
    assert by_team(books, "provider = 'mistral' and account_id = 'eu'") == {"support": "1.18"}


def test_credits_that_are_all_the_bill_there_is_are_paid_once(books) -> None:
    assert lines(books, "line_item like '%Credits to top up%' or line_item like '%Credits of more%'") == [
        (FIRST, "Credits to top up", "10"),
        # 5.00 and 6.00 USD at 1.1, the rate of the purchase
        (FIRST, "Credits to top up (drawdown)", "-4.545454545455"),
        (FIRST, "usage drawn from Credits to top up", "4.545454545455"),
        (SECOND, "Credits to top up (drawdown)", "-5.454545454545"),
        (SECOND, "usage drawn from Credits to top up", "0.681818181818"),
        (SECOND, "usage drawn from Credits to top up", "4.772727272727"),
        (THIRD, "Credits of more", "3"),
        (THIRD, "Credits of more (drawdown)", "-2.5"),
        (THIRD, "usage drawn from Credits of more", "2.5"),
    ]
    costs = (
        "select usage_date, cost_basis, team, sum(cost_usd) from fct_cost_allocations "
        "where account_id = '{}' group by all having sum(cost_usd) is distinct from 0 order by all"
    )
    rows = books.query(costs.format("topped up"))
    assert [(*said, usd if usd is None else short(usd)) for *said, usd in rows] == [
        (FIRST, "billed", "search", "2.5"),
        (FIRST, "billed", "support", "2.5"),
        # 6 of 6 and 2: the rest is not billed yet, and of one model nobody knows what it costs
        (SECOND, "billed", "search", "4.5"),
        (SECOND, "billed", "support", "1.5"),
        (SECOND, "rated_usage", "search", "1.5"),
        (SECOND, "rated_usage", "support", "0.5"),
        (SECOND, "unpriced", "unallocated", None),
    ]
    assert [(day, basis) for day, basis, *_ in books.query(costs.format("dollars"))] == [
        # nothing was bought before the third day
        (SECOND, "rated_usage"),
        (THIRD, "billed"),
    ]
    # nothing is left of what was bought first
    assert by_team(books, "line_item like 'Credits to top up%'") == {"platform": "0"}
    assert by_team(books, "line_item like 'Credits of more%'") == {"platform": "0.5"}


def test_credits_are_not_drawn_by_what_a_capacity_pays(books) -> None:
    assert by_team(books, "account_id = 'both'") == {"search": "1", "support": "2.5"}
    assert by_team(books, "line_item like 'Credits of both%'") == {"platform": "7.5"}


def test_a_capacity_is_paid_by_who_used_it_and_the_rest_is_idle(books) -> None:
    parts = books.query(
        "select usage_date, line_item, model, charge_category, billed_cost, quantity "
        "from fct_charges where line_item like 'PTU%' order by all"
    )
    assert [(*said, short(cost), short(tokens)) for *said, cost, tokens in parts] == [
        (FIRST, "PTU", "gpt-4o", "usage", "0.25", "1000000"),
        (FIRST, "PTU", "gpt-4o-mini", "usage", "0.125", "500000"),
        (FIRST, "PTU (idle)", None, "purchase", "0.625", "2500000"),
        (SECOND, "PTU (idle)", None, "purchase", "1", "4000000"),
        # 2 and 4 of 4 million: nothing is idle, and a third of what is paid for is 0.333333333333
        (THIRD, "PTU", "gpt-4o", "usage", "0.333333333333", "2000000"),
        (THIRD, "PTU", "gpt-4o-mini", "usage", "0.666666666667", "4000000"),
        (FOURTH, "PTU (idle)", None, "purchase", "1", "4000000"),
    ]
    # by rated cost: 1.50 + 1.00 of key_cron, 0.75 of key_bot; and all of the other model
    of_first = f"account_id = 'east' and usage_date = '{FIRST}'"
    assert by_team(books, of_first) == {
        "search": "0.192307692308",
        "support": "0.182692307692",
        "platform": "0.625",
    }
    assert by_team(books, f"line_item = 'PTU' and usage_date = '{THIRD}'") == {
        "search": "0.333333333333",
        "support": "0.666666666667",
    }


def test_usage_beside_a_capacity_is_not_paid_by_it(books) -> None:
    rows = books.query(
        "select distinct cost_basis from fct_cost_allocations "
        f"where account_id = 'east' and usage_date = '{SECOND}' and meter = 'input'"
    )
    assert rows == [("rated_usage",)]
    # 5.00 of gpt-5.5, and nothing of what the capacity has paid
    rows = books.query(
        "select team, model, sum(cost_usd) from fct_cost_allocations "
        f"where account_id = 'east' and usage_date = '{THIRD}' and cost_basis = 'rated_usage' group by all"
    )
    assert [(team, model, short(usd)) for team, model, usd in rows] == [("support", "gpt-5.5", "5")]


def test_seats_are_divided_by_what_teams_pay_of_the_provider(books) -> None:
    ((paid,),) = books.query("select count(*) from fct_charges where line_item = 'Seats' and billed_cost = 3")
    assert paid == 1
    assert sum(map(Decimal, by_team(books, "line_item = 'Seats'").values())) == 3
    assert set(by_team(books, "line_item = 'Seats'")) == {"search", "support", "platform"}


def test_a_percentage_follows_each_line_that_it_is_of(books) -> None:
    fees = books.query(
        "select usage_date, line_item, charge_category, api_key_id, billed_cost, charge_id from fct_charges "
        "where provider = 'openrouter' and line_item in ('Gateway fee', 'VAT') order by all"
    )
    assert [(*said, short(amount)) for *said, amount, _ in fees] == [
        (FIRST, "VAT", "tax", None, "19"),
        (SECOND, "Gateway fee", "fee", "key_bot", "0.000000000001"),
        (SECOND, "Gateway fee", "fee", "key_cron", "-2"),
        (SECOND, "VAT", "tax", "key_bot", "0.000000000002"),
        (THIRD, "Gateway fee", "fee", None, "1"),
    ]
    assert fees[0][-1] == "openai/2026-10-01/charge 12/plans/VAT"
    # a fee follows who is printed on the line: key_cron's refund is search's
    assert by_team(
        books, "line_item = 'Gateway fee' and provider = 'openrouter' and usage_date = '2026-10-02'"
    ) == {
        "support": "0.000000000001",
        "search": "-2",
    }


OCTOBER, NOVEMBER = date(2026, 10, 1), date(2026, 11, 1)


# The last test: it closes the month, and builds what is known afterwards.
def test_what_follows_from_a_bill_that_changes_after_the_close_is_corrected(books) -> None:
    shutil.copyfile(books.lake.build, books.lake.published)
    closing.close(
        books.lake,
        OCTOBER,
        accepted=["a day of usage has no bill"],
        reason="a story",
        by="ana",
        now=datetime(2026, 11, 2, tzinfo=UTC),
        accounts=None,
        ownership_map=books.home / "map",
    )
    booked = (
        "select * exclude (is_closed) from fct_cost_allocations where usage_date < ? order by allocation_id"
    )
    before = books.query(booked, NOVEMBER)

    def line(account: str, item: str, day: date) -> dict:
        (found,) = (
            charge
            for charge in books.charges
            if (charge["account_id"], charge["line_item"], charge["usage_date"]) == (account, item, day)
        )
        return found

    # what 19 % is of; what draws credits down; what seats are divided by; a team whose map is gone
    line("router", "Credits A", FIRST)["billed_cost"] = Decimal(200)
    line("pre", "input", FOURTH)["billed_cost"] = Decimal(5)
    line("pre", "input", FIRST)["api_key_id"] = "key_bot"
    books.charges.remove(line("old", "a line", FIRST))
    books.pull(Days(FIRST, date(2026, 10, 6)), NOVEMBER)
    built = books.build(written(books.home, OWNERSHIP), *ALLOCATED)
    assert built.returncode == 0, built.stdout[-4000:]

    assert books.query(booked, NOVEMBER) == before
    corrections = books.query(
        "select corrects_date, line_item, team, sum(cost_usd) from fct_cost_allocations "
        "where usage_date = ? group by all having sum(cost_usd) <> 0 order by all",
        NOVEMBER,
    )
    # the account's other costs are platform's credits of 200 and 13 units, support's usage of 7 and a unit
    # and nobody's 25 with their fee of 1: the 19 of tax that came on top go where its 38 would go today
    assert [(*said, short(usd)) for *said, usd in corrections] == [
        (FIRST, "Credits A", "platform", "100"),
        (FIRST, "VAT", "platform", "16.309012875537"),
        (FIRST, "VAT", "support", "0.570815450644"),
        (FIRST, "VAT", "unallocated", "2.120171673819"),
        (FIRST, "a line", "gone", "-6"),
        # 5 instead of 30, which took all of 11 that were left; the fifth day draws 1 of the older credits
        (FOURTH, "Credits two (drawdown)", "platform", "6"),
        (FOURTH, "input", "search", "-25"),
        (FIFTH, "Credits three (drawdown)", "platform", "1"),
        (FIFTH, "Credits two (drawdown)", "platform", "-1"),
    ]
    seats = "select team, sum(cost_usd) from {} where line_item = 'Seats' group by all"
    today = dict(books.query(seats.format("intermediate.int_allocations")))
    assert today != dict(books.query(seats.format("fct_cost_allocations"))), "others would pay them today"
    assert books.query(
        "select month, team, cost_center, corrects_month from statements where team = 'gone' order by all"
    ) == [(OCTOBER, "gone", "CC-9", None), (NOVEMBER, "gone", "CC-9", OCTOBER)]
    ((stated, received, estimated),) = books.query(
        """
        select
            (select sum(cost_usd) from statements),
            (select sum(billed_usd) from fct_charges),
            (select sum(cost_usd) from fct_cost_allocations where cost_basis <> 'billed')
        """
    )
    assert stated == received + estimated
