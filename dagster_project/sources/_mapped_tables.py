"""Tables that a map describes, in files or in a database: what `mapped` and some gateways share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import duckdb

from dagster_project.days import Days
from dagster_project.records import METERS, Kind
from dagster_project.sources import Parsed, _databases, _exports, _files, _mapped_rows, _postgres, _tables
from dagster_project.sources._map import Map
from dagster_project.sources._mapped_rows import AS_LOGGED, Shape
from dagster_project.sources._request_log import FilesEntry, LogEntry

FILES = "as files (local, `s3://`, `gs://`, `az://`; JSON, NDJSON, CSV, Parquet, gz, zst)"
"""What a `path` may be, in Markdown."""


_USED = (*(meter.column for meter in METERS), "reasoning_tokens", "context_tokens", "reported_cost")
"""What rows of a usage report add up."""


def fetch(
    entry: LogEntry | FilesEntry,
    map_: Map,
    table: str | None,
    days: Days,
    raw: Path,
    shape: Shape = AS_LOGGED,
    rows_query: Callable[[_postgres.Table, Days], str] | None = None,
) -> None:
    """Of files only the list; of the `table` in the entry's database the mapped columns of its rows, of those
    days where instants can be compared with them, else of all. Another query, of one JSON text per row, is
    `rows_query`: in PostgreSQL only.

    Raises SourceError when there is no file, or the table cannot be read.
    """
    if isinstance(entry, FilesEntry) or entry.database_url is None or table is None:
        _files.write_manifest(_files.find(entry.name, entry.path or "", days), raw)
        return
    rows = raw / "rows.ndjson.gz"
    open_table = _postgres.table if rows_query else _databases.table
    with open_table(entry.name, entry.database_url.value(entry.name), table) as opened:
        _databases.require(entry.name, opened, _mapped_rows.columns_required(map_, shape))
        query = rows_query(opened, days) if rows_query else _rows_query(map_, shape, opened, days)
        opened.write_lines(query, rows)
    _files.write_manifest({str(rows): rows.stat().st_size}, raw)


def _rows_query(map_: Map, shape: Shape, table: _databases.Table, days: Days) -> str:
    read = [name for name in _mapped_rows.columns_read(map_, shape) if name in table.columns]
    ends = _ends(map_, shape, table)
    near = days.widened(1)  # in whatever zone a time without one is
    if "latency_ms" in map_.columns and not {*ends}.isdisjoint(_instants(map_, "started_at")):
        near = Days(near.first - timedelta(milliseconds=_mapped_rows.LONGEST_MS), near.last)
    return table.rows(read, ends, near)


def _ends(map_: Map, shape: Shape, table: _databases.Table) -> list[str]:
    """The table's columns of when a call ended, else began, the first to speak first: as far as they can be
    compared with a day, because after one that cannot nothing is sure."""
    comparable = table.comparable(are_iso=map_.time.format == "iso")
    there = {*table.columns, *shape.makes}
    ends: list[str] = []
    for column in (*_instants(map_, "ended_at"), *_instants(map_, "started_at")):
        if column in comparable:
            ends.append(column)
        elif not there.isdisjoint({column, column.partition(".")[0]}):
            break
    return ends


def _instants(map_: Map, name: str) -> Sequence[str]:
    return (map_.columns[name].column or ()) if name in map_.columns else ()


def parse(
    entry: LogEntry | FilesEntry,
    map_: Map,
    kind: Kind,
    days: Days,
    raw: Path,
    connection: duckdb.DuckDBPyConnection,
    shape: Shape = AS_LOGGED,
) -> Parsed:
    """Records of that kind; rows that are none are `problems`.

    Raises SourceError naming file and line of what is no row, and a column that the table does not have.
    """
    connection.execute("set TimeZone = 'UTC'")
    files = _files.read_manifest(raw)
    staged = raw / "rows.parquet"
    _tables.extract(
        entry.name,
        connection,
        files,
        _mapped_rows.columns_read(map_, shape),
        _mapped_rows.columns_required(map_, shape),
        _mapped_rows.projection(map_, kind, entry.name, entry.routes, entry.tag_aliases, shape),
        staged,
    )
    logged = connection.read_parquet(str(staged))
    rows = logged.filter("not is_skipped")
    usable = rows.filter("problems = []")
    match kind:
        case "request":
            records = _files.completed(usable)
        case "usage":
            records = _exports.summed(entry, "usage", usable, _USED)
        case "charge":
            records = _exports.charges(entry, usable)
    counted = {
        "negative_remainders": "is_negative_remainder and not is_skipped",
        **{name: f"counted_{name} and not is_skipped" for name in shape.counts},
        **({"skipped_rows": "is_skipped"} if shape.skips != "false" else {}),
    }
    problems = _mapped_rows.problems(rows)
    never_said = _mapped_rows.never_said(rows, map_, shape)
    unsaid = {}
    if shape.requires is None:  # what a small log does not say may be optional: nobody but its owner knows
        unsaid = {f"rows, none of which has `{name}`": rows.shape[0] for name in never_said}
    else:
        problems += [f"no row has a `{name}`: is this the log that was meant?" for name in never_said]
    told = ", ".join(f"count(*) filter ({sql})" for sql in counted.values())
    return Parsed(
        {kind: records},
        dict(zip(counted, logged.aggregate(told).fetchall()[0], strict=True)) | unsaid,
        _files.days_without_files(entry.path, days, files) if entry.path else (),
        problems=problems,
    )
