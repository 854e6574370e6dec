"""xAI: pulled from a server that behaves like it, and read in every way in which it may be odd."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
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
from dagster_project.ingest import ingest
from dagster_project.lake import Lake
from dagster_project.sources import Parsed, Source, _pages, xai
from dagster_project.sources._pages import Page

KEY = "xai-token-Zm9vYmFy0123456789"
CASE = FIXTURES / "xai" / "two_days"
DAYS = Days(date(2026, 10, 1), date(2026, 10, 2))
ENDPOINT = "v1/billing/teams/65c1e471-205f-4566-9c5a-07198bcdf4ce/usage"
GROUPS = ["api_key_id", "description", "unit_type"]


@pytest.fixture
def entry(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> xai.Entry:
    monkeypatch.setenv("XAI_MANAGEMENT_KEY", KEY)
    case = yaml.safe_load((CASE / "case.yaml").read_text(encoding="utf-8"))
    return xai.Entry(**case["entry"], base_url=httpserver.url_for("/"))


Answer = Callable[[Mapping[str, Any]], Mapping[str, Any]]


@pytest.fixture
def serve(httpserver: HTTPServer) -> Callable[[Answer], list[dict[str, Any]]]:
    """Starts a server that answers a request for analytics; returns the requests that it gets."""

    def start(answer: Answer) -> list[dict[str, Any]]:
        asked: list[dict[str, Any]] = []

        def handle(request: Request) -> Response:
            asked.append(request.json["analyticsRequest"])
            if request.headers["Authorization"] != f"Bearer {KEY}":
                return Response('{"code": "unauthorized", "error": "bad token xai-to***"}', 401)
            return Response(json.dumps(answer(asked[-1])))

        httpserver.expect_request(f"/{ENDPOINT}", method="POST").respond_with_handler(handle)
        return asked

    return start


def _fixture(request: Mapping[str, Any]) -> Mapping[str, Any]:
    page = "lines" if request["groupBy"] else "total"
    return json.loads((CASE / "pages" / f"{page}.json").read_text(encoding="utf-8"))


def test_a_pull_says_the_same_as_the_fixture(entry, serve, tmp_path, caplog) -> None:
    asked = serve(_fixture)
    with caplog.at_level("DEBUG"):
        xai.fetch(entry, DAYS, tmp_path)
        parsed = xai.parse(entry, DAYS, tmp_path, None)
    assert as_csv(parsed.records["charge"]) == (CASE / "expected" / "charge.csv").read_text("utf-8")
    total = {
        "timeRange": {
            "startTime": "2026-10-01 00:00:00",
            "endTime": "2026-10-03 00:00:00",
            "timezone": "Etc/GMT",
        },
        "timeUnit": "TIME_UNIT_DAY",
        "values": [{"name": "usd", "aggregation": "AGGREGATION_SUM"}],
        "groupBy": [],
        "filters": [],
    }
    assert asked == [total, {**total, "groupBy": GROUPS}]
    assert KEY not in caplog.text + "".join(str(page) for page in _pages.read(tmp_path))


def test_a_wrong_key_is_told_with_its_variable(entry, serve, tmp_path, monkeypatch) -> None:
    serve(_fixture)
    monkeypatch.setenv("XAI_MANAGEMENT_KEY", "xai-inference-key")
    with pytest.raises(SourceError, match=r"HTTP 401.*a management key.*XAI_MANAGEMENT_KEY") as caught:
        xai.fetch(entry, DAYS, tmp_path)
    assert "xai-" not in caught.value.what


def test_another_team_is_told(entry, httpserver, tmp_path) -> None:
    httpserver.expect_request("/v1/billing/teams/other/usage").respond_with_data("", 404)
    with pytest.raises(SourceError, match=r"HTTP 404.*Or it is not this key's team: see `team`"):
        xai.fetch(entry.model_copy(update={"team": "other"}), DAYS, tmp_path)


# Answers that are cut off, and a history that ends.


def _series(labels: Sequence[str], days: Iterable[date], usd: Any) -> dict[str, Any]:
    points = [{"timestamp": f"{day}T00:00:00Z", "values": [usd]} for day in days]
    return {"group": labels, "groupLabels": labels, "dataPoints": points}


def _days_of(request: Mapping[str, Any]) -> list[date]:
    start, end = (date.fromisoformat(request["timeRange"][name][:10]) for name in ("startTime", "endTime"))
    return [date.fromordinal(day) for day in range(start.toordinal(), end.toordinal())]


@pytest.mark.parametrize(("most", "lines", "remainder"), [(6, 6, 0), (3, 6, 0), (1, 2, 2)])
def test_days_whose_lines_are_cut_off_are_asked_for_alone(
    entry, serve, tmp_path, most, lines, remainder
) -> None:
    """Three keys have a line a day; an answer has `most` points."""

    def answer(request: Mapping[str, Any]) -> Mapping[str, Any]:
        days = _days_of(request)
        if not request["groupBy"]:
            return {"timeSeries": [_series([], days, 3)], "limitReached": False}
        keys = [_series([key, "Chat grok-4.7", "Prompt text tokens"], days, 1) for key in "abc"]
        told = keys[: most // len(days)]
        return {"timeSeries": told, "limitReached": len(told) < 3}

    asked = serve(answer)
    xai.fetch(entry, DAYS, tmp_path)
    parsed = xai.parse(entry, DAYS, tmp_path, None)
    frame = parsed.records["charge"]
    assert frame["billed_cost"].sum() == 6
    assert frame["charge_category"].to_list().count("usage") == lines
    assert parsed.counts["cost_remainders"] == parsed.counts["days_cut_off"] == remainder
    assert [len(_days_of(request)) for request in asked] == ([2, 2] if most == 6 else [2, 2, 1, 1])


def test_a_day_whose_costs_sum_to_nothing_is_not_forgotten(entry, tmp_path) -> None:
    credit = _series(["", "Manual credit", ""], [DAYS.first], -1)
    pages = [
        _page(_series([], DAYS, 0), grouped=False),
        _page(_series(LINE, [DAYS.first], 1), credit, grouped=True),
    ]
    _pages.write(pages, tmp_path)
    assert xai.parse(entry, DAYS, tmp_path, None).days_without_files == {DAYS.last}


def test_a_total_that_is_cut_off_stops_the_pull(entry, serve, tmp_path) -> None:
    serve(lambda request: {**_fixture(request), "limitReached": True})
    xai.fetch(entry, DAYS, tmp_path)
    with pytest.raises(SourceError, match=r"2026-10-01..2026-10-02: .*the total is cut off"):
        xai.parse(entry, DAYS, tmp_path, None)


@pytest.mark.parametrize("says", ["zeros", "no points"])
def test_a_day_that_has_left_the_history_keeps_what_was_read(entry, serve, tmp_path, says) -> None:
    forgotten: set[date] = set()

    def answer(request: Mapping[str, Any]) -> Mapping[str, Any]:
        labels = ["k", "Chat grok-4.7", "Prompt text tokens"] if request["groupBy"] else []
        days = _days_of(request)
        series = [_series(labels, [day for day in days if day not in forgotten], 1.5)]
        if says == "zeros":
            series.append(_series(labels, [day for day in days if day in forgotten], 0))
        return {"timeSeries": series, "limitReached": False}

    serve(answer)
    source, lake, now = Source(entry, xai), Lake(tmp_path), datetime(2027, 1, 9, tzinfo=UTC)
    assert ingest(source, DAYS, lake, (), now).rows("charge") == 2
    forgotten.add(DAYS.first)
    kept = lake.records("charge", entry.name, DAYS.first)
    before = kept.read_bytes()
    with pytest.raises(SourceError, match="2026-10-01: nothing of this day is left to read, and 1 records"):
        ingest(source, DAYS, lake, (), now)
    assert kept.read_bytes() == before
    assert ingest(source, Days(DAYS.last, DAYS.last), lake, (), now).rows("charge") == 1
    never_read = Days(date(2026, 9, 30), date(2026, 9, 30))
    forgotten.add(never_read.first)
    assert ingest(source, never_read, lake, (), now).rows("charge") == 0


# One day, parsed.

LINE = ("key_1", "Chat grok-4.7", "Prompt text tokens")


def _page(*series: Mapping[str, Any], grouped: bool, **fields: Any) -> Page:
    question = {"groupBy": GROUPS if grouped else []}
    answer = {"timeSeries": series, "limitReached": False, **fields}
    return Page(ENDPOINT, (("analyticsRequest", question),), json.dumps(answer))


def _parse(entry: xai.Entry, raw: Path, line: Mapping[str, Any], total: Any = 1) -> Parsed:
    _pages.write(
        [_page(_series([], [DAYS.first], total), grouped=False), _page(line, grouped=True)],
        raw,
    )
    return xai.parse(entry, DAYS, raw, None)


def _line(*labels: str, **fields: Any) -> dict[str, Any]:
    return _series(labels or LINE, [DAYS.first], 1) | fields


@pytest.mark.parametrize(
    ("sent", "billed"),
    [("0.75973725", "0.75973725"), ("1e-7", "0.0000001"), ("12", "12"), ("-0.5", "-0.5")],
)
def test_dollars_stay_exact(entry, tmp_path, sent, billed) -> None:
    pages = [_page(_series(labels, [DAYS.first], 99), grouped=bool(labels)) for labels in ((), LINE)]
    _pages.write([Page(p.endpoint, p.params, p.body.replace("99", sent)) for p in pages], tmp_path)
    frame = xai.parse(entry, DAYS, tmp_path, None).records["charge"]
    assert frame["billed_cost"].to_list() == [Decimal(billed)]


@pytest.mark.parametrize(
    ("description", "unit", "model", "meter", "unparsed"),
    [
        ("Chat grok-4.7", "Prompt text tokens", "grok-4.7", "input", 0),
        ("Chat grok-4.7", "cached_prompt_text_tokens", "grok-4.7", "cache_read", 0),
        ("Chat grok-4.7", "Completion text tokens", "grok-4.7", "output", 0),
        ("Chat grok-4.7", "Reasoning text tokens", "grok-4.7", "output", 0),
        ("Chat grok-4.7", "Prompt image tokens", "grok-4.7", None, 1),
        ("grok-voice-think-fast-2.0", "minutes", "grok-voice-think-fast-2.0", None, 1),
        ("File Storage", "GiB hours", None, None, 1),
        ("Manual credit", "", None, None, 0),
    ],
)
def test_descriptions_and_units(entry, tmp_path, description, unit, model, meter, unparsed) -> None:
    parsed = _parse(entry, tmp_path, _line("key_1", description, unit))
    (row,) = parsed.records["charge"].rows(named=True)
    assert (row["model"], row["meter"]) == (model, meter)
    assert row["line_item"] == (f"{description}, {unit}" if unit else description)
    assert parsed.counts["unparsed_line_items"] == unparsed


@pytest.mark.parametrize(
    ("ids", "key", "without_id"), [(["77f0", "", ""], "77f0", 0), (["", "", ""], None, 1), ([], None, 1)]
)
def test_a_keys_label_is_its_name_and_never_its_id(entry, tmp_path, ids, key, without_id) -> None:
    labels = ["search backend (xai-...3Xxp)", *LINE[1:]]
    parsed = _parse(entry, tmp_path, _line(group=ids, groupLabels=labels))
    (row,) = parsed.records["charge"].rows(named=True)
    assert (row["api_key_id"], row["api_key_name"]) == (key, labels[0])
    assert parsed.counts["lines_without_a_key_id"] == without_id


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (_line(groupLabels=["key_1"]), "are not those of the groups"),
        (_line(group=["key_1", "x"]), "are not those of the groups"),
        (_line(groupLabels={"a": 1}), "`groupLabels` is not a list"),
        (_line(groupLabels=[1, 2, 3]), "`groupLabels` is a int where a text should be"),
        (_line(dataPoints=None), "`dataPoints` is not a list of objects"),
        (_line(dataPoints=[{"values": [1]}]), "the field `timestamp` is missing"),
        (_line(dataPoints=[{"timestamp": "2026-10-01T00:00:00Z"}]), "the field `values` is missing"),
        (_line(dataPoints=[{"timestamp": "2026-10-01T00:00:00Z", "values": []}]), "the one value"),
        (_line(dataPoints=[{"timestamp": "2026-10-01T00:00:00Z", "values": [None]}]), "`values` is a None"),
        (_line(dataPoints=[{"timestamp": "2026-10-01T07:00:00Z", "values": [1]}]), "is no day"),
    ],
)
def test_a_series_that_is_not_understood_stops_the_pull(entry, tmp_path, line, complaint) -> None:
    with pytest.raises(SourceError, match=f"{ENDPOINT} for {DAYS}.*{complaint}"):
        _parse(entry, tmp_path, line)


def test_a_day_that_comes_twice_stops_the_pull(entry, tmp_path) -> None:
    pages = [_page(_series([], [DAYS.first], 2), grouped=False), *[_page(_line(), grouped=True)] * 2]
    _pages.write(pages, tmp_path)
    with pytest.raises(SourceError, match="2026-10-01 comes twice"):
        xai.parse(entry, DAYS, tmp_path, None)


def test_lines_without_a_total_stop_the_pull(entry, tmp_path) -> None:
    _pages.write([_page(grouped=False), _page(_line(), grouped=True)], tmp_path)
    with pytest.raises(SourceError, match="there are charges, but no total of the day"):
        xai.parse(entry, DAYS, tmp_path, None)
