"""Declared costs: what is paid but on no bill that can be pulled. The entry in sources.yaml says it all.

    costs:
      - {name: Claude seats, provider: anthropic, amount: 30.00, quantity: 25, unit: seats, every: month,
         from: 2026-10-01, until: 2027-10-01}
      - {name: Credits of October, provider: openai, amount: 5000, day: 2026-10-01,
         prepaid: {provider: openai, account: acme}}
      - {name: PTU east, provider: azure, account: east, amount: 7200, every: month, from: 2026-10-01,
         capacity: {tokens_per_day: 1000000000, service_tier: provisioned, model: "gpt-4o*"}}
    percentages:
      - {name: Gateway fee, percent: 4, of: {provider: openrouter, category: purchase}, from: 2026-10-01}

A cost is a charge line on each UTC day that it is due: whole on its `day` or on every day, or the day's part
of its calendar month. Days are half-open: `until` is the first day without it. What depends on other lines
or on usage follows in the warehouse (`stg_charges_of_*`), from `tables`: a line for each percentage of a
line; the drawdown of prepaid credits by the usage that is billed beside, or where none ever is, by the usage
itself at our prices; a capacity's used and idle parts.

History is not edited: another amount is another line from its day on, under the same name. An edit of one
that was pulled already is a restatement like any other: the daily run sees it for RESTATES_DAYS days, older
ones are pulled by `chargeback run --source NAME --from DAY`. Percentages, and what prepaid credits and
capacities are for, hold as they are written now.
"""

from __future__ import annotations

import hashlib
import json
from calendar import monthrange
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime, timedelta
from decimal import ROUND_HALF_UP, Context, Decimal, localcontext
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import duckdb
import polars as pl
from pydantic import BeforeValidator, Field, field_validator, model_validator

from dagster_project import records, settings
from dagster_project.days import Days
from dagster_project.ownership import Condition
from dagster_project.sources import Parsed

KINDS = ("charge",)
TELLS = ("bill",)
READS = (
    "seats, plans, prepaid credits, provisioned capacity, and percentages such as a gateway's fee, dated in "
    "sources.yaml"
)
KEEPS_RAW = False
RESTATES_DAYS = 3
"""Only the configuration can change; three days let an edit show without a command."""

EXACT = Context(prec=100, rounding=ROUND_HALF_UP)
UNIT = Decimal("1e-12")

Category = Literal["fee", "tax", "credit", "purchase", "usage", "adjustment"]


def _exact(raw: Any) -> Any:
    """YAML reads 30.00 as a binary fraction, whose shortest text is what was written up to 15 digits."""
    if isinstance(raw, bool):
        raise ValueError("this is not a number")
    if not isinstance(raw, float):
        return raw
    number = Decimal(repr(raw))
    if len(number.as_tuple().digits) > 15:
        raise ValueError('put a number of so many digits in quotes, e.g. "0.1234567890123456"')
    return number


Number = Annotated[
    Decimal, BeforeValidator(_exact), Field(max_digits=26, decimal_places=12, allow_inf_nan=False)
]
Text = Annotated[str, Field(min_length=1)]
Glob = Text
"""`*` is any text, `?` any character."""


class Lines(settings.Strict):
    """Lines of a bill: all that is said must hold."""

    provider: Text
    account: Text | None = None
    category: Category | None = None
    line_item: Glob | None = None


class Prepaid(settings.Strict):
    """Whose billed usage draws credits down: as long as there are any, from the day of the purchase on."""

    provider: Text
    account: Text | None = None


class Capacity(settings.Strict):
    """Throughput at the cost's provider and account that is paid used or not, and what uses it."""

    tokens_per_day: int = Field(gt=0, le=10**18)
    service_tier: Text | None = None
    model: Glob | None = None


class Dated(settings.Strict):
    """What is declared from a UTC day (inclusive) to another (exclusive)."""

    name: Text
    """The line's text on the bill. A name stands once on a day."""
    valid_from: date | None = Field(default=None, alias="from")
    valid_to: date | None = Field(default=None, alias="until")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.valid_from and self.valid_to and self.valid_to <= self.valid_from:
            raise ValueError(f"`until` {self.valid_to} is not after `from` {self.valid_from}")
        return self


class Cost(Dated):
    """An amount that is due on a day, or every day or month."""

    provider: Text
    account: Text | None = None
    provider_project: Text | None = None
    api_key: Text | None = None
    principal: Text | None = None
    """These three say whose it is, as on any line of a bill; without them it is the account's."""
    category: Category = "purchase"
    """`usage` and `adjustment` mean that the account's usage of the day is billed, so it is not estimated."""
    amount: Number
    currency: str = Field(default="USD", pattern="^[A-Z]{3}$")
    quantity: Annotated[Number, Field(gt=0)] | None = None
    """How many of `amount` there are."""
    unit: Text | None = None
    day: date | None = None
    every: Literal["month", "day"] | None = None
    prepaid: Prepaid | None = None
    capacity: Capacity | None = None

    @field_validator("amount")
    @classmethod
    def _is_an_amount(cls, amount: Decimal) -> Decimal:
        if amount == 0:
            raise ValueError("an amount is not 0; end a cost by `until`")
        return amount

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        problems = [problem for holds, problem in self._mistakes() if holds]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _mistakes(self) -> Iterator[tuple[bool, str]]:
        yield (
            (self.day is None) == (self.every is None),
            "say when it is due: either `day: 2026-10-01` or `every: month` (or `day`) and `from`",
        )
        yield (
            self.day is not None and (self.valid_from or self.valid_to) is not None,
            "what is due on a `day` has no `from` and `until`",
        )
        yield self.day == date.max, f"`day: {date.max}` has no end"
        yield self.every is not None and self.valid_from is None, f"`every: {self.every}` needs `from`"
        yield (self.quantity is None) != (self.unit is None), "`quantity` and `unit` need each other"
        yield self.category == "credit" and self.amount > 0, "a credit is a negative amount"
        yield (
            self.category not in ("credit", "adjustment") and self.amount < 0,
            f"a {self.category} is a positive amount; what lowers a bill is a credit or an adjustment",
        )
        yield (
            self.prepaid is not None and (self.day is None or self.category != "purchase"),
            "`prepaid` credits are a purchase on a `day`",
        )
        yield (
            self.capacity is not None and (self.every is None or self.category != "purchase"),
            "a `capacity` is a purchase `every` month or day",
        )

    def due(self, day: date) -> Decimal | None:
        """The part of the day; None on days that it is not due."""
        if self.day is not None:
            return self._total if day == self.day else None
        if day < (self.valid_from or date.min) or day >= (self.valid_to or date.max):
            return None
        if self.every == "day":
            return self._total
        return self._of_the_month_through(day.day, day) - self._of_the_month_through(day.day - 1, day)

    @property
    def _total(self) -> Decimal:
        return (self.amount * (self.quantity or 1)).quantize(UNIT)

    def _of_the_month_through(self, days: int, month: date) -> Decimal:
        """A running total, so that the days of a month sum to its amount whatever is rounded."""
        return (self._total * days / monthrange(month.year, month.month)[1]).quantize(UNIT)


class Percentage(Dated):
    """A part of each line of some kind, billed by the same provider on the same day, to the same identity."""

    percent: Annotated[Number, Field(gt=0)]
    of: Lines
    category: Literal["fee", "tax"] = "fee"


class Entry(settings.Entry):
    """What is declared."""

    costs: tuple[Cost, ...] = ()
    percentages: tuple[Percentage, ...] = ()

    @field_validator("costs")
    @classmethod
    def _once(cls, costs: tuple[Cost, ...]) -> tuple[Cost, ...]:
        return _each_once(costs)

    @field_validator("percentages")
    @classmethod
    def _percentages_once(cls, percentages: tuple[Percentage, ...]) -> tuple[Percentage, ...]:
        return _each_once(percentages)


DeclaredT = TypeVar("DeclaredT", Cost, Percentage)


def _each_once(declared: tuple[DeclaredT, ...]) -> tuple[DeclaredT, ...]:
    """Raises ValueError where two of one name are due on the same day."""
    problems = [
        f"`{other.name}` is declared twice for {max(_period(one)[0], _period(other)[0])}; "
        "end the first by `until`, or give one another name"
        for n, other in enumerate(declared)
        for one in declared[:n]
        if one.name == other.name
        and max(_period(one)[0], _period(other)[0]) < min(_period(one)[1], _period(other)[1])
    ]
    if problems:
        raise ValueError("; ".join(problems))
    return declared


def _period(declared: Dated) -> tuple[date, date]:
    """First day, and the first day after."""
    day = declared.day if isinstance(declared, Cost) else None
    if day is not None:
        return day, day + timedelta(days=1)
    return declared.valid_from or date.min, declared.valid_to or date.max


def fetch(entry: Entry, days: Days, raw: Path) -> None:
    """Nothing: all that there is to say is in the entry."""


def parse(entry: Entry, days: Days, raw: Path, connection: duckdb.DuckDBPyConnection) -> Parsed:
    """A charge line for each cost and day of `days` that it is due."""
    with localcontext(EXACT):
        lines = [
            _line(cost, day, amount)
            for cost in entry.costs
            for day in days
            if (amount := cost.due(day)) is not None
        ]
    return Parsed({"charge": records.frame(lines, entry.name, "charge")})


def _line(cost: Cost, day: date, amount: Decimal) -> dict[str, Any]:
    start = datetime(day.year, day.month, day.day)  # noqa: DTZ001 - the schema's instants are naive UTC
    identity = json.dumps([day.isoformat(), cost.name])
    return {
        "record_id": hashlib.sha256(identity.encode()).hexdigest()[:32],
        "started_at": start,
        "ended_at": start + timedelta(days=1),
        "usage_date": day,
        "provider": cost.provider,
        "account_id": cost.account,
        "provider_project_id": cost.provider_project,
        "api_key_id": cost.api_key,
        "principal_id": cost.principal,
        "charge_category": cost.category,
        "line_item": cost.name,
        "quantity": cost.quantity,
        "quantity_unit": cost.unit,
        "billed_cost": amount,
        "currency": cost.currency,
    }


def tables(entries: Iterable[settings.Entry]) -> dict[str, pl.DataFrame]:
    """What the warehouse derives lines from, of all entries: one frame per name in `TABLES`."""
    declared = [entry for entry in entries if isinstance(entry, Entry)]
    costs = [(entry, cost) for entry in declared for cost in entry.costs]
    rows: Mapping[str, list[tuple[Any, ...]]] = {
        "declared_percentages": [
            (
                *(entry.name, one.name, *_period(one), one.percent, one.category, one.of.provider),
                *(one.of.account, one.of.category, _like(one.of.line_item)),
            )
            for entry in declared
            for one in entry.percentages
        ],
        "declared_prepaid": [
            (entry.name, cost.name, cost.day, cost.prepaid.provider, cost.prepaid.account)
            for entry, cost in costs
            if cost.prepaid is not None
        ],
        "declared_capacities": [
            (
                *(entry.name, cost.name, *_period(cost)),
                *(capacity.tokens_per_day, capacity.service_tier, _like(capacity.model)),
            )
            for entry, cost in costs
            if (capacity := cost.capacity) is not None
        ],
    }
    return {
        name: pl.DataFrame(rows[name], schema=schema, orient="row", strict=True)
        for name, schema in TABLES.items()
    }


def _like(glob: str | None) -> str | None:
    return None if glob is None else Condition("", None, glob).pattern


_DATED = {"source": pl.String, "name": pl.String, "valid_from": pl.Date, "valid_to": pl.Date}
TABLES: Mapping[str, Mapping[str, pl.DataType | type[pl.DataType]]] = {
    "declared_percentages": {
        **_DATED,
        "percent": pl.Decimal(26, 12),
        "charge_category": pl.String,
        "of_provider": pl.String,
        "of_account": pl.String,
        "of_category": pl.String,
        "of_line_item_like": pl.String,
    },
    "declared_prepaid": {
        "source": pl.String,
        "name": pl.String,
        "day": pl.Date,
        "of_provider": pl.String,
        "of_account": pl.String,
    },
    "declared_capacities": {
        **_DATED,
        "tokens_per_day": pl.Int64,
        "of_service_tier": pl.String,
        "of_model_like": pl.String,
    },
}
"""Columns of each table. Whatever is null is not asked for; periods are half-open.

    declared_percentages    one row per percentage; what it is of
    declared_prepaid        one row per purchase of credits; whose billed usage draws them down
    declared_capacities     one row per capacity; what usage of the line's account uses it
"""
