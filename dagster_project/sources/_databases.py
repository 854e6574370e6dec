"""Tables in databases: of which kind, the scheme of the URL says."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from dagster_project.days import Days
from dagster_project.errors import SourceError
from dagster_project.sources import _postgres, _sqlite

READ = "PostgreSQL or SQLite"


class Described(Protocol):
    """One table, as its database describes it."""

    where: str
    """Its name, for errors."""
    columns: Collection[str]
    """The names that its generation of the schema has."""


class Table(Described, Protocol):
    """One table, open for reading."""

    def comparable(self, *, are_iso: bool) -> Collection[str]:
        """Those of them that can be compared with a day; `are_iso` says that texts of instants are ISO."""

    def rows(self, columns: Sequence[str], ends: Sequence[str], near: Days) -> str:
        """The query of one JSON text per row with those `columns`. Rows that are surely of other days than
        `near`, by the first of the comparable `ends` that says something, may be left out. What is no instant
        of this century is of no day, and stays, to be told."""

    def write_lines(self, query: str, file: Path) -> None:
        """Write the one text column of `query` to `file`, compressed, a line per row, in bounded memory."""


def table(source: str, url: str, name: str) -> AbstractContextManager[Table]:
    """Open table `name` of the database at `url`. Raises SourceError, which never quotes the URL."""
    match url.partition(":")[0]:
        case "postgres" | "postgresql":
            return _postgres.table(source, url, name)
        case "sqlite":
            return _sqlite.table(source, url, name)
    raise SourceError(
        source,
        "`database_url` is the address of no database that can be read",
        where="before connecting",
        remedy="Write postgresql://user:password@host:5432/database or sqlite:////path/of/logs.db.",
    )


def require(source: str, table: Described, columns: Collection[str]) -> None:
    """Raises SourceError naming the `columns` that the table lacks."""
    if missing := sorted(set(columns) - set(table.columns)):
        raise SourceError(
            source,
            f"there is no column {', '.join(missing)}",
            where=table.where,
            remedy=f"Is this the table that was meant? It has {', '.join(sorted(table.columns))}.",
        )
