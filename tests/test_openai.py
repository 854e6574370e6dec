"""OpenAI: pulled from a server that behaves like it, and read in every way in which it may be odd."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import date
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
from dagster_project.sources import Parsed, _pages, openai
from dagster_project.sources._pages import Page

KEY = "sk-admin-Zm9vYmFy_0123456789"
CASE = FIXTURES / "openai" / "two_days"
DAYS = Days(date(2026, 10, 1), date(2026, 10, 2))
MIDNIGHT = 1790812800
"""1 October 2026, 00:00 UTC."""


@pytest.fixture
def entry(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> openai.Entry:
    monkeypatch.setenv("OPENAI_ADMIN_KEY", KEY)
    case = yaml.safe_load((CASE / "case.yaml").read_text(encoding="utf-8"))
    return openai.Entry(**case["entry"], base_url=httpserver.url_for("/v1"))


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
    """Serves the pages of the fixture as OpenAI would, each question answered once more after a mishap."""

    def __init__(self, mishaps: Mapping[str, Response]) -> None:
        case = yaml.safe_load((CASE / "case.yaml").read_text(encoding="utf-8"))
        self._bodies = {
            (sent["endpoint"], "group_by[]" in sent.get("params", {}), sent.get("params", {}).get("page")): (
                CASE / "pages" / sent["body"]
            ).read_text(encoding="utf-8")
            for sent in case["pages"]
        }
        self._mishaps = dict(mishaps)
        self.asked: list[tuple[str, dict[str, list[str]]]] = []

    def __call__(self, request: Request) -> Response:
        endpoint, args = request.path.removeprefix("/v1/"), request.args.to_dict(flat=False)
        if request.headers["Authorization"] != f"Bearer {KEY}":
            return Response('{"error": {"message": "Incorrect API key"}}', 401)
        if endpoint in self._mishaps:
            return self._mishaps.pop(endpoint)
        self.asked.append((endpoint, args))
        if endpoint == openai.PROJECTS:
            return Response(self._one_project(request.args.get("after")))
        body = self._bodies.get((endpoint, "group_by[]" in args, request.args.get("page")))
        return (
            Response('{"error": {"message": "Unknown request URL"}}', 404) if body is None else Response(body)
        )

    def spoil(self, endpoint: str, path: Sequence[str], value: Any) -> None:
        """Put `value` at `path` of the first result of the grouped report."""
        place = (endpoint, True, None)
        report = json.loads(self._bodies[place])
        spoil(next(bucket["results"] for bucket in report["data"] if bucket["results"])[0], path, value)
        self._bodies[place] = json.dumps(report)

    def list_projects(self, projects: Sequence[Mapping[str, Any]]) -> None:
        self._bodies[(openai.PROJECTS, False, None)] = json.dumps({"data": projects})

    def _one_project(self, after: str | None) -> str:
        """The list of projects, one a page."""
        projects = json.loads(self._bodies[(openai.PROJECTS, False, None)])["data"]
        ids = [project["id"] for project in projects]
        here = ids.index(after) + 1 if after else 0
        return json.dumps(
            {"data": [projects[here]], "has_more": here + 1 < len(projects), "last_id": ids[here]}
        )


@pytest.fixture
def serve(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Provider]:
    monkeypatch.setattr(time, "sleep", lambda _: None)

    def start(**mishaps: Response) -> Provider:
        provider = Provider({name.replace("__", "/"): answer for name, answer in mishaps.items()})
        httpserver.expect_request("/").respond_with_handler(provider)
        for endpoint in (openai.COSTS, openai.PROJECTS, *(f"{openai.USAGE}/{n}" for n in openai.REPORTS)):
            httpserver.expect_request(f"/v1/{endpoint}").respond_with_handler(provider)
        for project in ("proj_support", "proj_old", "proj_nameless"):
            keys = f"/v1/{openai.PROJECTS}/{project}/api_keys"
            httpserver.expect_request(keys).respond_with_handler(provider)
        return provider

    return start


def _pull(entry: openai.Entry, raw: Path, days: Days = DAYS) -> Parsed:
    openai.fetch(entry, days, raw)
    return openai.parse(entry, days, raw, None)


def test_a_pull_with_mishaps_says_the_same_as_the_fixture(entry, serve, tmp_path, caplog) -> None:
    serve(
        organization__costs=Response('{"error": {"message": "slow"}}', 429, {"Retry-After": "1"}),
        organization__usage__completions=Response("oops", 500),
        organization__usage__images=Response('{"object": "page", "data": [{"obj'),
        organization__projects=Response('{"data": [', headers={"Content-Length": "999"}),
    )
    with caplog.at_level("DEBUG"):
        parsed = _pull(entry, tmp_path)
    for kind in openai.KINDS:
        assert as_csv(parsed.records[kind]) == (CASE / "expected" / f"{kind}.csv").read_text("utf-8"), kind
    raw = "".join(page.body + str(page) for page in _pages.read(tmp_path))
    assert KEY not in raw + caplog.text
    assert "ana@acme.example" not in raw


def test_what_is_asked(entry, serve, tmp_path) -> None:
    provider = serve()
    openai.fetch(entry, DAYS, tmp_path)
    window = {"start_time": ["1790812800"], "end_time": ["1790985600"], "bucket_width": ["1d"]}
    who = ["project_id", "user_id", "api_key_id"]
    costs = {**window, "limit": ["180"]}
    by_line = {**costs, "group_by[]": ["project_id", "api_key_id", "line_item"]}
    completions = {**window, "limit": ["31"], "group_by[]": [*who, "model", "batch", "service_tier"]}
    assert provider.asked[:5] == [
        ("organization/costs", costs),
        ("organization/costs", by_line),
        ("organization/costs", {**by_line, "page": ["page_2"]}),
        ("organization/usage/completions", {**window, "limit": ["31"]}),
        ("organization/usage/completions", completions),
    ]
    asked = Counter(endpoint for endpoint, _ in provider.asked)
    assert asked["organization/usage/embeddings"] == asked["organization/usage/moderations"] == 2
    assert asked["organization/usage/file_search_calls"] == 1
    assert asked["organization/projects"] == 3
    everything = {"include_archived": ["true"], "limit": ["100"]}
    assert ("organization/projects", everything) in provider.asked
    assert ("organization/projects", {**everything, "after": ["proj_old"]}) in provider.asked
    assert provider.asked[-1] == (
        "organization/projects/proj_nameless/api_keys",
        {"owner_project_access": ["any"], "limit": ["100"]},
    )


def test_a_month_costs_no_more_questions_than_a_day(entry, serve, tmp_path) -> None:
    provider = serve()
    openai.fetch(entry, DAYS, tmp_path)
    of_two_days = len(provider.asked)
    openai.fetch(entry, Days(date(2026, 10, 1), date(2026, 10, 31)), tmp_path)
    assert len(provider.asked) == 2 * of_two_days


def test_a_report_that_everybody_has_must_be_there(entry, serve, tmp_path) -> None:
    serve(organization__usage__images=Response("{}", 404))
    with pytest.raises(SourceError, match=r"organization/usage/images for 2026-10-01\.\.2026-10-02"):
        openai.fetch(entry, DAYS, tmp_path)


def test_a_wrong_key_is_told_with_its_variable(entry, serve, tmp_path, monkeypatch) -> None:
    serve()
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "sk-proj-wrong")
    with pytest.raises(SourceError, match=r"HTTP 401: Incorrect.*admin key.*OPENAI_ADMIN_KEY") as caught:
        openai.fetch(entry, DAYS, tmp_path)
    assert "sk-proj-wrong" not in str(caught.value)


# One day of one report, parsed.


def _page(endpoint: str, results: list[dict[str, Any]], *, grouped: bool, day: int = 0) -> Page:
    start = MIDNIGHT + day * 86400
    bucket = {"start_time": start, "end_time": start + 86400, "results": results}
    params = (("group_by[]", "project_id"),) if grouped else ()
    return Page(endpoint, params, json.dumps({"data": [bucket], "has_more": False}))


def _cost(value: Any, line: str | None = "gpt-5.5, input", **more: Any) -> dict[str, Any]:
    amount = {"value": value, "currency": "usd"}
    return {"amount": amount, "line_item": line, "project_id": "p", "api_key_id": "k", **more}


def _parse(entry: openai.Entry, raw: Path, *pages: Page) -> Parsed:
    _pages.write(pages, raw)
    return openai.parse(entry, DAYS, raw, None)


def _charges(entry: openai.Entry, raw: Path, grouped: list[dict], total: list[dict]) -> pl.DataFrame:
    pages = [_page(openai.COSTS, grouped, grouped=True), _page(openai.COSTS, total, grouped=False)]
    return _parse(entry, raw, *pages).records["charge"]


@pytest.mark.parametrize(
    ("value", "billed"),
    [
        (7, "7"),
        (0.1, "0.1"),
        ("0.003835980000000000000000000000", "0.00383598"),
        ("0.0000000000005", "0"),
        ("0.0000000000015", "0.000000000002"),
        ("12345678901234567890.123456789012", "12345678901234567890.123456789012"),
        ("0E-6176", "0"),
        (-2.5, "-2.5"),
    ],
)
def test_an_amount_is_read_exactly(entry, tmp_path, value: Any, billed: str) -> None:
    frame = _charges(entry, tmp_path, [_cost(value)], [_cost(value)])
    assert frame["billed_cost"].to_list() == [Decimal(billed)]
    assert frame["currency"].to_list() == ["USD"]


@pytest.mark.parametrize(
    ("result", "complaint"),
    [
        (_cost(None), "line `gpt-5.5, input`: not understood .its amount is null"),
        (_cost(1) | {"amount": None}, "its amount is null"),
        ({k: v for k, v in _cost(1).items() if k != "amount"}, "the field `amount` is missing"),
        ({k: v for k, v in _cost(1).items() if k != "api_key_id"}, "the field `api_key_id` is missing"),
        (_cost("a lot"), "a text where a number should be"),
        (_cost("NaN"), "a text where a number should be"),
        (_cost(True), "a bool where a number should be"),
    ],
)
def test_a_line_without_a_known_amount_stops_the_pull(entry, tmp_path, result, complaint) -> None:
    with pytest.raises(SourceError, match=f"organization/costs of 2026-10-01.*{complaint}"):
        _charges(entry, tmp_path, [result], [])


@pytest.mark.parametrize(
    ("grouped", "total", "adjustments"),
    [
        (["1", "2"], ["3"], []),
        (["1", "2"], ["3.5"], ["0.5"]),
        (["1", "2"], ["2"], ["-1"]),
        ([], ["4"], ["4"]),
        (["0.1", "0.2"], ["0.30000000000000004"], []),
        (["0.1", "0.2"], ["0.300000001"], ["0.000000001"]),
    ],
)
def test_what_the_groups_lack_is_a_charge_of_its_own(entry, tmp_path, grouped, total, adjustments) -> None:
    frame = _charges(
        entry, tmp_path, [_cost(v, f"m, input{i}") for i, v in enumerate(grouped)], [_cost(v) for v in total]
    )
    rest = frame.filter(pl.col("charge_category") == "adjustment")
    assert rest["billed_cost"].to_list() == [Decimal(amount) for amount in adjustments]
    assert rest["api_key_id"].to_list() == [None] * len(adjustments)
    assert abs(frame["billed_cost"].sum() - sum(map(Decimal, total))) < Decimal("1e-9")


def test_a_day_without_a_total_stops_the_pull(entry, tmp_path) -> None:
    pages = [_page(openai.COSTS, [_cost(1)], grouped=True)]
    with pytest.raises(SourceError, match="no total of the day"):
        _parse(entry, tmp_path, *pages)


def test_a_total_that_comes_twice_stops_the_pull(entry, tmp_path) -> None:
    pages = [_page(openai.COSTS, [_cost(1)], grouped=False)] * 2
    with pytest.raises(
        SourceError, match="organization/costs of 2026-10-01: the total of this day came twice"
    ):
        _parse(entry, tmp_path, *pages)


def test_days_without_a_bucket_are_counted(entry, tmp_path) -> None:
    parsed = _parse(entry, tmp_path, _page(openai.COSTS, [], grouped=False))
    assert parsed.counts["days_without_a_cost_bucket"] == 1
    assert parsed.records["charge"].is_empty()


def test_a_restated_line_keeps_its_id_and_equal_lines_all_count(entry, tmp_path) -> None:
    first = _charges(entry, tmp_path, [_cost(1), _cost(2)], [_cost(3)])
    restated = _charges(entry, tmp_path, [_cost(5), _cost(9)], [_cost(14)])
    assert first["record_id"].to_list() == restated["record_id"].to_list()
    assert first["record_id"].n_unique() == 2
    assert restated["billed_cost"].sum() == 14


@pytest.mark.parametrize(
    ("quantity", "unit", "expected"),
    [
        (24691357.8, "tokens", ("24691357.8", "tokens")),
        ("1.5", "1000_tokens", ("1500", "tokens")),
        (0.25, "gibibyte_hours", ("0.25", "gibibyte_hours")),
        (3, None, ("3", None)),
        (None, None, (None, None)),
    ],
)
def test_a_quantity_in_thousands_is_converted(entry, tmp_path, quantity, unit, expected) -> None:
    line = _cost(1, quantity=quantity, quantity_unit=unit)
    frame = _charges(entry, tmp_path, [line], [_cost(1)])
    amount = expected[0] and Decimal(expected[0])
    assert frame.select("quantity", "quantity_unit").rows() == [(amount, expected[1])]


def test_fields_that_are_not_documented_and_days_that_were_not_asked_for_change_nothing(
    entry, tmp_path
) -> None:
    more = {
        "organization_id": "org-1",
        "project_name": "Bot",
        "user_email": "ana@acme.example",
        "api_source": None,
    }
    days = (-1, 0, 2)  # A range of N days may be answered with more buckets.
    pages = [
        _page(openai.COSTS, [_cost(1, user_id=None, **more)], grouped=grouped, day=day)
        for day in days
        for grouped in (True, False)
    ]
    frame = _parse(entry, tmp_path, *pages).records["charge"]
    columns = ("usage_date", "billed_cost", "provider_project_name")
    assert frame.select(columns).rows() == [(date(2026, 10, 1), 1, "Bot")]


LINES = [
    # line item                                        model          meter           tier        context
    ("gpt-5.5-2026-04-23, input",               "gpt-5.5-2026-04-23", "input",        "standard", "short"),
    ("gpt-5.5-2026-04-23, cached input",        "gpt-5.5-2026-04-23", "cache_read",   "standard", "short"),
    ("gpt-5.5-2026-04-23, output, long context", "gpt-5.5-2026-04-23", "output",      "standard", "long"),
    ("gpt-5.6-luna, cache writes",              "gpt-5.6-luna", "cache_write_other",  "standard", "short"),
    ("gpt-5-nano, input_tokens",                "gpt-5-nano",   "input",              "standard", "short"),
    ("gpt-5-nano, cached_input_tokens",         "gpt-5-nano",   "cache_read",         "standard", "short"),
    ("gpt-5-nano, output_tokens",               "gpt-5-nano",   "output",             "standard", "short"),
    ("priority | gpt-5.6-sol, output, long context", "gpt-5.6-sol", "output",         "priority", "long"),
    ("flex | gpt-5-mini, cached input",         "gpt-5-mini",   "cache_read",         "flex",     "short"),
    ("batch | gpt-5-mini, input",               "gpt-5-mini",   "input",              "batch",    "short"),
    ("gpt-5-mini batch, output",                "gpt-5-mini",   "output",             "batch",    "short"),
    ("evals | gpt-4o-mini-2024-07-18, input",   "gpt-4o-mini-2024-07-18", "input",    None,       "short"),
    ("gpt-audio-mini audio, output",            "gpt-audio-mini", "output_audio",     "standard", "short"),
    ("gpt-image-2-2026-04-21 image, input",     "gpt-image-2-2026-04-21", "input_image", "standard", "short"),
    ("gpt-image-2 image, cached input",         "gpt-image-2",  "cache_read",         "standard", "short"),
    ("gpt-image-2-2026-04-21 text, input",      "gpt-image-2-2026-04-21", "input",    "standard", "short"),
    ("gpt-realtime-2.1, audio input",           "gpt-realtime-2.1", "input_audio",    "standard", "short"),
    ("ft-gpt-4o-2024-08-06, input",             "ft-gpt-4o-2024-08-06", "input",      "standard", "short"),
    ("whisper-1, audio",                        "whisper-1",    "audio_seconds",      None,       None),
    ("tts-1, characters",                       "tts-1",        "characters",         None,       None),
    ("gpt-image-1, images",                     "gpt-image-1",  "images",             None,       None),
    ("web search tool calls",                   None,           "web_search",         None,       None),
    ("file search tool calls",                  None,           "file_searches",      None,       None),
    ("Vector storage",                          None,           "vector_store_bytes", None,       None),
    ("assistants api | code interpreter",       None, "code_interpreter_sessions",    None,       None),
    ("assistants api | file search",            None,           None,                 None,       None),
    ("gpt-live-1, voice session",               None,           None,                 None,       None),
    ("gpt-6, input, above 1m",                  None,           None,                 None,       None),
    ("priority | flex | gpt-6, input",          None,           None,                 None,       None),
    ("tts hd",                                  None,           None,                 None,       None),
    ("input",                                   None,           None,                 None,       None),
    ("",                                        None,           None,                 None,       None),
    (None,                                      None,           None,                 None,       None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "model", "meter", "tier", "context"), LINES)
def test_a_line_item_is_read(text, model, meter, tier, context) -> None:
    assert openai.line_item(text) == openai.Line(model, meter, tier, context)


def _completions(**fields: Any) -> dict[str, Any]:
    base = {"input_tokens": 0, "output_tokens": 0, "num_model_requests": 1, "project_id": "p"}
    who = {"user_id": "u", "api_key_id": "k", "model": "m", "batch": False, "service_tier": "default"}
    return base | who | fields


def _usage(entry: openai.Entry, raw: Path, *results: dict[str, Any]) -> Parsed:
    return _parse(entry, raw, _page("organization/usage/completions", list(results), grouped=True))


TOKENS = {
    "only totals": (
        {"input_tokens": 100, "output_tokens": 20},
        {"input_tokens": 100, "output_tokens": 20},
    ),
    "cached tokens are within the input": (
        {"input_tokens": 100, "input_cached_tokens": 30},
        {"input_tokens": 100 - 30, "cache_read_tokens": 30},
    ),
    "cache writes too, of whatever lifetime": (
        {"input_tokens": 100, "input_cache_write_30m_tokens": 20, "input_cache_write_12h_tokens": 5},
        {"input_tokens": 100 - 25, "cache_write_other_tokens": 25},
    ),
    "the sum of cache writes wins over its parts": (
        {"input_tokens": 100, "input_cache_write_tokens": 20, "input_cache_write_30m_tokens": 20},
        {"input_tokens": 100 - 20, "cache_write_other_tokens": 20},
    ),
    "audio, images, cached and written at once": (
        {
            "input_tokens": 1000, "input_cached_tokens": 100, "input_cache_write_tokens": 50,
            "input_audio_tokens": 200, "input_image_tokens": 300, "input_text_tokens": 350,
            "output_tokens": 90, "output_audio_tokens": 40, "output_image_tokens": 20,
            "output_text_tokens": 30,
        },
        {
            "input_tokens": 1000 - 100 - 50 - 200 - 300,
            "cache_read_tokens": 100, "cache_write_other_tokens": 50,
            "input_audio_tokens": 200, "input_image_tokens": 300,
            "output_tokens": 90 - 40 - 20, "output_audio_tokens": 40, "output_image_tokens": 20,
        },
    ),
    "older audio includes cached audio": (
        {"input_tokens": 100, "input_cached_tokens": 80, "input_audio_tokens": 60},
        {"input_tokens": 0, "cache_read_tokens": 80, "input_audio_tokens": 60, "negative_remainders": 1},
    ),
    "a text count that is not what is left": (
        {"input_tokens": 100, "input_cached_tokens": 30, "input_text_tokens": 65},
        {"input_tokens": 70, "cache_read_tokens": 30, "token_sums_that_disagree": 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("sent", "expected"), TOKENS.values(), ids=TOKENS.keys())
def test_meters_are_disjoint(entry, tmp_path, sent, expected) -> None:
    parsed = _usage(entry, tmp_path, _completions(**sent))
    row = parsed.records["usage"].row(0, named=True)
    tokens = {name: row[name] for name in row if name.endswith("_tokens") and row[name]}
    counted = {name: parsed.counts[name] for name in ("negative_remainders", "token_sums_that_disagree")}
    wanted = {name: value for name, value in expected.items() if value}
    assert tokens | {name: value for name, value in counted.items() if value} == wanted


@pytest.mark.parametrize(
    ("batch", "sent", "tier"),
    [
        (False, None, "standard"),
        (False, "default", "standard"),
        (False, "auto", "standard"),
        (None, "priority", "priority"),
        (False, "ultrafast", "ultrafast"),
        (True, "default", "batch"),
    ],
)
def test_service_tiers(entry, tmp_path, batch, sent, tier) -> None:
    parsed = _usage(entry, tmp_path, _completions(batch=batch, service_tier=sent))
    assert parsed.records["usage"]["service_tier"].to_list() == [tier]


@pytest.mark.parametrize(
    ("used", "billed", "tier"),
    [
        ([None], ["m, input"], "standard"),
        ([None, "flex"], ["m, input", "flex | m, input"], "standard"),
        ([None, "flex"], ["m, input"], None),
        (["scale"], ["m, input"], "standard"),
    ],
)
def test_a_line_without_a_tier_is_standard_only_if_the_others_have_lines(
    entry, tmp_path, used, billed, tier
) -> None:
    parsed = _parse(
        entry,
        tmp_path,
        _page(openai.COSTS, [_cost(1, line) for line in billed], grouped=True),
        _page(openai.COSTS, [_cost(len(billed))], grouped=False),
        _page("organization/usage/completions", [_completions(service_tier=t) for t in used], grouped=True),
    )
    plain = parsed.records["charge"].filter(pl.col("line_item") == "m, input")
    assert plain["service_tier"].to_list() == [tier]


@pytest.mark.parametrize("field", ["input_tokens", "num_model_requests", "api_key_id", "batch"])
def test_a_field_that_disappears_stops_the_pull(entry, tmp_path, field: str) -> None:
    result = {name: value for name, value in _completions().items() if name != field}
    with pytest.raises(SourceError, match=f"completions of 2026-10-01: the field `{field}` is missing"):
        _usage(entry, tmp_path, result)


@pytest.mark.parametrize(
    ("sent", "field"),
    [
        ({"cached_input_tokens": 30}, "input_cached_tokens"),
        ({"input_tokens_to_write": 30}, "input_cache_write_tokens"),
        ({"audio_input_tokens": 30}, "input_audio_tokens"),
        ({"output_image_tokens_2": 30, "input_image_tokens": 5}, "output_image_tokens"),
    ],
)
def test_a_part_of_the_tokens_under_another_name_stops_the_pull(entry, tmp_path, sent, field) -> None:
    """Else it would be taken for text."""
    known = {"input_uncached_tokens": 70, "input_cached_text_tokens": 30, "input_text_tokens": 70}
    result = _completions(input_tokens=100, output_tokens=50, **known)
    assert _usage(entry, tmp_path, result).records["usage"]["input_tokens"].to_list() == [100]
    with pytest.raises(SourceError, match=f"completions of 2026-10-01: .*`{field}` is missing, and `"):
        _usage(entry, tmp_path, result | sent)


@pytest.mark.parametrize(
    ("grouped", "total", "complaint"),
    [
        ({}, {"input_cached_tokens": 30}, "other cache_read_tokens"),
        ({"output_audio_tokens": 4}, {}, "other output_audio_tokens"),
        ({"input_tokens": 105}, {"input_cached_tokens": 30}, None),
        ({"input_cached_tokens": 30}, {"input_cached_tokens": 30, "input_audio_tokens": 0}, None),
    ],
    ids=["gone from the groups", "gone from the total", "usage went on", "zero says nothing"],
)
def test_groups_and_total_of_as_many_tokens_have_the_same_parts(
    entry, tmp_path, grouped, total, complaint
) -> None:
    endpoint = "organization/usage/completions"
    result = _completions(input_tokens=100, output_tokens=50)
    pages = [
        _page(endpoint, [result | grouped], grouped=True),
        _page(endpoint, [result | total], grouped=False),
    ]
    if complaint is None:
        assert _parse(entry, tmp_path, *pages).records["usage"]["output_tokens"][0] == 50
    else:
        with pytest.raises(SourceError, match=f"completions of 2026-10-01.*have as many tokens.*{complaint}"):
            _parse(entry, tmp_path, *pages)


@pytest.mark.parametrize(("start", "hours"), [(1, 24), (0, 0), (0, -24), (0, 25), (0, 48)])
def test_a_bucket_that_is_no_utc_day_stops_the_pull(entry, tmp_path, start, hours) -> None:
    """Its results would be of another day, or of none that was asked for, and be lost."""
    begins = MIDNIGHT + start * 3600
    bucket = {"start_time": begins, "end_time": begins + hours * 3600, "results": []}
    page = Page(openai.COSTS, (), json.dumps({"data": [bucket], "has_more": False}))
    with pytest.raises(SourceError, match=r"organization/costs for 2026-10-01\.\.2026-10-02.*is no day"):
        _parse(entry, tmp_path, page)


def test_a_total_that_no_bill_has_stops_the_pull(entry, tmp_path) -> None:
    with pytest.raises(SourceError, match=r"costs of 2026-10-01, its total: .*greater than any of a bill"):
        _charges(entry, tmp_path, [_cost(1)], [_cost(10**30)])


def test_an_id_is_a_part_of_an_address_and_no_more(entry, serve, httpserver, tmp_path) -> None:
    provider = serve()
    provider.list_projects([{"id": "proj/../../costs?limit=1", "name": None}])
    httpserver.expect_request(re.compile("/v1/organization/projects/proj/.*")).respond_with_data("", 404)
    openai.fetch(entry, DAYS, tmp_path)
    asked = httpserver.log[-1][0].environ["REQUEST_URI"].partition("?")[0]
    assert asked == "/v1/organization/projects/proj%2F..%2F..%2Fcosts%3Flimit%3D1/api_keys"
    provider.list_projects([{"id": "x" * 2**17}])
    with pytest.raises(SourceError, match=r"api_keys for .*cannot be asked for .URL.*too long"):
        openai.fetch(entry, DAYS, tmp_path)


def test_half_a_token_stops_the_pull(entry, tmp_path) -> None:
    with pytest.raises(SourceError, match="`input_tokens` is not a whole number"):
        _usage(entry, tmp_path, _completions(input_tokens=1.5))


def test_null_keys_say_why_they_are_null(entry, tmp_path) -> None:
    grouped_by_key = _completions(api_key_id=None, user_id=None)
    stores = _page("organization/usage/vector_stores", [{"usage_bytes": 5, "project_id": "p"}], grouped=True)
    costs = [_cost(1, api_key_id=None), _cost(1, "Vector storage", api_key_id=None)]
    costs += [_cost(-1, "Credit", api_key_id=None, project_id=None)]
    parsed = _parse(
        entry,
        tmp_path,
        _page(openai.COSTS, costs, grouped=True),
        _page(openai.COSTS, [_cost(1)], grouped=False),
        _page("organization/usage/completions", [grouped_by_key], grouped=True),
        stores,
    )
    assert parsed.records["usage"]["api_key_id"].to_list() == ["no_key", None]
    assert parsed.records["charge"]["api_key_id"].to_list() == ["no_key", None, None]
    assert parsed.records["charge"]["charge_category"].to_list() == ["usage", "usage", "credit"]


# What a provider may send one day, through the whole pull: told with source, day, field and remedy.


@pytest.mark.parametrize(
    ("endpoint", "field", "sent", "complaint"),
    [
        (openai.COSTS, "amount", GONE, "is missing"),
        (openai.COSTS, "amount", 3, "is a int where an object should be"),
        (openai.COSTS, "amount.value", GONE, "is missing"),
        (openai.COSTS, "amount.value", [], "is a list where a number should be"),
        (openai.COSTS, "amount.value", "1,000.00", "is a text where a number should be"),
        (openai.COSTS, "amount.value", "1e999999999", "is greater than any number"),
        (openai.COSTS, "amount.currency", None, "is empty"),
        (openai.COSTS, "amount.currency", 840, "is a int where a text should be"),
        (openai.COSTS, "amount.currency", "dollars", "is no currency's code"),
        (openai.COSTS, "quantity_unit", 1000, "is a int where a text should be"),
        (openai.COSTS, "line_item", GONE, "is missing"),
        (openai.COSTS, "line_item", 7, "is a int where a text should be"),
        (openai.COSTS, "project_id", {"id": "p"}, "is a dict where a text should be"),
        (openai.COSTS, "quantity", "many", "is a text where a number should be"),
        ("organization/usage/completions", "input_tokens", GONE, "is missing"),
        ("organization/usage/completions", "input_tokens", None, "is a NoneType where a number should be"),
        ("organization/usage/completions", "input_tokens", "1.5", "is not a whole number"),
        ("organization/usage/completions", "input_tokens", "1e999999999", "is greater than any number"),
        ("organization/usage/completions", "output_tokens", 2**63, "is greater than any count"),
        ("organization/usage/completions", "input_cached_tokens", "none", "is a text where a number"),
        ("organization/usage/completions", "input_tokens", -1, "is negative, which no count is"),
        ("organization/usage/completions", "user_id", GONE, "is missing"),
        ("organization/usage/completions", "model", 7, "is a int where a text should be"),
        ("organization/usage/completions", "batch", "yes", "is a str where true or false should be"),
        ("organization/usage/audio_transcriptions", "seconds", GONE, "is missing"),
        ("organization/usage/audio_transcriptions", "seconds", "1:30", "is a text where a number should be"),
    ],
)  # fmt: skip
def test_a_report_that_is_not_what_it_was_stops_the_pull(
    entry, serve, tmp_path, endpoint, field, sent, complaint
) -> None:
    provider = serve()
    provider.spoil(endpoint, field.split("."), sent)
    with pytest.raises(SourceError) as told:
        _pull(entry, tmp_path)
    message = str(told.value)
    assert message.startswith(f"source `{entry.name}`, {endpoint}")
    assert " of 2026-10-0" in told.value.where
    assert f"`{field.rpartition('.')[2]}`" in told.value.what
    assert complaint in message
    assert "Nothing was replaced. Run again; if it stays, the provider changed its report" in message
    assert told.value.__suppress_context__
    assert KEY not in message
