"""A pull that keeps nothing: how a source's rows would be read, and everything that is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dagster_project.days import Days
from dagster_project.ingest import connection_in, typed_relation
from dagster_project.lake import Lake
from dagster_project.records import Kind
from dagster_project.sources import Source


@dataclass(frozen=True)
class Trial:
    """What a pull would take, by kind: how many records, and the first of them by column (filled ones only);
    the source's own counts; and the problems for which it would take nothing.
    """

    rows: Mapping[Kind, int]
    first: Mapping[Kind, Sequence[Mapping[str, Any]]]
    counts: Mapping[str, int]
    problems: Sequence[str]


def of(source: Source, days: Days, lake: Lake, shown: int) -> Trial:
    """Try `source` on `days`, and show so many records of each kind. The lake stays as it is.

    Raises SourceError when it cannot be read at all.
    """
    with lake.scratch() as scratch, connection_in(scratch) as connection:
        raw = scratch / "raw"
        raw.mkdir()
        source.module.fetch(source.entry, days, raw)
        parsed = source.module.parse(source.entry, days, raw, connection)
        wanted = f"usage_date between date '{days.first}' and date '{days.last}'"
        rows, first = {}, {}
        for kind in source.kinds:
            typed = typed_relation(connection, parsed.records[kind], scratch / f"{kind}.parquet")
            records = typed.filter(wanted)
            (rows[kind],) = records.aggregate("count(distinct {d: usage_date, i: record_id})").fetchall()[0]
            some = records.order("started_at, record_id").limit(shown)
            first[kind] = [
                {
                    name: value
                    for name, value in zip(some.columns, row, strict=True)
                    if value not in (None, {})
                }
                for row in some.fetchall()
            ]
    return Trial(rows, first, dict(parsed.counts), list(parsed.problems))
