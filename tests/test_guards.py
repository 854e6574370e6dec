"""The guards: what no bill of a working source looks like stops the build; what is just within does not.

Each account is a story. Prices are the catalogue's: gpt-4o 2.50 USD per million input tokens, 10 for output.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

import duckdb
import pytest
from conftest import ACTIVE_TAGS, Books, dbt, hand_written, written

from dagster_project import settings, verdicts, warehouse
from dagster_project.days import Days
from dagster_project.errors import ConfigError, ContractError
from dagster_project.ingest import ingest

JULY, AUGUST, SEPTEMBER = date(2026, 7, 5), date(2026, 8, 5), date(2026, 9, 5)
DAY, NEXT_DAY = date(2026, 10, 5), date(2026, 10, 6)
M = 1_000_000
TICK = Decimal("0.000000000001")

GUARDS = (
    "implied_prices_are_plausible",
    "bills_are_plausible_beside_usage",
    "bills_are_pulled_once",
    "usage_reports_are_pulled_once",
    "usage_counts_cached_tokens_once",
    "most_tokens_have_a_price",
)

SEEDS = {
    "contract_prices": ["openai,agreed,gpt-4o,input,,2026-01-01,,300,,dear but agreed"],
    "fx_rates": ["VND,2026-01-01,2027-01-01,0.00004,"],
}


def line(quantity: int | None = None, **named: Any) -> dict[str, Any]:
    """A line of gpt-4o's input tokens; without `quantity` one that does not say how many."""
    counted = {"quantity": Decimal(quantity), "quantity_unit": "tokens"} if quantity is not None else {}
    return {"model": "gpt-4o", "meter": "input", **counted, **named}


def priced_by_the_line(books: Books) -> None:
    """4 million tokens are 10 USD."""
    for account, amount in {
        "cents for dollars": "1000",
        "at most": "500",
        "above it": str(500 + TICK),
        "at least": "0.2",
        "below it": str(Decimal("0.2") - TICK),
        "free": "0",
        "agreed": "1200",
    }.items():
        books.charge(DAY, account, amount, **line(4 * M))
    books.charge(DAY, "thousands for units", "10", **line(4000))
    books.charge(DAY, "dust", str(Decimal("0.01") - TICK), **line(1))
    books.charge(DAY, "a cent", "0.01", **line(1))
    books.charge(DAY, "dong", "250000", currency="VND", **line(4 * M))
    books.charge(DAY, "no price", "1000", **line(4 * M, model="home-made"))
    books.charge(DAY, "other unit", "1000", **line(4, quantity_unit="bundles"))
    books.charge(DAY, "refund", "10", **line(4 * M))
    books.charge(DAY, "refund", "-900", **line(4 * M))
    books.charge(DAY, "refund", "-900", **line(4 * M, charge_category="credit"))
    # a dear and a cheap line of one meter are one price
    books.charge(DAY, "together", "0.001", **line(4 * M, api_key_id="key_a"))
    books.charge(DAY, "together", "19.999", **line(4 * M, api_key_id="key_b"))


def priced_by_the_report(books: Books) -> None:
    """4 million tokens are 10 USD in the usage report, and the bill does not count."""
    used = {"model": "gpt-4o", "input_tokens": 4 * M}
    for account, amount in {
        "report: cents for dollars": "1000",
        "report: at most": "500",
        "report: above it": str(500 + TICK),
        "report: still coming in": "0.001",
    }.items():
        books.charge(DAY, account, amount, **line())
        books.used(DAY, account, "key_a", **used)
    # the day after shows that the bill is in
    for account, amount in {
        "report: at least": "0.2",
        "report: below it": str(Decimal("0.2") - TICK),
    }.items():
        for day, billed in ((DAY, amount), (NEXT_DAY, "10")):
            books.charge(day, account, billed, **line())
            books.used(day, account, "key_a", **used)
    # two lines that pay for the same cell do not make its usage two
    books.charge(DAY, "report: two lines", str(300 + TICK), **line())
    books.charge(DAY, "report: two lines", "200", **line(context_tier="short"))
    books.used(DAY, "report: two lines", "key_a", **used)
    # lines that say neither model nor meter: a plan beside the usage, or the bill as a whole
    books.charge(DAY, "report: a plan", "10", **line())
    books.charge(DAY, "report: a plan", "5000", line_item="Support plan")
    books.used(DAY, "report: a plan", "key_a", **used)
    books.charge(DAY, "report: one sum", "5000", line_item="Everything")
    books.used(DAY, "report: one sum", "key_a", **used)
    # of what nobody knows the price or the usage nothing can be said
    books.charge(DAY, "report: no price", "1000", **line(model="home-made"))
    books.used(DAY, "report: no price", "key_a", model="home-made", input_tokens=4 * M)
    books.charge(DAY, "report: no usage of it", "1000", **line(model="gpt-5.5"))
    books.used(DAY, "report: no usage of it", "key_a", **used)
    books.charge(DAY, "report: tax", "10", **line())
    books.charge(DAY, "report: tax", "1000", charge_category="tax", model="gpt-4o", meter="input")
    books.used(DAY, "report: tax", "key_a", **used)


def cached_tokens(books: Books) -> None:
    """The bill has 1,000,000 of uncached input, 200,000 read from the cache and 50,000 written to it."""
    reported = {
        "cached: apart": 1 * M,
        "cached: reads inside": 1_200_000,
        "cached: all inside": 1_250_000,
        "cached: a bit off": 1_201_200,
        "cached: too far off": 1_201_201,
        "cached: neither": 1_100_000,
    }
    for account, tokens in reported.items():
        for meter, quantity, amount in (
            ("input", 1 * M, "2.5"),
            ("cache_read", 200_000, "0.25"),
            ("cache_write_other", 50_000, "0.125"),
        ):
            books.charge(DAY, account, amount, **line(quantity, meter=meter))
        books.used(DAY, account, "key_a", model="gpt-4o", input_tokens=tokens, cache_read_tokens=200_000)
    # so few that nobody can tell
    books.charge(DAY, "cached: few", "2.5", **line(1 * M))
    books.charge(DAY, "cached: few", "0.001", **line(1000, meter="cache_read"))
    books.used(DAY, "cached: few", "key_a", model="gpt-4o", input_tokens=1_001_000, cache_read_tokens=1000)


def unpriced(books: Books) -> None:
    """In July and August 100 million tokens that no bill pays; of one model nobody knows the price."""
    for day, tokens in ((JULY, 25 * M + 1), (AUGUST, 25 * M)):
        books.used(day, "unpriced", "key_a", model="Home-Made", output_tokens=tokens)
        books.used(day, "unpriced", "key_a", model="gpt-4o", input_tokens=100 * M - tokens)
    # what is billed, what its gateway knows the cost of, and what names no model
    books.charge(SEPTEMBER, "unpriced, billed", "10", **line(50 * M, model="home-made", meter="output"))
    books.used(SEPTEMBER, "unpriced, billed", "key_a", model="home-made", output_tokens=50 * M)
    known = {"model": "home-made", "output_tokens": 50 * M, "reported_cost": Decimal(3)}
    books.asked(SEPTEMBER, "unpriced, reported", None, "vk", **known)
    books.used(SEPTEMBER, "unpriced, nameless", "key_a", output_tokens=50 * M)


def pulled_twice(books: Books, days: Days) -> None:
    """Two entries of sources.yaml with accounts of their own; both see what is not only theirs."""
    shared = (
        lambda of, source: of.charge(DAY, f"{source} twice", "10", api_key_id="key_1", **line(4 * M)),
        lambda of, source: of.charge(
            DAY, f"{source} by project", "-7", provider_project_id="proj_1", charge_category="credit"
        ),
        lambda of, source: of.used(DAY, f"{source} used", "key_2", model="gpt-4o", input_tokens=1234),
    )
    # as much of what every account has, of nothing, or of as much by another name is no evidence
    apart: Sequence[Callable[[Books, str], None]] = (
        lambda of, source: of.charge(
            DAY, f"{source} default", "10", provider_project_id="default", api_key_id="no_key", **line(4 * M)
        ),
        lambda of, source: of.charge(DAY, f"{source} nobody", "10", **line(4 * M)),
        lambda of, source: of.charge(DAY, f"{source} nothing", "0", api_key_id="key_3", **line(0)),
        lambda of, source: of.charge(DAY, source, "10", api_key_id=f"key_{source}", **line(4 * M)),
        lambda of, source: of.charge(
            DAY if source == "again" else NEXT_DAY, source, "10", api_key_id="key_4", **line(4 * M)
        ),
        lambda of, source: of.charge(
            DAY, source, "10" if source == "again" else "11", api_key_id="key_5", **line(4 * M)
        ),
        lambda of, source: of.used(DAY, f"{source} no key", "no_key", model="gpt-4o", input_tokens=1234),
        lambda of, source: of.used(
            DAY, source, "key_6", model="gpt-4o", input_tokens=1 if source == "again" else 2
        ),
    )
    again = Books(books.home)
    for write in (*shared, *apart):
        write(books, "once")
        write(again, "again")
    # parts of one whole, which one source tells apart
    for _ in range(2):
        books.charge(DAY, "parts", "10", api_key_id="key_7", **line(4 * M))
    ingest(
        hand_written("again", {"charge": again.charges, "usage": again.usage}),
        days,
        books.lake,
        ACTIVE_TAGS,
        days.start,
    )


@dataclass
class Tripped:
    """What each guard found, as rows and as the text that a user reads."""

    books: Books
    rows: Mapping[str, Sequence[Mapping[str, Any]]]
    texts: Mapping[str, str]

    def accounts(self, guard: str) -> list[str]:
        return sorted(row["account_id"] for row in self.rows[guard])


def guarded(books: Books) -> Tripped:
    """The guards, asked of the models that are built."""
    assert dbt("test", books.home, "--select", *GUARDS).returncode == 1
    results = json.loads((books.home / "target" / "run_results.json").read_text(encoding="utf-8"))
    rows = {}
    with duckdb.connect(str(books.lake.build), read_only=True) as build:
        for result in results["results"]:
            found = build.execute(result["compiled_code"])
            columns = [column[0] for column in found.description]
            guard = result["unique_id"].split(".")[2]
            rows[guard] = [dict(zip(columns, row, strict=True)) for row in found.fetchall()]
        told = verdicts.of_run(results["results"], build)
    assert all(verdict.blocks for verdict in told)
    assert sorted(rows) == sorted(GUARDS)
    return Tripped(books, rows, {verdict.test: verdict.text for verdict in told})


@pytest.fixture(scope="module")
def tripped(tmp_path_factory) -> Tripped:
    books = Books(tmp_path_factory.mktemp("home"), seeds=SEEDS)
    days = Days(JULY, NEXT_DAY)
    priced_by_the_line(books)
    priced_by_the_report(books)
    cached_tokens(books)
    unpriced(books)
    pulled_twice(books, days)
    books.pull(days)
    skipped = ("--exclude-resource-type", "test", "--exclude-resource-type", "unit_test")
    made = books.build(
        written(books.home, "teams: {support: {}}"),
        "--select",
        "+int_fragments_identified",
        *skipped,
        guards=settings.DEFAULT_GUARDS,
    )
    assert made.returncode == 0, made.stdout
    return guarded(books)


def test_a_price_far_from_the_known_one_is_not_a_bill(tripped):
    guard = "implied_prices_are_plausible"
    assert tripped.accounts(guard) == [
        "a cent",
        "above it",
        "below it",
        "cents for dollars",
        "thousands for units",
    ]
    problems = {row["account_id"]: row["problem"] for row in tripped.rows[guard]}
    assert problems["cents for dollars"] == "billed 100.0 times the known price"
    assert problems["thousands for units"] == "billed 1000.0 times the known price"
    assert problems["below it"] == "billed 1/50.0 of the known price"
    assert tripped.texts[guard].startswith(
        "5 rows, e.g. usage_date=2026-10-05, provider=openai, account_id=cents for dollars, "
        "model_key=gpt-4o, meter=input, quantity=4000000, quantity_unit=tokens, billed_usd=1000, "
        "usd_at_known_price=10, problem=billed 100.0 times the known price, "
        "remedy=if the bill is right, write its price into dbt/seeds/contract_prices.csv: "
        "openai,cents for dollars,gpt-4o,input,,2026-10-05,,<USD per million>,,<where agreed>; "
        "else the source openai misreads the unit of its amounts or quantities; "
    )


def test_a_bill_far_from_the_usage_it_is_for_is_not_a_bill(tripped):
    guard = "bills_are_plausible_beside_usage"
    assert tripped.accounts(guard) == [
        "report: above it",
        "report: below it",
        "report: cents for dollars",
        "report: one sum",
        "report: two lines",
    ]
    row = next(row for row in tripped.rows[guard] if row["account_id"] == "report: two lines")
    assert (row["lines"], row["billed_usd"], row["usage_at_known_price"]) == (2, 500 + TICK, 10)


def test_a_bill_and_a_report_that_are_pulled_twice_are_told_once(tripped):
    billed = [
        (row["sources"], row["accounts"], row["lines_pulled_twice"], row["billed_cost"], row["for_example"])
        for row in tripped.rows["bills_are_pulled_once"]
    ]
    assert sorted(billed) == [
        ("again, openai", "again by project, once by project", 1, -7, "proj_1"),
        ("again, openai", "again twice, once twice", 1, 10, "key_1"),
    ]
    used = [
        (row["sources"], row["accounts"], row["tokens"], row["for_example"])
        for row in tripped.rows["usage_reports_are_pulled_once"]
    ]
    assert used == [("again, openai", "again used, once used", 1234, "key_2")]


def test_a_report_that_counts_cached_tokens_as_input_is_told(tripped):
    guard = "usage_counts_cached_tokens_once"
    assert tripped.accounts(guard) == ["cached: a bit off", "cached: all inside", "cached: reads inside"]


def test_too_many_tokens_without_a_price_are_told_with_the_line_to_write(tripped):
    (row,) = tripped.rows["most_tokens_have_a_price"]
    assert (row["month"], row["model"], row["tokens"]) == (date(2026, 7, 1), "Home-Made", 25 * M + 1)
    assert row["unpriced_tokens_of_the_month"] == 25 * M + 1
    assert row["tokens_of_the_month"] == 100 * M
    assert row["remedy"] == (
        "write into dbt/seeds/contract_prices.csv: "
        "openai,,home-made,output,,2026-07-05,,<USD per million>,,<where agreed>"
    )


# After what asks with the default thresholds: it replaces them.
def test_thresholds_are_those_of_the_configuration(tripped):
    loose = settings.Guards(price_factor=1000, unpriced_share=Decimal("0.26"))
    warehouse.prepare(tripped.books.lake, settings.Settings({}, ACTIVE_TAGS, guards=loose))
    found = guarded(tripped.books)
    assert sorted(found.texts) == [
        "bills_are_pulled_once",
        "implied_prices_are_plausible",
        "usage_counts_cached_tokens_once",
        "usage_reports_are_pulled_once",
    ]
    assert found.accounts("implied_prices_are_plausible") == ["a cent"]


@pytest.mark.parametrize(
    ("guards", "problem"),
    [
        ("{price_factor: 1}", "guards.price_factor: Input should be greater than 1"),
        ("{unpriced_share: 1.5}", "guards.unpriced_share: Input should be less than or equal to 1"),
        (
            "{smallest_day_share: -0.1}",
            "guards.smallest_day_share: Input should be greater than or equal to 0",
        ),
        ("{dearest: 5}", "guards.dearest: Extra inputs are not permitted"),
    ],
)
def test_thresholds_that_mean_nothing_are_refused(tmp_path, guards, problem):
    file = tmp_path / "sources.yaml"
    file.write_text(f"sources: {{}}\nguards: {guards}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        settings.load(file, {})
    assert problem in str(raised.value)


def test_thresholds_have_defaults_and_are_read_exactly(tmp_path):
    file = tmp_path / "sources.yaml"
    file.write_text("sources: {}\nguards: {unpriced_share: 0.1}\n", encoding="utf-8")
    assert settings.load(file, {}).guards == settings.Guards(
        smallest_day_share=Decimal("0.1"), price_factor=Decimal(50), unpriced_share=Decimal("0.1")
    )


def test_reasoning_is_part_of_the_output_in_a_usage_report(tmp_path):
    """A gateway's log may break it; a provider's report that does is misread."""
    day = Days(DAY, DAY)
    for counted in ({"output_tokens": 5, "reasoning_tokens": 5}, {"output_tokens": 5}):
        books = Books(tmp_path)
        books.used(DAY, "acme", "key_a", model="gpt-5.5", **counted)
        books.asked(DAY, "acme", "key_a", "vk", model="gpt-5.5", output_tokens=5, reasoning_tokens=6)
        books.pull(day)
    for counted in ({"output_tokens": 5, "reasoning_tokens": 6}, {"reasoning_tokens": 1}):
        books = Books(tmp_path)
        books.used(DAY, "acme", "key_a", model="gpt-5.5", **counted)
        with pytest.raises(ContractError, match="`reasoning_tokens` are more than the `output_tokens`"):
            books.pull(day)
