"""Running the whole pipeline through Dagster, in this process: what the console command does.

Every run is recorded in the deployment's Dagster instance, so it shows in the UI.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._utils.error import SerializableErrorInfo
from sqlalchemy.exc import OperationalError

from dagster_project import run_records, settings, sources
from dagster_project.days import Days
from dagster_project.errors import ChargebackError, ConfigError
from dagster_project.lake import Lake, sign
from dagster_project.small_days import ACCEPT_TAG
from dagster_project.sources import Source

COMMAND_TAG = "chargeback/command"
"""Marks the runs of the console command among those of the daemon."""


SPARE_BYTES = 64 * 2**20
"""With less than this, and room for the warehouse twice, a failed run tells how full the disk is."""


@dataclass(frozen=True)
class Pulled:
    """What a pull put into the lake: rows by kind, money (None where nothing says any), its own counts.

    What was restated are records and, by currency, the change of their billed cost; `accepted` tells the
    small days that were accepted, and is None where there were none.
    """

    source: str
    days: str
    rows: Mapping[str, int]
    billed_cost: Decimal | None
    reported_cost_usd: Decimal | None
    counts: Mapping[str, int]
    restated_records: int
    restated_cost: Mapping[str, Decimal]
    accepted: str | None


@dataclass(frozen=True)
class Step:
    """One Dagster run of the pipeline. `error` is a readable paragraph, None when it succeeded."""

    name: str
    run_id: str
    error: str | None
    pulled: Pulled | None


class RunFailed(ChargebackError):
    """Some runs failed. What they would have replaced is as it was; `pulled` is from those that did not."""

    def __init__(self, failed: Sequence[Step], pulled: Sequence[Pulled], lake: Lake) -> None:
        self.pulled = pulled
        told = [f"{step.name} failed (run {step.run_id}): {step.error}" for step in failed]
        # The engine's own words for a full disk are many, and not all of them name it.
        needed = SPARE_BYTES + 2 * (lake.published.stat().st_size if lake.published.exists() else 0)
        if (free := shutil.disk_usage(lake.home).free) < needed:
            told.append(_make_room(lake, free))
        super().__init__("\n".join(told))


class Unrecorded(ChargebackError):
    """Dagster could not write its records of a run: the disk is full, or not to be written."""

    def __init__(self, lake: Lake, error: OperationalError) -> None:
        free = shutil.disk_usage(lake.dagster_home).free
        super().__init__(
            f"the run could not be recorded in {lake.dagster_home} ({error.orig}). {_make_room(lake, free)}"
        )


def _make_room(lake: Lake, free: int) -> str:
    return (
        f"The disk of {lake.home} has {free // 2**20} MiB free: make room and run this again. "
        "What is published stays"
    )


def instance(lake: Lake) -> dg.DagsterInstance:
    """The deployment's Dagster instance under CHARGEBACK_HOME, made when it is missing.

    Its files stay open until it is disposed of.
    """
    home = lake.dagster_home
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "dagster.yaml").exists():
        shutil.copyfile(Path(__file__).with_name("dagster.yaml"), home / "dagster.yaml")
    return run_records.kept_open(str(home))


def run(
    days: Days | None,
    today: date,
    progress: Callable[[str], None],
    names: Collection[str] = (),
    *,
    accept_small_days: bool = False,
) -> Sequence[Pulled]:
    """Pull `days` of every source, then build, check and publish the warehouse. Returns what was pulled.

    Without `days` each source's own look-back up to `today` is pulled, as the daily schedules do; with
    `names` only those sources are. A source that fails keeps its old data and does not hold the others
    back. `progress` is told the name of each step when it starts. Raises RunFailed at the end if any
    step failed, ConfigError before anything is started.
    """
    pulls = {}
    for source in _named(names):
        pulled = source.days_of(days) if days else source.look_back(today)
        if pulled is not None:
            pulls[source.name] = pulled
            source.entry.require_secrets()
    if not pulls:
        raise ConfigError(
            str(settings.sources_file()),
            [f"no source has days {'in ' + str(days) if days else 'up to ' + str(today)}; add one"],
        )
    return _execute(pulls, progress, {ACCEPT_TAG: "true"} if accept_small_days else {})


def _named(names: Collection[str]) -> list[Source]:
    """The configured sources of these names; all of them without any."""
    configured = sources.configured()
    if unknown := [name for name in names if name not in configured]:
        raise ConfigError(
            str(settings.sources_file()),
            [f"there is no source `{name}`; {settings.nearest(name, list(configured))}" for name in unknown],
        )
    return [source for name, source in configured.items() if name in names or not names]


def build(progress: Callable[[str], None]) -> None:
    """Build, check and publish the warehouse from what the lake holds. Raises RunFailed."""
    _execute({}, progress, {})


def _execute(
    pulls: Mapping[str, Days], progress: Callable[[str], None], tags: Mapping[str, str]
) -> Sequence[Pulled]:
    """`tags` are those of the runs that pull."""
    lake = Lake.of_environment()
    try:
        with lake.locked("command", wait=False), instance(lake) as recorded:
            _bury_the_dead(recorded, of_commands=True)
            steps = list(_steps(recorded, pulls, progress, tags))
    except OperationalError as error:
        raise Unrecorded(lake, error) from None
    pulled = [step.pulled for step in steps if step.pulled is not None]
    if failed := [step for step in steps if step.error is not None]:
        raise RunFailed(failed, pulled, lake)
    return pulled


def _steps(
    recorded: dg.DagsterInstance,
    pulls: Mapping[str, Days],
    progress: Callable[[str], None],
    tags: Mapping[str, str],
) -> Iterator[Step]:
    # Loading the definitions parses the dbt project: only those who run need it.
    from dagster_project.definitions import defs  # noqa: PLC0415
    from dagster_project.defs.chargeback import dbt_build  # noqa: PLC0415
    from dagster_project.defs.schedules import range_tags  # noqa: PLC0415

    loaded = defs()
    for source, days in pulls.items():
        progress(f"{source} {days}")
        yield _run(loaded, recorded, f"{source} {days}", [dg.AssetKey(source)], {**range_tags(days), **tags})
    progress("ownership map and rate card")
    known = [dg.AssetKey("ownership_map"), dg.AssetKey("rate_card")]
    knowledge = _run(loaded, recorded, "ownership map and rate card", known, {})
    yield knowledge
    if knowledge.error is None:
        progress("chargeback models and checks")
        built = [*dbt_build.keys, dg.AssetKey("warehouse")]
        yield _run(loaded, recorded, "chargeback models and checks", built, {})


def _bury_the_dead(recorded: dg.DagsterInstance, *, of_commands: bool) -> None:
    """Mark unfinished runs that nobody works on any more as failed: they would hold their pool for ever.

    Called under the lock of those who work on such runs: commands, or the UI's daemon.
    """
    unfinished = dg.RunsFilter(
        statuses=[
            dg.DagsterRunStatus.STARTING,
            dg.DagsterRunStatus.STARTED,
            dg.DagsterRunStatus.CANCELING,
        ]
    )
    for run in recorded.get_runs(unfinished):
        if (COMMAND_TAG in run.tags) == of_commands:
            recorded.report_run_failed(run, "whoever ran this was killed; what was not finished is as it was")


def serve_ui(port: int) -> int:
    """The Dagster UI and daemon on this deployment, until they are stopped; returns their exit code.

    Raises Busy when the deployment has them already.
    """
    lake = Lake.of_environment()
    with lake.locked("ui", wait=False) as lock:
        with instance(lake) as recorded:
            _bury_the_dead(recorded, of_commands=False)
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name("dg")), "dev", "--port", str(port)],
            cwd=settings.CHECKOUT,
            env={**os.environ, "CHARGEBACK_HOME": str(lake.home), "DAGSTER_HOME": str(lake.dagster_home)},
            pass_fds=[lock.fileno()],
        )
        # When only this process is killed, that one goes on, and holds the lock.
        sign(lock, process.pid)
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
        told = [event.materialization.metadata for event in result.get_asset_materialization_events()]
        pulled = _pulled(assets[0].path[-1], told[0]) if "days" in told[0] else None
        return Step(name, result.run_id, None, pulled)
    return Step(name, result.run_id, "; ".join(map(_readable, causes)) or "the run did not finish", None)


def _pulled(source: str, told: Mapping[str, dg.MetadataValue]) -> Pulled:
    """What the metadata of a pull say, as `defs/pulls.py` writes them."""

    def group(prefix: str) -> dict[str, Any]:
        return {
            name.removeprefix(prefix): found.value for name, found in told.items() if name.startswith(prefix)
        }

    money = {
        name: Decimal(told[name].value) if name in told else None
        for name in ("billed_cost", "reported_cost_usd")
    }
    restated = group("restated/billed_cost/")
    return Pulled(
        source,
        told["days"].value,
        group("rows/"),
        counts=group("counts/"),
        restated_records=told["restated/records"].value,
        restated_cost={currency: Decimal(amount) for currency, amount in restated.items()},
        accepted=told["accepted_small_days"].value if "accepted_small_days" in told else None,
        **money,
    )


def _readable(cause: SerializableErrorInfo) -> str:
    """The message of an error, without the class that Dagster puts before it."""
    message = re.sub(r"\x1b\[[0-9;]*m", "", cause.message).strip()
    message = message.partition(f"{cause.cls_name}: ")[2] or message
    if cause.cls_name == "DagsterDbtCliRuntimeError":
        lines = [line.strip() for line in message.splitlines()]
        told = [
            " ".join(lines[number : number + 2]).strip()  # the reason is below
            for number, line in enumerate(lines)
            if line.startswith(_DBT_VERDICTS)
        ]
        first = " ".join(message.partition("\n\n")[0].split())
        return "dbt refused the result: " + "; ".join(told or [first])
    return message


_DBT_VERDICTS = (
    "Compilation Error",
    "Runtime Error",
    "Database Error",
    "Parsing Error",
)
