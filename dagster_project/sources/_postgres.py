"""Rows of a gateway's PostgreSQL table, streamed to compressed NDJSON.

Through ADBC: it is a dependency already and needs nothing but Polars to hand out rows.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, quote, urlencode, urlsplit, urlunsplit

from adbc_driver_manager import Error as DriverError
from adbc_driver_postgresql import dbapi

from dagster_project.days import Days
from dagster_project.errors import SourceError
from dagster_project.sources._sql import CENTURY, quoted

ROWS_AT_ONCE = 20_000

_OF_PRISMA = {
    "schema",
    "connection_limit",
    "pool_timeout",
    "pgbouncer",
    "socket_timeout",
    "statement_cache_size",
}
"""What a gateway's own DATABASE_URL may hold for its Node or Prisma client and libpq refuses to know."""


class Table:
    """One table, open for reading. `columns` are the names that its generation of the schema has."""

    def __init__(self, source: str, connection: dbapi.Connection, name: str, schema: str | None) -> None:
        self._source = source
        self._connection = connection
        self.where = f"table {name}" if schema is None else f"table {schema}.{name}"
        within = "any(current_schemas(false))" if schema is None else _text(schema)
        rows = self._rows(
            "select table_schema::text, column_name::text, data_type::text from information_schema.columns "
            f"where table_name = {_text(name)} and table_schema = {within}"
        )
        if not rows:
            raise SourceError(
                source,
                "there is no such table, or this user may not read it",
                where=self.where,
                remedy="Correct `database_url` (its `?schema=` names the schema), or grant SELECT.",
            )
        self.columns = frozenset(column for _, column, _ in rows)
        self._instants = frozenset(column for _, column, kind in rows if kind.startswith("timestamp"))
        self._schema = rows[0][0]
        self.name = f"{quoted(rows[0][0])}.{quoted(name)}"

    def comparable(self, *, are_iso: bool) -> frozenset[str]:
        return self._instants

    def rows(self, columns: Sequence[str], ends: Sequence[str], near: Days) -> str:
        end = f"coalesce({', '.join(map(quoted, ends))})"
        wanted = (
            f"{end} between timestamptz '{near.start}' and timestamptz '{near.end}' or {end} is null "
            f"or {end} < timestamptz '{CENTURY[0]}' or {end} > timestamptz '{CENTURY[1]}'"
        )
        return (
            f"select row_to_json(line)::text as line from (select {', '.join(map(quoted, columns))} "
            f"from {self.name} where {wanted if ends else 'true'}) as line"
        )

    def beside(self, name: str, columns: set[str]) -> str | None:
        """The name in SQL of a table in the same schema, if it has `columns` that this user may read."""
        readable = self._rows(
            "select column_name::text from information_schema.columns "
            f"where table_name = {_text(name)} and table_schema = {_text(self._schema)} "
            "and has_column_privilege(format('%I.%I', table_schema, table_name), column_name, 'select')"
        )
        found = {column for (column,) in readable}
        return f"{quoted(self._schema)}.{quoted(name)}" if columns <= found else None

    def write_lines(self, query: str, file: Path) -> None:
        """Write the one text column of `query` to `file`, a line per row, a few thousand rows at a time."""
        with (
            _told(self._source, self.where),
            self._connection.cursor() as cursor,
            gzip.open(file, "wt", encoding="utf-8", compresslevel=1) as lines,
        ):
            cursor.execute(f"declare chargeback no scroll cursor for {query}")
            cursor.adbc_statement.set_options(**{"adbc.postgresql.use_copy": "false"})
            while True:
                cursor.execute(f"fetch {ROWS_AT_ONCE} from chargeback")
                batch = cursor.fetch_polars().to_series()
                if batch.is_empty():
                    cursor.execute("close chargeback")
                    return
                lines.writelines(f"{line}\n" for line in batch)

    def _rows(self, query: str) -> list[tuple[str, ...]]:
        with _told(self._source, self.where), self._connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetch_polars().rows()


@contextmanager
def table(source: str, url: str, name: str) -> Iterator[Table]:
    """Open table `name` of the database at `url`, whose `?schema=` may say the schema.

    Raises SourceError; no message holds the URL, because a password is in it.
    """
    parts = _address(source, url)
    options = parse_qsl(parts.query, keep_blank_values=True)
    known = [option for option in options if option[0] not in _OF_PRISMA]
    ours = urlunsplit(parts._replace(query=urlencode(known, quote_via=quote)))  # libpq takes a + as it is
    with _told(source, f"database of table {name}"):
        connection = dbapi.connect(ours)
    with connection:
        with _told(source, f"database of table {name}"), connection.cursor() as cursor:
            cursor.execute("set time zone 'UTC'")  # for columns that have a zone, which Prisma's have not
        yield Table(source, connection, name, dict(options).get("schema"))


def _address(source: str, url: str) -> SplitResult:
    """The parts of a database URL. A malformed one never reaches the driver, which would quote it."""
    try:
        parts = urlsplit(url)
        well_formed = (
            parts.scheme in ("postgres", "postgresql")
            and parts.netloc.count("@") <= 1
            and not re.search("%(?![0-9A-Fa-f]{2})", url)
            and parts.port is not False
        )
    except ValueError:
        well_formed = False
    if not well_formed:
        raise SourceError(
            source,
            "`database_url` is no PostgreSQL address",
            where="before connecting",
            remedy="Write postgresql://user:password@host:5432/database, with special characters of the "
            "password percent-encoded.",
        )
    return parts


@contextmanager
def _told(source: str, where: str) -> Iterator[None]:
    try:
        yield
    except DriverError as error:
        # Of the server's text only its first line: the next ones quote the query or the row.
        said = str(error).partition("\n")[0].removeprefix("IO: ").removeprefix("[libpq] ")
        raise SourceError(
            source,
            said,
            where=where,
            remedy="Check `database_url`, that the server is up, and that the user may read the table.",
        ) from None


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
