"""Running the whole pipeline through Dagster, in this process: what the console command does.

Every run is recorded in the deployment's Dagster instance, so it shows in the UI.
"""

from __future__ import annotations

import fcntl
import io
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import dagster as dg
from dagster._utils.error import SerializableErrorInfo

from dagster_project import settings, sources
from dagster_project.days import Days
from dagster_project.errors import ChargebackError, ConfigError
from dagster_project.lake import Lake

COMMAND_TAG = "chargeback/command"
"""Marks the runs of the console command among those of the daemon."""


@dataclass(frozen=True)
class Step:
    """One Dagster run of the pipeline. `error` is a readable paragraph, None when it succeeded."""

    name: str
    run_id: str
    error: str | None


class RunFailed(ChargebackError):
    """Some runs failed. What they would have replaced is as it was."""

    def __init__(self, failed: Sequence[Step]) -> None:
        super().__init__(
            "\n".join(f"{step.name} failed (run {step.run_id}): {step.error}" for step in failed)
        )


class Busy(ChargebackError):
    """Another command is working on the same deployment."""

    def __init__(self, lake: Lake, process: str) -> None:
        super().__init__(
            f"another chargeback command (process {process}) is working on {lake.home}; "
            "wait until it is done and run this again"
        )


def instance(lake: Lake) -> dg.DagsterInstance:
    """The deployment's Dagster instance under CHARGEBACK_HOME, made when it is missing."""
    home = lake.dagster_home
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "dagster.yaml").exists():
        shutil.copyfile(Path(__file__).with_name("dagster.yaml"), home / "dagster.yaml")
    return dg.DagsterInstance.from_config(str(home))


def run(days: Days | None, today: date, progress: Callable[[str], None]) -> None:
    """Pull `days` of every source, then build, check and publish the warehouse.

    Without `days` each source's own look-back up to `today` is pulled, as the daily schedules do. A
    source that fails keeps its old data and does not hold the others back. `progress` is told the
    name of each step when it starts. Raises RunFailed at the end if any step failed.
    """
    pulls = {}
    for source in sources.configured().values():
        pulled = source.days_of(days) if days else source.look_back(today)
        if pulled is not None:
            pulls[source.name] = pulled
            source.entry.require_secrets()
    if not pulls:
        raise ConfigError(
            str(settings.sources_file()),
            [f"no source has days {'in ' + str(days) if days else 'up to ' + str(today)}; add one"],
        )
    _execute(pulls, progress)


def build(progress: Callable[[str], None]) -> None:
    """Build, check and publish the warehouse from what the lake holds. Raises RunFailed."""
    _execute({}, progress)


def _execute(pulls: Mapping[str, Days], progress: Callable[[str], None]) -> None:
    lake = Lake.of_environment()
    with _alone(lake), instance(lake) as recorded:
        _bury_the_dead(recorded)
        failed = [step for step in _steps(recorded, pulls, progress) if step.error is not None]
    if failed:
        raise RunFailed(failed)


def _steps(
    recorded: dg.DagsterInstance, pulls: Mapping[str, Days], progress: Callable[[str], None]
) -> Iterator[Step]:
    # Loading the definitions parses the dbt project: only those who run need it.
    from dagster_project.definitions import defs  # noqa: PLC0415
    from dagster_project.defs.chargeback import dbt_build  # noqa: PLC0415
    from dagster_project.defs.schedules import range_tags  # noqa: PLC0415

    loaded = defs()
    for source, days in pulls.items():
        progress(f"{source} {days}")
        yield _run(loaded, recorded, f"{source} {days}", [dg.AssetKey(source)], range_tags(days))
    progress("ownership map and rate card")
    known = [dg.AssetKey("ownership_map"), dg.AssetKey("rate_card")]
    knowledge = _run(loaded, recorded, "ownership map and rate card", known, {})
    yield knowledge
    if knowledge.error is None:
        progress("chargeback models and checks")
        built = [*dbt_build.keys, dg.AssetKey("warehouse")]
        yield _run(loaded, recorded, "chargeback models and checks", built, {})


@contextmanager
def _alone(lake: Lake) -> Iterator[None]:
    """Hold the deployment's lock. Raises Busy when another command of this kind has it."""
    lake.home.mkdir(parents=True, exist_ok=True)
    with (lake.home / "run.lock").open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise Busy(lake, lock.read().strip()) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _bury_the_dead(recorded: dg.DagsterInstance) -> None:
    """Mark runs of killed commands as failed: they would keep their source's pool for ever.

    Called under the lock, so a run of a command that is still open is of one that is gone.
    """
    unfinished = dg.RunsFilter(
        statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING], tags={COMMAND_TAG: "chargeback"}
    )
    for run in recorded.get_runs(unfinished):
        recorded.report_run_failed(run, "the command that ran this was killed")


def serve_ui(port: int) -> int:
    """The Dagster UI and daemon on this deployment, until they are stopped; returns their exit code."""
    lake = Lake.of_environment()
    instance(lake).dispose()
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("dg")), "dev", "--port", str(port)],
        cwd=settings.CHECKOUT,
        env={**os.environ, "CHARGEBACK_HOME": str(lake.home), "DAGSTER_HOME": str(lake.dagster_home)},
    )
    # Ctrl-C reaches both processes; whoever ends only this one means the other, too.
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    with suppress(KeyboardInterrupt):
        return process.wait()
    return process.wait()


def _run(
    loaded: dg.Definitions,
    recorded: dg.DagsterInstance,
    name: str,
    assets: Sequence[dg.AssetKey],
    tags: Mapping[str, str],
) -> Step:
    job = loaded.resolve_implicit_job_def_def_for_assets(assets)
    # What dbt prints line by line is in the run's events; here the steps are told by `progress`.
    with redirect_stdout(io.StringIO()):
        result = job.execute_in_process(
            instance=recorded,
            asset_selection=assets,
            tags={**tags, COMMAND_TAG: "chargeback"},
            raise_on_error=False,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )
    failures = [event.event_specific_data.error for event in result.all_events if event.is_step_failure]
    causes = [failure.cause or failure for failure in failures]
    if any(cause.cls_name == "DagsterExecutionInterruptedError" for cause in causes):
        raise KeyboardInterrupt
    if result.success:
        return Step(name, result.run_id, None)
    return Step(name, result.run_id, "; ".join(map(_readable, causes)) or "the run did not finish")


def _readable(cause: SerializableErrorInfo) -> str:
    """The message of an error, without the class that Dagster puts before it."""
    message = re.sub(r"\x1b\[[0-9;]*m", "", cause.message).strip()
    if cause.cls_name == "DagsterDbtCliRuntimeError":
        told = [line.strip() for line in message.splitlines() if line.lstrip().startswith(_DBT_VERDICTS)]
        return "dbt refused the result: " + "; ".join(told or [message.splitlines()[0]])
    return message.partition(f"{cause.cls_name}: ")[2] or message


_DBT_VERDICTS = (
    "Failure in",
    "Got ",
    "Compilation Error",
    "Runtime Error",
    "Database Error",
    "Parsing Error",
)
