"""A year of months that are closed, and bills that change afterwards, by real ingestion, dbt and closing.

Prices are the catalogue's: gpt-4o 2.50 USD per million input tokens.
"""

from __future__ import annotations

import csv
import json
import re
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

from dagster_project import closing, settings, statement, warehouse
from dagster_project.days import Days
from dagster_project.errors import ConfigError
from dagster_project.lake import Lake
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
    for early in (date(2026, 2, 1), date(2026, 3, 1), date(9999, 12, 1)):
        with pytest.raises(closing.NotClosed, match="not over: today is 2026-02-28"):
            closing.refuse_out_of_order(books.lake, early, date(2026, 2, 28))
    closing.refuse_out_of_order(books.lake, date(2026, 2, 1), date(2026, 3, 1))
    (books.lake.closed / "2026-02").mkdir(parents=True)
    with pytest.raises(closing.NotClosed, match="in order, and 2026-03 is open"):
        closing.refuse_out_of_order(books.lake, date(2026, 4, 1), date(2026, 6, 1))
    with pytest.raises(closing.NotClosed, match="it is closed"):
        closing.refuse_out_of_order(books.lake, date(2026, 2, 1), date(2026, 6, 1))


def signed(lake: Lake, month: str, **files: str) -> Path:
    """A closed month, whose files hold nothing of a warehouse."""
    folder = lake.closed / month
    folder.mkdir(parents=True)
    said = {
        **{"month": f"{month}-01", "closed_at": "2026-12-01T09:00:00", "closed_by": "ana"},
        **{"accepted": [], "cost_usd": "37.010000000003"},
    }
    (folder / "closing.json").write_text(json.dumps(said))
    for name in ("statement.csv", "statement.parquet", "allocations.parquet"):
        (folder / name).write_text("team,cost_usd\nsearch,37.010000000003\n")
    for name, text in files.items():
        (folder / f"{name}.csv").write_text(text)
    names = sorted(file.name for file in folder.iterdir())
    sums = subprocess.run(["sha256sum", *names], cwd=folder, capture_output=True, check=True)
    (folder / "SHA256SUMS").write_bytes(sums.stdout)
    return folder


def built(lake: Lake) -> list[tuple[date, bool, str | None, str | None]]:
    """What the next build is told of closings; as its beginning does, it keeps it."""
    tables = closing.tables(lake)
    warehouse.write_tables(lake, tables)
    return tables["closings"].select("month", "is_closed", "closed_by", "reopened_by").rows()


def test_a_signed_file_that_was_touched_stops_the_build(tmp_path):
    lake = Books(tmp_path).lake
    folder = signed(lake, "2026-01")
    assert closing.tables(lake)["closings"].select("month", "is_closed", "cost_usd").rows() == [
        (date(2026, 1, 1), True, Decimal("37.010000000003"))
    ]
    (folder / ".~lock.statement.csv#").write_text("a spreadsheet has it open")
    closing.tables(lake)
    with (folder / "statement.csv").open("a") as file:
        file.write("search,1000000\n")
    with pytest.raises(closing.Damaged, match=r"2026-01/statement.csv is missing or is not what was signed"):
        closing.tables(lake)
    (folder / "SHA256SUMS").write_text("")
    with pytest.raises(closing.Damaged, match=r"2026-01/allocations.parquet is missing or is not"):
        closing.tables(lake)
    (folder / "SHA256SUMS").unlink()
    with pytest.raises(closing.Damaged, match="2026-01/SHA256SUMS is missing"):
        closing.tables(lake)


def reopened(lake: Lake, month: date) -> Path:
    return closing.reopen(lake, month, reason="why", by="bo", now=NEXT_YEAR)


def test_a_damaged_month_can_be_reopened_and_says_what_can_be_believed(tmp_path):
    lake = Books(tmp_path).lake
    january, february = date(2026, 1, 1), date(2026, 2, 1)
    signed(lake, "2026-01")
    (signed(lake, "2026-02") / "statement.csv").unlink()
    with pytest.raises(closing.Damaged, match=r"2026-02/statement\.csv"):
        built(lake)
    reopened(lake, february)
    (lake.closed / "2026-01" / "closing.json").write_text("{")
    reopened(lake, january)
    assert built(lake) == [(january, False, None, "bo"), (february, False, "ana", "bo")]


def test_each_closing_of_a_month_is_kept(tmp_path):
    lake = Books(tmp_path).lake
    january = date(2026, 1, 1)
    for number in (1, 2, 3):
        signed(lake, "2026-01")
        assert reopened(lake, january).name == f"2026-01.{number}"
    shutil.rmtree(lake.reopened / "2026-01.2")
    signed(lake, "2026-01")
    assert reopened(lake, january).name == "2026-01.2"
    assert built(lake) == [(january, False, "ana", "bo")] * 3


@pytest.mark.parametrize("where", ["closed/2026-01", "closed/2026-02", "reopened/2026-03.1"])
def test_what_was_signed_does_not_vanish(tmp_path, where):
    """Whichever month it was: without it all of it would be booked again, as a correction."""
    lake = Books(tmp_path).lake
    for month in ("2026-01", "2026-02", "2026-03"):
        signed(lake, month)
    reopened(lake, date(2026, 3, 1))
    assert len(built(lake)) == 3
    shutil.rmtree(lake.home / where)
    with pytest.raises(closing.Lost, match=f"what was signed of {Path(where).name[:7]} is neither in"):
        built(lake)
    lake.table("closings").unlink()
    assert len(built(lake)) == 2


@pytest.mark.parametrize(
    "name", ["2026-01.bak", "copy of 2026-01", ".2026-01", "2026-1", "0000-01", "2026-13"]
)
def test_a_copy_beside_the_closed_months_is_not_counted_twice(tmp_path, name):
    lake = Books(tmp_path).lake
    (lake.closed / "notes.txt").parent.mkdir()
    (lake.closed / "notes.txt").write_text("ask ana")
    shutil.copytree(signed(lake, "2026-01"), lake.closed / name)
    with pytest.raises(closing.Stranger, match=re.escape(f"{name} is no closed month")):
        closing.tables(lake)
    with pytest.raises(closing.Stranger):
        closing.refuse_out_of_order(lake, date(2026, 2, 1), date(2026, 6, 1))


def test_the_journal_is_the_signed_one(tmp_path):
    lake = Books(tmp_path).lake
    january, february = date(2026, 1, 1), date(2026, 2, 1)
    folder = signed(lake, "2026-01", journal="as signed\r\n")
    signed(lake, "2026-02")
    assert closing.journal_of(lake, january, None) == closing.journal_of(lake, january, ACCOUNTS)
    assert closing.journal_of(lake, january, ACCOUNTS) == b"as signed\r\n"
    with pytest.raises(ConfigError, match="there are no accounts to book to"):
        closing.journal_of(lake, february, None)
    with pytest.raises(closing.NotClosed, match="2026-03 stays as it is"):
        closing.journal_of(lake, date(2026, 3, 1), ACCOUNTS)
    (folder / "statement.parquet").write_text("team,cost_usd\nsearch,1.00\n")
    with pytest.raises(closing.Damaged, match=r"2026-01/statement.parquet"):
        closing.journal_of(lake, january, ACCOUNTS)


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@sum", "  =1", "\u00a0=1", "\uff1d1"])
def test_no_name_becomes_a_formula(tmp_path, name):
    statement.write_csv(tmp_path / "one.csv", ["team", "usd"], [{"team": name, "usd": Decimal("-1")}])
    with (tmp_path / "one.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [{"team": f"'{name}", "usd": "-1"}]


@pytest.fixture(scope="module")
def october(tmp_path_factory) -> Books:
    """A published warehouse of October, which is not over when it is pulled."""
    books = Books(tmp_path_factory.mktemp("home"))
    day = date(2026, 10, 30)
    books.used(day, "acme", "key", model="gpt-4o", input_tokens=M)
    books.charge(date(2026, 10, 29), "acme", "1", model="gpt-4o", meter="input")
    books.used(date(2026, 10, 29), "acme", "key", model="no-such-model", input_tokens=1000)
    books.used(day, "nobody bills", "key", model="no-such-model", input_tokens=1000)
    # one of which no bill was ever seen, although its provider's bills are pulled
    books.used(day, "new", "key", model="gpt-4o", input_tokens=4 * M)
    # an account that has no name
    books.used(day, None, "key", model="gpt-4o", input_tokens=2 * M)
    books.charge(date(2026, 10, 29), None, "1")
    books.pull(Days(date(2026, 10, 3), date(2026, 10, 30)), date(2026, 10, 31))
    built = books.build(written(books.home, "teams: {}\n"), *ALLOCATED)
    assert built.returncode == 0, built.stdout
    shutil.copyfile(books.lake.build, books.lake.published)
    return books


def test_what_may_still_move_is_a_doubt(october):
    source = hand_written("openai", {"charge": []})
    entry = source.entry.model_copy(update={"start_date": date(2026, 10, 2), "restates_days": 3})
    month = date(2026, 10, 1)
    assert closing.doubts_of_pulls(october.lake, month, {"openai": Source(entry, source.module)}) == [
        "openai: no charge records of 2026-10-02, 2026-10-31 were pulled",
        "openai: charge records of 2026-10-29..2026-10-30 may still be restated; "
        "they were not pulled again 3 days later",
    ]
    assert closing.doubts_of_build(october.lake.published, month) == [
        "openai acme: no bill yet for 2026-10-30; 2.50 USD are estimated",
        "openai new: no bill yet for 2026-10-30; 10.00 USD are estimated",
        "openai nobody bills: no bill yet for 2026-10-30; 0.00 USD are estimated",
        "openai: no bill yet for 2026-10-30; 5.00 USD are estimated",
        "1 allocations have no price and no bill; `fct_cost_allocations` has them",
    ]


@pytest.mark.parametrize(
    ("month", "problem"),
    [
        (date(2025, 10, 1), "no cost in it, and none before it\nThe first month with cost is 2026-10"),
        (date(2026, 11, 1), "there is cost in 2026-10, which is open"),
    ],
)
def test_the_first_month_to_close_is_the_first_with_cost(october, month, problem):
    with pytest.raises(closing.NotClosed, match=problem):
        close(october, month)
    assert closing.closed_months(october.lake) == []


def close(books: Books, month: date, by: str | None = "ana") -> None:
    closing.close(
        books.lake,
        month,
        accepted=["all of it"],
        reason="a story",
        by=by,
        now=NEXT_YEAR,
        accounts=None,
        ownership_map=books.home / "map",
    )


def test_somebody_signs(october, monkeypatch):
    with pytest.raises(closing.NotClosed, match="nobody signs\nSay who signs with --by NAME"):
        close(october, date(2026, 10, 1), by=" ")
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 2**31)
    with pytest.raises(closing.NotClosed, match="Say who signs with --by NAME"):
        close(october, date(2026, 10, 1), by=None)
    assert closing.closed_months(october.lake) == []
