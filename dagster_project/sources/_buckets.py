"""Daily reports of a provider's administration API, read exactly: what all providers' share.

A report is a list of buckets, a bucket a UTC day with a list of results. Mostly it comes twice:
grouped by everything that tells who caused it, and ungrouped, as the total that the groups must add
up to. Where they do not, the difference becomes a record of its own.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Any

from dagster_project.days import Days
from dagster_project.errors import SourceError
from dagster_project.settings import ProviderEntry
from dagster_project.sources import Name, NamedKind
from dagster_project.sources._pages import Page

Record = dict[str, Any]
Bounds = tuple[datetime, datetime]
"""Start and (exclusive) end, UTC."""

EXACT = Context(prec=100, rounding=ROUND_HALF_EVEN)
"""Arithmetic in which no amount of a bill is ever rounded; the default context keeps 28 digits."""

NOISE = Decimal("1e-9")
"""Smaller differences are the provider's own rounding: it sums amounts as binary fractions."""

_MOST_DIGITS = 26
"""Before the point: what the lake keeps."""

REMAINDER = "(remainder: not in the grouped cost report)"

_CATEGORIES = (
    ("credit", r"credits?|grants?|refunds?|discounts?"),
    ("tax", r"tax(es)?|vat|gst"),
    ("fee", r"fees?"),
    ("adjustment", r"adjustments?|corrections?"),
)


@dataclass(frozen=True)
class Bucket:
    """What a report says about the time from `started_at` to `ended_at` (exclusive), both UTC."""

    endpoint: str
    is_grouped: bool
    started_at: datetime
    ended_at: datetime
    results: Sequence[Mapping[str, Any]]

    @property
    def day(self) -> date:
        return self.started_at.date()

    def __str__(self) -> str:
        return f"{self.endpoint} of {self.day}"

    def record(self, entry: ProviderEntry, *coordinates: Any) -> Record:
        """The columns that every record of this bucket has; `coordinates` tell it from the others."""
        identity = json.dumps([self.endpoint, self.started_at.isoformat(), *coordinates])
        return {
            "record_id": hashlib.sha256(identity.encode()).hexdigest()[:32],
            "started_at": self.started_at,
            "ended_at": self.ended_at,
            "usage_date": self.day,
            "provider": entry.provider,
            "account_id": entry.account_id,
        }


def read(
    source: str,
    days: Days,
    pages: Iterable[Page],
    endpoint: str,
    bounds: Callable[[Mapping[str, Any]], Bounds],
    *,
    grouped_by: str = "group_by[]",
    row: Callable[[Page, Mapping[str, Any]], Mapping[str, Any]] | None = None,
) -> Iterator[Bucket]:
    """The buckets of `days`; a report may send neighbours too. `bounds` reads a bucket's start and end.

    Only what is grouped was asked for with `grouped_by`. A report without buckets sends rows, each with its
    own bounds: `row` makes a result of one, and the rows of a day on a page are a bucket. Raises SourceError
    for a page that is not understood, for a bucket that is no UTC day, and for a day whose total comes twice.
    """
    totals: set[date] = set()
    for page in pages:
        if page.endpoint != endpoint:
            continue
        is_grouped = any(name == grouped_by for name, _ in page.params)
        with understood(source, f"{endpoint} for {days}"):
            sent = objects(page.json(), "data")
            if row is None:
                results = [(bounds(bucket), objects(bucket, "results")) for bucket in sent]
            else:
                results = _by_bounds((bounds(one), row(page, one)) for one in sent)
            buckets = [Bucket(endpoint, is_grouped, *utc_day(*when), found) for when, found in results]
        for bucket in buckets:
            if bucket.day not in days:
                continue
            if not is_grouped:
                if bucket.day in totals:
                    raise _unclear(source, str(bucket), "the total of this day came twice")
                totals.add(bucket.day)
            yield bucket


def _by_bounds(rows: Iterable[tuple[Bounds, Mapping[str, Any]]]) -> Iterable[tuple[Bounds, list[Any]]]:
    found = defaultdict(list)
    for when, result in rows:
        found[when].append(result)
    return found.items()


def utc_day(start: datetime, end: datetime) -> Bounds:
    """The bounds of a bucket, if it begins a UTC day and ends within it: else its results are of no day."""
    if start.time() != time.min or not timedelta() < end - start <= timedelta(days=1):
        raise ValueError(f"a bucket from {start} to {end} is no day")
    return start, end


def objects(fields: Mapping[str, Any], name: str) -> Sequence[Mapping[str, Any]]:
    """A list of objects. Raises KeyError, or ValueError for all else."""
    found = fields[name]
    if not (isinstance(found, list) and all(isinstance(one, dict) for one in found)):
        raise ValueError(f"`{name}` is not a list of objects")
    return found


@contextmanager
def understood(source: str, where: str) -> Iterator[None]:
    """Turns a missing field or an impossible value, met while reading `where`, into a SourceError."""
    try:
        yield
    except KeyError as error:
        raise _unclear(source, where, f"the field `{error.args[0]}` is missing") from None
    except (TypeError, ValueError, ArithmeticError) as error:
        raise _unclear(source, where, f"not understood ({error})") from None


def shown(sent: Any) -> str:
    """As much of what the provider sent as can be read in an error."""
    return f"{sent!s:.80}".encode(errors="replace").decode()


def _unclear(source: str, where: str, what: str) -> SourceError:
    remedy = (
        "Nothing was replaced. Run again; if it stays, the provider changed its report and the "
        "module of this source in dagster_project/sources has to follow."
    )
    return SourceError(source, what, where=where, remedy=remedy)


class Control:
    """What the groups of a report add up to on each day, beside what its ungrouped twin says it is."""

    def __init__(self) -> None:
        self._totals: dict[date, tuple[Bucket, Counter[str]]] = {}
        self._groups: defaultdict[date, Counter[str]] = defaultdict(Counter)

    def add(self, bucket: Bucket, quantities: Mapping[str, Decimal | int]) -> None:
        """Take in a whole bucket: the sum of each of its quantities."""
        if bucket.is_grouped:
            self._groups[bucket.day].update(quantities)
        else:
            self._totals[bucket.day] = (bucket, Counter(quantities))

    @property
    def days(self) -> set[date]:
        """Days with a total."""
        return set(self._totals)

    def remainders(self) -> Iterator[tuple[Bucket, Mapping[str, Decimal | int]]]:
        """Each total that its groups miss, and what they lack of it; negative where they exceed it."""
        for day, (bucket, total) in sorted(self._totals.items()):
            left = Counter(total)
            left.subtract(self._groups[day])
            lacking = {name: left[name] for name in sorted(left) if abs(left[name]) >= NOISE}
            if lacking:
                yield bucket, lacking


def bill(
    entry: ProviderEntry,
    days: Days,
    buckets: Iterable[Bucket],
    text_field: str,
    amount_of: Callable[[Mapping[str, Any]], tuple[Decimal | None, str | None]],
    line_of: Callable[[Bucket, Mapping[str, Any]], Record],
    counts: Counter[str],
) -> list[Record]:
    """The charges of a cost report, and one more per day and currency in which its groups are not all.

    The rest is as for `charges`. Raises SourceError where the bill cannot be known.
    """
    buckets, control = list(buckets), Control()
    lines = charges(entry, buckets, text_field, amount_of, line_of, control)
    if without := {line["usage_date"] for line in lines} - control.days:
        where = f"{buckets[0].endpoint} of {min(without)}"
        raise _unclear(entry.name, where, "there are charges, but no total of the day")
    remainders = []
    for bucket, amounts in control.remainders():
        with understood(entry.name, f"{bucket}, its total"):
            remainders += [
                bucket.record(entry, REMAINDER, currency)
                | {"charge_category": "adjustment", "line_item": REMAINDER}
                | _money(amount, currency)
                for currency, amount in amounts.items()
            ]
    counts["cost_remainders"] = len(remainders)
    counts["days_without_a_cost_bucket"] = len(days) - len(control.days)
    return lines + remainders


def charges(
    entry: ProviderEntry,
    buckets: Iterable[Bucket],
    text_field: str,
    amount_of: Callable[[Mapping[str, Any]], tuple[Decimal | None, str | None]],
    line_of: Callable[[Bucket, Mapping[str, Any]], Record],
    control: Control,
) -> list[Record]:
    """A charge for each result of the grouped buckets; `control` takes in all buckets.

    `amount_of` reads a result's amount, in whole units, and currency; `line_of` everything else, once
    `text_field` names the line in errors. Raises SourceError where an amount cannot be known.
    """
    lines = []
    for bucket in buckets:
        amounts: Counter[str] = Counter()
        for result in bucket.results:
            with understood(entry.name, f"{bucket}, line `{shown(result.get(text_field))}`"):
                amount, currency = amount_of(result)
                if amount is None:
                    raise ValueError("its amount is null, so the bill is not known")
                if not currency:
                    raise ValueError("its `currency` is empty, so the bill is not known")
                if not re.fullmatch("[A-Za-z]{3}", currency):
                    raise ValueError(f"its `currency` is `{shown(currency)}`, which is no currency's code")
                amounts[currency.upper()] += amount
                if bucket.is_grouped:
                    lines.append(line_of(bucket, result) | _money(amount, currency))
        control.add(bucket, amounts)
    return told_apart(lines)


def _money(amount: Decimal, currency: str) -> Record:
    return {"billed_cost": rounded(amount), "currency": currency.upper()}


def unexplained_usage(
    entry: ProviderEntry, operation: str, control: Control, counts: Counter[str]
) -> list[Record]:
    """A record without identity for each day whose total usage is more than that of its groups.

    Groups that exceed their total (usage went on between the two questions) are only counted.
    """
    records = []
    for bucket, lacking in control.remainders():
        if any(quantity < 0 for quantity in lacking.values()):
            counts["usage_totals_below_groups"] += 1
        meters = {column: quantity for column, quantity in lacking.items() if quantity > 0}
        if meters:
            counts["usage_remainders"] += 1
            records.append(bucket.record(entry, REMAINDER) | {"operation": operation, **meters})
    return records


def told_apart(records: Iterable[Record]) -> list[Record]:
    """The records with ids that are unique.

    Reports do send several rows with the same dimensions, told apart by something that cannot be
    asked for; they are parts of one whole and all count.
    """
    times: Counter[str] = Counter()
    apart = []
    for record in records:
        identity = record["record_id"]
        times[identity] += 1
        apart.append(
            record if times[identity] == 1 else record | {"record_id": f"{identity}-{times[identity]}"}
        )
    return apart


def names(
    entry: ProviderEntry,
    days: Days,
    pages: Iterable[Page],
    listings: Mapping[str, NamedKind],
    id_field: str = "id",
) -> list[Name]:
    """What the provider's listings call things; `listings` says which endpoint, a pattern, lists what."""
    account = entry.provider, entry.account_id
    found = []
    for page in pages:
        for endpoint, kind in listings.items():
            if re.fullmatch(endpoint, page.endpoint):
                with understood(entry.name, f"{page.endpoint} for {days}"):
                    found += [
                        Name(kind, issued(thing, id_field), text_if_any(thing, "name"), *account)
                        for thing in objects(page.json(), "data")
                    ]
    return list(dict.fromkeys(found))


def category(text: str | None) -> str | None:
    """`credit`, `tax`, `fee` or `adjustment` where a bill's text clearly says so."""
    for name, words in _CATEGORIES:
        if text and re.search(rf"\b({words})\b", text, re.IGNORECASE):
            return name
    return None


def _another_type(name: str, value: Any, wanted: str) -> ValueError:
    return ValueError(f"`{name}` is a {type(value).__name__} where {wanted} should be")


def number(fields: Mapping[str, Any], name: str) -> Decimal:
    """A JSON number, or one written as a text, exactly. Raises KeyError, or ValueError for all else."""
    value = fields[name]
    if isinstance(value, bool) or not isinstance(value, (str, int, Decimal)):
        raise _another_type(name, value, "a number")
    if isinstance(value, str) and not re.fullmatch(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?", value):
        raise ValueError(f"`{name}` is a text where a number should be")
    exact = Decimal(value)
    if exact.adjusted() >= EXACT.prec:
        # As an integer, 1e999999999 would fill the memory.
        raise ValueError(f"`{name}` is greater than any number of a report")
    return exact


def text(fields: Mapping[str, Any], name: str) -> str | None:
    """A text or null. Raises KeyError, or ValueError for all else."""
    value = fields[name]
    if not (value is None or isinstance(value, str)):
        raise _another_type(name, value, "a text")
    try:
        (value or "").encode()
    except UnicodeEncodeError:
        raise ValueError(f"`{name}` is a text with half a character, which no file can keep") from None
    return value


def text_if_any(fields: Mapping[str, Any], name: str) -> str | None:
    """A text that the answer may leave out or leave empty."""
    return text(fields, name) if name in fields else None


def instant(fields: Mapping[str, Any], name: str) -> datetime:
    """An instant in ISO 8601 that says its time zone, as UTC. Raises KeyError, or ValueError for all else."""
    sent = issued(fields, name)
    try:
        found = datetime.fromisoformat(sent)
    except ValueError:
        raise ValueError(f"`{name}` is not an instant") from None
    if found.tzinfo is None:
        raise ValueError(f"`{name}` does not say its time zone")
    return found.astimezone(UTC).replace(tzinfo=None)


def issued(fields: Mapping[str, Any], name: str) -> str:
    """A text that must be there, such as an id. Raises KeyError, or ValueError for all else."""
    value = text(fields, name)
    if not value:
        raise ValueError(f"`{name}` is empty")
    return value


def flag(fields: Mapping[str, Any], name: str) -> bool | None:
    """True, false or null. Raises KeyError, or ValueError for all else."""
    value = fields[name]
    if not (value is None or isinstance(value, bool)):
        raise _another_type(name, value, "true or false")
    return value


def inner(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """An object within a result. Raises KeyError, or ValueError for all else."""
    value = fields[name]
    if not isinstance(value, dict):
        raise _another_type(name, value, "an object")
    return value


def rounded(value: Decimal) -> Decimal:
    """To the 12 decimals that the lake keeps. Raises ValueError for more than it keeps before the point."""
    if value.adjusted() >= _MOST_DIGITS:
        raise ValueError("an amount or quantity is greater than any of a bill")
    return EXACT.quantize(value, Decimal("1e-12"))


def count(fields: Mapping[str, Any], name: str) -> int:
    """A count that must be there. Raises KeyError, or ValueError when it is not a whole number."""
    value = number(fields, name)
    if value != int(value):
        raise ValueError(f"`{name}` is not a whole number")
    if value < 0:
        raise ValueError(f"`{name}` is negative, which no count is")
    if value >= 2**63:
        raise ValueError(f"`{name}` is greater than any count of a report")
    return int(value)


def count_if_any(fields: Mapping[str, Any], name: str) -> int | None:
    """A count that the report may leave out or leave empty."""
    return None if fields.get(name) is None else count(fields, name)
