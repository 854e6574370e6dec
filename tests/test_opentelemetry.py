"""Traces of calls to models: real ones against what was billed, and what is one call and what are several."""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Iterable
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest
from leaks import files_with

from dagster_project.days import Days
from dagster_project.errors import SourceError
from dagster_project.settings import Route
from dagster_project.sources import opentelemetry

REAL = Path(__file__).parents[2] / "shared" / "data"
DAY = Days(date(2026, 11, 21), date(2026, 11, 21))

needs_real_traces = pytest.mark.skipif(
    not REAL.exists(), reason="the real traces are not beside this checkout"
)


class Pulled:
    """What one pull yields, as a table `request` to ask; `raw` is what was written on the way."""

    def __init__(self, raw: Path, days: Days = DAY, **said: Any) -> None:
        raw.mkdir(exist_ok=True, parents=True)
        entry = opentelemetry.Entry(name="traces", type="opentelemetry", start_date=date(2026, 1, 1), **said)
        opentelemetry.fetch(entry, days, raw)
        self.engine = duckdb.connect()
        self.engine.execute("set TimeZone = 'America/New_York'")
        parsed = opentelemetry.parse(entry, days, raw, self.engine)
        self.counts = parsed.counts
        parsed.records["request"].create("request")

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        return self.engine.sql(sql).fetchall()

    def rows(self) -> list[dict[str, Any]]:
        found = self.engine.sql("from request order by record_id")
        return [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]


def value(said: Any) -> dict[str, Any]:
    """As the official exporters write it: an integer is a text."""
    if isinstance(said, list):
        return {"arrayValue": {"values": [value(one) for one in said]}}
    kind = {bool: "boolValue", int: "intValue", float: "doubleValue", str: "stringValue"}[type(said)]
    return {kind: str(said) if kind == "intValue" else said}


def attributes(said: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": value(one)} for key, one in said.items()]


NOON = 1_795_262_400_000_000_000
"""2026-11-21 12:00 UTC, in nanoseconds."""

GENAI, SDK = "opentelemetry.instrumentation.genai.openai", "com.anthropic.sdk.python"
OPENLLMETRY, OPENINFERENCE = "opentelemetry.instrumentation.openai.v1", "openinference.instrumentation.openai"

TOKENS = {"gen_ai.usage.input_tokens": 100, "gen_ai.usage.output_tokens": 10}


def span(
    name: str,
    parent: str | None = None,
    at: tuple[float, float] = (0, 1),
    scope: str = GENAI,
    resource: dict[str, Any] | None = None,
    **other: Any,
) -> dict[str, Any]:
    """A line with one span of no call; `at` is in seconds after noon."""
    said = other.pop("said", {})
    one = {
        "traceId": "T1",
        "spanId": name,
        "name": "hush",
        "kind": 3,
        "startTimeUnixNano": str(NOON + int(at[0] * 10**9)),
        "endTimeUnixNano": str(NOON + int(at[1] * 10**9)),
        "attributes": attributes(said),
        "status": {},
        **({"parentSpanId": parent} if parent else {}),
        **other,
    }
    scopes = [{"scope": {"name": scope}, "spans": [one]}]
    said_of_all = {"service.name": "assistant", **(resource or {})}
    return {"resourceSpans": [{"resource": {"attributes": attributes(said_of_all)}, "scopeSpans": scopes}]}


def call(name: str, parent: str | None = None, *, model: str = "gpt-4o", **other: Any) -> dict[str, Any]:
    said = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": model,
        **TOKENS,
        "gen_ai.input.messages": "hush",
        **other.pop("said", {}),
    }
    return span(name, parent, said={key: one for key, one in said.items() if one is not None}, **other)


def answered(name: str, answer: str, parent: str | None = None, **other: Any) -> dict[str, Any]:
    return call(name, parent, said={"gen_ai.response.id": answer, **other.pop("said", {})}, **other)


def failed(name: str, parent: str | None = None, **other: Any) -> dict[str, Any]:
    """A call that says nothing but that it failed."""
    nothing = {"error.type": "RateLimitError", **dict.fromkeys(TOKENS)}
    return call(name, parent, said=nothing, status={"code": 2, "message": "hush"}, **other)


def pulled(tmp_path: Path, *lines: dict[str, Any], **said: Any) -> Pulled:
    file = tmp_path / "traces.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return Pulled(tmp_path / "raw", path=str(file), **said)


def each(tmp_path: Path, *lines: dict[str, Any], **said: Any) -> list[dict[str, Any]]:
    """The records of `lines`, each in a trace of its own, in their order."""
    for number, line in enumerate(lines):
        moved(line, f"{number:02}")
    return pulled(tmp_path, *lines, **said).rows()


def moved(line: dict[str, Any], trace: str) -> dict[str, Any]:
    """`line` in the trace `trace`, or in one beside it, with a response id of its own."""
    for resource in line["resourceSpans"]:
        for one in resource["scopeSpans"][0]["spans"]:
            if one["traceId"] is not None:
                one["traceId"] = trace + one["traceId"].removeprefix("T1")
            for said in one["attributes"]:
                if said["key"] == "gen_ai.response.id":
                    said["value"]["stringValue"] += trace
    return line


# Real traces. Each folder holds the totals of each instrumentation, and what was billed for each call.


def oracle(folder: str) -> dict[str, Any]:
    return json.loads((REAL / folder / "oracle.json").read_text(encoding="utf-8"))


def only(folder: str, scopes: Iterable[str], target: Path) -> Path:
    """The trace file as it had been with these instrumentations alone."""
    traces = json.loads((REAL / folder / "traces.jsonl").read_text(encoding="utf-8"))
    for resource in traces["resourceSpans"]:
        resource["scopeSpans"] = [s for s in resource["scopeSpans"] if s["scope"]["name"] in scopes]
    target.write_text(json.dumps(traces) + "\n", encoding="utf-8")
    return target


SUMS: dict[str, tuple[str, ...]] = {
    "context_tokens": ("gen_ai.usage.input_tokens", "llm.token_count.prompt"),
    "output_tokens": ("gen_ai.usage.output_tokens", "llm.token_count.completion"),
    "cache_read_tokens": (
        "gen_ai.usage.cache_read.input_tokens",
        "llm.token_count.prompt_details.cache_read",
    ),
    "cache_write_5m_tokens + cache_write_1h_tokens": (
        "anthropic.usage.cache_creation.ephemeral_5m_input_tokens",
        "anthropic.usage.cache_creation.ephemeral_1h_input_tokens",
    ),
    "coalesce(cache_write_5m_tokens + cache_write_1h_tokens, 0) + cache_write_other_tokens": (
        "gen_ai.usage.cache_write.input_tokens",
        "gen_ai.usage.cache_creation.input_tokens",
        "llm.token_count.prompt_details.cache_write",
    ),
    "reasoning_tokens": (
        "gen_ai.usage.reasoning.output_tokens",
        "gen_ai.usage.reasoning_tokens",
        "llm.token_count.completion_details.reasoning",
    ),
}
"""Sums of records, and the attributes of which each is the total in the oracle."""

INSTRUMENTATIONS: list[tuple[str, dict[str, str]]] = [
    (
        "otel_genai",
        {
            "openai": "opentelemetry.instrumentation.genai.openai",
            "anthropic": "opentelemetry.instrumentation.genai.anthropic",
            "google": "opentelemetry.instrumentation.google_genai",
        },
    ),
    ("otel_genai", {"anthropic": "com.anthropic.sdk.python"}),
    (
        "otel_double",
        {
            "openai": "openinference.instrumentation.openai",
            "anthropic": "openinference.instrumentation.anthropic",
        },
    ),
    (
        "otel_double",
        {
            "openai": "opentelemetry.instrumentation.openai.v1",
            "anthropic": "opentelemetry.instrumentation.anthropic",
        },
    ),
]
"""Those that see no call of each other's, by the provider that each sees."""


@needs_real_traces
@pytest.mark.parametrize(("folder", "scopes"), INSTRUMENTATIONS)
def test_each_instrumentation_alone_is_read_to_the_token(
    tmp_path: Path, folder: str, scopes: dict[str, str]
) -> None:
    pull = Pulled(
        tmp_path / "raw", path=str(only(folder, (*scopes.values(), "app"), tmp_path / "traces.jsonl"))
    )
    totals = ", ".join(f"coalesce(sum({column}), 0)::bigint" for column in SUMS)
    failed = "count(*) filter (status <> 'ok')"
    for provider, scope in scopes.items():
        said = oracle(folder)["by_scope"][scope]
        expected = (sum(said.get(name, 0) for name in names) for names in SUMS.values())
        assert pull.ask(
            f"select count(*), {failed}, {totals} from request where provider = '{provider}'"
        ) == [(said["spans"], said.get("error_spans", 0), *expected)]
    assert (pull.counts["set_aside"], pull.counts["negative_remainders"]) == (0, 0)
    assert pull.ask("""
        select count(*) from request where input_tokens + coalesce(cache_read_tokens, 0)
          + coalesce(cache_write_5m_tokens + cache_write_1h_tokens, 0) + coalesce(cache_write_other_tokens, 0)
          + coalesce(input_audio_tokens, 0) <> context_tokens""") == [(0,)]


BILLED = ("fresh", "cr", "cw5", "cw1h", "out")
METERS = (
    "input_tokens",
    "cache_read_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "output_tokens",
)


@needs_real_traces
@pytest.mark.parametrize(
    ("folder", "further_views", "sessions", "unseen"),
    [
        ("otel_genai", 50, 0, {"input": 5896, "output": 1879}),
        ("otel_double", 161, 112, {"input": 7700, "output": 1389}),
    ],
)
def test_every_real_call_is_one_record_with_what_was_billed_and_whose_it_is(
    tmp_path: Path, folder: str, further_views: int, sessions: int, unseen: dict[str, int]
) -> None:
    """But for the tokens of streams that nobody read to their end, or asked for their usage."""
    pull = Pulled(tmp_path, path=str(REAL / folder / "traces.jsonl"))
    by_trace = {row["trace_id"]: row for row in pull.rows()}
    lines = (REAL / folder / "truth.ndjson").read_text(encoding="utf-8").splitlines()
    truth = [json.loads(line) for line in lines]
    assert len(pull.rows()) == len(by_trace) == len(truth) == oracle(folder)["client_calls"]
    missing: dict[str, int] = {"input": 0, "output": 0}
    notes = set()
    for made in truth:
        row, billed = by_trace[made["trace_id"]], dict(made["provider_usage"])
        assert (row["tags"]["team"], row["tags"]["feature"]) == (made["team"], made["feature"])
        assert (row["tags"]["service"], row["tags"]["environment"]) == ("assistant-api", "prod")
        assert (row["status"] == "ok") == made["ok"]
        billed["out"] += billed["rs"]
        for name, column in zip(BILLED, METERS, strict=True):
            if row[column] is None and billed[name]:
                missing["output" if name == "out" else "input"] += billed[name]
                notes.add(made["note"])
            else:
                assert (row[column] or 0) == billed[name], (made["note"], column)
    assert missing == unseen
    assert notes == {
        "consumer stops reading: provider bills all",
        "no include_usage: no usage anywhere",
        "upstream abort",
    }
    billed_hits = oracle(folder)["provider_billed_hits"]
    assert len([made for made in truth if made["provider_usage"]["fresh"]]) == billed_hits
    # those three streams of OpenAI's, the one of Anthropic's that broke, and four errors
    assert pull.counts["unmeasured"] == 8
    assert pull.counts["set_aside"] == further_views
    # Only OpenInference says the session. When streamed, its span is beside the better one of the SDK.
    assert pull.ask("select count(session_id) from request") == [(sessions,)]


@needs_real_traces
def test_a_gateways_real_traces_hold_its_calls_and_no_secret_leaves_them(tmp_path: Path) -> None:
    """LiteLLM's own log has 377 records: 15 are lost there, and say nothing here."""
    pull = Pulled(tmp_path, path=str(REAL / "litellm" / "litellm_otel.traces.jsonl"))
    assert pull.ask("select status, count(*) from request group by all order by all") == [
        ("error", 57),
        ("ok", 305),
    ]
    assert pull.counts["set_aside"] == 0
    assert pull.ask("select count(*), sum(reported_cost) from request where reported_cost is not null") == [
        (297, Decimal("4.977547332000"))
    ]
    models = {model for (model,) in pull.ask("select distinct model from request")}
    assert {"claude-sonnet-4-5-20250929", "us.anthropic.claude-sonnet-4-5-20250929-v1:0"} <= models
    teams = pull.ask("select distinct gateway_team, gateway_team_name from request order by all")
    assert teams == [*((f"t-{name}", name) for name in ("growth", "platform", "research")), (None, None)]
    text = (REAL / "litellm" / "litellm_otel.traces.jsonl").read_text(encoding="utf-8")
    secrets = [
        secret for secret in ("sk-", "Please answer", "@", "x-stainless", "127.0.0.1") if secret in text
    ]
    assert {"sk-", "Please answer", "x-stainless"} <= set(secrets)
    assert files_with(tmp_path, ["x-stainless", "Please answer", "sk-"]) == []


# What is one call, and what are several.

CALLS: dict[str, tuple[list[dict[str, Any]], list[str]]] = {
    "two instrumentations, one inside the other": (
        [answered("o", "r1", scope=OPENLLMETRY), answered("g", "r1", "o")],
        ["g"],
    ),
    "two side by side with the same answer": (
        [answered("o", "r1", "app", scope=OPENLLMETRY), answered("g", "r1", "app", at=(0.1, 0.9))],
        ["g"],
    ),
    "the same answer anywhere in the trace, of a gateway that knows the model by another name": (
        [answered("g", "r1", "app"), answered("l", "r1", "elsewhere", scope="litellm", model="azure/east")],
        ["g"],
    ),
    "an application, and its gateway, which begins a trace of its own": (
        [
            answered("a", "r1", "app", at=(0, 3)),
            answered("l", "r1", scope="litellm", at=(1, 2), traceId="T2", model="azure/east"),
        ],
        ["a"],
    ),
    "the same answer later, by the gateway: from its cache": (
        [
            answered("a", "r1", "app", at=(0, 3)),
            answered("l", "r1", scope="litellm", at=(4, 5), traceId="T2"),
        ],
        ["a", "l"],
    ),
    "the same answer in another trace: a cache, or a provider that repeats itself": (
        [answered("a", "r1"), answered("b", "r1", traceId="T2")],
        ["a", "b"],
    ),
    "errors without an id, one inside the other": (
        [failed("o", "app", scope=OPENINFERENCE), failed("g", "o", at=(0.1, 0.9))],
        ["g"],
    ),
    "errors without an id, side by side": (
        [failed("o", "app", scope=OPENINFERENCE), failed("g", "app", at=(0.1, 0.9))],
        ["g"],
    ),
    "one after the other, by two instrumentations: a fallback": (
        [failed("o", "app", scope=OPENINFERENCE), failed("g", "app", at=(2, 3))],
        ["g", "o"],
    ),
    "retries of one instrumentation": (
        [failed("1", "app"), failed("2", "app", at=(1, 2)), call("3", "app", at=(2, 3))],
        ["1", "2", "3"],
    ),
    "parallel calls of one instrumentation that say the same": (
        [failed("1", "app"), failed("2", "app"), failed("3", "app")],
        ["1", "2", "3"],
    ),
    "parallel calls that failed, seen by two side by side": (
        [
            failed(f"{scope[0]}{n}", "app", scope=scope, at=(n / 9, n / 9 + 1))
            for n in range(3)
            for scope in (OPENINFERENCE, SDK)
        ],
        ["c0", "c1", "c2"],
    ),
    "parallel calls of which the better instrumentation missed one": (
        [
            answered("g1", "r1", "app"),
            call("o1", "app", scope=OPENINFERENCE),
            failed("o2", "app", scope=OPENINFERENCE, at=(0.2, 2)),
        ],
        ["o1", "o2"],
    ),
    "parallel calls with different answers, each seen by another": (
        [answered("g", "r1", "app"), answered("o", "r2", "app", scope=OPENLLMETRY)],
        ["g", "o"],
    ),
    "attempts within one call of a framework": (
        [
            call("f", "app", scope="langchain", at=(0, 9)),
            failed("1", "f"),
            answered("2", "r2", "f", at=(2, 3)),
        ],
        ["1", "2"],
    ),
    "a stream left open over calls of another model": (
        [call("s", "app", at=(0, 9)), answered("o", "r2", "s", model="o4-mini", scope=OPENLLMETRY)],
        ["o", "s"],
    ),
    "a stream left open over a call of the same instrumentation": (
        [call("s", "app", at=(0, 9)), call("t", "s", at=(1, 2))],
        ["s", "t"],
    ),
    "a name, and the snapshot that answered": (
        [
            failed("o", "app", scope=OPENINFERENCE),
            call("g", "o", said={"gen_ai.response.model": "gpt-4o-2024-08-06"}),
        ],
        ["g"],
    ),
    "the same instrumentation in the application and in its gateway": (
        [call("a", "app", at=(0, 3)), call("b", "a", at=(1, 2), resource={"service.name": "gateway"})],
        ["a"],
    ),
    "and that gateway's attempts": (
        [
            call("a", "app", at=(0, 5)),
            failed("b", "a", at=(1, 2), resource={"service.name": "gateway"}),
            call("c", "a", at=(3, 4), resource={"service.name": "gateway"}),
        ],
        ["b", "c"],
    ),
    "the one that measured": (
        [answered("g", "r1", said=dict.fromkeys(TOKENS)), answered("o", "r1", "g", scope=OPENLLMETRY)],
        ["o"],
    ),
    "delivered twice": ([call("a"), call("a", at=(0, 7))], ["a"]),
    "an agent of which the calls were sampled away": (
        [call("agent", said={"gen_ai.operation.name": "invoke_agent"})],
        [],
    ),
    "an agent, its tool, and the call of each": (
        [
            call("agent", said={"gen_ai.operation.name": "invoke_agent"}),
            call("tool", "agent", said={"gen_ai.operation.name": "execute_tool"}),
            call("1", "agent"),
            call("2", "tool", at=(2, 3)),
            call("chain", said={"openinference.span.kind": "CHAIN"}),
            call("task", said={"traceloop.span.kind": "task"}),
        ],
        ["1", "2"],
    ),
    "without a name of the operation, tokens are a call where none is below": (
        [
            call("run", said={"gen_ai.operation.name": None}),
            call("step", "run", said={"gen_ai.operation.name": None}),
            span("client", "step", said={"http.request.method": "POST"}),
        ],
        ["step"],
    ),
    "parents that go round in a circle": ([call("a", "b"), span("b", "a")], ["a"]),
    "spans of something else, which may be odd": (
        [span("x", traceId=None), span("", endTimeUnixNano="0"), call("a")],
        ["a"],
    ),
}


@pytest.mark.parametrize("order", [1, -1], ids=["as told", "backwards"])
def test_what_is_one_call(tmp_path: Path, order: int) -> None:
    names = list(CALLS)
    lines = [
        moved(copy.deepcopy(line), f"{n:02}")
        for n, name in enumerate(names)
        for line in CALLS[name][0][::order]
    ]
    pull = pulled(tmp_path, *lines[::order])
    found: dict[str, list[str]] = {name: [] for name in names}
    for row in pull.rows():
        trace, _, its_span = row["record_id"].partition(":")
        found[names[int(trace[:2])]].append(its_span)
    assert {name: sorted(spans) for name, spans in found.items()} == {
        name: expected for name, (_, expected) in CALLS.items()
    }
    assert (pull.counts["set_aside"], pull.counts["redelivered"]) == (15, 1)
    assert pull.ask("select count(*) from request where latency_ms = 7000") == [(1,)]


# Whose it is.


def test_the_nearest_that_says_it_is_believed_and_then_the_resource(tmp_path: Path) -> None:
    """Whatever line or file a span is in, and on whichever side of midnight."""
    root = span(
        "root",
        scope="app",
        at=(-50_000, 50_000),
        said={"app.team": "growth", "app.feature": "chat", "X-Experiment-Id": "e1", "app.notes": "hush"},
        resource={"service.name": "web", "customer": "acme"},
    )
    middle = span("middle", "root", scope="app", said={"baggage.feature": "search", "enduser.id": "cust-1"})
    leaf = call(
        "leaf",
        "middle",
        said={"traceloop.association.properties.variant": "b", "session.id": "s-1"},
        resource={"deployment.environment.name": "prod", "service.version": "1.2", "team": "platform"},
    )
    for day, lines in (("20", [leaf]), ("21", [middle]), ("22", [root])):
        file = tmp_path / f"2026-11-{day}.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    [row] = Pulled(tmp_path / "raw", path=str(tmp_path / "{date}.jsonl")).rows()
    assert row["tags"] == {
        "variant": "b",
        "feature": "search",
        "end_user": "cust-1",
        "team": "growth",
        "experiment": "e1",
        "service": "assistant",
        "environment": "prod",
        "version": "1.2",
        "customer": "acme",
    }
    assert row["session_id"] == "s-1"


def test_whom_the_gateway_authenticated_called_though_the_applications_span_is_the_better_one(
    tmp_path: Path,
) -> None:
    authenticated = {"metadata.user_api_key_hash": "hash-1", "metadata.user_api_key_team_id": "t-growth"}
    app = answered("a", "r1", "app", at=(0, 3), said={"app.feature": "chat"})
    gateway = answered("l", "r1", scope="litellm", at=(1, 2), traceId="T2", said=authenticated)
    [row] = pulled(tmp_path, app, gateway).rows()
    assert (row["record_id"], row["gateway_key_id"], row["gateway_team"]) == ("t1:a", "hash-1", "t-growth")
    assert row["tags"] == {"feature": "chat", "service": "assistant"}


def test_only_tags_are_read_that_are_known_or_listed(tmp_path: Path) -> None:
    said = {
        "metadata": json.dumps({"team": "growth", "cost_centre": "CC-1", "prompt": "hush", "tags": ["hush"]}),
        "tag.tags": ["feature:chat", "hush", "secret:hush"],
        "langfuse.trace.metadata.projectName": "apollo",
        "acme.squad": "blue",
        "user.id": "hush@example.com",
        "customer": "sk-hush",
        "metadata.user_api_key_hash": "sk-hush",
        "llm.invocation_parameters": json.dumps({"stream": True, "tools": "hush"}),
        "http.request.header.authorization": "hush",
    }
    listed = ("acme.squad", "metadata.cost_centre")
    [row] = each(tmp_path, call("a", said=said), tag_attributes=listed, tag_aliases={"acme_squad": "team"})
    assert row["tags"] == {
        "team": "blue",
        "cost_centre": "CC-1",
        "feature": "chat",
        "project": "apollo",
        "service": "assistant",
    }
    assert row["is_streaming"] is True
    assert row["gateway_key_id"] is None
    assert files_with(tmp_path / "raw", ["hush"]) == []


# What a call says.


def test_instrumentations_of_every_generation_mean_the_same(tmp_path: Path) -> None:
    generations: list[dict[str, Any]] = [
        {
            "gen_ai.usage.cache_read.input_tokens": 30,
            "gen_ai.usage.cache_write.input_tokens": 20,
            "gen_ai.usage.reasoning.output_tokens": 4,
        },
        {
            "gen_ai.system": "OpenAI",
            "gen_ai.provider.name": None,
            "gen_ai.operation.name": None,
            "llm.request.type": "chat",
            **dict.fromkeys(TOKENS),
            "gen_ai.usage.prompt_tokens": 100,
            "gen_ai.usage.completion_tokens": 10,
            "gen_ai.usage.cache_read_input_tokens": 30,
            "gen_ai.usage.cache_creation_input_tokens": 20,
            "gen_ai.usage.reasoning_tokens": 4,
        },
        {
            "openinference.span.kind": "LLM",
            "llm.system": "openai",
            "llm.model_name": "gpt-4o",
            **dict.fromkeys(
                [*TOKENS, "gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model"]
            ),
            "llm.token_count.prompt": 100,
            "llm.token_count.completion": 10,
            "llm.token_count.prompt_details.cache_read": 30,
            "llm.token_count.prompt_details.cache_write": 20,
            "llm.token_count.completion_details.reasoning": 4,
        },
    ]
    pull = pulled(tmp_path, *(call(f"{n}", traceId=f"T{n}", said=said) for n, said in enumerate(generations)))
    columns = (
        "provider, model, operation, context_tokens, input_tokens, cache_read_tokens, "
        "cache_write_other_tokens, output_tokens, reasoning_tokens, count(*)"
    )
    assert pull.ask(f"select {columns} from request group by all") == [
        ("openai", "gpt-4o", "chat", 100, 50, 30, 20, 10, 4, 3)
    ]


def test_a_number_is_one_in_every_type_and_nothing_else_is(tmp_path: Path) -> None:
    numbers = [{"intValue": 100}, {"intValue": "100"}, {"doubleValue": 100.0}, {"stringValue": "100"}]
    others = [
        {"stringValue": "unknown"},
        {"doubleValue": 1.5},
        {"boolValue": True},
        {"stringValue": "9" * 30},
    ]
    lines = [call("a", said={"gen_ai.usage.input_tokens": 1}) for _ in (*numbers, *others)]
    for line, written in zip(lines, [*numbers, *others], strict=True):
        said = line["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["attributes"]
        next(one for one in said if one["key"] == "gen_ai.usage.input_tokens")["value"] = written
    above = call("a", said={"gen_ai.usage.cache_read.input_tokens": 101})
    pull = pulled(tmp_path, *(moved(line, f"{n:02}") for n, line in enumerate([*lines, above])))
    rows = [(row["input_tokens"], row["context_tokens"], row["output_tokens"]) for row in pull.rows()]
    assert rows == [(100, 100, 10)] * 4 + [(None, None, 10)] * 4 + [(0, 100, 10)]
    counted = ("unreadable_counts", "unmeasured", "negative_remainders")
    assert [pull.counts[name] for name in counted] == [4, 4, 1]


def test_what_an_event_says_of_a_call_is_read_where_the_span_does_not(tmp_path: Path) -> None:
    details = {"gen_ai.usage.input_tokens": 7, "gen_ai.usage.output_tokens": 8, "team": "growth"}
    event = {"name": "gen_ai.client.inference.operation.details", "attributes": attributes(details)}
    [row] = each(tmp_path, call("a", said={"gen_ai.usage.input_tokens": None}, events=[event]))
    assert (row["input_tokens"], row["output_tokens"], row["tags"]["team"]) == (7, 10, "growth")


ENDINGS: list[tuple[dict[str, Any], dict[str, Any], tuple[str, int | None]]] = [
    ({}, {}, ("ok", None)),
    ({"http.response.status_code": 200}, {"code": 1}, ("ok", 200)),
    ({}, {"code": 2}, ("error", None)),
    ({}, {"code": "STATUS_CODE_ERROR"}, ("error", None)),
    ({"error.type": "overloaded_error", "http.response.status_code": 529}, {}, ("error", 529)),
    ({"error.code": "429"}, {"code": 2}, ("error", 429)),
    ({"error.code": "server_error"}, {"code": 2}, ("error", None)),
    ({"error.type": "asyncio.exceptions.CancelledError"}, {"code": 2}, ("cancelled", None)),
    ({"http.response.status_code": 499}, {}, ("cancelled", 499)),
]


def test_how_a_call_ended(tmp_path: Path) -> None:
    rows = each(tmp_path, *(call("a", said=said, status=status) for said, status, _ in ENDINGS))
    assert [(row["status"], row["http_status"]) for row in rows] == [outcome for *_, outcome in ENDINGS]


BILLS: list[tuple[dict[str, Any], str]] = [
    ({"gen_ai.provider.name": "gcp.vertex_ai"}, "google"),
    ({"gen_ai.provider.name": "AWS.Bedrock"}, "aws"),
    ({"gen_ai.provider.name": "perplexity"}, "perplexity"),
    ({"server.address": "acme.openai.azure.com"}, "azure"),
    ({"gen_ai.openai.api_base": "https://openrouter.ai/api/v1"}, "openrouter"),
    ({"server.address": "llm.acme.internal"}, "openai"),
    ({"gen_ai.provider.name": "", "litellm.provider.model": "gemini/gemini-2.5-pro"}, "google"),
    ({"gen_ai.provider.name": "Unknown"}, "unrouted"),
]


def test_who_bills(tmp_path: Path) -> None:
    rows = each(tmp_path, *(call("a", said=said) for said, _ in BILLS))
    assert [row["provider"] for row in rows] == [provider for _, provider in BILLS]


def test_a_route_names_the_account_behind_a_host_or_a_service(tmp_path: Path) -> None:
    routes = (
        Route(provider="openai", deployment="eu.api.openai.com", account="acme-eu", api_key="key_eu"),
        Route(provider="openai", deployment="assist*", account="acme", api_key="key_assistant"),
    )
    lines = [call("a"), call("a", said={"server.address": "eu.api.openai.com"})]
    rows = each(tmp_path, *lines, routes=routes)
    assert [(row["account_id"], row["api_key_id"]) for row in rows] == [
        ("acme", "key_assistant"),
        ("acme-eu", "key_eu"),
    ]


# Files.


def test_whole_documents_and_compressed_lines_are_read(tmp_path: Path) -> None:
    lines = [json.dumps(call("a", traceId=f"T{n}")) for n in range(6)]
    both = {"resourceSpans": [packet for line in lines[:2] for packet in json.loads(line)["resourceSpans"]]}
    (tmp_path / "traces.json").write_text(json.dumps(both, indent=2), encoding="utf-8")
    (tmp_path / "traces.jsonl.gz").write_bytes(gzip.compress("\n".join(lines[2:4]).encode()))
    said = "header false, delim '\x01', quote '', escape '', compression zstd"
    zst = tmp_path / "traces.jsonl.zst"
    duckdb.execute(f"copy (select unnest(?)) to '{zst}' (format csv, {said})", [lines[4:]])
    rows = Pulled(tmp_path / "raw", path=str(tmp_path / "traces.*")).rows()
    assert [row["record_id"] for row in rows] == [f"t{n}:a" for n in range(6)]


def test_lines_without_spans_are_counted_and_a_file_of_nothing_else_is_refused(tmp_path: Path) -> None:
    metrics = {"resourceMetrics": [{"scopeMetrics": []}]}
    assert pulled(tmp_path, metrics, call("a"), {"resourceSpans": []}).counts["lines_without_spans"] == 2
    with pytest.raises(SourceError, match=r"none of the 2 records holds spans.*Name files of traces"):
        pulled(tmp_path, metrics, {"resourceLogs": []})


BROKEN: list[tuple[str | None, dict[str, Any]]] = [
    (None, {}),
    ("traceId", {"traceId": None}),
    ("spanId", {"spanId": ""}),
    ("startTimeUnixNano", {"startTimeUnixNano": "2026-11-21T12:00:00Z"}),
    ("startTimeUnixNano", {"startTimeUnixNano": "1795262400000"}),
    ("endTimeUnixNano", {"endTimeUnixNano": "0"}),
    ("usage", {"said": {"gen_ai.usage.output_tokens": -1}}),
    ("usage", {"said": {"gen_ai.usage.input_tokens": 10**13}}),
    ("cost", {"said": {"gen_ai.usage.cost": "free"}}),
    ("cost", {"said": {"gen_ai.usage.cost": -0.1}}),
]


def test_a_value_that_cannot_be_is_told_by_its_field(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="a record has no usable `cost`; its id is `a`") as error:
        pulled(tmp_path, *(call("a", **changes) for _, changes in BROKEN))
    assert error.value.where == str(tmp_path / "traces.jsonl")
    assert "hush" not in str(error.value)
    staged = duckdb.read_parquet(str(tmp_path / "raw" / "spans.parquet"))
    assert [broken for (broken,) in staged.project("broken").fetchall()] == [field for field, _ in BROKEN]
