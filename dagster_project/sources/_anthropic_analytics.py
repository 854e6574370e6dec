"""Anthropic's analytics API: cost that names the API key, and the list price. A beta, as of October 2026.

    v1/organizations/analytics/usage    in all; and by API key, workspace, model, service tier, context window
    v1/organizations/analytics/cost     in all; and by these, cost type and token type

Rows, each with its own UTC day; none of a day on which there was nothing. A question may group by five
dimensions, and our sixth, where a model ran, has three values: so the grouped report is asked for once
for each of them. A fourth, when there is one, is in the remainder until it is added to GEOS.

`amount` is after discounts and before credits; both amounts are decimal texts of cents. Rows are summed
over what is not asked for: `product` (chat, claude_code, ...) and `actor` (the person or service account
behind a call, with e-mail addresses; not the key), so no record names a principal. Groups of the
organisation's members overlap and are never asked for. An organisation of Claude Enterprise has neither
keys nor workspaces: its whole cost is the account's.

The answers and their fields are those of the official SDK (2.12), which sends VERSION and BETA.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from functools import partial
from typing import Any

from dagster_project.days import Days
from dagster_project.errors import SourceError
from dagster_project.settings import ProviderEntry
from dagster_project.small_days import is_finished
from dagster_project.sources import _anthropic_reports as reports
from dagster_project.sources import _buckets, _http
from dagster_project.sources._buckets import Bucket, Record
from dagster_project.sources._pages import Page

VERSION = "2026-10-21"
"""Of the API: in it, the default workspace has an id like any other."""

BETA = "analytics-usage-cost-2026-08-24"

COSTS = "v1/organizations/analytics/cost"
USAGE = "v1/organizations/analytics/usage"

LONGEST_SPAN = 31
ROWS = "1000"
"""Days per question and rows per page, the most that the API allows."""

GROUPS = ("api_key_id", "workspace_id", "model", "service_tier", "context_window")
COMPONENTS = ("cost_type", "token_type")
"""Of a cost. They do not count towards the five groups, nor their rows towards those of a page."""

GEOS = ("global", "us", "not_available")
_GEO = "inference_geos[]"


def questions(days: Days) -> Iterator[tuple[str, _http.Params]]:
    """What to ask about `days`: endpoints with parameters; the first is a total of costs."""
    for endpoint, components in ((COSTS, COMPONENTS), (USAGE, ())):
        grouped = tuple(("group_by[]", dimension) for dimension in (*GROUPS, *components))
        for span in days.chunks(LONGEST_SPAN):
            window = (
                ("starting_at", f"{span.start:%Y-%m-%dT%H:%M:%SZ}"),
                ("ending_at", f"{span.end:%Y-%m-%dT%H:%M:%SZ}"),
                ("time_bucket_width", "1d"),
                # By amount, the default, rows would change their pages while amounts grow.
                ("order_by", "time"),
                ("order", "asc"),
                ("limit", ROWS),
            )
            yield endpoint, window
            for geo in GEOS:
                yield endpoint, (*window, *grouped, (_GEO, geo))


def refuse_stale(entry: ProviderEntry, days: Days, page: Page) -> None:
    """Raises SourceError where the data of an answer ends before a day that should be whole by now does.

    The day would look cheap, and after some days nobody would ask again. Of the days that have only just
    ended, what there is of them is kept and `days_after_the_watermark` tells how many they are.
    """
    until = _refreshed_at(entry, days, page)
    late = [day for day in _not_whole(days, until) if is_finished(day, _http.today())]
    if until and late:
        raise SourceError(
            entry.name,
            f"its data ends at {until:%Y-%m-%d %H:%M} UTC (`data_refreshed_at`), so it is not all there",
            where=f"{page.endpoint} of {Days(late[0], late[-1])}",
            remedy="Nothing was replaced. Anthropic is late: run again later; if it stays, "
            "`reports: classic` in the entry pulls the older reports.",
        )


def _refreshed_at(entry: ProviderEntry, days: Days, page: Page) -> datetime | None:
    """The watermark: what happened later is not in the data. None where the answer says none."""
    with _buckets.understood(entry.name, f"{page.endpoint} for {days}"):
        answer = page.json()
        return None if answer["data_refreshed_at"] is None else _buckets.instant(answer, "data_refreshed_at")


def _not_whole(days: Days, until: datetime | None) -> list[date]:
    """Those of `days` that end after the instant `until`: all of them where it is not known."""
    return [day for day in days if until is None or day + timedelta(days=1) > until.date()]


def is_one_of(page: Page) -> bool:
    return page.endpoint in (COSTS, USAGE)


def charges_and_usage(
    entry: ProviderEntry,
    days: Days,
    pages: Sequence[Page],
    default_workspace: str | None,
    counts: Counter[str],
) -> tuple[list[Record], list[Record]]:
    """`default_workspace` is the id that is `default` in our records."""
    watermarks = [_refreshed_at(entry, days, page) for page in pages if is_one_of(page)]
    until = None if None in watermarks else min(filter(None, watermarks))
    counts["days_after_the_watermark"] = len(_not_whole(days, until))
    counts["token_sums_that_disagree"] = 0
    costs, used = (
        _buckets.read(
            entry.name,
            days,
            pages,
            endpoint,
            reports.bounds,
            row=partial(_result, measure, default_workspace),
        )
        for endpoint, measure in ((COSTS, "cost"), (USAGE, "usage"))
    )
    line, cell = (partial(record_of, entry, counts) for record_of in (_line, _cell))
    return (
        _buckets.bill(entry, days, costs, "cost_type", reports.amount, line, counts),
        reports.usage(entry, used, cell, counts),
    )


def _result(
    measure: str, default_workspace: str | None, page: Page, row: Mapping[str, Any]
) -> Mapping[str, Any]:
    """A row as the classic reports have their results: its dimensions beside what is measured."""
    group = _buckets.inner(row, "group")
    workspace = _buckets.text(group, "workspace_id")
    return {
        **group,
        **_buckets.inner(row, measure),
        "workspace_id": "default" if workspace and workspace == default_workspace else workspace,
        "inference_geo": dict(page.params).get(_GEO),
    }


def _line(entry: ProviderEntry, counts: Counter[str], bucket: Bucket, result: Mapping[str, Any]) -> Record:
    """The API has no text for a line: the name of what was counted is all that it says."""
    kind, token_type = (_buckets.text(result, name) for name in COMPONENTS)
    meter = reports.meter(kind, token_type)
    if meter is None:
        counts["unparsed_line_items"] += 1
    listed = reports.dollars(result, "list_amount")
    return _who_and_what(entry, bucket, result, *COMPONENTS, "currency") | {
        "api_key_id": _buckets.text(result, "api_key_id") or "no_key",
        "charge_category": "usage",
        "line_item": token_type or kind,
        "meter": meter,
        "list_cost": None if listed is None else _buckets.rounded(listed),
    }


def _cell(entry: ProviderEntry, counts: Counter[str], bucket: Bucket, result: Mapping[str, Any]) -> Record:
    """Without its `requests`, which are runs of code where a row is of those, and may be null."""
    if _buckets.count(result, "total_tokens") != reports.tokens(result):
        counts["token_sums_that_disagree"] += 1
    return _who_and_what(entry, bucket, result)


def _who_and_what(
    entry: ProviderEntry, bucket: Bucket, result: Mapping[str, Any], *components: str
) -> Record:
    dimensions = (*GROUPS, "inference_geo", *components)
    return (
        bucket.record(entry, *(result[name] for name in dimensions))
        | reports.what(result)
        | {"provider_project_id": result["workspace_id"]}
    )
