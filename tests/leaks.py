"""Whether a text is anywhere in a folder: in the bytes of its files, and in what those that pack it hold."""

from __future__ import annotations

import gzip
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path

import duckdb


def files_with(folder: Path, texts: Sequence[str]) -> list[str]:
    """Those of the folder's files, at any depth, that hold one of the texts (ASCII)."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    return [str(file.relative_to(folder)) for file in files if _holds(file, texts)]


def _holds(file: Path, texts: Sequence[str]) -> bool:
    data = file.read_bytes()
    if any(text.encode() in data for text in texts):
        return True
    return any(text in said for said in _unpacked(file) for text in texts)


def _unpacked(file: Path) -> Iterator[str]:
    match file.suffix:
        case ".gz":
            yield gzip.decompress(file.read_bytes()).decode()
        case ".parquet":
            yield from _rows(duckdb.connect(), f"read_parquet('{file}')")
        case ".zst":
            lines = "header = false, delim = '\x01', quote = '', escape = '', compression = 'zstd'"
            yield from _rows(duckdb.connect(), f"read_csv('{file}', columns = {{'l': 'VARCHAR'}}, {lines})")
        case ".duckdb":
            with duckdb.connect(str(file), read_only=True) as engine:
                tables = engine.execute(
                    'select format(\'"{}"."{}"\', table_schema, table_name) '
                    "from information_schema.tables where table_type = 'BASE TABLE'"
                ).fetchall()
                for (table,) in tables:
                    yield from _rows(engine, table)
        case ".db":
            with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
                for (table,) in database.execute(
                    "select name from sqlite_master where type = 'table'"
                ).fetchall():
                    for row in database.execute(f'select * from "{table}"'):
                        yield from map(_text, row)


def _text(value: object) -> str:
    """A value of Dagster's records, which packs some."""
    if not isinstance(value, bytes):
        return str(value)
    with suppress(zlib.error):
        value = zlib.decompress(value)
    return value.decode(errors="replace")


def _rows(engine: duckdb.DuckDBPyConnection, table: str) -> Iterator[str]:
    for (row,) in engine.execute(f"select said::varchar from {table} as said").fetchall():
        yield row
