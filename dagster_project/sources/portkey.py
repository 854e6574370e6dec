"""Portkey's log, as its export job writes it (one JSON object per line).

Facts about the rows, by its documentation (Logs Export), which names no type:

* `cost` is in US cents. Where `cost_currency` is not USD, the cost is told as a problem, not read.
* `req_units` and `res_units` are tokens. How many of them were cached is not said: with a cache, the
  provider's own usage report says more.
* `cache_status` is HIT or SEMANTIC HIT where Portkey's own cache answered.
* `retry_success_count` says which retry succeeded; failed ones have no rows.
* `metadata` is what callers said (`x-portkey-metadata`); its `_user` is their user: a claim, so it is a tag.
* The names of the ids of keys and workspaces are those of the export's filters; a field that an export does
  not have is null. It has to be asked for with `id`, `created_at`, `ai_org`, `ai_model` and `req_units`.

The bodies of requests and answers may be in the file; they are never read.
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
READS = f"log exports {_mapped_tables.FILES}"
RESTATES_DAYS = 3
KEEPS_RAW = False


class Entry(FilesEntry):
    """A Portkey workspace or organisation. A route's `deployment` is the slug of the virtual key."""


MAP = Map.model_validate(
    {
        "columns": {
            "record_id": "id",
            "started_at": "created_at",
            "provider": {"column": "ai_org", "words": WHO_BILLS},
            "deployment": ["virtual_key", "virtual_key_slug"],
            "model": "ai_model",
            "operation": "asked",
            "gateway_key_id": ["api_key_id", "portkey_api_key_id"],
            "gateway_team": "workspace_slug",
            "trace_id": "trace_id",
            "attempt": "retry_success_count",
            "status": {
                "column": "is_success",
                "words": {"1": "ok", "true": "ok", "0": "error", "false": "error"},
            },
            "http_status": "response_status_code",
            "is_cache_hit": {
                "column": "cache_status",
                "words": {"semantic hit": "true", "disabled": "false"},
            },
            "is_streaming": "stream_mode",
            "latency_ms": "response_time",
            "input_tokens": "req_units",
            "output_tokens": "res_units",
            "reported_cost": {"column": "cost_in_us_cents", "times": "0.01"},
        },
        "tags": {"columns": {"user": "metadata._user"}, "maps": ["metadata"]},
    }
)

SHAPE = Shape(
    query=f"""
select
  *,
  case when upper(coalesce(cost_currency, 'USD')) = 'USD' then cost
    when cost is not null then concat(cost, ' ', cost_currency) end as cost_in_us_cents,
  case when request_url is not null then {_operations.of_path("request_url")} end as asked
from logged""",
    reads=("cost", "cost_currency", "request_url"),
    makes=("cost_in_us_cents", "asked"),
    requires=("id", "created_at", "ai_org", "ai_model", "req_units"),
)


def fetch(entry: Entry, days: Days, raw: Path) -> None:
    """The list of files. Raises SourceError when there is none."""
    _mapped_tables.fetch(entry, MAP, None, days, raw)


def parse(entry: Entry, days: Days, raw: Path, connection: duckdb.DuckDBPyConnection) -> Parsed:
    """Raises SourceError naming file and line of what is no row."""
    return _mapped_tables.parse(entry, MAP, "request", days, raw, connection, SHAPE)
