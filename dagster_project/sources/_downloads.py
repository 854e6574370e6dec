"""Bills that somebody downloads from a provider's console: without an administrator's key, and by hand."""

from __future__ import annotations

import duckdb

from dagster_project.errors import SourceError
from dagster_project.sources import _exports


class DownloadEntry(_exports.ExportEntry):
    """CSV files of one account, as its console has them. Each day stands in one file of a kind."""

    account: str | None = None
    """The organisation's name in our tables; the entry's name when unset."""

    @property
    def account_id(self) -> str:
        return self.account or self.name


def refuse_days_in_two_files(entry: DownloadEntry, rows: duckdb.DuckDBPyRelation) -> None:
    """Raises SourceError for a day of the staged `rows` that was downloaded twice: it would count twice."""
    days = rows.aggregate("usage_date, min(file) as first, max(file) as last", "usage_date")
    if twice := days.filter("first <> last").order("usage_date").limit(1).fetchall():
        ((day, first, last),) = twice
        raise SourceError(
            entry.name,
            f"the day {day} is also in {last}",
            where=first,
            remedy="Nothing was replaced. Keep one download of each day.",
        )
