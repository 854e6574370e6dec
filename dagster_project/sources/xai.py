"""xAI: a team's billing items (the bill), from the management API.

    v1/billing/teams/<team>/usage    each UTC day's cost by API key, description and unit; and in all

Amounts are dollars, as JSON numbers (invoices and balances of the same API, which are not read, are
cents). A series has a point for each day that was asked for, most of them 0, and no quantity. History
ends after some 90 days: a day without any cost may be one that is forgotten, and never replaces one
that had some. An answer may be cut off (`limitReached`), then its days are asked for by themselves.

Not confirmed: that three things may be grouped by at once (each two of them may); the units but for
the four in METERS; how exactly history ends. A key's label, `name (xai-...3Xxp)`, is its name only.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal, localcontext
from functools import partial
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
READS = "billing items of the last 90 days by key, description and unit, with control totals"
KEEPS_RAW = True
RESTATES_DAYS = 35
"""A day's cost may move until its month is invoiced, some days into the next month."""

GROUPS = ("api_key_id", "description", "unit_type")

METERS = {
    "prompt text tokens": "input",
    "cached prompt text tokens": "cache_read",
    "completion text tokens": "output",
    "reasoning text tokens": "output",
}
"""By the unit of a line, whose words may be joined by `_`."""


class Entry(ProviderEntry):
    """An xAI team, pulled with a management key."""

    provider: ClassVar[str] = "xai"

    base_url: Address = "https://management-api.x.ai"
    team: str = Field(min_length=1)
    """Its id, a UUID: Settings in the xAI Console."""


def _endpoint(entry: Entry) -> str:
    return f"v1/billing/teams/{quote(entry.team, safe='')}/usage"


def fetch(entry: Entry, days: Days, raw: Path) -> None:
    """Pull `days` in all, and by line."""
    with _http.Api(
        entry,
        days,
        headers=_http.bearer,
        needs="a management key of the team that may read billing (xAI Console, Settings, Management Keys); "
        "an API key is refused",
        missing="Or it is not this key's team: see `team` of the entry.",
    ) as api:
        _pages.write(_answers(api, entry, days), raw)


def _answers(api: _http.Api, entry: Entry, days: Days) -> Iterator[_pages.Page]:
    yield from api.pages(_endpoint(entry), _question(days, ()), None, posts=True)
    for page in api.pages(_endpoint(entry), _question(days, GROUPS), None, posts=True):
        if page.json().get("limitReached") and len(days) > 1:
            for day in days.chunks(1):
                yield from api.pages(_endpoint(entry), _question(day, GROUPS), None, posts=True)
        else:
            yield page


def _question(days: Days, groups: Sequence[str]) -> _http.Params:
    request = {
        "timeRange": {
            "startTime": f"{days.start:%Y-%m-%d %H:%M:%S}",
            "endTime": f"{days.end:%Y-%m-%d %H:%M:%S}",
            "timezone": "Etc/GMT",
        },
        "timeUnit": "TIME_UNIT_DAY",
        "values": [{"name": "usd", "aggregation": "AGGREGATION_SUM"}],
        "groupBy": list(groups),
        "filters": [],
    }
    return (("analyticsRequest", request),)


def parse(entry: Entry, days: Days, raw: Path, connection: duckdb.DuckDBPyConnection) -> Parsed:
    """A charge per key, description and unit, and what the totals have beyond them."""
    counts: Counter[str] = Counter(days_cut_off=0, lines_without_a_key_id=0, unparsed_line_items=0)
    with localcontext(_buckets.EXACT):
        costs = list(_read(entry, days, _pages.read(raw), counts))
        line = partial(_line, entry, counts)
        charges = _buckets.bill(entry, days, costs, "labels", _amount, line, counts)
    told = {bucket.day for bucket in costs if bucket.results}
    return Parsed(
        {"charge": records.frame(charges, entry.name, "charge")},
        counts,
        days_without_files=set(days) - told,
    )


def _read(entry: Entry, days: Days, pages: Iterable[_pages.Page], counts: Counter[str]) -> Iterator[Bucket]:
    """The series by day, without the points that are 0; a report may send neighbours too.

    Raises SourceError also for a total that was cut off, and for a day that comes twice.
    """
    endpoint = _endpoint(entry)
    seen: set[tuple[bool, date]] = set()
    for page in pages:
        groups = len(dict(page.params)["analyticsRequest"]["groupBy"])
        by_start: defaultdict[datetime, list[Mapping[str, Any]]] = defaultdict(list)
        with _buckets.understood(entry.name, f"{endpoint} for {days}"):
            answer = page.json()
            for series in _buckets.objects(answer, "timeSeries"):
                who = _group(series, groups)
                for point in _buckets.objects(series, "dataPoints"):
                    results = by_start[_buckets.instant(point, "timestamp")]
                    if usd := _value(point):
                        results.append({**who, "usd": usd})
            is_cut_off = "limitReached" in answer and _buckets.flag(answer, "limitReached")
            if is_cut_off and not groups:
                raise ValueError("the total is cut off (`limitReached`)")
            buckets = [
                Bucket(endpoint, groups > 0, *_buckets.utc_day(start, start + timedelta(days=1)), results)
                for start, results in by_start.items()
            ]
            for bucket in buckets:
                if (bucket.is_grouped, bucket.day) in seen:
                    raise ValueError(f"{bucket.day} comes twice")
                seen.add((bucket.is_grouped, bucket.day))
        asked = [bucket for bucket in buckets if bucket.day in days]
        counts["days_cut_off"] += len(asked) if is_cut_off else 0
        yield from asked


def _group(series: Mapping[str, Any], groups: int) -> Mapping[str, Sequence[str | None]]:
    """Ids, which may be left out as a whole, and labels."""
    ids, labels = _texts(series, "group"), _texts(series, "groupLabels")
    if groups and (len(labels) != groups or len(ids) not in (0, groups)):
        raise ValueError("`group` or `groupLabels` are not those of the groups that were asked for")
    return {"ids": ids or [None] * groups, "labels": labels}


def _texts(series: Mapping[str, Any], name: str) -> Sequence[str | None]:
    """A list of texts, which is left out when it is empty."""
    found = series.get(name, [])
    if not isinstance(found, list):
        raise ValueError(f"`{name}` is not a list")
    return [_buckets.text({name: one}, name) for one in found]


def _value(point: Mapping[str, Any]) -> Decimal:
    values = point["values"]
    if not (isinstance(values, list) and len(values) == 1):
        raise ValueError("`values` is not a list of the one value that was asked for")
    return _buckets.number({"values": values[0]}, "values")


def _amount(result: Mapping[str, Any]) -> tuple[Decimal, str]:
    return result["usd"], "USD"


def _line(entry: Entry, counts: Counter[str], bucket: Bucket, result: Mapping[str, Any]) -> Record:
    ids, labels = result["ids"], result["labels"]
    _, description, unit = labels
    meter = METERS.get((unit or "").lower().replace("_", " "))
    category = None if meter else _buckets.category(description)
    counts["unparsed_line_items"] += meter is None and category is None
    counts["lines_without_a_key_id"] += not ids[0] and bool(labels[0])
    model = _MODEL.search(description or "")
    return bucket.record(entry, *(one or label for one, label in zip(ids, labels, strict=True))) | {
        "api_key_id": ids[0] or None,
        "api_key_name": labels[0] or None,
        "model": model[1] if model else None,
        "charge_category": category or "usage",
        "line_item": ", ".join(text for text in (description, unit) if text) or None,
        "meter": meter,
    }


_MODEL = re.compile(r"(?:^| )(grok-\S+)$")
"""At the end of a description, such as `Chat grok-4.7`."""
