"""A hundred readers of the published warehouse, each a process of its own, while builds replace it."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from decimal import Decimal
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path

import duckdb

from dagster_project import warehouse
from dagster_project.lake import Lake

READERS = 100
BUILDS = 5
ROWS = 20_000
Answer = tuple[str, int, Decimal, Decimal]


def built(lake: Lake, number: int) -> None:
    """A build unlike every other, large enough to be seen half, if that were possible."""
    with warehouse.building(lake):
        lake.build.unlink(missing_ok=True)
        with duckdb.connect(str(lake.build)) as build:
            build.execute(
                f"""create table build_info as select 'build {number}' as build_id;
                create table chargeback_by_team as
                    select team, {number}::decimal(38, 12) as cost_usd from range({ROWS}) as teams (team);
                create table reconciliation_daily as
                    select
                        cost_usd as billed_usd, cost_usd as attributed_usd, 0 * cost_usd as difference_usd
                    from chargeback_by_team"""
            )


def read(published: Path) -> Answer:
    with duckdb.connect(str(published), read_only=True, config={"threads": 1}) as connection:
        return connection.execute(
            """select (from build_info), count(*), sum(cost_usd),
                (select sum(billed_usd) from reconciliation_daily)
            from chargeback_by_team"""
        ).fetchall()[0]


def read_in_a_loop(
    published: Path, begun: Queue[int], stop: Event, answers: Queue[set[Answer] | str]
) -> None:
    os.nice(19)  # a hundred users have more machines than one
    found = {read(published)}
    begun.put(1)
    try:
        while not stop.is_set():
            found.add(read(published))
            time.sleep(random.uniform(0.5, 3))
    except duckdb.Error as error:
        answers.put(repr(error))
    else:
        answers.put(found)


def test_every_answer_is_from_one_build_and_none_fails(tmp_path):
    lake = Lake(tmp_path)
    lake.build.parent.mkdir()
    built(lake, 0)
    warehouse.publish(lake)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "duckdb", __name__])
    begun, stop, answers = context.Queue(), context.Event(), context.Queue()
    readers = [
        context.Process(target=read_in_a_loop, args=(lake.published, begun, stop, answers))
        for _ in range(READERS)
    ]
    for reader in readers:
        reader.start()
    for _ in readers:
        begun.get(timeout=120)
    for number in range(1, BUILDS + 1):
        built(lake, number)
        warehouse.publish(lake)
        time.sleep(0.3)
    stop.set()
    found = [answers.get(timeout=120) for _ in readers]
    for reader in readers:
        reader.join()

    assert [told for told in found if isinstance(told, str)] == []
    seen = set().union(*found)
    # What each build says of itself, and nothing between two of them.
    whole = {(f"build {n}", ROWS, Decimal(n * ROWS), Decimal(n * ROWS)) for n in range(BUILDS + 1)}
    assert seen <= whole
    assert len(seen) > BUILDS / 2
