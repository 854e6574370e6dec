"""Dagster's records while a command keeps their files open: others read and write them as ever."""

import sys
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage.event_log import ConsolidatedSqliteEventLogStorage

from dagster_project.run_records import kept_open


@dg.asset(check_specs=[dg.AssetCheckSpec("whole", asset="bill")])
def bill() -> dg.MaterializeResult:
    return dg.MaterializeResult(check_results=[dg.AssetCheckResult(passed=True)])


def test_another_process_reads_and_writes_them_meanwhile(tmp_path):
    with kept_open(str(tmp_path)) as kept, dg.DagsterInstance.from_config(str(tmp_path)) as other:
        for writer, reader in ((kept, other), (other, kept), (kept, other)):
            written = dg.materialize([bill], instance=writer)
            assert reader.get_run_by_id(written.run_id).is_success
            assert reader.get_latest_materialization_event(bill.key).run_id == written.run_id
            told = [event.message for event in reader.all_logs(written.run_id)]
            assert told == [event.message for event in writer.all_logs(written.run_id)]
            assert len(told) > 10
        (check,) = bill.check_keys
        history = other.event_log_storage.get_asset_check_execution_history(check, limit=10)
        assert len(history) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which files are open")
def test_they_are_closed_with_it(tmp_path):
    with kept_open(str(tmp_path)) as kept:
        dg.materialize([bill], instance=kept)
        assert open_below(tmp_path)
    assert open_below(tmp_path) == []


def open_below(folder: Path) -> list[str]:
    opened = [str(file.readlink()) for file in Path("/proc/self/fd").iterdir() if file.is_symlink()]
    return [file for file in opened if file.startswith(str(folder))]


def test_records_in_another_database_are_left_to_it(tmp_path):
    (tmp_path / "dagster.yaml").write_text(
        "event_log_storage: {module: dagster._core.storage.event_log, "
        f"class: ConsolidatedSqliteEventLogStorage, config: {{base_dir: '{tmp_path}'}}}}"
    )
    with kept_open(str(tmp_path)) as kept:
        assert type(kept.event_log_storage) is ConsolidatedSqliteEventLogStorage
        assert dg.materialize([bill], instance=kept).success
