"""Anthropic: the organisation's cost report (the bill) and usage report, from the administration API.

    v1/organizations/cost_report             by workspace and description; and in all
    v1/organizations/usage_report/messages   by API key, workspace, model, tier, ...; and in all
    v1/organizations/workspaces, /api_keys   names for people

All are daily buckets in UTC. An amount is a decimal text of cents. A report may leave out all but
the 100 greatest groups of a day, without a word: what the totals have beyond the groups is a record
of its own. What Priority Tier costs is in neither report; its tokens are in the usage report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal, localcontext
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import duckdb

from dagster_project import records
from dagster_project.days import Days
from dagster_project.settings import Address, ProviderEntry
from dagster_project.sources import NamedKind, Parsed, _buckets, _http, _pages
from dagster_project.sources._buckets import Bucket, Control, Record, count

KINDS = ("charge", "usage")
TELLS = ("bill", "usage", "api key")
READS = "cost and messages usage reports, workspaces and keys, with control totals"
KEEPS_RAW = True
RESTATES_DAYS = 7
"""Both reports are complete within minutes, seldom later; a week also covers an outage."""

VERSION = "2023-06-01"
"""Of the API: later ones give workspaces and keys another shape."""

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

TOKEN_METERS = {
    "uncached_input_tokens": "input",
    "cache_read_input_tokens": "cache_read",
    "cache_creation.ephemeral_5m_input_tokens": "cache_write_5m",
    "cache_creation.ephemeral_1h_input_tokens": "cache_write_1h",
    "output_tokens": "output",
}
OTHER_METERS = {"web_search": "web_search", "code_execution": "code_execution_hours"}


class Entry(ProviderEntry):
    """An organisation of the Claude Console, pulled with an administrator's key."""

    provider: ClassVar[str] = "anthropic"

    base_url: Address = "https://api.anthropic.com"


def fetch(entry: Entry, days: Days, raw: Path) -> None:
    """Pull both reports of `days`: a page per 31 days."""
    with _http.Api(
        entry,
        days,
        headers=lambda key: {"x-api-key": key, "anthropic-version": VERSION},
        needs="an organisation's admin key (sk-ant-admin01-...), which an admin makes in the Claude "
        "Console; individual accounts have none",
    ) as api:
        _pages.write(_answers(api, days), raw)


def _answers(api: _http.Api, days: Days) -> Iterator[_pages.Page]:
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
    yield from api.pages(WORKSPACES, (("include_archived", "true"), ("limit", "1000")), BY_ID)
    yield from api.pages(API_KEYS, (("limit", "1000"),), BY_ID)


def parse(entry: Entry, days: Days, raw: Path, connection: duckdb.DuckDBPyConnection) -> Parsed:
    """Charges and usage, each with what the ungrouped reports have beyond the grouped ones."""
    pages = list(_pages.read(raw))
    counts: Counter[str] = Counter(
        unparsed_line_items=0,
        usage_remainders=0,
        usage_totals_below_groups=0,
    )
    with localcontext(_buckets.EXACT):
        costs = _buckets.read(entry.name, days, pages, COSTS, _bounds)
        line = partial(_line, entry, counts)
        charges = _buckets.bill(entry, days, costs, "description", _amount, line, counts)
        usage = _usage(entry, days, pages, counts)
    return Parsed(
        {
            "charge": records.frame(charges, entry.name, "charge"),
            "usage": records.frame(usage, entry.name, "usage"),
        },
        counts,
        names=_buckets.names(entry, days, pages, LISTINGS),
    )


def _bounds(bucket: Mapping[str, Any]) -> tuple[datetime, datetime]:
    return _buckets.instant(bucket, "starting_at"), _buckets.instant(bucket, "ending_at")


def _amount(result: Mapping[str, Any]) -> tuple[Decimal | None, str | None]:
    """Cents become dollars: "123.78912" is 1.2378912."""
    amount = None if result["amount"] is None else _buckets.number(result, "amount").scaleb(-2)
    return amount, _buckets.text(result, "currency")


def _line(
    entry: Entry,
    counts: Counter[str],
    bucket: Bucket,
    result: Mapping[str, Any],
) -> Record:
    kind, token_type, text = (
        _buckets.text(result, name) for name in ("cost_type", "token_type", "description")
    )
    meter = TOKEN_METERS.get(token_type) if kind == "tokens" else OTHER_METERS.get(kind)
    category = None if meter else _buckets.category(text)
    if meter is None and category is None:
        counts["unparsed_line_items"] += 1
    workspace = result["workspace_id"]
    return bucket.record(entry, *(result[name] for name in _TELLING_LINES_APART)) | {
        **_where(result),
        # A credit or a tax without a workspace is the organisation's, not the default workspace's.
        "provider_project_id": workspace or (None if category else "default"),
        "charge_category": category or "usage",
        "line_item": text,
        "meter": meter,
    }


def _usage(
    entry: Entry,
    days: Days,
    pages: Sequence[_pages.Page],
    counts: Counter[str],
) -> list[Record]:
    usage = []
    control = Control()
    for bucket in _buckets.read(entry.name, days, pages, USAGE, _bounds):
        sums: Counter[str] = Counter()
        for result in bucket.results:
            with _buckets.understood(entry.name, str(bucket)):
                meters = _meters(result)
                sums.update(meters)
                if bucket.is_grouped:
                    usage.append(
                        bucket.record(entry, *(result[name] for name in USAGE_GROUPS))
                        | _where(result)
                        | {"api_key_id": _buckets.text(result, "api_key_id") or "no_key"}
                        | {"operation": "chat", **meters}
                    )
        control.add(bucket, sums)
    return _buckets.told_apart(usage) + _buckets.unexplained_usage(entry, "chat", control, counts)


def _meters(result: Mapping[str, Any]) -> Mapping[str, int]:
    """Anthropic's counts are disjoint as they come."""
    written = _buckets.inner(result, "cache_creation")
    return {
        "input_tokens": count(result, "uncached_input_tokens"),
        "cache_read_tokens": count(result, "cache_read_input_tokens"),
        "cache_write_5m_tokens": count(written, "ephemeral_5m_input_tokens"),
        "cache_write_1h_tokens": count(written, "ephemeral_1h_input_tokens"),
        "output_tokens": count(result, "output_tokens"),
        "web_searches": count(_buckets.inner(result, "server_tool_use"), "web_search_requests"),
    }


def _where(result: Mapping[str, Any]) -> Record:
    """The dimensions that both reports have. In a grouped report a null workspace is the default one."""
    workspace, model, tier, window, geo = (
        _buckets.text(result, name)
        for name in ("workspace_id", "model", "service_tier", "context_window", "inference_geo")
    )
    return {
        "provider_project_id": workspace or "default",
        "model": model,
        "service_tier": tier,
        "context_tier": None if window is None else "short" if window.startswith("0-") else "long",
        "region": None if geo == "not_available" else geo,
    }
