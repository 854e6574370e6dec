"""Two processes at once: pulls of one day, of several days, of several sources, and beside a build."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from shutil import copyfile
from types import SimpleNamespace

import polars as pl
import pytest
from conftest import ACTIVE_TAGS, assert_nothing_left, digests

from dagster_project import records, warehouse
from dagster_project.days import Days
from dagster_project.ingest import ingest
from dagster_project.lake import Lake
from dagster_project.settings import Entry
from dagster_project.sources import Parsed, Source

MONDAY, TUESDAY = date(2026, 10, 5), date(2026, 10, 6)
BOTH = Days(MONDAY, TUESDAY)
NOW = datetime(2026, 10, 7, 5, tzinfo=UTC)
LINES = 40

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__])


def answer(folder: Path, tokens: int) -> None:
    """What the provider says from now on: every line of both days took so many `tokens`."""
    folder.mkdir(exist_ok=True)
    rows = [
        {
            "record_id": f"line {number}",
            "started_at": f"{day}T00:00:00",
            "usage_date": str(day),
            "provider": "openai",
            "input_tokens": tokens,
        }
        for day in BOTH
        for number in range(LINES)
    ]
    new = folder / "answer.new"
    new.write_text(json.dumps(rows), encoding="utf-8")
    new.replace(folder / "answer.json")


def provider(folder: Path, name: str) -> Source:
    """A source that is asked in `fetch` and understood in `parse`, as all are."""

    def parse(entry: Entry, _days: Days, raw: Path, _connection: object) -> Parsed:
        rows = [
            {
                **row,
                "started_at": datetime.fromisoformat(row["started_at"]),
                "usage_date": date.fromisoformat(row["usage_date"]),
            }
            for row in json.loads((raw / "answer.json").read_text(encoding="utf-8"))
        ]
        return Parsed({"usage": records.frame(rows, entry.name, "usage")})

    module = SimpleNamespace(
        KINDS=("usage",),
        RESTATES_DAYS=1,
        KEEPS_RAW=False,
        fetch=lambda _entry, _days, raw: copyfile(folder / "answer.json", raw / "answer.json"),
        parse=parse,
    )
    return Source(Entry(name=name, type=name, start_date=MONDAY), module)


def pull(home: Path, folder: Path, days: Days, instant: datetime, name: str = "openai") -> None:
    ingest(provider(folder, name), days, Lake(home), ACTIVE_TAGS, instant)


def started(*arguments: object) -> BaseProcess:
    process = PROCESSES.Process(target=pull, args=arguments)
    process.start()
    return process


def assert_done(*processes: BaseProcess) -> None:
    for process in processes:
        process.join(60)
        assert process.exitcode == 0


def wait_for(happened: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < until, "what was waited for did not happen"
        time.sleep(0.01)


@contextmanager
def pulling(home: Path) -> Iterator[None]:
    """Pulls that are started meanwhile come as far as to their commit; they are done afterwards."""
    with Lake(home).locked("warehouse"):
        yield


def has_fetched(home: Path) -> bool:
    return any(home.glob("scratch/*/usage.parquet"))


def tokens(home: Path, day: date, name: str = "openai") -> list[int]:
    """Of each line of a day, and in sum what its rollup says."""
    lake = Lake(home)
    rolled = pl.read_parquet(lake.rollup("usage", name, day)).filter(meter="input")["quantity"].sum()
    each = pl.read_parquet(lake.records("usage", name, day))["input_tokens"].to_list()
    assert sum(each) == rolled
    return each


def ledger(home: Path) -> dict[str, list[tuple[int, int]]]:
    """Of each line the changes of its tokens, in the order of the pulls."""
    changes: dict[str, list[tuple[int, int]]] = {}
    for file in sorted(Lake(home).restatements_of("openai").glob("*.parquet")):
        rows = pl.read_parquet(file).filter(measure="input_tokens")
        for day, record, before, after in rows.select(
            "usage_date", "record_id", "before", "after"
        ).iter_rows():
            changes.setdefault(f"{day} {record}", []).append((int(before), int(after)))
    return changes


def test_pulls_of_the_same_days_follow_one_another(tmp_path):
    home = tmp_path / "home"
    for number in range(5):
        answer(tmp_path / str(number), tokens=1000 + number)
    pull(home, tmp_path / "0", BOTH, NOW)
    with pulling(home):
        pulls = [
            started(home, tmp_path / str(number), BOTH, NOW + timedelta(seconds=number))
            for number in range(1, 5)
        ]
        wait_for(lambda: has_fetched(home))
    assert_done(*pulls)
    # All of both days is of one pull, and the ledger tells one after the other, from the first to that.
    (last,) = {count for day in BOTH for count in tokens(home, day)}
    histories = ledger(home)
    assert len(histories) == 2 * LINES
    (history,) = {tuple(changes) for changes in histories.values()}
    assert sorted(after for _, after in history) == [1001, 1002, 1003, 1004]
    assert [before for before, _ in history] == [1000, *(after for _, after in history[:-1])]
    assert history[-1][1] == last
    assert pl.read_parquet(Lake(home).pulled_days("openai")).height == 2
    assert_nothing_left(home)


def test_the_later_answer_stays_though_the_earlier_pull_is_slow(tmp_path):
    home = tmp_path / "home"
    answer(tmp_path / "log", tokens=1000)
    pull(home, tmp_path / "log", BOTH, NOW)
    answer(tmp_path / "log", tokens=1001)
    with pulling(home):
        slow = started(home, tmp_path / "log", BOTH, NOW + timedelta(seconds=1))
        wait_for(lambda: has_fetched(home))
        answer(tmp_path / "log", tokens=1002)
        later = started(home, tmp_path / "log", BOTH, NOW + timedelta(seconds=2))
        time.sleep(0.5)
        assert {count for day in BOTH for count in tokens(home, day)} == {1000}
    assert_done(slow, later)
    assert {count for day in BOTH for count in tokens(home, day)} == {1002}
    assert set(map(tuple, ledger(home).values())) == {((1000, 1001), (1001, 1002))}
    assert_nothing_left(home)


def test_pulls_of_different_days_of_a_source_are_as_one_after_the_other(tmp_path):
    home, spared = tmp_path / "home", tmp_path / "spared"
    answer(tmp_path / "log", tokens=1000)
    days = [Days(MONDAY, MONDAY), Days(TUESDAY, TUESDAY)]
    for one in days:
        pull(spared, tmp_path / "log", one, NOW)
    assert_done(*[started(home, tmp_path / "log", one, NOW) for one in days])
    assert digests(home) == digests(spared) != {}
    assert_nothing_left(home)


def test_pulls_of_different_sources_do_not_wait_for_each_other(tmp_path):
    home, spared = tmp_path / "home", tmp_path / "spared"
    answer(tmp_path / "log", tokens=1000)
    for name in ("first", "second", "third"):
        pull(spared, tmp_path / "log", BOTH, NOW, name)
    with Lake(home).locked("pull-first"):
        waiting = started(home, tmp_path / "log", BOTH, NOW, "first")
        assert_done(*[started(home, tmp_path / "log", BOTH, NOW, name) for name in ("second", "third")])
        assert waiting.exitcode is None
        assert Lake(home).days_of("usage", "first") == []
    assert_done(waiting)
    assert digests(home) == digests(spared) != {}
    assert_nothing_left(home)


@pytest.mark.parametrize("passes", [True, False])
def test_a_build_reads_one_state_while_a_pull_is_ready(tmp_path, passes):
    home = tmp_path / "home"
    answer(tmp_path / "log", tokens=1000)
    pull(home, tmp_path / "log", BOTH, NOW)
    answer(tmp_path / "log", tokens=1001)
    lake = Lake(home)
    lake.passed.parent.mkdir()

    def build() -> None:
        with warehouse.building(lake):
            nonlocal beside
            beside = started(home, tmp_path / "log", BOTH, NOW + timedelta(seconds=1))
            before = digests(home)
            wait_for(lambda: has_fetched(home))
            time.sleep(0.3)
            assert digests(home) == before
            if not passes:
                raise RuntimeError("a check failed")

    beside: BaseProcess | None = None
    if passes:
        build()
    else:
        with pytest.raises(RuntimeError, match="a check failed"):
            build()
    assert_done(beside)
    assert {count for day in BOTH for count in tokens(home, day)} == {1001}
    assert lake.passed.exists() == passes
    assert_nothing_left(home)
