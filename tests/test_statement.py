"""What a statement says of a warehouse; none is written where bills are not what was attributed of them."""

from __future__ import annotations

import csv
from datetime import date
from decimal import Decimal
from pathlib import Path

import duckdb
import polars as pl
import pytest

from dagster_project import statement
from dagster_project.statement import Bill, NotReconciled, Totals

OCTOBER = date(2026, 10, 1)


@pytest.fixture
def warehouse() -> duckdb.DuckDBPyConnection:
    """Two months; October has bills of three accounts, an estimate, a correction and what nobody priced."""
    engine = duckdb.connect()
    engine.execute(
        """
        create table fct_charges as
        select usage_date::date as usage_date, provider, account_id, currency,
            billed_cost::decimal(38, 12) as billed_cost, billed_usd::decimal(38, 12) as billed_usd
        from (values
            ('2026-10-01', 'openai', 'acme', 'USD', 0.000000000001, 0.000000000001),
            ('2026-10-31', 'openai', 'acme', 'USD', 5, 5),
            ('2026-10-31', 'openai', 'acme', 'EUR', 10, 11),
            ('2026-10-31', 'mistral', null, 'EUR', -2, -2.2),
            ('2026-09-30', 'openai', 'acme', 'USD', 100, 100),
            ('2026-11-01', 'openai', 'acme', 'USD', 200, 200)
        ) as lines (usage_date, provider, account_id, currency, billed_cost, billed_usd);

        create table fct_cost_allocations as
        select usage_date::date as usage_date, cost_basis, corrects_date::date as corrects_date,
            cost_usd::decimal(38, 12) as cost_usd
        from (values
            ('2026-10-01', 'billed', null, 0.000000000001),
            ('2026-10-31', 'billed', null, 13.8),
            ('2026-10-02', 'rated_usage', null, 2.5),
            ('2026-10-02', 'unpriced', null, null),
            ('2026-10-01', 'billed', '2026-09-30', -7),
            ('2026-10-01', 'rated_usage', '2026-09-30', 3),
            ('2026-09-30', 'billed', null, 100),
            ('2026-11-01', 'billed', null, 200)
        ) as parts (usage_date, cost_basis, corrects_date, cost_usd);

        create table statements as
        select month::date as month, team, is_closed, cost_usd::decimal(38, 12) as cost_usd
        from (values
            ('2026-10-01', 'support', false, -3), ('2026-10-01', 'search', false, 0.000000000001),
            ('2026-10-01', null, false, null), ('2026-09-01', 'search', true, 9)
        ) as rows (month, team, is_closed, cost_usd)
        """
    )
    return engine


def test_the_totals_add_up_to_the_bills_of_the_month_alone(warehouse):
    totals = statement.totals(warehouse, OCTOBER)
    assert totals == Totals(
        allocations=6,
        cost_usd=Decimal("12.300000000001"),
        billed_usd=Decimal("13.800000000001"),
        estimated_usd=Decimal("2.5"),
        corrections_usd=Decimal(-4),
        bills=[
            Bill("mistral", None, "EUR", 1, Decimal(-2), Decimal("-2.2")),
            Bill("openai", "acme", "EUR", 1, Decimal(10), Decimal(11)),
            Bill("openai", "acme", "USD", 2, Decimal("5.000000000001"), Decimal("5.000000000001")),
        ],
    )


def test_the_last_digit_that_was_not_attributed_is_told(warehouse):
    warehouse.execute("delete from fct_cost_allocations where cost_usd = 0.000000000001")
    with pytest.raises(NotReconciled) as refused:
        statement.totals(warehouse, OCTOBER)
    assert str(refused.value) == (
        "2026-10: bills sum to 13.800000000001 USD, what is attributed of them to 13.800000000000; "
        "nothing was closed"
    )


def test_a_month_without_anything_has_totals_too(warehouse):
    nothing = Decimal(0)
    assert statement.totals(warehouse, date(2026, 12, 1)) == Totals(0, nothing, nothing, nothing, nothing, [])


def test_both_files_have_the_rows_of_the_month_to_the_last_digit(warehouse, tmp_path: Path):
    statement.write(warehouse, OCTOBER, tmp_path)
    assert pl.read_parquet(tmp_path / "statement.parquet").rows() == [
        (OCTOBER, "search", Decimal("0.000000000001")),
        (OCTOBER, "support", Decimal(-3)),
        (OCTOBER, None, None),
    ]
    with (tmp_path / "statement.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["month", "team", "cost_usd"],
            ["2026-10-01", "search", "0.000000000001"],
            ["2026-10-01", "support", "-3.000000000000"],
            ["2026-10-01", "", ""],
        ]
