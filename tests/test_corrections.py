"""Whatever is pulled, restated, closed and reopened in whatever order: months sum to all bills ever received.

The models that book corrections run as dbt compiles them, on tables made here, so that many histories
can be tried. The whole pipeline through a year is in test_closing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import date
from decimal import Decimal

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
MONTHS = [date(2026, month, 1) for month in range(1, 7)]


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
        self._engine = duckdb.connect()
        self._engine.execute("attach ':memory:' as warehouse; use warehouse; create schema intermediate")
        self._engine.execute(f"create table intermediate.int_allocations ({COLUMNS})")
        self._engine.execute("create table lake_closed_months (month date)")
        self._engine.execute(f"create table lake_closed ({COLUMNS}, corrects_date date, is_closed boolean)")
        self.bills: dict[str, tuple[date, Decimal]] = {}
        self.estimates: dict[date, Decimal] = {}
        self.owners: tuple[str, ...] = ("support",)
        self.closed: dict[date, list[Row]] = {}

    def build(self) -> None:
        """What the waterfall would make of the bills by today's owners; then the models."""
        rows = []
        for line, (day, amount) in self.bills.items():
            rows += self._fragments(day, amount, "billed", line)
        for day, amount in self.estimates.items():
            if not any(day == billed for billed, _ in self.bills.values()):
                rows += self._fragments(day, amount, "rated_usage", None)
        self._engine.execute("delete from intermediate.int_allocations")
        if rows:
            self._engine.executemany(
                "insert into intermediate.int_allocations "
                "values (?, ?, ?, 'openai', 'acme', 'input', ?, ?, ?, ?, ?)",
                rows,
            )
        for name, sql in self._models.items():
            schema = "intermediate" if name.startswith("int_") else "main"
            self._engine.execute(f"create or replace table {schema}.{name} as {sql}")

    def _fragments(self, day: date, amount: Decimal, basis: str, line: str | None) -> Iterator[Row]:
        part = (amount / len(self.owners)).quantize(Decimal("1e-12"))
        for number, team in enumerate(self.owners):
            cost = amount - part * (len(self.owners) - 1) if number == 0 else part
            yield day, f"{line or basis} of {day}/{number}", team, abs(cost), cost, 2 * abs(cost), basis, line

    def close(self) -> None:
        open_months = [month for month in MONTHS if month not in self.closed]
        if open_months:
            month = open_months[0]
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
            "select allocation_id, team, cost_usd, quantity, corrects_date from fct_cost_allocations "
            "where date_trunc('month', usage_date) = ? order by all",
            month,
        )

    def booked(self) -> Mapping[str | None, Decimal]:
        """Over all months, by line of the bill; estimates have none."""
        return dict(self._ask("select charge_id, sum(cost_usd) from fct_cost_allocations group by all"))

    def _ask(self, sql: str, *parameters: object) -> list[Row]:
        return self._engine.execute(sql, list(parameters)).fetchall()

    def check(self) -> None:
        known = Counter({line: amount for line, (_, amount) in self.bills.items()})
        billed_days = {day for day, _ in self.bills.values()}
        known[None] = sum((usd for day, usd in self.estimates.items() if day not in billed_days), Decimal(0))
        booked = self.booked()
        for line in {*known, *booked}:
            assert booked.get(line, Decimal(0)) == known[line], line
        for month, rows in self.closed.items():
            assert self.booked_in(month) == rows
        ids = self._ask("select count(*), count(distinct allocation_id) from fct_cost_allocations")[0]
        assert ids[0] == ids[1]
        ((misplaced,),) = self._ask(
            "select count(*) from fct_cost_allocations where corrects_date >= date_trunc('month', usage_date)"
        )
        assert misplaced == 0


amounts = st.decimals(min_value=-1000, max_value=10**6, places=12).filter(bool)
days = st.sampled_from(MONTHS).flatmap(lambda month: st.sampled_from([month, month.replace(day=28)]))
steps = st.lists(
    st.one_of(
        st.tuples(st.just("bill"), st.sampled_from("abcdef"), days, amounts),
        st.tuples(st.just("gone"), st.sampled_from("abcdef")),
        st.tuples(st.just("estimate"), days, amounts.filter(lambda amount: amount > 0)),
        st.tuples(st.just("owners"), st.permutations(["support", "search", "research"]), st.integers(1, 3)),
        st.tuples(st.just("close")),
        st.tuples(st.just("close")),
        st.tuples(st.just("reopen")),
    ),
    min_size=3,
    max_size=14,
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps)
def test_months_sum_to_all_bills_ever_received(models, steps):
    history = History(models)
    history.build()
    for step, *what in steps:
        if step == "bill":
            line, day, amount = what
            # a line keeps its day: it would be another line otherwise
            history.bills[line] = (history.bills.get(line, (day, amount))[0], amount)
        elif step == "gone":
            history.bills.pop(what[0], None)
        elif step == "estimate":
            history.estimates[what[0]] = what[1]
        elif step == "owners":
            history.owners = tuple(what[0][: what[1]])
        elif step == "close":
            history.close()
        else:
            history.reopen()
        history.build()
        history.check()
