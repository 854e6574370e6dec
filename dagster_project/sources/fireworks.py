"""Fireworks: what an account's usage cost (the bill), from the gateway API.

    v1/accounts/<account>/usageCosts:query    a day's rated cost by API key and model; and in all

It groups by two things at most, so each UTC day is asked for by itself. An amount is `units`, whole
dollars, and `nanos`, billionths of one; either may be left out when it is 0. Every page says what the
account's day cost in all (`subtotal`). It says no tokens and no meter: a line is a key's use of a model.

Not confirmed: whether dedicated deployments and training are in it. The export that the documentation
calls its counterpart has serverless inference only. `billing/summary`, which is not read, has all three;
what it has beyond this bill is a `declared` cost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from decimal import Decimal, localcontext
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import duckdb
from pydantic import Field

from dagster_project import records
from dagster_project.days import Days
from dagster_project.settings import Address, ProviderEntry
from dagster_project.sources import Parsed, _buckets, _http, _pages
from dagster_project.sources._buckets import Bucket, Record

KINDS = ("charge",)
TELLS = ("bill", "api key")
READS = "rated usage costs of each day by key and model, with the account's subtotal as control total"
KEEPS_RAW = True
RESTATES_DAYS = 7
"""Costs follow the traffic by a day or more; a week also covers an outage."""

NEXT = _http.Cursor("pageToken", "nextPageToken", more=None)
GROUPS = ("API_KEY", "MODEL")


class Entry(ProviderEntry):
    """A Fireworks account, pulled with an administrator's key: no other sees the costs of all users."""

    provider: ClassVar[str] = "fireworks_ai"

    base_url: Address = "https://api.fireworks.ai"
    account: str = Field(min_length=1)
    """Its id, as in `accounts/<id>`, and its name in our tables."""


def _endpoint(entry: Entry) -> str:
    return f"v1/accounts/{quote(entry.account, safe='')}/usageCosts:query"


def fetch(entry: Entry, days: Days, raw: Path) -> None:
    """Pull each of `days`."""
    with _http.Api(
        entry,
        days,
        headers=_http.bearer,
        needs=f"an API key of an administrator of the account {entry.account}",
        missing=f"Or there is no account {entry.account}: see `account` of the entry.",
    ) as api:
        _pages.write(_answers(api, entry, days), raw)


def _answers(api: _http.Api, entry: Entry, days: Days) -> Iterator[_pages.Page]:
    for day in days.chunks(1):
        question = (
            ("scope", "ACCOUNT"),
            ("groupBy", list(GROUPS)),
            ("startTime", f"{day.start:%Y-%m-%dT%H:%M:%SZ}"),
            ("endTime", f"{day.end:%Y-%m-%dT%H:%M:%SZ}"),
        )
        yield from api.pages(_endpoint(entry), question, NEXT, posts=True)


def parse(entry: Entry, days: Days, raw: Path, connection: duckdb.DuckDBPyConnection) -> Parsed:
    """A charge per key and model, and what the subtotal of a day has beyond them."""
    counts: Counter[str] = Counter(
        days_incompletely_attributed=0, lines_without_a_key=0, lines_without_a_model=0
    )
    with localcontext(_buckets.EXACT):
        costs = _read(entry, _pages.read(raw), counts)
        line = partial(_line, entry, counts)
        charges = _buckets.bill(entry, days, costs, "dimensions", _amount, line, counts)
    return Parsed({"charge": records.frame(charges, entry.name, "charge")}, counts)


def _read(entry: Entry, pages: Iterable[_pages.Page], counts: Counter[str]) -> Iterator[Bucket]:
    """Each day twice: its rows, and its subtotal, which the last page knows best.

    Raises SourceError also where the rows are more than the subtotal of all of them.
    """
    endpoint = _endpoint(entry)
    for day, of_day in groupby(pages, key=lambda page: _buckets.instant(dict(page.params), "startTime")):
        bounds = day, day + timedelta(days=1)
        with _buckets.understood(entry.name, f"{endpoint} of {day.date()}"):
            answers = [page.json() for page in of_day]
            # An empty list is left out.
            rows = [row for answer in answers if "rows" in answer for row in _buckets.objects(answer, "rows")]
            subtotal = {"subtotal": answers[-1]["subtotal"]}
            amounts: Counter[str | None] = Counter()
            for row in rows:
                amount, currency = _amount(row)
                amounts[currency] += amount
            total, currency = _amount(subtotal)
            if amounts[currency] - total >= _buckets.NOISE:
                raise ValueError("its `rows` are more than its `subtotal`")
            complete = _buckets.text_if_any(answers[-1], "attributionCompleteness")
            counts["days_incompletely_attributed"] += complete not in (None, "COMPLETE")
        yield Bucket(endpoint, True, *bounds, rows)
        yield Bucket(endpoint, False, *bounds, [subtotal])


def _amount(row: Mapping[str, Any]) -> tuple[Decimal, str | None]:
    """A part that is not there is 0, unless it is there by another name."""
    money = _buckets.inner(row, "subtotal")
    amount = Decimal(0)
    for part, power in _PARTS.items():
        if part in money:
            number = _buckets.number(money, part)
            if number % 1:
                raise ValueError(f"`{part}` is not a whole number")
            amount += number.scaleb(power)
        else:
            for name in money:
                if part in name:
                    raise ValueError(f"`{part}` is missing, and `{name}` is not known")
    return amount, _buckets.text(money, "currencyCode")


_PARTS = {"units": 0, "nanos": -9}
"""The parts of an amount, and their power of ten."""


def _line(entry: Entry, counts: Counter[str], bucket: Bucket, row: Mapping[str, Any]) -> Record:
    """What cannot be told (`unattributedDimensions`, `unknownModel`) is left out, or empty."""
    said = _buckets.inner(row, "dimensions")
    key, model = (_buckets.text_if_any(said, name) or None for name in ("apiKeyId", "model"))
    counts["lines_without_a_key"] += key is None
    counts["lines_without_a_model"] += model is None
    return bucket.record(entry, key, model) | {
        "api_key_id": key,
        "model": model,
        "charge_category": "usage",
        "line_item": model,
    }
