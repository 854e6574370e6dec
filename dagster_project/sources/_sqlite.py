"""Rows of a gateway's SQLite table, streamed to compressed NDJSON while the gateway goes on writing.

Any value may be of any type there, whatever its column was declared to be: each is written as what it is.
"""

from __future__ import annotations

import gzip
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import unquote

from duckdb import ConstantExpression as Literal

from dagster_project.days import Days
from dagster_project.errors import SourceError
from dagster_project.sources._sql import CENTURY, quoted

BUSY_SECONDS = 60
"""Somebody may keep the database locked for as long."""


class Table:
    """One table or view, open for reading; all that is read of it was there at one instant. `columns` are the
    names that its generation of the schema has."""

    def __init__(self, source: str, connection: sqlite3.Connection, name: str, where: str) -> None:
        self._source = source
        self._connection = connection
        self.where = where
        with _told(source, where):
            connection.execute("begin")
            # Not table_info, which leaves out the columns that are computed.
            found = connection.execute("select name from pragma_table_xinfo(?)", [name]).fetchall()
        if not found:
            raise SourceError(
                source,
                "there is no such table",
                where=where,
                remedy="Is this the file that was meant? `database_url` names it.",
            )
        self.columns = frozenset(column for (column,) in found)
        self._name = quoted(name)

    def comparable(self, *, are_iso: bool) -> frozenset[str]:
        return self.columns if are_iso else frozenset()

    def rows(self, columns: Sequence[str], ends: Sequence[str], near: Days) -> str:
        members = ", ".join(f"{Literal(name)}, {_value(quoted(name))}" for name in columns)
        query = f"select json_object({members}) from {self._name}"
        if not ends:
            return query
        end = f"coalesce({', '.join(map(quoted, ends))}, null)"  # which takes no single value
        around = near.widened(1)  # a text begins with the day in its own zone
        day = f"substr({end}, 1, 10)"
        is_day = f"date({day}, '+0 days') = {day} and {end} between '{CENTURY[0]}' and '{CENTURY[1]}'"
        return (
            f"{query} where ({is_day} and {end} not between '{around.first}' and '{around.end.date()}') "
            "is not true"
        )

    def write_lines(self, query: str, file: Path) -> None:
        """Write the one text column of `query` to `file`, a line per row, as they come."""
        self._connection.text_factory = bytes  # the error about a text that is no UTF-8 would quote it
        with _told(self._source, self.where), gzip.open(file, "wb", compresslevel=1) as lines:
            for (line,) in self._connection.execute(query):
                try:
                    line.decode()
                except UnicodeDecodeError:
                    raise SourceError(
                        self._source,
                        "a row has a text that is no UTF-8",
                        where=self.where,
                        remedy="Mend it, or let `table` name a view that leaves it out.",
                    ) from None
                lines.write(line + b"\n")


@contextmanager
def table(source: str, url: str, name: str) -> Iterator[Table]:
    """Open table `name` of the file at `url`, which is neither made nor written to. Raises SourceError."""
    path = _path(source, url)
    where = f"table {name} of {path}"
    with _told(source, where):
        address = f"{path.as_uri()}?mode=ro"
        connection = sqlite3.connect(address, uri=True, timeout=BUSY_SECONDS, isolation_level=None)
    with closing(connection):
        _require_company(source, path, where)
        yield Table(source, connection, name, where)


def _require_company(source: str, path: Path, where: str) -> None:
    """Raises SourceError for a file in WAL mode that nobody has open: whoever opens it first makes the files
    beside it, which the gateway may then not be allowed to write to; and where the file was mounted or linked
    without its folder, those that hold the last rows are elsewhere."""
    file = path.resolve()
    try:
        with file.open("rb") as opened:
            is_wal = opened.read(20)[18:] == b"\x02\x02"
    except OSError:
        return  # SQLite tells it
    if is_wal and not file.with_name(f"{file.name}-shm").exists():
        raise SourceError(
            source,
            "it is in WAL mode, and nobody has it open here",
            where=where,
            remedy="Start the gateway; where it runs elsewhere, mount its whole folder, not the file. Of a "
            "copy that is whole, change the mode (`pragma journal_mode = delete`).",
        )


def _path(source: str, url: str) -> Path:
    """The file that a database URL names. Of `sqlite:///` and `sqlite:////` either may stand before an
    absolute path: to tools that know relative ones, these have three."""
    found = re.fullmatch(r"sqlite:////?([^/?#][^?#]*)", url)
    if found is None:
        raise SourceError(
            source,
            "`database_url` is no SQLite address",
            where="before opening",
            remedy="Write sqlite:////path/of/logs.db, the path absolute, `?`, `#` and `%` in it "
            "percent-encoded.",
        )
    return Path("/", unquote(found[1]))


def _value(name: str) -> str:
    """SQL of a value as it is to stand in JSON, where SQLite writes 15 digits of a REAL, and an infinite one
    as what is no JSON."""
    real = f"case when abs({name}) < 9e999 then json(printf('%!.20e', {name})) else 'Infinity' end"
    return f"case when typeof({name}) = 'real' then {real} else {name} end"


@contextmanager
def _told(source: str, where: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise SourceError(
            source,
            str(error),
            where=where,
            remedy="Check `database_url`, and that this user may read the file. After a crash the gateway "
            "has to open it first. Of a BLOB, a view can make a text.",
        ) from None
