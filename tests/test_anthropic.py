"""Anthropic: pulled from a server that behaves like it, and read in every way in which it may be odd."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from pytest_httpserver import HTTPServer
from test_sources import FIXTURES, as_csv
from werkzeug import Request, Response

from dagster_project.days import Days
from dagster_project.errors import SourceError
from dagster_project.sources import Parsed, _http, _pages, anthropic
from dagster_project.sources import _anthropic_analytics as analytics
from dagster_project.sources._pages import Page

KEY = "sk-ant-admin01-Zm9vYmFy_0123456789"
CASE = FIXTURES / "anthropic" / "two_days"
DAYS = Days(date(2026, 10, 1), date(2026, 10, 2))


@pytest.fixture
def entry(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> anthropic.Entry:
    monkeypatch.setenv("ANTHROPIC_ADMIN_KEY", KEY)
    case = yaml.safe_load((CASE / "case.yaml").read_text(encoding="utf-8"))
    return anthropic.Entry(**case["entry"], base_url=httpserver.url_for("/"))


GONE = object()


def spoil(result: dict[str, Any], path: Sequence[str], value: Any) -> None:
    *folders, name = path
    for folder in folders:
        result = result[folder]
    if value is GONE:
        del result[name]
    else:
        result[name] = value


class Provider:
    """Serves the fixture as Anthropic would: reports a day a page, lists a thing a page, no analytics."""

    def __init__(self, mishaps: Mapping[str, Response]) -> None:
        case = yaml.safe_load((CASE / "case.yaml").read_text(encoding="utf-8"))
        self._bodies = {
            (sent["endpoint"], "params" in sent): json.loads(
                (CASE / "pages" / sent["body"]).read_text("utf-8")
            )
            for sent in case["pages"]
        }
        self._mishaps = dict(mishaps)
        self.asked: list[tuple[str, dict[str, list[str]]]] = []

    def spoil(self, endpoint: str, path: Sequence[str], value: Any) -> None:
        """Put `value` at `path` of the first result of the grouped report."""
        report = self._bodies[(endpoint, True)]
        spoil(next(bucket["results"] for bucket in report["data"] if bucket["results"])[0], path, value)

    def __call__(self, request: Request) -> Response:
        endpoint, args = request.path.removeprefix("/"), request.args.to_dict(flat=False)
        if request.headers["x-api-key"] != KEY:
            return refusal(401, "authentication_error", "invalid x-api-key")
        if endpoint in self._mishaps:
            return self._mishaps.pop(endpoint)
        if endpoint in (analytics.COSTS, analytics.USAGE):
            return refusal(404, "not_found_error", "Not found")
        assert request.headers["anthropic-version"] == "2023-06-01"
        assert "anthropic-beta" not in request.headers
        self.asked.append((endpoint, args))
        data = self._bodies[(endpoint, "group_by[]" in args)]["data"]
        if endpoint in (anthropic.WORKSPACES, anthropic.API_KEYS):
            ids = [thing["id"] for thing in data]
            here = ids.index(args["after_id"][0]) + 1 if "after_id" in args else 0
            more = {"first_id": ids[here], "last_id": ids[here]}
        else:
            here = int(args["page"][0].removeprefix("page_")) if "page" in args else 0
            more = {"next_page": f"page_{here + 1}" if here + 1 < len(data) else None}
        return Response(json.dumps({"data": [data[here]], "has_more": here + 1 < len(data), **more}))


def refusal(status: int, kind: str, message: str) -> Response:
    error = {"type": "error", "error": {"type": kind, "message": message}}
    return Response(json.dumps(error), status, {"request-id": "req_011"})


@pytest.fixture
def serve(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Provider]:
    monkeypatch.setattr(time, "sleep", lambda _: None)

    def start(mishaps: Mapping[str, Response] | None = None) -> Provider:
        provider = Provider(mishaps or {})
        httpserver.expect_request(re.compile(".*")).respond_with_handler(provider)
        return provider

    return start


def _pull(entry: anthropic.Entry, raw: Path, days: Days = DAYS) -> Parsed:
    anthropic.fetch(entry, days, raw)
    return anthropic.parse(entry, days, raw, None)


def test_a_pull_with_mishaps_says_the_same_as_the_fixture(entry, serve, tmp_path, caplog) -> None:
    serve(
        {
            anthropic.COSTS: Response("{}", 429, {"retry-after": "2"}),
            anthropic.USAGE: Response('{"data": [{"starting_at": "2026-'),
            anthropic.API_KEYS: Response("{}", 529),
        }
    )
    with caplog.at_level("DEBUG"):
        parsed = _pull(entry, tmp_path)
    for kind in anthropic.KINDS:
        assert as_csv(parsed.records[kind]) == (CASE / "expected" / f"{kind}.csv").read_text("utf-8"), kind
    assert KEY not in caplog.text + "".join(str(page) for page in _pages.read(tmp_path))


def test_what_is_asked(entry, serve, tmp_path) -> None:
    provider = serve()
    anthropic.fetch(entry, DAYS, tmp_path)
    window = {
        "starting_at": ["2026-10-01T00:00:00Z"],
        "ending_at": ["2026-10-03T00:00:00Z"],
        "bucket_width": ["1d"],
        "limit": ["31"],
    }
    by_line = {**window, "group_by[]": ["workspace_id", "description"]}
    assert provider.asked[:5] == [
        ("v1/organizations/cost_report", window),
        ("v1/organizations/cost_report", {**window, "page": ["page_1"]}),
        ("v1/organizations/cost_report", by_line),
        ("v1/organizations/cost_report", {**by_line, "page": ["page_1"]}),
        ("v1/organizations/cost_report", {**by_line, "page": ["page_2"]}),
    ]
    key, workspace = "api_key_id", "workspace_id"
    groups = [key, workspace, "model", "service_tier", "context_window", "inference_geo"]
    assert (anthropic.USAGE, {**window, "group_by[]": groups}) in provider.asked
    assert provider.asked[-1] == (anthropic.API_KEYS, {"limit": ["1000"], "after_id": ["apikey_01Abc"]})


def test_a_wrong_key_is_told_with_its_variable(entry, serve, tmp_path, monkeypatch) -> None:
    serve()
    monkeypatch.setenv("ANTHROPIC_ADMIN_KEY", "sk-ant-api03-wrong")
    complaint = r"HTTP 401, request id req_011: authentication_error.*admin key.*ANTHROPIC_ADMIN_KEY"
    with pytest.raises(SourceError, match=complaint) as caught:
        anthropic.fetch(entry, DAYS, tmp_path)
    assert "sk-ant-api03-wrong" not in str(caught.value)


# The analytics API, served beside the classic one: what was asked shows which of them was used.


ANALYTICS = FIXTURES / "anthropic" / "analytics"
LATER = Days(date(2026, 10, 8), date(2026, 10, 9))
REPORTS = (analytics.COSTS, analytics.USAGE)


class AnalyticsProvider(Provider):
    """Serves the fixture of the analytics API, two rows a page; as strict as its documentation is."""

    def __init__(self, mishaps: Mapping[str, Response]) -> None:
        super().__init__(mishaps)
        self.refreshed_at: str | None = "2026-10-09T03:15:00Z"
        self.may_list = True
        self.answers: dict[Any, dict[str, Any]] = {}
        for sent in yaml.safe_load((ANALYTICS / "case.yaml").read_text(encoding="utf-8"))["pages"]:
            answer = json.loads((ANALYTICS / "pages" / sent["body"]).read_text(encoding="utf-8"))
            known = self.answers.setdefault(self._question(sent["endpoint"], sent.get("params", {})), answer)
            if known is not answer:
                known["data"] += answer["data"]

    @staticmethod
    def _question(endpoint: str, args: Mapping[str, str]) -> tuple[Any, ...]:
        return endpoint, args.get("inference_geos[]"), args.get("include_default")

    def __call__(self, request: Request) -> Response:
        if "anthropic-beta" not in request.headers:
            return super().__call__(request)
        assert request.headers["anthropic-beta"] == "analytics-usage-cost-2026-08-24"
        assert request.headers["anthropic-version"] == "2026-10-21"
        endpoint, args = request.path.removeprefix("/"), request.args.to_dict(flat=False)
        if endpoint in self._mishaps:
            return self._mishaps.pop(endpoint)
        self.asked.append((endpoint, args))
        answer = self.answers[self._question(endpoint, request.args)]
        if endpoint not in REPORTS:
            return Response(json.dumps(answer)) if self.may_list else refusal(403, "permission_error", "No.")
        assert_is_allowed(args)
        here = int(request.args.get("page", "0"))
        after = str(here + 2) if here + 2 < len(answer["data"]) else None
        more = {"has_more": after is not None, "next_page": after, "data_refreshed_at": self.refreshed_at}
        return Response(json.dumps({"data": answer["data"][here : here + 2], **more}))


def assert_is_allowed(args: Mapping[str, list[str]]) -> None:
    groups = [group for group in args.get("group_by[]", []) if group not in ("cost_type", "token_type")]
    assert len(groups) <= 5
    assert {"rbac_group_id", "actor", "product"}.isdisjoint(groups)
    assert args.get("inference_geos[]", ["us"]) in (["global"], ["us"], ["not_available"])
    start, end = (datetime.fromisoformat(args[name][0]) for name in ("starting_at", "ending_at"))
    assert timedelta() < end - start <= timedelta(days=31)
    fixed = {"time_bucket_width": ["1d"], "order_by": ["time"], "order": ["asc"], "limit": ["1000"]}
    assert fixed.items() <= args.items()
    others = args.keys() - fixed.keys()
    assert others <= {"starting_at", "ending_at", "group_by[]", "inference_geos[]", "page"}


@pytest.fixture
def serve_analytics(
    httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., AnalyticsProvider]:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(_http, "today", lambda: LATER.last)

    def start(mishaps: Mapping[str, Response] | None = None) -> AnalyticsProvider:
        provider = AnalyticsProvider(mishaps or {})
        httpserver.expect_request(re.compile(".*")).respond_with_handler(provider)
        return provider

    return start


def _endpoints(provider: Provider) -> set[str]:
    return {endpoint for endpoint, _ in provider.asked}


def test_analytics_with_mishaps_says_the_same_as_its_fixture(
    entry, serve_analytics, tmp_path, caplog
) -> None:
    provider = serve_analytics(
        {
            analytics.COSTS: Response("{}", 429, {"retry-after": "2"}),
            analytics.USAGE: Response('{"data": [{"starting_at": "2026-'),
        }
    )
    with caplog.at_level("DEBUG"):
        parsed = _pull(entry, tmp_path, LATER)
    for kind in anthropic.KINDS:
        expected = (ANALYTICS / "expected" / f"{kind}.csv").read_text("utf-8")
        assert as_csv(parsed.records[kind]) == expected, kind
    assert _endpoints(provider) == {*REPORTS, anthropic.WORKSPACES, anthropic.API_KEYS}, "never both"
    assert KEY not in caplog.text + "".join(str(page) for page in _pages.read(tmp_path))


def test_analytics_is_asked_for_at_most_31_days_at_once() -> None:
    month, day = Days(date(2026, 9, 8), date(2026, 10, 8)), Days(date(2026, 10, 9), date(2026, 10, 9))
    asked = [
        (endpoint, dict(params)) for endpoint, params in analytics.questions(Days(month.first, day.last))
    ]
    spans = [(params["starting_at"][:10], params["ending_at"][:10]) for _, params in asked]
    of_a_report = [("2026-09-08", "2026-10-09")] * 4 + [("2026-10-09", "2026-10-10")] * 4
    assert spans == of_a_report * 2
    assert [*map(len, analytics.questions(month))] == [2] * 8


@pytest.mark.parametrize("status", [401, 403, 404])
def test_where_analytics_is_refused_the_classic_reports_are_used(entry, serve, tmp_path, status) -> None:
    provider = serve({analytics.COSTS: refusal(status, "permission_error", "read:analytics is needed")})
    parsed = _pull(entry, tmp_path)
    for kind in anthropic.KINDS:
        assert as_csv(parsed.records[kind]) == (CASE / "expected" / f"{kind}.csv").read_text("utf-8"), kind
    assert "days_after_the_watermark" not in parsed.counts
    assert _endpoints(provider).isdisjoint(REPORTS)


@pytest.mark.parametrize("status", [401, 403, 404, 400])
def test_analytics_that_is_wanted_is_not_replaced_by_the_classic_reports(
    entry, serve_analytics, tmp_path, status
) -> None:
    """Nor is anything replaced for a failure that is no refusal."""
    provider = serve_analytics({analytics.COSTS: refusal(status, "permission_error", "No.")})
    reports = "auto" if status == 400 else "analytics"
    with pytest.raises(SourceError, match=f"GET {analytics.COSTS} for 2026-10-08.*HTTP {status}, request id"):
        anthropic.fetch(entry.model_copy(update={"reports": reports}), LATER, tmp_path)
    assert provider.asked == []


@pytest.mark.parametrize("status", [401, 403, 404])
def test_half_of_analytics_is_no_pull(entry, serve_analytics, tmp_path, status) -> None:
    provider = serve_analytics({analytics.USAGE: refusal(status, "permission_error", "No.")})
    with pytest.raises(SourceError, match=f"GET {analytics.USAGE} for .*HTTP {status}"):
        anthropic.fetch(entry, LATER, tmp_path)
    assert _endpoints(provider) == {analytics.COSTS}


def test_classic_reports_that_are_wanted_are_used_at_once(entry, serve_analytics, tmp_path) -> None:
    provider = serve_analytics()
    anthropic.fetch(entry.model_copy(update={"reports": "classic"}), DAYS, tmp_path)
    assert _endpoints(provider) == {
        anthropic.COSTS,
        anthropic.USAGE,
        anthropic.WORKSPACES,
        anthropic.API_KEYS,
    }


@pytest.mark.parametrize(
    ("today", "refreshed_at", "unfinished"),
    [
        ("2026-10-09", "2026-10-10T00:00:00Z", 0),
        ("2026-10-09", "2026-10-09T23:59:59Z", 1),
        ("2026-10-09", "2026-10-09T00:00:00Z", 1),
        ("2026-10-09", "2026-10-08T23:59:59Z", 2),
        ("2026-10-09", None, 2),
        ("2026-10-10", "2026-10-09T00:00:00Z", 1),
        ("2026-10-10", "2026-10-08T23:59:59Z", "2026-10-08"),
        ("2026-10-11", "2026-10-08T23:59:59Z", "2026-10-08..2026-10-09"),
        ("2026-10-11", "2026-10-09T03:15:00Z", "2026-10-09"),
        ("2026-12-24", "2026-10-10T00:00:00Z", 0),
    ],
)
def test_days_after_the_watermark_are_told_and_refused_when_they_should_be_whole(
    entry, serve_analytics, tmp_path, monkeypatch, today, refreshed_at, unfinished
) -> None:
    serve_analytics().refreshed_at = refreshed_at
    monkeypatch.setattr(_http, "today", lambda: date.fromisoformat(today))
    if isinstance(unfinished, int):
        assert _pull(entry, tmp_path, LATER).counts["days_after_the_watermark"] == unfinished
    else:
        with pytest.raises(SourceError, match=f"cost of {unfinished}: its data ends at .*run again later"):
            anthropic.fetch(entry, LATER, tmp_path)


def test_the_default_workspace_may_be_the_only_one(entry, serve_analytics, tmp_path) -> None:
    provider = serve_analytics()
    provider.answers[anthropic.WORKSPACES, None, None]["data"] = []
    del provider.answers[anthropic.WORKSPACES, None, "true"]["data"][1:]
    projects = _pull(entry, tmp_path, LATER).records["usage"]["provider_project_id"]
    assert sorted(projects.drop_nulls().unique()) == ["default", "wrkspc_archived", "wrkspc_search"]


def test_without_listings_there_are_no_names_and_the_default_workspace_has_its_id(
    entry, serve_analytics, tmp_path
) -> None:
    """A key that may read analytics only."""
    serve_analytics().may_list = False
    parsed = _pull(entry, tmp_path, LATER)
    assert parsed.names == []
    projects = parsed.records["charge"]["provider_project_id"].drop_nulls().unique().sort().to_list()
    assert projects == ["wrkspc_01Default", "wrkspc_archived", "wrkspc_search"]
    assert parsed.records["charge"]["billed_cost"].sum() == Decimal("58.6728912")


@pytest.mark.parametrize(
    ("endpoint", "place", "sent", "complaint"),
    [
        (analytics.COSTS, "cost.amount", GONE, "is missing"),
        (analytics.COSTS, "cost.amount", "$1.00", "is a text where a number should be"),
        (analytics.COSTS, "cost.list_amount", GONE, "is missing"),
        (analytics.COSTS, "cost.currency", GONE, "is missing"),
        (analytics.COSTS, "cost", GONE, "is missing"),
        (analytics.COSTS, "group.api_key_id", GONE, "is missing"),
        (analytics.COSTS, "group.token_type", GONE, "is missing"),
        (analytics.COSTS, "group.workspace_id", 7, "is a int where a text should be"),
        (analytics.COSTS, "ending_at", "2026-10-12T00:00:00Z", "is no day"),
        (analytics.USAGE, "usage.total_tokens", GONE, "is missing"),
        (analytics.USAGE, "usage.output_tokens", None, "is a NoneType where a number should be"),
        (analytics.USAGE, "group.api_key_id", GONE, "is missing"),
    ],
)
def test_a_row_that_is_not_what_it_was_stops_the_pull(
    entry, tmp_path, endpoint, place, sent, complaint
) -> None:
    answer = AnalyticsProvider({}).answers[endpoint, "us", None]
    spoil(answer["data"][0], place.split("."), sent)
    grouped = (("group_by[]", "api_key_id"), ("inference_geos[]", "us"))
    _pages.write([Page(endpoint, grouped, json.dumps(answer))], tmp_path)
    with pytest.raises(SourceError) as told:
        anthropic.parse(entry, LATER, tmp_path, None)
    assert complaint in told.value.what
    assert f"{endpoint} " in told.value.where
    assert "2026-10-08" in told.value.where
    assert place == "ending_at" or f"`{place.rpartition('.')[2]}`" in told.value.what


# One day of one report, parsed.


def _page(endpoint: str, results: list[dict[str, Any]], *, grouped: bool) -> Page:
    bucket = {
        "starting_at": "2026-10-01T00:00:00Z",
        "ending_at": "2026-10-02T00:00:00Z",
        "results": results,
    }
    params = (("group_by[]", "workspace_id"),) if grouped else ()
    return Page(endpoint, params, json.dumps({"data": [bucket], "has_more": False}))


def _cost(amount: Any, **fields: Any) -> dict[str, Any]:
    what = {"description": "Input Tokens", "cost_type": "tokens", "token_type": "uncached_input_tokens"}
    where = {"workspace_id": None, "model": "m", "service_tier": "standard", "context_window": "0-200k"}
    return {"currency": "USD", "amount": amount, "inference_geo": "us", **what, **where, **fields}


def _charges(entry: anthropic.Entry, raw: Path, grouped: list[dict], total: list[dict]) -> Parsed:
    pages = [
        _page(anthropic.COSTS, grouped, grouped=True),
        _page(anthropic.COSTS, total, grouped=False),
    ]
    _pages.write(pages, raw)
    return anthropic.parse(entry, DAYS, raw, None)


@pytest.mark.parametrize(
    ("cents", "dollars"),
    [
        ("123.78912", "1.2378912"),
        ("100", "1"),
        ("0", "0"),
        ("-0.5", "-0.005"),
        ("0.0000000001", "0.000000000001"),
        ("0.00000000005", "0"),
        ("123456789012345678901234567.89", "1234567890123456789012345.6789"),
    ],
)
def test_cents_become_dollars_exactly(entry, tmp_path, cents: str, dollars: str) -> None:
    frame = _charges(entry, tmp_path, [_cost(cents)], [_cost(cents)]).records["charge"]
    assert frame["billed_cost"].to_list() == [Decimal(dollars)]


@pytest.mark.parametrize(
    ("result", "complaint"),
    [
        (_cost(None), "line `Input Tokens`: not understood .its amount is null"),
        (_cost("1,5"), "a text where a number should be"),
        ({k: v for k, v in _cost("1").items() if k != "token_type"}, "the field `token_type` is missing"),
        ({k: v for k, v in _cost("1").items() if k != "currency"}, "the field `currency` is missing"),
    ],
)
def test_a_line_without_a_known_amount_stops_the_pull(entry, tmp_path, result, complaint) -> None:
    with pytest.raises(SourceError, match=f"cost_report of 2026-10-01.*{complaint}"):
        _charges(entry, tmp_path, [result], [_cost("1")])


@pytest.mark.parametrize(
    ("cost_type", "token_type", "meter", "unparsed"),
    [
        ("tokens", "uncached_input_tokens", "input", 0),
        ("tokens", "cache_read_input_tokens", "cache_read", 0),
        ("tokens", "cache_creation.ephemeral_5m_input_tokens", "cache_write_5m", 0),
        ("tokens", "cache_creation.ephemeral_1h_input_tokens", "cache_write_1h", 0),
        ("tokens", "output_tokens", "output", 0),
        ("tokens", "dream_tokens", None, 1),
        ("web_search", None, "web_search", 0),
        ("code_execution", None, "code_execution_hours", 0),
        ("session_usage", None, None, 1),
    ],
)
def test_meters_of_lines(entry, tmp_path, cost_type, token_type, meter, unparsed) -> None:
    line = _cost("1", cost_type=cost_type, token_type=token_type)
    parsed = _charges(entry, tmp_path, [line], [_cost("1")])
    assert parsed.records["charge"]["meter"].to_list() == [meter]
    assert parsed.counts["unparsed_line_items"] == unparsed


@pytest.mark.parametrize(
    ("window", "tier"), [("0-200k", "short"), ("0-100k", "short"), ("200k-1M", "long"), (None, None)]
)
def test_context_tiers(entry, tmp_path, window, tier) -> None:
    parsed = _charges(entry, tmp_path, [_cost("1", context_window=window)], [_cost("1")])
    assert parsed.records["charge"]["context_tier"].to_list() == [tier]


def test_a_null_workspace_is_the_default_one_but_a_credit_has_none(entry, tmp_path) -> None:
    credit = _cost("-5", description="Promotional credit", cost_type="other", token_type=None)
    frame = _charges(entry, tmp_path, [_cost("10"), credit], [_cost("5")]).records["charge"]
    assert frame["provider_project_id"].to_list() == ["default", None]
    assert frame["charge_category"].to_list() == ["usage", "credit"]


@pytest.mark.parametrize(
    ("start", "complaint"),
    [
        ("2026-10-01T00:00:00", "`starting_at` does not say its time zone"),
        ("yesterday", "`starting_at` is not an instant"),
        ("", "`starting_at` is empty"),
        (1790812800, "`starting_at` is a int where a text should be"),
        ("2026-10-01T01:00:00Z", "is no day"),
        ("0001-01-01T00:00:00Z", "is no day"),
    ],
)
def test_a_bucket_of_an_unknown_time_stops_the_pull(entry, tmp_path, start, complaint) -> None:
    page = _page(anthropic.COSTS, [], grouped=False)
    _pages.write(
        [replace(page, body=page.body.replace('"2026-10-01T00:00:00Z"', json.dumps(start)))], tmp_path
    )
    with pytest.raises(SourceError, match=f"cost_report for 2026-10-01.*{complaint}"):
        anthropic.parse(entry, DAYS, tmp_path, None)


def test_groups_that_were_cut_off_are_a_remainder(entry, tmp_path) -> None:
    """A hundred groups of 1 cent are sent, of a bill of 1.30 dollars."""
    sent = [_cost("1", workspace_id=f"wrkspc_{n}") for n in range(100)]
    parsed = _charges(entry, tmp_path, sent, [_cost("130")])
    rest = parsed.records["charge"].filter(pl.col("charge_category") == "adjustment")
    assert rest["billed_cost"].to_list() == [Decimal("0.30")]
    assert rest["provider_project_id"].to_list() == [None]
    assert parsed.counts["cost_remainders"] == 1


def _used(**fields: Any) -> dict[str, Any]:
    return {
        "uncached_input_tokens": 100,
        "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 10},
        "cache_read_input_tokens": 5,
        "output_tokens": 7,
        "server_tool_use": {"web_search_requests": 3},
        "api_key_id": None,
        "workspace_id": None,
        "model": "m",
        "service_tier": "flex_discount",
        "context_window": "0-200k",
        "inference_geo": "not_available",
    } | fields


def _usage(entry: anthropic.Entry, raw: Path, grouped: list[dict], total: list[dict]) -> Parsed:
    pages = [
        _page(anthropic.USAGE, grouped, grouped=True),
        _page(anthropic.USAGE, total, grouped=False),
    ]
    _pages.write(pages, raw)
    return anthropic.parse(entry, DAYS, raw, None)


def test_meters_come_disjoint_and_workbench_usage_has_no_key(entry, tmp_path) -> None:
    row = _usage(entry, tmp_path, [_used()], [_used()]).records["usage"].row(0, named=True)
    assert {name: row[name] for name in row if name.endswith("_tokens") and row[name] is not None} == {
        "input_tokens": 100,
        "cache_read_tokens": 5,
        "cache_write_5m_tokens": 20,
        "cache_write_1h_tokens": 10,
        "output_tokens": 7,
    }
    assert (row["web_searches"], row["requests"]) == (3, None)
    assert (row["api_key_id"], row["provider_project_id"], row["region"]) == ("no_key", "default", None)
    assert row["service_tier"] == "flex_discount"


@pytest.mark.parametrize(("in_all", "remainder", "below"), [(100, [], 0), (140, [40], 0), (90, [], 1)])
def test_usage_that_no_group_explains(entry, tmp_path, in_all, remainder, below) -> None:
    parsed = _usage(entry, tmp_path, [_used()], [_used(uncached_input_tokens=in_all)])
    rest = parsed.records["usage"].filter(pl.col("api_key_id").is_null())
    assert rest["input_tokens"].to_list() == remainder
    assert rest["output_tokens"].to_list() == [None] * len(remainder)
    assert parsed.counts["usage_totals_below_groups"] == below


@pytest.mark.parametrize(
    ("result", "field"),
    [
        ({k: v for k, v in _used().items() if k != "cache_read_input_tokens"}, "cache_read_input_tokens"),
        (_used(cache_creation={"ephemeral_5m_input_tokens": 1}), "ephemeral_1h_input_tokens"),
        ({k: v for k, v in _used().items() if k != "workspace_id"}, "workspace_id"),
    ],
)
def test_a_field_that_disappears_stops_the_pull(entry, tmp_path, result, field: str) -> None:
    with pytest.raises(SourceError, match=f"messages of 2026-10-01: the field `{field}` is missing"):
        _usage(entry, tmp_path, [result], [_used()])


# What a provider may send one day, through the whole pull: told with source, day, field and remedy.


@pytest.mark.parametrize(
    ("endpoint", "field", "sent", "complaint"),
    [
        (anthropic.COSTS, "amount", GONE, "is missing"),
        (anthropic.COSTS, "amount", {"value": "1"}, "is a dict where a number should be"),
        (anthropic.COSTS, "amount", "$1.00", "is a text where a number should be"),
        (anthropic.COSTS, "amount", "1e999999999", "is greater than any number"),
        (anthropic.COSTS, "currency", None, "is empty"),
        (anthropic.COSTS, "currency", 840, "is a int where a text should be"),
        (anthropic.COSTS, "cost_type", GONE, "is missing"),
        (anthropic.COSTS, "description", 7, "is a int where a text should be"),
        (anthropic.COSTS, "workspace_id", {"id": "w"}, "is a dict where a text should be"),
        (anthropic.COSTS, "context_window", 200_000, "is a int where a text should be"),
        (anthropic.USAGE, "uncached_input_tokens", GONE, "is missing"),
        (anthropic.USAGE, "uncached_input_tokens", None, "is a NoneType where a number should be"),
        (anthropic.USAGE, "output_tokens", "1.5", "is not a whole number"),
        (anthropic.USAGE, "output_tokens", 2**63, "is greater than any count"),
        (anthropic.USAGE, "output_tokens", "1e999999999", "is greater than any number"),
        (anthropic.USAGE, "cache_creation", GONE, "is missing"),
        (anthropic.USAGE, "cache_creation", 7, "is a int where an object should be"),
        (anthropic.USAGE, "cache_creation.ephemeral_1h_input_tokens", GONE, "is missing"),
        (anthropic.USAGE, "server_tool_use.web_search_requests", "few", "is a text where a number should be"),
        (anthropic.USAGE, "output_tokens", -1, "is negative, which no count is"),
        (anthropic.USAGE, "api_key_id", GONE, "is missing"),
        (anthropic.USAGE, "api_key_id", 7, "is a int where a text should be"),
        (anthropic.USAGE, "service_tier", ["standard"], "is a list where a text should be"),
    ],
)  # fmt: skip
def test_a_report_that_is_not_what_it_was_stops_the_pull(
    entry, serve, tmp_path, endpoint, field, sent, complaint
) -> None:
    provider = serve()
    provider.spoil(endpoint, field.split("."), sent)
    with pytest.raises(SourceError) as told:
        _pull(entry.model_copy(update={"reports": "classic"}), tmp_path)
    message = str(told.value)
    assert message.startswith(f"source `{entry.name}`, {endpoint}")
    assert " of 2026-10-0" in told.value.where
    assert f"`{field.rpartition('.')[2]}`" in told.value.what
    assert complaint in message
    assert "Nothing was replaced. Run again; if it stays, the provider changed its report" in message
    assert told.value.__suppress_context__
    assert KEY not in message
