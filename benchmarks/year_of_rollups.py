"""A year of daily rollups, rebuilt whole with all checks: how long, and what each day of history costs.

    .venv/bin/python benchmarks/year_of_rollups.py [--days 1 30 90 365] [--scattered]

One day of 50,000 rollup rows is made as in ten_million_requests.py, and repeated for each day of the history.
Who asks comes back in four or five hours of a day; with `--scattered` nearly every request is a group of its
own, the most work that so many rows can be. Timed, in fresh processes: the dbt build with all its checks.
Printed: time, peak memory, and what each day more than in the first line costs in processor time.
"""

from __future__ import annotations

import argparse
import tempfile
from datetime import timedelta
from pathlib import Path

import duckdb
from ten_million_requests import DAY, build, make, roll_up, timed

from dagster_project.lake import Lake


def repeat(lake: Lake, days: int) -> int:
    """Have the last `days` until DAY in the lake, each as DAY is. Returns their rollup rows."""
    with duckdb.connect() as engine:
        for number in range(1, days):
            moved = f"usage_date - {number} as usage_date"
            hour = f"started_hour - interval {number} day as started_hour"
            instant = f"started_at - interval {number} day as started_at"
            line = f"record_id || '-{number}' as record_id"
            for day, changed in (
                (lake.rollup("request", "gateway", DAY), f"{moved}, {hour}"),
                (lake.rollup("usage", "openai", DAY), f"{moved}, {hour}"),
                (lake.records("charge", "openai", DAY), f"{moved}, {instant}, {line}"),
            ):
                place = day.with_name(f"{DAY - timedelta(days=number)}.parquet")
                engine.execute(
                    f"copy (select * replace ({changed}) from read_parquet('{day}')) to '{place}' "
                    "(format parquet, compression zstd)"
                )
        files = [f"{lake.rollup(kind, '*', DAY).parent}/*.parquet" for kind in ("request", "usage")]
        return engine.execute("select count(*) from read_parquet(?)", [files]).fetchall()[0][0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--days", type=int, nargs="+", default=[1, 30, 90, 365])
    parser.add_argument("--scattered", action="store_true")
    asked = parser.parse_args()
    requests, customers = (16_250, 500) if asked.scattered else (27_500, 60)
    first = None
    for days in asked.days:
        with tempfile.TemporaryDirectory() as folder:
            lake = Lake(Path(folder))
            make(lake, requests, customers)
            roll_up(lake.home)
            rows = repeat(lake, days)
            cost = timed(build, lake.home)
        line = f"{days} days, {rows:,} rollup rows: {cost.seconds:.1f} s"
        if first is None:
            first = days, cost.used
        else:
            further = 1000 * (cost.used - first[1]) / (days - first[0])
            line += f", {further:.0f} ms of processor time for each further day"
        print(line)


if __name__ == "__main__":
    main()
