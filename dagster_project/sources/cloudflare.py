"""Cloudflare AI Gateway's logs, as its API lists them, in files.

Facts about the rows, by its API reference:

* `tokens_in` and `tokens_out` are all that is said of tokens: how many were cached, or reasoning, is not.
* `cost` is Cloudflare's estimate in USD, or the caller's own figure (`custom_cost`).
* `cached` is a hit of Cloudflare's cache. `step` is 0 for the first provider, 1 for the first fallback, ...
* `metadata` (the header `cf-aig-metadata`) is JSON text of at most five entries; further ones are dropped.
* Logs are no longer saved once the plan's limit is reached, and nothing in them says so: a gateway that
  suddenly logs less than the provider reports has perhaps reached it.
"""

from __future__ import annotations

from pathlib import Path

import duckdb

from dagster_project.days import Days
from dagster_project.records import Kind
from dagster_project.sources import Parsed, _mapped_tables, _operations
from dagster_project.sources._map import Map
from dagster_project.sources._mapped_rows import Shape
from dagster_project.sources._request_log import FilesEntry
from dagster_project.sources._who_bills import WHO_BILLS

KINDS: tuple[Kind, ...] = ("request",)
TELLS = ("caller", "tags", "reported cost")
READS = f"logs of AI Gateway {_mapped_tables.FILES}"
RESTATES_DAYS = 3
KEEPS_RAW = False


class Entry(FilesEntry):
    """A gateway of an account."""


MAP = Map.model_validate(
    {
        "columns": {
            "record_id": "id",
            "started_at": "created_at",
            "latency_ms": "duration",
            "provider": {"column": "provider", "words": WHO_BILLS},
            "model": "model",
            "operation": "operation",
            "attempt": "step",
            "status": {
                "column": "success",
                "words": {"true": "ok", "1": "ok", "false": "error", "0": "error"},
            },
            "http_status": "status_code",
            "is_cache_hit": "cached",
            "input_tokens": "tokens_in",
            "output_tokens": "tokens_out",
            "reported_cost": "cost",
        },
        "tags": {"maps": ["metadata"]},
    }
)

SHAPE = Shape(
    query=f"""
select *, case when path is not null then {_operations.of_path("concat('/', path)")} end as operation
from logged""",
    reads=("path",),
    makes=("operation",),
    requires=("id", "created_at", "provider", "model", "tokens_in"),
)


def fetch(entry: Entry, days: Days, raw: Path) -> None:
    """The list of files. Raises SourceError when there is none."""
    _mapped_tables.fetch(entry, MAP, None, days, raw)


def parse(entry: Entry, days: Days, raw: Path, connection: duckdb.DuckDBPyConnection) -> Parsed:
    """Raises SourceError naming file and line of what is no row."""
    return _mapped_tables.parse(entry, MAP, "request", days, raw, connection, SHAPE)
