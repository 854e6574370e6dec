"""From a day of ten million request records to published marts, against one bare scan of the same file.

    .venv/bin/python benchmarks/ten_million_requests.py [--requests 10000000]

The records are made by the engine (12 gateway keys, 48 features, 500 customers of very unequal size, a
run id on each); a bill and a usage report that sees a tenth more go with them. Timed, in fresh
processes: the rollup of the day, the dbt build with all its checks, and the publication; then one
`select count(*), sum(...)` over the day's Parquet file. Printed: each time, peak memory, the ratio.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import date, datetime
from decimal import Decimal
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import duckdb

from dagster_project import ownership, rates, rollup, settings, warehouse
from dagster_project.days import Days
from dagster_project.ingest import connection_in, ingest
from dagster_project.lake import Lake, replace_file
from dagster_project.records import COLUMNS, frame
from dagster_project.sources import Parsed, Source

DAY = date(2026, 10, 5)
OWNERSHIP = """
teams: {platform: {}, %s}
services:
%s
  gateway: {shared: true, match: {api_key: key_gateway}, otherwise: platform}
"""
REQUEST = {
    "record_id": "'r' || i",
    "record_kind": "'request'",
    "source": "'gateway'",
    "started_at": "timestamp '2026-10-05' + to_seconds(i % 86400)",
    "ended_at": "timestamp '2026-10-05' + to_seconds(i % 86400)",
    "usage_date": "date '2026-10-05'",
    "provider": "'openai'",
    "account_id": "'acme'",
    "provider_project_id": "'proj_gateway'",
    "api_key_id": "'key_gateway'",
    "gateway_key_id": "'vk' || (i % 12)",
    "tags": "map(['service', 'feature', 'customer', 'environment', 'run_id'], ['s' || (i % 12), "
    "'f' || (i % 12) || '-' || (hash(i) % 4), "
    "'c' || floor({customers} * pow((hash(i + 7) % 10000) / 10000.0, 3))::int, 'prod', 'r' || i])",
    "model": "'gpt-4o-2024-08-06'",
    "operation": "'chat'",
    "context_tokens": "1000",
    "status": "'ok'",
    "requests": "1",
    "input_tokens": "hash(i + 1) % 5000",
    "cache_read_tokens": "hash(i + 2) % 1000",
    "output_tokens": "hash(i + 3) % 500",
    "reported_cost": "0.001",
}
METERS = {"input": "input_tokens", "cache_read": "cache_read_tokens", "output": "output_tokens"}


def make(lake: Lake, requests: int, customers: int = 500) -> None:
    """The day's records, the bill, the usage report and everything else that the marts need."""
    day = lake.records("request", "gateway", DAY)
    with lake.scratch() as scratch, duckdb.connect() as engine:
        said = {**REQUEST, "tags": REQUEST["tags"].format(customers=customers)}
        columns = ", ".join(f"({said.get(c.name, 'null')})::{c.type} as {c.name}" for c in COLUMNS)
        engine.execute(
            f"copy (select {columns} from range({requests}) as t(i)) to '{scratch / 'r'}' "
            "(format parquet, compression zstd)"
        )
        replace_file(scratch / "r", day)
        sums = engine.execute(
            f"select {', '.join(f'sum({c})::bigint' for c in METERS.values())} from read_parquet('{day}')"
        ).fetchall()[0]
        used = {column: quantity * 11 // 10 for column, quantity in zip(METERS.values(), sums, strict=True)}
        named = {
            "usage_date": DAY,
            "started_at": datetime(2026, 10, 5),  # noqa: DTZ001 - naive UTC, as in the schema
            "provider": "openai",
            "account_id": "acme",
            "provider_project_id": "proj_gateway",
            "model": "gpt-4o-2024-08-06",
            "service_tier": "standard",
        }
        usage = [{**named, "record_id": "u", "api_key_id": "key_gateway", "requests": requests, **used}]
        billed = requests * Decimal("0.001234567")
        money = {"billed_cost": billed, "currency": "USD", "charge_category": "usage"}
        charges = [
            {**named, **money, "record_id": meter, "meter": meter, "line_item": meter} for meter in METERS
        ]
        bill = Parsed(
            {"usage": frame(usage, "openai", "usage"), "charge": frame(charges, "openai", "charge")}
        )
    written = SimpleNamespace(
        KINDS=("usage", "charge"),
        KEEPS_RAW=False,
        fetch=lambda *_: None,
        parse=lambda *_: bill,
    )
    entry = settings.Entry(name="openai", type="openai", start_date=DAY)
    days = Days(DAY, DAY)
    ingest(Source(entry, written), days, lake, settings.DEFAULT_ACTIVE_TAGS, days.start)
    warehouse.prepare(lake, settings.Settings({}, settings.DEFAULT_ACTIVE_TAGS))
    owners = lake.home / "map"
    owners.mkdir()
    teams = ", ".join(f"t{n}: {{}}" for n in range(12))
    services = "\n".join(f"  s{n}: {{team: t{n}, match: {{gateway_key: vk{n}}}}}" for n in range(12))
    (owners / "owners.yaml").write_text(OWNERSHIP % (teams, services), encoding="utf-8")
    models = rates.resolve([("openai", "gpt-4o-2024-08-06")])
    tables = {"models": models, "rate_card": rates.rate_card(models), **ownership.load(owners).tables()}
    warehouse.write_tables(lake, tables)
    # a deployment's project is parsed once, not for each build
    dbt(lake.home, "parse")


def roll_up(home: Path) -> None:
    lake = Lake(home)
    with lake.scratch() as scratch, connection_in(scratch) as engine:
        file = scratch / "rollup"
        records = [lake.records("request", "gateway", DAY)]
        with rollup.rolled_up(engine, records, settings.DEFAULT_ACTIVE_TAGS) as rolled:
            engine.execute(f"copy ({rolled.rows}) to '{file}' (format parquet, compression zstd)")
        replace_file(file, lake.rollup("request", "gateway", DAY))


def dbt(home: Path, *command: str) -> None:
    project = settings.CHECKOUT / "dbt"
    subprocess.run(
        [
            # as the pipeline has it
            *(Path(sys.executable).with_name("dbt"), "--log-level-file", "none", "--no-write-json"),
            *(*command, "--project-dir", project, "--profiles-dir", project),
            *("--target-path", home / "target", "--log-path", home / "logs"),
        ],
        env={**os.environ, "CHARGEBACK_HOME": str(home)},
        check=True,
        stdout=subprocess.DEVNULL,
    )


def build(home: Path) -> None:
    with warehouse.building(Lake(home)):
        dbt(home, "build", "--exclude-resource-type", "unit_test")


def publish(home: Path) -> None:
    warehouse.publish(Lake(home))


def scan(home: Path) -> None:
    file = Lake(home).records("request", "gateway", DAY)
    with duckdb.connect() as engine:
        engine.execute(
            "select count(*), sum(input_tokens), sum(cache_read_tokens), sum(output_tokens), "
            f"sum(reported_cost) from read_parquet('{file}')"
        ).fetchall()


class Cost(NamedTuple):
    """What a step took: seconds, processor seconds of all cores, megabytes at its peak."""

    seconds: float
    used: float
    megabytes: float


def _timed(step: Callable[[Path], None], home: Path) -> Cost:
    start, begun = time.perf_counter(), _used()
    step(home)
    seconds = time.perf_counter() - start
    own, children = (
        resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return Cost(seconds, _used() - begun, max(own, children) / 1024)


def _used() -> float:
    """Processor seconds, of this process and those that it has waited for."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def timed(step: Callable[[Path], None], home: Path) -> Cost:
    """Run the step in a fresh process, and print what it took."""
    with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
        cost = fresh.submit(_timed, step, home).result()
    print(
        f"{step.__name__:>8}  {cost.seconds:7.2f} s  {cost.used:7.2f} s of processor time  "
        f"{cost.megabytes:7.0f} MB peak",
        flush=True,
    )
    return cost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000_000)
    requests = parser.parse_args().requests
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        make(Lake(home), requests)
        total = sum(timed(step, home).seconds for step in (roll_up, build, publish))
        bare = min(timed(scan, home).seconds for _ in range(3))
        groups = duckdb.sql(
            f"select count(*) from read_parquet('{Lake(home).rollup('request', 'gateway', DAY)}')"
        ).fetchall()[0][0]
    print(f"{requests:,} requests, {groups:,} rollup rows: {total:.1f} s, {total / bare:.0f} x one bare scan")


if __name__ == "__main__":
    main()
