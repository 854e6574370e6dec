"""Files that belong together are replaced together, wherever the process that replaces them is killed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import duckdb
import polars as pl
import pytest
from conftest import ACTIVE_TAGS, Books, assert_nothing_left, digests, hand_written

from dagster_project import settings, warehouse
from dagster_project.days import Days
from dagster_project.ingest import ingest
from dagster_project.lake import Lake
from dagster_project.sources import Name, Source

WRITING = ("os.rename", "os.mkdir", "os.remove", "os.rmdir")
"""What a process can be killed before, by the names of Python's audit events."""

MONDAY, TUESDAY = date(2026, 10, 5), date(2026, 10, 6)
FIRST = datetime(2026, 10, 7, 5, tzinfo=UTC)


def die_before(step: int, what: str = "") -> None:
    """Have this process killed, without a warning, before its `step`th step on a path that `what` is in."""
    steps = count()

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if event in WRITING and what in str(arguments) and next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def killed_before(step: int, work: Callable[[], None]) -> bool:
    """Do `work` in a process of its own that is killed before its `step`th step; False if it has fewer."""
    process = os.fork()
    if process == 0:
        try:
            die_before(step)
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(process, 0)
    return os.WIFSIGNALED(status)


def contents(lake: Lake) -> dict[str, str]:
    return {
        str(file.relative_to(lake.home)): file.read_text(encoding="utf-8")
        for part in ("lake", "raw")
        for file in (lake.home / part).rglob("*")
        if file.is_file()
    }


def replace_all(lake: Lake, text: str) -> None:
    """Two files, a folder with other pages than it had, and a file that was not there before."""
    with lake.scratch() as scratch:
        places = [lake.names("openai"), lake.records("charge", "openai", MONDAY), lake.names(f"new-{text}")]
        for number, _ in enumerate(places):
            (scratch / f"{number}.txt").write_text(text, encoding="utf-8")
        pages = scratch / "pages"
        (pages / "deep").mkdir(parents=True)
        for page in ("deep/same.json", f"{text}.json"):
            (pages / page).write_text(text, encoding="utf-8")
        replaced = {place: scratch / f"{number}.txt" for number, place in enumerate(places)}
        replaced[lake.raw("openai", Days(MONDAY, TUESDAY))] = pages
        with lake.locked("warehouse"):
            lake.commit(replaced, scratch)


def take_the_lock(lake: Lake) -> None:
    with lake.locked("warehouse"):
        pass


def test_a_commit_that_is_killed_anywhere_is_whole_for_whoever_comes_next(tmp_path):
    whole = []
    for text in ("old", "new"):
        lake = Lake(tmp_path / text)
        for written in ("old", "new")[: 1 + (text == "new")]:
            replace_all(lake, written)
        whole.append(contents(lake))
    old, new = whole
    seen = []
    for step in count():
        lake = Lake(tmp_path / str(step))
        replace_all(lake, "old")
        killed = killed_before(step, lambda lake=lake: replace_all(lake, "new"))
        # Whoever finishes it gets one step further and is killed, too; the first step is the folder of locks.
        while killed_before(2, lambda lake=lake: take_the_lock(lake)):
            pass
        assert contents(lake) in (old, new), step
        assert not (lake.home / "commit").exists()
        seen.append(contents(lake) == new)
        if not killed:
            break
    assert len(seen) > 15
    assert seen == sorted(seen), "old until one step, new from there on"
    assert seen[-1]


def test_a_folder_on_another_disk_is_refused_before_anything_is_committed(tmp_path):
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("this machine has one disk")
    lake = Lake(tmp_path)
    with TemporaryDirectory(dir=memory) as other:
        (lake.home / "raw").symlink_to(other)
        with pytest.raises(OSError, match="not on the disk of the deployment"):
            replace_all(lake, "new")
    assert contents(lake) == {}
    assert not (lake.home / "commit").exists()


# --- the same with a whole pull

OLD, NEW = ("1.5", "2"), ("1.25", "2.75")
SECOND, THIRD = FIRST + timedelta(days=1), FIRST + timedelta(days=2)


def pull_as_told(home: str, amounts: tuple[str, str], instant: datetime) -> Books:
    books = Books(Path(home))
    for day, amount in zip((MONDAY, TUESDAY), amounts, strict=True):
        books.charge(day, "acme", amount)
        books.used(day, "acme", "key", input_tokens=int(100 * Decimal(amount)))
    books.names = [Name("project", "p", amounts[0], "openai", "acme")]
    books.pull(Days(MONDAY, TUESDAY), instant=instant)
    return books


def told(lake: Lake) -> tuple[object, ...]:
    """Everything that a pull of the source writes."""
    billed = f"select billed_cost from read_parquet('{lake.records('charge', 'openai', MONDAY).parent}/*')"
    rolled = f"select quantity from read_parquet('{lake.rollup('usage', 'openai', MONDAY).parent}/*')"
    ledgers = sorted(file.stem for file in lake.restatements_of("openai").glob("*"))
    files = [str(lake.restatements("openai", pull_id)) for pull_id in ledgers]
    changes = f"select usage_date, measure, before, after from read_parquet({files})"
    return (
        sorted(duckdb.sql(billed).fetchall()),
        sorted(duckdb.sql(rolled).fetchall()),
        sorted(duckdb.sql(changes).fetchall()) if files else [],
        pl.read_parquet(lake.names("openai")).sort("seen_date")["name"].to_list(),
        set(pl.read_parquet(lake.pulled_days("openai"))["pulled_at"]),
    )


class Fork:
    """A process that does `work` while this one, which has no threads that a fork would lose, goes on."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._process = os.fork()
        if self._process == 0:
            done = 1
            try:
                work()
                done = 0
            finally:
                os._exit(done)

    def kill(self) -> None:
        os.kill(self._process, signal.SIGKILL)

    def is_killed(self) -> bool:
        """Wait for its end, which is to be this, or its work done."""
        _, status = os.waitpid(self._process, 0)
        assert os.WIFSIGNALED(status) or status == 0
        return os.WIFSIGNALED(status)


def without_threads(work: Callable[[Path], Any], home: Path) -> Any:
    """What `work` finds in a process without the engine's threads, where forks are safe."""
    with ProcessPoolExecutor(1, get_context("spawn")) as processes:
        return processes.submit(work, home).result()


# Into commit/, to the first place, to the sixth, and when nothing but the folder is left of it.
STEPS_TOLD = {0: False, 1: True, 6: True, 10: True}
"""Before which step of its commit a pull is killed, and whether it counts as done."""


def kill_as_told(home: Path) -> None:
    for step in STEPS_TOLD:

        def die(place: str = str(home / str(step)), step: int = step) -> None:
            die_before(step, f"{place}/commit")
            pull_as_told(place, NEW, SECOND)

        assert not Fork(lambda step=step: pull_as_told(str(home / str(step)), OLD, FIRST)).is_killed()
        assert Fork(die).is_killed()


def test_a_pull_that_is_killed_is_told_by_its_ledger_once_or_not_at_all(tmp_path):
    without_threads(kill_as_told, tmp_path)
    for step, is_committed in STEPS_TOLD.items():
        lake = Lake(tmp_path / str(step))
        assert (lake.home / "commit").exists() == is_committed
        pull_as_told(str(lake.home), NEW, THIRD)
        assert told(lake) == (
            [(Decimal("1.25"),), (Decimal("2.75"),)],
            [(125,), (275,)],
            [
                (MONDAY, "billed_cost", Decimal("1.5"), Decimal("1.25")),
                (MONDAY, "input_tokens", 150, 125),
                (TUESDAY, "billed_cost", 2, Decimal("2.75")),
                (TUESDAY, "input_tokens", 200, 275),
            ],
            ["1.5", "1.25"],
            {THIRD.replace(tzinfo=None)},
        )
        (pull_id,) = (file.stem for file in lake.restatements_of("openai").glob("*"))
        assert pull_id == f"{SECOND if is_committed else THIRD:%Y-%m-%dT%H:%M:%S.%fZ}"


# --- pulls, builds and publications killed at random

STEPS = 20
"""Renames and removals in the commit of one of these pulls."""
BOTH = Days(MONDAY, TUESDAY)


def pull_whole(home: str, version: int, instant: datetime) -> None:
    """A bill and a usage report, names, and the pages that they were read from."""
    books = Books(Path(home))
    for number, day in enumerate(BOTH):
        books.charge(day, "acme", f"{version}.{number}")
        books.used(day, "acme", "key", input_tokens=1000 * version + number)
    names = [Name("project", "p", f"version {version}", "openai", "acme")]
    source = hand_written("openai", {"charge": books.charges, "usage": books.usage}, names)

    def fetch(_entry: settings.Entry, days: Days, raw: Path) -> None:
        for day in days:
            (raw / f"{day}.json").write_text(str(version), encoding="utf-8")

    module = SimpleNamespace(**{**vars(source.module), "fetch": fetch, "KEEPS_RAW": True})
    ingest(Source(source.entry, module), BOTH, books.lake, ACTIVE_TAGS, instant)


def replace_by(whole: Path, home: Path) -> None:
    for part in ("lake", "raw"):
        shutil.rmtree(home / part, ignore_errors=True)
        shutil.copytree(whole / part, home / part)


def kill_pulls(kills: int, home: Path) -> Counter[str]:
    """Kill so many pulls of new data over old; how often which of them was there afterwards."""
    old, new, killed = home / "old", home / "new", home / "killed"
    assert not Fork(lambda: pull_whole(str(old), 1, FIRST)).is_killed()
    shutil.copytree(old, new)
    begun = time.monotonic()
    assert not Fork(lambda: pull_whole(str(new), 2, SECOND)).is_killed()
    seconds = time.monotonic() - begun
    whole = {"old": digests(old), "new": digests(new)}
    assert whole["old"].keys() < whole["new"].keys(), "the ledger is new"

    def pull(step: int | None) -> None:
        if step is not None:
            die_before(step, f"{killed}/commit")
        pull_whole(str(killed), 2, SECOND)

    seeded = random.Random(11)
    seen: Counter[str] = Counter()
    replace_by(old, killed)
    while seen["old"] + seen["new"] < kills:
        # At any time; and each eighth in the commit, which is a small part of that.
        step = seeded.randrange(STEPS) if seeded.random() < 0.12 else None
        pulling = Fork(lambda step=step: pull(step))
        if step is None:
            time.sleep(seeded.uniform(0, seconds))
            pulling.kill()
        if pulling.is_killed():
            seen["in the commit"] += (killed / "commit").exists()
            take_the_lock(Lake(killed))
            contents = digests(killed)
            assert contents in whole.values(), step
            seen["new" if contents == whole["new"] else "old"] += 1
        if digests(killed) != whole["old"]:
            replace_by(old, killed)
    assert not Fork(lambda: pull(None)).is_killed()
    assert digests(killed) == whole["new"]
    assert_nothing_left(killed)
    return seen


def build_whole(lake: Lake, version: int) -> None:
    """A build with what a publication and a closing read; every amount of it is its `version`."""
    lake.build.parent.mkdir(parents=True, exist_ok=True)
    with warehouse.building(lake):
        lake.build.unlink(missing_ok=True)
        with duckdb.connect(str(lake.build)) as build:
            build.execute(
                f"""create macro money(amount) as amount::decimal(38, 12);
                create table fct_charges as select date '{MONDAY}' as usage_date, 'openai' as provider,
                    'acme' as account_id, 'USD' as currency, money({version}) as billed_cost,
                    billed_cost as billed_usd from range({LINES});
                create table fct_cost_allocations as select range as allocation_id,
                    date '{MONDAY}' as usage_date, 'billed' as cost_basis, null::date as corrects_date,
                    money({version}) as cost_usd from range({LINES});
                create table statements as select date_trunc('month', date '{MONDAY}')::date as month,
                    'search' as team, false as is_closed, money({version * LINES}) as cost_usd;
                create table reconciliation_daily as select sum(billed_usd) as billed_usd,
                    sum(billed_usd) as attributed_usd, money(0) as difference_usd from fct_charges"""
            )


LINES = 2_000


def billed(home: Path) -> tuple[Decimal, Decimal]:
    """What the published warehouse says in two of its tables."""
    with duckdb.connect(str(Lake(home).published), read_only=True) as published:
        return published.execute(
            """select (select sum(billed_usd) from fct_charges),
            (select sum(cost_usd) from fct_cost_allocations)"""
        ).fetchall()[0]


def publish_whole(home: Path, version: int) -> None:
    build_whole(Lake(home), version)
    warehouse.publish(Lake(home))


def assert_published(home: Path, version: int) -> None:
    assert billed(home) == (version * LINES, version * LINES)


def kill_publications(home: Path) -> Counter[str]:
    """Kill what builds and publishes a version after the other; how often which was there afterwards."""
    begun = time.monotonic()
    assert not Fork(lambda: publish_whole(home, 0)).is_killed()
    seconds = time.monotonic() - begun
    seeded = random.Random(11)
    seen: Counter[str] = Counter()
    last, files = 0, digests(home)
    for version in range(1, 1 + PUBLICATIONS):
        publishing = Fork(lambda version=version: publish_whole(home, version))
        time.sleep(seeded.uniform(0, seconds))
        publishing.kill()
        publishing.is_killed()
        if digests(home) != files:
            last, files = version, digests(home)
            assert not Fork(lambda version=version: assert_published(home, version)).is_killed()
        seen["new" if last == version else "old"] += 1
    assert not Fork(lambda: publish_whole(home, 0)).is_killed()
    assert not Fork(lambda: assert_published(home, 0)).is_killed()
    assert_nothing_left(home)
    return seen


PUBLICATIONS = 15


@pytest.mark.parametrize("kills", [20, pytest.param(100, marks=pytest.mark.slow)])
def test_pulls_killed_at_random_are_as_if_they_had_not_been(tmp_path, kills):
    seen = without_threads(partial(kill_pulls, kills), tmp_path)
    assert seen["old"] > kills / 4
    assert seen["new"] > 1
    assert seen["in the commit"] > 1


def test_a_build_or_publication_that_is_killed_leaves_what_was_published(tmp_path):
    seen = without_threads(kill_publications, tmp_path)
    assert seen["old"] > PUBLICATIONS / 4
