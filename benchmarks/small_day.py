"""The fixed cost of a run: `chargeback run` of one small day, against one bare `dbt build` of the same files.

    .venv/bin/python benchmarks/small_day.py [--runs 3]

The deployment has a gateway's log of a few requests and a declared cost. Both commands build and check
everything, on the same files, in turn and several times; the first of each fills caches and is not counted.
Printed: seconds and processor seconds of both (the least of the runs), and the ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dagster_project import settings

DAY = "2026-10-05"
SOURCES = f"""
sources:
  gateway:
    type: litellm
    start_date: {DAY}
    path: ${{LOGS}}/*.ndjson
    routes: [{{provider: openai, account: acme}}]
  plans:
    type: declared
    start_date: {DAY}
    costs: [{{name: Seats, provider: openai, account: acme, amount: 30, every: day, from: {DAY}}}]
"""
OWNERSHIP = "teams: {support: {}}\nservices: {bot: {team: support, match: {gateway_key: vk}}}\n"


def request(number: int) -> dict[str, object]:
    return {
        "request_id": f"r{number}",
        "call_type": "acompletion",
        "api_key": "vk",
        "spend": 0.001,
        "prompt_tokens": 100,
        "completion_tokens": 10,
        "startTime": f"{DAY}T03:18:31",
        "endTime": f"{DAY}T03:18:32",
        "model": "openai/gpt-4o",
        "custom_llm_provider": "openai",
        "metadata": {},
    }


def timed(command: list[str | Path], environment: dict[str, str]) -> tuple[float, float]:
    """Seconds, and processor seconds, of one run."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - start, used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    installed = Path(sys.executable).parent
    project = settings.CHECKOUT / "dbt"
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        for name in ("logs", "map"):
            (home / name).mkdir()
        (home / "logs" / "day.ndjson").write_text("".join(json.dumps(request(n)) + "\n" for n in range(20)))
        (home / "sources.yaml").write_text(SOURCES)
        (home / "map" / "owners.yaml").write_text(OWNERSHIP)
        environment = {
            **os.environ,
            "LOGS": str(home / "logs"),
            "CHARGEBACK_HOME": str(home / "home"),
            "CHARGEBACK_SOURCES": str(home / "sources.yaml"),
            "CHARGEBACK_OWNERSHIP": str(home / "map"),
        }
        # What Python has compiled once it keeps, as for anybody who runs it again.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        commands: dict[str, list[str | Path]] = {
            "chargeback run": [installed / "chargeback", "run", "--from", DAY, "--to", DAY],
            "dbt build": [
                *(installed / "dbt", "build", "--exclude-resource-type", "unit_test"),
                *("--project-dir", project, "--profiles-dir", project),
                *("--target-path", home / "target", "--log-path", home / "logs of dbt"),
            ],
        }
        # In turn, so that both meet the machine as it is at the time.
        rounds = [
            {name: timed(command, environment) for name, command in commands.items()} for _ in range(runs + 1)
        ]
    run, bare = (min(found[name] for found in rounds[1:]) for name in commands)
    for name, (seconds, used) in zip(commands, (run, bare), strict=True):
        print(f"{name:>14}  {seconds:6.1f} s  {used:6.1f} s of processor time")
    print(f"{run[0] / bare[0]:.2f} times a bare dbt build, {run[1] / bare[1]:.2f} of its processor time")


if __name__ == "__main__":
    main()
