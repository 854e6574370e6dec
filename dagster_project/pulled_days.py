"""When each day of a source was pulled: which days are in, and which were asked for again after they settled.

A source's days are one file. A day that was in the lake before there was such a file has no row until
it is pulled again.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime
from pathlib import Path
from typing import Any

import polars as pl

from dagster_project.records import Kind

DAY = ("source", "record_kind", "usage_date")
SCHEMA = {
    "source": pl.String,
    "record_kind": pl.String,
    "usage_date": pl.Date,
    "first_pulled_at": pl.Datetime("us"),
    "pulled_at": pl.Datetime("us"),
    "rows": pl.Int64,
}
NO_DAYS = pl.DataFrame(schema=SCHEMA)


def read(file: Path) -> pl.DataFrame:
    """The days of one source; none before its first pull."""
    return pl.read_parquet(file) if file.exists() else NO_DAYS


def last_pulled(known: pl.DataFrame, kind: Kind) -> dict[date, datetime]:
    """The instant (UTC, naive) of each day's last pull, of one source's days."""
    return _by_day(known, kind, "pulled_at")


def rows(known: pl.DataFrame, kind: Kind) -> dict[date, int]:
    """How many records each day's last pull put into the lake, of one source's days."""
    return _by_day(known, kind, "rows")


def _by_day(known: pl.DataFrame, kind: Kind, column: str) -> dict[date, Any]:
    return dict(known.filter(pl.col("record_kind") == kind).select("usage_date", column).iter_rows())


def good_days(known: pl.DataFrame) -> list[date]:
    """The days of which all kinds were pulled after they were over, of one source's days, in order."""
    is_over = pl.col("pulled_at") >= pl.col("usage_date").cast(pl.Datetime("us")) + pl.duration(days=1)
    return (
        known.group_by("usage_date")
        .agg(is_good=is_over.all() & (pl.len() == known["record_kind"].n_unique()))
        .filter("is_good")["usage_date"]
        .sort()
        .to_list()
    )


def with_pulled(
    known: pl.DataFrame, source: str, rows: Iterable[tuple[Kind, date, int]], pulled_at: datetime
) -> pl.DataFrame:
    """`known` and what the pull of the instant `pulled_at` (UTC, naive) put into the lake: one row per DAY.

    `rows` is how many records it has put there of each kind and day. Both frames have SCHEMA.
    """
    pulled = pl.DataFrame(
        [(source, kind, day, pulled_at, pulled_at, count) for kind, day, count in rows],
        schema=SCHEMA,
        orient="row",
    )
    return (
        pl.concat([known, pulled])
        .group_by(DAY)  # the rows of a group stay in order
        .agg(pl.first("first_pulled_at"), pl.last("pulled_at", "rows"))
        .sort(DAY)
    )
