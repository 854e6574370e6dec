"""Envoy AI Gateway's access log: one JSON object per request, with the fields that its operator defined.

Facts about the rows, by its documentation (Access logs with AI/LLM metadata):

* A field is there if the log's format names it, and tokens only if `llmRequestCosts` lists them, too. The
  names of the documentation's example are known; others, and headers that are tags, the entry says as one
  of `mapped` does:

      columns: {gateway_user: x-user-id, cache_read_tokens: genai_tokens_cached}
      tags: {columns: {team: x-team-id}}

* Input tokens count cached ones, too, as in answers in the form of OpenAI (nothing public says more).
* It has no cost, and does not say who bills: let a route say it by the backend's name (`deployment`).
* Code 0 is a caller who gave up before there was an answer; `-` stands for what Envoy does not know. A line
  with neither model nor tokens is other traffic.
"""

from __future__ import annotations

from pathlib import Path

import duckdb

from dagster_project.days import Days
from dagster_project.records import Kind
from dagster_project.sources import Parsed, _mapped_tables
from dagster_project.sources._map import Map
from dagster_project.sources._mapped_rows import Shape
from dagster_project.sources._request_log import FilesEntry

KINDS: tuple[Kind, ...] = ("request",)
TELLS = ("caller", "tags")
READS = f"access logs {_mapped_tables.FILES}"
RESTATES_DAYS = 3
KEEPS_RAW = False

MAP = Map.model_validate(
    {
        "columns": {
            "record_id": ["x-request-id", "x_request_id", "request_id"],
            "started_at": "start_time",
            "latency_ms": "duration",
            "deployment": ["genai_backend_name", "backend_name"],
            "model": ["genai_model_name_override", "genai_model_name"],
            "model_requested": "genai_model_name",
            "status": {"column": "response_code", "words": {"0": "cancelled"}},
            "http_status": "response_code",
            "input_tokens": "genai_tokens_input",
            "output_tokens": "genai_tokens_output",
        },
        "parts": "inside",
    }
)


class Entry(FilesEntry, Map):
    """An Envoy AI Gateway, and what the fields of its own log mean."""

    @property
    def map(self) -> Map:
        """Its own map over that of the documentation's example."""
        return self.over(MAP)


SHAPE = Shape(
    query="select file, nullif(columns(* exclude file), '-') from logged",
    requires=("start_time",),
    skips="said_model is null and said_input_tokens is null",
)


def fetch(entry: Entry, days: Days, raw: Path) -> None:
    """The list of files. Raises SourceError when there is none."""
    _mapped_tables.fetch(entry, entry.map, None, days, raw)


def parse(entry: Entry, days: Days, raw: Path, connection: duckdb.DuckDBPyConnection) -> Parsed:
    """Raises SourceError naming file and line of what is no line of the log."""
    return _mapped_tables.parse(entry, entry.map, "request", days, raw, connection, SHAPE)
