"""A pull that was cut off replaces nothing, unless somebody says that its days are that small."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import polars as pl
import pytest
from conftest import Books

from dagster_project import small_days
from dagster_project.days import Days
from dagster_project.errors import SourceError
from dagster_project.small_days import SmallDay

MONDAY = date(2026, 10, 26)
LATER = MONDAY + timedelta(days=10)
SHARE = Decimal("0.1")


def weeks(weekday: int, weekend: int, count: int = 4) -> dict[date, int]:
    """Rows of so many whole weeks before MONDAY."""
    days = [MONDAY - timedelta(days=n) for n in range(1, 7 * count + 1)]
    return {day: weekend if day.weekday() >= 5 else weekday for day in days}


def small(rows: int, held: dict[date, int], day: date = MONDAY, **changed) -> list[SmallDay]:
    given = {"whole": set(held), "today": LATER, "smallest_share": SHARE, **changed}
    return small_days.of_kind("usage", {day: rows}, held, **given)


@pytest.mark.parametrize(("rows", "expected"), [(99, 1000), (100, None), (5000, None), (0, 1000)])
def test_a_day_that_is_in_is_compared_with_itself(rows, expected):
    held = {**weeks(7, 7), MONDAY: 1000}
    assert small(rows, held) == ([SmallDay("usage", MONDAY, rows, expected)] if expected else [])


@pytest.mark.parametrize(("held", "is_small"), [(19, False), (20, True)])
def test_of_few_rows_a_day_may_lose_all(held, is_small):
    assert bool(small(0, {MONDAY: held})) == is_small


def test_a_new_day_is_compared_with_the_days_before_it():
    assert small(9, weeks(100, 100)) == [SmallDay("usage", MONDAY, 9, 100)]
    assert small(10, weeks(100, 100)) == []


def test_a_sunday_is_compared_with_a_sunday_and_a_monday_not_with_one_holiday():
    sunday = MONDAY + timedelta(days=6)
    held = {**weeks(1000, 30), **dict.fromkeys(Days(MONDAY, sunday - timedelta(days=1)), 1000)}
    assert small(3, held, sunday) == []
    assert small(2, held, sunday) == [SmallDay("usage", sunday, 2, 30)]
    holiday = {**weeks(1000, 30), MONDAY - timedelta(days=7): 40}
    assert small(4, holiday) == []
    assert small(3, holiday) == [SmallDay("usage", MONDAY, 3, 40)]


def test_of_days_of_two_sizes_the_smaller_is_usual():
    held = {day: rows for day, rows in weeks(40, 40).items() if (MONDAY - day).days > 14}
    held |= dict.fromkeys(Days(MONDAY - timedelta(days=14), MONDAY - timedelta(days=1)), 400)
    assert small(4, held) == []
    assert small(3, held) == [SmallDay("usage", MONDAY, 3, 40)]


def test_one_large_day_is_not_usual():
    held = {**weeks(30, 30), MONDAY - timedelta(days=7): 10_000}
    assert small(3, held) == []
    assert small(2, held) == [SmallDay("usage", MONDAY, 2, 30)]


def test_nothing_is_expected_with_fewer_than_seven_days_before_and_long_ago_is_not_before():
    days = weeks(100, 100, count=6)
    seven = {day: days[day] for day in sorted(days)[-7:]}
    assert small(0, seven) == [SmallDay("usage", MONDAY, 0, 100)]
    seven.pop(MONDAY - timedelta(days=3))
    assert small(0, seven) == []
    old = {day: rows for day, rows in days.items() if day < MONDAY - timedelta(days=22)}
    assert len(old) > 7
    assert small(0, old) == []
    seven[MONDAY - timedelta(days=28)] = 100
    assert small(0, seven) == [SmallDay("usage", MONDAY, 0, 100)]


@pytest.mark.parametrize(("days_later", "is_small"), [(1, False), (2, True)])
def test_a_day_that_is_hardly_over_may_be_as_small_as_it_is(days_later, is_small):
    assert bool(small(0, {MONDAY: 1000}, today=MONDAY + timedelta(days=days_later))) == is_small


def test_a_part_of_a_day_is_not_what_the_day_should_have():
    held = {**weeks(1000, 1000), MONDAY: 50}
    whole = held.keys() - {MONDAY}
    assert small(60, held, whole=whole) == [SmallDay("usage", MONDAY, 60, 1000)]
    assert small(60, held) == []
    few = {**weeks(30, 30), MONDAY: 500}
    assert small(40, few, whole=few.keys() - {MONDAY}) == [SmallDay("usage", MONDAY, 40, 500)]


# --- in a pull

DAYS = Days(MONDAY, MONDAY + timedelta(days=1))
NOW = datetime(2026, 11, 5, 5, tzinfo=UTC)


@pytest.fixture
def books(home) -> Books:
    """Two days with 30 lines of usage and of requests each, and one charge."""
    books = Books(home)
    for day in DAYS:
        books.charge(day, "acme", "1")
        for number in range(30):
            books.used(day, "acme", f"key_{number}", input_tokens=1)
            books.asked(day, "acme", "key", f"vk_{number}", input_tokens=1)
    books.pull(DAYS, instant=NOW)
    return books


def held(books: Books) -> list[int]:
    kinds = (("charge", "openai"), ("usage", "openai"), ("request", "gateway"))
    files = [books.lake.records(kind, source, day) for kind, source in kinds for day in DAYS]
    return [pl.scan_parquet(file).select(pl.len()).collect().item() for file in files]


def test_a_cut_off_report_is_refused_with_what_to_do_and_nothing_is_replaced(books):
    books.charges = []
    books.usage = books.usage[:32]
    with pytest.raises(SourceError) as raised:
        books.pull(DAYS, instant=NOW)
    assert str(raised.value) == (
        "source `openai`, usage records of 2026-10-27: 2 where 30 were expected: the answer looks cut off. "
        "Nothing was replaced. Pull again; if it is true, accept it with "
        "`chargeback run --source openai --from 2026-10-26 --to 2026-10-27 --accept-small-days`, or tag the "
        "run in the Dagster UI with `chargeback/accept_small_days: true`."
    )
    assert held(books) == [1, 1, 30, 30, 30, 30]


def test_a_log_with_lost_files_is_refused_too(books):
    books.requests = books.requests[:30]
    with pytest.raises(SourceError, match=r"request records of 2026-10-27: 0 where 30 were expected"):
        books.pull(DAYS, instant=NOW)
    assert held(books) == [1, 1, 30, 30, 30, 30]


def test_days_that_are_accepted_are_told_and_are_small_from_then_on(books):
    books.usage = books.usage[:32]
    report, _ = books.pull(DAYS, instant=NOW, accept=True)
    assert list(map(str, report.accepted)) == ["usage records of 2026-10-27: 2 where 30 were expected"]
    assert report.restated.records == 28
    assert held(books) == [1, 1, 30, 2, 30, 30]
    report, _ = books.pull(DAYS, instant=NOW + timedelta(days=1))
    assert report.accepted == []


def test_a_day_that_was_pulled_before_it_was_over_is_compared_with_the_days_before_it(home):
    books = Books(home)
    week, today = Days(MONDAY - timedelta(days=7), MONDAY - timedelta(days=1)), Days(MONDAY, MONDAY)
    for day in week:
        for number in range(30):
            books.used(day, "acme", f"key_{number}", input_tokens=1)
    books.used(MONDAY, "acme", "key_0", input_tokens=1)
    books.pull(week, instant=NOW)
    books.pull(today, instant=today.start + timedelta(hours=1))
    with pytest.raises(SourceError, match=r"usage records of 2026-10-26: 1 where 30 were expected"):
        books.pull(today, instant=NOW)


def test_a_day_whose_file_was_removed_is_a_new_one(books):
    books.lake.records("usage", "openai", DAYS.last).unlink()
    books.usage = books.usage[:30]
    books.pull(DAYS, instant=NOW)
    assert held(books) == [1, 1, 30, 0, 30, 30]


def test_many_small_days_are_told_by_the_first_of_them():
    many = [SmallDay("charge", day, 1, 2000) for day in Days(MONDAY, MONDAY + timedelta(days=9))]
    told = str(small_days.refused("openai", Days(MONDAY, MONDAY + timedelta(days=9)), many))
    assert "charge records of 2026-10-26: 1 where 2,000 were expected; " in told
    assert "2026-10-30: 1 where 2,000 were expected; and 5 days more: the answer" in told
