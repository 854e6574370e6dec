"""Forgetting request records and answers of APIs, after the days that `retention` in sources.yaml says.

No number is made of either. Request records are shown by the view `fct_requests` alone: a day that is too old
becomes a file without rows, which no reader of the view ever misses; its rollup stays, and so does the number
of its records, by which a later pull is judged (`pulled_days`). Answers (`raw/`) are read by people only.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from shutil import copyfile
from typing import NamedTuple

import duckdb

from dagster_project.errors import ConfigError
from dagster_project.ingest import empty_records
from dagster_project.lake import Lake, replace_file
from dagster_project.settings import Retention


class Forgotten(NamedTuple):
    """How many pulls' answers, and days of a source's request records, are gone for good."""

    answers: int
    days_of_requests: int


def honour(lake: Lake, retention: Retention, today: date) -> Forgotten:
    """Forget what is too old on the UTC day `today`. Whatever ends this process in the middle, the next call
    does the rest.

    Raises ConfigError where a link stands for a folder of answers.
    """
    if retention == Retention():
        return Forgotten(0, 0)
    with lake.scratch() as scratch, lake.locked("warehouse"):
        return Forgotten(
            _forget_answers(lake, retention.first_raw_day(today), scratch),
            _forget_requests(lake, retention.first_request_day(today), scratch),
        )


def _forget_answers(lake: Lake, first: date, scratch: Path) -> int:
    old = [folder for folder, days in lake.answers() if days.last < first]
    linked = sorted({str(place) for folder in old for place in folder.parents[:2] if place.is_symlink()})
    if linked:
        raise ConfigError(
            ", ".join(linked),
            ["is a link, and what is behind it is not removed: put a folder there, or leave out `raw_days`"],
        )
    for folder in old:
        # With the scratch it is removed: as a folder, or as the link that it is.
        folder.rename(scratch / f"{folder.parent.name} {folder.name}")
    return len(old)


def _forget_requests(lake: Lake, first: date, scratch: Path) -> int:
    days = sorted(lake.root.glob("records/request/*/????-??-??.parquet"))
    old = [str(file) for file in days if date.fromisoformat(file.stem) < first]
    if not old:
        return 0
    empty, new = scratch / "empty.parquet", scratch / "new.parquet"
    with duckdb.connect() as engine:
        filled = engine.execute(
            "select file_name from parquet_file_metadata(?) where num_rows > 0 order by all", [old]
        ).fetchall()
        empty_records(engine, empty)
    for (file,) in filled:
        copyfile(empty, new)
        replace_file(new, Path(file))
    return len(filled)
