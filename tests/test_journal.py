"""The journal of a month: balanced to the cent, whatever the statement holds."""

from __future__ import annotations

from collections import defaultdict
from datetime import date
from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dagster_project import journal, settings

MONTH = date(2026, 10, 1)
ACCOUNTS = settings.Journal(
    expense_account="6420",
    payable_account="2100",
    accrual_account="2190",
    expense_accounts={"treasury": "1400"},
    payable_accounts={"anthropic": "2101"},
)


def row(team: str, usd: str | None, **said: Any) -> dict[str, Any]:
    return {
        "team": team,
        "cost_center": f"CC-{team}",
        "provider": "openai",
        "cost_basis": "billed",
        "corrects_month": None,
        "cost_usd": None if usd is None else Decimal(usd),
        **said,
    }


def booked(*statement: dict[str, Any]) -> list[tuple[str, str | None, str, str, str]]:
    rows = [line.row(journal.posting_date(MONTH)) for line in journal.lines(statement, MONTH, ACCOUNTS)]
    return [(r["account"], r["cost_center"], str(r["debit"]), str(r["credit"]), r["memo"]) for r in rows]


def test_thirds_of_a_dollar_sum_to_a_dollar():
    third = "0.333333333333"
    said = "AI usage 2026-10, openai"
    assert booked(row("a", third), row("b", third), row("c", "0.333333333334")) == [
        ("6420", "CC-a", "0.33", "0.00", f"{said}: a"),
        ("6420", "CC-b", "0.33", "0.00", f"{said}: b"),
        ("6420", "CC-c", "0.34", "0.00", f"{said}: c"),
        ("2100", None, "0.00", "1.00", said),
    ]


def test_projects_of_a_team_are_one_line_and_a_credit_changes_sides():
    lines = booked(row("a", "1.004"), row("a", "1.004", project="other"), row("b", "-5"))
    assert [line[:4] for line in lines] == [
        ("6420", "CC-a", "2.01", "0.00"),
        ("6420", "CC-b", "0.00", "5.00"),
        ("2100", None, "2.99", "0.00"),
    ]


def test_each_kind_of_money_has_its_accounts():
    lines = booked(
        row("a", "1", provider="anthropic"),
        row("a", "2", cost_basis="rated_usage"),
        row("a", "-3", corrects_month=date(2026, 8, 1)),
        row("treasury", "100", provider="openrouter"),
        row("a", "4", cost_basis="rated_usage", corrects_month=date(2026, 8, 1)),
        row("a", None, cost_basis="unpriced"),
    )
    assert lines == [
        ("6420", "CC-a", "1.00", "0.00", "AI usage 2026-10, anthropic: a"),
        ("2101", None, "0.00", "1.00", "AI usage 2026-10, anthropic"),
        ("6420", "CC-a", "2.00", "0.00", "AI usage 2026-10, openai, not billed yet: a"),
        ("2190", None, "0.00", "2.00", "AI usage 2026-10, openai, not billed yet"),
        ("6420", "CC-a", "4.00", "0.00", "AI usage 2026-08, openai, not billed yet, corrected in 2026-10: a"),
        ("2190", None, "0.00", "4.00", "AI usage 2026-08, openai, not billed yet, corrected in 2026-10"),
        ("6420", "CC-a", "0.00", "3.00", "AI usage 2026-08, openai, corrected in 2026-10: a"),
        ("2100", None, "3.00", "0.00", "AI usage 2026-08, openai, corrected in 2026-10"),
        ("1400", "CC-treasury", "100.00", "0.00", "AI usage 2026-10, openrouter: treasury"),
        ("2100", None, "0.00", "100.00", "AI usage 2026-10, openrouter"),
    ]


def test_a_team_that_moved_is_booked_on_both_cost_centres_and_the_first_of_equals_takes_the_cent():
    lines = booked(row("a", "0.005", cost_center="CC-old"), row("a", "0.005", cost_center="CC-new"))
    assert [line[:4] for line in lines] == [
        ("6420", "CC-new", "0.01", "0.00"),
        ("2100", None, "0.00", "0.01"),
    ]


def test_dust_is_no_line():
    assert booked(row("a", "0.000001")) == []


def test_months_end_on_their_last_day():
    ends = [
        journal.posting_date(date(year, month, 1)).day for year, month in ((2026, 2), (2028, 2), (2026, 12))
    ]
    assert ends == [28, 29, 31]


amounts = st.decimals(min_value=-(10**9), max_value=10**9, places=12)
rows = st.builds(
    row,
    st.sampled_from(["a", "b", "c", "unallocated"]),
    amounts,
    provider=st.sampled_from(["openai", "anthropic"]),
    cost_basis=st.sampled_from(["billed", "rated_usage"]),
    corrects_month=st.sampled_from([None, date(2026, 9, 1)]),
)


@given(st.lists(rows, max_size=12))
def test_debits_equal_credits_and_no_line_is_a_cent_off(statement):
    lines = journal.lines(statement, MONTH, ACCOUNTS)
    assert sum(line.amount for line in lines) == 0
    exact: defaultdict[tuple, Decimal] = defaultdict(Decimal)
    for said in statement:
        exact[said["provider"], said["cost_basis"], said["corrects_month"], said["team"]] += said["cost_usd"]
    for line in lines:
        assert line.amount == line.amount.quantize(journal.CENT)
        told = line.row(journal.posting_date(MONTH))
        assert told["debit"] - told["credit"] == told["exact_usd"] + told["rounding_usd"]
        assert told["exact_usd"] == line.exact
        if line.cost_center:
            assert abs(line.amount - line.exact) < journal.CENT
            assert line.exact in exact.values()
        else:
            assert abs(line.amount - line.exact) <= journal.CENT / 2
