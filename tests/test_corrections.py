"""Whatever is pulled, restated, closed and reopened in whatever order: months sum to all bills ever received.

The models that book corrections run as dbt compiles them, on tables made here, so that many histories
can be tried. The whole pipeline through a year is in test_closing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Any

import duckdb
import pytest
from conftest import Books, dbt, written
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dagster_project import ownership, rates, warehouse
from dagster_project import settings as deployment

MODELS = ("int_closed_through", "int_allocations_closed", "int_corrections", "fct_cost_allocations")
Row = tuple[object, ...]
COLUMNS = """
    usage_date date, allocation_id varchar, team varchar, provider varchar, account_id varchar, meter varchar,
    quantity decimal(38, 12), cost_usd decimal(38, 12), list_cost_usd decimal(38, 12), cost_basis varchar,
    charge_id varchar
"""
MONTHS = [date(2026, month, 1) for month in range(1, 13)]
LINES = {
    "first": (date(2026, 1, 1), "acme"),
    "second": (date(2026, 1, 28), "acme"),
    "later": (date(2026, 2, 1), "acme"),
    "uncounted": (date(2026, 1, 1), None),
    "recounted": (date(2026, 2, 28), None),
}
"""Each with its day and account. `uncounted` has no quantity; that of `recounted` changes by itself."""
USAGE = [(date(2026, 1, 2), "acme"), *LINES.values()]

BOOKED = "(select * replace (coalesce(corrects_date, usage_date) as usage_date) from fct_cost_allocations)"
SUMS = """
    select charge_id, usage_date, account_id, cost_basis = 'billed' as is_billed, meter,
        coalesce(sum(cost_usd), 0) as cost, coalesce(sum(list_cost_usd), 0) as list,
        sum(quantity) filter (charge_id is distinct from 'recounted') as counted
    from {}
    group by all
    having cost <> 0 or list <> 0 or counted <> 0
    order by all
"""
"""Per meter of a line, or of the day of an account that is estimated or that lines elsewhere pay for.

Not the quantities of a line that is counted anew: its money is the same.
"""

BROKEN = {
    "booked twice": "select allocation_id from fct_cost_allocations group by all having count(*) > 1",
    "corrects no earlier month": """
        select * from fct_cost_allocations where corrects_date >= date_trunc('month', usage_date)
    """,
    "as open as its month is closed": """
        select * from fct_cost_allocations
        where is_closed <> (date_trunc('month', usage_date) in (select month from lake_closed_months))
    """,
    "says nothing": """
        select * from fct_cost_allocations
        where corrects_date is not null and cost_usd = 0 and coalesce(quantity, 0) = 0
    """,
    "a part of what is whole": "select * from fct_cost_allocations where quantity <> trunc(quantity)",
    "corrects an amount that is the same": """
        select * from intermediate.int_corrections as corrections
        where (select sum(cost_usd) from lake_closed as booked where booked.charge_id = corrections.charge_id)
            = (select sum(cost_usd) from intermediate.int_allocations as known
                where known.charge_id = corrections.charge_id)
    """,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Mapping[str, str]:
    """The SQL of MODELS as dbt compiles it, with tables in place of the files of the lake."""
    books = Books(tmp_path_factory.mktemp("home"))
    warehouse.prepare(books.lake, deployment.Settings({}, ()))
    seen = rates.resolve([])
    tables = ownership.load(written(books.home, "teams: {}\n")).tables()
    warehouse.write_tables(books.lake, {"models": seen, "rate_card": rates.rate_card(seen), **tables})
    compiled = dbt("compile", books.home, "--select", *MODELS)
    assert compiled.returncode == 0, compiled.stdout
    texts = {file.stem: file.read_text() for file in (books.home / "target" / "compiled").rglob("*.sql")}
    return {
        name: re.sub(r"read_parquet\('[^']*/(closed_months|closed)\b[^)]*\)", r"lake_\1", texts[name])
        for name in MODELS
    }


class History:
    """A deployment in which only bills, estimates, owners and closings happen."""

    def __init__(self, models: Mapping[str, str]) -> None:
        self._models = models
        self._engine = duckdb.connect(config={"threads": 1})
        self._engine.execute("attach ':memory:' as warehouse; use warehouse; create schema intermediate")
        self._engine.execute(f"create table intermediate.int_allocations ({COLUMNS})")
        self._engine.execute("create table lake_closed_months (month date)")
        self._engine.execute(f"create table lake_closed ({COLUMNS}, corrects_date date, is_closed boolean)")
        self.bills: dict[str, Decimal] = {}
        self.usage: dict[tuple[date, str | None], Decimal | None] = {}
        self.recounted = 0
        self.owners: Sequence[str] = ("support",)
        self.closed: dict[date, list[Row]] = {}

    def build(self) -> None:
        """What the waterfall would make of the bills by today's owners; then the models."""
        rows: list[Row] = []
        for line, amount in self.bills.items():
            # the meters, quantities and list costs of a line follow from its amount
            meters = {"input": amount - 1, "output": Decimal(1)} if int(amount) % 2 else {"input": amount}
            for meter, usd in meters.items():
                count = 3 + int(abs(usd)) + (self.recounted if line == "recounted" else 0)
                counted = None if line == "uncounted" else count
                rows += self._fragments(*LINES[line], meter, usd, counted, "billed", line)
        billed = {LINES[line] for line in self.bills}
        for where, amount in self.usage.items():
            of_usage = (amount, 3, "unpriced" if amount is None else "rated_usage")
            if where in billed:
                of_usage = (Decimal(0), 3, "billed")
            rows += self._fragments(*where, "input", *of_usage, None)
        self._engine.execute("delete from intermediate.int_allocations")
        if rows:
            self._engine.executemany(
                "insert into intermediate.int_allocations values (?, ?, ?, 'openai', ?, ?, ?, ?, ?, ?, ?)",
                rows,
            )
        for name, sql in self._models.items():
            schema = "intermediate" if name.startswith("int_") else "main"
            self._engine.execute(f"create or replace table {schema}.{name} as {sql}")

    def _fragments(
        self,
        day: date,
        account: str | None,
        meter: str,
        amount: Decimal | None,
        quantity: int | None,
        basis: str,
        line: str | None,
    ) -> Iterator[Row]:
        """One per owner, in equal parts; the first has what is left over."""
        others = len(self.owners) - 1
        for number, team in enumerate(self.owners):
            cost = None
            if amount is not None:
                part = (amount / len(self.owners)).quantize(Decimal("1e-12"))
                cost = part if number else amount - part * others
            count = quantity
            if quantity is not None:
                count = quantity // len(self.owners)
                count = count if number else quantity - count * others
            list_cost = None if quantity is None or cost is None else 2 * abs(cost)
            fragment = f"{line or basis} of {account}, {day}, {meter}/{number}"
            yield day, fragment, team, account, meter, count, cost, list_cost, basis, line

    def close(self) -> None:
        month = next(month for month in MONTHS if month not in self.closed)
        self._engine.execute("insert into lake_closed_months values (?)", [month])
        self._engine.execute(
            "insert into lake_closed by name from fct_cost_allocations "
            "where date_trunc('month', usage_date) = ?",
            [month],
        )
        self.closed[month] = self.booked_in(month)

    def reopen(self) -> None:
        if self.closed:
            month, _ = self.closed.popitem()
            self._engine.execute("delete from lake_closed_months where month = ?", [month])
            self._engine.execute("delete from lake_closed where date_trunc('month', usage_date) = ?", [month])

    def booked_in(self, month: date) -> list[Row]:
        return self._ask(
            "select allocation_id, team, cost_usd, quantity, list_cost_usd, corrects_date "
            "from fct_cost_allocations where date_trunc('month', usage_date) = ? order by all",
            month,
        )

    def _ask(self, sql: str, *parameters: object) -> list[Row]:
        return self._engine.execute(sql, list(parameters)).fetchall()

    def check(self) -> None:
        self.build()
        ((billed,),) = self._ask("select sum(cost_usd) from fct_cost_allocations where charge_id is not null")
        assert (billed or 0) == sum(self.bills.values())
        assert self._ask(SUMS.format(BOOKED)) == self._ask(SUMS.format("intermediate.int_allocations"))
        for month, rows in self.closed.items():
            assert self.booked_in(month) == rows
        assert {what: found for what, sql in BROKEN.items() if (found := self._ask(sql))} == {}


KEPT, UNPRICED = "kept", "unpriced"
amounts = st.integers(-3, 9).map(Decimal) | st.decimals(min_value=-1000, max_value=10**6, places=12)
changed = st.sampled_from([KEPT, KEPT, None]) | amounts
estimated = st.sampled_from([KEPT, None, UNPRICED]) | amounts.filter(lambda usd: usd > 0)
rounds = st.lists(
    st.tuples(
        st.fixed_dictionaries(dict.fromkeys(LINES, changed)),
        st.fixed_dictionaries(dict.fromkeys(USAGE, estimated)),
        st.integers(0, 2),
        st.lists(st.sampled_from(["support", "search"]), min_size=1, max_size=3),
        st.sampled_from(["close", "close", "close", "reopen"]),
    ),
    min_size=2,
    max_size=6,
)
"""What is billed and used anew (None: no more), how it is counted, who pays it, and what is done then."""


def change(told: dict[Any, Decimal], said: Mapping[Any, Any]) -> None:
    for what, amount in said.items():
        if amount is None:
            told.pop(what, None)
        elif amount != KEPT:
            told[what] = None if amount == UNPRICED else amount


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rounds=rounds)
def test_months_sum_to_all_bills_ever_received(models, rounds):
    history = History(models)
    for bills, usage, history.recounted, history.owners, then in rounds:
        change(history.bills, bills)
        change(history.usage, usage)
        history.check()
        if then == "close":
            history.close()
        else:
            history.reopen()
        history.check()
