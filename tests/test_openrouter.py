"""OpenRouter: pulled from a server that behaves like it, and every cent of its activity accounted for."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from pytest_httpserver import HTTPServer
from test_sources import FIXTURES, as_csv
from werkzeug import Request, Response

from dagster_project.days import Days
from dagster_project.errors import SourceError
from dagster_project.sources import Parsed, _http, _pages, openrouter
from dagster_project.sources._pages import Page

KEY = "sk-or-v1-management-0123456789"
CASE = FIXTURES / "openrouter" / "two_days"
DAYS = Days(date(2026, 10, 7), date(2026, 10, 8))
TODAY = date(2026, 10, 9)


@pytest.fixture
def entry(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> openrouter.Entry:
    monkeypatch.setenv("OPENROUTER_MANAGEMENT_KEY", KEY)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(_http, "today", lambda: TODAY)
    case = yaml.safe_load((CASE / "case.yaml").read_text(encoding="utf-8"))
    return openrouter.Entry(**case["entry"], base_url=httpserver.url_for("/api/v1"))


class Provider:
    """Answers about the fixture's activity, workspaces and keys as OpenRouter would; a thing a page."""

    def __init__(self, mishaps: Mapping[str, Response]) -> None:
        self.days: dict[str, list[str]] = {}
        self.keys: dict[str, list[str]] = {}
        self.listed: dict[str, list[dict[str, Any]]] = {"workspaces": [], "keys": []}
        for sent in yaml.safe_load((CASE / "case.yaml").read_text(encoding="utf-8"))["pages"]:
            text = (CASE / "pages" / sent["body"]).read_text(encoding="utf-8")
            params = sent["params"]
            if sent["endpoint"] == "activity":
                kept, name = (
                    (self.days, params["date"]) if "date" in params else (self.keys, params["api_key_hash"])
                )
                kept[name] = [line.rstrip(",]}\n") + "}" for line in text.splitlines()[1:]]
            else:
                self.listed[sent["endpoint"]] += json.loads(text)["data"]
        self._mishaps = dict(mishaps)
        self.asked: list[tuple[str, dict[str, str]]] = []

    def __call__(self, request: Request) -> Response:
        endpoint, args = request.path.removeprefix("/api/v1/"), request.args.to_dict()
        if request.headers["Authorization"] != f"Bearer {KEY}":
            return refusal(401, "Invalid management key")
        if endpoint in self._mishaps:
            return self._mishaps.pop(endpoint)
        if endpoint == "activity":
            assert args.pop("group_by") == "workspace"
        self.asked.append((endpoint, args))
        match args:
            case {"date": day}:
                return Response(f'{{"data": [{",".join(self.days[day])}]}}')
            case {"api_key_hash": key} if key not in self.keys:
                return refusal(404, "API key not found")
            case {"api_key_hash": key}:
                return Response(f'{{"data": [{",".join(self.keys[key])}]}}')
        here = int(args["offset"])
        things = [*self._things(endpoint, args)][here : here + 1]
        return Response(json.dumps({"data": things, "total_count": len(things)}))

    def _things(self, endpoint: str, args: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        workspace = args.get("workspace_id", self.listed["workspaces"][0]["id"])
        for thing in self.listed[endpoint]:
            is_hidden = thing.get("disabled") and "true" not in args.get("include_disabled", "")
            if thing.get("workspace_id", workspace) == workspace and not is_hidden:
                yield thing


def refusal(status: int, message: str) -> Response:
    return Response(json.dumps({"error": {"code": status, "message": message}}), status)


@pytest.fixture
def serve(httpserver: HTTPServer) -> Callable[..., Provider]:
    def start(mishaps: Mapping[str, Response] | None = None) -> Provider:
        provider = Provider(mishaps or {})
        httpserver.expect_request(re.compile(".*")).respond_with_handler(provider)
        return provider

    return start


def _pull(entry: openrouter.Entry, raw: Path, days: Days = DAYS) -> Parsed:
    openrouter.fetch(entry, days, raw)
    return openrouter.parse(entry, days, raw, None)


def test_a_pull_with_mishaps_says_the_same_as_the_fixture(entry, serve, tmp_path, caplog) -> None:
    serve({"activity": Response("{}", 429, {"retry-after": "2"}), "keys": Response('{"data": [{"hash"')})
    with caplog.at_level("DEBUG"):
        parsed = _pull(entry, tmp_path)
    for kind in openrouter.KINDS:
        assert as_csv(parsed.records[kind]) == (CASE / "expected" / f"{kind}.csv").read_text("utf-8"), kind
    assert KEY not in caplog.text + "".join(str(page) for page in _pages.read(tmp_path))


def test_what_is_asked(entry, serve, tmp_path) -> None:
    provider = serve()
    openrouter.fetch(entry, Days(DAYS.first, TODAY), tmp_path)
    default, search = (workspace["id"] for workspace in provider.listed["workspaces"])
    everything = {"include_disabled": "true", "include_expired": "true"}
    assert [args for endpoint, args in provider.asked if endpoint == "keys"] == [
        {**everything, **of, "offset": offset}
        for of in ({}, {"workspace_id": default}, {"workspace_id": search})
        for offset in ("0", "1")
    ]
    assert [args for endpoint, args in provider.asked if endpoint == "workspaces"] == [
        {"offset": offset} for offset in ("0", "1", "2")
    ]
    assert [args for endpoint, args in provider.asked if endpoint == "activity"] == [
        {"date": "2026-10-07"},
        {"date": "2026-10-08"},  # and not today, which it refuses
        *({"api_key_hash": key["hash"]} for key in provider.listed["keys"]),
    ]


@pytest.mark.parametrize(
    ("first", "last", "lost"),
    [
        ("2026-09-08", "2026-10-08", "2026-09-08"),
        ("2026-09-01", "2026-10-08", "2026-09-01..2026-09-08"),
        ("2026-08-01", "2026-08-31", "2026-08-01..2026-08-31"),
    ],
)
def test_days_that_have_left_the_window_are_an_error_and_not_empty(
    entry, serve, tmp_path, first, last, lost
) -> None:
    provider = serve()
    days = Days(date.fromisoformat(first), date.fromisoformat(last))
    with pytest.raises(SourceError, match=f"activity of {lost}: .*Run again from 2026-09-09 on") as told:
        openrouter.fetch(entry, days, tmp_path)
    assert "Nothing was replaced" in str(told.value)
    assert provider.asked == []


def test_the_first_day_of_the_window_is_asked_for(entry, serve, tmp_path) -> None:
    provider = serve()
    window = Days(TODAY - timedelta(days=30), TODAY - timedelta(days=1))
    provider.days |= {str(day): [] for day in window if day not in DAYS}
    openrouter.fetch(entry, window, tmp_path)
    assert provider.asked[0] == ("activity", {"date": "2026-09-09"})


def test_a_day_that_is_not_over_is_not_asked_for_and_told(entry, serve, tmp_path) -> None:
    provider = serve()
    parsed = _pull(entry, tmp_path, Days(TODAY, TODAY))
    assert provider.asked == []
    assert [frame.height for frame in parsed.records.values()] == [0, 0]
    assert parsed.counts["days_not_over"] == 1


def test_a_day_that_ends_between_two_questions_is_left_for_the_next_pull(entry, serve, tmp_path) -> None:
    provider = serve()
    support = provider.listed["keys"][0]["hash"]
    provider.keys[support].append(_row(date=str(TODAY)))
    parsed = _pull(entry, tmp_path, Days(DAYS.first, TODAY))
    assert parsed.records["charge"]["usage_date"].max() == DAYS.last
    assert parsed.counts["days_not_over"] == 1


def test_a_refused_day_is_told_in_the_words_of_the_provider(entry, serve, tmp_path) -> None:
    serve({"activity": refusal(400, "Date must be within the last 30 (completed) UTC days")})
    with pytest.raises(SourceError, match=r"GET activity for .*HTTP 400: 400: Date must be within"):
        openrouter.fetch(entry, DAYS, tmp_path)


@pytest.mark.parametrize("status", [401, 403])
def test_another_key_than_a_management_key_is_told_with_its_variable(entry, serve, tmp_path, status) -> None:
    serve({"activity": refusal(status, "Only management keys can fetch activity")})
    complaint = rf"HTTP {status}.*Only management keys.*It needs a management key.*OPENROUTER_MANAGEMENT_KEY"
    with pytest.raises(SourceError, match=complaint):
        openrouter.fetch(entry, DAYS, tmp_path)


def test_a_list_that_does_not_go_on_is_refused(entry, serve, tmp_path, monkeypatch) -> None:
    provider = serve()
    monkeypatch.setattr(provider, "_things", lambda *_: [{"id": "same", "hash": "same"}] * 99)
    with pytest.raises(SourceError, match=r"workspaces for .*the same page came twice"):
        openrouter.fetch(entry, DAYS, tmp_path)


def test_a_key_that_is_gone_between_two_questions_leaves_its_part_without_a_key(
    entry, serve, tmp_path
) -> None:
    provider = serve()
    whole = _pull(entry, tmp_path).records["charge"]
    provider.keys.popitem()
    parsed = _pull(entry, tmp_path)
    left = parsed.records["charge"]
    assert left["billed_cost"].sum() == whole["billed_cost"].sum() == Decimal("0.3170015")
    assert parsed.counts["without_a_listed_key"] == 3


# One day, parsed.


def _row(usage: str = "0.5", **fields: Any) -> str:
    row = {
        "date": "2026-10-07",
        "workspace_id": "w",
        "model": "a/b",
        "model_permaslug": "a/b-1",
        "endpoint_id": "e",
        "byok_usage_inference": 0,
        "requests": 2,
        "prompt_tokens": 100,
        "completion_tokens": 10,
        "reasoning_tokens": 4,
        "cached_tokens": 30,
    } | fields
    kept = json.dumps({name: value for name, value in row.items() if value is not GONE})
    return f'{kept[:-1]}, "usage": {usage}}}' if usage else kept


GONE = object()


def _parsed(entry: openrouter.Entry, raw: Path, total: list[str], of_key: list[str]) -> Parsed:
    asked = ((("date", "2026-10-07"),), total), ((("api_key_hash", "k"),), of_key)
    _pages.write((Page("activity", params, f'{{"data": [{",".join(rows)}]}}') for params, rows in asked), raw)
    return openrouter.parse(entry, Days(DAYS.first, DAYS.first), raw, None)


@pytest.mark.parametrize(
    ("usage", "dollars"),
    [
        ("0.015", "0.015"),
        ("1.5e-06", "0.0000015"),
        ("0.1000000000001", "0.1"),
        ("0.30000000000000004", "0.3"),
        ("12345678901234567.123456789012", "12345678901234567.123456789012"),
        ("3", "3"),
        ('"0.25"', "0.25"),
        ("-0.5", "-0.5"),
        ("0", "0"),
    ],
)
def test_dollars_are_exact(entry, tmp_path, usage, dollars) -> None:
    row = _row(usage)
    charges = _parsed(entry, tmp_path, [row], [row]).records["charge"]
    assert charges["billed_cost"].to_list() == [Decimal(dollars)]
    assert charges["api_key_id"].to_list() == ["k"]


def test_what_no_key_explains_has_none(entry, tmp_path) -> None:
    total = _row("1.25", requests=5, prompt_tokens=300, cached_tokens=80, byok_usage_inference=2)
    parsed = _parsed(entry, tmp_path, [total, _row(model="c/d")], [_row()])
    told = {
        (row["api_key_id"], row["model"]): row["billed_cost"]
        for row in parsed.records["charge"].rows(named=True)
    }
    assert told == {
        ("k", "a/b"): Decimal("0.5"),
        ("no_key", "a/b"): Decimal("0.75"),
        ("no_key", "c/d"): Decimal("0.5"),
    }
    rest = parsed.records["usage"].row(1, named=True)
    assert (rest["requests"], rest["input_tokens"], rest["cache_read_tokens"]) == (3, 150, 50)
    assert (rest["output_tokens"], rest["reported_cost"]) == (0, 2)


@pytest.mark.parametrize(
    ("total", "of_key", "complaint"),
    [
        ([_row("0.4")], [_row("0.5")], "the keys have 0.1 more `usage` of a/b than there is"),
        ([_row(prompt_tokens=99)], [_row()], "the keys have 1 more `prompt_tokens` of a/b"),
        ([_row()], [_row(), _row()], "more `requests` of a/b"),
        ([_row()], [_row(workspace_id="another")], "of a/b than there is"),
        ([], [_row()], "of a/b than there is"),
        ([], [_row(model="x" * 2**20)], "of x{80} than there is"),
        ([_row(date="2026-10-06")], [], "`date` is another day than 2026-10-07"),
        ([_row(date="yesterday")], [], "`date` is"),
        ([_row(date="2026-10-07T00:00:00+05:30")], [], "is no day"),
        ([_row(date=GONE)], [], "the field `date` is missing"),
        ([_row("")], [], "the field `usage` is missing"),
        ([_row("null")], [], "`usage` is a NoneType where a number should be"),
        ([_row("NaN")], [], "`usage` is a float where a number should be"),
        ([_row(byok_usage_inference=GONE)], [], "the field `byok_usage_inference` is missing"),
        ([_row(cached_tokens=GONE)], [], "the field `cached_tokens` is missing"),
        ([_row(completion_tokens=1.5)], [], "`completion_tokens` is not a whole number"),
        ([_row(workspace_id=GONE)], [], "the field `workspace_id` is missing"),
        ([_row(model_permaslug=7)], [], "`model_permaslug` is a int where a text should be"),
    ],
)
def test_activity_that_is_not_what_it_was_stops_the_pull(entry, tmp_path, total, of_key, complaint) -> None:
    with pytest.raises(
        SourceError, match=rf"activity (of|for) 2026-10-07: .*{complaint}.*Nothing was replaced"
    ):
        _parsed(entry, tmp_path, total, of_key)
