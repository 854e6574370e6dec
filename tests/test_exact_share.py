"""Splitting money: the parts sum to the amount to the last digit, whatever the weights are."""

from __future__ import annotations

from decimal import Decimal, localcontext
from fractions import Fraction
from pathlib import Path

import duckdb
import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

MACROS = Path(__file__).parents[1] / "dbt" / "macros" / "exact_share.sql"
PICO = 10**12
MOST, LEAST = (Decimal(f"{sign}99999999999999999999999999.999999999999") for sign in ("", "-"))
HEAVIEST = 10**25 - 1
"""Of all weights together: ten trillion USD."""

macros = jinja2.Environment().from_string(MACROS.read_text(encoding="utf-8")).module


@pytest.fixture(scope="module")
def split():
    connection = duckdb.connect()

    def parts(amount: Decimal, weights: list[int], units: str = str(PICO)) -> list[Decimal]:
        share = macros.duckdb__exact_share("amount", "weight", "upto", "total", units)
        texts = [str(weight) for weight in weights]
        rows = connection.execute(
            f"""
            with weights as (
                select unnest(?::hugeint[]) as weight, generate_subscripts(?::hugeint[], 1) as place
            ),
            cumulated as (
                select ?::decimal(38, 12) as amount, weight, place, sum(weight) over (order by place) as upto,
                    sum(weight) over () as total
                from weights
            )
            select {share} from cumulated order by place""",
            [texts, texts, str(amount)],
        ).fetchall()
        return [part for (part,) in rows]

    yield parts
    connection.close()


def oracle(amount: Decimal, weights: list[int], units: int = PICO) -> list[Decimal]:
    """The definition, in exact fractions: differences of rounded cumulative amounts."""
    whole = int(abs(Fraction(amount)) * units)
    upto, before, parts = 0, 0, []
    for weight in weights:
        upto += weight
        cumulative = int(Fraction(whole * upto, sum(weights)) + Fraction(1, 2))  # half goes up
        parts.append((cumulative - before) * Decimal(1).copy_sign(amount) / units)
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
        # a charge of twenty million over usage that is rated as much
        ("20000000", [3 * 10**18, 17 * 10**18], ["3000000", "17000000"]),
        ("-20000000", [17 * 10**18, 3 * 10**18], ["-17000000", "-3000000"]),
    ],
)
def test_parts_by_weight(split, amount, weights, parts):
    assert split(Decimal(amount), weights) == [Decimal(part) for part in parts]


@st.composite
def _weights(draw: st.DrawFn) -> list[int]:
    """From a few to as many as there may be, zeros among them; together within the limit."""
    size = draw(st.integers(1, 20))
    greatest = HEAVIEST // size
    weight = st.one_of(st.just(0), st.integers(0, 1000), st.integers(0, greatest), st.just(greatest))
    return draw(st.lists(weight, min_size=size, max_size=size).filter(any))


_amounts = st.one_of(
    st.decimals(min_value=LEAST, max_value=MOST, places=12),
    st.decimals(min_value=-(10**9), max_value=10**9, places=12),
    st.decimals(min_value=Decimal("-0.001"), max_value=Decimal("0.001"), places=12),
    # up to ten trillion there is a shorter way to whole units
    st.sampled_from([MOST, LEAST, 10**13 - Decimal(1) / PICO, Decimal(10**13), -Decimal(10**13)]),
)


@settings(max_examples=100, deadline=None)
@given(amount=_amounts, weights=_weights())
def test_any_split_is_exact(split, amount, weights):
    with localcontext(prec=50):
        parts = split(amount, weights)
        assert sum(parts) == amount
        assert parts == oracle(amount, weights)


@settings(max_examples=100, deadline=None)
@given(tokens=st.integers(0, 10**15), weights=_weights())
def test_whole_quantities_stay_whole(split, tokens, weights):
    parts = split(Decimal(tokens), weights, macros.quantity_units("amount"))
    assert sum(parts) == tokens
    assert parts == oracle(Decimal(tokens), weights, units=1)
    assert all(part == int(part) for part in parts)


@settings(max_examples=100, deadline=None)
@given(
    amount=st.decimals(min_value=0, max_value=MOST, places=12),
    quantity=st.decimals(min_value=0, max_value=10**15, places=3),
)
def test_weights_are_exact(amount, quantity):
    weights = f"select {macros.money_weight('$1')}, {macros.quantity_weight('$2')}"
    typed = weights.replace("$1", "$1::decimal(38, 12)").replace("$2", "$2::decimal(38, 12)")
    with localcontext(prec=50):
        assert duckdb.execute(typed, [str(amount), str(quantity)]).fetchall() == [
            (int(amount * PICO), int(quantity * 1000))
        ]


def test_more_than_the_limit_is_an_error_and_never_a_wrong_part(split):
    with pytest.raises(duckdb.OutOfRangeException):
        split(Decimal(10**20), [10**30, 10**30 + 1])
