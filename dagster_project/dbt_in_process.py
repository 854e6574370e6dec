"""dbt's commands in this process.

Dagster has loaded dbt's libraries already. A child would load them again, tell what it does as JSON, and go
on writing when this process is killed.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster._utils.interrupts import raise_interrupts_as
from dagster_dbt import DagsterDbtCliRuntimeError, DagsterDbtTranslator, DbtProject
from dagster_dbt.asset_utils import get_updated_cli_invocation_params_for_context
from dagster_dbt.core.dbt_cli_event import DbtCoreCliEventMessage
from dbt.adapters.duckdb.connections import DuckDBConnectionManager
from dbt_common.events.functions import env_scrubber, msg_to_dict

if TYPE_CHECKING:
    from dbt.cli.main import dbtRunnerResult
    from dbt.contracts.results import RunResult
    from dbt_common.events.base_types import EventMsg


@dataclass(frozen=True)
class Build:
    """What became of a `dbt build`.

    `events` are Dagster's of the models and tests; `results` those of dbt's artifact `run_results.json`, none
    when it failed before it ran any node. `error` is None when everything passed.
    """

    events: Sequence[Any]
    results: Sequence[Mapping[str, Any]]
    error: DagsterDbtCliRuntimeError | None


def parse(project: DbtProject) -> None:
    """Write the project's manifest. Raises DagsterDbtCliRuntimeError."""
    heard = Heard()
    ended = invoke(["parse"], project, project.project_dir / project.target_path, heard)
    if error := heard.error(ended):
        raise error


def build(context: dg.AssetExecutionContext, target: Path, *arguments: str) -> Build:
    """`dbt build` with these arguments, of what was selected in Dagster; dbt's lines go to stdout.

    When it returns, nothing holds the build file any more. Interrupted, it ends its queries first.
    """
    asked = get_updated_cli_invocation_params_for_context(context, {}, DagsterDbtTranslator())
    project = asked.dbt_project
    _hand_on_what_was_parsed(project, target)
    indirectly = ["--indirect-selection", asked.indirect_selection] if asked.indirect_selection else []
    # The manifest and the results are here; writing them as JSON takes a second.
    command = ["--no-write-json", "build", *arguments, *asked.selection_args, *indirectly]
    context.log.info(f"Running dbt command: `dbt {' '.join(command)}`.")
    heard = Heard(show=sys.stdout.write)
    try:
        # dbt ends its queries on this interrupt, and on no other.
        with raise_interrupts_as(KeyboardInterrupt):
            ended = invoke(command, project, target, heard)
    except KeyboardInterrupt:
        raise dg.DagsterExecutionInterruptedError from None
    return Build(
        [
            told
            for event in heard.results()
            for told in event.to_default_asset_events(
                asked.manifest, asked.dagster_dbt_translator, context, target, project
            )
        ],
        [_result(result) for result in ended.result.results] if ended.result else [],
        heard.error(ended),
    )


def _hand_on_what_was_parsed(project: DbtProject, target: Path) -> None:
    """A new deployment need not parse the project whole."""
    parsed = project.project_dir / project.target_path / "partial_parse.msgpack"
    if parsed.exists() and not (target / parsed.name).exists():
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(parsed, target / parsed.name)


class Heard:
    """What dbt shows its users of a command: its events from `info` on. Threads of dbt speak to it."""

    def __init__(self, show: Callable[[str], object] = lambda _: None) -> None:
        self._show = show
        self._events: list[EventMsg] = []
        self._errors: list[str] = []

    def __call__(self, event: EventMsg) -> None:
        if event.info.level in ("info", "warn", "error"):
            line = env_scrubber(event.info.msg)
            self._show(f"{line}\n")
            self._events.append(event)
            if event.info.level == "error":
                self._errors.append(line)

    def results(self) -> Iterator[DbtCoreCliEventMessage]:
        """What tells the end of a model, seed or test."""
        for event in self._events:
            message = DbtCoreCliEventMessage(msg_to_dict(event), {})
            if message.is_result_event:
                yield message

    def error(self, ended: dbtRunnerResult) -> DagsterDbtCliRuntimeError | None:
        if ended.success and not self._errors:
            return None
        return DagsterDbtCliRuntimeError("\n\n".join(self._errors or [str(ended.exception)]))


def invoke(arguments: Sequence[str], project: DbtProject, target: Path, heard: Heard) -> dbtRunnerResult:
    """Any command of dbt. When it returns, nothing holds the database any more. Raises KeyboardInterrupt."""
    # Half a second that only those pay who run dbt.
    from dbt.cli.main import dbtRunner  # noqa: PLC0415

    project_dir, profiles_dir, target_path = map(
        os.fspath, (project.project_dir, project.profiles_dir, target)
    )
    with _files_let_go():
        ended = dbtRunner(callbacks=[heard]).invoke(
            [
                # It is heard; and a log of every step of its own is a tenth of its time.
                *("--log-level", "none", "--log-level-file", "none"),
                *arguments,
                *("--project-dir", project_dir, "--profiles-dir", profiles_dir),
                *("--target-path", target_path, "--log-path", target_path),
            ]
        )
    if isinstance(ended.exception, KeyboardInterrupt):
        raise ended.exception
    return ended


@contextmanager
def _files_let_go() -> Iterator[None]:
    """dbt-duckdb would keep its file open for as long as this process lives."""
    try:
        yield
    finally:
        if opened := DuckDBConnectionManager._ENV:
            opened.close()
        DuckDBConnectionManager.close_all_connections()


def _result(result: RunResult) -> Mapping[str, Any]:
    return {
        "unique_id": result.node.unique_id,
        "status": result.status.value,
        "message": result.message,
        "failures": result.failures,
        "compiled_code": getattr(result.node, "compiled_code", None),
    }
