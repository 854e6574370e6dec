"""Any table, as a map in sources.yaml describes it: files, or a table in a database.

    house_gateway:
      type: mapped
      start_date: 2026-10-01
      path: s3://logs/{date}/*.csv          # or database_url and table
      time: {format: iso, zone: Europe/Paris}
      parts: inside                         # cached tokens are counted in input_tokens, too
      columns:
        record_id: id
        started_at: ts
        provider: {column: vendor, words: {oai: openai}}
        model: [model_served, model_asked]  # the first that says something
        input_tokens: {column: prompt_k, times: 1000}
        cache_read_tokens: usage.cached     # within the JSON of a column
        reported_cost: {column: cents, times: 0.01}
        status: {column: state, words: {finished: ok, broke: error}}
      tags: {columns: {team: owner}, maps: [labels], headers: [request_headers]}

`like:` begins with a ready-made map, over which the entry's own stands. `records:` says what the rows are:
those of a bill or usage report are summed to lines (`_exports`), so they need no id; a request has the id
that is mapped, else one made of all that is. Only what is mapped is ever read.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import duckdb
from pydantic import Field, model_validator

from dagster_project.days import Days
from dagster_project.records import COLUMNS, Kind
from dagster_project.settings import Text
from dagster_project.sources import Parsed, _databases, _mapped_rows, _mapped_tables
from dagster_project.sources._map import Map, Tags
from dagster_project.sources._request_log import LogEntry

KINDS: tuple[Kind, ...] = ("charge", "usage", "request")
TELLS = ("bill", "usage", "api key", "caller", "tags", "reported cost")
READS = (
    f"any CSV, Parquet, JSON or NDJSON files, or a table in {_databases.READ}, by a map of its columns; "
    "ready-made maps for Prismo, Tokonomics and the record that FinOps guides recommend"
)
RESTATES_DAYS = 3
KEEPS_RAW = False


READY: Mapping[str, Map] = {
    "prismo": Map(
        tags=Tags(
            columns={
                tag: (f"x-prismo-{tag}", f"X-Prismo-{tag.title()}", f"prismo_{tag}")
                for tag in ("feature", "team", "environment", "customer")
            }
        )
    ),
    "tokonomics": Map(
        columns={
            "started_at": {"column": ("timestamp", "created_at")},
            "gateway_user": {"column": ("account_id", "account")},
            "provider": {"column": ("provider",)},
            "model": {"column": ("model",)},
            "input_tokens": {"column": ("input_tokens",)},
            "output_tokens": {"column": ("output_tokens",)},
            "reported_cost": {"column": ("cost_usd", "cost")},
            "latency_ms": {"column": ("latency_ms", "latency")},
        },
        tags=Tags(
            columns={
                "feature": ("feature_name", "feature", "X-Feature-Name", "x-feature-name"),
                "customer": ("tenant_id", "tenant", "X-Tenant-ID", "x-tenant-id"),
                "environment": ("environment", "X-Environment", "x-environment"),
                "user_tier": ("user_tier", "X-User-Tier", "x-user-tier"),
            }
        ),
    ),
    "finops": Map(
        columns={
            "started_at": {"column": ("timestamp", "timestamp_utc", "time", "created_at")},
            "provider": {"column": ("provider", "provider_name")},
            "model": {"column": ("model", "model_name")},
            "input_tokens": {"column": ("input_tokens", "prompt_tokens")},
            "output_tokens": {"column": ("output_tokens", "completion_tokens")},
            "cache_read_tokens": {"column": ("cached_input_tokens", "cached_tokens")},
            "web_searches": {"column": ("searches", "search_calls", "web_searches")},
            "status": {"column": ("status", "status_code")},
            "attempt": {"column": ("retry_count", "retries")},
        },
        tags=Tags(
            columns={
                "team": ("team", "owning_team", "owner"),
                "cost_center": ("cost_center", "cost_centre"),
                "project": ("project", "project_name"),
                "service": ("service", "service_name"),
                "feature": ("feature", "feature_name"),
                "environment": ("environment", "env"),
                "customer": ("customer", "customer_id", "tenant"),
            }
        ),
        parts="inside",
    ),
}
"""Maps to begin with. The logs of Prismo and Tokonomics have no public form: these are their documented
headers and fields, under the names that a log is likely to give them."""


_OF_BILLS = {"billed_cost", "list_cost", "currency"}
_STRANGE_TO: Mapping[Kind, Collection[str]] = {
    "request": {*_OF_BILLS, *(column.name for column in COLUMNS if column.group == "charge line")},
    "usage": {
        *_OF_BILLS,
        *(c.name for c in COLUMNS if c.group in ("charge line", "outcome", "gateway identity")),
    },
    "charge": {
        "reported_cost",
        *(c.name for c in COLUMNS if c.group in ("outcome", "gateway identity", "meters", "detail")),
    },
}
"""Columns that records of a kind do not have."""


class Entry(LogEntry, Map):
    """A table and what its columns mean."""

    records: Kind = "request"
    like: str | None = None
    table: Text | None = Field(default=None, min_length=1)
    """In the database at `database_url`."""

    @model_validator(mode="after")
    def _complete(self) -> Entry:
        if (self.database_url is None) != (self.table is None):
            raise ValueError("`database_url` and `table` need each other")
        if self.like is not None and self.like not in READY:
            raise ValueError(f"`like: {self.like}` is no ready-made map; those are {', '.join(READY)}")
        missing = [name for name in _mapped_rows.REQUIRED[self.records] if name not in self.map.columns]
        if missing:
            raise ValueError(f"columns: {', '.join(missing)} must be mapped (a constant is `value: ...`)")
        if self.records != "request" and "record_id" in self.map.columns:
            raise ValueError(f"columns: a {self.records} has no record_id: rows that agree are one line")
        if strange := sorted(name for name in self.map.columns if name in _STRANGE_TO[self.records]):
            raise ValueError(f"columns: a {self.records} has no {', '.join(strange)}")
        return self

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return (self.records,)

    @property
    def map(self) -> Map:
        """Its own map over the ready-made one."""
        return self.over(READY[self.like]) if self.like else self


def fetch(entry: Entry, days: Days, raw: Path) -> None:
    """Raises SourceError when there is no file, or the table cannot be read."""
    _mapped_tables.fetch(entry, entry.map, entry.table, days, raw)


def parse(entry: Entry, days: Days, raw: Path, connection: duckdb.DuckDBPyConnection) -> Parsed:
    """Records of the kind that the entry says; rows that are none are `problems`.

    Raises SourceError naming file and line of what is no row, and a column that the table does not have.
    """
    return _mapped_tables.parse(entry, entry.map, entry.records, days, raw, connection)
