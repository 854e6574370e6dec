"""Together: pulled from a server that behaves like it, and read in every way in which it may be odd."""

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
from dagster_project.sources import Parsed, _pages, together
from dagster_project.sources._pages import Page

KEY = "tgp_v1_Zm9vYmFy_0123456789"
CASE = FIXTURES / "together" / "two_days"
DAYS = Days(date(2026, 10, 1), date(2026, 10, 2))


@pytest.fixture
def entry(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> together.Entry:
    monkeypatch.setenv("TOGETHER_KEY", KEY)
    case = yaml.safe_load((CASE / "case.yaml").read_text(encoding="utf-8"))
    return together.Entry(**case["entry"], base_url=httpserver.url_for("/"))


@pytest.fixture
def asked(httpserver: HTTPServer) -> list[dict[str, str]]:
    """The questions that a server was asked which has the fixture's October, and no other month."""
    questions: list[dict[str, str]] = []

    def answer(request: Request) -> Response:
        question = request.args.to_dict()
        questions.append(question)
        if request.headers["Authorization"] != f"Bearer {KEY}":
            return Response('{"error": {"message": "Invalid API key", "code": "invalid_api_key"}}', 401)
        if question["organization_id"] != "org_acme":
            return Response('{"error": {"message": "not found"}}', 404)
        page = 2 if question.get("after") == "cur_2" else 1
        body = (CASE / "pages" / f"usage_{page}.json").read_text(encoding="utf-8")
        nothing = {"data": [], "currency": "USD", "next_cursor": None, "latest_window_end": None}
        return Response(body if question["month"] == "2026-10" else json.dumps(nothing))

    httpserver.expect_request("/v1/billing/usage", method="GET").respond_with_handler(answer)
    return questions


def _pull(entry: together.Entry, days: Days, raw: Path) -> Parsed:
    together.fetch(entry, days, raw)
    return together.parse(entry, days, raw, None)


def test_a_pull_says_the_same_as_the_fixture(entry, asked, tmp_path, caplog) -> None:
    with caplog.at_level("DEBUG"):
        parsed = _pull(entry, DAYS, tmp_path)
    assert as_csv(parsed.records["charge"]) == (CASE / "expected" / "charge.csv").read_text("utf-8")
    month = {"organization_id": "org_acme", "month": "2026-10", "granularity": "day", "limit": "1000"}
    assert asked == [month, {**month, "after": "cur_2"}]
    assert KEY not in caplog.text + "".join(str(page) for page in _pages.read(tmp_path))


def test_days_of_two_months_are_two_lists(entry, asked, tmp_path) -> None:
    parsed = _pull(entry, Days(date(2026, 9, 30), date(2026, 10, 1)), tmp_path)
    assert [question["month"] for question in asked] == ["2026-09", "2026-10", "2026-10"]
    assert set(parsed.records["charge"]["usage_date"]) == {date(2026, 10, 1)}
    assert parsed.counts["days_without_a_cost_bucket"] == 1


def test_a_wrong_key_is_told_with_its_variable(entry, asked, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TOGETHER_KEY", "tgp_v1_wrong")
    with pytest.raises(SourceError, match=r"HTTP 401: invalid_api_key.*org_acme.*TOGETHER_KEY") as caught:
        together.fetch(entry, DAYS, tmp_path)
    assert "tgp_v1_wrong" not in str(caught.value)


def test_an_organisation_without_the_beta_is_told_what_to_do(entry, asked, tmp_path) -> None:
    other = entry.model_copy(update={"organization": "org_other"})
    with pytest.raises(SourceError, match=r"HTTP 404.*is not enabled for the organisation: ask its support"):
        together.fetch(other, DAYS, tmp_path)


# One line of one day, parsed.


def _line(**fields: Any) -> dict[str, Any]:
    what = {"product_name": "Serverless Inference - Input Tokens", "quantity": "10", "unit_price": "1"}
    return {**what, "cost": "1", "pricing_dimensions": {"model": "m"}, "attributes": {}, **fields}


def _day(*lines: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    window = {"start_time": "2026-10-01T00:00:00Z", "end_time": "2026-10-02T00:00:00Z"}
    return {"date": "2026-10-01", **window, "line_items": lines, **fields}


def _parse(entry: together.Entry, raw: Path, *days: Mapping[str, Any], **fields: Any) -> Parsed:
    answer = {"currency": "USD", "next_cursor": None, "latest_window_end": None, "data": days, **fields}
    _pages.write([Page(together.USAGE, (("month", "2026-10"),), json.dumps(answer))], raw)
    return together.parse(entry, DAYS, raw, None)


@pytest.mark.parametrize(
    ("cost", "billed"),
    [
        ("0", "0"),
        ("0.000000000001", "0.000000000001"),
        ("0.0000000000005", "0"),
        ("-3.5", "-3.5"),
        ("12345678901234567890.123456789012", "12345678901234567890.123456789012"),
    ],
)
def test_dollars_stay_exact(entry, tmp_path, cost: str, billed: str) -> None:
    frame = _parse(entry, tmp_path, _day(_line(cost=cost))).records["charge"]
    assert frame["billed_cost"].to_list() == [Decimal(billed)]


@pytest.mark.parametrize(
    ("product", "meter", "tier", "category", "unparsed"),
    [
        ("Serverless Inference - Input Tokens", "input", None, "usage", 0),
        ("Serverless Inference - Cached Input Tokens", "cache_read", None, "usage", 0),
        ("serverless inference - output tokens", "output", None, "usage", 0),
        ("Batch Inference - Output Tokens", "output", "batch", "usage", 0),
        ("Fine-tuning - Input Tokens", None, None, "usage", 1),
        ("Serverless Inference - Input Tokens (EU)", None, None, "usage", 1),
        ("Sales tax", None, None, "tax", 0),
        ("Platform fee", None, None, "fee", 0),
    ],
)
def test_products(entry, tmp_path, product, meter, tier, category, unparsed) -> None:
    parsed = _parse(entry, tmp_path, _day(_line(product_name=product)))
    (row,) = parsed.records["charge"].rows(named=True)
    assert (row["line_item"], row["meter"], row["service_tier"]) == (product, meter, tier)
    assert (row["charge_category"], row["quantity_unit"]) == (category, "tokens" if meter else None)
    assert parsed.counts["unparsed_line_items"] == unparsed


@pytest.mark.parametrize(
    ("credit", "charged"),
    [
        (None, [("usage", 3)]),
        ({"type": "PREPAID"}, [("usage", 3)]),
        ({"type": "POSTPAID"}, [("usage", 3)]),
        ({"type": "CREDIT"}, [("usage", 3), ("credit", -3)]),
    ],
)
def test_what_a_credit_was_given_for_costs_nothing(entry, tmp_path, credit, charged) -> None:
    lines = [_line(cost="3", applied_credit=credit), _line(cost="4")]
    frame = _parse(entry, tmp_path, _day(*lines)).records["charge"]
    assert [*frame.select("charge_category", "billed_cost").rows()] == [*charged, ("usage", 4)]
    assert frame["record_id"].n_unique() == len(frame)


def test_a_line_keeps_its_id_whatever_it_costs_now(entry, tmp_path) -> None:
    def ids(**fields: Any) -> list[str]:
        return _parse(entry, tmp_path, _day(_line(**fields))).records["charge"]["record_id"].to_list()

    assert ids() == ids(cost="7", quantity="70", unit_price="0.1")
    assert ids() != ids(attributes={"api_key_id": "key_1"})


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (_line(cost=None), "`cost` is a NoneType where a number should be"),
        (_line(cost="1,5"), "`cost` is a text where a number should be"),
        ({k: v for k, v in _line().items() if k != "cost"}, "the field `cost` is missing"),
        ({k: v for k, v in _line().items() if k != "quantity"}, "the field `quantity` is missing"),
        (_line(product_name=None), "`product_name` is empty"),
        (_line(attributes=None), "`attributes` is a NoneType where an object should be"),
        (_line(attributes={"api_key_id": 7}), "`api_key_id` is a int where a text should be"),
        (_line(applied_credit={"type": "LOYALTY"}), "`type` `LOYALTY`, so what the line costs is not known"),
        (_line(applied_credit={}), "the field `type` is missing"),
        (_line(credit={"type": "CREDIT"}), "`applied_credit` is missing, and `credit` is not known"),
    ],
)
def test_a_line_that_is_not_understood_stops_the_pull(entry, tmp_path, line, complaint) -> None:
    with pytest.raises(SourceError, match=f"v1/billing/usage of 2026-10-01.*{complaint}"):
        _parse(entry, tmp_path, _day(line))


@pytest.mark.parametrize(
    ("days", "fields", "complaint"),
    [
        ([_day(), _day()], {}, "2026-10-01 comes twice"),
        ([_day()], {"latest_window_end": "2026-10-03T00:00:00Z"}, "the list ends before 2026-10-03"),
        ([_day(date="2026-10-02")], {}, "the `date` of the day"),
        ([_day(start_time="2026-10-01T01:00:00Z")], {}, "is no day"),
        ([_day(end_time="2026-11-01T00:00:00Z")], {}, "is no day"),
        ([_day(_line())], {"currency": None}, "its `currency` is empty"),
        ([_day(_line())], {"currency": "points"}, "is no currency's code"),
        ([_day(line_items={})], {}, "`line_items` is not a list"),
    ],
)
def test_a_list_that_is_not_understood_stops_the_pull(entry, tmp_path, days, fields, complaint) -> None:
    with pytest.raises(SourceError, match=f"v1/billing/usage .*{complaint}"):
        _parse(entry, tmp_path, *days, **fields)


@pytest.mark.parametrize("name", ["next_cursor", "latest_window_end"])
def test_a_list_that_does_not_say_where_it_ends_stops_the_pull(entry, tmp_path, name) -> None:
    answer = {"currency": "USD", "data": [], "next_cursor": None, "latest_window_end": None}
    answer[f"{name}_v2"] = answer.pop(name)
    _pages.write([Page(together.USAGE, (), json.dumps(answer))], tmp_path)
    with pytest.raises(SourceError, match=f"the field `{name}` is missing"):
        together.parse(entry, DAYS, tmp_path, None)
