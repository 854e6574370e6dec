"""A run of UTC days: what a pull asks for, and what it replaces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta


@dataclass(frozen=True)
class Days:
    """UTC days from `first` to `last`, both inclusive."""

    first: date
    last: date

    def __post_init__(self) -> None:
        if self.last < self.first:
            raise ValueError(f"the last day {self.last} is before the first day {self.first}")

    @classmethod
    def of_month(cls, month: date) -> Days:
        """The days of the month that begins with `month`."""
        return cls(month, (month + timedelta(days=31)).replace(day=1) - timedelta(days=1))

    def __iter__(self) -> Iterator[date]:
        day = self.first
        while day <= self.last:
            yield day
            day += timedelta(days=1)

    def __len__(self) -> int:
        return (self.last - self.first).days + 1

    def __contains__(self, day: object) -> bool:
        return isinstance(day, date) and self.first <= day <= self.last

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}..{self.last}"

    @property
    def start(self) -> datetime:
        """First instant, UTC."""
        return datetime(self.first.year, self.first.month, self.first.day, tzinfo=UTC)

    @property
    def end(self) -> datetime:
        """First instant after the last day, UTC."""
        return self.start + timedelta(days=len(self))

    def widened(self, days: int) -> Days:
        """The same days and as many neighbours on both sides."""
        return Days(self.first - timedelta(days=days), self.last + timedelta(days=days))

    def chunks(self, size: int) -> Iterator[Days]:
        """Consecutive pieces of at most `size` days."""
        first = self.first
        while first <= self.last:
            last = min(first + timedelta(days=size - 1), self.last)
            yield Days(first, last)
            first = last + timedelta(days=1)
