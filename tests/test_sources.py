"""Every source against what it once sent: tests/fixtures/<module>/<case>/ holds

    case.yaml         entry, first and last day, what was sent, and the counts and names that parsing reports
    pages/            of a provider's API: the answers, listed in case.yaml with what was asked
    expected/<kind>.csv   every record: all columns that are ever filled, exact, in a stable order

To add a case, write the first two, run `python tests/test_sources.py <module>/<case>`, and read
what it wrote as if somebody else had.
"""

from __future__ import annotations

import csv
import importlib
import io
import json
import sys
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import polars as pl
import pytest
import yaml

from dagster_project.days import Days
from dagster_project.records import BY_NAME, COLUMNS, METERS, QUANTITIES, TAGS
from dagster_project.sources import Parsed, Records, _files, _pages

FIXTURES = Path(__file__).parent / "fixtures"


def _write_pages(folder: Path, case: Mapping[str, Any], raw: Path) -> None:
    """What `fetch` of a provider's API leaves behind."""
    _pages.write(
        (
            _pages.Page(
                sent["endpoint"],
                tuple(sent.get("params", {}).items()),
                (folder / "pages" / sent["body"]).read_text(encoding="utf-8"),
            )
            for sent in case["pages"]
        ),
        raw,
    )


def _write_files(folder: Path, case: Mapping[str, Any], raw: Path) -> None:
    files = [folder / file for file in case["files"]]
    _files.write_manifest({str(file): file.stat().st_size for file in files}, raw)


WRITERS = {"pages": _write_pages, "files": _write_files}
"""How the raw folder of a case is made, by the key of case.yaml that lists what was sent."""

CASES = {
    f"{path.parent.parent.name}/{path.parent.name}": yaml.safe_load(path.read_text(encoding="utf-8"))
    for path in sorted(FIXTURES.glob("*/*/case.yaml"))
}
RUNNABLE = [name for name, case in CASES.items() if WRITERS.keys() & case.keys()]


def _parse(name: str, folder: Path, raw: Path, connection: duckdb.DuckDBPyConnection) -> Parsed:
    case = CASES[name]
    module = importlib.import_module(f"dagster_project.sources.{name.partition('/')[0]}")
    for key in WRITERS.keys() & case.keys():
        WRITERS[key](folder, case, raw)
    entry = module.Entry.model_validate(case["entry"])
    return module.parse(entry, Days(case["first"], case["last"]), raw, connection)


def _rows(records: Records) -> list[dict[str, Any]]:
    rows = records.rows() if isinstance(records, pl.DataFrame) else records.fetchall()
    return [dict(zip(records.columns, row, strict=True)) for row in rows]


def as_csv(records: Records) -> str:
    """The filled columns of records, record_id last; sorted by everything but that hash."""
    known = [column.name for column in COLUMNS if column.name != "record_id"]
    texts = [{name: _text(name, value) for name, value in row.items()} for row in _rows(records)]
    filled = [name for name in known if any(row[name] for row in texts)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*filled, "record_id"])
    writer.writerows(sorted([*(row[name] for name in filled), row["record_id"]] for row in texts))
    return out.getvalue()


def _text(name: str, value: Any) -> str:
    if value is None:
        return ""
    if BY_NAME[name].type in (TAGS, QUANTITIES) and isinstance(value, list):
        value = {pair["key"]: pair["value"] for pair in value}
    if isinstance(value, dict):
        return json.dumps({key: _text(name, value[key]) for key in sorted(value)}) if value else ""
    if isinstance(value, Decimal):
        return f"{value:f}".rstrip("0").rstrip(".") if value else "0"
    if isinstance(value, datetime):
        return value.isoformat(sep=" ")
    return str(value)


@pytest.mark.parametrize("name", RUNNABLE)
def test_what_was_sent_becomes_the_expected_records(name: str, tmp_path: Path) -> None:
    folder = FIXTURES / name
    with duckdb.connect() as connection:
        parsed = _parse(name, folder, tmp_path, connection)
        assert {f"{kind}.csv" for kind in parsed.records} == {
            file.name for file in (folder / "expected").iterdir()
        }
        for kind, records in parsed.records.items():
            expected = (folder / "expected" / f"{kind}.csv").read_text(encoding="utf-8")
            assert as_csv(records).splitlines() == expected.splitlines(), kind
    assert dict(parsed.counts) == CASES[name].get("counts", {})
    assert list(parsed.problems) == []
    assert [[name.kind, name.id, name.name] for name in parsed.names] == CASES[name].get("names", [])


@pytest.mark.parametrize("name", RUNNABLE)
def test_ids_are_unique_and_meters_not_negative(name: str, tmp_path: Path) -> None:
    with duckdb.connect() as connection:
        for kind, records in _parse(name, FIXTURES / name, tmp_path, connection).records.items():
            rows = _rows(records)
            assert len({row["record_id"] for row in rows}) == len(rows), kind
            meters = [(meter.name, row[meter.column]) for meter in METERS for row in rows]
            assert [meter for meter in meters if (meter[1] or 0) < 0] == [], kind


if __name__ == "__main__":
    for chosen in sys.argv[1:]:
        with TemporaryDirectory() as scratch, duckdb.connect() as engine:
            for kind, records in _parse(chosen, FIXTURES / chosen, Path(scratch), engine).records.items():
                target = FIXTURES / chosen / "expected" / f"{kind}.csv"
                target.parent.mkdir(exist_ok=True)
                target.write_text(as_csv(records), encoding="utf-8")
