"""Fireworks: pulled from a server that behaves like it, and read in every way in which it may be odd."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date
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
from dagster_project.sources import Parsed, _pages, fireworks
from dagster_project.sources._pages import Page

KEY = "fw_Zm9vYmFy_0123456789"
CASE = FIXTURES / "fireworks" / "two_days"
DAYS = Days(date(2026, 10, 1), date(2026, 10, 2))
ENDPOINT = "v1/accounts/acme/usageCosts:query"


@pytest.fixture
def entry(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> fireworks.Entry:
    monkeypatch.setenv("FIREWORKS_KEY", KEY)
    case = yaml.safe_load((CASE / "case.yaml").read_text(encoding="utf-8"))
    return fireworks.Entry(**case["entry"], base_url=httpserver.url_for("/"))


@pytest.fixture
def asked(httpserver: HTTPServer) -> list[dict[str, Any]]:
    """The questions that a server was asked which has the fixture's days."""
    questions: list[dict[str, Any]] = []
    pages = {"2026-10-01": "day_1_page_1", "2026-10-01page-2": "day_1_page_2", "2026-10-02": "day_2"}

    def answer(request: Request) -> Response:
        questions.append(request.json)
        if request.headers["Authorization"] != f"Bearer {KEY}":
            return Response(
                '{"error": {"message": "not an administrator", "code": "PERMISSION_DENIED"}}', 403
            )
        page = pages[request.json["startTime"][:10] + request.json.get("pageToken", "")]
        return Response((CASE / "pages" / f"{page}.json").read_text(encoding="utf-8"))

    httpserver.expect_request(f"/{ENDPOINT}", method="POST").respond_with_handler(answer)
    return questions


def test_a_pull_says_the_same_as_the_fixture(entry, asked, tmp_path, caplog) -> None:
    with caplog.at_level("DEBUG"):
        fireworks.fetch(entry, DAYS, tmp_path)
        parsed = fireworks.parse(entry, DAYS, tmp_path, None)
    assert as_csv(parsed.records["charge"]) == (CASE / "expected" / "charge.csv").read_text("utf-8")
    first, second = (
        {"scope": "ACCOUNT", "groupBy": ["API_KEY", "MODEL"], "startTime": start, "endTime": end}
        for start, end in (
            ("2026-10-01T00:00:00Z", "2026-10-02T00:00:00Z"),
            ("2026-10-02T00:00:00Z", "2026-10-03T00:00:00Z"),
        )
    )
    assert asked == [first, {**first, "pageToken": "page-2"}, second]
    assert KEY not in caplog.text + "".join(str(page) for page in _pages.read(tmp_path))


def test_a_key_that_is_no_administrators_sees_no_part_of_the_bill(
    entry, asked, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("FIREWORKS_KEY", "fw_somebody")
    with pytest.raises(
        SourceError, match=r"HTTP 403: PERMISSION_DENIED.*administrator of the account acme.*FIREWORKS_KEY"
    ) as caught:
        fireworks.fetch(entry, DAYS, tmp_path)
    assert "fw_somebody" not in str(caught.value)
    assert [question["scope"] for question in asked] == ["ACCOUNT"]


def test_an_account_that_is_not_there_is_told(entry, asked, tmp_path, httpserver) -> None:
    other = entry.model_copy(update={"account": "ac me/.."})
    httpserver.expect_request("/v1/accounts/ac me/../usageCosts:query").respond_with_data("", 404)
    with pytest.raises(SourceError, match=r"accounts/ac%20me%2F\.\./usageCosts:query.*no account ac me/\.\."):
        fireworks.fetch(other, DAYS, tmp_path)


# One day, parsed.


def _money(units: Any = "0", nanos: Any = 0, **fields: Any) -> dict[str, Any]:
    return {"currencyCode": "USD", "units": units, "nanos": nanos, **fields}


def _row(money: Mapping[str, Any], **said: Any) -> dict[str, Any]:
    return {"dimensions": {"apiKeyId": "key_1", "model": "m", **said}, "subtotal": money}


def _parse(entry: fireworks.Entry, raw: Path, *rows: Mapping[str, Any], **fields: Any) -> Parsed:
    """With the subtotal of the only row, if it is not among the fields."""
    answer = {"rows": rows, "subtotal": rows[0]["subtotal"] if rows else _money(), **fields}
    question = (("startTime", "2026-10-01T00:00:00Z"),)
    _pages.write([Page(ENDPOINT, question, json.dumps(answer))], raw)
    return fireworks.parse(entry, DAYS, raw, None)


@pytest.mark.parametrize(
    ("money", "dollars"),
    [
        (_money("12", 500_000_000), "12.5"),
        (_money("0", 1), "0.000000001"),
        (_money("-1", -250_000_000), "-1.25"),
        (_money(3), "3"),
        ({"currencyCode": "USD", "units": "7"}, "7"),
        ({"currencyCode": "USD", "nanos": 10_000_000}, "0.01"),
        (_money("9223372036854775807", 999_999_999), "9223372036854775807.999999999"),
    ],
)
def test_units_and_billionths_become_dollars_exactly(entry, tmp_path, money, dollars) -> None:
    frame = _parse(entry, tmp_path, _row(money)).records["charge"]
    assert frame["billed_cost"].to_list() == [Decimal(dollars)]


@pytest.mark.parametrize(
    ("money", "complaint"),
    [
        (_money("1.5"), "`units` is not a whole number"),
        (_money("1", 0.5), "`nanos` is not a whole number"),
        (_money(None), "`units` is a NoneType where a number should be"),
        (_money("$1"), "`units` is a text where a number should be"),
        ({"currencyCode": "USD", "whole_units": "7"}, "`units` is missing, and `whole_units` is not known"),
        ({"units": "7"}, "the field `currencyCode` is missing"),
        (_money("1", currencyCode=""), "its `currency` is empty"),
        (_money("1", currencyCode="credits"), "is no currency's code"),
        ("7", "`subtotal` is a str where an object should be"),
    ],
)
def test_an_amount_that_is_not_known_stops_the_pull(entry, tmp_path, money, complaint) -> None:
    with pytest.raises(SourceError, match=f"{ENDPOINT} of 2026-10-01.*{complaint}"):
        _parse(entry, tmp_path, _row(money))


def test_what_the_subtotal_has_beyond_the_rows_is_a_remainder(entry, tmp_path) -> None:
    parsed = _parse(entry, tmp_path, _row(_money("1")), subtotal=_money("1", 300_000_000))
    assert parsed.records["charge"].select("charge_category", "billed_cost", "api_key_id").rows() == [
        ("usage", Decimal(1), "key_1"),
        ("adjustment", Decimal("0.3"), None),
    ]
    assert parsed.counts["cost_remainders"] == 1


def test_rows_beyond_the_subtotal_stop_the_pull(entry, tmp_path) -> None:
    with pytest.raises(SourceError, match="its `rows` are more than its `subtotal`"):
        _parse(entry, tmp_path, _row(_money("1", 300_000_000)), subtotal=_money("1"))


def test_a_day_without_rows_costs_nothing_only_if_its_subtotal_says_so(entry, tmp_path) -> None:
    parsed = _parse(entry, tmp_path)
    assert len(parsed.records["charge"]) == 0
    assert parsed.counts["days_without_a_cost_bucket"] == 1
    _pages.write([Page(ENDPOINT, (("startTime", "2026-10-01T00:00:00Z"),), "{}")], tmp_path)
    with pytest.raises(SourceError, match="the field `subtotal` is missing"):
        fireworks.parse(entry, DAYS, tmp_path, None)


@pytest.mark.parametrize(
    ("said", "known", "without"),
    [
        ({}, ("key_1", "m"), (0, 0)),
        ({"apiKeyId": "", "unattributedDimensions": ["API_KEY"]}, (None, "m"), (1, 0)),
        ({"model": None, "unknownModel": True}, ("key_1", None), (0, 1)),
    ],
)
def test_what_fireworks_cannot_tell_is_counted(entry, tmp_path, said, known, without) -> None:
    parsed = _parse(entry, tmp_path, _row(_money("1"), **said), attributionCompleteness="UNKNOWN")
    (row,) = parsed.records["charge"].rows(named=True)
    assert (row["api_key_id"], row["model"], row["line_item"]) == (*known, known[1])
    counts = parsed.counts
    assert (counts["lines_without_a_key"], counts["lines_without_a_model"]) == without
    assert counts["days_incompletely_attributed"] == 1
