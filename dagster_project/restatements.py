"""The ledger of what a provider said of a day after it had said something else.

Days of charges and usage are compared with what the lake held of them when they are replaced. A row is
one column of one record that is not what it was: of a record that came or went, every amount and
quantity, and every text that the row does not show in KEY or SHOWN. So a day's records as of any
earlier pull are those of today, with the ledger's rows undone from the last to the first; only names
are not in it (`names` keeps those), and the day's first load is not a change.

A record whose currency changed went and came: amounts of two currencies have no difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from filecmp import cmp
from pathlib import Path

import duckdb

from dagster_project.lake import Lake
from dagster_project.records import BY_NAME, COLUMNS, MONEY, QUANTITIES, TAGS, Kind

KINDS: tuple[Kind, ...] = ("charge", "usage")
"""The kinds that money and owners are taken from; requests only divide them."""

KEY = ("source", "record_kind", "usage_date", "record_id", "currency")
SHOWN = (
    "provider",
    "account_id",
    "provider_project_id",
    "api_key_id",
    "model",
    "service_tier",
    "meter",
    "charge_category",
    "line_item",
)
"""What a row says of the record besides its KEY, as of after the pull; before it, if the record went."""

_NUMBERS = ("BIGINT", "INTEGER", MONEY)
_LEDGER = {
    **{name: BY_NAME[name].type for name in (*KEY, *SHOWN)},
    "change": "VARCHAR",
    "measure": "VARCHAR",
    "before": MONEY,
    "after": MONEY,
    "text_before": "VARCHAR",
    "text_after": "VARCHAR",
    "restated_at": "TIMESTAMP",
    "pull_id": "VARCHAR",
}
"""The columns of the ledger. `before` and `after` are null where there was or is nothing."""


@dataclass(frozen=True)
class Restated:
    """What a pull changed: how many records, and the sum of what that did to bills, by currency."""

    records: int
    billed_cost: Mapping[str, Decimal]


NOTHING = Restated(0, {})


def next_pull_id(lake: Lake, source: str, pulled_at: datetime) -> str:
    """The instant (UTC, naive) as text, which sorts after all pulls that are in the source's ledger.

    It is later than the instant where that is not: pulls wait for each other, and clocks step back.
    """
    last = max((file.stem for file in lake.restatements_of(source).glob("*.parquet")), default="")
    pull_id = _text(pulled_at)
    return pull_id if pull_id > last else _text(datetime.fromisoformat(last) + timedelta(microseconds=1))


def _text(instant: datetime) -> str:
    return f"{instant:%Y-%m-%dT%H:%M:%S.%f}Z"


def write(
    connection: duckdb.DuckDBPyConnection,
    replaced: Mapping[Path, Path],
    pulled_at: datetime,
    pull_id: str,
    ledger: Path,
) -> Restated:
    """Write to the file `ledger` how day files differ from those that they replace.

    It has no row, or is not there, where no record does.

    `replaced` has the new day files by their places: of one source, with the lock of its pulls.
    """
    differing = {
        old: new for old, new in replaced.items() if old.exists() and not cmp(old, new, shallow=False)
    }
    if not differing:
        return NOTHING
    differences = _differences(list(differing), list(differing.values()), pulled_at, pull_id)
    connection.execute(f"copy ({differences}) to '{ledger}' (format parquet, compression zstd)")
    ((records,),) = connection.execute(
        f"select count(distinct (record_kind, usage_date, record_id)) from read_parquet('{ledger}')"
    ).fetchall()
    billed = connection.execute(
        "select currency, sum(coalesce(after, 0) - coalesce(before, 0)) "
        f"from read_parquet('{ledger}') where measure = 'billed_cost' group by currency order by currency"
    ).fetchall()
    return Restated(records, dict(billed))


def empty(connection: duckdb.DuckDBPyConnection, file: Path) -> None:
    """A ledger without a row."""
    columns = ", ".join(f"null::{kind} as {name}" for name, kind in _LEDGER.items())
    connection.execute(f"copy (select {columns} limit 0) to '{file}' (format parquet)")


def _differences(old: Sequence[Path], new: Sequence[Path], pulled_at: datetime, pull_id: str) -> str:
    key = ", ".join(f"coalesce(after.{name}, before.{name}) as {name}" for name in KEY)
    shown = ", ".join(
        f"case when after.record_id is null then before.{name} else after.{name} end as {name}"
        for name in SHOWN
    )
    pairs = " and ".join(f"before.{name} is not distinct from after.{name}" for name in KEY)
    columns = ", ".join((*KEY, *SHOWN))
    return f"""
with was as ({_compared(old)}), says as ({_compared(new)}),
before as (from was except from says),
after as (from says except from was),
changes as (
  select {key}, {shown},
    case when before.record_id is null then 'added' when after.record_id is null then 'removed'
      else 'changed' end as change,
    unnest(list_filter({_MEASURES}, lambda told: told.before is distinct from told.after
      or told.text_before is distinct from told.text_after)) as measured
  from before full join after on {pairs}
)
select {columns}, change, measured.measure, measured.before, measured.after,
  measured.text_before, measured.text_after,
  timestamp '{pulled_at}' as restated_at, '{pull_id}' as pull_id
from changes
where change = 'changed' or measured.measure not in {SHOWN}
order by record_kind, usage_date, record_id, currency, measured.measure"""


def _compared(files: Sequence[Path]) -> str:
    """What the day files say, without names. A column that old files do not have is null."""
    typed = ", ".join(f"null::{column.type} as {column.name}" for column in COLUMNS)
    # Sorted, equal tags have equal texts.
    compared = [
        f"list_sort(map_entries({c.name})) as {c.name}" if c.type == TAGS else c.name for c in _COMPARED
    ]
    return f"""select {", ".join([*KEY, *compared])} from (
    select {typed} where false
    union all by name
    select * from read_parquet({[str(file) for file in files]}, union_by_name = true)
  )"""


def _measures() -> str:
    """A list of all that is compared of `before` and `after`, with the number or the text of both."""
    numbers = [
        _number(f"'{c.name}'", f"before.{c.name}", f"after.{c.name}") for c in _COMPARED if c.type in _NUMBERS
    ]
    texts = [
        f"{{'measure': '{c.name}', 'before': null, 'after': null, "
        f"'text_before': before.{c.name}::varchar, 'text_after': after.{c.name}::varchar}}"
        for c in _COMPARED
        if c.type not in (*_NUMBERS, QUANTITIES)
    ]
    maps = [
        "list_transform("
        f"list_distinct(list_concat(map_keys(before.{c.name}), map_keys(after.{c.name}))), lambda key: "
        + _number(f"'{c.name}.' || key", f"before.{c.name}[key]", f"after.{c.name}[key]")
        + ")"
        for c in _COMPARED
        if c.type == QUANTITIES
    ]
    return f"list_concat([{', '.join(numbers + texts)}], {', '.join(maps)})"


def _number(measure: str, before: str, after: str) -> str:
    return (
        f"{{'measure': {measure}, 'before': {before}::{MONEY}, 'after': {after}::{MONEY}, "
        "'text_before': null::varchar, 'text_after': null::varchar}"
    )


_COMPARED = tuple(c for c in COLUMNS if c.name not in KEY and not c.name.endswith("_name"))
_MEASURES = _measures()
