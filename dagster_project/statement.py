"""What a closed month says to Finance: who pays how much, per cost centre, and the totals that prove it.

Nothing here knows where files are or which months are closed (see `closing`): it reads an open warehouse and
writes into the folder that it is given.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb

from dagster_project.errors import ChargebackError
from dagster_project.terminal import plain

_BILLED = """
select provider, account_id, currency, count(*), sum(billed_cost), sum(billed_usd)
from fct_charges
where date_trunc('month', usage_date) = ?
group by all
order by all
"""

_TOTALS = """
select
    count(*),
    coalesce(sum(cost_usd), 0),
    coalesce(sum(cost_usd) filter (where cost_basis = 'billed' and corrects_date is null), 0),
    coalesce(sum(cost_usd) filter (where cost_basis <> 'billed' and corrects_date is null), 0),
    coalesce(sum(cost_usd) filter (where corrects_date is not null), 0)
from fct_cost_allocations
where date_trunc('month', usage_date) = ?
"""


# Spreadsheets pass over blanks, some read full-width signs as the plain ones, and where the comma is for
# decimals a semicolon, which nothing quotes, ends the cell.
_FORMULA = re.compile(r"""(?:^|(?<=[;,|\t\r\n]))(?=[\t\r\n]|[\s"]*[=+\-@＝＋－＠])""")  # noqa: RUF001
"""Places where a spreadsheet would begin to read a formula."""


@dataclass(frozen=True)
class Bill:
    """What one account's bill of the month sums to: lines, amount in its own currency, and in USD."""

    provider: str
    account_id: str | None
    currency: str
    lines: int
    billed_cost: Decimal
    billed_usd: Decimal


@dataclass(frozen=True)
class Totals:
    """Control totals of a month, in USD; `cost_usd` sums the three others, `billed_usd` sums `bills`."""

    allocations: int
    cost_usd: Decimal
    billed_usd: Decimal
    estimated_usd: Decimal
    corrections_usd: Decimal
    bills: Sequence[Bill]


class NotReconciled(ChargebackError):
    """The month's allocations are not its bills: a defect, so nothing may be signed."""

    def __init__(self, month: date, received: Decimal, attributed: Decimal) -> None:
        super().__init__(
            f"{month:%Y-%m}: bills sum to {received:f} USD, what is attributed of them to {attributed:f}; "
            "nothing was closed"
        )


def totals(warehouse: duckdb.DuckDBPyConnection, month: date) -> Totals:
    """The control totals, taken from the bills and from the allocations. Raises NotReconciled."""
    bills = [Bill(*row) for row in warehouse.execute(_BILLED, [month]).fetchall()]
    found = Totals(*warehouse.execute(_TOTALS, [month]).fetchall()[0], bills)
    received = sum((bill.billed_usd for bill in bills), Decimal(0))
    if received != found.billed_usd:
        raise NotReconciled(month, received, found.billed_usd)
    return found


def write(warehouse: duckdb.DuckDBPyConnection, month: date, folder: Path) -> None:
    """Write the month's rows of the mart `statements`, every digit of them, as Parquet and CSV."""
    rows = f"select * exclude (is_closed) from statements where month = date '{month}' order by all"
    warehouse.execute(f"copy ({rows}) to '{folder / 'statement.parquet'}' (format parquet)")
    asked = warehouse.execute(rows)
    columns = [column[0] for column in asked.description]
    write_csv(
        folder / "statement.csv", columns, (dict(zip(columns, row, strict=True)) for row in asked.fetchall())
    )


def write_csv(file: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Rows as CSV that a spreadsheet opens as text and numbers: no name is a formula, or moves a cursor."""
    with file.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, columns)
        writer.writeheader()
        writer.writerows({column: _cell(row[column]) for column in columns} for row in rows)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Decimal):
        return f"{value:f}"
    shown = "".join(c if c.isprintable() or c.isspace() else plain(c) for c in str(value))
    return _FORMULA.sub("'", shown)
