"""Processes killed at every stage, two writers at once, full disks: nothing half-done is read."""

from __future__ import annotations

import fcntl
import os
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime
from itertools import count
from pathlib import Path
from traceback import extract_tb

import duckdb
import httpx
import polars as pl
import pytest
from conftest import assert_nothing_left, digests
from dagster import DagsterInstance, DagsterRunStatus, RunsFilter
from test_commits import FIRST, SECOND, build_whole, pull_whole
from test_pipeline import Deployment

from dagster_project import closing, warehouse
from dagster_project.days import Days
from dagster_project.demo import company, providers
from dagster_project.lake import Busy, Lake, NoRoom
from dagster_project.pipeline import COMMAND_TAG

DAYS = Days(date(2026, 10, 1), date(2026, 10, 2))
RUN = ("run", "--from", str(DAYS.first), "--to", str(DAYS.last))


def deployment(home: Path, simulation: company.Simulation, servers: providers.Servers) -> Deployment:
    environment = {
        "CHARGEBACK_HOME": str(home),
        "CHARGEBACK_SOURCES": str(company.SOURCES),
        "CHARGEBACK_OWNERSHIP": str(company.OWNERSHIP),
        "ACME_LOGS": str(simulation.folder),
        **servers.environment,
    }
    return Deployment(home, simulation, servers, environment)


@pytest.fixture(scope="module")
def acme(tmp_path_factory) -> Iterator[Deployment]:
    """Two days of Acme, pulled and published once."""
    simulation = company.simulate(tmp_path_factory.mktemp("acme") / "simulated", DAYS, scale=0.1)
    with providers.serve(simulation.folder, restated=False) as servers:
        pulled = deployment(tmp_path_factory.mktemp("home"), simulation, servers)
        finished = pulled.chargeback(*RUN)
        assert finished.returncode == 0, finished.stderr
        yield pulled


def copy_of(acme: Deployment, home: Path) -> Deployment:
    shutil.copytree(acme.home, home, dirs_exist_ok=True)
    return deployment(home, acme.simulation, acme.servers)


def identity(file: Path) -> tuple[int, int] | None:
    """Changes when a file is replaced or written; None while it is not there."""
    with suppress(FileNotFoundError):
        return file.stat().st_ino, file.stat().st_mtime_ns
    return None


def changed(file: Path) -> Callable[[], bool]:
    before = identity(file)
    return lambda: identity(file) != before


def kill_when(acme: Deployment, happened: Callable[[], bool], seconds: float = 300) -> None:
    """Start a run and kill it, without a warning, as soon as `happened` says so."""
    until = time.monotonic() + seconds
    with subprocess.Popen(
        [str(Path(sys.executable).with_name("chargeback")), *RUN],
        env={**os.environ, **acme.environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            while not happened():
                assert process.poll() is None, f"it ended before it could be killed: {process.stderr.read()}"
                assert time.monotonic() < until, "what was waited for did not happen"
                time.sleep(0.001)
        finally:
            process.kill()


def kill_after(acme: Deployment, seconds: float) -> None:
    """Start a run and kill it, without a warning, after so long, if it is not done by then."""
    with suppress(subprocess.TimeoutExpired):
        subprocess.run(
            [str(Path(sys.executable).with_name("chargeback")), *RUN],
            env={**os.environ, **acme.environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=seconds,
            check=False,
        )


def assert_whole(acme: Deployment) -> None:
    """Every file of the lake can be read to its end, and no lock is held."""
    for file in (acme.home / "lake").rglob("*.parquet"):
        duckdb.sql(f"select * from read_parquet('{file}')").fetchall()
    for lock in (acme.home / "locks").iterdir():
        with lock.open() as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def unfinished(acme: Deployment) -> list[str]:
    with DagsterInstance.from_config(str(acme.home / "dagster")) as instance:
        statuses = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]
        return [run.run_id for run in instance.get_runs(RunsFilter(statuses=statuses))]


KILLS = 100


@pytest.mark.slow
def test_a_run_killed_at_any_stage_is_as_if_it_had_not_been(acme, tmp_path):
    killed, spared = copy_of(acme, tmp_path / "killed"), copy_of(acme, tmp_path / "spared")
    old = killed.contents()
    # From here on the providers tell other figures, so that old and new differ.
    assert httpx.post(f"{acme.servers.url}/_restate").status_code < 300
    begun = time.monotonic()
    finished = spared.chargeback(*RUN)
    seconds = time.monotonic() - begun
    assert finished.returncode == 0, finished.stderr
    new = spared.contents()
    assert new != old

    lake = Lake(killed.home)
    seeded = random.Random(11)
    first = lake.records("charge", "openai", DAYS.first)
    stages = {
        "a pull": lambda: lambda: any(lake.home.glob("scratch/*/raw/*")),
        "a commit": lambda: (lake.home / "commit").exists,
        "between the files of a pull": lambda: changed(first),
        "dbt": lambda: changed(lake.build.with_suffix(".duckdb.wal")),
        "the copy that is published": lambda: lambda: any(lake.home.glob("scratch/*/warehouse.duckdb")),
    }
    for kill in range(KILLS):
        stage = list(stages)[kill] if kill < len(stages) else "anywhere"
        if stage in stages:
            kill_when(killed, stages[stage]())
        else:
            kill_after(killed, seeded.uniform(0, seconds))
        contents = killed.contents()
        assert contents in (old, new), (stage, kill)
        # dbt ends with the command that started it.
        wait_for(lambda: not at_work(killed.home), seconds=5)
        assert_whole(killed)
        if contents == new:
            shutil.rmtree(killed.home)
            copy_of(acme, killed.home)

    finished = killed.chargeback(*RUN)
    assert finished.returncode == 0, finished.stderr
    assert killed.contents() == new
    assert restated(killed) == restated(spared) != []
    assert_whole(killed)
    assert not (killed.home / "commit").exists()
    assert not list((killed.home / "scratch").iterdir())
    assert not unfinished(killed)


def restated(deployment: Deployment) -> list[tuple]:
    """What the ledger tells, whichever pulls found it."""
    return deployment.query(
        "select record_kind, usage_date, record_id, currency, change, measure, difference, text_after "
        "from restatements order by all"
    )


def at_work(home: Path) -> list[str]:
    """The processes of a deployment, where the machine tells (Linux)."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"CHARGEBACK_HOME={home}\0".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_build_interrupted_in_dbt_leaves_what_is_published(acme, tmp_path, sent):
    interrupted = copy_of(acme, tmp_path)
    before = interrupted.contents()
    building = changed(Lake(interrupted.home).build.with_suffix(".duckdb.wal"))
    with subprocess.Popen(
        [str(Path(sys.executable).with_name("chargeback")), "build"],
        env={**os.environ, **interrupted.environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while not building():
            assert process.poll() is None, "it ended before it could be interrupted"
            time.sleep(0.001)
        process.send_signal(sent)
        _, told = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "interrupted; what was not finished is as it was" in told
    wait_for(lambda: not at_work(interrupted.home), seconds=5)
    assert interrupted.contents() == before
    assert_whole(interrupted)
    assert not unfinished(interrupted)
    assert_next_run_repairs(interrupted)


@pytest.mark.slow
def test_a_build_that_did_not_pass_is_not_published(acme, tmp_path):
    refused = copy_of(acme, tmp_path)
    lake = Lake(refused.home)
    before = identity(lake.published)
    with pytest.raises(RuntimeError), warehouse.building(lake):
        raise RuntimeError("a check failed")
    with pytest.raises(warehouse.NotPassed):
        warehouse.publish(lake)
    with warehouse.building(lake, whole=False):
        pass
    with pytest.raises(warehouse.NotPassed, match="run `chargeback build`"):
        warehouse.publish(lake)
    assert identity(lake.published) == before
    with warehouse.building(lake):
        pass
    assert warehouse.publish(lake).difference == 0


@pytest.mark.slow
def test_a_build_waits_for_whoever_is_writing(acme, tmp_path):
    """A run of the UI's daemon and a command have nothing in common but the files."""
    waiting = copy_of(acme, tmp_path)
    lake = Lake(waiting.home)
    before = identity(lake.build), identity(lake.table("rate_card"))
    with lake.locked("warehouse"):
        command = subprocess.Popen(
            [str(Path(sys.executable).with_name("chargeback")), "build"],
            env={**os.environ, **waiting.environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        line = next(line for line in command.stderr if "ownership map" in line)
        time.sleep(3)
        assert command.poll() is None, line
        assert (identity(lake.build), identity(lake.table("rate_card"))) == before
        with pytest.raises(Busy), lake.locked("command", wait=False):
            pass
    _, told = command.communicate(timeout=300)
    assert command.returncode == 0, told
    assert identity(lake.build) != before[0]
    assert waiting.contents() == acme.contents()


BACKFILL = """mutation ($day: String!) { launchPartitionBackfill(backfillParams: {
    assetSelection: [{path: ["openai"]}], partitionNames: [$day]}) { __typename } }"""


@contextmanager
def ui(deployment: Deployment, port: int, **changed: str) -> Iterator[subprocess.Popen[bytes]]:
    """`chargeback ui`, killed at the end with everything that it started."""
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("chargeback")), "ui", "--port", str(port)],
        env={**os.environ, **deployment.environment, **changed},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def launch(port: int, day: date) -> bool:
    """Ask the web server for a backfill; False while it is not there or has not loaded the code."""
    asked = {"query": BACKFILL, "variables": {"day": str(day)}}
    with suppress(httpx.TransportError):
        told = httpx.post(f"http://127.0.0.1:{port}/graphql", json=asked, timeout=30).json()
        return told["data"]["launchPartitionBackfill"]["__typename"] == "LaunchBackfillSuccess"
    return False


def statuses(deployment: Deployment) -> list[str]:
    """What became of the runs of the daemon, the first one first."""
    with DagsterInstance.from_config(str(deployment.home / "dagster")) as instance:
        runs = [run for run in instance.get_runs(ascending=True) if COMMAND_TAG not in run.tags]
        return [run.status.value for run in runs]


def process_of_last_run(deployment: Deployment) -> int:
    with DagsterInstance.from_config(str(deployment.home / "dagster")) as instance:
        (run,) = instance.get_runs(limit=1)
        told = [event.message for event in instance.all_logs(run.run_id)]
    return int(re.search(r"Started process for run \(pid: (\d+)\)", "\n".join(told))[1])


def wait_for(happened: Callable[[], bool], seconds: float = 240) -> None:
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until, "what was waited for did not happen"
        time.sleep(0.5)


@pytest.mark.slow
def test_runs_of_a_killed_ui_are_failed_and_their_pool_is_free_when_it_starts_again(acme, tmp_path):
    deployed = copy_of(acme, tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        free.close()
        # A provider that takes the connection and never answers.
        never = {"ACME_OPENAI_URL": f"http://127.0.0.1:{silent.getsockname()[1]}/v1"}
        with ui(deployed, port, **never):
            wait_for(lambda: launch(port, DAYS.first))
            wait_for(lambda: statuses(deployed) == ["STARTED"])
            wait_for(lambda: launch(port, DAYS.last))
            wait_for(lambda: statuses(deployed) == ["STARTED", "QUEUED"])
            second = deployed.chargeback("ui")
            assert second.returncode == 1
            assert "another chargeback command" in second.stderr
        assert statuses(deployed) == ["STARTED", "QUEUED"]
        with ui(deployed, port, **never):
            wait_for(lambda: statuses(deployed) == ["FAILURE", "STARTED"])
            # Where only the process of a run is killed, the code server tells.
            os.kill(process_of_last_run(deployed), signal.SIGKILL)
            wait_for(lambda: statuses(deployed) == ["FAILURE", "FAILURE"])


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("mount") is None, reason="this machine has no mount command")
def test_a_full_disk_is_told_and_changes_nothing(acme, tmp_path):
    with small_disk(tmp_path / "disk", "96m") as disk:
        home = disk / "home"
        full = copy_of(acme, home)
        before = full.contents()
        # Dagster's records first on the same disk, then elsewhere, so that it is the data that finds no room.
        for kibibytes, apart, told in (
            (0, False, f"could not be recorded in {home / 'dagster'}"),
            (0, True, "openai 2026-10-01..2026-10-02 failed"),
            (700, True, "chargeback models and checks failed"),
        ):
            if apart and not (home / "dagster").is_symlink():
                for name in ("dagster", "dbt"):
                    shutil.move(home / name, tmp_path / name)
                    (home / name).symlink_to(tmp_path / name)
            with filled(disk, kibibytes):
                failed = full.chargeback(*RUN)
            assert failed.returncode == 1, failed.stderr
            assert told in failed.stderr
            assert f"The disk of {home} has 0 MiB free: make room and run this again" in failed.stderr
            assert "Traceback" not in failed.stderr
            assert full.contents() == before
            assert_whole(full)
        assert_next_run_repairs(full)


@contextmanager
def filled(disk: Path, left_kibibytes: int) -> Iterator[None]:
    filler = disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(disk).free - left_kibibytes * 1024))
    try:
        yield
    finally:
        filler.unlink()


@pytest.mark.slow
def test_a_write_that_fails_changes_nothing(acme, tmp_path):
    """As a full disk, on machines where none can be mounted: files may not grow beyond a size."""
    limited = copy_of(acme, tmp_path)
    before = limited.contents()

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, 1_500_000))

    failed = subprocess.run(
        [str(Path(sys.executable).with_name("chargeback")), *RUN],
        env={**os.environ, **limited.environment},
        capture_output=True,
        text=True,
        preexec_fn=limit,
        check=False,
    )
    assert failed.returncode == 1, failed.stderr
    assert "error: " in failed.stderr
    assert "Traceback" not in failed.stderr
    assert limited.contents() == before
    assert_whole(limited)
    assert_next_run_repairs(limited)


# --- every write, on a disk that is filled to the last page


def write_tables(lake: Lake, version: int) -> None:
    warehouse.write_tables(lake, {name: pl.DataFrame({"row": [version]}) for name in ("rates", "owners")})


def close(lake: Lake) -> None:
    closing.close(
        lake,
        DAYS.first,
        accepted=[],
        reason=None,
        by="ana",
        now=datetime(2026, 12, 1, tzinfo=UTC),
        accounts=None,
        ownership_map=company.OWNERSHIP,
    )


def reopen(lake: Lake) -> None:
    closing.reopen(lake, DAYS.first, reason="a mistake", by="ana", now=datetime(2026, 12, 2, tzinfo=UTC))


def published(lake: Lake) -> None:
    build_whole(lake, 1)
    warehouse.publish(lake)


def published_and_built_again(lake: Lake) -> None:
    published(lake)
    build_whole(lake, 2)


def published_and_closed(lake: Lake) -> None:
    published(lake)
    close(lake)


WRITES = {
    "a pull": (
        lambda lake: pull_whole(str(lake.home), 1, FIRST),
        lambda lake: pull_whole(str(lake.home), 2, SECOND),
        {"fetch", "_stage", "_write_days", "_merged", "commit"},
    ),
    "tables": (lambda lake: write_tables(lake, 1), lambda lake: write_tables(lake, 2), {"write_tables"}),
    "a publication": (published_and_built_again, warehouse.publish, {"copyfile"}),
    "a closing": (published, close, {"close", "write", "_copy_map", "_write_json", "_sign"}),
    "a reopening": (published_and_closed, reopen, {"_write_json"}),
}
"""What was there, what is written then, and the functions that find no room."""


@pytest.mark.skipif(shutil.which("mount") is None, reason="this machine has no mount command")
@pytest.mark.parametrize("work", WRITES)
def test_no_write_for_which_there_is_no_room_changes_anything(work, tmp_path):
    before, write, found_no_room = WRITES[work]
    with small_disk(tmp_path / "disk", "24m") as disk:
        lake, spared = Lake(disk / "home"), Lake(tmp_path / "spared")
        before(lake)
        shutil.copytree(lake.home, spared.home)
        write(spared)
        old, new = digests(lake.home), digests(spared.home)
        assert old != new
        refused: list[NoRoom] = []
        for kibibytes in count(0, 128 if work == "a publication" else 4):
            with filled(disk, kibibytes):
                try:
                    write(lake)
                    break
                except NoRoom as error:
                    refused.append(error)
            assert digests(lake.home) == old, kibibytes
            assert_nothing_left(lake.home)
        told = re.compile(
            re.escape(f"no room is left on the disk of {lake.home} (") + ".*make room and run this"
        )
        assert all(told.match(str(error)) for error in refused)
        causes = [extract_tb(error.__cause__.__traceback__) for error in refused]
        assert {frame.name for cause in causes for frame in cause} >= found_no_room
        assert digests(lake.home) == new
        assert_nothing_left(lake.home)


def assert_next_run_repairs(deployment: Deployment) -> None:
    finished = deployment.chargeback(*RUN)
    assert finished.returncode == 0, finished.stderr
    assert not list((deployment.home / "scratch").iterdir())
    assert not unfinished(deployment)
    (difference,) = deployment.query("select max(abs(difference_usd)) from reconciliation_daily")[0]
    assert difference == 0
