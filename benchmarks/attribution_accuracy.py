"""Which share of the dollars reaches its true owner? Run: python benchmarks/attribution_accuracy.py

Simulates October at Acme, pulls it over HTTP and from log files with the real pipeline, and compares
the published warehouse, and two usual methods on the same data, with the simulation's truth.
"""

from __future__ import annotations

import argparse
import os
import time
from datetime import date, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from dagster_project import pipeline
from dagster_project.days import Days
from dagster_project.demo import accuracy, company, providers

FIRST = date(2026, 10, 1)


def run(home: Path, days: Days, scale: float) -> pl.DataFrame:
    """Simulate, pull and build in the empty folder `home`; the measured shares."""
    started = time.perf_counter()
    acme = company.simulate(home / "acme", days, scale=scale)
    print(f"simulated {days} in {time.perf_counter() - started:.1f} s")
    with providers.serve(acme.folder) as servers:
        os.environ |= {
            **servers.environment,
            "ACME_LOGS": str(acme.folder),
            "CHARGEBACK_HOME": str(home),
            "CHARGEBACK_SOURCES": str(company.SOURCES),
            "CHARGEBACK_OWNERSHIP": str(company.OWNERSHIP),
        }
        started = time.perf_counter()
        pipeline.run(days, days.last, lambda step: print(f"running: {step}"))
    print(f"pulled, built and checked in {time.perf_counter() - started:.1f} s")
    return accuracy.measure(acme.truth, home / "warehouse.duckdb")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--days", type=int, default=31)
    parser.add_argument("--scale", type=float, default=1.0, help="1 is about 2,500 requests a day")
    asked = parser.parse_args()
    with TemporaryDirectory() as folder, pl.Config(tbl_width_chars=120, fmt_str_lengths=40):
        print(run(Path(folder), Days(FIRST, FIRST + timedelta(days=asked.days - 1)), asked.scale))
