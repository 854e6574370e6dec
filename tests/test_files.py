"""Log files: which of them belong to a day, every form they come in, and what a broken one is told as."""

from __future__ import annotations

import gzip
import json
from datetime import date
from pathlib import Path

import duckdb
import pytest

from dagster_project.days import Days
from dagster_project.errors import SourceError
from dagster_project.sources import _files, _listed

DAY = Days(date(2026, 11, 21), date(2026, 11, 21))
COLUMNS = {"n": "BIGINT", "said": "STRUCT(who VARCHAR, times BIGINT)"}


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('{"n": 1}\n', encoding="utf-8")


def found(folder: Path, pattern: str, days: Days = DAY) -> list[str]:
    files = _files.find("gateway", f"{folder}/{pattern}", days)
    return sorted(str(Path(file).relative_to(folder)) for file in files)


def read(files: dict[str, int], target: Path) -> list[int]:
    with duckdb.connect() as engine:
        _files.extract("gateway", engine, files, COLUMNS, "select n, said from logged", target)
        return [n for (n,) in engine.sql(f"select n from read_parquet('{target}') order by n").fetchall()]


def read_one(file: Path) -> list[int]:
    return read({str(file): file.stat().st_size}, file.parent / "out.parquet")


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.json", ["a.json"]),
        ("*/*.json", ["growth/b.json"]),
        ("**/*.json", ["a.json", "growth/2026/c.json", "growth/b.json"]),
        ("growth/[ab].json", ["growth/b.json"]),
        ("?.json", ["a.json"]),
    ],
)
def test_a_glob(tmp_path: Path, pattern: str, names: list[str]) -> None:
    touch(tmp_path, "a.json", "growth/b.json", "growth/2026/c.json", "growth/2026/c.txt")
    assert found(tmp_path, pattern) == names


def test_a_date_means_the_asked_days_and_one_on_each_side(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{day}/a.json" for day in Days(date(2026, 11, 18), date(2026, 11, 25))))
    assert found(tmp_path, "{date}/*.json") == [f"2026-11-{day}/a.json" for day in (20, 21, 22)]
    two_days = Days(date(2026, 11, 21), date(2026, 11, 22))
    assert found(tmp_path, "{date:%Y-%m-%d}/*.json", two_days) == [
        f"2026-11-{day}/a.json" for day in (20, 21, 22, 23)
    ]
    assert found(tmp_path, "{date:%Y-%m}-*/*.json", two_days) == [
        f"2026-11-{day}/a.json" for day in range(18, 26)
    ]


def test_a_day_without_files_is_empty_only_beside_one_that_has_some(tmp_path: Path) -> None:
    touch(tmp_path, "2026-11-20/a.json")
    assert found(tmp_path, "{date}/*.json") == ["2026-11-20/a.json"]
    with pytest.raises(
        SourceError, match=r"no file matches .*2026-11-22/\*\.json \.\. .*2026-11-24/\*\.json"
    ):
        found(tmp_path, "{date}/*.json", Days(date(2026, 11, 23), date(2026, 11, 23)))


def test_every_form_of_file(tmp_path: Path) -> None:
    lines = '{"n": 1}\n\n{"n": 2, "unread": {"deep": []}}\n'
    (tmp_path / "lines.ndjson").write_text(lines, encoding="utf-8")
    (tmp_path / "unended.log").write_text(lines.rstrip(), encoding="utf-8")
    (tmp_path / "array.json").write_text('[{"n": 1},\n{"n": 2}]', encoding="utf-8")
    (tmp_path / "array of lines.json").write_text('[\n{"n": 1},\n{"n": 2}\n]\n', encoding="utf-8")
    (tmp_path / "closed on its last line.json").write_text(
        '[{"n": 1}, {\n"n": 2, "unread":\n{"deep": []}}]', encoding="utf-8"
    )
    (tmp_path / "closed after a member.json").write_text(
        '{"n":\n1}\n{"unread": 0,\n"n": 2}', encoding="utf-8"
    )
    (tmp_path / "indented.json").write_text('{\n  "n": 1\n}\n{\n  "n": 2\n}', encoding="utf-8")
    (tmp_path / "lines.ndjson.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "array.json.gz").write_bytes(gzip.compress(b'[{"n": 1}, {"n": 2}]'))
    (tmp_path / "with a byte order mark.json").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    (tmp_path / "it's [odd] *.json").write_text(lines, encoding="utf-8")
    with duckdb.connect() as engine:
        values = "select unnest([1, 2]) as n"
        engine.execute(f"copy ({values}) to '{tmp_path}/lines.json.zst' (format json, compression zstd)")
    files = _files.find("gateway", f"{tmp_path}/*.*", DAY)
    assert len(files) == 12
    for file in files:
        assert read_one(Path(file)) == [1, 2], file
    assert read(files, tmp_path / "all.parquet") == [1] * 12 + [2] * 12


def test_an_empty_file_holds_nothing(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.touch()
    assert read_one(file) == []


def test_a_record_far_above_the_usual_size(tmp_path: Path) -> None:
    file = tmp_path / "a.ndjson"
    record = {"image": "x" * (2 * _files.USUAL_RECORD), "n": 2}
    file.write_text('{"n": 1}\n' + json.dumps(record) + '\n{"n": 3}\n', encoding="utf-8")
    assert read_one(file) == [1, 2, 3]


GOOD = b'{"n": 1, "said": {"times": 1}}\n'


@pytest.mark.parametrize(
    ("name", "content", "place", "what"),
    [
        ("a.ndjson", GOOD * 2 + b'{"n" secret}\n' + GOOD, "a.ndjson:3 (line 3)", "not JSON"),
        ("a.ndjson", b'{"n" secret}\n' + GOOD, "a.ndjson:1 (record 1)", "not JSON"),
        ("a.ndjson", GOOD + b'{"n": 2, "secret', "a.ndjson:2 (line 2)", "not JSON"),
        ("a.ndjson", GOOD + b'{"n": 2, "said": "secret"}\n', "a.ndjson:2 (line 2)", "unexpected type"),
        ("a.ndjson", GOOD + b'{"n": 2, "said": {"times": "secret"}}\n', "a.ndjson:2 (line 2)", "unexpected"),
        ("a.ndjson", GOOD + b'"secret"\n', "a.ndjson:2 (line 2)", "unexpected type"),
        ("a.ndjson", GOOD + b'{"secret": "\xff"}\n', "a.ndjson:2 (line 2)", "not JSON"),
        ("a.json", b'[{"n": 1}, {"n": "secret"}]', "a.json:2 (record 2)", "unexpected type"),
        ("a.json", '{"secret": 1}'.encode("utf-16"), "a.json:1 (record 1)", "not JSON"),
        ("a.json", gzip.compress(GOOD, mtime=0), "a.json:1 (record 1)", "not JSON"),
        ("a.json.gz", gzip.compress(GOOD * 9999, mtime=0)[:-20], "a.json.gz", "cannot be read to its end"),
        ("a.json.gz", GOOD, "a.json.gz", "cannot be read to its end"),
        (
            "a.ndjson",
            GOOD * 300_000 + b'{"n": "secret"}\n' + GOOD,
            "a.ndjson:300001 (line 300001)",
            "unexpected",
        ),
    ],
)
def test_a_broken_file_is_told_by_its_place_and_never_quoted(
    tmp_path: Path, name: str, content: bytes, place: str, what: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError) as error:
        read_one(tmp_path / name)
    assert error.value.where == str(tmp_path / place)
    assert what in error.value.what
    assert "secret" not in str(error.value)


def test_a_file_that_went_away_after_it_was_listed(tmp_path: Path) -> None:
    touch(tmp_path, "a.json")
    files = _files.find("gateway", f"{tmp_path}/*.json", DAY)
    (tmp_path / "a.json").unlink()
    with pytest.raises(SourceError, match=r"a\.json: the file cannot be read to its end: it is gone"):
        read(files, tmp_path / "out.parquet")


def test_a_file_in_pieces_is_read_once_whichever_threads_of_the_engine_ask(tmp_path: Path) -> None:
    """The engine's threads are none of Python's, and one may read on where another call of it has ended."""
    line = b'{"n": 1, "text": "' + b"x" * 300 + b'"}\n'
    reads: list[int] = []

    class Counted(_listed.Listed):
        def open(self, path: str, mode: str = "rb", **_: object) -> _listed.Pieces:
            def read(start: int, end: int) -> bytes:
                reads.append(start)
                return (line * 20)[start:end]

            return _listed.Pieces(20 * len(line), read)

    for threads in (1, 2, 4):
        with duckdb.connect(config={"preserve_insertion_order": False, "threads": threads}) as engine:
            engine.register_filesystem(Counted("counted", {"counted://a": 20 * len(line)}))
            query = "select n, count(*) over () from read_json('counted://a', columns = {n: 'BIGINT'})"
            engine.execute(f"copy ({query}) to '{tmp_path}/out.parquet'")
            assert engine.sql(f"select count(*) from '{tmp_path}/out.parquet'").fetchall() == [(20,)]
    assert len(reads) < 50
