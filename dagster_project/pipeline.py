"""Running the whole pipeline through Dagster, in this process: what the console command does.

Every run is recorded in the deployment's Dagster instance, so it shows in the UI.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import dagster as dg

from dagster_project import settings, sources
from dagster_project.days import Days
from dagster_project.errors import ChargebackError
from dagster_project.lake import Lake


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
    _execute(pulls, progress)


def build(progress: Callable[[str], None]) -> None:
    """Build, check and publish the warehouse from what the lake holds. Raises RunFailed."""
    _execute({}, progress)


def _execute(pulls: Mapping[str, Days], progress: Callable[[str], None]) -> None:
    # Loading the definitions parses the dbt project: only those who run need it.
    from dagster_project.definitions import defs  # noqa: PLC0415
    from dagster_project.defs.chargeback import dbt_build  # noqa: PLC0415
    from dagster_project.defs.schedules import range_tags  # noqa: PLC0415

    loaded = defs()
    steps: list[Step] = []
    with instance(Lake.of_environment()) as recorded:

        def step(name: str, assets: Sequence[dg.AssetKey], tags: Mapping[str, str]) -> bool:
            progress(name)
            steps.append(_run(loaded, recorded, name, assets, tags))
            return steps[-1].error is None

        for source, days in pulls.items():
            step(f"{source} {days}", [dg.AssetKey(source)], range_tags(days))
        if step("ownership map and rate card", [dg.AssetKey("ownership_map"), dg.AssetKey("rate_card")], {}):
            step("chargeback models and checks", [*dbt_build.keys, dg.AssetKey("warehouse")], {})
    failed = [step for step in steps if step.error is not None]
    if failed:
        raise RunFailed(failed)


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
            tags=tags,
            raise_on_error=False,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )
    error = None
    if not result.success:
        failures = [event.event_specific_data.error for event in result.all_events if event.is_step_failure]
        causes = [failure.cause or failure for failure in failures]
        error = "; ".join(cause.message.strip() for cause in causes) or "the run did not finish"
    return Step(name, result.run_id, error)
