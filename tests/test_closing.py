"""A year of months that are closed, and bills that change afterwards, by real ingestion, dbt and closing.

Prices are the catalogue's: gpt-4o 2.50 USD per million input tokens.
"""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import ALLOCATED, Books, hand_written, written

from dagster_project import closing, settings
from dagster_project.days import Days
from dagster_project.sources import Source

OWNERSHIP = """
teams:
  support: {cost_center: CC-1}
  search: {cost_center: CC-2}
  "=cmd()": {cost_center: "+CC-3"}

services:
  support-bot:
    team: support
    match: {api_key: key_support}
  search-api:
    team: search
    match: {api_key: key_search}
  recommender:
    team: search
    match: {api_key: key_moving}
    history:
      - {until: 2026-04-01, team: support}
  hostile:
    team: "=cmd()"
    match: {api_key: key_hostile}
"""
ACCOUNTS = settings.Journal(
    expense_account="6420",
    payable_account="2100",
    accrual_account="2190",
    expense_accounts={"search": "6421"},
)
M = 1_000_000
NEXT_YEAR = datetime(2027, 2, 1, 9, tzinfo=UTC)


@dataclass
class Year:
    """Books whose months are closed; every charge is kept under a name, so that the bill can change it."""

    books: Books
    owners: Path
    lines: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def sources(self) -> dict[str, Source]:
        return {"openai": hand_written("openai", {"charge": [], "usage": []})}

    def bill(self, name: str, day: date, amount: str, **named: Any) -> None:
        self.books.charge(day, "acme", amount, record_id=name, **named)
        self.lines[name] = self.books.charges.pop()

    def build(self, last: date) -> None:
        """Pull all days up to `last`, as of the month after it, build and publish."""
        lake = self.books.lake
        self.books.charges[:] = self.lines.values()
        self.books.pull(Days(date(2026, 1, 1), last), date(2027, 1, 31))
        built = self.books.build(self.owners, *ALLOCATED)
        assert built.returncode == 0, built.stdout[-5000:]
        shutil.copyfile(lake.build, lake.published)

    def close(self, *months: int, accepted: Sequence[str] = (), reason: str | None = None) -> None:
        for month in months:
            closing.close(
                self.books.lake,
                date(2026, month, 1),
                accepted=accepted,
                reason=reason,
                by="ana",
                now=NEXT_YEAR,
                accounts=ACCOUNTS,
                ownership_map=self.owners,
            )

    def folder(self, month: int) -> Path:
        return self.books.lake.closed / f"2026-{month:02}"

    def booked(self, month: date) -> dict[tuple[str, date | None], Decimal]:
        """By team and the month that is corrected."""
        rows = self.books.query(
            "select team, date_trunc('month', corrects_date)::date, sum(cost_usd) from fct_cost_allocations "
            "where date_trunc('month', usage_date) = ? group by all having sum(cost_usd) <> 0",
            month,
        )
        return {(team, corrects): usd for team, corrects, usd in rows}

    def received(self) -> Decimal:
        return sum((line["billed_cost"] for line in self.lines.values()), Decimal(0))

    def total(self) -> Decimal:
        ((total,),) = self.books.query("select sum(cost_usd) from statements")
        return total


@pytest.fixture(scope="module")
def year(tmp_path_factory) -> Year:
    """A deployment at the end of 2026: nothing is closed, and nothing has been restated."""
    home = tmp_path_factory.mktemp("home")
    year = Year(Books(home), written(home, OWNERSHIP))
    for month in range(1, 13):
        day = date(2026, month, 10)
        for key in ("key_support", "key_search", "key_moving"):
            year.books.used(day, "acme", key, model="gpt-4o", input_tokens=M)
            if month < 12:
                named = {"api_key_id": key, "model": "gpt-4o", "meter": "input"}
                year.bill(f"{month} {key}", day, f"{10 * month}.000000000001", **named)
    year.bill("hostile", date(2026, 1, 11), "0.004", api_key_id="key_hostile")
    year.bill("nobody", date(2026, 1, 12), "7.006", api_key_id="key_nobody")
    year.bill("credit", date(2026, 5, 10), "-4.50", charge_category="credit", line_item="Refund")
    year.build(date(2026, 12, 31))
    return year


@pytest.mark.slow
def test_a_year_of_closings_and_restatements(year):
    """One story, told in order: each part begins where the one before has ended."""
    _the_first_quarter_is_closed(year)
    frozen = {month: year.booked(date(2026, month, 1)) for month in (1, 2, 3)}

    # February's bill comes late, a line of January is withdrawn, one of March was wrong; an owner is added
    year.bill("late", date(2026, 2, 20), "12.5", api_key_id="key_search")
    del year.lines["1 key_support"]
    year.lines["3 key_moving"]["billed_cost"] = Decimal("33")
    written(year.books.home, OWNERSHIP + SETTLED)
    year.build(date(2026, 12, 31))
    assert {month: year.booked(date(2026, month, 1)) for month in (1, 2, 3)} == frozen
    january, february, march = (date(2026, month, 1) for month in (1, 2, 3))
    assert year.booked(date(2026, 4, 1)) == {
        ("support", None): Decimal("40.000000000001"),
        ("search", None): Decimal("80.000000000002"),
        ("support", january): Decimal("-10.000000000001"),
        ("search", february): Decimal("12.5"),
        ("support", march): Decimal("2.999999999999"),  # it was support's in March
    }
    assert year.total() == year.received() + december(3)
    ((corrections, cost),) = year.books.query(
        "select sum(corrections_usd), sum(cost_usd) from chargeback_by_team where month = '2026-04-01'"
    )
    assert (corrections, cost) == (Decimal("5.499999999998"), Decimal("125.500000000001"))

    # the second quarter holds these corrections; then the same lines change once more
    year.close(4, 5, 6)
    year.lines["late"]["billed_cost"] = Decimal("12.25")
    year.bill("1 key_support", date(2026, 1, 10), "10.000000000001", api_key_id="key_support")
    year.build(date(2026, 12, 31))
    july = year.booked(date(2026, 7, 1))
    assert {owner: usd for owner, usd in july.items() if owner[1]} == {
        ("support", january): Decimal("10.000000000001"),
        ("search", february): Decimal("-0.25"),
    }
    assert year.total() == year.received() + december(3)

    # December is closed on estimates; its bill takes them back in January
    year.close(7, 8, 9, 10, 11)
    year.close(12, accepted=["acme: no bill yet"], reason="the board meets")
    year.bill("december", date(2026, 12, 10), "7.40", model="gpt-4o", meter="input")
    year.build(date(2026, 12, 31))
    in_january = year.booked(date(2027, 1, 1))
    assert sum(in_january.values()) == Decimal("7.40") - december(3)
    assert {corrects for _, corrects in in_january} == {date(2026, 12, 1)}
    assert year.total() == year.received()
    _the_trail_is_a_mart(year)
    _a_reopened_month_takes_its_corrections_back(year)


SETTLED = """
  nobody-any-more:
    team: search
    match: {api_key: key_nobody}
"""


def december(keys: int) -> Decimal:
    """The month without a bill: a million tokens of each key at list price."""
    return keys * Decimal("2.50")


def _the_first_quarter_is_closed(year: Year) -> None:
    year.close(1, 2, 3)
    said = json.loads((year.folder(1) / "closing.json").read_text())
    assert (said["closed_by"], said["billed_usd"], said["cost_usd"]) == (
        "ana",
        "37.010000000003",
        "37.010000000003",
    )
    assert said["bills"] == [
        {
            "provider": "openai",
            "account_id": "acme",
            "currency": "USD",
            "lines": 5,
            "billed_cost": "37.010000000003",
            "billed_usd": "37.010000000003",
        }
    ]
    proven = subprocess.run(
        ["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=year.folder(1), check=False
    )
    assert proven.returncode == 0

    rows = pl.read_parquet(year.folder(1) / "statement.parquet")
    assert rows.select("team", "cost_center", "cost_usd").rows() == [
        ("=cmd()", "+CC-3", Decimal("0.004")),
        ("search", "CC-2", Decimal("10.000000000001")),
        ("support", "CC-1", Decimal("20.000000000002")),
        ("unallocated", None, Decimal("7.006")),
    ]
    with (year.folder(1) / "statement.csv").open(newline="") as file:
        written_out = list(csv.DictReader(file))
    hostile = {"team": "'=cmd()", "cost_center": "'+CC-3", "cost_usd": "0.004000000000"}
    assert written_out[0].items() >= hostile.items()
    with (year.folder(1) / "journal.csv").open(newline="") as file:
        journal = list(csv.DictReader(file))
    assert [(row["account"], row["cost_center"], row["debit"], row["credit"]) for row in journal] == [
        # 0.004 + 10.000 + 20.000 + 7.006 is 37.01, so the half cent goes to who lost most by rounding down
        ("6421", "CC-2", "10.00", "0.00"),
        ("6420", "CC-1", "20.00", "0.00"),
        ("6420", "", "7.01", "0.00"),
        ("2100", "", "0.00", "37.01"),
    ]
    assert {row["posting_date"] for row in journal} == {"2026-01-31"}


def _the_trail_is_a_mart(year: Year) -> None:
    trail = year.books.query(
        "select month, is_closed, closed_by, reason, accepted, estimated_usd from month_closings order by all"
    )
    assert [month.month for month, *_ in trail] == list(range(1, 13))
    assert trail[0][1:] == (True, "ana", None, None, 0)
    assert trail[-1][1:] == (True, "ana", "the board meets", "acme: no bill yet", Decimal("7.50"))


def _a_reopened_month_takes_its_corrections_back(year: Year) -> None:
    lake = year.books.lake
    with pytest.raises(closing.NotClosed, match="2026-12 is closed after it"):
        closing.reopen(lake, date(2026, 11, 1), reason="a mistake", by="bo", now=NEXT_YEAR)
    kept = closing.reopen(lake, date(2026, 12, 1), reason="the bill came", by="bo", now=NEXT_YEAR)
    assert kept == lake.reopened / "2026-12.1"
    year.build(date(2026, 12, 31))
    assert year.booked(date(2027, 1, 1)) == {}
    assert sum(year.booked(date(2026, 12, 1)).values()) == Decimal("7.40")
    assert year.total() == year.received()
    undone = year.books.query(
        "select is_closed, reason, reopened_by, reopened_reason, reopened_at from month_closings "
        "where month = '2026-12-01'"
    )
    assert undone == [(False, "the board meets", "bo", "the bill came", NEXT_YEAR.replace(tzinfo=None))]


def test_months_are_closed_in_order_and_when_they_are_over(tmp_path):
    books = Books(tmp_path)
    with pytest.raises(closing.NotClosed, match="not over before 2026-03-01"):
        closing.refuse_out_of_order(books.lake, date(2026, 2, 1), date(2026, 2, 28))
    closing.refuse_out_of_order(books.lake, date(2026, 2, 1), date(2026, 3, 1))
    (books.lake.closed / "2026-02").mkdir(parents=True)
    with pytest.raises(closing.NotClosed, match="in order, and 2026-03 is open"):
        closing.refuse_out_of_order(books.lake, date(2026, 4, 1), date(2026, 6, 1))
    with pytest.raises(closing.NotClosed, match="it is closed"):
        closing.refuse_out_of_order(books.lake, date(2026, 2, 1), date(2026, 6, 1))


def test_a_signed_file_that_was_touched_stops_the_build(tmp_path):
    lake = Books(tmp_path).lake
    folder = lake.closed / "2026-01"
    folder.mkdir(parents=True)
    said = {"month": "2026-01-01", "closed_by": "ana", "accepted": [], "cost_usd": "37.010000000003"}
    (folder / "closing.json").write_text(json.dumps(said))
    (folder / "statement.csv").write_text("team,cost_usd\nsearch,37.010000000003\n")
    sums = subprocess.run(
        ["sha256sum", "closing.json", "statement.csv"], cwd=folder, capture_output=True, check=True
    )
    (folder / "SHA256SUMS").write_bytes(sums.stdout)
    assert closing.tables(lake)["closings"].select("month", "is_closed", "cost_usd").rows() == [
        (date(2026, 1, 1), True, Decimal("37.010000000003"))
    ]
    with (folder / "statement.csv").open("a") as file:
        file.write("search,1000000\n")
    with pytest.raises(closing.Damaged, match=r"2026-01/statement.csv is missing or is not what was signed"):
        closing.tables(lake)
    (folder / "SHA256SUMS").unlink()
    with pytest.raises(closing.Damaged, match="2026-01/SHA256SUMS is missing"):
        closing.tables(lake)


def test_what_may_still_move_is_a_doubt(tmp_path):
    books = Books(tmp_path / "home")
    day = date(2026, 10, 30)
    books.used(day, "acme", "key", model="gpt-4o", input_tokens=M)
    books.charge(date(2026, 10, 29), "acme", "1", model="gpt-4o", meter="input")
    books.used(date(2026, 10, 29), "acme", "key", model="no-such-model", input_tokens=1000)
    books.used(day, "nobody bills", "key", model="no-such-model", input_tokens=1000)
    books.pull(Days(date(2026, 10, 3), date(2026, 10, 30)), date(2026, 10, 31))
    built = books.build(written(tmp_path, "teams: {}\n"), *ALLOCATED)
    assert built.returncode == 0, built.stdout
    shutil.copyfile(books.lake.build, books.lake.published)
    source = hand_written("openai", {"charge": []})
    entry = source.entry.model_copy(update={"start_date": date(2026, 10, 2), "restates_days": 3})
    assert closing.doubts(books.lake, date(2026, 10, 1), {"openai": Source(entry, source.module)}) == [
        "openai: no charge records of 2026-10-02, 2026-10-31 were pulled",
        "openai: charge records of 2026-10-29..2026-10-30 may still be restated; "
        "they were not pulled again 3 days later",
        "openai acme: no bill yet for 2026-10-30; 2.50 USD are estimated",
        "1 allocations have no price and no bill; `fct_cost_allocations` has them",
    ]


def test_somebody_signs(tmp_path, monkeypatch):
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 2**31)
    (tmp_path / "closed" / "2026-10").mkdir(parents=True)
    with pytest.raises(closing.NotClosed, match="Say who signs with --by NAME"):
        closing.reopen(Books(tmp_path).lake, date(2026, 10, 1), reason="why", by=None, now=NEXT_YEAR)
    assert closing.closed_months(Books(tmp_path).lake) == [date(2026, 10, 1)]
