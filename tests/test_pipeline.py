"""The whole pipeline as its users run it: `chargeback run` on Acme, and readers all the while."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import date
from decimal import Decimal
from pathlib import Path

import duckdb
import httpx
import pytest
from dagster import AssetKey, DagsterInstance, DagsterRunStatus, RunsFilter
from leaks import files_with

from dagster_project import settings
from dagster_project.days import Days
from dagster_project.demo import company, gateway_log, providers

DAYS = Days(date(2026, 10, 1), date(2026, 10, 4))
MARTS = (
    "fct_cost_allocations",
    "chargeback_daily",
    "chargeback_by_team",
    "chargeback_by_project",
    "chargeback_by_environment",
    "chargeback_by_tag",
    "reconciliation_daily",
    "unowned_identities",
    "fct_requests",
)


OF_NOBODY = "a-secret-that-is-in-the-environment-too"


@dataclass
class Deployment:
    """Acme's pipeline in a folder of its own, and the console command that runs it."""

    home: Path
    simulation: company.Simulation
    servers: providers.Servers
    environment: dict[str, str] = field(default_factory=dict)
    first_run: str = ""
    """What the first run printed."""
    said: list[str] = field(default_factory=list)
    """What all commands printed."""

    def chargeback(self, *arguments: str, **changed: str) -> subprocess.CompletedProcess[str]:
        finished = subprocess.run(
            [str(Path(sys.executable).with_name("chargeback")), *arguments],
            env={**os.environ, **self.environment, **changed, "COLUMNS": "200"},
            capture_output=True,
            text=True,
            check=False,
        )
        self.said.extend((finished.stdout, finished.stderr))
        return finished

    def run(self, **changed: str) -> subprocess.CompletedProcess[str]:
        return self.chargeback("run", "--from", str(DAYS.first), "--to", str(DAYS.last), **changed)

    @property
    def published(self) -> Path:
        return self.home / "warehouse.duckdb"

    def query(self, sql: str) -> list[tuple]:
        with duckdb.connect(str(self.published), read_only=True) as connection:
            return connection.execute(sql).fetchall()

    def contents(self) -> dict[str, tuple]:
        """For every mart its number of rows and a hash over all of them."""
        return {
            mart: self.query(f"select count(*), bit_xor(hash({mart}::varchar)) from {mart}")[0]
            for mart in MARTS
        }


@pytest.fixture(scope="module")
def acme(tmp_path_factory) -> Iterator[Deployment]:
    home = tmp_path_factory.mktemp("home")
    simulation = company.simulate(tmp_path_factory.mktemp("acme") / "simulated", DAYS, scale=0.2)
    with providers.serve(simulation.folder, restated=False) as servers:
        yield Deployment(
            home,
            simulation,
            servers,
            {
                "CHARGEBACK_HOME": str(home),
                "CHARGEBACK_SOURCES": str(company.SOURCES),
                "CHARGEBACK_OWNERSHIP": str(company.OWNERSHIP),
                "ACME_LOGS": str(simulation.folder),
                "AWS_SECRET_ACCESS_KEY": OF_NOBODY,
                "LITELLM_DATABASE_URL": f"postgresql://chargeback:{OF_NOBODY}@127.0.0.1/litellm",
                **servers.environment,
            },
        )


@pytest.fixture(scope="module")
def pulled(acme) -> Deployment:
    """Acme after its first run."""
    finished = acme.run()
    assert finished.returncode == 0, finished.stderr
    return replace(acme, first_run=finished.stdout)


def test_the_published_marts_sum_to_the_bill(pulled):
    billed = sum(amount for (amount,) in bill(pulled, "first"))
    rows = pulled.query(
        "select sum(billed_usd), sum(attributed_usd), max(abs(difference_usd)) from reconciliation_daily"
    )
    assert rows == [(billed, billed, 0)]
    for breakdown in ("chargeback_daily", "chargeback_by_team", "chargeback_by_project"):
        assert pulled.query(f"select sum(cost_usd) from {breakdown}") == [(billed,)]


def test_a_run_tells_what_was_pulled(pulled):
    for source, cost, kinds in (
        ("openai", "billed_cost", ("charge", "usage")),
        ("anthropic", "billed_cost", ("charge", "usage")),
        ("gateway", "reported_cost", ("request",)),
    ):
        said = told(pulled.first_run, source)
        assert str(DAYS) in said
        for kind in kinds:
            files = pulled.home / "lake" / "records" / kind / source / "*.parquet"
            ((rows, usd),) = duckdb.sql(
                f"select count(*), sum({cost}) from read_parquet('{files}')"
            ).fetchall()
            assert f"{rows:,} {kind}" in said
            assert usd is None or f"{usd:,.2f}" in said
    assert re.search(r"[1-9]\d* duplicates dropped", told(pulled.first_run, "gateway"))
    assert " 0 " not in pulled.first_run


def told(table: str, source: str) -> str:
    """The lines of a source in the table that a run prints."""
    found = re.search(rf"^│ {source} .*\n(│ +│.*\n)*", table, flags=re.MULTILINE)
    return found[0] if found else ""


def bill(acme: Deployment, version: str) -> list[tuple[Decimal]]:
    """What the providers bill, from the simulation's own books: never read by the pipeline."""
    file = acme.simulation.folder / "charges.parquet"
    return duckdb.sql(
        f"select sum(cost_usd)::decimal(38, 12) from read_parquet('{file}') "
        f"where seen in ('both', '{version}')"
    ).fetchall()


def test_running_again_changes_nothing_and_readers_see_no_failure(pulled):
    before, (build,) = pulled.contents(), pulled.query("select * exclude (built_at) from build_info")
    stop, failures, reads = threading.Event(), [], []

    def read_in_a_loop() -> None:
        while not stop.wait(0.3):
            try:
                reads.append(pulled.query("select sum(cost_usd) from chargeback_by_team"))
            except duckdb.Error as error:
                failures.append(error)

    reader = threading.Thread(target=read_in_a_loop)
    reader.start()
    finished = pulled.run()
    stop.set()
    reader.join()
    assert finished.returncode == 0, finished.stderr
    assert pulled.contents() == before
    assert not failures
    assert len(reads) > 10
    assert len({str(read) for read in reads}) == 1
    (again,) = pulled.query("select * exclude (built_at) from build_info")
    assert again[0] != build[0]
    assert again[1:] == build[1:]
    assert again[-1] == DAYS.last
    assert pulled.query("from source_freshness select * exclude (pulled_at) order by source") == [
        (source, DAYS.first, DAYS.last, 0) for source in ("anthropic", "gateway", "openai")
    ]


def test_the_runs_are_recorded_in_the_instance(pulled):
    with DagsterInstance.from_config(str(pulled.home / "dagster")) as instance:
        for source in ("openai", "anthropic", "gateway"):
            days = instance.get_materialized_partitions(AssetKey(source))
            assert days == {str(day) for day in DAYS}
        metadata = instance.get_latest_materialization_event(AssetKey("fct_cost_allocations"))
        assert metadata.asset_materialization.metadata["dagster/row_count"].value > 0


def test_the_queries_of_the_readme_run(pulled):
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    queries = re.search(r"```sql\n(.*?)```", readme, flags=re.DOTALL)[1].split(";")
    for query in queries:
        if query.strip():
            assert pulled.query(query), query


@pytest.mark.slow
def test_the_ui_has_the_schedules_on_and_the_days_materialised(pulled):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ui = subprocess.Popen(
        [str(Path(sys.executable).with_name("chargeback")), "ui", "--port", str(port)],
        env={**os.environ, **pulled.environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    question = """{ repositoriesOrError { ... on RepositoryConnection { nodes {
        schedules { name scheduleState { status } } sensors { name sensorState { status } } } } }
      assetNodeOrError(assetKey: {path: ["openai"]}) { ... on AssetNode {
        partitionStats { numMaterialized } } } }"""
    try:
        answer = _ask(f"http://127.0.0.1:{port}/graphql", question, until=time.monotonic() + 90)
    finally:
        ui.terminate()
        ui.wait(timeout=60)
    (code_location,) = answer["repositoriesOrError"]["nodes"]
    assert {s["name"]: s["scheduleState"]["status"] for s in code_location["schedules"]} == {
        "daily_anthropic": "RUNNING",
        "daily_gateway": "RUNNING",
        "daily_openai": "RUNNING",
    }
    assert [sensor["sensorState"]["status"] for sensor in code_location["sensors"]] == ["RUNNING"]
    assert answer["assetNodeOrError"]["partitionStats"]["numMaterialized"] == len(DAYS)


def _ask(url: str, question: str, until: float) -> dict:
    """The answer of Dagster's web server, once it is there and has loaded the code location."""
    while time.monotonic() < until:
        with suppress(httpx.TransportError, httpx.HTTPStatusError):
            answer = httpx.post(url, json={"query": question}, timeout=30).raise_for_status().json()["data"]
            if answer["repositoriesOrError"].get("nodes"):
                return answer
        time.sleep(1)
    pytest.fail("the UI did not come up")


def test_sources_lists_the_last_good_day(pulled):
    listed = pulled.chargeback("sources")
    assert listed.returncode == 0
    for source in ("openai", "anthropic", "gateway"):
        line = next(line for line in listed.stdout.splitlines() if f" {source} " in line)
        assert str(DAYS.last) in line


@pytest.mark.slow
def test_a_provider_that_fails_makes_the_run_red_and_moves_nothing(pulled, tmp_path):
    before = pulled.contents()
    impatient = company.SOURCES.read_text(encoding="utf-8").replace(
        "    account: acme\n", "    account: acme\n    max_attempts: 1\n"
    )
    (tmp_path / "sources.yaml").write_text(impatient, encoding="utf-8")
    finished = pulled.run(
        CHARGEBACK_SOURCES=str(tmp_path / "sources.yaml"), ACME_OPENAI_URL="http://127.0.0.1:9/v1"
    )
    assert finished.returncode == 1
    assert "openai 2026-10-01..2026-10-04 failed" in finished.stderr
    assert not told(finished.stdout, "openai")
    assert told(finished.stdout, "anthropic")
    assert told(finished.stdout, "gateway")
    assert "published" not in finished.stdout
    assert "Traceback" not in finished.stderr
    assert providers.OPENAI_ADMIN_KEY not in finished.stderr
    assert pulled.contents() == before


def test_a_mistake_in_the_map_is_told_with_its_place_and_nothing_is_published(pulled, tmp_path):
    before = pulled.contents()
    (tmp_path / "wrong.yaml").write_text("teams: {a: {}}\nservices:\n  s: {team: b}\n", encoding="utf-8")
    finished = pulled.run(CHARGEBACK_OWNERSHIP=str(tmp_path))
    assert finished.returncode == 1
    assert "wrong.yaml:3:" in finished.stderr
    assert pulled.contents() == before


@pytest.mark.slow
def test_a_killed_run_is_repaired_by_the_next_one(pulled):
    before = pulled.contents()
    killed = subprocess.Popen(
        [
            str(Path(sys.executable).with_name("chargeback")),
            "run",
            "--from",
            str(DAYS.first),
            "--to",
            str(DAYS.last),
        ],
        env={**os.environ, **pulled.environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in killed.stderr:
        if "gateway" in line:
            break
    time.sleep(1.0)
    second = pulled.run()
    killed.kill()
    killed.wait()
    assert second.returncode == 1, "two commands at once"
    assert f"another chargeback command (process {killed.pid}) is working on" in second.stderr
    assert pulled.contents() == before
    finished = pulled.run()
    assert finished.returncode == 0, finished.stderr
    assert pulled.contents() == before
    assert not list((pulled.home / "scratch").iterdir())
    with DagsterInstance.from_config(str(pulled.home / "dagster")) as instance:
        assert not instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.STARTED]))


def test_a_closed_month_does_not_move(pulled, tmp_path):
    shutil.copytree(pulled.home, tmp_path / "home")
    sources = tmp_path / "sources.yaml"
    sources.write_text(company.SOURCES.read_text() + JOURNAL + "retention: {request_days: 1, raw_days: 1}\n")
    changed = {"CHARGEBACK_HOME": str(tmp_path / "home"), "CHARGEBACK_SOURCES": str(sources)}
    acme = replace(pulled, home=tmp_path / "home", environment={**pulled.environment, **changed})
    (first,), (final,) = bill(acme, "first"), bill(acme, "final")

    closed = acme.chargeback(
        "close", "2026-10", "--accept-unsettled", "--reason", "a short month", "--by", "ana"
    )
    assert closed.returncode == 0, closed.stderr
    assert f"billed {first[0]} USD" in closed.stdout
    signed = {
        file: file.read_bytes() for file in (acme.home / "closed" / "2026-10").rglob("*") if file.is_file()
    }
    statement = acme.home / "closed" / "2026-10" / "statement.parquet"
    assert duckdb.sql(f"select sum(cost_usd) from '{statement}'").fetchall() == [first]

    assert httpx.post(f"{acme.servers.url}/_restate").status_code < 300
    assert acme.run().returncode == 0
    booked = "select month, sum(cost_usd) from chargeback_by_team group by all order by all"
    october, november = (date(2026, month, 1) for month in (10, 11))
    assert acme.query(booked) == [(october, first[0]), (november, final[0] - first[0])]
    ((ledger,),) = acme.query("select sum(difference) from restatements where measure = 'billed_cost'")
    assert ledger == final[0] - first[0]
    assert {file: file.read_bytes() for file in signed} == signed
    assert acme.query("from fct_requests") == [], "they are older than a day, and no number needs them"
    assert not list((acme.home / "raw").glob("*/*"))

    printed = acme.chargeback("journal", "2026-10")
    assert printed.stdout == (acme.home / "closed" / "2026-10" / "journal.csv").read_text()


JOURNAL = """
journal:
  expense_account: "6420"
  payable_account: "2100"
  accrual_account: "2190"
"""


@pytest.mark.slow
def test_a_wrong_total_blocks_publication(pulled):
    before = pulled.contents()
    day = pulled.home / "lake" / "records" / "charge" / "openai" / f"{DAYS.first}.parquet"
    good = day.read_bytes()
    scratch = day.with_name("scratch.parquet")
    duckdb.sql(
        f"copy (select * replace ('EUR' as currency) from read_parquet('{day}')) "
        f"to '{scratch}' (format parquet)"
    )
    scratch.replace(day)
    try:
        finished = pulled.chargeback("build")
        assert finished.returncode == 1
        assert "charges_without_an_fx_rate" in finished.stderr
        assert pulled.contents() == before
    finally:
        day.write_bytes(good)


# The last test: of all that was run before it, with failures, too.
def test_no_secret_and_no_prompt_is_written_or_said(pulled):
    private = [gateway_log.PRIVATE, OF_NOBODY, providers.OPENAI_ADMIN_KEY, providers.ANTHROPIC_ADMIN_KEY]
    assert len(files_with(pulled.simulation.folder, private)) >= len(DAYS), "the gateway's log has them"
    assert [file for file in files_with(pulled.home, ["support"]) if file.startswith(("dagster/", "lake/"))]
    assert files_with(pulled.home, private) == []
    assert files_with(settings.CHECKOUT / "dbt" / "target", private) == []
    assert [text for text in pulled.said if any(one in text for one in private)] == []
