"""Truncated pulls: finished days that have far fewer rows than they should.

An answer that broke off without an error looks like a cheap day. What a day should have is what the
lake holds of it, where that was pulled when the day was over; else what days like it had.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from statistics import median_low

from dagster_project.days import Days
from dagster_project.errors import SourceError
from dagster_project.records import Kind

ACCEPT_TAG = "chargeback/accept_small_days"
"""The tag of a Dagster run that is to accept small days; its value is `true`."""

FINISHED_AFTER = timedelta(days=2)
"""A provider's report of a day is whole by then; what was pulled earlier may be a part of it."""

COMPARED_DAYS = 28
FEWEST_COMPARED_DAYS = 7
SMALLEST_EXPECTED = 20
"""Of fewer rows than these a handful is no sign of anything."""

SHOWN = 5


@dataclass(frozen=True)
class SmallDay:
    """A finished day with far fewer rows than expected."""

    kind: Kind
    day: date
    rows: int
    expected: int

    def __str__(self) -> str:
        return f"{self.kind} records of {self.day}: {self.rows:,} where {self.expected:,} were expected"


def is_finished(day: date, today: date) -> bool:
    """Whether what is pulled of `day` on `today` is the whole of it."""
    return day + FINISHED_AFTER <= today


def of_kind(
    kind: Kind,
    pulled: Mapping[date, int],
    held: Mapping[date, int],
    whole: Collection[date],
    today: date,
    smallest_share: Decimal,
) -> list[SmallDay]:
    """The days of a pull on the UTC day `today` that have less than `smallest_share` of the expected rows.

    `pulled` and `held` are rows by day, of this pull and of the lake; `whole` are the days that were
    finished when they were last pulled.
    """
    found = [
        SmallDay(kind, day, rows, _expected(day, held, whole))
        for day, rows in pulled.items()
        if is_finished(day, today)
    ]
    return [
        small
        for small in found
        if small.expected >= SMALLEST_EXPECTED and small.rows < smallest_share * small.expected
    ]


def _expected(day: date, held: Mapping[date, int], whole: Collection[date]) -> int:
    if day in whole:
        return held[day]
    before = [day - timedelta(days=days) for days in range(1, COMPARED_DAYS + 1)]
    rows = [held[earlier] for earlier in before if earlier in held]
    usual = 0
    if len(rows) >= FEWEST_COMPARED_DAYS:
        # A Sunday is compared with a Sunday.
        a_week_before = held.get(day - timedelta(days=7))
        usual = min(count for count in (median_low(rows), a_week_before) if count is not None)
    return max(usual, held.get(day, 0))


def refused(source: str, days: Days, small: Sequence[SmallDay]) -> SourceError:
    """What is raised for the `small` days of a pull of `days`, unless they are accepted."""
    told = [str(day) for day in small[:SHOWN]]
    if len(small) > SHOWN:
        told.append(f"and {len(small) - SHOWN} days more")
    return SourceError(
        source,
        "the answer looks cut off",
        where="; ".join(told),
        remedy="Nothing was replaced. Pull again; if it is true, accept it with "
        f"`chargeback run --source {source} --from {days.first} --to {days.last} --accept-small-days`, "
        f"or tag the run in the Dagster UI with `{ACCEPT_TAG}: true`.",
    )
