"""TensorZero's log: `model_inferences` with the tags of the inferences that they are attempts of, in
PostgreSQL, or as files, e.g. of its ClickHouse (where `timestamp` is computed, so no `*` has it):

    select m.* except (raw_request, raw_response, system, input_messages, output), m.timestamp,
      i.tags, i.episode_id
    from ModelInference m
    left join (select id, tags, episode_id from ChatInference union all
               select id, tags, episode_id from JsonInference) i on i.id = m.inference_id
    settings session_timezone = 'UTC', join_use_nulls = 1

Facts about the rows, read in its public source (the migrations) and documentation:

* An inference may have several model inferences (retries, fallbacks): each is a call of its own.
* `input_tokens` count the provider's cached ones, too (`provider_cache_read_input_tokens`, `..._write_...`
  since 2026-03; null where the provider did not say).
* `cost` is in USD, and null where no price is configured.
* A row that TensorZero's own cache answered is `cached` and counts no tokens.
* The provider's name is the one in TensorZero's configuration: of another than a provider's own a route says
  who bills. `openai::gpt-4o` is the short form of a model.
* Only calls that were answered have a row. Its time is when the row was made, so its start is not known.
* Messages and raw answers may be in the tables; they are never selected.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import duckdb

from dagster_project.days import Days
from dagster_project.errors import SourceError
from dagster_project.records import Kind
from dagster_project.sources import Parsed, _mapped_rows, _mapped_tables, _postgres
from dagster_project.sources._map import Map
from dagster_project.sources._mapped_rows import Shape
from dagster_project.sources._request_log import LogEntry
from dagster_project.sources._sql import quoted
from dagster_project.sources._who_bills import KNOWN, WHO_BILLS

KINDS: tuple[Kind, ...] = ("request",)
TELLS = ("caller", "tags", "reported cost")
READS = f"model inferences with tags (of ClickHouse, too) {_mapped_tables.FILES}, or its tables in PostgreSQL"
RESTATES_DAYS = 3
KEEPS_RAW = False


class Entry(LogEntry):
    """A TensorZero gateway; its `database_url` ends in `?schema=tensorzero`. A route's `deployment` is the
    name of the provider in its configuration."""


MAP = Map.model_validate(
    {
        "columns": {
            "record_id": "id",
            "started_at": ["created_at", "timestamp"],
            "ended_at": ["created_at", "timestamp"],
            "latency_ms": "response_time_ms",
            "ttft_ms": "ttft_ms",
            "provider": {"column": "known_provider", "words": WHO_BILLS},
            "deployment": "model_provider_name",
            "model": "model",
            "model_requested": "model_name",
            "gateway_key_id": "tags.tensorzero::api_key_public_id",
            "trace_id": "inference_id",
            "session_id": "episode_id",
            "status": {"value": "ok"},
            "is_cache_hit": "cached",
            "input_tokens": "input_tokens",
            "cache_read_tokens": "provider_cache_read_input_tokens",
            "cache_write_other_tokens": "provider_cache_write_input_tokens",
            "output_tokens": "output_tokens",
            "reported_cost": "cost",
        },
        "tags": {"maps": ["tags"]},
        "parts": "inside",
    }
)

SHAPE = Shape(
    query=f"""
select
  *,
  regexp_replace(model_name, '^\\w+::', '') as model,
  case when lower(model_provider_name) in ({", ".join(f"'{name}'" for name in sorted(KNOWN))})
    then model_provider_name end as known_provider
from logged""",
    makes=("model", "known_provider"),
    requires=("id", "inference_id", "model_name", "model_provider_name", "input_tokens"),
)


def fetch(entry: Entry, days: Days, raw: Path) -> None:
    """Of files only the list; of the tables the rows of those days, without messages and answers.

    Raises SourceError when there is no file, or a table cannot be read.
    """
    rows = partial(_rows_query, entry.name)
    _mapped_tables.fetch(entry, MAP, "model_inferences", days, raw, SHAPE, rows)


def _rows_query(source: str, table: _postgres.Table, days: Days) -> str:
    near = days.widened(1)
    inferences = []
    for name in ("chat_inferences", "json_inferences"):
        beside = table.beside(name, {"id", "created_at", "tags", "episode_id"})
        if beside is None:
            raise SourceError(
                source,
                "the tags of inferences cannot be read",
                where=f"table {name}",
                remedy="Grant SELECT on it; `?schema=` of `database_url` names the schema, tensorzero.",
            )
        inferences.append(
            f"select id, tags, episode_id from {beside} "
            f"where created_at between timestamptz '{near.start}' and timestamptz '{near.end}'"
        )
    read = [name for name in _mapped_rows.columns_read(MAP, SHAPE) if name in table.columns]
    columns = ", ".join(f"m.{quoted(name)}" for name in read)
    return f"""
select row_to_json(line)::text as line from (
  select {columns}, i.tags, i.episode_id
  from {table.name} m left join ({" union all ".join(inferences)}) i on i.id = m.inference_id
  where m.created_at >= timestamptz '{days.start}' and m.created_at < timestamptz '{days.end}'
) as line"""


def parse(entry: Entry, days: Days, raw: Path, connection: duckdb.DuckDBPyConnection) -> Parsed:
    """Raises SourceError naming file and line of what is no row."""
    return _mapped_tables.parse(entry, MAP, "request", days, raw, connection, SHAPE)
