"""Finds the owners of 50,000 identities by a map of 10,000 selectors: the two dbt models that do it.

    python benchmarks/resolve_owners.py [identities] [selectors]

Half of the selectors are globs, a tenth of these begin with a wildcard; every identity has tags, and every
tenth service changed hands once. Prints the seconds of both models, and the peak memory of the process.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb

from dagster_project import ownership, warehouse
from dagster_project.lake import Lake

CHECKOUT = Path(__file__).parents[1]
TEAMS = 200
MODELS = ("int_identities_matched", "int_identities_resolved")

IDENTITIES = """
create table intermediate.int_identities as
select
    'identity ' || n as identity_id,
    'openai' as provider,
    'account-' || n % 20 as account_id,
    'proj-' || n % 3000 as provider_project_id,
    'Project ' || n % 3000 as provider_project_name,
    'key_' || lpad((n % 9000)::varchar, 6, '0') as api_key_id,
    'key name ' || n as api_key_name,
    null::varchar as principal_id,
    null::varchar as principal_name,
    'gateway' as gateway,
    'vk-' || n as gateway_key_id,
    'service-' || n % 7000 || '-' || n as gateway_key_name,
    'team-' || n % 200 as gateway_team,
    'Team ' || n % 200 as gateway_team_name,
    'user-' || n || '@service-' || n % 7000 || '.example' as gateway_user,
    null::varchar as deciding_model,
    null::varchar as deciding_line_item,
    map {'team': 'team-' || n % 200, 'service': 'service-' || n % 7000} as deciding_tags
from range($identities) as numbers (n)
"""


def written_map(selectors: int) -> str:
    """Two selectors a service; the second is a glob."""
    lines = ["teams:", *(f"  team-{n}: {{}}" for n in range(TEAMS)), "services:"]
    for n in range(selectors // 2):
        glob = f'gateway_user: "*@service-{n}.example"' if n % 10 == 0 else f"gateway_key: service-{n}-*"
        history = f", history: [{{until: 2026-07-01, team: team-{(n + 1) % TEAMS}}}]" if n % 10 == 0 else ""
        owner = "shared: true" if n % 7 == 0 else f"team: team-{n % TEAMS}"
        lines.append(f"  service-{n}: {{{owner}, match: [{{api_key: key_{n:06}}}, {{{glob}}}]{history}}}")
    return "\n".join(lines)


def compiled(home: Path) -> dict[str, str]:
    """The SQL of both models, as dbt would run it."""
    subprocess.run(
        [
            *(str(Path(sys.executable).with_name("dbt")), "--quiet", "compile"),
            *("--project-dir", str(CHECKOUT / "dbt"), "--profiles-dir", str(CHECKOUT / "dbt")),
            *("--target-path", str(home / "target"), "--log-path", str(home / "logs")),
            *("--select", *MODELS),
        ],
        env={**os.environ, "CHARGEBACK_HOME": str(home)},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    folder = home / "target/compiled/llm_chargeback/models/intermediate"
    return {model: (folder / f"{model}.sql").read_text(encoding="utf-8") for model in MODELS}


def main(identities: int, selectors: int) -> None:
    with TemporaryDirectory() as folder:
        home = Path(folder)
        lake = Lake(home)
        (home / "map").mkdir()
        (home / "map/owners.yaml").write_text(written_map(selectors), encoding="utf-8")
        warehouse.write_tables(lake, ownership.load(home / "map").tables())
        lake.build.parent.mkdir(parents=True)
        models = compiled(home)
        with duckdb.connect(str(lake.build), config={"threads": 2}) as build:
            build.execute("create schema if not exists intermediate")
            build.execute(IDENTITIES, {"identities": identities})
            for model, sql in models.items():
                began = time.perf_counter()
                build.execute(f"create table intermediate.{model} as {sql}")
                rows = build.sql(f"select count(*) from intermediate.{model}").fetchall()[0][0]
                print(f"{model:<24}{time.perf_counter() - began:6.2f} s, {rows:,} rows")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{identities:,} identities, {selectors:,} selectors; {peak:,.0f} MB peak")


if __name__ == "__main__":
    arguments = [int(argument) for argument in sys.argv[1:]]
    main(*(arguments + [50_000, 10_000][len(arguments) :]))
