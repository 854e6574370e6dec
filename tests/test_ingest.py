"""A pull replaces exactly the asked days, by exactly what the source says now, or nothing at all."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import duckdb
import pytest
from conftest import ACTIVE_TAGS, Books, hand_written

from dagster_project import ingest as ingesting
from dagster_project import lake, records
from dagster_project.days import Days
from dagster_project.errors import ContractError, SourceError
from dagster_project.ingest import ingest
from dagster_project.lake import Lake
from dagster_project.sources import Parsed, Source

MONDAY, TUESDAY, WEDNESDAY = date(2026, 10, 5), date(2026, 10, 6), date(2026, 10, 7)
NOW = datetime(2026, 10, 7, 5, tzinfo=UTC)


@pytest.fixture
def books(home) -> Books:
    return Books(home)


def rows(books: Books, day: date, kind: records.Kind = "request", source: str = "gateway") -> list[tuple]:
    file = books.lake.records(kind, source, day)
    return duckdb.sql(f"select record_id, input_tokens from read_parquet('{file}') order by all").fetchall()


def test_every_asked_day_is_a_file_even_an_empty_one(books):
    books.asked(MONDAY, "a", "k", "vk", input_tokens=1)
    books.pull(Days(MONDAY, TUESDAY))
    assert books.lake.days_of("request", "gateway") == [MONDAY, TUESDAY]
    assert rows(books, TUESDAY) == []


def test_a_day_restated_to_other_numbers_or_to_nothing_is_replaced(books):
    books.asked(MONDAY, "a", "k", "vk", input_tokens=1)
    books.asked(TUESDAY, "a", "k", "vk", input_tokens=2)
    books.pull(Days(MONDAY, TUESDAY))
    books.requests = [{**books.requests[0], "input_tokens": 7}]
    books.pull(Days(MONDAY, TUESDAY))
    assert rows(books, MONDAY) == [("request 0", 7)]
    assert rows(books, TUESDAY) == []


def test_days_that_were_not_asked_for_are_left_alone(books):
    books.asked(MONDAY, "a", "k", "vk", input_tokens=1)
    books.asked(TUESDAY, "a", "k", "vk", input_tokens=2)
    books.pull(Days(MONDAY, MONDAY))
    assert books.lake.days_of("request", "gateway") == [MONDAY]


def test_pulling_again_changes_nothing(books):
    for tokens in range(50):
        books.asked(MONDAY, "a", "k", "vk", input_tokens=tokens, tags={"feature": f"f{tokens % 3}"})
    first = books.pull(Days(MONDAY, TUESDAY))
    before = rows(books, MONDAY)
    assert books.pull(Days(MONDAY, TUESDAY)) == first
    assert rows(books, MONDAY) == before


def test_a_record_delivered_twice_is_one_record_and_the_last_complete_one_stays(books):
    books.asked(MONDAY, "a", "k", "vk", input_tokens=None)
    late = {"ended_at": datetime(2026, 10, 5, 23, 59), "input_tokens": 5}  # noqa: DTZ001
    books.requests += [
        {**books.requests[0], "ended_at": datetime(2026, 10, 5, 23, 0)},  # noqa: DTZ001
        {**books.requests[0], **late, "reported_cost": Decimal("0.5")},
        {**books.requests[0], **late},
    ]
    books.requests[0]["ended_at"] = None
    report = books.pull(Days(MONDAY, MONDAY))[1]
    assert rows(books, MONDAY) == [("request 0", 5)]
    assert report.counts["duplicates dropped"] == 3
    assert report.by_day[0].reported_cost == Decimal("0.5")


def test_each_record_and_each_day_counts_its_own_deliveries(books):
    for record in ("x", "y"):
        books.asked(MONDAY, "a", "k", "vk", input_tokens=1, record_id=record)
        books.asked(TUESDAY, "a", "k", "vk", input_tokens=2, record_id=record)
    books.requests += [row for row in books.requests if row["usage_date"] == MONDAY]
    assert books.pull(Days(MONDAY, TUESDAY))[1].counts["duplicates dropped"] == 2
    assert rows(books, MONDAY) == [("x", 1), ("y", 1)]
    assert rows(books, TUESDAY) == [("x", 2), ("y", 2)]


def test_of_deliveries_that_differ_in_little_the_same_one_stays_in_whatever_order_they_came(books):
    books.asked(MONDAY, "a", "k", "vk", input_tokens=1)
    books.requests = [{**books.requests[0], "tags": {"feature": f"f{n}"}} for n in range(5)]
    stayed = []
    for _ in books.requests:
        books.requests.append(books.requests.pop(0))
        books.pull(Days(MONDAY, MONDAY))
        file = books.lake.records("request", "gateway", MONDAY)
        stayed += duckdb.sql(f"select tags from read_parquet('{file}')").fetchall()
    assert len({str(row) for row in stayed}) == 1


@pytest.mark.parametrize(("limit", "most"), [("BATCH_DAYS", 2), ("BATCH_ROWS", 3)])
def test_days_are_finished_in_batches_without_losing_or_mixing_any(books, monkeypatch, limit, most):
    days = Days(MONDAY, date(2026, 10, 14))
    for number, day in enumerate(days):
        for twice in range(number % 3):
            books.asked(day, "a", "k", "vk", input_tokens=10 * number + twice, tags={"feature": "f"})
    books.requests.append(books.requests[-1])
    whole = books.pull(days)
    files = {day: rows(books, day) for day in days}
    rolled = rolled_tokens(books, days)
    monkeypatch.setattr(ingesting, limit, most)
    assert books.pull(days) == whole
    assert {day: rows(books, day) for day in days} == files
    assert rolled_tokens(books, days) == rolled
    assert rolled == {day: sum(tokens for _, tokens in files[day]) or None for day in days}
    assert [part.rows for part in whole[1].by_day] == [number % 3 for number in range(len(days))]
    assert whole[1].counts["duplicates dropped"] == 1


def rolled_tokens(books: Books, days: Days) -> dict[date, int | None]:
    def tokens(day: date) -> int | None:
        file = books.lake.rollup("request", "gateway", day)
        sums = duckdb.sql(f"select sum(quantity) from read_parquet('{file}') where meter = 'input'")
        return sums.fetchall()[0][0]

    return {day: tokens(day) for day in days}


def test_a_broken_record_is_told_with_its_day(books):
    for day in (MONDAY, TUESDAY, WEDNESDAY):
        books.asked(day, "a", "k", "vk", input_tokens=1)
    books.requests += [
        {**books.requests[1], "record_id": "x", "input_tokens": -1},
        {**books.requests[2], "record_id": "y", "requests": None},
    ]
    with pytest.raises(ContractError) as raised:
        books.pull(Days(MONDAY, WEDNESDAY))
    assert raised.value.problems == [
        "`input_tokens` is negative in 1 rows of 2026-10-06",
        "`requests` is null in 1 rows of 2026-10-07",
    ]
    assert books.lake.days_of("request", "gateway") == []


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        ({"usage_date": None}, "`usage_date` is null"),
        ({"provider": None}, "`provider` is null"),
        ({"input_tokens": -1}, "`input_tokens` is negative in 1 rows of 2026-10-05"),
        ({"input_tokens": 1.5}, "`input_tokens` is a float, not BIGINT"),
        ({"input_tokens": True}, "`input_tokens` is a bool, not BIGINT"),
        ({"reported_cost": 0.1}, "`reported_cost` is a float, not DECIMAL(38,12)"),
        ({"tokens": 1}, "unknown column `tokens`"),
        ({"billed_cost": Decimal(1)}, "money or charge text on a record that is no charge in 1 rows"),
    ],
)
def test_records_that_break_the_schema_stop_the_pull_and_the_old_data_stays(books, broken, problem):
    books.asked(MONDAY, "a", "k", "vk", input_tokens=1)
    books.pull(Days(MONDAY, MONDAY))
    books.requests = [{**books.requests[0], **broken}]
    with pytest.raises(ContractError) as raised:
        books.pull(Days(MONDAY, MONDAY))
    assert problem in str(raised.value)
    assert "gateway" in str(raised.value)
    assert rows(books, MONDAY) == [("request 0", 1)]


def test_a_charge_without_an_amount_is_refused(books):
    books.charge(MONDAY, "a", "1.00")
    books.charges = [{**books.charges[0], "billed_cost": None}]
    with pytest.raises(ContractError, match="`billed_cost` is null"):
        books.pull(Days(MONDAY, MONDAY))


def test_a_source_that_fails_in_the_middle_leaves_everything_as_it_was(books):
    books.asked(MONDAY, "a", "k", "vk", input_tokens=1)
    books.pull(Days(MONDAY, MONDAY))

    def half(*_: object) -> None:
        raise SourceError("gateway", "the answer broke off", where="page 2", remedy="Run it again.")

    source = hand_written("gateway", {"request": books.requests})
    failing = Source(source.entry, SimpleNamespace(**{**vars(source.module), "fetch": half}))
    with pytest.raises(SourceError, match="page 2"):
        ingest(failing, Days(MONDAY, MONDAY), books.lake, ACTIVE_TAGS, NOW)
    assert rows(books, MONDAY) == [("request 0", 1)]
    assert not list((books.home / "scratch").iterdir()), "nothing is left behind"


def test_a_disk_that_fills_up_while_days_are_gathered_changes_none_of_them(books, monkeypatch):
    for day in (MONDAY, TUESDAY):
        books.asked(day, "a", "k", "vk", input_tokens=1)
    books.pull(Days(MONDAY, TUESDAY))
    books.requests = [{**row, "input_tokens": 2} for row in books.requests]

    def full(place: Path) -> None:
        if place.name == "places.json":
            raise OSError(28, "No space left on device", str(place))

    monkeypatch.setattr(lake, "_sync", full)
    with pytest.raises(lake.NoRoom, match="make room and run this again"):
        books.pull(Days(MONDAY, TUESDAY))
    monkeypatch.undo()
    assert [tokens for day in (MONDAY, TUESDAY) for _, tokens in rows(books, day)] == [1, 1]
    books.pull(Days(MONDAY, TUESDAY))
    assert [tokens for day in (MONDAY, TUESDAY) for _, tokens in rows(books, day)] == [2, 2]


def test_raw_answers_are_kept_where_the_source_allows_it(books):
    def fetch(_entry: object, _days: Days, raw: Path) -> None:
        (raw / "answer.json").write_text("{}", encoding="utf-8")

    source = hand_written("openai", {"charge": []})
    for keeps in (True, False):
        module = SimpleNamespace(**{**vars(source.module), "fetch": fetch, "KEEPS_RAW": keeps})
        days = Days(MONDAY, TUESDAY if keeps else MONDAY)
        ingest(Source(source.entry, module), days, books.lake, ACTIVE_TAGS, NOW)
        assert books.lake.raw("openai", days).exists() == keeps


def test_the_rollup_keeps_every_token_and_only_active_tags(books):
    for hour, feature in enumerate(("chat", "chat", "search")):
        books.asked(
            MONDAY,
            "a",
            "k",
            "vk",
            started_at=datetime(2026, 10, 5, hour // 2, 30),  # noqa: DTZ001
            input_tokens=10,
            cache_read_tokens=0,
            tags={"feature": feature, "run_id": str(hour)},
            other_meters={"file_searches": Decimal("1.5")},
            reported_cost=Decimal("0.25"),
        )
    books.pull(Days(MONDAY, MONDAY))
    rolled = duckdb.sql(
        "select extract(hour from started_hour), tags, meter, quantity, reported_cost "
        f"from read_parquet('{books.lake.rollup('request', 'gateway', MONDAY)}') order by all"
    ).fetchall()
    chat, search = {"feature": "chat"}, {"feature": "search"}
    assert rolled == [
        (0, chat, "cache_read", 0, None),
        (0, chat, "file_searches", 3, None),
        (0, chat, "input", 20, None),
        (0, chat, "requests", 2, Decimal("0.5")),
        (1, search, "cache_read", 0, None),
        (1, search, "file_searches", Decimal("1.5"), None),
        (1, search, "input", 10, None),
        (1, search, "requests", 1, Decimal("0.25")),
    ]


def test_a_tag_with_too_many_values_on_a_day_is_told_and_not_rolled_up(books):
    for number in range(4):
        books.asked(MONDAY, "a", "k", "vk", output_tokens=1, tags={"team": "x", "customer": f"run {number}"})
        books.asked(MONDAY, "a", "k", "vk", output_tokens=1, tags={"team": "x", "customer": "often"})
        books.asked(
            TUESDAY, "a", "k", "vk", output_tokens=1, tags={"team": "x", "customer": f"run {number % 3}"}
        )
    books.asked(MONDAY, "a", "k", "vk", output_tokens=1, tags={"team": "y"})
    source = hand_written("gateway", {"request": books.requests})
    report = ingest(source, Days(MONDAY, TUESDAY), books.lake, ACTIVE_TAGS, NOW, tag_values=3)
    assert report.counts["values of the tag `customer`, too many to report by"] == 5

    def rolled(day: date) -> list[tuple]:
        file = books.lake.rollup("request", "gateway", day)
        return duckdb.sql(f"""select tags['team'], tags['customer'], quantity::int from read_parquet('{file}')
            where meter = 'output' order by all""").fetchall()

    assert rolled(MONDAY) == [
        ("x", "(too many values)", 2),
        ("x", "often", 4),
        ("x", "run 0", 1),
        ("x", "run 1", 1),
        ("y", None, 1),
    ]
    assert rolled(TUESDAY) == [("x", "run 0", 2), ("x", "run 1", 1), ("x", "run 2", 1)]


@pytest.mark.parametrize(
    ("context", "band"), [(None, None), (0, 0), (32_000, 0), (32_001, 32_000), (272_001, 272_000)]
)
def test_contexts_are_banded_by_what_they_exceed(books, context, band):
    books.asked(MONDAY, "a", "k", "vk", context_tokens=context, input_tokens=1)
    books.pull(Days(MONDAY, MONDAY))
    file = books.lake.rollup("request", "gateway", MONDAY)
    assert duckdb.sql(f"select distinct context_above_tokens from read_parquet('{file}')").fetchall() == [
        (band,)
    ]


def test_a_parsed_relation_is_filed_by_day_and_neighbours_are_left_out(home):
    wide = [{"record_id": str(n), "usage_date": d} for n, d in enumerate((MONDAY, TUESDAY, WEDNESDAY))]

    def parse(_entry: object, _days: Days, _raw: Path, connection: duckdb.DuckDBPyConnection) -> Parsed:
        columns = ", ".join(f"null::{c.type} as {c.name}" for c in records.COLUMNS)
        values = " union all ".join(
            f"select * replace ('{row['record_id']}' as record_id, date '{row['usage_date']}' as usage_date, "
            f"timestamp '{row['usage_date']}' as started_at, 'request' as record_kind, 'gateway' as source, "
            f"'openai' as provider, 1 as requests) from (select {columns})"
            for row in wide
        )
        return Parsed({"request": connection.sql(values)})

    source = hand_written("gateway", {"request": []})
    module = SimpleNamespace(**{**vars(source.module), "parse": parse})
    report = ingest(Source(source.entry, module), Days(TUESDAY, TUESDAY), Lake(home), ACTIVE_TAGS, NOW)
    assert [(part.day, part.rows) for part in report.by_day] == [(TUESDAY, 1)]
