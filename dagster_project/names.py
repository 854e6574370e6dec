"""What things are called, and since when. A listing knows today's names only, and not what was deleted.

A source's names are one file, of which nothing is lost but names that did not last until the day's last
pull. `int_names` makes periods of it: the first name that was ever seen has always held.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date

import polars as pl

from dagster_project.sources import Name

THING = ("kind", "provider", "account_id", "id")
SCHEMA = {
    "source": pl.String,
    **dict.fromkeys(THING, pl.String),
    "name": pl.String,
    "seen_date": pl.Date,
}
NO_NAMES = pl.DataFrame(schema=SCHEMA)


def with_listed(known: pl.DataFrame, source: str, listed: Iterable[Name], seen_date: date) -> pl.DataFrame:
    """`known` and what a pull on the UTC day `seen_date` found: a row per thing and change of its name.

    A name that is null says nothing. Both frames have SCHEMA.
    """
    rows = [{**name._asdict(), "source": source, "seen_date": seen_date} for name in listed if name.name]
    return (
        pl.concat([known, pl.DataFrame(rows, schema=SCHEMA)])
        .unique([*THING, "seen_date"], keep="last", maintain_order=True)
        .sort(*THING, "seen_date")
        .filter(pl.col("name").ne_missing(pl.col("name").shift().over(*THING)))
    )
