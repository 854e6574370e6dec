"""The general ledger's view of a closed month: a balanced journal, to the cent.

What bills say has twelve decimals, a ledger has two. Each provider's total is rounded once; its lines are
rounded down, and the cents that are left go to those that lost most (largest remainder), so debits
equal credits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from itertools import groupby
from typing import Any

from dagster_project.days import Days
from dagster_project.settings import Journal

CENT = Decimal("0.01")

COLUMNS = (
    "posting_date",
    "account",
    "cost_center",
    "debit",
    "credit",
    "currency",
    "memo",
    "exact_usd",
    "rounding_usd",
)


@dataclass(frozen=True)
class Line:
    """One line of the journal: `amount` in USD, a credit where negative; `exact` before rounding."""

    account: str
    cost_center: str | None
    memo: str
    exact: Decimal
    amount: Decimal

    def row(self, posting_date: date) -> Mapping[str, Any]:
        """The line as COLUMNS."""
        return {
            "posting_date": posting_date,
            "account": self.account,
            "cost_center": self.cost_center,
            "debit": max(self.amount, Decimal("0.00")),
            "credit": max(-self.amount, Decimal("0.00")),
            "currency": "USD",
            "memo": self.memo,
            "exact_usd": self.exact,
            "rounding_usd": self.amount - self.exact,
        }


def lines(statement: Sequence[Mapping[str, Any]], month: date, accounts: Journal) -> list[Line]:
    """The journal of `statement`: rows of the mart `statements`, of `month`.

    For each provider, and apart for estimates and for corrections of a closed month: an expense line per team
    and cost centre, and one line against them. What nobody priced has no amount and no line; what rounds to
    no cent is in the rounding of the others.
    """
    journal: list[Line] = []
    priced = [row for row in statement if row["cost_usd"] is not None]
    for (provider, is_billed, corrected), rows in _groups(priced, _against):
        about = f"AI usage {corrected or month:%Y-%m}, {provider}" + ("" if is_billed else ", not billed yet")
        if corrected:
            about += f", corrected in {month:%Y-%m}"
        expenses = [
            Line(
                accounts.expense_accounts.get(team, accounts.expense_account),
                cost_center,
                f"{about}: {team}",
                sum((row["cost_usd"] for row in owned), Decimal(0)),
                Decimal(0),
            )
            for (team, cost_center), owned in _groups(rows, _owner)
        ]
        rounded = to_the_cent(expenses)
        total = sum((line.exact for line in rounded), Decimal(0))
        owed = sum((line.amount for line in rounded), Decimal(0))
        account = (
            accounts.payable_accounts.get(provider, accounts.payable_account)
            if is_billed
            else accounts.accrual_account
        )
        journal += rounded
        journal.append(Line(account, None, about, -total, -owed))
    return [line for line in journal if line.amount]


def to_the_cent(exact: Sequence[Line]) -> list[Line]:
    """The lines with their `amount`: whole cents that sum to the rounded total, each less than a cent off."""
    total = sum((line.exact for line in exact), Decimal(0)).quantize(CENT, ROUND_HALF_EVEN)
    floors = [line.exact.quantize(CENT, ROUND_FLOOR) for line in exact]
    left = int((total - sum(floors, Decimal(0))) / CENT)
    order = sorted(range(len(exact)), key=lambda n: (floors[n] - exact[n].exact, n))
    up = set(order[:left])
    return [
        replace(line, amount=floor + (CENT if n in up else 0))
        for n, (line, floor) in enumerate(zip(exact, floors, strict=True))
    ]


def posting_date(month: date) -> date:
    """The last day of `month`."""
    return Days.of_month(month).last


def _against(row: Mapping[str, Any]) -> tuple[str, bool, date | None]:
    return row["provider"], row["cost_basis"] == "billed", row["corrects_month"]


def _owner(row: Mapping[str, Any]) -> tuple[str, str | None]:
    return row["team"], row["cost_center"]


def _groups(rows: Sequence[Mapping[str, Any]], key: Any) -> Iterator[tuple[Any, list[Mapping[str, Any]]]]:
    def order(row: Mapping[str, Any]) -> str:
        return str(key(row))

    for _, group in groupby(sorted(rows, key=order), key=order):
        members = list(group)
        yield key(members[0]), members
