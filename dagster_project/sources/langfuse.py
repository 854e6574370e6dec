"""Langfuse's observations: its blob storage export (`observations_v2/`, else `observations/`), or rows of its
ClickHouse tables `observations` (v3) and `events_full` (v4), as files.

Facts about the rows, by its documentation (Blob storage export field reference) and its migrations:

* Only the types GENERATION and EMBEDDING are calls of a model; a span around them repeats their tokens.
* `usage_details` counts under free names that do not overlap: `input` is what is left without those that are
  cached, as is `output` without reasoning. The map also holds `total`: it is never summed. Rows whose other
  figures do not add up to it are counted (somebody sent overlapping ones), and rows with figures under a
  name that is not read here.
* `total_cost` is in USD: what somebody sent, else Langfuse's own estimate.
* Which provider answered is not said: let a route say it by the model. The project of the key is the team;
  `user_id` is a claim, so it is a tag. The environment `default` is nobody's claim.
* Windows of the export overlap, both kinds of it together repeat each row, and the tables are
  ReplacingMergeTrees: of several rows of an observation the last version counts, none if that is deleted.
  Of equally old ones it is the one that has the trace's tags (the legacy export has not).
* Input, output and status messages may be in the row; they are never read.
"""

from __future__ import annotations

from pathlib import Path

import duckdb

from dagster_project.days import Days
from dagster_project.records import Kind
from dagster_project.sources import Parsed, _mapped_tables
from dagster_project.sources._map import Map
from dagster_project.sources._mapped_rows import Shape, newest
from dagster_project.sources._request_log import FilesEntry

KINDS: tuple[Kind, ...] = ("request",)
TELLS = ("caller", "tags", "reported cost")
READS = f"its blob storage export, or dumps of its tables in ClickHouse, {_mapped_tables.FILES}"
RESTATES_DAYS = 3
KEEPS_RAW = False


class Entry(FilesEntry):
    """A Langfuse project."""


USAGE = {
    "input_tokens": ("input", "input_tokens"),
    "cache_read_tokens": ("input_cached_tokens", "input_cache_read", "cache_read_input_tokens"),
    "cache_write_5m_tokens": ("input_cache_creation_5m",),
    "cache_write_1h_tokens": ("input_cache_creation_1h",),
    "cache_write_other_tokens": ("input_cache_creation", "cache_creation_input_tokens"),
    "input_audio_tokens": ("input_audio_tokens", "input_audio"),
    "input_image_tokens": ("input_image_tokens", "input_image"),
    "output_tokens": ("output", "output_tokens"),
    "reasoning_tokens": ("output_reasoning_tokens", "output_reasoning", "reasoning_tokens"),
    "output_audio_tokens": ("output_audio_tokens", "output_audio"),
    "output_image_tokens": ("output_image_tokens", "output_image"),
}
"""The names in `usage_details` of what a record counts: of several in a row the first."""

MAP = Map.model_validate(
    {
        "columns": {
            "record_id": "id_or_span_id",
            "started_at": "start_time",
            "ended_at": "end_time",
            "model": "provided_model_name",
            "operation": {"column": "type", "words": {"generation": "chat"}},
            "gateway_team": "project_id",
            "trace_id": "trace_id",
            "session_id": "session_id",
            "status": {
                "column": "level",
                "words": dict.fromkeys(("debug", "default", "warning"), "ok"),
            },
            "reported_cost": "total_cost",
            **{column: [f"usage_details.{name}" for name in names] for column, names in USAGE.items()},
        },
        "tags": {
            "columns": {"environment": "environment", "version": ["version", "release"], "user": "user_id"},
            "maps": ["tags", "metadata"],
        },
        "parts": "beside",
        "reasoning": "beside",
    }
)

_KNOWN = ", ".join(f"'{name}'" for names in USAGE.values() for name in names)

_VERSION = "try_cast(coalesce(event_ts, updated_at) as timestamp)"

SHAPE = Shape(
    query=f"""
select
  * replace (nullif(environment, 'default') as environment),
  from_json(try_cast(usage_details as json), '"MAP(VARCHAR, BIGINT)"') as usage,
  list_filter(map_entries(usage), lambda u: u.key <> 'total') as used
from (select *, coalesce(nullif(id, ''), span_id) as id_or_span_id from logged)
qualify {newest("id_or_span_id", _VERSION, "tags is not null")}""",
    reads=("id", "span_id", "is_deleted", "event_ts", "updated_at"),
    makes=("id_or_span_id",),
    requires=("start_time", "type", "provided_model_name", "usage_details"),
    counts={
        "usage_that_does_not_add_up": "usage['total'] <> list_sum(list_transform(used, lambda u: u.value))",
        "usage_not_read": f"len(list_filter(used, lambda u: u.key not in ({_KNOWN}))) > 0",
    },
    skips="upper(type) not in ('GENERATION', 'EMBEDDING') or lower(is_deleted) in ('1', 'true')",
)


def fetch(entry: Entry, days: Days, raw: Path) -> None:
    """The list of files. Raises SourceError when there is none."""
    _mapped_tables.fetch(entry, MAP, None, days, raw)


def parse(entry: Entry, days: Days, raw: Path, connection: duckdb.DuckDBPyConnection) -> Parsed:
    """Raises SourceError naming file and line of what is no row."""
    return _mapped_tables.parse(entry, MAP, "request", days, raw, connection, SHAPE)
