"""What the logs of gateways have in common: files or a table, names beside it, and records that are none."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import duckdb
from pydantic import AfterValidator, model_validator

from dagster_project.days import Days
from dagster_project.errors import SourceError
from dagster_project.settings import GatewayEntry, SecretReference, Text
from dagster_project.sources import Name, NamedKind, Parsed, _databases, _files, _listed, _postgres
from dagster_project.sources._sql import CENTURY

FILES = "as files (local, `s3://`, `gs://`, `az://`; JSON, NDJSON, gz, zst)"
"""What a `path` may be, in Markdown."""

LARGEST = 10**12
"""Tokens or USD of a record: what is above is no count, or in another unit. A batch is one record."""

LOGGED = (f"timestamp '{CENTURY[0]}'", f"timestamp '{CENTURY[1]}'")
"""SQL of the instants between which requests were made."""

_PLAIN_ID = re.compile(r"[\w.:-]{1,100}")
"""Ids are the gateway's or the caller's: what is no plain one is not quoted."""


class LogEntry(GatewayEntry):
    """A gateway: exactly one of the two says where its log is."""

    path: Annotated[Text, AfterValidator(_files.check)] | None = None
    """A glob of NDJSON, JSON or JSON-array files, `.gz` and `.zst` too, on disk or in an object store;
    `{date:%Y-%m-%d}` where a folder or file is named for its day."""
    database_url: SecretReference | None = None

    @model_validator(mode="after")
    def _one_place(self) -> LogEntry:
        if (self.path is None) == (self.database_url is None):
            raise ValueError("give either `path` or `database_url`")
        return self


class FilesEntry(GatewayEntry):
    """A gateway whose log is in files only."""

    path: Annotated[Text, AfterValidator(_files.check)]
    """As that of a LogEntry."""
    database_url: ClassVar[None] = None


@dataclass(frozen=True)
class Listing:
    """A table beside the log that says what a gateway calls its things now."""

    kind: NamedKind
    table: str
    id: str
    name: str

    @property
    def file(self) -> str:
        return f"{self.kind}.ndjson.gz"


@dataclass(frozen=True)
class RequestLog:
    """One gateway's log: what is said of a record that is none; its table, if it has one."""

    not_known: str
    table: str = ""
    required: frozenset[str] = frozenset()
    """Columns that every known generation of the table has."""
    rows: Callable[[_postgres.Table, Days], str] | None = None
    """The query of one JSON text per row of those days, without any text of a request."""
    listing: Listing | None = None

    def fetch(self, entry: LogEntry | FilesEntry, days: Days, raw: Path) -> None:
        """Of files only the list is written, because they may hold prompts; of the table its rows.

        Raises SourceError when there is no file, or the table cannot be read.
        """
        if entry.database_url is None:
            assert entry.path is not None
            _files.write_manifest(_files.find(entry.name, entry.path, days), raw)
            return
        assert self.rows is not None
        assert self.listing is not None
        rows = raw / "rows.ndjson.gz"
        with _postgres.table(entry.name, entry.database_url.value(entry.name), self.table) as table:
            _databases.require(entry.name, table, self.required)
            table.write_lines(self.rows(table, days), rows)
            said = self.listing
            if (beside := table.beside(said.table, {said.id, said.name})) is not None:
                listed = f'select "{said.id}" as id, "{said.name}" as name from {beside} order by 1'
                table.write_lines(
                    f"select row_to_json(listed)::text as line from ({listed}) as listed", raw / said.file
                )
        _files.write_manifest({str(rows): rows.stat().st_size}, raw)

    def stage(
        self,
        entry: LogEntry | FilesEntry,
        raw: Path,
        connection: duckdb.DuckDBPyConnection,
        columns: Mapping[str, str],
        projection: str,
    ) -> duckdb.DuckDBPyRelation:
        """What `projection` says of the log's `columns`, in a Parquet file. It has `file`, and `broken`,
        which names the field that a record lacks (`payload` when it is none at all), with its `broken_id`.

        Raises SourceError naming file and line of what is no JSON, or file and field of what is no record.
        """
        connection.execute("set TimeZone = 'UTC'")
        staged = raw / "requests.parquet"
        try:
            _files.extract(entry.name, connection, _files.read_manifest(raw), columns, projection, staged)
        except SourceError as error:
            if entry.path is not None:
                raise
            raise SourceError(
                entry.name,
                f"a row cannot be understood ({error.what})",
                where=f"table {self.table}",
                remedy=self.not_known,
            ) from None
        records = connection.read_parquet(str(staged))
        self._refuse_broken(entry, records)
        return records

    def parsed(
        self,
        entry: LogEntry | FilesEntry,
        days: Days,
        raw: Path,
        records: duckdb.DuckDBPyRelation,
        counts: Mapping[str, int],
    ) -> Parsed:
        """The staged `records` but for those that are none, and what the gateway calls its things."""
        files = _files.read_manifest(raw)
        gone = _files.days_without_files(entry.path, days, files) if entry.path else ()
        usable = _files.completed(records.filter("broken is null"))
        return Parsed({"request": usable}, counts, gone, list(self._names(raw)))

    def _names(self, raw: Path) -> Iterator[Name]:
        """What the gateway called its things when they were pulled, where it has a listing."""
        listing = self.listing
        if listing is not None and (file := raw / listing.file).exists():
            with gzip.open(file, "rt", encoding="utf-8") as lines:
                for said in map(json.loads, lines):
                    yield Name(listing.kind, said["id"], said["name"])

    def _refuse_broken(self, entry: LogEntry | FilesEntry, staged: duckdb.DuckDBPyRelation) -> None:
        table = f"table {self.table}" if entry.path is None else None
        refuse_broken(entry.name, staged, table, self.not_known)
        records, empty = staged.aggregate("count(*), count(*) filter (broken = 'payload')").fetchall()[0]
        if records and records == empty:
            what = f"none of the {records} records has an id"
            raise SourceError(entry.name, what, where=entry.path or table, remedy=self.not_known)


def refuse_broken(source: str, staged: duckdb.DuckDBPyRelation, table: str | None, not_known: str) -> None:
    """Raises SourceError for a record that lacks a field; where, is its file if it is of no `table`."""
    [(first,)] = staged.aggregate("""
        min({field: broken, file: file, id: broken_id}) filter (broken <> 'payload')""").fetchall()
    if first is not None:
        its_id = f"; its id is `{first['id']}`" if _PLAIN_ID.fullmatch(first["id"] or "") else ""
        raise SourceError(
            source,
            f"a record has no usable `{first['field']}`{its_id}",
            where=table or first["file"].removeprefix(_listed.GROWING),
            remedy=not_known,
        )
