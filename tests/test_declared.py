"""Declared costs become charge lines, to the last digit, and every mistake is told with its field."""

from __future__ import annotations

from calendar import monthrange
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagster_project import sources
from dagster_project.days import Days
from dagster_project.errors import ConfigError
from dagster_project.sources import declared


def lines(days: Days, **cost: object) -> list[tuple[date, Decimal]]:
    """Day and amount of the lines of one cost."""
    said = {"name": "a cost", "provider": "openai", "category": "adjustment", **cost}
    entry = declared.Entry.model_validate(
        {"name": "declared", "type": "declared", "start_date": date(2020, 1, 1), "costs": [said]}
    )
    with duckdb.connect() as connection:
        charges = declared.parse(entry, days, Path(), connection).records["charge"]
    return charges.select("usage_date", "billed_cost").rows()


def month(year: int, number: int) -> Days:
    return Days(date(year, number, 1), date(year, number, monthrange(year, number)[1]))


def total(found: list[tuple[date, Decimal]]) -> Decimal:
    return sum((amount for _, amount in found), Decimal(0))


@pytest.mark.parametrize(
    ("year", "number", "first", "second"),
    [
        # 10.00 / 28, 29, 30 and 31: the second day is the difference of the running totals
        (2026, 2, "0.357142857143", "0.357142857143"),
        (2028, 2, "0.344827586207", "0.344827586207"),
        (2026, 4, "0.333333333333", "0.333333333334"),
        (2026, 10, "0.322580645161", "0.322580645162"),
    ],
)
def test_the_days_of_a_month_sum_to_its_amount(year, number, first, second) -> None:
    found = lines(month(year, number), amount="10.00", every="month", **{"from": date(2026, 1, 1)})
    assert [amount for _, amount in found[:2]] == [Decimal(first), Decimal(second)]
    assert total(found) == 10


def test_a_month_that_is_cut_pays_for_its_days() -> None:
    """750.00 in a leap February: its 10th to 19th are 10 of 29 days, whichever days are pulled together."""
    cut = {"amount": "30", "quantity": 25, "unit": "seats", "every": "month"}
    period = {"from": date(2028, 2, 10), "until": date(2028, 2, 20)}
    found = lines(Days(date(2028, 1, 1), date(2028, 3, 31)), **cut, **period)
    assert [day for day, _ in found] == list(Days(date(2028, 2, 10), date(2028, 2, 19)))
    # round(750 * 19 / 29) - round(750 * 9 / 29)
    assert total(found) == Decimal("491.379310344828") - Decimal("232.758620689655")
    one_by_one = [lines(Days(day, day), **cut, **period)[0] for day, _ in found]
    assert one_by_one == found


@settings(max_examples=50, deadline=None)
@given(
    amount=st.decimals(min_value=Decimal("-1e13"), max_value=Decimal("1e13"), places=12).filter(bool),
    first=st.dates(date(2024, 1, 1), date(2028, 12, 31)),
    cut=st.integers(1, 30),
)
def test_any_cut_of_a_month_leaves_it_whole(amount: Decimal, first: date, cut: int) -> None:
    days = month(first.year, first.month)
    at = min(days.first + timedelta(days=cut), days.last)
    parts = [
        lines(days, amount=str(amount), every="month", **{"from": days.first, "until": at}),
        lines(days, amount=str(amount), every="month", **{"from": at}),
    ]
    assert sum(map(total, parts)) == amount


def test_what_is_due_every_day_or_once_is_whole() -> None:
    days = Days(date(2026, 10, 1), date(2026, 10, 3))
    every = {"every": "day", "from": date(2026, 10, 2)}
    assert lines(days, amount=1.1, **every) == [(day, Decimal("1.1")) for day in list(days)[1:]]
    assert lines(days, amount=-7, day=date(2026, 10, 3)) == [(date(2026, 10, 3), Decimal(-7))]


def test_an_amount_is_exact_however_it_is_written() -> None:
    days = Days(date(2026, 10, 1), date(2026, 10, 1))
    for written in (1234567890.12345, "1234567890.12345", Decimal("1234567890.12345")):
        assert lines(days, amount=written, day=days.first) == [(days.first, Decimal("1234567890.12345"))]
    longest = "12345678901234.123456789012"
    assert lines(days, amount=longest, day=days.first) == [(days.first, Decimal(longest))]


COST = "{name: A, provider: openai, amount: 5"
MISTAKES = {
    "nothing": ("costs: [{}]", ["costs.0.name: Field required", "costs.0.provider: ", "costs.0.amount: "]),
    "no due day": (f"costs: [{COST}}}]", ["costs.0: Value error, say when it is due: either `day:"]),
    "two due days": (
        f"costs: [{COST}, day: 2026-10-01, every: month, from: 2026-10-01}}]",
        ["costs.0: Value error, say when it is due: either `day:"],
    ),
    "no start": (f"costs: [{COST}, every: month}}]", ["costs.0: Value error, `every: month` needs `from`"]),
    "no period": (
        f"costs: [{COST}, every: day, from: 2026-10-02, until: 2026-10-02}}]",
        ["costs.0: Value error, `until` 2026-10-02 is not after `from` 2026-10-02"],
    ),
    "a dated day": (
        f"costs: [{COST}, day: 2026-10-01, until: 2026-10-02}}]",
        ["costs.0: Value error, what is due on a `day` has no `from` and `until`"],
    ),
    "several at once": (
        f"costs: [{COST}, day: 2026-10-01, category: credit, unit: seats, colour: red}},\n"
        f"    {COST}, every: week}}]",
        ["costs.0.colour: Extra inputs", "costs.1.every: Input should be 'month' or 'day'"],
    ),
    "what does not fit together": (
        f"costs: [{COST}, day: 2026-10-01, category: credit, unit: seats}}]",
        ["costs.0: Value error, `quantity` and `unit` need each other; a credit is a negative amount"],
    ),
    "the last day there is": (
        f"costs: [{COST}, day: 9999-12-31}}, {COST}, day: 9999-12-31}}]",
        [
            "costs.0: Value error, `day: 9999-12-31` has no end",
            "costs.1: Value error, `day: 9999-12-31` has no end",
        ],
    ),
    "a negative tax": (
        "costs: [{name: A, provider: b, amount: -1, category: tax, day: 2026-10-01}]",
        ["costs.0: Value error, a tax is a positive amount; what lowers a bill is a credit or an adj"],
    ),
    "money": (
        "costs: [{name: A, provider: b, amount: 0, day: 2026-10-01},\n"
        "    {name: B, provider: b, amount: 0.12345678901234567, day: 2026-10-01},\n"
        "    {name: C, provider: b, amount: true, day: 2026-10-01},\n"
        "    {name: D, provider: b, amount: .inf, day: 2026-10-01},\n"
        '    {name: E, provider: b, amount: "1.0000000000001", currency: usd, day: 2026-10-01}]',
        [
            "costs.0.amount: Value error, an amount is not 0",
            "costs.1.amount: Value error, put a number of so many digits in quotes",
            "costs.2.amount: Value error, this is not a number",
            "costs.3.amount: ",
            "costs.4.amount: Decimal input should have no more than 12 decimal places",
            "costs.4.currency: String should match pattern",
        ],
    ),
    "twice on a day": (
        f"costs: [{COST}, every: month, from: 2026-10-01}}, {COST}, day: 2026-11-05}}]",
        ["costs: Value error, `A` is declared twice for 2026-11-05; end the first by `until`"],
    ),
    "percentages": (
        "percentages: [{name: F, percent: 0, of: {category: purchase}, category: credit},\n"
        "    {name: G, percent: 4, of: {provider: a}}, {name: G, percent: 5, of: {provider: b}}]",
        [
            "percentages.0.percent: Input should be greater than 0",
            "percentages.0.of.provider: Field required",
            "percentages.0.category: Input should be 'fee' or 'tax'",
        ],
    ),
    "a percentage twice": (
        "percentages: [{name: G, percent: 4, of: {provider: a}},\n"
        "    {name: G, percent: 5, of: {provider: b}, from: 2026-10-01}]",
        ["percentages: Value error, `G` is declared twice for 2026-10-01"],
    ),
    "credits that are no purchase": (
        f"costs: [{COST}, every: month, from: 2026-10-01, prepaid: {{provider: openai}}}}]",
        ["costs.0: Value error, `prepaid` credits are a purchase on a `day`"],
    ),
    "a capacity that ends at once": (
        f"costs: [{COST}, day: 2026-10-01, capacity: {{tokens_per_day: 1}}}}]",
        ["costs.0: Value error, a `capacity` is a purchase `every` month or day"],
    ),
}


@pytest.mark.parametrize(("fields", "problems"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_told_with_their_field(fields, problems, tmp_path, monkeypatch) -> None:
    file = tmp_path / "sources.yaml"
    entry = f"sources:\n  plans:\n    type: declared\n    start_date: 2026-10-01\n    {fields}\n"
    file.write_text(entry, encoding="utf-8")
    monkeypatch.setenv("CHARGEBACK_SOURCES", str(file))
    with pytest.raises(ConfigError) as error:
        sources.configured()
    assert len(error.value.problems) == len(problems), error.value.problems
    for told, start in zip(error.value.problems, problems, strict=True):
        assert told.startswith(f"plans: {start}"), error.value.problems
