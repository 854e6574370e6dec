"""Splitting money: the parts sum to the amount to the last digit, whatever the weights are."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import duckdb
import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

MACROS = Path(__file__).parents[1] / "dbt" / "macros" / "exact_share.sql"
PICO = 10**12


@pytest.fixture(scope="module")
def split():
    macros = jinja2.Environment().from_string(MACROS.read_text(encoding="utf-8")).module
    share = macros.duckdb__exact_share("amount", "weight", "upto", "total", "1000000000000")
    query = f"""
        with weights as (
            select unnest(?::hugeint[]) as weight, generate_subscripts(?::hugeint[], 1) as place
        ),
        cumulated as (
            select ?::decimal(38, 12) as amount, weight, place, sum(weight) over (order by place) as upto,
                sum(weight) over () as total
            from weights
        )
        select {share} from cumulated order by place"""
    connection = duckdb.connect()

    def parts(amount: Decimal, weights: list[int]) -> list[Decimal]:
        texts = [str(weight) for weight in weights]
        return [part for (part,) in connection.execute(query, [texts, texts, str(amount)]).fetchall()]

    yield parts
    connection.close()


def oracle(amount: Decimal, weights: list[int]) -> list[Decimal]:
    """The definition, in exact fractions: differences of rounded cumulative amounts."""
    sign = -1 if amount < 0 else 1
    upto, before, parts = 0, 0, []
    for weight in weights:
        upto += weight
        exact = Fraction(abs(int(amount * PICO)) * upto, sum(weights))
        cumulative = int(exact + Fraction(1, 2))  # half goes up
        parts.append(sign * Decimal(cumulative - before) / PICO)
        before = cumulative
    return parts


@pytest.mark.parametrize(
    ("amount", "weights", "parts"),
    [
        ("9.00", [750, 250], ["6.75", "2.25"]),
        ("3.60", [300, 100], ["2.70", "0.90"]),
        ("1", [1, 1, 1], ["0.333333333333", "0.333333333334", "0.333333333333"]),
        ("-1", [1, 1, 1], ["-0.333333333333", "-0.333333333334", "-0.333333333333"]),
        ("0.000000000001", [1, 1], ["0.000000000001", "0"]),
        ("0", [5, 0, 7], ["0", "0", "0"]),
        ("7", [0, 3, 0], ["0", "7", "0"]),
    ],
)
def test_parts_by_weight(split, amount, weights, parts):
    assert split(Decimal(amount), weights) == [Decimal(part) for part in parts]


@settings(max_examples=200, deadline=None)
@given(
    amount=st.decimals(min_value=-(10**9), max_value=10**9, places=12),
    weights=st.lists(st.integers(0, 10**17), min_size=1, max_size=20).filter(any),
)
def test_any_split_is_exact(split, amount, weights):
    parts = split(amount, weights)
    assert sum(parts) == amount
    assert parts == oracle(amount, weights)
