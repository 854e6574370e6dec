"""Anthropic: the organisation's cost report (the bill) and usage report, from the administration API.

    v1/organizations/analytics/cost, /usage  of the analytics API (_anthropic_analytics.py), where it answers;
                                             else the classic reports:
    v1/organizations/cost_report             by workspace and description; and in all
    v1/organizations/usage_report/messages   by API key, workspace, model, tier, ...; and in all
    v1/organizations/workspaces, /api_keys   names for people

All are daily, in UTC. An amount is a decimal text of cents. A classic report may leave out all but
the 100 greatest groups of a day, without a word: what the totals have beyond the groups is a record
of its own. What Priority Tier costs is in no classic report; its tokens are in the usage report.

Both APIs report the same consumption, so a pull asks one of them about all of its days. Only the
analytics API names the key in the bill, and it leaves credits out; it knows no day before 2026 and none
that is more than a year old.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import localcontext
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import duckdb

from dagster_project import records
from dagster_project.days import Days
from dagster_project.settings import Address, ProviderEntry
from dagster_project.sources import NamedKind, Parsed, _buckets, _http, _pages
from dagster_project.sources import _anthropic_analytics as analytics
from dagster_project.sources import _anthropic_reports as reports
from dagster_project.sources._buckets import Bucket, Record

KINDS = ("charge", "usage")
TELLS = ("bill", "usage", "api key")
READS = "cost and usage reports (analytics, else classic), workspaces and keys, with control totals"
KEEPS_RAW = True
RESTATES_DAYS = 7
"""Both reports are complete within minutes, seldom later; a week also covers an outage."""

VERSION = "2023-06-01"
"""Of the classic API: later ones give workspaces and keys another shape."""

COSTS = "v1/organizations/cost_report"
USAGE = "v1/organizations/usage_report/messages"
WORKSPACES = "v1/organizations/workspaces"
API_KEYS = "v1/organizations/api_keys"
LISTINGS: Mapping[str, NamedKind] = {WORKSPACES: "project", API_KEYS: "api_key"}

BUCKETS = "31"
"""Days per page, the most that both reports allow."""

USAGE_GROUPS = (
    "api_key_id",
    "workspace_id",
    "model",
    "service_tier",
    "context_window",
    "inference_geo",
)

_TELLING_LINES_APART = (
    "workspace_id",
    "description",
    "model",
    "service_tier",
    "context_window",
    "inference_geo",
    "cost_type",
    "token_type",
    "currency",
)

BY_ID = _http.Cursor("after_id", "last_id")

Listing = tuple[str, _http.Params]
LISTED: tuple[Listing, ...] = (
    (WORKSPACES, (("include_archived", "true"), ("limit", "1000"))),
    (API_KEYS, (("limit", "1000"),)),
)
WITH_DEFAULT = ("include_default", "true")
WORKSPACES_WITH_DEFAULT: Listing = (
    WORKSPACES,
    (("include_archived", "true"), WITH_DEFAULT, ("limit", "1000")),
)

REFUSED = (401, 403, 404)
"""What the analytics API answers to a key that may not ask it, or where it is not there."""


class Entry(ProviderEntry):
    """An organisation of the Claude Console, pulled with an administrator's key."""

    provider: ClassVar[str] = "anthropic"

    base_url: Address = "https://api.anthropic.com"
    reports: Literal["auto", "analytics", "classic"] = "auto"
    """Which reports are pulled; `auto`: analytics, unless that API refuses the key or is not there."""


def fetch(entry: Entry, days: Days, raw: Path) -> None:
    """Pull both reports of `days`, of one API: 31 days at a time."""
    _pages.write(_answers(entry, days), raw)


def _answers(entry: Entry, days: Days) -> Iterator[_pages.Page]:
    if entry.reports != "classic":
        with _api(
            entry, days, {"anthropic-version": analytics.VERSION, "anthropic-beta": analytics.BETA}
        ) as api:
            first, *others = analytics.questions(days)
            total = [*api.pages(*first, is_optional=entry.reports == "auto", absent=REFUSED)]
            if total:
                # From here on a refusal is an error: half of one API and half of the other is no sum.
                yield from _fresh(entry, days, total)
                for question in others:
                    yield from _fresh(entry, days, api.pages(*question))
                yield from _listings(api, (WORKSPACES_WITH_DEFAULT, *LISTED), is_optional=True)
                return
    with _api(entry, days, {"anthropic-version": VERSION}) as api:
        yield from _classic(api, days)
        yield from _listings(api, LISTED, is_optional=False)


def _api(entry: Entry, days: Days, headers: Mapping[str, str]) -> _http.Api:
    return _http.Api(
        entry,
        days,
        headers=lambda key: {"x-api-key": key, **headers},
        needs="an organisation's admin key (sk-ant-admin01-...), which an admin makes in the Claude "
        "Console; individual accounts have none",
    )


def _fresh(entry: Entry, days: Days, pages: Iterable[_pages.Page]) -> Iterator[_pages.Page]:
    for page in pages:
        analytics.refuse_stale(entry, days, page)
        yield page


def _classic(api: _http.Api, days: Days) -> Iterator[_pages.Page]:
    window = (
        ("starting_at", f"{days.start:%Y-%m-%dT%H:%M:%SZ}"),
        ("ending_at", f"{days.end:%Y-%m-%dT%H:%M:%SZ}"),
        ("bucket_width", "1d"),
        ("limit", BUCKETS),
    )
    for endpoint, dimensions in ((COSTS, ("workspace_id", "description")), (USAGE, USAGE_GROUPS)):
        yield from api.pages(endpoint, window)
        grouped = tuple(("group_by[]", dimension) for dimension in dimensions)
        yield from api.pages(endpoint, (*window, *grouped))


def _listings(api: _http.Api, which: Iterable[Listing], *, is_optional: bool) -> Iterator[_pages.Page]:
    for endpoint, params in which:
        yield from api.pages(endpoint, params, BY_ID, is_optional=is_optional, absent=REFUSED)


def parse(entry: Entry, days: Days, raw: Path, connection: duckdb.DuckDBPyConnection) -> Parsed:
    """Charges and usage, each with what the ungrouped reports have beyond the grouped ones."""
    pages = list(_pages.read(raw))
    counts: Counter[str] = Counter(
        unparsed_line_items=0,
        usage_remainders=0,
        usage_totals_below_groups=0,
    )
    names = _buckets.names(entry, days, pages, LISTINGS)
    with localcontext(_buckets.EXACT):
        if any(map(analytics.is_one_of, pages)):
            default = _default_workspace(entry, days, pages)
            names = [name._replace(id="default") if name.id == default else name for name in names]
            charges, usage = analytics.charges_and_usage(entry, days, pages, default, counts)
        else:
            costs, used = (
                _buckets.read(entry.name, days, pages, endpoint, reports.bounds)
                for endpoint in (COSTS, USAGE)
            )
            line, cell = partial(_line, entry, counts), partial(_cell, entry)
            charges = _buckets.bill(entry, days, costs, "description", reports.amount, line, counts)
            usage = reports.usage(entry, used, cell, counts)
    return Parsed(
        {
            "charge": records.frame(charges, entry.name, "charge"),
            "usage": records.frame(usage, entry.name, "usage"),
        },
        counts,
        names=names,
    )


def _default_workspace(entry: Entry, days: Days, pages: Sequence[_pages.Page]) -> str | None:
    """Its id: the only one that is listed where it is asked for and not where it is not.

    None where the key may not list workspaces: its usage is then of an id, like any workspace's.
    """
    listed: dict[bool, set[str]] = {}
    for page in pages:
        if page.endpoint == WORKSPACES:
            ids = listed.setdefault(WITH_DEFAULT in page.params, set())
            ids.update(name.id for name in _buckets.names(entry, days, [page], LISTINGS))
    found = listed[True] - listed[False] if len(listed) == 2 else set()
    return found.pop() if len(found) == 1 else None


def _line(
    entry: Entry,
    counts: Counter[str],
    bucket: Bucket,
    result: Mapping[str, Any],
) -> Record:
    kind, token_type, text = (
        _buckets.text(result, name) for name in ("cost_type", "token_type", "description")
    )
    meter = reports.meter(kind, token_type)
    category = None if meter else _buckets.category(text)
    if meter is None and category is None:
        counts["unparsed_line_items"] += 1
    workspace = _buckets.text(result, "workspace_id")
    return bucket.record(entry, *(result[name] for name in _TELLING_LINES_APART)) | {
        **reports.what(result),
        # A credit or a tax without a workspace is the organisation's, not the default workspace's.
        "provider_project_id": workspace or (None if category else "default"),
        "charge_category": category or "usage",
        "line_item": text,
        "meter": meter,
    }


def _cell(entry: Entry, bucket: Bucket, result: Mapping[str, Any]) -> Record:
    """In a grouped report a null workspace is the default one."""
    workspace = _buckets.text(result, "workspace_id") or "default"
    return (
        bucket.record(entry, *(result[name] for name in USAGE_GROUPS))
        | reports.what(result)
        | {"provider_project_id": workspace}
    )
