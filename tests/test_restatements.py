"""The ledger tells every change of a bill or usage report once, and what was said before follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import polars as pl
import pytest
from conftest import ACTIVE_TAGS, Books, dbt, hand_written, written
from hypothesis import given, settings
from hypothesis import strategies as st

from dagster_project import pulled_days, restatements
from dagster_project.days import Days
from dagster_project.ingest import Report, ingest
from dagster_project.lake import Lake

MONDAY, TUESDAY = date(2026, 10, 5), date(2026, 10, 6)
DAYS = Days(MONDAY, TUESDAY)
FIRST, SECOND, THIRD = (datetime(2026, 10, day, 5, 0, 0, 123456, tzinfo=UTC) for day in (7, 8, 9))


@pytest.fixture
def books(home) -> Books:
    return Books(home)


def ledger(books: Books, columns: str, where: str = "true", source: str = "openai") -> list[tuple[Any, ...]]:
    files = books.lake.restatements(source, "*")
    return duckdb.sql(
        f"select {columns} from read_parquet('{files}') where {where} "
        "order by pull_id, record_kind, usage_date, record_id, currency, measure"
    ).fetchall()


def no_ledger(books: Books) -> bool:
    return not list((books.home / "lake").rglob("restatements/*"))


CHANGES = "record_id, change, measure, before, after, text_before, text_after"


def test_the_first_load_of_a_day_and_a_pull_that_changes_nothing_write_nothing(books):
    books.charge(MONDAY, "acme", "1.50")
    books.used(MONDAY, "acme", "key", input_tokens=10, other_meters={"file_searches": Decimal(2)})
    books.asked(MONDAY, "acme", "key", "vk", input_tokens=10)
    books.pull(Days(MONDAY, MONDAY), instant=FIRST)
    books.charge(TUESDAY, "acme", "2")
    books.charges.reverse()
    reports = books.pull(DAYS, instant=SECOND)
    assert no_ledger(books)
    assert [report.restated for report in reports] == [restatements.NOTHING] * 2


def test_equal_maps_in_another_order_and_names_are_no_change(books):
    meters = {"pages": Decimal(1), "minutes": Decimal(2)}
    books.used(MONDAY, "acme", "key", tags={"a": "1", "b": "2"}, other_meters=meters, api_key_name="new")
    books.pull(DAYS, instant=FIRST)
    file = books.lake.records("usage", "openai", MONDAY)
    other = file.with_suffix(".other")
    maps = ", ".join(
        f"map_from_entries(list_reverse(map_entries({name}))) as {name}" for name in ("tags", "other_meters")
    )
    duckdb.sql(
        f"copy (select * replace ({maps}, 'old' as api_key_name) from read_parquet('{file}')) "
        f"to '{other}' (format parquet)"
    )
    other.replace(file)
    assert books.pull(DAYS, instant=SECOND)[0].restated == restatements.NOTHING
    assert no_ledger(books)


def test_a_restated_charge_is_told_with_both_amounts_and_when(books):
    books.charge(
        MONDAY, "acme", "1.50", quantity=Decimal(3), model="gpt-4o", meter="output", api_key_id="key_1"
    )
    books.charge(MONDAY, "acme", "7")
    books.pull(DAYS, instant=FIRST)
    books.charges[0] = {**books.charges[0], "billed_cost": Decimal("1.250000000001")}
    report = books.pull(DAYS, instant=SECOND)[0]
    what = (
        "source, record_kind, usage_date, provider, account_id, api_key_id, model, meter, currency, line_item"
    )
    assert ledger(books, what) == [
        ("openai", "charge", MONDAY, "openai", "acme", "key_1", "gpt-4o", "output", "USD", "output")
    ]
    changed = ("charge 0", "changed", "billed_cost", Decimal("1.5"), Decimal("1.250000000001"), None, None)
    assert ledger(books, CHANGES) == [changed]
    assert ledger(books, "restated_at, pull_id") == [
        (datetime(2026, 10, 8, 5, 0, 0, 123456), "2026-10-08T05:00:00.123456Z")  # noqa: DTZ001 - naive UTC
    ]
    assert report.restated == restatements.Restated(1, {"USD": Decimal("-0.249999999999")})


def test_records_that_come_and_go_are_told_by_all_that_they_said(books):
    books.used(MONDAY, "acme", "key", input_tokens=10, output_tokens=0, region="eu", model="m")
    books.pull(DAYS, instant=FIRST)
    gone = books.usage.pop()
    books.used(
        MONDAY, "acme", "key", output_tokens=4, record_id="new", other_meters={"pages": Decimal("0.5")}
    )
    assert books.pull(DAYS, instant=SECOND)[0].restated.records == 2
    bucket = {"started_at": str(gone["started_at"]), "ended_at": str(gone["ended_at"])}
    assert ledger(books, CHANGES, "change = 'added'") == [
        ("new", "added", "ended_at", None, None, None, bucket["ended_at"]),
        ("new", "added", "other_meters.pages", None, Decimal("0.5"), None, None),
        ("new", "added", "output_tokens", None, 4, None, None),
        ("new", "added", "started_at", None, None, None, bucket["started_at"]),
    ]
    assert ledger(books, CHANGES, "change = 'removed'") == [
        ("usage 0", "removed", "ended_at", None, None, bucket["ended_at"], None),
        ("usage 0", "removed", "input_tokens", 10, None, None, None),
        ("usage 0", "removed", "output_tokens", 0, None, None, None),
        ("usage 0", "removed", "region", None, None, "eu", None),
        ("usage 0", "removed", "started_at", None, None, bucket["started_at"], None),
    ]
    assert ledger(books, "distinct model, service_tier", "change = 'removed'") == [("m", "standard")]


def test_meters_without_a_column_and_texts_are_told_one_by_one(books):
    books.used(MONDAY, "acme", "key", other_meters={"pages": Decimal(1), "minutes": Decimal(2)})
    books.charge(MONDAY, "acme", "5", tags={"squad": "a", "stage": "b"})
    books.pull(DAYS, instant=FIRST)
    books.usage[0] = {**books.usage[0], "other_meters": {"pages": Decimal(1), "seats": Decimal(3)}}
    books.charges[0] = {
        **books.charges[0],
        "charge_category": "credit",
        "line_item": 'it\'s "new"',
        "quantity_unit": "tokens",
        "tags": {"stage": "c", "squad": "a"},
        "api_key_name": "names are in another file",
    }
    report = books.pull(DAYS, instant=SECOND)[0]
    assert ledger(books, CHANGES, "record_kind = 'usage'") == [
        ("usage 0", "changed", "other_meters.minutes", 2, None, None, None),
        ("usage 0", "changed", "other_meters.seats", None, 3, None, None),
    ]
    assert ledger(books, CHANGES, "record_kind = 'charge'") == [
        ("charge 0", "changed", "charge_category", None, None, "usage", "credit"),
        ("charge 0", "changed", "line_item", None, None, "a line", 'it\'s "new"'),
        ("charge 0", "changed", "quantity_unit", None, None, None, "tokens"),
        (
            "charge 0",
            "changed",
            "tags",
            None,
            None,
            "[{'key': squad, 'value': a}, {'key': stage, 'value': b}]",
            "[{'key': squad, 'value': a}, {'key': stage, 'value': c}]",
        ),
    ]
    assert report.restated == restatements.Restated(2, {})


def test_a_charge_in_another_currency_went_and_came(books):
    books.charge(MONDAY, "acme", "5")
    books.pull(DAYS, instant=FIRST)
    books.charges[0] = {**books.charges[0], "currency": "EUR"}
    report = books.pull(DAYS, instant=SECOND)[0]
    assert ledger(books, "change, currency, before, after", "measure = 'billed_cost'") == [
        ("added", "EUR", None, 5),
        ("removed", "USD", 5, None),
    ]
    assert report.restated == restatements.Restated(1, {"EUR": Decimal(5), "USD": Decimal(-5)})


def test_a_day_that_says_nothing_any_more_is_told_and_neighbours_are_not(books):
    books.charge(MONDAY, "acme", "5")
    books.charge(TUESDAY, "acme", "6")
    books.pull(DAYS, instant=FIRST)
    books.charges = []
    books.pull(Days(TUESDAY, TUESDAY), instant=SECOND)
    removed = ledger(books, "usage_date, change, before, after", "measure = 'billed_cost'")
    assert removed == [(TUESDAY, "removed", 6, None)]


def test_requests_are_not_in_the_ledger(books):
    books.asked(MONDAY, "acme", "key", "vk", input_tokens=1)
    books.pull(DAYS, instant=FIRST)
    books.requests = []
    books.pull(DAYS, instant=SECOND)
    assert no_ledger(books)


def test_pulls_of_one_instant_or_of_a_clock_that_went_back_are_told_in_their_order(books):
    for amount, instant in ((1, SECOND), (2, SECOND), (3, SECOND), (4, FIRST)):
        books.charges = []
        books.charge(MONDAY, "acme", str(amount))
        books.pull(DAYS, instant=instant)
    assert ledger(books, "before, after, pull_id") == [
        (1, 2, "2026-10-08T05:00:00.123456Z"),
        (2, 3, "2026-10-08T05:00:00.123457Z"),
        (3, 4, "2026-10-08T05:00:00.123458Z"),
    ]
    assert ledger(books, "restated_at")[-1] == (FIRST.replace(tzinfo=None),)


def test_a_column_that_old_files_do_not_have_was_null(books):
    books.charge(MONDAY, "acme", "5", region="eu")
    books.pull(DAYS, instant=FIRST)
    file = books.lake.records("charge", "openai", MONDAY)
    older = file.with_suffix(".older")
    duckdb.sql(f"copy (select * exclude (region) from read_parquet('{file}')) to '{older}' (format parquet)")
    older.replace(file)
    books.pull(DAYS, instant=SECOND)
    assert ledger(books, CHANGES) == [("charge 0", "changed", "region", None, None, None, "eu")]


def test_when_days_were_pulled_is_kept(books):
    books.charge(MONDAY, "acme", "5")
    books.used(MONDAY, "acme", "key", input_tokens=1)
    books.pull(Days(MONDAY, MONDAY), instant=FIRST)
    books.charge(MONDAY, "acme", "6")
    books.pull(DAYS, instant=SECOND)
    first, second = (instant.replace(tzinfo=None) for instant in (FIRST, SECOND))
    assert pl.read_parquet(books.lake.pulled_days("openai")).rows() == [
        ("openai", "charge", MONDAY, first, second, 2),
        ("openai", "charge", TUESDAY, second, second, 0),
        ("openai", "usage", MONDAY, first, second, 1),
        ("openai", "usage", TUESDAY, second, second, 0),
    ]
    (day, _) = pl.read_parquet(books.lake.pulled_days("gateway")).rows()
    assert day == ("gateway", "request", MONDAY, first, second, 0)


def test_a_kind_that_a_source_did_not_yield_then_was_not_pulled_then():
    first, second = (instant.replace(tzinfo=None) for instant in (FIRST, SECOND))
    known = pulled_days.with_pulled(pulled_days.NO_DAYS, "openai", [("charge", MONDAY, 1)], first)
    known = pulled_days.with_pulled(known, "openai", [("usage", MONDAY, 1), ("usage", TUESDAY, 1)], second)
    assert pulled_days.last_pulled(known, "charge") == {MONDAY: first}
    assert pulled_days.last_pulled(known, "usage") == {MONDAY: second, TUESDAY: second}


# --- the warehouse


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Books:
    """Three pulls of two days: a late line, a correction, and a credit that was taken back."""
    books = Books(tmp_path_factory.mktemp("home"))
    books.charge(MONDAY, "acme", "10", model="gpt-4o", meter="output")
    books.charge(MONDAY, "acme", "-2", charge_category="credit")
    books.used(MONDAY, "acme", "key", model="gpt-4o", output_tokens=100)
    books.pull(DAYS, instant=FIRST)
    books.charges[0] = {**books.charges[0], "billed_cost": Decimal("12.5")}
    books.charge(TUESDAY, "acme", "1")
    books.pull(DAYS, instant=SECOND)
    books.charges = [{**books.charges[0], "billed_cost": Decimal(12)}, books.charges[2]]
    books.usage[0] = {**books.usage[0], "output_tokens": 90}
    books.pull(DAYS, instant=THIRD)
    result = books.build(written(books.home, "teams: {support: {}}"), "--select", *MODELS)
    assert result.returncode == 0, result.stdout[-4000:]
    return books


MODELS = ("restatements", "+fct_charges", "--exclude-resource-type", "test", "unit_test")


def test_the_mart_tells_each_change_with_its_difference_and_how_late_it_was(built):
    assert built.query(
        "select restated_at::date, restated_after_days, charge_id, change, before, after, difference "
        "from restatements where measure = 'billed_cost' order by pull_id, charge_id"
    ) == [
        (SECOND.date(), 3, "openai/2026-10-05/charge 0", "changed", 10, Decimal("12.5"), Decimal("2.5")),
        (SECOND.date(), 2, "openai/2026-10-06/charge 2", "added", None, 1, 1),
        (THIRD.date(), 4, "openai/2026-10-05/charge 0", "changed", Decimal("12.5"), 12, Decimal("-0.5")),
        (THIRD.date(), 4, "openai/2026-10-05/charge 1", "removed", -2, None, 2),
    ]
    assert built.query(
        "select record_kind, charge_id, measure, difference from restatements where record_kind = 'usage'"
    ) == [("usage", None, "output_tokens", -10)]
    assert built.query("select text_before, difference from restatements where measure = 'started_at'")


def test_what_was_billed_first_and_what_was_restated_is_what_is_billed_now(built):
    first = 10 - 2
    ((now,),) = built.query("select sum(billed_cost) from fct_charges")
    ((restated,),) = built.query("select sum(difference) from restatements where measure = 'billed_cost'")
    assert now == 13 == first + restated


def test_a_ledger_that_lost_a_pull_or_has_it_twice_is_told(built, tmp_path):
    check = "restatements_are_without_a_gap"
    compiled = dbt("compile", built.home, "--select", check)
    assert compiled.returncode == 0, compiled.stdout
    (file,) = (built.home / "target" / "compiled").rglob(f"{check}.sql")
    gaps = f"select charge_id, after, next_before, billed_cost from ({file.read_text(encoding='utf-8')})"
    assert built.query(gaps) == []

    corrected = "openai/2026-10-05/charge 0"
    first, last = sorted(built.lake.restatements_of("openai").iterdir())
    last.rename(tmp_path / "lost")
    assert built.query(gaps) == [(corrected, Decimal("12.5"), None, 12)]
    (tmp_path / "lost").rename(last)
    again = first.with_name("2026-10-08T06:00:00.000000Z.parquet")
    duckdb.sql(
        f"copy (select * replace ('{again.stem}' as pull_id) from read_parquet('{first}')) "
        f"to '{again}' (format parquet)"
    )
    assert (corrected, Decimal("12.5"), 10, 12) in built.query(gaps)
    again.unlink()
    assert built.query(gaps) == []


# --- whatever is pulled

amounts = st.decimals(-(10**12), 10**12, allow_nan=False, places=12)
quantities = st.none() | st.integers(0, 2**63 - 1)
charges = st.fixed_dictionaries(
    {
        "billed_cost": amounts,
        "currency": st.sampled_from(["USD", "EUR"]),
        "charge_category": st.sampled_from(["usage", "credit"]),
    },
    optional={
        "list_cost": st.none() | amounts,
        "line_item": st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=3),
        "tags": st.dictionaries(st.sampled_from("xyz"), st.sampled_from(["", "it's"])),
        "api_key_name": st.sampled_from("ab"),
    },
)
usages = st.fixed_dictionaries(
    {"service_tier": st.sampled_from([None, "standard", "batch"])},
    optional={
        "input_tokens": quantities,
        "output_tokens": quantities,
        "principal_id": st.sampled_from([None, "ana"]),
        "other_meters": st.dictionaries(
            st.sampled_from(["pages", "it's"]), st.decimals(0, 9, allow_nan=False, places=3)
        ),
    },
)
coordinates = st.tuples(st.sampled_from("ab"), st.sampled_from(list(DAYS)))
Said = Mapping[tuple[str, date], Mapping[str, Any]]
State = dict[tuple[Any, ...], dict[str, Any]]
"""By kind, day, record and currency: what the record says that is not null, and no name."""


def pull(lake: Lake, charged: Said, used: Said, instant: datetime) -> Report:
    rows = {
        kind: [
            {
                "record_id": record_id,
                "started_at": datetime(day.year, day.month, day.day),  # noqa: DTZ001 - naive UTC
                "usage_date": day,
                "provider": "openai",
                **columns,
            }
            for (record_id, day), columns in said.items()
        ]
        for kind, said in (("charge", charged), ("usage", used))
    }
    return ingest(hand_written("openai", rows), DAYS, lake, ACTIVE_TAGS, instant)


def state(lake: Lake) -> State:
    files = [str(lake.records(kind, "openai", day)) for kind in restatements.KINDS for day in DAYS]
    texts = "list_sort(map_entries(tags))::varchar as tags, started_at::varchar as started_at"
    found: State = {}
    for record in rows_of(f"select * replace ({texts}) from read_parquet({files})"):
        meters = record.pop("other_meters") or {}
        key = tuple(record.pop(name) for name in KEY)
        said = {**record, **{f"other_meters.{meter}": quantity for meter, quantity in meters.items()}}
        found[key] = {
            name: value
            for name, value in said.items()
            if value is not None and not name.endswith("_name") and name != "source"
        }
    return found


KEY = [name for name in restatements.KEY if name != "source"]


def rows_of(sql: str) -> list[dict[str, Any]]:
    asked = duckdb.sql(sql)
    return [dict(zip(asked.columns, row, strict=True)) for row in asked.fetchall()]


def undo(now: State, file: Path) -> State:
    """What was said before the pull whose ledger is in `file`."""
    then = {key: dict(said) for key, said in now.items()}
    for row in rows_of(f"from read_parquet('{file}')"):
        key = tuple(row[name] for name in KEY)
        if row["change"] == "added":
            then.pop(key, None)
            continue
        shown = {name: row[name] for name in restatements.SHOWN if row[name] is not None}
        said = then.setdefault(key, shown)
        before = row["text_before"] if row["before"] is None else row["before"]
        said.pop(row["measure"], None)
        if before is not None:
            said[row["measure"]] = before
    return then


def bills(state: State) -> dict[str, Decimal]:
    sums: dict[str, Decimal] = {}
    for (*_, currency), said in state.items():
        if "billed_cost" in said:
            sums[currency] = sums.get(currency, Decimal(0)) + said["billed_cost"]
    return sums


@settings(max_examples=8, deadline=None)
@given(
    st.lists(
        st.tuples(st.dictionaries(coordinates, charges), st.dictionaries(coordinates, usages)),
        min_size=2,
        max_size=4,
    )
)
def test_what_was_said_at_any_time_is_what_is_said_now_without_what_the_ledger_tells(pulls):
    with TemporaryDirectory() as folder:
        lake = Lake(Path(folder))
        states, changed = [], []
        for number, (charged, used) in enumerate(pulls):
            report = pull(lake, charged, used, FIRST + timedelta(days=number))
            states.append(state(lake))
            changed.append(report.restated)
        ledgers = {file.stem: file for file in lake.restatements_of("openai").glob("*.parquet")}
        now = states[-1]
        for number in reversed(range(1, len(pulls))):
            before = states[number - 1]
            file = ledgers.get((FIRST + timedelta(days=number)).strftime("%Y-%m-%dT%H:%M:%S.%fZ"))
            assert (file is None) == (now == before) == (changed[number].records == 0)
            after, now = now, undo(now, file) if file else now
            assert now == before
            told = changed[number].billed_cost
            for currency in ("USD", "EUR"):
                moved = bills(after).get(currency, 0) - bills(before).get(currency, 0)
                assert told.get(currency, 0) == moved
        assert set(ledgers) <= {
            f"{FIRST + timedelta(days=n):%Y-%m-%dT%H:%M:%S.%fZ}" for n in range(1, len(pulls))
        }
