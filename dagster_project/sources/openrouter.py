"""OpenRouter: daily activity of the account, which is its bill, in all and by API key.

    activity?date=...                 by workspace, model and endpoint: a day in all
    activity?api_key_hash=...         the same of one key: there is no key in a row, so each is asked for
    workspaces, keys?workspace_id=... names for people, disabled and expired keys too

Days are UTC, known when they are over and for WINDOW days. `usage` is dollars (credits are dollars), as a
JSON number. What no listed key has used (deleted keys, the chat room) is its workspace's, as `no_key`: every
row of a day less those of the keys. A line is all that a key's model cost at an endpoint; it names no meter.
A model is priced by its slug (`deepseek/deepseek-r1:free`); the permaslug, its snapshot, is the line's text.

What is paid to another provider by a key of one's own (BYOK) is on that provider's bill: here it is the
`reported_cost` of the usage, its charge is what OpenRouter itself took. Purchases of credits and the fees on
them are in no activity: the source `declared` holds them, its `prepaid` credits are drawn by these charges.

POST analytics/query would say key, day and model in one table, the better route for thousands of keys; but it
shows keys by their labels, not their hashes, and cuts an answer off after a number of rows.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import localcontext
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import duckdb

from dagster_project import records
from dagster_project.days import Days
from dagster_project.errors import SourceError
from dagster_project.settings import Address, ProviderEntry
from dagster_project.sources import Parsed, _buckets, _http, _pages
from dagster_project.sources._buckets import Bounds, Bucket, Record

KINDS = ("charge", "usage")
TELLS = ("bill", "usage", "api key")
READS = "activity of the last 30 days, in all and by key (disabled and expired too), and every workspace"
KEEPS_RAW = True
RESTATES_DAYS = 7
"""Activity is of days that are over; a week covers what is counted late, and an outage of ours."""

WINDOW = 30
"""Finished days that OpenRouter still knows. Older ones it refuses."""

ACTIVITY = "activity"
WORKSPACES = "workspaces"
KEYS = "keys"

LONGEST_ID = 1000
"""Characters; a hash has 64, and no address can hold a million."""

BY_WORKSPACE = ("group_by", "workspace")
ALL_KEYS = (("include_disabled", "true"), ("include_expired", "true"))

COUNTS = ("requests", "prompt_tokens", "completion_tokens", "reasoning_tokens", "cached_tokens")
AMOUNTS = ("usage", "byok_usage_inference")
"""What a row adds up, amounts in dollars."""


class Entry(ProviderEntry):
    """An account of OpenRouter, pulled with a management key."""

    provider: ClassVar[str] = "openrouter"

    base_url: Address = "https://openrouter.ai/api/v1"


class Cell(NamedTuple):
    """Whose a row is, and of what: its coordinates, by the names of its fields."""

    workspace_id: str | None
    model: str | None
    model_permaslug: str | None
    endpoint_id: str | None


Quantities = Counter[str]
"""COUNTS and AMOUNTS by name."""


def fetch(entry: Entry, days: Days, raw: Path) -> None:
    """Pull the finished ones of `days`. Raises SourceError where OpenRouter has forgotten one of them."""
    today = _http.today()
    first = today - timedelta(days=WINDOW)
    if days.first < first:
        lost = Days(days.first, min(days.last, first - timedelta(days=1)))
        raise SourceError(
            entry.name,
            f"OpenRouter knows the last {WINDOW} days only; it has forgotten {len(lost)} that were asked for",
            where=f"{ACTIVITY} of {lost}",
            remedy=f"Nothing was replaced. Run again from {first} on (`--from`, or its `start_date`); "
            "what of the days before was never pulled is left for a source of type `declared`.",
        )
    with _http.Api(
        entry,
        days,
        headers=_http.bearer,
        needs="a management key, which an administrator makes under Settings, Management Keys; a key for "
        "inference is refused",
    ) as api:
        _pages.write(_answers(api, entry, days, today), raw)


def _answers(api: _http.Api, entry: Entry, days: Days, today: date) -> Iterator[_pages.Page]:
    finished = [day for day in days if day < today]
    if not finished:
        return
    for day in finished:
        yield from api.pages(ACTIVITY, (("date", str(day)), BY_WORKSPACE), says_more=False)

    # Without a workspace it is asked for the default one's keys, whether that is listed or not.
    asked: list[_http.Params] = [()]
    for page in _listed(api, entry, days, WORKSPACES, ()):
        yield page
        asked += [(("workspace_id", workspace),) for workspace in _ids(entry, days, page, "id")]
    keys: dict[str, None] = {}
    for workspace in asked:
        for page in _listed(api, entry, days, KEYS, (*ALL_KEYS, *workspace)):
            yield page
            keys |= dict.fromkeys(_ids(entry, days, page, "hash"))
    for key in keys:
        # Optional: it may be gone by now.
        of_key = (("api_key_hash", key), BY_WORKSPACE)
        yield from api.pages(ACTIVITY, of_key, is_optional=True, says_more=False)


def _listed(
    api: _http.Api, entry: Entry, days: Days, endpoint: str, params: _http.Params
) -> Iterator[_pages.Page]:
    """A list that does not say where it ends: it is over where nothing is left. None where there is none."""
    skipped, before = 0, None
    while True:
        of_page = (*params, ("offset", str(skipped)))
        pages = [*api.pages(endpoint, of_page, is_optional=True, says_more=False)]
        yield from pages
        with _buckets.understood(entry.name, f"{endpoint} for {days}"):
            found = sum(len(_buckets.objects(page.json(), "data")) for page in pages)
            if not found:
                return
            bodies = [page.body for page in pages]
            if bodies == before:
                raise ValueError("the same page came twice, as if `offset` had not been said")
        skipped, before = skipped + found, bodies


def _ids(entry: Entry, days: Days, page: _pages.Page, name: str) -> list[str]:
    """The ids of what is listed, with which further questions are asked."""
    with _buckets.understood(entry.name, f"{page.endpoint} for {days}"):
        ids = [_buckets.issued(thing, name) for thing in _buckets.objects(page.json(), "data")]
        if any(len(found) > LONGEST_ID for found in ids):
            raise ValueError(f"`{name}` is longer than any id")
        return ids


def parse(entry: Entry, days: Days, raw: Path, connection: duckdb.DuckDBPyConnection) -> Parsed:
    """A charge and a usage record for each row of a key, and for what no key explains of the day's rows."""
    pages = list(_pages.read(raw))
    asked = {dict(page.params).get("date") for page in pages} - {None}
    counts: Counter[str] = Counter(
        days_not_over=len(days) - len(asked),
        negative_remainders=0,
        paid_elsewhere=0,
        reasoning_beyond_output=0,
        without_a_listed_key=0,
    )
    with localcontext(_buckets.EXACT):
        buckets = _buckets.read(
            entry.name, days, pages, ACTIVITY, _bounds, grouped_by="api_key_hash", row=_result
        )
        charges, usage = [], []
        told = (bucket for bucket in buckets if str(bucket.day) in asked)
        for bucket, key, cell, quantities in _by_key(entry, told):
            with _buckets.understood(entry.name, str(bucket)):
                whose = bucket.record(entry, key, *cell) | {
                    "provider_project_id": cell.workspace_id,
                    "api_key_id": key or "no_key",
                    "model": cell.model,
                }
                charges.append(whose | _charge(cell, quantities))
                usage.append(whose | _usage(quantities, counts))
                counts["without_a_listed_key"] += key is None
    return Parsed(
        {
            "charge": records.frame(_buckets.told_apart(charges), entry.name, "charge"),
            "usage": records.frame(_buckets.told_apart(usage), entry.name, "usage"),
        },
        counts,
        names=[
            *_buckets.names(entry, days, pages, {WORKSPACES: "project"}),
            *_buckets.names(entry, days, pages, {KEYS: "api_key"}, id_field="hash"),
        ],
    )


def _bounds(row: Mapping[str, Any]) -> Bounds:
    sent = _buckets.issued(row, "date")
    try:
        day = datetime.fromisoformat(sent)
    except ValueError:
        raise ValueError("`date` is not a day") from None
    start = day.astimezone(UTC).replace(tzinfo=None) if day.tzinfo else day
    return start, start + timedelta(days=1)


def _result(page: _pages.Page, row: Mapping[str, Any]) -> Mapping[str, Any]:
    asked = dict(page.params)
    if asked.get("date", row["date"][:10]) != row["date"][:10]:
        raise ValueError(f"`date` is another day than {asked['date']}, which was asked for")
    return row | {"api_key_hash": asked.get("api_key_hash")}


def _by_key(entry: Entry, buckets: Iterable[Bucket]) -> Iterator[tuple[Bucket, str | None, Cell, Quantities]]:
    """Every row of a key; then what they leave of the rows of the days in all, which is of no key.

    Raises SourceError where they have more than there is: then the one is not a part of the other.
    """
    left: defaultdict[tuple[date, Cell], Quantities] = defaultdict(Counter)
    totals: dict[date, Bucket] = {}
    for bucket in buckets:
        for result in bucket.results:
            with _buckets.understood(entry.name, str(bucket)):
                cell = Cell(*(_buckets.text(result, name) for name in Cell._fields))
                quantities = Counter(
                    {name: _buckets.count(result, name) for name in COUNTS}
                    | {name: _buckets.number(result, name) for name in AMOUNTS}
                )
            if bucket.is_grouped:
                left[bucket.day, cell].subtract(quantities)
                yield bucket, result["api_key_hash"], cell, quantities
            else:
                left[bucket.day, cell].update(quantities)
                totals[bucket.day] = bucket
    for (day, cell), lacking in left.items():
        with _buckets.understood(entry.name, f"{ACTIVITY} of {day}"):
            for name, quantity in lacking.items():
                if quantity <= -_buckets.NOISE:
                    of = _buckets.shown(cell.model)
                    raise ValueError(f"the keys have {-quantity} more `{name}` of {of} than there is")
        if any(quantity >= _buckets.NOISE for quantity in lacking.values()):
            yield totals[day], None, cell, lacking


def _charge(cell: Cell, quantities: Quantities) -> Record:
    return {
        "billed_cost": _buckets.rounded(quantities["usage"]),
        "currency": "USD",
        "charge_category": "usage",
        "line_item": cell.model_permaslug,
    }


def _usage(quantities: Quantities, counts: Counter[str]) -> Record:
    """Prompts include what was read from a cache, and what was written to one, which is not told.

    Where the answer itself was replayed from OpenRouter's cache, more can be cached than was in the prompts.
    """
    uncached = quantities["prompt_tokens"] - quantities["cached_tokens"]
    reasoning, output = quantities["reasoning_tokens"], quantities["completion_tokens"]
    elsewhere = _buckets.rounded(quantities["byok_usage_inference"])
    counts["negative_remainders"] += uncached < 0
    counts["reasoning_beyond_output"] += reasoning > output
    counts["paid_elsewhere"] += elsewhere != 0
    return {
        "requests": quantities["requests"],
        "input_tokens": max(uncached, 0),
        "cache_read_tokens": quantities["cached_tokens"],
        "output_tokens": output,
        "reasoning_tokens": reasoning if reasoning <= output else None,
        "reported_cost": elsewhere or None,
    }
