"""Texts of bills' lines: what they name, each distinct text read once and joined to its rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
from duckdb import ConstantExpression as Literal

from dagster_project.records import METERS

_OF_TOKENS = (*(meter.name for meter in METERS if meter.unit == "tokens"), "input_video")
"""Video has no column; its tokens are a key of `other_meters`."""

COUNTS_TOKENS = f"""meter in ({", ".join(f"'{meter}'" for meter in _OF_TOKENS)})"""
"""SQL: whether what a line's `meter` counts is tokens."""


@dataclass(frozen=True)
class Line:
    """What the text of a line item names; null where it names nothing or is not understood."""

    model: str | None = None
    meter: str | None = None
    service_tier: str | None = None
    context_tier: str | None = None


def named(
    raw: Path,
    rows: duckdb.DuckDBPyRelation,
    text: str,
    line_of: Callable[[str], Line],
    kind: type[Line] = Line,
) -> duckdb.DuckDBPyRelation:
    """`rows` with the columns of `Line`, or of a `kind` with more, in place of the column `text`, which
    `line_of` reads.
    """
    schema = {field.name: pl.String for field in fields(kind)}
    found = told(rows, raw, [text], lambda said: {} if said is None else asdict(line_of(said)), schema)
    return found.project(f"* exclude ({text})")


def told(
    rows: duckdb.DuckDBPyRelation,
    raw: Path,
    columns: Sequence[str],
    tell: Callable[..., Mapping[str, Any]],
    schema: Mapping[str, type[pl.DataType]],
) -> duckdb.DuckDBPyRelation:
    """`rows` with what `tell`, in the columns of `schema`, says of their `columns`, which are texts: a bill
    has many rows and few different texts, and Python reads those better than SQL.
    """
    texts = rows.project(", ".join(columns)).distinct().fetchall()
    said = [{**dict(zip(columns, text, strict=True)), **tell(*text)} for text in texts]
    file = raw / "line_items.parquet"
    pl.DataFrame(said, schema={**dict.fromkeys(columns, pl.String), **schema}).write_parquet(file)
    agree = " and ".join(f"rows.{name} is not distinct from texts.{name}" for name in columns)
    return rows.query(
        "rows",
        f"select rows.*, texts.* exclude ({', '.join(columns)}) "
        f"from rows join read_parquet({Literal(str(file))}) as texts on {agree}",
    )


def any_of(texts: Collection[str], globs: Collection[str]) -> str:
    """SQL: whether one of the SQL values `texts` is one of `globs`, without regard to case."""
    told = (f"lower({text}) glob {Literal(pattern.lower())}" for text in texts for pattern in globs)
    return f"coalesce({', '.join(f'nullif({one}, false)' for one in told)}, false)"


def expression_of_any(globs: Collection[str]) -> str:
    """An RE2 expression of all texts that `any_of` takes for one of `globs`, in lower case, for a database
    that knows no globs. It may be of more: of a set of characters it is content with any.
    """

    def piece(found: re.Match[str]) -> str:
        match found[0]:
            case "*":
                return ".*"
            case "?":
                return "."
            case text if text.startswith("[") and text != "[":
                return "."
            case text:
                return re.escape(text[-1])

    pieces = (re.sub(r"\\.|\[!?\]?[^\]]*\]|.", piece, glob.lower(), flags=re.DOTALL) for glob in globs)
    return f"(?s)^(?:{'|'.join(pieces)})$"


def counts(rows: duckdb.DuckDBPyRelation, charges: duckdb.DuckDBPyRelation) -> Mapping[str, int]:
    """Of staged `rows` those that were left out (`is_other`), and of `charges` what is `unparsed`."""
    return {
        "rows_of_other_services": rows.filter("is_other").shape[0],
        "unparsed_line_items": unparsed(charges),
    }


def unparsed(charges: duckdb.DuckDBPyRelation) -> int:
    """How many lines of usage name no meter."""
    return charges.filter("charge_category = 'usage' and meter is null").shape[0]
