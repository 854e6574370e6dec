"""dbt in the process of its caller: what it leaves there, whatever becomes of it."""

import logging
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest
from dagster_dbt import DbtProject, dbt_assets

from dagster_project import dbt_in_process, pipeline

TABLE = "{{ config(materialized='table') }}"
MODELS = {
    "numbers": "select 1 as number",
    "endless": f"{TABLE} select count(*) from range(1000000000000) where range > {{{{ env_var('REST') }}}}",
    "broken": "select nothing from range(1)",
}
TESTS = {
    "numbers_are_positive": "select * from {{ ref('numbers') }} where number < 1",
    "numbers_are_even": "select * from {{ ref('numbers') }} where number % 2 = 1",
    "numbers_are_small": "{{ config(severity='warn') }} select * from {{ ref('numbers') }}",
}
PROFILE = """
small:
  target: build
  outputs:
    build: {type: duckdb, path: "{{ env_var('CHARGEBACK_HOME') }}/built.duckdb", threads: 2}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> DbtProject:
    """A parsed project, with models and tests that end in every way."""
    folder = tmp_path_factory.mktemp("small")
    for kind, files in (("models", MODELS), ("tests", TESTS)):
        (folder / kind).mkdir()
        for name, sql in files.items():
            (folder / kind / f"{name}.sql").write_text(sql, encoding="utf-8")
    (folder / "dbt_project.yml").write_text(
        "name: small\nprofile: small\nflags: {send_anonymous_usage_stats: false}"
    )
    (folder / "profiles.yml").write_text(PROFILE)
    project = DbtProject(folder, profiles_dir=folder)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("CHARGEBACK_HOME", str(folder))
        environment.setenv("REST", "3")
        dbt_in_process.parse(project)
    return project


@pytest.fixture
def build(
    project: DbtProject, home: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[dg.ExecuteInProcessResult, dbt_in_process.Build | None]]:
    """Build some of the project as an asset, as the pipeline does."""
    monkeypatch.setenv("REST", "3")

    def run(*selected: str) -> tuple[dg.ExecuteInProcessResult, dbt_in_process.Build | None]:
        ended = []

        @dbt_assets(manifest=project.manifest_path, project=project)
        def models(context: dg.AssetExecutionContext) -> Iterator[Any]:
            ended.append(dbt_in_process.build(context, home / "dbt"))
            yield from ended[0].events
            if ended[0].error:
                raise ended[0].error

        keys = [dg.AssetKey(name) for name in selected]
        result = dg.materialize([models], selection=keys, raise_on_error=False)
        return result, ended[0] if ended else None

    return run


def statuses(ended: dbt_in_process.Build) -> dict[str, str]:
    return {result["unique_id"].split(".")[2]: result["status"] for result in ended.results}


def built(home: Path) -> list[tuple]:
    """Fails while anybody holds the file."""
    with duckdb.connect(str(home / "built.duckdb"), read_only=True) as build:
        return build.execute("from numbers").fetchall()


def test_models_and_tests_are_told_as_assets_and_checks(build, home):
    result, ended = build("numbers")
    assert [event.asset_key.path for event in result.get_asset_materialization_events()] == [["numbers"]]
    checks = {
        check.check_name: (check.passed, check.severity) for check in result.get_asset_check_evaluations()
    }
    assert checks == {
        "numbers_are_positive": (True, dg.AssetCheckSeverity.ERROR),
        "numbers_are_even": (False, dg.AssetCheckSeverity.ERROR),
        "numbers_are_small": (False, dg.AssetCheckSeverity.WARN),
    }
    assert statuses(ended) == {
        "numbers": "success",
        "numbers_are_positive": "pass",
        "numbers_are_even": "fail",
        "numbers_are_small": "warn",
    }
    assert "numbers_are_even" in str(ended.error.description)
    assert built(home) == [(1,)]


def test_a_model_that_cannot_be_made_is_told_and_nothing_holds_the_file(build, home):
    _, ended = build("numbers", "broken")
    assert statuses(ended)["broken"] == "error"
    assert 'Referenced column "nothing" not found' in ended.error.description
    assert built(home) == [(1,)]


def test_a_dbt_that_cannot_begin_is_told_and_has_no_results(build, monkeypatch):
    monkeypatch.delenv("REST")
    result, ended = build("numbers")
    assert ended.results == ended.events == []
    assert "Env var required but not provided: 'REST'" in ended.error.description
    (failed,) = [event.event_specific_data for event in result.all_events if event.is_step_failure]
    told = pipeline._readable(failed.error.cause or failed.error)
    assert told.startswith("dbt refused the result: Parsing Error Env var required but not provided: 'REST'")


def test_one_process_builds_one_deployment_after_the_other(build, home, tmp_path, monkeypatch):
    build("numbers")
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.setenv("CHARGEBACK_HOME", str(other))
    build("numbers")
    assert built(home) == built(other) == [(1,)]


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_queries_and_nothing_holds_the_file(build, home, sent):
    build("numbers")

    def interrupt() -> None:
        while not (home / "dbt" / "run" / "small" / "models" / "endless.sql").exists():
            time.sleep(0.05)
        time.sleep(0.5)
        os.kill(os.getpid(), sent)

    sender = threading.Thread(target=interrupt)
    sender.start()
    result, ended = build("numbers", "endless")
    sender.join()
    assert ended is None
    (failed,) = [event.event_specific_data for event in result.all_events if event.is_step_failure]
    assert failed.error.cls_name == "DagsterExecutionInterruptedError"
    assert built(home) == [(1,)]


def test_nothing_of_this_process_is_changed(build, home, capsys):
    before = state()
    build("numbers", "broken")
    assert state() == before
    assert "numbers_are_even" in capsys.readouterr().out


def state() -> dict[str, Any]:
    return {
        "environment": dict(os.environ),
        "folder": Path.cwd(),
        "handlers": list(logging.getLogger().handlers),
        "level": logging.getLogger().level,
        "warnings": list(warnings.filters),
        "interrupts": signal.getsignal(signal.SIGINT),
        "threads": {thread.name for thread in threading.enumerate()},
    }
