"""Clocks and calendars: a record lands on its UTC day, wherever and whenever it is pulled."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest
from conftest import ACTIVE_TAGS, Books, assert_nothing_left, digests

from dagster_project import pulled_days, small_days
from dagster_project.days import Days
from dagster_project.ingest import ingest
from dagster_project.lake import Lake
from dagster_project.sources import Source, litellm

ODD_DAYS = {
    "that Apia left out": date(2011, 12, 30),
    "when New York's clocks go forward": date(2026, 3, 8),
    "when New York's clocks go back": date(2026, 11, 1),
    "the last of a year": date(2026, 12, 31),
    "a leap day": date(2028, 2, 29),
}
"""Each is pulled together with the day after it."""


def record(number: str, start: float | str, end: float | str) -> dict[str, object]:
    return {
        "request_id": number,
        "call_type": "acompletion",
        "api_key": "hash-1",
        "spend": 0.5,
        "prompt_tokens": 100,
        "completion_tokens": 10,
        "startTime": start,
        "endTime": end,
        "model": "openai/gpt-4o",
        "custom_llm_provider": "openai",
        "request_tags": ["team:growth"],
        "metadata": {},
    }


def spelled(day: date) -> list[tuple[str, float | str, int, str]]:
    """Names of records of `day`, when each ended as it is spelled, and in UTC: days after `day`, time."""
    start = Days(day, day).start.timestamp()
    return [
        ("first instant", f"{day}T00:00:00", 0, "00:00:00"),
        ("an hour that is not everywhere", f"{day}T02:30:00", 0, "02:30:00"),
        ("an hour that is twice elsewhere", f"{day}T01:30:00Z", 0, "01:30:00"),
        ("ahead of UTC", f"{day} 05:30:00.500000+05:30", 0, "00:00:00.500000"),
        ("behind UTC", f"{day}T19:30:00-05:00", 1, "00:30:00"),
        ("last instant", f"{day}T23:59:59.999999", 0, "23:59:59.999999"),
        ("last instant as a number", start + 86399.999999, 0, "23:59:59.999999"),
        ("next day's first instant as a number", start + 86400.0, 1, "00:00:00"),
    ]


def written(folder: Path) -> Path:
    """A log of the odd days, each record begun two hours before its day."""
    folder.mkdir(parents=True)
    for day in ODD_DAYS.values():
        early = Days(day, day).start.timestamp() - 7200
        records = [record(f"{day} {name}", early, end) for name, end, _, _ in spelled(day)]
        text = "".join(json.dumps(line) + "\n" for line in records)
        (folder / f"{day}.ndjson").write_text(text, encoding="utf-8")
    return folder


def gateway(folder: Path, day: str = "*") -> Source:
    path = f"{folder}/{day}.ndjson"
    return Source(
        litellm.Entry(name="gateway", type="litellm", start_date=date(2011, 1, 1), path=path), litellm
    )


def pull_odd_days(folder: Path, home: Path) -> None:
    """Each when the day after it is over, by an instant in the time zone of this process."""
    for day in ODD_DAYS.values():
        days = Days(day, day + timedelta(days=1))
        ingest(
            gateway(folder, str(day)),
            days,
            Lake(home),
            ACTIVE_TAGS,
            days.end.astimezone(),
            accept_small_days=True,
        )


@pytest.fixture(scope="module")
def odd_days(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The log, and the home that it was pulled to here."""
    folder = tmp_path_factory.mktemp("odd")
    log, home = written(folder / "logs"), folder / "home"
    pull_odd_days(log, home)
    return log, home


def ended(home: Path, day: date) -> set[tuple[str, datetime]]:
    rows = pl.read_parquet(Lake(home).records("request", "gateway", day))
    assert set(rows["usage_date"]) <= {day}
    return set(rows.select("record_id", "ended_at").iter_rows())


def test_every_spelling_lands_on_its_utc_day(odd_days):
    _, home = odd_days
    for named, day in ODD_DAYS.items():
        for later, on in enumerate(Days(day, day + timedelta(days=1))):
            assert ended(home, on) == {
                (f"{day} {name}", datetime.fromisoformat(f"{on} {time}"))
                for name, _, days_later, time in spelled(day)
                if days_later == later
            }, named


def test_the_hours_of_the_rollup_are_utc_hours_on_days_with_23_and_25_of_them_elsewhere(odd_days):
    _, home = odd_days
    for day in (date(2026, 3, 8), date(2026, 11, 1)):
        hours = pl.read_parquet(Lake(home).rollup("request", "gateway", day))["started_hour"].unique()
        assert set(hours) == {datetime.combine(day, datetime.min.time()) - timedelta(hours=2)}


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Kolkata", "Pacific/Apia"])
def test_the_time_zone_of_the_process_changes_no_byte(odd_days, tmp_path, zone):
    log, here = odd_days
    child = "import sys; from pathlib import Path; from test_clocks import pull_odd_days; "
    finished = subprocess.run(
        [sys.executable, "-c", f"{child}pull_odd_days(Path(sys.argv[1]), Path(sys.argv[2]))", log, tmp_path],
        env={**os.environ, "TZ": zone, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert digests(tmp_path) == digests(here) != {}


def test_months_have_their_days():
    lengths = {month: len(Days.of_month(date(2027, month, 1))) for month in range(1, 13)}
    assert list(lengths.values()) == [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
    assert [len(Days.of_month(date(year, 2, 1))) for year in (2000, 2027, 2028, 2100)] == [29, 28, 29, 28]
    assert Days.of_month(date(2026, 12, 1)) == Days(date(2026, 12, 1), date(2026, 12, 31))


@pytest.mark.parametrize(
    ("today", "first"),
    [
        (date(2028, 3, 1), date(2028, 2, 27)),
        (date(2028, 2, 29), date(2028, 2, 26)),
        (date(2027, 3, 1), date(2027, 2, 26)),
        (date(2027, 1, 1), date(2026, 12, 29)),
        (date(2026, 3, 9), date(2026, 3, 6)),
    ],
)
def test_a_look_back_over_the_end_of_a_month_has_its_days(tmp_path, today, first):
    assert litellm.RESTATES_DAYS == 3
    days = gateway(tmp_path).look_back(today)
    assert (days, len(days)) == (Days(first, today), 4)
    assert days.end - days.start == timedelta(days=4)


LEAP_DAY = date(2028, 2, 29)
ALMOST = datetime(2028, 2, 29, 23, 59, 59, 999999, tzinfo=UTC)
MIDNIGHT = datetime(2028, 3, 1, tzinfo=UTC)


def asked(home: Path, days: Sequence[date]) -> Books:
    books = Books(home)
    for day in days:
        books.asked(day, "acme", "k", "vk", input_tokens=1)
    return books


def test_a_day_is_over_at_midnight_utc_and_not_a_microsecond_before(home):
    books = asked(home, [LEAP_DAY])
    kept = books.lake.pulled_days("gateway")
    books.pull(Days(LEAP_DAY, LEAP_DAY), instant=ALMOST)
    assert pulled_days.good_days(pulled_days.read(kept)) == []
    books.pull(Days(LEAP_DAY, LEAP_DAY), instant=MIDNIGHT)
    assert pulled_days.good_days(pulled_days.read(kept)) == [LEAP_DAY]
    assert not small_days.is_finished(LEAP_DAY, LEAP_DAY)


@pytest.mark.parametrize("zone", [timezone(timedelta(hours=14)), timezone(timedelta(hours=-12))])
def test_the_instant_of_a_pull_is_the_same_in_every_zone(tmp_path, zone):
    homes = tmp_path / "here", tmp_path / "there"
    for place, instant in zip(homes, (MIDNIGHT, MIDNIGHT.astimezone(zone)), strict=True):
        asked(place, [LEAP_DAY]).pull(Days(LEAP_DAY, LEAP_DAY), instant=instant)
    assert digests(homes[0]) == digests(homes[1]) != {}


def test_a_run_across_midnight_pulls_the_days_that_it_was_asked_for(home):
    """Its first source is pulled before midnight, its second after it."""
    days = [LEAP_DAY - timedelta(days=1), LEAP_DAY, LEAP_DAY + timedelta(days=1)]
    books = asked(home, days)
    asked_for = Days(days[0], LEAP_DAY)
    books.pull(asked_for, instant=ALMOST)
    before = digests(home)
    books.pull(asked_for, instant=MIDNIGHT)
    after = digests(home)
    assert books.lake.days_of("request", "gateway") == days[:2]
    # Only when it was pulled has changed, and no record.
    assert {place.split("/")[1] for place in after if after[place] != before.get(place)} == {"pulled_days"}
    assert_nothing_left(home)


def test_a_clock_that_steps_back_loses_no_change_and_repeats_none(home):
    books = Books(home)
    books.charge(LEAP_DAY, "acme", "1")
    day = Days(LEAP_DAY, LEAP_DAY)
    books.pull(day, instant=MIDNIGHT)
    for hours_back, amount in enumerate(("2", "3", "4")):
        books.charges = [{**books.charges[0], "billed_cost": Decimal(amount)}]
        books.pull(day, instant=MIDNIGHT - timedelta(hours=hours_back))
    pulls = sorted(books.lake.restatements_of("openai").glob("*.parquet"))
    changes = [pl.read_parquet(file).filter(measure="billed_cost") for file in pulls]
    assert [change.select("before", "after").row(0) for change in changes] == [(1, 2), (2, 3), (3, 4)]
