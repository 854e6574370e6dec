"""Files that belong together are replaced together, wherever the process that replaces them is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import polars as pl
import pytest
from conftest import Books

from dagster_project.days import Days
from dagster_project.lake import Lake
from dagster_project.sources import Name

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

PULL = """
import sys
sys.path.insert(0, {tests!r})
from test_commits import NEW, SECOND, die_before, pull_as_told
die_before({step}, {home!r} + "/commit")
pull_as_told({home!r}, NEW, SECOND)
"""
"""Run in a new process: the engine has threads, which a fork does not survive."""

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


# Into commit/, to the first place, to the sixth, and when nothing but the folder is left of it.
@pytest.mark.parametrize(("step", "is_committed"), [(0, False), (1, True), (6, True), (10, True)])
def test_a_pull_that_is_killed_is_told_by_its_ledger_once_or_not_at_all(tmp_path, step, is_committed):
    home = str(tmp_path)
    lake = pull_as_told(home, OLD, FIRST).lake
    program = PULL.format(tests=str(Path(__file__).parent), step=step, home=home)
    died = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert (lake.home / "commit").exists() == is_committed

    pull_as_told(home, NEW, THIRD)
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
