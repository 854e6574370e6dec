"""Tables in SQLite: what values become, which rows are read, what is told of a file that cannot be read."""

from __future__ import annotations

import gzip
import json
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pytest
from conftest import digests
from leaks import files_with

from dagster_project.days import Days
from dagster_project.errors import SourceError
from dagster_project.ingest import ingest
from dagster_project.lake import Lake
from dagster_project.sources import Source, _databases, _sqlite, mapped, modules

DAY = Days(date(2026, 10, 1), date(2026, 10, 1))
HUSH = "a prompt that nobody may read"


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place of the file, whose name has to be encoded in a URL."""
    path = tmp_path / "50% of #1?.db"
    monkeypatch.setenv("HOUSE_DATABASE", url(path))
    return path


def url(path: Path) -> str:
    return path.as_uri().replace("file:", "sqlite:")


@contextmanager
def writer(path: Path) -> Iterator[sqlite3.Connection]:
    """The gateway's own connection."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def write(path: Path, statements: str) -> None:
    with writer(path) as connection:
        connection.executescript(statements)


def entry(**said: Any) -> mapped.Entry:
    fields = {
        "name": "house",
        "type": "mapped",
        "start_date": DAY.first,
        "database_url": "${HOUSE_DATABASE}",
        "table": "calls",
        "columns": {"record_id": "id", "started_at": "ts", "provider": {"value": "openai"}},
    }
    return mapped.Entry.model_validate(fields | said)


def fetched(raw: Path, **said: Any) -> list[dict[str, Any]]:
    """The rows as they are written for the engine."""
    raw.mkdir(exist_ok=True)
    mapped.fetch(entry(**said), DAY, raw)
    with gzip.open(raw / "rows.ndjson.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def refused(raw: Path, **said: Any) -> str:
    with pytest.raises(SourceError) as told:
        fetched(raw, **said)
    assert told.value.__suppress_context__ or told.value.__context__ is None
    return str(told.value)


# --- Values


def test_a_table_becomes_records(tmp_path: Path, database: Path) -> None:
    write(
        database,
        f"""create table calls (id integer primary key, "When" datetime, vendor, tokens, usage, cost real,
          labels, half as (tokens / 2), prompt);
        insert into calls values
          (9223372036854775807, '2026-10-01 01:00', 'openai', 100, '{{"cached": 40}}', 0.1 + 0.2,
            '["team:growth","beta"]', '{HUSH}'),
          (2, '2026-10-01T12:00:00.5+02:00', 'It''s "X"' || char(10), '7', null, 12, '', '{HUSH}'),
          (3, '2026-09-20 01:00', 'openai', 7, null, null, null, '{HUSH}');""",
    )
    one = entry(
        parts="inside",
        time={"zone": "Europe/Paris"},
        columns={
            "record_id": "id",
            "started_at": "When",
            "provider": "vendor",
            "input_tokens": "tokens",
            "cache_read_tokens": "usage.cached",
            "output_tokens": "half",
            "reported_cost": "cost",
        },
        tags={"maps": ["labels"]},
    )
    mapped.fetch(one, DAY, tmp_path)
    with duckdb.connect() as engine:
        rows = mapped.parse(one, DAY, tmp_path, engine).records["request"].order("started_at")
        said = rows.project(
            "record_id, started_at::varchar, provider, input_tokens, cache_read_tokens, output_tokens, "
            "reported_cost::varchar, tags"
        ).fetchall()
    tags = {"team": "growth", "beta": "true"}
    assert said == [
        ("9223372036854775807", "2026-09-30 23:00:00", "openai", 60, 40, 50, "0.300000000000", tags),
        ("2", "2026-10-01 10:00:00.5", 'it\'s "x"\n', 7, None, 3, "12.000000000000", {}),
    ]
    assert files_with(tmp_path / "rows.ndjson.gz", [HUSH]) == []


def test_a_real_keeps_every_digit(tmp_path: Path, database: Path) -> None:
    chance = random.Random(1)
    reals = [0.1, 0.1 + 0.2, 38492124.243272796, 2**53 + 2.0, 5e-324, -1e300]
    reals += [chance.random() * 10 ** chance.randint(-12, 16) for _ in range(2000)]
    write(database, "create table calls (id integer primary key, ts, cost)")
    with writer(database) as connection:
        connection.execute("begin")
        connection.executemany("insert into calls (cost) values (?)", [(real,) for real in reals])
        connection.execute("insert into calls (cost) values (9e999)")
        connection.execute("commit")
    columns = entry().columns | {"reported_cost": {"column": "cost"}}
    costs = [row["cost"] for row in fetched(tmp_path / "raw", columns=columns)]
    assert costs == [*reals, "Infinity"]


def test_a_view_can_say_what_a_table_does_not(tmp_path: Path, database: Path) -> None:
    write(
        database,
        """create table logged (id blob, ts);
        insert into logged values (x'00ff', '2026-10-01');
        create view calls as select hex(id) as id, ts from logged;""",
    )
    assert fetched(tmp_path / "raw") == [{"id": "00FF", "ts": "2026-10-01"}]
    told = refused(tmp_path / "raw", table="logged")
    assert f"table logged of {database}: JSON cannot hold BLOB values" in told
    assert "a view can make a text" in told


# --- Which rows


@pytest.mark.parametrize(
    ("ts", "is_read"),
    [
        ("'2026-09-28 23:59:59'", False),
        ("'2026-09-30 23:59:59'", True),
        ("'2026-09-29T23:00:00-11:00'", True),
        ("'2026-10-03T01:00:00+14:00'", True),
        ("'2026-10-01'", True),
        ("'2026-10-04 00:00:00'", False),
        ("1790812800", True),
        ("1790812800.5", True),
        ("'01/10/2026'", True),
        ("' 2026-09-01'", True),
        ("''", True),
        ("null", True),
        ("'0001-01-01 00:00:00'", True),
        ("'1970-01-01 00:00:00'", True),
        ("'2026-15-10 10:00'", True),
        ("'2026-02-31'", True),
        ("'2026-09-01T10:00:00 CEST'", False),
    ],
)
def test_only_rows_that_surely_are_of_other_days_are_left_out(
    tmp_path: Path, database: Path, ts: str, is_read: bool
) -> None:
    write(database, f"create table calls (id, ts); insert into calls values ('a', {ts});")
    assert bool(fetched(tmp_path / "raw")) == is_read


def test_a_call_is_of_the_day_in_which_it_ended(tmp_path: Path, database: Path) -> None:
    write(
        database,
        """create table calls (id, ts, done);
        insert into calls values ('long', '2026-09-20', '2026-10-01'), ('runs', '2026-10-01', null),
          ('old', '2026-09-20', '2026-09-21');""",
    )
    columns = entry().columns | {"ended_at": {"column": "done"}}
    assert [row["id"] for row in fetched(tmp_path / "raw", columns=columns)] == ["long", "runs"]


def test_a_call_may_have_taken_days(tmp_path: Path, database: Path) -> None:
    """Its day is that of start and latency; and an end that lies within JSON may be of any day."""
    write(
        database,
        """create table calls (id, ts, ms, meta);
        insert into calls values ('batch', '2026-09-26', 5 * 86400000, '{"end": "2026-10-01"}'),
          ('old', '2026-09-20', 1, '{"end": "2026-10-01"}');""",
    )
    lasting = entry().columns | {"latency_ms": {"column": "ms"}}
    assert [row["id"] for row in fetched(tmp_path / "raw", columns=lasting)] == ["batch"]
    within = entry().columns | {"ended_at": {"column": "meta.end"}}
    assert [row["id"] for row in fetched(tmp_path / "raw", columns=within)] == ["batch", "old"]


def test_in_another_format_of_time_all_rows_are_read(tmp_path: Path, database: Path) -> None:
    write(database, "create table calls (id, ts); insert into calls values ('a', '2026-01-10');")
    assert len(fetched(tmp_path / "raw", time={"format": "%Y-%d-%m"})) == 1


# --- A file that others write to, or damage


def test_rows_that_are_written_meanwhile_are_for_the_next_pull(tmp_path: Path, database: Path) -> None:
    with writer(database) as gateway:
        gateway.execute("pragma journal_mode = wal")
        gateway.execute("create table calls (id, ts)")
        gateway.execute("insert into calls values ('a', '2026-10-01')")
        with _databases.table("house", url(database), "calls") as opened:
            gateway.execute("insert into calls values ('b', '2026-10-01')")
            opened.write_lines(opened.rows(["id"], [], DAY), tmp_path / "rows.gz")
        assert gzip.decompress((tmp_path / "rows.gz").read_bytes()) == b'{"id":"a"}\n'
        assert [row["id"] for row in fetched(tmp_path / "raw")] == ["a", "b"]


def test_a_file_in_wal_mode_that_nobody_has_open_is_refused(tmp_path: Path, database: Path) -> None:
    """What lies beside it may be in another folder, and files that a reader makes the gateway may not own."""
    write(database, "pragma journal_mode = wal; create table calls (id, ts);")
    linked = tmp_path / "elsewhere" / database.name
    linked.parent.mkdir()
    linked.hardlink_to(database)
    with writer(database) as gateway:
        gateway.execute("insert into calls values ('a', '2026-10-01')")
        assert len(fetched(tmp_path / "raw")) == 1
        with (
            pytest.raises(SourceError, match="in WAL mode, and nobody has it open here"),
            _databases.table("house", url(linked), "calls"),
        ):
            pass
    assert "nobody has it open here" in refused(tmp_path / "raw")
    assert [file.name for file in linked.parent.iterdir()] == [linked.name]


def test_nothing_is_written_to_the_database(tmp_path: Path, database: Path) -> None:
    write(database, "create table calls (id, ts); insert into calls values ('a', '2026-10-01');")
    before = database.read_bytes()
    fetched(tmp_path / "raw")
    assert database.read_bytes() == before
    with (
        _databases.table("house", url(database), "calls") as opened,
        pytest.raises(SourceError, match="readonly database"),
    ):
        opened.write_lines("delete from calls returning id", tmp_path / "rows.gz")


def test_a_database_that_stays_locked(
    tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sqlite, "BUSY_SECONDS", 0.01)
    write(database, "create table calls (id, ts)")
    with writer(database) as gateway:
        gateway.execute("begin exclusive")
        assert f"table calls of {database}: database is locked" in refused(tmp_path / "raw")


def test_a_file_that_is_damaged_in_the_middle(tmp_path: Path, database: Path) -> None:
    rows = ", ".join(f"('r{n}', '2026-10-01', '{HUSH * 20}')" for n in range(1000))
    write(database, f"create table calls (id, ts, prompt); insert into calls values {rows};")
    whole = database.read_bytes()
    source, lake = Source(entry(), mapped), Lake(tmp_path / "home")
    assert ingest(source, DAY, lake, (), DAY.end).rows("request") == 1000
    before = digests(tmp_path / "home")

    half = len(whole) // 2
    database.write_bytes(whole[:half] + bytes(len(whole) - half))
    with pytest.raises(SourceError, match="database disk image is malformed"):
        ingest(source, DAY, lake, (), DAY.end)
    database.unlink()
    with pytest.raises(SourceError, match="unable to open database file"):
        ingest(source, DAY, lake, (), DAY.end)
    assert not database.exists()
    database.write_bytes(whole)
    assert ingest(source, DAY, lake, (), DAY.end).rows("request") == 1000
    assert digests(tmp_path / "home") == before


def test_a_text_that_is_none_is_not_quoted(tmp_path: Path, database: Path) -> None:
    write(
        database,
        f"""create table calls (id, ts);
        insert into calls values (cast('{HUSH}' || x'ff' as text), '2026-10-01');""",
    )
    told = refused(tmp_path / "raw")
    assert f"table calls of {database}: a row has a text that is no UTF-8" in told
    assert HUSH not in told


# --- What is no such table


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no database, but long enough for one" * 100, "file is not a database"),
        (b"", "there is no such table"),
    ],
    ids=["another file", "an empty file"],
)
def test_a_file_that_is_no_database(tmp_path: Path, database: Path, content: bytes, said: str) -> None:
    database.write_bytes(content)
    assert f"table calls of {database}: {said}" in refused(tmp_path / "raw")


def test_what_the_database_lacks_is_named(tmp_path: Path, database: Path) -> None:
    write(database, "create table calls (id, at); create table other (id);")
    assert "there is no column ts. Is this the table that was meant? It has at, id." in refused(
        tmp_path / "r"
    )
    assert "table others of " in refused(tmp_path / "r", table="others")


@pytest.mark.parametrize("slashes", [3, 4])
def test_three_slashes_or_four_are_before_an_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slashes: int
) -> None:
    write(tmp_path / "logs.db", "create table calls (id, ts)")
    (tmp_path / "link.db").symlink_to("logs.db")
    monkeypatch.setenv("HOUSE_DATABASE", f"sqlite:{'/' * (slashes - 1)}{tmp_path}/link.db")
    assert fetched(tmp_path / "raw") == []


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("sqlite:SECRET.db", "no SQLite address"),
        ("sqlite://user:SECRET@host/logs.db", "no SQLite address"),
        ("sqlite:///logs.db?key=SECRET", "no SQLite address"),
        ("sqlite://", "no SQLite address"),
        ("SECRET", "the address of no database that can be read"),
        ("mysql://user:SECRET@host/logs", "the address of no database that can be read"),
    ],
)
def test_an_address_of_something_else_is_refused_without_quoting_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, said: str
) -> None:
    monkeypatch.setenv("HOUSE_DATABASE", address)
    told = refused(tmp_path / "raw")
    assert said in told
    assert "SECRET" not in told


@pytest.mark.parametrize("module", ["litellm", "majordomo", "tensorzero"])
def test_gateways_that_have_postgresql_alone_say_so(module: str, tmp_path: Path, database: Path) -> None:
    fields = {"name": "house", "type": module, "start_date": DAY.first, "database_url": "${HOUSE_DATABASE}"}
    gateway = modules()[module]
    with pytest.raises(SourceError, match="`database_url` is no PostgreSQL address"):
        gateway.fetch(gateway.Entry.model_validate(fields), DAY, tmp_path)
