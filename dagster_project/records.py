"""The cross-provider schema: one table for every source, three kinds of record.

`charge` is the provider's bill, `usage` the provider's own usage report, `request` a gateway's
log of one upstream attempt. They describe the same consumption and are never added together.
This module is the one description of every column: the lake's files, the contract check, the
`fct_requests` mart and the README's table are made from it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Literal

import polars as pl

from dagster_project.errors import ContractError

Kind = Literal["charge", "usage", "request"]
KINDS: tuple[Kind, ...] = ("charge", "usage", "request")

MONEY = "DECIMAL(38,12)"
TAGS = "MAP(VARCHAR, VARCHAR)"
QUANTITIES = "MAP(VARCHAR, DECIMAL(38,12))"

WELL_KNOWN_TAGS = (
    "service",
    "feature",
    "team",
    "project",
    "environment",
    "customer",
    "experiment",
    "variant",
    "user_tier",
    "request_type",
    "version",
)
"""Tag keys that mean the same everywhere, once their aliases are resolved."""


@dataclass(frozen=True)
class Column:
    """One column of a record; `required` means not null in every record of every kind."""

    name: str
    type: str
    group: str
    description: str
    required: bool = False


COLUMNS: tuple[Column, ...] = (
    Column(
        "record_id",
        "VARCHAR",
        "which",
        "The source's own id, else a hash of the row's coordinates without its quantities and "
        "amounts, so that a restated row keeps its id. Unique per kind, source and day.",
        required=True,
    ),
    Column("record_kind", "VARCHAR", "which", "`charge`, `usage` or `request`.", required=True),
    Column("source", "VARCHAR", "which", "Name of the entry in sources.yaml.", required=True),
    Column(
        "started_at",
        "TIMESTAMP",
        "when",
        "Start of the request or of the bucket, UTC.",
        required=True,
    ),
    Column("ended_at", "TIMESTAMP", "when", "End of the request; exclusive end of the bucket, UTC."),
    Column(
        "usage_date",
        "DATE",
        "when",
        "UTC day of the bucket; for a request the day in which it ended, because a provider books "
        "usage on completion.",
        required=True,
    ),
    Column("provider", "VARCHAR", "provider identity", "Who bills: openai, anthropic, ...", required=True),
    Column("account_id", "VARCHAR", "provider identity", "Organisation or billing account."),
    Column(
        "provider_project_id",
        "VARCHAR",
        "provider identity",
        "OpenAI project, Anthropic workspace (`default` for the default one), GCP project, ...",
    ),
    Column("provider_project_name", "VARCHAR", "provider identity", "Its name for people."),
    Column(
        "api_key_id",
        "VARCHAR",
        "provider identity",
        "Id of the provider's API key, never the secret; `no_key` for usage that carried none.",
    ),
    Column("api_key_name", "VARCHAR", "provider identity", "Its name for people."),
    Column("principal_id", "VARCHAR", "provider identity", "User or service account."),
    Column("principal_name", "VARCHAR", "provider identity", "Its name for people."),
    Column("gateway_key_id", "VARCHAR", "gateway identity", "Hash or id of the virtual key."),
    Column("gateway_key_name", "VARCHAR", "gateway identity", "Its alias."),
    Column("gateway_team", "VARCHAR", "gateway identity", "Id of the team that the gateway authenticated."),
    Column("gateway_team_name", "VARCHAR", "gateway identity", "Its name for people, as logged."),
    Column("gateway_user", "VARCHAR", "gateway identity", "User that the gateway authenticated."),
    Column(
        "tags",
        TAGS,
        "claims",
        "What the caller said; keys in lower_snake_case, well-known keys after aliasing.",
    ),
    Column(
        "operation",
        "VARCHAR",
        "what",
        "chat, embedding, image, speech, transcription, moderation, rerank, search, storage, other.",
    ),
    Column("model", "VARCHAR", "what", "Model as billed (the snapshot)."),
    Column("model_requested", "VARCHAR", "what", "Model as the caller asked for it."),
    Column("service_tier", "VARCHAR", "what", "standard, batch, flex, priority, ... (an open set)."),
    Column(
        "context_tokens",
        "BIGINT",
        "what",
        "All input tokens of the request, cached ones included; decides long-context prices.",
    ),
    Column(
        "context_tier",
        "VARCHAR",
        "what",
        "`short` or `long` where a bill or usage report says it; requests derive it from "
        "`context_tokens` and the price in force.",
    ),
    Column("region", "VARCHAR", "what", "Where it ran, if the price depends on it."),
    Column("request_id", "VARCHAR", "outcome", "The provider's response id."),
    Column("trace_id", "VARCHAR", "outcome", "The trace that an agent's calls belong to."),
    Column("session_id", "VARCHAR", "outcome", "The session that the call belongs to."),
    Column("attempt", "INTEGER", "outcome", "0 the first, 1.. retries and fallbacks."),
    Column("status", "VARCHAR", "outcome", "`ok`, `error` or `cancelled`; requests only."),
    Column("http_status", "INTEGER", "outcome", "HTTP status of the upstream call."),
    Column("is_cache_hit", "BOOLEAN", "outcome", "Answered by the gateway's cache: free at the provider."),
    Column("is_streaming", "BOOLEAN", "outcome", "Whether the answer was streamed."),
    Column("latency_ms", "BIGINT", "outcome", "Milliseconds from start to end."),
    Column("ttft_ms", "BIGINT", "outcome", "Milliseconds to the first token."),
    Column("requests", "BIGINT", "meters", "Number of requests."),
    Column("input_tokens", "BIGINT", "meters", "Uncached text input, in tokens."),
    Column("cache_read_tokens", "BIGINT", "meters", "Input read from the provider's cache, in tokens."),
    Column("cache_write_5m_tokens", "BIGINT", "meters", "Input written to a 5-minute cache, in tokens."),
    Column("cache_write_1h_tokens", "BIGINT", "meters", "Input written to a 1-hour cache, in tokens."),
    Column(
        "cache_write_other_tokens",
        "BIGINT",
        "meters",
        "Input written to a cache of another or unsaid lifetime, in tokens.",
    ),
    Column("output_tokens", "BIGINT", "meters", "Text output, reasoning included, in tokens."),
    Column("input_audio_tokens", "BIGINT", "meters", "Uncached audio input, in tokens."),
    Column("output_audio_tokens", "BIGINT", "meters", "Audio output, in tokens."),
    Column("input_image_tokens", "BIGINT", "meters", "Uncached image input, in tokens."),
    Column("output_image_tokens", "BIGINT", "meters", "Image output, in tokens."),
    Column("web_searches", "BIGINT", "meters", "Number of web searches."),
    Column("images", "BIGINT", "meters", "Number of images."),
    Column("characters", "BIGINT", "meters", "Characters of text turned into speech."),
    Column("audio_seconds", MONEY, "meters", "Seconds of audio."),
    Column(
        "other_meters",
        QUANTITIES,
        "meters",
        "Anything billable that has no column; the key says meter and unit, e.g. `file_searches`.",
    ),
    Column("reasoning_tokens", "BIGINT", "detail", "Already included in `output_tokens`."),
    Column("billed_cost", MONEY, "money", "Amount of a charge line, in `currency`; charges only."),
    Column("list_cost", MONEY, "money", "The line before discounts, where the bill says it."),
    Column("reported_cost", MONEY, "money", "What the gateway thinks it cost, in USD: evidence, not money."),
    Column("currency", "VARCHAR", "money", "ISO 4217, upper case; charges only."),
    Column(
        "charge_category",
        "VARCHAR",
        "charge line",
        "usage, credit, tax, fee, adjustment or purchase; charges only.",
    ),
    Column("line_item", "VARCHAR", "charge line", "The provider's text, untouched."),
    Column(
        "meter",
        "VARCHAR",
        "charge line",
        "Meter parsed from the line, one of the names in METERS or a key of `other_meters`; null "
        "when the line does not name one or could not be parsed.",
    ),
    Column("quantity", MONEY, "charge line", "Quantity of the line, in `quantity_unit`."),
    Column("quantity_unit", "VARCHAR", "charge line", "`tokens` for tokens; else the provider's unit."),
)

BY_NAME: Mapping[str, Column] = {column.name: column for column in COLUMNS}


@dataclass(frozen=True)
class Meter:
    """A thing that is counted: its name in long tables, and the column of a record that counts it."""

    name: str
    column: str
    unit: str


METERS: tuple[Meter, ...] = (
    Meter("requests", "requests", "requests"),
    Meter("input", "input_tokens", "tokens"),
    Meter("cache_read", "cache_read_tokens", "tokens"),
    Meter("cache_write_5m", "cache_write_5m_tokens", "tokens"),
    Meter("cache_write_1h", "cache_write_1h_tokens", "tokens"),
    Meter("cache_write_other", "cache_write_other_tokens", "tokens"),
    Meter("output", "output_tokens", "tokens"),
    Meter("input_audio", "input_audio_tokens", "tokens"),
    Meter("output_audio", "output_audio_tokens", "tokens"),
    Meter("input_image", "input_image_tokens", "tokens"),
    Meter("output_image", "output_image_tokens", "tokens"),
    Meter("web_search", "web_searches", "searches"),
    Meter("images", "images", "images"),
    Meter("characters", "characters", "characters"),
    Meter("audio_seconds", "audio_seconds", "seconds"),
)
"""The disjoint meters: quantities of different meters of one record never overlap."""

_PYTHON_TYPES: Mapping[str, tuple[type, ...]] = {
    "VARCHAR": (str,),
    "BIGINT": (int,),
    "INTEGER": (int,),
    "BOOLEAN": (bool,),
    "DATE": (date,),
    "TIMESTAMP": (datetime,),
    MONEY: (Decimal, int),
    TAGS: (dict,),
    QUANTITIES: (dict,),
}
_POLARS_TYPES: Mapping[str, pl.DataType | type[pl.DataType]] = {
    "VARCHAR": pl.String,
    "BIGINT": pl.Int64,
    "INTEGER": pl.Int32,
    "BOOLEAN": pl.Boolean,
    "DATE": pl.Date,
    "TIMESTAMP": pl.Datetime("us"),
    MONEY: pl.Decimal(38, 12),
    TAGS: pl.List(pl.Struct({"key": pl.String, "value": pl.String})),
    QUANTITIES: pl.List(pl.Struct({"key": pl.String, "value": pl.Decimal(38, 12)})),
}


def frame(rows: Iterable[Mapping[str, Any]], source: str, kind: Kind) -> pl.DataFrame:
    """Rows of one source and kind as a frame of the whole schema; absent columns are null.

    Polars casts instead of validating, so the rows are checked first. Raises ContractError with
    every column that is unknown, missing or of the wrong Python type (a float is never money).
    """
    complete = [{**row, "source": source, "record_kind": kind} for row in rows]
    problems = sorted({problem for row in complete for problem in _problems(row)})
    if problems:
        raise ContractError(source=source, kind=kind, problems=problems)
    data = {column.name: [_cell(row.get(column.name)) for row in complete] for column in COLUMNS}
    return pl.DataFrame(data, schema={c.name: _POLARS_TYPES[c.type] for c in COLUMNS}, strict=True)


def _cell(value: Any) -> Any:
    if isinstance(value, dict):
        return [{"key": key, "value": value[key]} for key in sorted(value)]
    return value


def _problems(row: Mapping[str, Any]) -> Iterable[str]:
    for name, value in row.items():
        column = BY_NAME.get(name)
        if column is None:
            yield f"unknown column `{name}`"
        elif value is not None:
            wanted = _PYTHON_TYPES[column.type]
            if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
                yield f"`{name}` is a {type(value).__name__}, not {column.type}"
    for column in COLUMNS:
        if column.required and row.get(column.name) is None:
            yield f"`{column.name}` is null"


def dbt_properties() -> str:
    """The properties of the mart `fct_requests`: its contract is this schema."""
    columns = "\n".join(
        f"      - name: {column.name}\n"
        f"        data_type: {column.type.lower()}\n"
        f"        description: {json.dumps(column.description)}"
        for column in COLUMNS
    )
    return (
        "# Written by `python -m dagster_project.records`; the descriptions are in that module.\n"
        "version: 2\n\nmodels:\n  - name: fct_requests\n"
        "    description: One row per request that a gateway logged, in the cross-provider schema.\n"
        "    config:\n      materialized: view\n"
        f"    columns:\n{columns}\n"
    )


if __name__ == "__main__":
    print(dbt_properties(), end="")
