"""The patient client, against a real server that pages, stalls, breaks off and refuses."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from dagster_project.days import Days
from dagster_project.errors import ConfigError, SourceError
from dagster_project.settings import ProviderEntry
from dagster_project.sources import _http, _pages
from dagster_project.sources._pages import Page

KEY = "admin.Zm9vYmFy_0123456789"
DAYS = Days(date(2026, 10, 1), date(2026, 10, 3))
LAST = {"data": [], "has_more": False}


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that the client would have slept."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


@pytest.fixture
def ask(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Page]]:
    monkeypatch.setenv("ACME_KEY", KEY)

    def pages(*cursor: _http.Cursor | None, asked: Mapping[str, Any] = {}, **settings: Any) -> list[Page]:
        entry = ProviderEntry(
            name="acme",
            type="any",
            start_date=DAYS.first,
            api_key="${ACME_KEY}",
            **{"base_url": httpserver.url_for("/v1"), "max_attempts": 3, **settings},
        )
        with _http.Api(
            entry,
            DAYS,
            headers=lambda key: {"x-api-key": key},
            needs="an admin key (sk-admin-...)",
            missing="Or nobody bought things.",
        ) as api:
            return list(api.pages("things", (("limit", "2"),), *cursor, **asked))

    return pages


def _serve(httpserver: HTTPServer, *answers: Response | Mapping[str, Any]) -> None:
    """Answer /v1/things with these, one after the other; a further question is an error."""
    for answer in answers:
        ready = answer if isinstance(answer, Response) else Response(json.dumps(answer))
        httpserver.expect_ordered_request("/v1/things").respond_with_response(ready)


def _questions(httpserver: HTTPServer) -> list[str]:
    return [request.query_string.decode() for request, _ in httpserver.log]


def test_a_list_is_followed_by_its_token_and_the_question_stays_the_same(httpserver, ask) -> None:
    _serve(
        httpserver,
        {"data": [1, 2], "has_more": True, "next_page": "t1"},
        {"data": [], "has_more": True, "next_page": "t2"},
        {"data": [3], "has_more": False, "next_page": None},
    )
    pages = ask()
    assert [page.json()["data"] for page in pages] == [[1, 2], [], [3]]
    assert pages[1].params == (("limit", "2"), ("page", "t1"))
    assert _questions(httpserver) == ["limit=2", "limit=2&page=t1", "limit=2&page=t2"]


def test_a_list_is_followed_by_its_last_id(httpserver, ask) -> None:
    _serve(httpserver, {"data": [{"id": "b"}], "has_more": True, "last_id": "b"}, LAST)
    assert len(ask(_http.Cursor("after", "last_id"))) == 2
    assert _questions(httpserver) == ["limit=2", "limit=2&after=b"]


TOKEN_ONLY = _http.Cursor("after", "next_cursor", more=None)


@pytest.mark.parametrize("end", [{"next_cursor": None}, {"next_cursor": ""}, {}])
def test_a_list_that_does_not_say_whether_there_is_more_ends_without_a_token(httpserver, ask, end) -> None:
    _serve(httpserver, {"data": [1], "next_cursor": "c1", "has_more": False}, {"data": [], **end})
    assert [page.json()["data"] for page in ask(TOKEN_ONLY)] == [[1], []]
    assert _questions(httpserver) == ["limit=2", "limit=2&after=c1"]


def test_without_a_cursor_the_first_answer_is_all(httpserver, ask) -> None:
    _serve(httpserver, {"data": [1], "has_more": True, "next_page": "t1"})
    assert len(ask(None)) == 1


def test_a_question_that_is_posted_is_kept_and_goes_on_in_its_body(httpserver, ask, waits) -> None:
    """It is tried again like any other: it changes nothing."""
    _serve(httpserver, {"next_cursor": "c1"}, Response("no", 503), Response('{"next'), {"next_cursor": ""})
    pages = ask(TOKEN_ONLY, asked={"posts": True})
    assert [page.params for page in pages] == [(("limit", "2"),), (("limit", "2"), ("after", "c1"))]
    assert [(request.method, request.query_string) for request, _ in httpserver.log] == [("POST", b"")] * 4
    assert [request.json for request, _ in httpserver.log] == [
        {"limit": "2"},
        *[{"limit": "2", "after": "c1"}] * 3,
    ]
    assert len(waits) == 2


def test_what_was_posted_is_told_by_its_method(httpserver, ask) -> None:
    _serve(httpserver, Response('{"error": {"message": "No."}}', 400))
    with pytest.raises(SourceError, match=f"POST things for {DAYS}, page 1: HTTP 400: No"):
        ask(TOKEN_ONLY, asked={"posts": True})


@pytest.mark.parametrize(
    ("answers", "complaint"),
    [
        ([{"data": [1], "has_more": True, "next_page": None}], "`next_page` does not say where"),
        ([{"data": [1], "has_more": True}], "`next_page` does not say where"),
        ([{"data": [1], "has_more": True, "next_page": "t"}] * 2, "leads back to a page"),
        ([{"data": [1]}], "`has_more`"),
        ([{"data": [1], "has_more": True, "next_page": "t" * 2**17}], "cannot be asked for"),
        ([{"data": [1], "has_more": True, "next_page": "\ud800"}], "cannot be asked for"),
    ],
)
def test_a_list_that_would_loop_or_lose_pages_is_refused(httpserver, ask, answers, complaint) -> None:
    _serve(httpserver, *answers)
    with pytest.raises(SourceError, match=f"things for 2026-10-01..2026-10-03, page .*{complaint}"):
        ask()


@pytest.mark.parametrize("posts", [False, True])
@pytest.mark.parametrize(
    ("answers", "complaint"),
    [
        ([{"next_cursor": 7}], "`next_cursor` does not say where"),
        ([{"next_cursor": False}], "`next_cursor` does not say where"),
        ([{"next_cursor": {}}], "`next_cursor` does not say where"),
        ([{"next_cursor": "t"}] * 2, "leads back to a page"),
        ([{"next_cursor": "\ud800"}], "cannot be asked for"),
    ],
)
def test_so_is_one_that_does_not_say_whether_there_is_more(
    httpserver, ask, answers, complaint, posts
) -> None:
    _serve(httpserver, *answers)
    with pytest.raises(SourceError, match=f"things for 2026-10-01..2026-10-03, page .*{complaint}"):
        ask(TOKEN_ONLY, asked={"posts": posts})


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503, 529])
def test_a_passing_failure_is_tried_again(httpserver, ask, waits, status: int) -> None:
    _serve(httpserver, Response("no", status), Response("no", status), LAST)
    assert len(ask()) == 1
    first, second = waits
    assert 0.5 <= first <= 1 <= second <= 2


@pytest.mark.parametrize(
    "broken",
    [
        Response('{"data": [{"amount"'),
        Response('{"data": [', headers={"Content-Length": "1000"}),
        Response("<html>sign in</html>"),
        Response("[1]"),
        Response(b"\x1f\x8b not gzip", headers={"Content-Encoding": "gzip"}),
    ],
    ids=["half JSON", "connection closed in the body", "HTML", "no object", "bad compression"],
)
def test_half_an_answer_is_tried_again(httpserver, ask, waits, broken: Response) -> None:
    _serve(httpserver, broken, LAST)
    assert [page.json() for page in ask()] == [LAST]
    assert len(waits) == 1


def test_half_an_answer_that_stays_is_an_error(httpserver, ask, waits) -> None:
    _serve(httpserver, *[Response('{"data": [{"prompt": "hush')] * 3)
    with pytest.raises(SourceError, match=r"HTTP 200, but the answer is cut off.*3 attempts") as caught:
        ask()
    assert "hush" not in str(caught.value)


def _http_date(seconds: int) -> str:
    return f"{datetime.now(UTC) + timedelta(seconds=seconds):%a, %d %b %Y %H:%M:%S GMT}"


@pytest.mark.parametrize(
    ("headers", "shortest", "longest"),
    [
        ({"Retry-After": "7"}, 7, 7),
        ({"retry-after-ms": "1500", "Retry-After": "9"}, 1.5, 1.5),
        ({"Retry-After": "120"}, 120, 120),
        ({"Retry-After": "soon"}, 0.5, 1),
        ({"Retry-After": "0"}, 0.5, 1),
    ],
)
def test_it_waits_as_long_as_it_is_asked_to(httpserver, ask, waits, headers, shortest, longest) -> None:
    _serve(httpserver, Response("slow down", 429, headers), LAST)
    ask()
    assert shortest <= waits[0] <= longest


def test_it_waits_until_the_instant_it_is_told(httpserver, ask, waits) -> None:
    _serve(httpserver, Response("slow down", 429, {"Retry-After": _http_date(60)}), LAST)
    ask()
    assert 30 <= waits[0] <= 60


def test_a_long_wait_is_told_instead_of_waited_for(httpserver, ask, waits) -> None:
    _serve(httpserver, Response("{}", 429, {"Retry-After": "121"}))
    soon = datetime.now(UTC) + timedelta(seconds=121)
    with pytest.raises(SourceError, match=r"HTTP 429\. Run again after") as caught:
        ask()
    assert waits == []
    assert any(f"{soon + timedelta(seconds=s):%Y-%m-%d %H:%M} UTC" in str(caught.value) for s in (0, 1))


def test_the_provider_may_say_whether_trying_again_helps(httpserver, ask, waits) -> None:
    _serve(httpserver, Response("{}", 400, {"x-should-retry": "true"}), LAST)
    assert len(ask()) == 1
    httpserver.clear()
    _serve(httpserver, Response("{}", 500, {"x-should-retry": "false"}))
    with pytest.raises(SourceError, match="HTTP 500"):
        ask()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Response('{"error": {"type": "invalid_request_error", "message": "No."}}', 401),
         ["HTTP 401: invalid_request_error: No.", "needs an admin key (sk-admin-...)", "variable ACME_KEY"]),
        (Response('{"error": {"code": "missing_scope", "message": "Not you."}}', 403),
         ["HTTP 403: missing_scope: Not you.", "variable ACME_KEY"]),
        (Response("not here", 404), ["HTTP 404", "Check `base_url`", "there. Or nobody bought things."]),
        (Response("", 302, {"Location": "https://elsewhere.example/"}), ["HTTP 302", "Check `base_url`"]),
        (Response('{"error": "flat"}', 400, {"x-request-id": "req_7"}),
         ["HTTP 400, request id req_7", "does not accept this question"]),
        (Response('[{"prompt": "hush"}]', 400, {"request-id": "req_8"}), ["HTTP 400, request id req_8"]),
    ],
)  # fmt: skip
def test_a_refusal_says_what_to_do_and_is_not_repeated(httpserver, ask, answer, expected) -> None:
    _serve(httpserver, answer)
    with pytest.raises(SourceError) as caught:
        ask()
    message = str(caught.value)
    assert message.startswith("source `acme`, GET things for 2026-10-01..2026-10-03, page 1: HTTP ")
    assert [part for part in expected if part not in message] == []
    assert "hush" not in message
    assert len(httpserver.log) == 1


def test_only_a_missing_optional_endpoint_is_an_empty_list(httpserver, ask) -> None:
    _serve(httpserver, Response("not here", 404))
    assert ask(asked={"is_optional": True}) == []

    _serve(httpserver, {"data": [], "has_more": True, "next_page": "t"}, Response("gone", 404))
    with pytest.raises(SourceError, match="page 2: HTTP 404"):
        ask(asked={"is_optional": True})


def test_which_refusals_are_an_empty_list_can_be_said(httpserver, ask) -> None:
    absent = {"absent": (403, 404)}
    for status in absent["absent"]:
        _serve(httpserver, Response("no", status))
        assert ask(asked={"is_optional": True, **absent}) == []
    for status, is_optional in ((401, True), (403, False)):
        _serve(httpserver, Response("no", status))
        with pytest.raises(SourceError, match=f"page 1: HTTP {status}"):
            ask(asked={"is_optional": is_optional, **absent})


def test_an_answer_that_never_says_whether_there_is_more_is_the_last_one(httpserver, ask) -> None:
    _serve(httpserver, {"data": [1]})
    assert [page.json() for page in ask(asked={"says_more": False})] == [{"data": [1]}]

    _serve(httpserver, {"data": [1], "has_more": True, "next_page": "t"}, {"data": [2]})
    assert len(ask(asked={"says_more": False})) == 2


def test_no_answer_at_all(httpserver, ask, waits) -> None:
    with pytest.raises(SourceError, match=r"no answer in 3 attempts .ConnectError.*can be reached"):
        ask(base_url="http://127.0.0.1:1/v1")
    assert len(waits) == 2


def test_a_connection_that_is_reset_is_tried_again_and_then_told(ask, waits) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def reset() -> None:
            for _ in range(3):
                connection, _address = server.accept()
                connection.recv(1)
                # Closed with a linger of 0 seconds: not an end but a reset.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()

        thread = threading.Thread(target=reset)
        thread.start()
        port = server.getsockname()[1]
        with pytest.raises(SourceError, match=r"no answer in 3 attempts .(ReadError|RemoteProtocolError)"):
            ask(base_url=f"http://127.0.0.1:{port}/v1")
        thread.join()
    assert len(waits) == 2


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_passing_failure_that_stays_is_told_with_what_to_do(httpserver, ask, waits, status: int) -> None:
    _serve(httpserver, *[Response('{"error": {"message": "Slow down."}}', status)] * 3)
    with pytest.raises(SourceError) as caught:
        ask()
    message = str(caught.value)
    assert message.startswith(
        f"source `acme`, GET things for {DAYS}, page 1: HTTP {status}, 3 attempts: Slow"
    )
    assert message.endswith("The provider is failing, or limits what this key may ask: run again later.")
    assert KEY not in message
    assert len(waits) == 2


def test_a_server_that_stalls_runs_into_the_timeout(httpserver, ask, waits) -> None:
    release = threading.Event()

    def stall(_: Request) -> Response:
        release.wait(5)
        return Response(json.dumps(LAST))

    httpserver.expect_request("/v1/things").respond_with_handler(stall)
    timer = threading.Timer(1, release.set)
    timer.start()
    with pytest.raises(SourceError, match=r"no answer in 1 attempts .ReadTimeout"):
        ask(timeout_seconds=0.2, max_attempts=1)
    release.set()
    timer.cancel()


@pytest.fixture
def everything_logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level("DEBUG"):
        yield caplog


def test_the_key_is_sent_and_is_nowhere_else(httpserver, ask, waits, everything_logged) -> None:
    others = "sk-ant-another-0 xai-another-0 fw_another_0 tgp_v1_another_0"
    echo = {"error": {"type": "auth", "message": f"bad key {KEY} (also {others}), sorry" * 20}}
    _serve(httpserver, LAST, Response(json.dumps(echo), 500), Response(json.dumps(echo), 401))
    pages = ask()
    with pytest.raises(SourceError) as caught:
        ask()
    assert httpserver.log[0][0].headers["x-api-key"] == KEY
    assert httpserver.log[0][0].headers["User-Agent"].startswith("llm-chargeback/")
    told = "".join(traceback.format_exception(caught.value)) + everything_logged.text + repr(pages)
    assert "bad key [key] (also [key] [key] [key] [key])" in told
    for secret in (KEY, KEY[:16], "another"):
        assert secret not in told
    assert len(str(caught.value)) < 800


@pytest.mark.parametrize("bad", [f"{KEY}\n", f"{KEY[:9]} {KEY[9:]}", f"{KEY}ü"])
def test_a_key_that_is_no_header_is_refused_unseen(ask, monkeypatch, bad: str) -> None:
    monkeypatch.setenv("ACME_KEY", bad)
    with pytest.raises(ConfigError, match="ACME_KEY holds a blank") as caught:
        ask()
    assert KEY[:9] not in "".join(traceback.format_exception(caught.value))


def test_a_missing_key_names_its_variable(ask, monkeypatch) -> None:
    monkeypatch.delenv("ACME_KEY")
    with pytest.raises(ConfigError, match="ACME_KEY is not set"):
        ask()


def test_the_same_pages_are_the_same_bytes_at_any_time(monkeypatch, tmp_path) -> None:
    for folder, instant in (("now", 1e9), ("later", 2e9)):
        monkeypatch.setattr(time, "time", lambda instant=instant: instant)
        (tmp_path / folder).mkdir()
        _pages.write([Page("things", (("limit", "2"),), '{"data": ["ü"]}')], tmp_path / folder)
    now, later = (tmp_path / folder / _pages.FILE for folder in ("now", "later"))
    assert now.read_bytes() == later.read_bytes()
    assert [page.json() for page in _pages.read(now.parent)] == [{"data": ["ü"]}]


def test_email_addresses_are_not_kept(httpserver, ask) -> None:
    sent = '{"data": [{"owner": {"email" : "ana\\"@acme.example"}, "user_email":"x@y", "email": null}], "has_more": false}'  # noqa: E501
    _serve(httpserver, Response(sent))
    (page,) = ask()
    assert "@" not in page.body
    assert page.json()["data"] == [{"owner": {"email": None}, "user_email": None, "email": None}]
