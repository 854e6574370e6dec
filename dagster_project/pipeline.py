"""Running the whole pipeline through Dagster, in this process: what the console command does.

Every run is recorded in the deployment's Dagster instance, so it shows in the UI.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
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


def run(days: Days | None, today: date, progress: Callable[[str], None]) -> list[Step]:
    """Pull `days` of every source, then build, check and publish the warehouse.

    Without `days` each source's own look-back up to `today` is pulled, as the daily schedules do. A
    source that fails keeps its old data and does not hold the others back. `progress` is told the
    name of each step when it starts. Raises RunFailed at the end if any step failed.
    """
    configured = sources.configured()
    # Loading the definitions parses the dbt project: only those who run need it.
    from dagster_project.definitions import defs  # noqa: PLC0415
    from dagster_project.defs.schedules import range_tags  # noqa: PLC0415

    loaded = defs()
    steps: list[Step] = []
    with instance(Lake.of_environment()) as recorded:
        for source in configured.values():
            pulled = source.days_of(days) if days else source.look_back(today)
            if pulled is None:
                continue
            name = f"{source.name} {pulled}"
            progress(name)
            steps.append(_run(loaded, recorded, name, [source.name], range_tags(pulled)))
        progress("ownership map and rate card")
        steps.append(
            _run(loaded, recorded, "ownership map and rate card", ["ownership_map", "rate_card"], {})
        )
        if steps[-1].error is None:
            progress("chargeback models and checks")
            steps.append(_run(loaded, recorded, "chargeback models", _built(loaded), {}))
    failed = [step for step in steps if step.error is not None]
    if failed:
        raise RunFailed(failed)
    return steps


def serve_ui(port: int) -> int:
    """The Dagster UI and daemon on this deployment, until they are stopped; returns their exit code."""
    lake = Lake.of_environment()
    instance(lake).dispose()
    return subprocess.call(
        [str(Path(sys.executable).with_name("dg")), "dev", "--port", str(port)],
        cwd=settings.CHECKOUT,
        env={**os.environ, "CHARGEBACK_HOME": str(lake.home), "DAGSTER_HOME": str(lake.dagster_home)},
    )


def _built(loaded: dg.Definitions) -> list[dg.AssetKey]:
    from dagster_project.defs.chargeback import dbt_build  # noqa: PLC0415

    return [*dbt_build.keys, dg.AssetKey("warehouse")]


def _run(
    loaded: dg.Definitions,
    recorded: dg.DagsterInstance,
    name: str,
    assets: Sequence[str | dg.AssetKey],
    tags: dict[str, str],
) -> Step:
    selected = [dg.AssetKey.from_coercible(asset) for asset in assets]
    job = loaded.resolve_implicit_job_def_def_for_assets(selected)
    # What dbt prints line by line is in the run's events; here the steps are told by `progress`.
    with redirect_stdout(io.StringIO()):
        result = job.execute_in_process(
            instance=recorded,
            asset_selection=selected,
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
