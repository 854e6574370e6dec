"""Bills in other currencies keep their amounts; what is attributed is USD at the rate of the day."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal

import duckdb
import pytest
import yaml
from conftest import CHECKOUT, Books, written

from dagster_project import verdicts
from dagster_project.days import Days

DBT = CHECKOUT / "dbt"
LAST_OF_RATE, FIRST_OF_NEXT = date(2026, 9, 30), date(2026, 10, 1)
M = 1_000_000

OWNERSHIP = """
teams: {support: {}, search: {}}
services:
  bot: {team: support, match: {api_key: key_bot}}
  finder: {team: search, match: {api_key: key_finder}}
"""

RATES = [
    "EUR,2026-09-01,2026-10-01,1.10,September",
    "EUR,2026-10-01,2026-11-01,1.123456789012,October",
    "JPY,2026-09-01,2026-11-01,0.0067,two months",
]


@pytest.fixture(scope="module")
def books(tmp_path_factory) -> Books:
    books = Books(tmp_path_factory.mktemp("home"), seeds={"fx_rates": RATES})
    for day in (LAST_OF_RATE, FIRST_OF_NEXT):
        books.charge(
            day, "euro", "10", currency="EUR", list_cost=Decimal("12.5"), meter="input", model="gpt-4o"
        )
        books.used(day, "euro", "key_bot", model="gpt-4o", input_tokens=2 * M)
        books.used(day, "euro", "key_finder", model="gpt-4o", input_tokens=1 * M)
    books.charge(FIRST_OF_NEXT, "euro", "-1", currency="EUR", charge_category="credit")
    # half of the last digit is rounded away from zero, on both sides of it
    books.charge(FIRST_OF_NEXT, "digits", "0.000000000150", currency="JPY", line_item="up")
    books.charge(FIRST_OF_NEXT, "digits", "-0.000000000150", currency="JPY", line_item="down")
    # two currencies in one account's day
    books.charge(FIRST_OF_NEXT, "both", "300", currency="JPY", line_item="a")
    books.charge(FIRST_OF_NEXT, "both", "3", line_item="b")
    books.charge(FIRST_OF_NEXT, "huge", "12345678901234567890.123456789012")
    books.pull(Days(LAST_OF_RATE, FIRST_OF_NEXT))
    built = books.build(written(books.home, OWNERSHIP))
    assert built.returncode == 0, built.stdout
    return books


def test_the_rate_of_the_day_of_usage_holds(books):
    assert books.query(
        "select usage_date, currency, billed_cost, list_cost, usd_per_unit, billed_usd, list_usd "
        "from fct_charges where account_id = 'euro' and charge_category = 'usage' order by usage_date"
    ) == [
        (
            day,
            "EUR",
            Decimal(10),
            Decimal("12.5"),
            rate,
            rate * 10,
            rate * Decimal("12.5"),
        )
        for day, rate in ((LAST_OF_RATE, Decimal("1.1")), (FIRST_OF_NEXT, Decimal("1.123456789012")))
    ]


def test_teams_pay_dollars(books):
    # 10 EUR in September, 9 in October, by two thirds and one third
    assert books.query(
        "select usage_date, team, sum(cost_usd) from fct_cost_allocations where account_id = 'euro' "
        "group by all order by all"
    ) == [
        (LAST_OF_RATE, "search", Decimal("3.666666666667")),
        (LAST_OF_RATE, "support", Decimal("7.333333333333")),
        (FIRST_OF_NEXT, "search", Decimal("3.370370367036")),
        (FIRST_OF_NEXT, "support", Decimal("6.740740734072")),
    ]


def test_products_are_rounded_once(books):
    # 1.5e-10 JPY at 0.0067 is 1.005e-12 USD; what is in dollars is not touched
    assert books.query(
        "select line_item, billed_usd from fct_charges where account_id = 'digits' order by line_item"
    ) == [("down", Decimal("-0.000000000001")), ("up", Decimal("0.000000000001"))]
    assert books.query("select billed_usd, usd_per_unit from fct_charges where account_id = 'huge'") == [
        (Decimal("12345678901234567890.123456789012"), 1)
    ]


def test_every_currency_is_attributed_to_the_last_digit(books):
    assert books.query(
        "select account_id, billed_usd, attributed_usd from reconciliation_daily "
        "where account_id in ('both', 'euro') order by usage_date, account_id"
    ) == [
        ("euro", Decimal(11), Decimal(11)),
        ("both", Decimal("5.01"), Decimal("5.01")),
        ("euro", Decimal("10.111111101108"), Decimal("10.111111101108")),
    ]


@pytest.fixture(scope="module")
def unrated(tmp_path_factory) -> list[verdicts.Verdict]:
    """What a user is told where rates are missing: before, between and after those that are there."""
    books = Books(
        tmp_path_factory.mktemp("home"),
        seeds={"fx_rates": ["EUR,2026-10-02,2026-10-04,1.1,two days"]},
    )
    for day, amount in ((1, "1"), (2, "2"), (3, "4"), (4, "8"), (6, "16")):
        books.charge(date(2026, 10, day), "euro", amount, currency="EUR")
    books.charge(date(2026, 10, 6), "yen", "700", currency="JPY", charge_category="credit")
    books.used(date(2026, 10, 6), "euro", "key_bot", model="gpt-4o", input_tokens=M)
    books.pull(Days(date(2026, 10, 1), date(2026, 10, 6)))
    built = books.build(written(books.home, OWNERSHIP), "--exclude-resource-type", "unit_test")
    assert built.returncode != 0
    results = json.loads((books.home / "target" / "run_results.json").read_text(encoding="utf-8"))
    with duckdb.connect(str(books.lake.build), read_only=True) as build:
        return [verdict for verdict in verdicts.of_run(results["results"], build) if verdict.blocks]


def test_a_missing_rate_is_the_one_thing_that_is_told(unrated):
    (told,) = unrated
    assert told.test == "charges_without_an_fx_rate"
    rows = told.text.split("; ")
    assert rows[0].endswith(
        "currency=EUR, days=1, first_date=2026-10-01, last_date=2026-10-01, sources=openai, lines=1, "
        "billed_cost=1, remedy=write into dbt/seeds/fx_rates.csv: "
        "EUR,2026-10-01,2026-10-02,<USD for one EUR>,<whose rate>"
    )
    assert "days=2, first_date=2026-10-04, last_date=2026-10-06" in rows[1]
    assert "EUR,2026-10-04,2026-10-07," in rows[1]
    assert "currency=JPY" in rows[2]
    assert len(rows) == 3, "days with a rate are not told"


# Rates that are wrong, and what is wrong with each; the note of a good one is empty.
FX_RATES = """
currency,valid_from,valid_to,usd_per_unit,note
EUR,2026-10-01,2026-11-01,1.1,
EUR,2026-11-01,2026-12-01,1.2,
JPY,2026-10-01,2026-11-01,0.0067,
CHF,2026-10-01,2026-11-02,1.1,the next row of the currency begins before valid_to
CHF,2026-11-01,2026-12-01,1.2,
GBP,2026-10-01,2026-11-01,1.3,the next row of the currency begins before valid_to
GBP,2026-10-01,2026-12-01,1.3,
NOK,2026-10-01,,0.1,no valid_to: a rate does not hold for ever
SEK,,2026-11-01,0.1,no valid_from
DKK,2026-11-01,2026-11-01,0.15,valid_to is not after valid_from
PLN,2026-10-01,2026-11-01,,no usd_per_unit
CZK,2026-10-01,2026-11-01,0,usd_per_unit is not positive
HUF,2026-10-01,2026-11-01,-0.003,usd_per_unit is not positive
eur,2026-10-01,2026-11-01,1.1,the currency is not an ISO 4217 code in upper case
EURO,2026-10-01,2026-11-01,1.1,the currency is not an ISO 4217 code in upper case
USD,2026-10-01,2026-11-01,1,amounts are converted to USD; a rate for it means nothing
,2026-10-01,2026-11-01,1.1,no currency
"""


def test_malformed_rates_are_told(tmp_path):
    (tmp_path / "fx_rates.csv").write_text(FX_RATES.lstrip(), encoding="utf-8")
    (seed,) = yaml.safe_load((DBT / "seeds/fx_rates.yml").read_text(encoding="utf-8"))["seeds"]
    columns = ", ".join(f"{name} {type_}" for name, type_ in seed["config"]["column_types"].items())
    test = (DBT / "tests/fx_rates_are_well_formed.sql").read_text(encoding="utf-8")
    with duckdb.connect() as connection:
        connection.execute(f"create table fx_rates ({columns})")
        connection.execute(f"copy fx_rates from '{tmp_path}/fx_rates.csv' (header)")
        told = test.replace('{{ ref("fx_rates") }}', "fx_rates")
        found = connection.sql(f"select problem, note from ({told}) order by all").fetchall()
        wrong = connection.sql("select note from fx_rates where note is not null order by all").fetchall()
    assert found == [(note, note) for (note,) in wrong]
    assert len(wrong) == FX_RATES.count("\n") - 2 - 5, "five are good"


def test_the_seed_has_the_columns_that_are_described():
    (seed,) = yaml.safe_load((DBT / "seeds/fx_rates.yml").read_text(encoding="utf-8"))["seeds"]
    header = (DBT / "seeds/fx_rates.csv").read_text(encoding="utf-8").splitlines()[0].split(",")
    assert header == list(seed["config"]["column_types"]) == [column["name"] for column in seed["columns"]]
