"""Loads an ownership map of 10,000 services, beside a bare YAML parse of the same file.

    python benchmarks/load_ownership_map.py [services]

Every service has globs of its own: finding ties by comparing every pair would take minutes.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from dagster_project import ownership

SERVICE = """\
  service-{n}:
    {owner}
    project: project-{project}
    environment: production
    match:
      - gateway_key: service-{n}-*
      - gateway_user: "*@service-{n}.example"
      - {{provider: openai, api_key: key_{n:06}}}
      - {{provider: azure, line_item: "service-{n} *", model: "gpt-*"}}
    history:
      - {{until: 2026-07-01, team: team-{former}}}
"""
TEAMS = 200


def written_map(services: int) -> str:
    lines = ["environments: {production: [prod]}\n", "teams:\n"]
    lines += [f"  team-{n}: {{cost_center: CC-{n}}}\n" for n in range(TEAMS)]
    lines += ["services:\n"]
    for n in range(services):
        team, other = n % TEAMS, (n + 1) % TEAMS
        lines.append(
            SERVICE.format(
                n=n,
                owner=f"split: {{team-{team}: 0.6, team-{other}: 0.4}}"
                if n % 10 == 0
                else f"team: team-{team}",
                project=n % 500,
                former=other,
            )
        )
    return "".join(lines)


def seconds(run: Callable[[], object]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


def main(services: int) -> None:
    text = written_map(services)
    with TemporaryDirectory() as folder:
        (Path(folder) / "owners.yaml").write_text(text, encoding="utf-8")
        loaded = min(seconds(lambda: ownership.load(Path(folder)).tables()) for _ in range(3))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    # Last, because the values that it constructs take more memory than the map does.
    bare = min(seconds(lambda: yaml.load(text, yaml.CSafeLoader)) for _ in range(3))
    print(f"{services:,} services, {len(text):,} characters")
    print(f"bare yaml parse     {bare:6.2f} s")
    print(f"load and tables     {loaded:6.2f} s, {loaded / bare:.2f} times as long")
    print(f"peak memory         {memory:6.0f} MB")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
