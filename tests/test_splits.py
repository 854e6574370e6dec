"""Splits, case by case: who pays for what several teams share, by fixed shares or by what they used.

Weights of a month are of all accounts together, so each story has teams of its own. Lines that name a key
and have no usage report are fragments as they are.
"""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest
from conftest import ALLOCATED, Books

from dagster_project.days import Days

FIRST, DAY, LAST = date(2026, 10, 1), date(2026, 10, 5), date(2026, 10, 31)
NEXT_MONTH = date(2026, 11, 1)
M = 1_000_000

STORIES = ("plain", "thirds", "credit", "nothing", "nobody", "tokens", "requests", "daily", "moved", "chain")
STORIES += ("unpriced", "large", "back", "again")

SPLITS = """
  plain: {split: by_usage, among: [plain-a, plain-b, plain-c], match: {account: plain}}
  thirds: {split: by_usage, among: [thirds-a, thirds-b, thirds-c], match: {account: thirds}}
  credit: {split: by_usage, among: [credit-a, credit-b], match: {account: credit}}
  nothing: {split: by_usage, among: [nothing-a, nothing-b], otherwise: platform, match: {account: nothing}}
  nobody: {split: by_usage, among: [nobody-a, nobody-b], match: {account: nobody}}
  tokens: {split: by_usage, among: [tokens-a, tokens-b], driver: tokens, match: {account: tokens}}
  requests: {split: by_usage, among: [requests-a, requests-b], driver: requests, match: {account: requests}}
  daily:
    split: by_usage
    among: [daily-a, daily-b]
    period: day
    otherwise: platform
    match: {account: daily}
  moved:
    split: by_usage
    among: [moved-a, moved-b]
    match: {account: moved}
    history: [{until: 2026-10-05, split: {moved-a: 0.5, moved-b: 0.5}}]
  back:
    split: {back-a: 0.25, back-b: 0.75}
    match: {account: back}
    history: [{until: 2026-10-05, split: by_usage, among: [back-a, back-b]}]
  again:
    split: {again-a: 0.9, again-b: 0.1}
    match: {account: again}
    history: [{until: 2026-10-05, split: {again-a: 0.2, again-b: 0.8}}]
  chain-fixed: {split: {chain-a: 0.5, chain-b: 0.5}, match: {account: chain fixed}}
  chain: {split: by_usage, among: [chain-a, chain-b], otherwise: platform, match: {account: chain}}
  chain-usage: {split: by_usage, among: [plain-a, chain-a], match: {account: chain usage}}
  unpriced: {split: by_usage, among: [unpriced-a, unpriced-b], match: {account: unpriced}}
  large: {split: by_usage, among: [large-a, large-b], match: {account: large}}
"""


def ownership_map() -> str:
    teams = [f"{story}-{name}" for story in STORIES for name in "abc"]
    owned = [f"  of-{team}: {{team: {team}, match: {{api_key: key-{team}}}}}" for team in teams]
    declared = [f"  {team}: {{}}" for team in [*teams, "platform"]]
    return "\n".join(["teams:", *declared, "services:", *owned]) + SPLITS


def spent(books: Books, day: date, team: str, amount: str, **said: object) -> None:
    """A line of the bill for a key that belongs to the team."""
    books.charge(day, "own", amount, api_key_id=f"key-{team}", meter="output", **said)


@pytest.fixture(scope="module")
def books(tmp_path_factory) -> Books:
    books = Books(tmp_path_factory.mktemp("home"))

    # three to one, whatever the day of the month; who used nothing, or in another month, pays nothing
    spent(books, FIRST, "plain-a", "30")
    spent(books, LAST, "plain-b", "10")
    spent(books, NEXT_MONTH, "plain-c", "1000")
    gpt4o = {"model": "gpt-4o", "meter": "input", "context_tier": "short", "service_tier": "standard"}
    books.charge(DAY, "plain", "100", quantity=Decimal(5), quantity_unit="tokens", **gpt4o)
    books.charge(NEXT_MONTH, "plain", "8")

    # what does not divide loses no digit
    for team in ("thirds-a", "thirds-b", "thirds-c"):
        spent(books, DAY, team, "7")
    books.charge(DAY, "thirds", "1.00")
    books.charge(DAY, "thirds", "-0.000000000001", charge_category="credit", line_item="a picodollar")

    # a credit reduces what a team used; more credit than use is no use, and no use is not less than none
    spent(books, DAY, "credit-a", "5")
    spent(books, DAY, "credit-a", "-2", charge_category="credit")
    spent(books, DAY, "credit-b", "1")
    spent(books, DAY, "credit-b", "-4", charge_category="credit")
    books.charge(DAY, "credit", "9")

    # none of them used anything
    books.charge(DAY, "nothing", "9")
    books.charge(DAY, "nobody", "9")

    # by tokens of all kinds, not by what they cost, nor by what is no token
    counted = {"quantity_unit": "tokens", "model": "gpt-4o"}
    spent(books, DAY, "tokens-a", "1", quantity=Decimal(3 * M), **counted)
    spent(books, DAY, "tokens-b", "99", quantity=Decimal(1 * M), **counted)
    stored = {"vector_store_bytes": Decimal(9 * M)}
    books.used(DAY, "stored", "key-tokens-b", service_tier=None, other_meters=stored)
    books.charge(DAY, "tokens", "4")

    # by requests
    for team, requests in {"requests-a": 4, "requests-b": 1}.items():
        books.used(DAY, "counted", f"key-{team}", model="gpt-4o", requests=requests, input_tokens=M)
    books.charge(DAY, "requests", "10")

    # day by day
    spent(books, FIRST, "daily-a", "3")
    spent(books, DAY, "daily-a", "3")
    spent(books, DAY, "daily-b", "1")
    for day in (FIRST, DAY, LAST):
        books.charge(day, "daily", "8")

    # within a month from fixed shares to shares by usage, from usage to fixed shares, and to other shares
    for story in ("moved", "back", "again"):
        spent(books, FIRST, f"{story}-a", "90")
        spent(books, LAST, f"{story}-b", "10")
        books.charge(date(2026, 10, 4), story, "10")
        books.charge(DAY, story, "10")

    # what a split gave a team is not its own, neither for other splits nor for itself
    books.charge(DAY, "chain fixed", "10")
    books.charge(DAY, "chain", "6")
    books.charge(DAY, "chain usage", "5")

    # nobody knows what it cost, so it weighs nothing; what is split has no price either, and stays whole
    spent(books, DAY, "unpriced-a", "2")
    home_made = {"model": "home-made", "input_tokens": 700}
    books.used(DAY, "unpriced own", "key-unpriced-b", **home_made)
    books.used(DAY, "unpriced", None, **home_made)

    # more than ten million dollars
    for _ in range(8):
        spent(books, DAY, "large-a", "5000000.000000000001")
    for _ in range(4):
        spent(books, DAY, "large-b", "5000000")
    books.charge(DAY, "large", "3")

    books.pull(Days(FIRST, NEXT_MONTH))
    folder = books.home / "map"
    folder.mkdir()
    (folder / "owners.yaml").write_text(ownership_map(), encoding="utf-8")
    built = books.build(folder, *ALLOCATED)
    assert built.returncode == 0, built.stdout[-4000:]
    return books


def paid(books: Books, account: str, day: date = DAY) -> dict[str, Decimal | None]:
    rows = books.query(
        "select team, sum(cost_usd) from fct_cost_allocations "
        "where account_id = ? and usage_date = ? group by all",
        account,
        day,
    )
    return dict(rows)


@pytest.mark.parametrize(
    ("account", "day", "owners"),
    [
        ("plain", DAY, {"plain-a": "75", "plain-b": "25"}),
        ("plain", NEXT_MONTH, {"plain-c": "8"}),
        ("credit", DAY, {"credit-a": "9"}),
        ("nothing", DAY, {"platform": "9"}),
        ("nobody", DAY, {"unallocated": "9"}),
        ("tokens", DAY, {"tokens-a": "3", "tokens-b": "1"}),
        ("requests", DAY, {"requests-a": "8", "requests-b": "2"}),
        ("daily", FIRST, {"daily-a": "8"}),
        ("daily", DAY, {"daily-a": "6", "daily-b": "2"}),
        ("daily", LAST, {"platform": "8"}),
        ("moved", date(2026, 10, 4), {"moved-a": "5", "moved-b": "5"}),
        ("moved", DAY, {"moved-a": "9", "moved-b": "1"}),
        ("back", date(2026, 10, 4), {"back-a": "9", "back-b": "1"}),
        ("back", DAY, {"back-a": "2.5", "back-b": "7.5"}),
        ("again", date(2026, 10, 4), {"again-a": "2", "again-b": "8"}),
        ("again", DAY, {"again-a": "9", "again-b": "1"}),
        ("chain fixed", DAY, {"chain-a": "5", "chain-b": "5"}),
        ("chain", DAY, {"platform": "6"}),
        ("chain usage", DAY, {"plain-a": "5"}),
        ("large", DAY, {"large-a": "2", "large-b": "1"}),
    ],
)
def test_who_pays(books, account, day, owners):
    assert paid(books, account, day) == {team: Decimal(amount) for team, amount in owners.items()}


def test_what_does_not_divide_loses_no_digit(books):
    parts = books.query(
        "select team, cost_usd from fct_cost_allocations "
        "where account_id = 'thirds' and cost_usd > 0 order by team"
    )
    assert parts == [
        ("thirds-a", Decimal("0.333333333333")),
        ("thirds-b", Decimal("0.333333333334")),
        ("thirds-c", Decimal("0.333333333333")),
    ]
    assert sum(paid(books, "thirds").values()) == Decimal("0.999999999999")


def test_quantities_and_list_costs_are_divided_too_and_whole_tokens_stay_whole(books):
    parts = books.query(
        "select team, quantity, list_cost_usd from fct_cost_allocations "
        "where account_id = 'plain' and quantity is not null order by team"
    )
    assert [part[:2] for part in parts] == [("plain-a", Decimal(4)), ("plain-b", Decimal(1))]
    # five tokens at 2.50 USD per million
    assert sum(cost for *_, cost in parts) == Decimal("0.0000125")


def test_a_row_says_what_its_share_was_taken_of(books):
    columns = "team, split_share, split_weight, split_total, split_driver, split_period_start, owner_evidence"

    def rows(account: str, day: date = DAY) -> list[tuple[object, ...]]:
        return books.query(
            f"select distinct {columns} from fct_cost_allocations "
            "where account_id = ? and usage_date = ? order by team",
            account,
            day,
        )

    assert rows("plain") == [
        ("plain-a", Decimal("0.75"), Decimal(30), Decimal(40), "cost", FIRST, "account"),
        ("plain-b", Decimal("0.25"), Decimal(10), Decimal(40), "cost", FIRST, "account"),
    ]
    assert rows("daily") == [
        ("daily-a", Decimal("0.75"), Decimal(3), Decimal(4), "cost", DAY, "account"),
        ("daily-b", Decimal("0.25"), Decimal(1), Decimal(4), "cost", DAY, "account"),
    ]
    assert rows("tokens")[0][1:5] == (Decimal("0.75"), Decimal(3 * M), Decimal(4 * M), "tokens")
    assert rows("requests")[0][1:5] == (Decimal("0.8"), Decimal(4), Decimal(5), "requests")
    assert rows("nothing") == [("platform", Decimal(1), Decimal(0), Decimal(0), "cost", FIRST, "otherwise")]
    nobody = "nobody among them used anything"
    assert rows("nobody") == [("unallocated", Decimal(1), Decimal(0), Decimal(0), "cost", FIRST, nobody)]
    assert rows("back")[0] == ("back-a", Decimal("0.25"), None, None, None, None, "account")
    assert rows("own")[0][1:] == (Decimal(1), None, None, None, None, "API key")


def test_shares_by_usage_are_rounded_for_reading_and_sum_to_one(books):
    shares = books.query(
        "select distinct team, split_share from fct_cost_allocations "
        "where account_id = 'thirds' order by team"
    )
    assert sum(share for _, share in shares) == 1
    assert {share for _, share in shares} == {Decimal("0.333333333333"), Decimal("0.333333333334")}


def test_usage_that_nobody_prices_does_not_weigh_and_is_told(books):
    assert paid(books, "unpriced") == {"unpriced-a": None}
    quantity = books.query("select sum(quantity) from fct_cost_allocations where account_id = 'unpriced'")
    assert quantity == [(Decimal(700),)]
    check = books.home / "target/compiled/llm_chargeback/tests/splits_by_cost_that_nobody_knows.sql"
    told = books.query(
        f"select rule, team, model, unpriced_quantity from ({check.read_text(encoding='utf-8')})"
    )
    assert told == [("unpriced", "unpriced-b", "home-made", Decimal(700))]


def test_every_dollar_of_the_bill_is_paid_once(books):
    billed = sum(row["billed_cost"] for row in books.charges)
    assert books.query("select sum(cost_usd) from fct_cost_allocations where cost_basis = 'billed'") == [
        (billed,)
    ]
    assert books.query("select count(*) - count(distinct allocation_id) from fct_cost_allocations") == [(0,)]
