"""The same inputs give the same bytes, whatever the order of pulls, the number of threads and the day."""

from __future__ import annotations

import hashlib
import random
import shutil
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import pytest
from conftest import ACTIVE_TAGS, CHECKOUT, dbt, digests

from dagster_project import ingest as ingesting
from dagster_project import ownership, rates, settings, sources, warehouse
from dagster_project.days import Days
from dagster_project.demo import company, providers
from dagster_project.ingest import BATCH_ROWS, ingest
from dagster_project.lake import Lake
from dagster_project.sources import Parsed, Source, _files

MONDAY = date(2026, 10, 5)
WEEK = Days(MONDAY, MONDAY + timedelta(days=6))
LARGE = 125_000
"""More than the engine works on in one piece, and more than a day that is finished together with others."""
assert LARGE > BATCH_ROWS

REQUEST = {
    "record_id": "'r' || (i // 2)",
    "record_kind": "'request'",
    "source": "'gateway'",
    "started_at": "usage_date + to_seconds(hash(i // 2) % 86400)",
    "ended_at": "started_at + to_seconds(hash(i) % 3)",
    "provider": "'openai'",
    "account_id": "'acme'",
    "gateway_key_id": "'vk' || (hash(i // 2) % 7)",
    "tags": "map(['service', 'run_id'], ['s' || (hash(i // 2) % 9), 'r' || i])",
    "model": "'gpt-4o'",
    "requests": "1",
    "input_tokens": "hash(i) % 5000",
    "other_meters": "map(['file_searches'], [hash(i) % 3])",
    "reported_cost": "0.000123",
}


def requests(day: date, rows: int, *, twice: bool) -> str:
    """Records of one day in no order; each `twice`, with another end."""
    number = "row" if twice else "row * 2"
    columns = ", ".join(f"({sql}) as {name}" for name, sql in REQUEST.items())
    return f"select {number} as i, date '{day}' as usage_date, {columns} from range({rows}) as t(row)"


ROWS = {
    **{day: requests(day, 3_000, twice=True) for day in WEEK},
    MONDAY: requests(MONDAY, LARGE, twice=False),
    WEEK.last: "select null as nothing where false",
}
"""A large day, an empty one, and five small ones in which every record was delivered twice."""


def logged(entry: settings.Entry, days: Days, raw: Path, connection: duckdb.DuckDBPyConnection) -> Parsed:
    """As a gateway's log, in files that are in no order of their own."""
    delivered = raw / "delivered.parquet"
    queries = " union all by name ".join(f"({ROWS[day]})" for day in days)
    connection.execute(f"copy (from ({queries})) to '{delivered}' (format parquet)")
    return Parsed({"request": _files.completed(connection.sql(f"from read_parquet('{delivered}')"))})


def source() -> Source:
    module = SimpleNamespace(
        KINDS=("request",), RESTATES_DAYS=1, KEEPS_RAW=False, fetch=lambda *_: None, parse=logged
    )
    return Source(settings.Entry(name="gateway", type="gateway", start_date=MONDAY), module)


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets how many threads the engine of a pull has."""
    connect = duckdb.connect

    def use(count: int) -> None:
        monkeypatch.setattr(
            ingesting.duckdb, "connect", lambda config: connect(config={**config, "threads": count})
        )

    return use


def pulled(home: Path, pulls: list[Days], now: datetime) -> dict[str, str]:
    for days in pulls:
        ingest(source(), days, Lake(home), ACTIVE_TAGS, now)
    return digests(home)


def test_the_lake_has_the_same_bytes_however_it_was_pulled(tmp_path, threads):
    now = datetime(2026, 10, 20, 5, tzinfo=UTC)
    threads(1)
    at_once = pulled(tmp_path / "at once", [WEEK], now)
    assert len(at_once) == 16, "records and rollups of seven days, what was pulled, and names"
    threads(8)
    shuffled = [Days(day, day) for day in WEEK]
    random.Random(3).shuffle(shuffled)
    assert pulled(tmp_path / "day by day", shuffled, now) == at_once

    threads(2)
    again = pulled(tmp_path / "at once", [WEEK], now + timedelta(days=30))
    when = "lake/pulled_days/gateway.parquet"
    assert again.pop(when) != at_once.pop(when), "it tells when it was pulled"
    assert again == at_once


# --- the published tables

TWO_DAYS = Days(date(2026, 10, 1), date(2026, 10, 2))
OF_THE_RUN = {"build_info": ("build_id", "built_at"), "source_freshness": ("pulled_at",)}
"""What tells of the run and not of its inputs."""


def build(home: Path, pulls: list[tuple[str, Days]], now: datetime, threads: int) -> None:
    """Acme's deployment in a lake of its own; dbt and its engine with so many threads."""
    lake = Lake(home)
    configured = sources.load_settings()
    for name, days in pulls:
        ingest(sources.configured()[name], days, lake, configured.active_tags, now, accept_small_days=True)
    warehouse.prepare(lake, configured)
    models = rates.resolve(warehouse.models_seen(lake))
    known = {"models": models, "rate_card": rates.rate_card(models)}
    warehouse.write_tables(lake, {**known, **ownership.load(settings.ownership_folder()).tables()})
    project = home / "project"
    shutil.copytree(CHECKOUT / "dbt", project, ignore=shutil.ignore_patterns("target", "logs"))
    profile = (project / "profiles.yml").read_text(encoding="utf-8")
    assert profile.count("settings:\n") == 1
    profile = profile.replace("settings:\n", f"settings:\n        threads: {threads}\n")
    (project / "profiles.yml").write_text(profile, encoding="utf-8")
    # That its checks pass is for others to say.
    untested = [f"--exclude-resource-type={kind}" for kind in ("test", "unit_test")]
    built = dbt("build", home, *untested, "--threads", str(threads), project=project)
    assert built.returncode == 0, built.stdout[-5000:]


def tables(home: Path) -> dict[str, str]:
    """The bytes of every table that is published, sorted, as Parquet."""
    found = {}
    with duckdb.connect(str(Lake(home).build), read_only=True) as built:
        names = built.execute(
            "select table_name from information_schema.tables where table_schema = 'main' order by all"
        ).fetchall()
        for (name,) in names:
            excepted = ", ".join(OF_THE_RUN.get(name, ()))
            columns = f"* exclude ({excepted})" if excepted else "*"
            file = home / f"{name}.parquet"
            built.execute(f"copy (select {columns} from {name} order by all) to '{file}' (format parquet)")
            found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


@pytest.mark.slow
def test_the_published_tables_have_the_same_bytes_however_they_were_built(tmp_path, monkeypatch):
    simulation = company.simulate(tmp_path / "simulated", TWO_DAYS, scale=0.1)
    with providers.serve(simulation.folder, restated=False) as servers:
        for name, value in {
            "CHARGEBACK_SOURCES": str(company.SOURCES),
            "CHARGEBACK_OWNERSHIP": str(company.OWNERSHIP),
            "ACME_LOGS": str(simulation.folder),
            **servers.environment,
        }.items():
            monkeypatch.setenv(name, value)
        names = list(sources.configured())
        now = datetime(2026, 10, 20, 5, tzinfo=UTC)
        build(tmp_path / "one", [(name, TWO_DAYS) for name in names], now, threads=1)
        pulls = [(name, Days(day, day)) for name in names for day in TWO_DAYS]
        random.Random(3).shuffle(pulls)
        build(tmp_path / "four", pulls, now + timedelta(days=5), threads=4)
    one, four = tables(tmp_path / "one"), tables(tmp_path / "four")
    assert "chargeback_by_team" in one
    assert [name for name in one.keys() | four.keys() if one.get(name) != four.get(name)] == []
