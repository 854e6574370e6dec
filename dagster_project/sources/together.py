"""Together AI: the organisation's billing usage (the bill), from the billing API.

    v1/billing/usage    a month's lines by UTC day, product, price, project and API key

An amount is a decimal text of dollars. A day is there when it is over. There is no total beside the
lines: each is its own. Together calls the API a beta, enables it per organisation (else it is a 404),
and calls a product's name a display name, which may change: of one that is not understood the text
stays, and it is counted.

Not confirmed: that `pricing_dimensions` name the model as `model`; the names of products other than
`Serverless Inference - Input Tokens`; what a line costs that a credit covers. Here one of type CREDIT
(given, not bought) takes the line's amount off again, as a line of its own; PREPAID and POSTPAID were or
will be paid for, so the line stays: what was paid in advance is a `declared` cost with `prepaid`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal, localcontext
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import duckdb
from pydantic import Field

from dagster_project import records
from dagster_project.days import Days
from dagster_project.settings import Address, ProviderEntry
from dagster_project.sources import Parsed, _buckets, _http, _pages
from dagster_project.sources._buckets import Bucket, Control, Record

KINDS = ("charge",)
TELLS = ("bill", "api key")
READS = "billing usage: each day's lines by product, project and key, and the credits that cover them"
KEEPS_RAW = True
RESTATES_DAYS = 35
"""A day's lines may move until its month is invoiced, some days into the next month."""

USAGE = "v1/billing/usage"
NEXT = _http.Cursor("after", "next_cursor", more=None)
DAYS_PER_PAGE = "1000"
"""The most that it allows."""


class Entry(ProviderEntry):
    """A Together organisation, pulled with a key of any of its projects."""

    provider: ClassVar[str] = "together_ai"

    base_url: Address = "https://api.together.ai"
    organization: str = Field(min_length=1)
    """Its id. Together will ask for it when the beta ends; a key of another one is refused."""


def fetch(entry: Entry, days: Days, raw: Path) -> None:
    """Pull every month of `days`, whole: the API knows no shorter time."""
    with _http.Api(
        entry,
        days,
        headers=_http.bearer,
        needs=f"an API key of the organisation {entry.organization}",
        missing="Or the billing usage API, a beta, is not enabled for the organisation: ask its support.",
    ) as api:
        _pages.write(_answers(api, entry, days), raw)


def _answers(api: _http.Api, entry: Entry, days: Days) -> Iterator[_pages.Page]:
    for month in sorted({f"{day:%Y-%m}" for day in days}):
        question = (("organization_id", entry.organization), ("month", month))
        yield from api.pages(USAGE, (*question, ("granularity", "day"), ("limit", DAYS_PER_PAGE)), NEXT)


def parse(entry: Entry, days: Days, raw: Path, connection: duckdb.DuckDBPyConnection) -> Parsed:
    """A charge for each line, and one that takes it off again where a credit was given for it."""
    counts: Counter[str] = Counter(unparsed_line_items=0)
    with localcontext(_buckets.EXACT):
        windows = list(_windows(entry.name, days, _pages.read(raw)))
        line = partial(_line, entry, counts)
        charges = _buckets.charges(entry, windows, "product_name", _amount, line, Control())
    counts["days_without_a_cost_bucket"] = len(days) - len(windows)
    return Parsed({"charge": records.frame(charges, entry.name, "charge")}, counts)


def _windows(source: str, days: Days, pages: Iterable[_pages.Page]) -> Iterator[Bucket]:
    """The days' lines.

    Raises SourceError also for a day that comes twice, since its lines would count twice, and for a month
    that ends before its latest day with usage.
    """
    seen: set[date] = set()
    for page in pages:
        with _buckets.understood(source, f"{USAGE} for {days}"):
            answer = page.json()
            currency = _buckets.text(answer, "currency")
            windows = [(*_bounds(window), window) for window in _buckets.objects(answer, "data")]
            for start, _, _ in windows:
                if start.date() in seen:
                    raise ValueError(f"{start.date()} comes twice")
                seen.add(start.date())
            is_last = not _buckets.text(answer, "next_cursor")
            if is_last and _buckets.text(answer, "latest_window_end"):
                end = _buckets.instant(answer, "latest_window_end")
                if (end - timedelta(microseconds=1)).date() not in seen:
                    raise ValueError(f"the list ends before {end}, its `latest_window_end`")
        for start, end, window in windows:
            if start.date() in days:
                with _buckets.understood(source, f"{USAGE} of {start.date()}"):
                    lines = [
                        {**line, "currency": currency, "is_given": is_given}
                        for line in _buckets.objects(window, "line_items")
                        for is_given in _charged(line)
                    ]
                yield Bucket(USAGE, True, start, end, lines)


def _bounds(window: Mapping[str, Any]) -> tuple[datetime, datetime]:
    start, end = (_buckets.instant(window, name) for name in ("start_time", "end_time"))
    if _buckets.text(window, "date") != str(start.date()):
        raise ValueError(f"the `date` of the day that begins at {start} is another one")
    return _buckets.utc_day(start, end)


def _charged(line: Mapping[str, Any]) -> tuple[bool, ...]:
    """For each charge of the line whether it is what was given: the line's own, and one more if it was."""
    return (False, True) if _credit(line) == "CREDIT" else (False,)


def _credit(line: Mapping[str, Any]) -> str | None:
    """The type of the credit that covers the line; None without one, unless it is there by another name."""
    if "applied_credit" not in line:
        for name in line:
            if "credit" in name:
                raise ValueError(f"`applied_credit` is missing, and `{name}` is not known")
    if line.get("applied_credit") is None:
        return None
    kind = _buckets.issued(_buckets.inner(line, "applied_credit"), "type")
    if kind not in ("PREPAID", "POSTPAID", "CREDIT"):
        shown = _buckets.shown(kind)
        raise ValueError(f"`applied_credit` is of the `type` `{shown}`, so what the line costs is not known")
    return kind


def _amount(line: Mapping[str, Any]) -> tuple[Decimal, str | None]:
    cost = _buckets.number(line, "cost")
    return -cost if line["is_given"] else cost, line["currency"]


def _line(entry: Entry, counts: Counter[str], bucket: Bucket, line: Mapping[str, Any]) -> Record:
    product = _buckets.issued(line, "product_name")
    price, whose = (_texts(line, name) for name in ("pricing_dimensions", "attributes"))
    coordinates = (product, sorted(price.items()), sorted(whose.items()), _credit(line), line["is_given"])
    charge = bucket.record(entry, *coordinates) | {
        "provider_project_id": whose.get("project_id"),
        "api_key_id": whose.get("api_key_id"),
        "model": price.get("model"),
        "line_item": product,
    }
    if line["is_given"]:
        return charge | {"charge_category": "credit"}
    tokens = _TOKENS.fullmatch(product)
    category = None if tokens else _buckets.category(product)
    counts["unparsed_line_items"] += tokens is None and category is None
    return charge | {
        "service_tier": "batch" if tokens and tokens["way"].lower() == "batch" else None,
        "charge_category": category or "usage",
        "meter": _METERS[tokens["kind"].lower()] if tokens else None,
        "quantity": _buckets.rounded(_buckets.number(line, "quantity")),
        "quantity_unit": "tokens" if tokens else None,
    }


def _texts(line: Mapping[str, Any], name: str) -> Mapping[str, str | None]:
    """An object of texts, whose names vary by product."""
    found = _buckets.inner(line, name)
    return {key: _buckets.text(found, key) for key in found}


_TOKENS = re.compile(
    "(?P<way>Serverless|Batch) Inference - (?P<kind>Input|Cached Input|Output) Tokens", re.IGNORECASE
)
_METERS = {"input": "input", "cached input": "cache_read", "output": "output"}
