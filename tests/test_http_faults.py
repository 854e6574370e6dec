"""Providers that answer badly: every fault in every endpoint of every source that speaks HTTP.

A source takes part by its fixture: the pages of a case are what its API answers when all is well. Then each
answer in turn is refused, cut off, delayed or garbled, and each field of each answer is changed, by walking
the JSON. There are two legal ends: an error that says where and what to do, with the lake as it was; or an
answer that is accepted, and the same money and the same counts as without the change.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import struct
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest
from conftest import assert_nothing_left, digests
from pytest_httpserver import HTTPServer
from test_sources import CASES, FIXTURES
from werkzeug import Request, Response

from dagster_project.days import Days
from dagster_project.errors import SourceError
from dagster_project.ingest import Report, ingest
from dagster_project.lake import Lake
from dagster_project.records import METERS
from dagster_project.settings import ProviderEntry
from dagster_project.sources import Parsed, Source, _http, modules

KEY = "admin-Zm9vYmFy-0123456789"
BEFORE, NOW = datetime(2026, 10, 8, 5, tzinfo=UTC), datetime(2026, 10, 9, 5, tzinfo=UTC)
"""When the good older state was pulled, and when everything else is."""

AGAIN = "anthropic/analytics"
"""Asked by the same module with the same client as `anthropic/two_days`: with `make test-slow` only."""

SPEAKING_HTTP = [
    pytest.param(name, marks=pytest.mark.slow) if name == AGAIN else name
    for name, case in CASES.items()
    if "pages" in case and issubclass(modules()[name.partition("/")[0]].Entry, ProviderEntry)
]
SOME_AND_ALL = pytest.mark.parametrize("share", ["some", pytest.param("all", marks=pytest.mark.slow)])
"""All changes of all fields take minutes; some of them, evenly chosen, go with every change of the code."""

ONE_CHANGE_IN, ONE_PULL_IN = 71, 997

REST_OF = "rest of "
"""A token for the rest of a list of which nothing was sent yet, before the number of the question."""

CURSORS = ("page", "after", "after_id", "pageToken")
"""The parameters by which lists go on."""

Asked = Mapping[str, Any]
"""Parameters of a question: lists of texts of a query, and the fields of an object that was posted."""
Mishap = Callable[[int, Request, str], Response]
"""Answers a question, the request, that would have been answered with the body."""
Place = tuple[str | int, ...]
"""Where in an answer: names of fields, and numbers of elements."""


class Provider:
    """Answers as the fixture's pages say, or as it is told to answer a question: a page of the case."""

    def __init__(self, name: str) -> None:
        self._sent = CASES[name]["pages"]
        self.bodies = [
            (FIXTURES / name / "pages" / sent["body"]).read_text(encoding="utf-8") for sent in self._sent
        ]
        self.instead: Mapping[int, str] = {}
        self.mishaps: dict[int, Mishap] = {}

    @property
    def questions(self) -> range:
        return range(len(self._sent))

    def endpoint(self, question: int) -> str:
        return self._sent[question]["endpoint"]

    def params(self, question: int) -> Asked:
        return self._sent[question].get("params", {})

    def method(self, question: int) -> str:
        """Only what is posted has parameters that are no texts."""
        is_query = all(isinstance(value, str) for value in self.params(question).values())
        return "GET" if is_query else "POST"

    @contextmanager
    def mishap(self, question: int, mishap: Mishap) -> Iterator[None]:
        self.mishaps = {question: mishap}
        try:
            yield
        finally:
            self.mishaps = {}

    @contextmanager
    def spoiled(self, bodies: Mapping[int, str]) -> Iterator[None]:
        self.instead = bodies
        try:
            yield
        finally:
            self.instead = {}

    def question(self, path: str, asked: Asked) -> int | None:
        """By endpoint, by where the list goes on, and by most of what else was asked."""
        position = {name: asked[name] for name in CURSORS if name in asked}
        for value in position.values():
            if rest_of(value):
                return int(rest_of(value))
        fitting = [
            question
            for question in self.questions
            if self.endpoint(question) == path.strip("/")
            and all(name in self.params(question) for name in position)
            and is_said(self.params(question), asked)
        ]
        return max(fitting, key=lambda question: (len(self.params(question)), question), default=None)

    def body(self, path: str, asked: Asked) -> str | None:
        question = self.question(path, asked)
        return None if question is None else self.instead.get(question, self.bodies[question])

    def __call__(self, request: Request) -> Response:
        """As a server."""
        asked = request.json if request.method == "POST" else request.args.to_dict(flat=False)
        question, body = (ask(request.path, asked) for ask in (self.question, self.body))
        if question is None or body is None:
            return Response('{"error": {"message": "no such thing"}}', 404)
        assert request.method == self.method(question)
        mishap = self.mishaps.get(question)
        return mishap(question, request, body) if mishap else Response(body)

    def without_a_socket(self, request: httpx.Request) -> httpx.Response:
        """As a transport, for thousands of answers."""
        asked = json.loads(request.content) if request.content else parse_qs(request.url.query.decode())
        body = self.body(request.url.path, asked)
        return httpx.Response(404 if body is None else 200, text=body or "{}")


def rest_of(token: Any) -> str | None:
    """The number of the question whose list the token goes on with, if it is such a token."""
    (text,) = token if isinstance(token, list) else (token,)
    return text.removeprefix(REST_OF) if text.startswith(REST_OF) else None


def is_said(part: Any, whole: Any) -> bool:
    """Whether what was asked says this, and maybe more."""
    if isinstance(part, dict):
        return all(name in whole and is_said(value, whole[name]) for name, value in part.items())
    return part == whole or (isinstance(whole, list) and part in whole)


@dataclass
class Account:
    """A source with its provider, and deployments to pull it into."""

    provider: Provider
    source: Source
    days: Days
    older: Path
    """A home with a good older state: the first of the days."""
    newer: Mapping[str, str] = field(default_factory=dict)
    """The digests of its files when a pull of all days has gone well on top of it."""

    def copy(self, home: Path) -> Path:
        shutil.copytree(self.older, home)
        return home

    def pull(self, home: Path) -> Report:
        return ingest(self.source, self.days, Lake(home), (), NOW)

    def parsed(self) -> Parsed:
        """What a pull reads, without a lake."""
        with TemporaryDirectory() as raw:
            self.source.module.fetch(self.source.entry, self.days, Path(raw))
            return self.source.module.parse(self.source.entry, self.days, Path(raw), None)


@pytest.fixture(scope="module", params=SPEAKING_HTTP)
def account(request, tmp_path_factory) -> Iterator[Account]:
    name = request.param
    case = CASES[name]
    module = modules()[name.partition("/")[0]]
    provider = Provider(name)
    with HTTPServer() as server, pytest.MonkeyPatch.context() as patch:
        server.expect_request(re.compile(".*")).respond_with_handler(provider)
        entry = module.Entry(
            **case["entry"], base_url=server.url_for("/"), max_attempts=2, timeout_seconds=0.5
        )
        patch.setenv(entry.api_key.variable, KEY)
        patch.setattr(_http, "today", NOW.date)
        source, days = Source(entry, module), Days(case["first"], case["last"])
        account = Account(provider, source, days, tmp_path_factory.mktemp("older"))
        ingest(source, Days(days.first, days.first), Lake(account.older), (), BEFORE)
        whole = account.copy(tmp_path_factory.mktemp("newer") / "home")
        account.pull(whole)
        account.newer = digests(whole)
        assert account.newer != digests(account.older)
        yield account


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that the client would have slept."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


def assert_tells(error: SourceError, account: Account, question: int, place: Place = ()) -> None:
    """It names source, days, endpoint or field; it says what to do, at readable length, without the key."""
    message = str(error)
    assert message.startswith(f"source `{account.source.name}`, ")
    assert re.search(r"2026-10-0\d", error.where), error.where
    fields = {f"`{name}`" for name in place}
    assert account.provider.endpoint(question) in error.where or any(f in error.what for f in fields), message
    assert re.search(r"[Rr]un again|Check `base_url`|environment variable", error.remedy), error.remedy
    assert len(message) < 1000
    assert KEY not in message


# The whole answer.


def _status(status: int, **headers: str) -> Mishap:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda *_: Response('{"error": {"message": "No."}}', status, named)


def _garbled(garble: Callable[[str], str]) -> Mishap:
    return lambda _question, _request, body: Response(garble(body))


def _late(_: int, request: Request, body: str) -> Response:
    threading.Event().wait(0.7)
    return Response(body)


def _reset(_: int, request: Request, body: str) -> Response:
    connection = request.environ["werkzeug.socket"]

    def half() -> Iterator[bytes]:
        yield body[: len(body) // 2].encode()
        # Closed with a linger of 0 seconds: not an end but a reset.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(connection.detach())
        raise ConnectionResetError

    return Response(half(), headers={"Content-Length": str(len(body))})


def _more(token: str | None) -> Mapping[str, Any]:
    """That there is more, by any name that a list has for it."""
    return {"has_more": True} | dict.fromkeys(("next_page", "last_id", "next_cursor", "nextPageToken"), token)


def _endless(question: int, request: Request, body: str) -> Response:
    return Response(json.dumps(json.loads(body) | _more(f"{REST_OF}{question}")))


def _without_token(_: int, request: Request, body: str) -> Response:
    return Response(json.dumps(json.loads(body) | _more(None)))


FAULTS = {
    "401": (_status(401), "HTTP 401"),
    "403": (_status(403), "HTTP 403"),
    "404": (_status(404), "HTTP 404"),
    "429": (_status(429), "HTTP 429, 2 attempts"),
    "429, come back soon": (_status(429, Retry_After="3"), "HTTP 429, 2 attempts"),
    "429, come back in an hour": (_status(429, Retry_After="3600"), "HTTP 429"),
    "500": (_status(500), "HTTP 500, 2 attempts"),
    "503": (_status(503), "HTTP 503, 2 attempts"),
    "no answer in time": (_late, "no answer in 2 attempts (ReadTimeout"),
    "connection reset in the body": (_reset, "no answer in 2 attempts ("),
    "half the JSON": (_garbled(lambda body: body[: len(body) // 2]), "cut off or not JSON, 2 attempts"),
    "malformed JSON": (_garbled(lambda body: body.replace(":", "=")), "cut off or not JSON, 2 attempts"),
    "HTML": (_garbled(lambda _: "<html>Sign in</html>"), "cut off or not JSON, 2 attempts"),
    "JSON of another kind": (_garbled(lambda _: "[]"), "not a JSON object, 2 attempts"),
    "JSON without an end": (_garbled(lambda _: "[" * 10**6), "cut off or not JSON, 2 attempts"),
    "a token that repeats": (_endless, "leads back to a page that was already read"),
    "more, but no token": (_without_token, "does not say where"),
}


SAYS_MORE = {
    "a token that repeats": {"has_more", "next_cursor", "nextPageToken"},
    "more, but no token": {"has_more"},
}
"""Faults of lists, and the fields of which an answer has to have one to be capable of them."""


@SOME_AND_ALL
def test_a_fault_in_any_endpoint_changes_nothing_and_the_next_pull_repairs(account, tmp_path, share) -> None:
    provider = account.provider
    every = [(question, fault) for question in provider.questions for fault in FAULTS]
    home = account.copy(tmp_path / "home")
    before = digests(home)
    for question, fault in _chosen(every, share, one_in=11):
        mishap, complaint = FAULTS[fault]
        if fault in ("401", "403", "404") and _is_optional(account, question, mishap):
            continue
        if fault in SAYS_MORE and SAYS_MORE[fault].isdisjoint(json.loads(provider.bodies[question])):
            continue
        with account.provider.mishap(question, mishap), pytest.raises(SourceError) as told:
            account.pull(home)
        assert_tells(told.value, account, question)
        asked = f"{provider.method(question)} {provider.endpoint(question)}"
        assert told.value.where.startswith(f"{asked} for {account.days}, page ")
        assert complaint in told.value.what, fault
        assert digests(home) == before, (fault, provider.endpoint(question))
        assert_nothing_left(home)
    account.pull(home)
    assert digests(home) == account.newer


def _chosen(things: Sequence[Any], share: str, *, one_in: int) -> Sequence[Any]:
    return things if share == "all" else things[::one_in]


def _is_optional(account: Account, question: int, refusal: Mishap) -> bool:
    """Where not to be there is an answer. Then no money and no token may be missing."""
    with account.provider.mishap(question, refusal):
        try:
            left = measured(account.parsed())
        except SourceError:
            return False
    whole = measured(account.parsed())
    moved = {what for what in whole | left if whole[what] != left[what]}
    assert not {what for what in moved if what[1] == "billed_cost" or what[1].endswith("_tokens")}
    return True


def test_passing_faults_everywhere_leave_no_trace(account, tmp_path, waits) -> None:
    """Each question goes wrong once, each in another way; the second answer counts."""
    passing = [mishap for mishap, complaint in FAULTS.values() if "2 attempts" in complaint]
    provider = account.provider
    home = account.copy(tmp_path / "home")
    for question in provider.questions:
        provider.mishaps[question] = _once(passing[question % len(passing)])
    account.pull(home)
    provider.mishaps.clear()
    assert digests(home) == account.newer
    assert_nothing_left(home)
    assert len(waits) == len(provider.questions)


def _once(mishap: Mishap) -> Mishap:
    left = [mishap]
    return lambda *asked: left.pop()(*asked) if left else Response(asked[-1])


def test_an_empty_page_that_says_there_is_more_is_no_end(account, tmp_path) -> None:
    provider = account.provider
    home = account.copy(tmp_path / "home")
    for question in provider.questions:
        provider.mishaps[question] = _empty_first
    account.pull(home)
    provider.mishaps.clear()
    assert _of_lake(digests(home)) == _of_lake(account.newer)


def _empty_first(question: int, request: Request, body: str) -> Response:
    rest = f"{REST_OF}{question}"
    if rest.encode() in request.data or rest in request.args.values():
        return Response(body)
    return Response(json.dumps(json.loads(body) | {"data": [], "rows": []} | _more(rest)))


def _of_lake(digests: Mapping[str, str]) -> Mapping[str, str]:
    return {place: digest for place, digest in digests.items() if place.startswith("lake/")}


# Every field of every answer.

GONE, RENAMED, JOINED = object(), object(), object()

CHANGES: Mapping[str, Any] = {
    "gone": GONE,
    "renamed": RENAMED,
    "a new field beside it": JOINED,
    "null": None,
    "its text": str,
    "a text": "surprise",
    "an empty text": "",
    "1 MB of text": "x" * 2**20,
    "half a character": "\ud800",
    "a zero byte": "a\0b",
    "a number": 7,
    "a negative number": -1,
    "half": 0.5,
    "10**30": 10**30,
    "1e400": "@1e400@",
    "NaN": float("nan"),
    "true": True,
    "false": False,
    "a list": [7],
    "an object": {"value": 7},
    "an empty object": {},
    "the year 9999": "9999-12-31T00:00:00Z",
    "the year 1": "0001-01-01T00:00:00Z",
    "the year 9999 in seconds": 253402214400,
    "the year 1 in seconds": -62135596800,
}
"""What becomes of a field. JSON has no 1e400 for Python, which is why it is put into the text."""


def places(answer: Any, here: Place = ()) -> Iterator[Place]:
    """Every field and every element of a list, however deep."""
    inner = (
        answer.items() if isinstance(answer, dict) else enumerate(answer) if isinstance(answer, list) else ()
    )
    for name, value in inner:
        yield (*here, name)
        yield from places(value, (*here, name))


def at(answer: Any, place: Place) -> Any:
    for name in place:
        answer = answer[name]
    return answer


def changed(body: str, place: Place, change: str) -> str | None:
    """The answer with its field changed; None where that is not to be done to such a field."""
    answer = json.loads(body)
    *folders, name = place
    folder = at(answer, folders)
    old, new = folder[name], CHANGES[change]
    if new in (GONE, RENAMED, JOINED):
        if isinstance(name, int):
            return None  # fewer results are another answer, not a broken one
        folder[f"{name}_v2"] = old
        if new is not JOINED:
            del folder[name]
        if new is GONE:
            del folder[f"{name}_v2"]
    else:
        folder[name] = new(old) if new is str else new
        if folder[name] == old and type(folder[name]) is type(old):
            return None
    return json.dumps(answer).replace('"@1e400@"', "1e400")


def kind(name: str | int, value: Any) -> str:
    """Whether a field is an amount or a list of one, which may be another tomorrow, or what else it is."""
    if isinstance(value, list) and len(value) == 1:
        return kind(name, value[0])
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return "null" if value is None else type(value).__name__
    if str(name).lower().endswith(("time", "_at", "timestamp")):
        return "instant"
    try:
        return "amount" if Decimal(str(value)).is_finite() else "no number"
    except InvalidOperation:
        return "text"


def measured(parsed: Parsed) -> Counter[tuple[Any, ...]]:
    """What there is of money and of every meter, by day."""
    sums: Counter[tuple[Any, ...]] = Counter()
    for frame in parsed.records.values():
        for row in frame.rows(named=True):
            sums[row["usage_date"], "billed_cost", row["currency"]] += row["billed_cost"] or 0
            for meter in METERS:
                sums[row["usage_date"], meter.column] += row[meter.column] or 0
            for other in row["other_meters"] or ():
                sums[row["usage_date"], other["key"]] += other["value"]
    return Counter({what: amount for what, amount in sums.items() if amount})


@pytest.fixture
def without_sockets(account, monkeypatch) -> None:
    """The same client and the same answers, for thousands of them."""
    transport = httpx.MockTransport(account.provider.without_a_socket)
    monkeypatch.setattr(httpx, "Client", partial(httpx.Client, transport=transport))


def every_change(provider: Provider) -> Iterator[tuple[int, Place, str]]:
    for question in provider.questions:
        for place in places(json.loads(provider.bodies[question])):
            for change in CHANGES:
                yield question, place, change


@SOME_AND_ALL
@pytest.mark.usefixtures("without_sockets")
def test_a_changed_field_is_refused_or_changes_no_amount(account, share) -> None:
    provider = account.provider
    whole = measured(account.parsed())
    ends: Counter[str] = Counter()
    for question, place, change in _chosen([*every_change(provider)], share, one_in=ONE_CHANGE_IN):
        body = provider.bodies[question]
        spoiled = changed(body, place, change)
        if spoiled is None:
            continue
        what = f"{provider.endpoint(question)}, {place}: {change}"
        with provider.spoiled({question: spoiled}):
            try:
                parsed = account.parsed()
            except SourceError as error:
                assert change != "a new field beside it", f"{what}: {error}"  # noqa: PT017
                assert_tells(error, account, question, place)
                ends["refused"] += 1
                continue
        ends["accepted"] += 1
        now = measured(parsed)
        moved = {key[0] for key in now | whole if now[key] != whole[key]}
        assert len(moved) <= is_another_amount(body, spoiled, place), what
    assert min(ends["refused"], ends["accepted"]) > 5, ends


def is_another_amount(body: str, spoiled: str, place: Place) -> bool:
    """A number for a number, or for none, is not a broken answer but another one, about one day; so is one
    without what may be left out.
    """
    before, after = (json.loads(text) for text in (body, spoiled))
    try:
        new = at(after, place)
    except KeyError:
        return place[-1] in LEFT_OUT and len(at(after, place[:-1])) < len(at(before, place[:-1]))
    if new is None and place[-1] in LEFT_OUT:
        return True
    return kind(place[-1], at(before, place)) in ("amount", "null") and kind(place[-1], new) == "amount"


LEFT_OUT = {"applied_credit"}
"""Fields that are left out of an answer, or null, where there is no such thing."""


@pytest.mark.usefixtures("without_sockets")
def test_a_field_renamed_in_every_answer_is_refused_or_changes_no_amount(account) -> None:
    provider = account.provider
    whole = measured(account.parsed())
    questions = defaultdict(list)
    for question in provider.questions:
        questions[provider.endpoint(question)].append(question)
    for endpoint, answered in questions.items():
        answers = {question: json.loads(provider.bodies[question]) for question in answered}
        names = {place[-1] for answer in answers.values() for place in places(answer)}
        for name in sorted(name for name in names if isinstance(name, str)):
            bodies = {question: json.dumps(renamed(answer, name)) for question, answer in answers.items()}
            with provider.spoiled(bodies):
                try:
                    now = measured(account.parsed())
                except SourceError as error:
                    assert_tells(error, account, answered[0], (name,))
                else:
                    assert now == whole, (endpoint, name)


def renamed(answer: Any, name: str) -> Any:
    """The answer with a field that has another name wherever it is."""
    if isinstance(answer, dict):
        return {f"{key}_v2" if key == name else key: renamed(value, name) for key, value in answer.items()}
    return [renamed(one, name) for one in answer] if isinstance(answer, list) else answer


@SOME_AND_ALL
@pytest.mark.usefixtures("without_sockets")
def test_a_changed_field_reaches_the_lake_as_a_whole_pull_or_not_at_all(account, tmp_path, share) -> None:
    provider = account.provider
    home = account.copy(tmp_path / "home")
    before = digests(home)
    refused = 0
    one_in = ONE_PULL_IN if share == "some" else ONE_CHANGE_IN
    for question, place, change in [*every_change(provider)][::one_in]:
        spoiled = changed(provider.bodies[question], place, change)
        if spoiled is None:
            continue
        with provider.spoiled({question: spoiled}):
            try:
                account.pull(home)
            except SourceError:
                refused += 1
                assert digests(home) == before, (place, change)
            else:
                shutil.rmtree(home)
                account.copy(home)
        assert_nothing_left(home)
    assert refused
    account.pull(home)
    assert digests(home) == account.newer
