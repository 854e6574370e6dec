"""Bedrock's model invocation logs, in the folders that it delivers them to."""

from __future__ import annotations

import gzip
import json
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pytest

from dagster_project.days import Days
from dagster_project.errors import SourceError
from dagster_project.sources import Parsed, bedrock_logs

DAY = date(2026, 10, 16)
BUCKET = "AWSLogs/111122223333/BedrockModelInvocationLogs/us-east-1"


def record(number: int = 1, **changes: Any) -> dict[str, Any]:
    return {
        "schemaType": "ModelInvocationLog",
        "timestamp": "2026-10-16T10:00:00Z",
        "accountId": "111122223333",
        "identity": {"arn": "arn:aws:iam::111122223333:user/alice"},
        "region": "us-east-1",
        "requestId": f"915a6a04-{number:04}",
        "operation": "Converse",
        "modelId": "amazon.nova-pro-v1:0",
        "input": {"inputTokenCount": 100, "inputBodyJson": {"messages": ["hush"]}},
        "output": {"outputTokenCount": 10, "outputBodyJson": {"output": "hush"}},
        "status": "200",
        **changes,
    }


def write(folder: Path, name: str, *records: dict[str, Any]) -> None:
    file = folder / BUCKET / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress("".join(json.dumps(one) + "\n" for one in records).encode()))


def pulled(folder: Path, engine: duckdb.DuckDBPyConnection, days: Days | None = None) -> Parsed:
    path = f"{folder}/AWSLogs/*/BedrockModelInvocationLogs/*/{{date:%Y/%m/%d}}/*/*.json.gz"
    entry = bedrock_logs.Entry(name="bedrock", type="bedrock_logs", start_date=date(2026, 1, 1), path=path)
    days = days or Days(DAY, DAY)
    raw = folder / "raw"
    raw.mkdir()
    bedrock_logs.fetch(entry, days, raw)
    return bedrock_logs.parse(entry, days, raw, engine)


def test_the_records_of_a_day_and_none_of_their_texts(tmp_path: Path) -> None:
    write(tmp_path, "2026/10/16/10/20261016T100000000Z_1.json.gz", record(1), record(2))
    write(tmp_path, "2026/10/16/23/20261016T230000000Z_2.json.gz", record(3), record(3))
    write(tmp_path, "2026/10/17/00/20261017T000000000Z_3.json.gz", record(4))
    write(tmp_path, "2026/10/18/00/20261018T000000000Z_4.json.gz", record(5))
    write(tmp_path, "2026/10/16/10/data/915a6a04-0001_input.json.gz", {"messages": ["hush"]})
    write(tmp_path, "amazon-bedrock-logs-permission-check")
    with duckdb.connect() as engine:
        engine.execute("set TimeZone = 'America/New_York'")
        parsed = pulled(tmp_path, engine, Days(DAY, date(2026, 10, 17)))
        requests = parsed.records["request"]
        asked = "account_id, api_key_id, usage_date, input_tokens, right(record_id, 1)"
        row = ("111122223333", "no_key", DAY, 100)
        assert requests.project(asked).order("5").fetchall() == [(*row, n) for n in "123345"]
    assert parsed.days_without_files == set()
    assert parsed.counts == {"not_invocations": 0, "unmeasured": 0, "cached_inside_input": 0}
    kept = b"".join(file.read_bytes() for file in (tmp_path / "raw").iterdir())
    assert b"915a6a04" in kept
    assert b"hush" not in kept


UNUSABLE = [
    {"timestamp": None},
    {"timestamp": 1795231111000},
    {"accountId": None},
    {"modelId": ""},
    {"status": "fine"},
    {"input": {"inputTokenCount": -1}},
    {"input": {"cacheReadInputTokenCount": 10**13}},
    {"input": {"cacheWriteInputTokenCount": -1}},
    {"output": {"outputTokenCount": 10**13}},
]


def test_a_value_that_cannot_be_is_told_by_its_field(tmp_path: Path) -> None:
    records = [record(number, **changes) for number, changes in enumerate(UNUSABLE)]
    write(tmp_path, "2026/10/16/10/1.json.gz", record(99), *records)
    with duckdb.connect() as engine:
        with pytest.raises(SourceError, match=r"1\.json\.gz: .* no usable `accountId`; its id is `.*-0002`"):
            pulled(tmp_path, engine)
        staged = engine.read_parquet(f"{tmp_path}/raw/requests.parquet").project("broken").fetchall()
    fields = (next(iter(one)) for changes in UNUSABLE for one in [_innermost(changes)])
    assert [field for [field] in staged] == [None, *fields]


def _innermost(changes: dict[str, Any]) -> dict[str, Any]:
    [value] = changes.values()
    return value if isinstance(value, dict) else changes


def test_a_log_of_something_else_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "2026/10/16/10/1.json.gz", {"messages": ["hush"]})
    with duckdb.connect() as engine, pytest.raises(SourceError, match="none of the 1 records has an id"):
        pulled(tmp_path, engine)
