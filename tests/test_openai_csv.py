"""The CSV export of OpenAI's dashboard: what is a day, what is a row, and what is neither."""

from __future__ import annotations

import csv
from datetime import date
from decimal import Decimal
from pathlib import Path

import duckdb
import pytest

from dagster_project.days import Days
from dagster_project.errors import SourceError
from dagster_project.sources import openai_csv

DAY = Days(date(2026, 10, 1), date(2026, 10, 1))


def row(**changes: str) -> dict[str, str]:
    return {
        "start_time": "1790812800",
        "end_time": "1790899200",
        "start_time_iso": "2026-10-01T00:00:00",
        "end_time_iso": "2026-10-02T00:00:00",
        "amount_value": "1.5",
        "amount_currency": "usd",
        "quantity": "100",
        "quantity_unit": "tokens",
        "line_item": "gpt-4o-2024-08-06, input",
        "api_key_id": "",
        "project_id": "proj_1",
        "user_email": "hush@example.com",
        **changes,
    }


def asked(folder: Path, *files: list[dict[str, str]], question: str = "select 1") -> list[tuple[object, ...]]:
    for number, rows in enumerate(files):
        with (folder / f"costs-{number}.csv").open("w", newline="") as out:
            writer = csv.DictWriter(out, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    path = f"{folder}/*.csv"
    entry = openai_csv.Entry(name="console", type="openai_csv", start_date=date(2026, 1, 1), path=path)
    raw = folder / "raw"
    raw.mkdir()
    openai_csv.fetch(entry, DAY, raw)
    with duckdb.connect() as engine:
        openai_csv.parse(entry, DAY, raw, engine).records["charge"].create("charge")
        assert not [file for file in raw.iterdir() if b"hush" in file.read_bytes()]
        return engine.sql(question).fetchall()


def test_a_key_that_is_empty_may_not_have_been_asked_for(tmp_path: Path) -> None:
    question = "select api_key_id, account_id, billed_cost, meter, quantity from charge"
    assert asked(tmp_path, [row()], question=question) == [(None, "console", Decimal("1.5"), "input", 100)]


def test_an_empty_day_is_no_line(tmp_path: Path) -> None:
    empty = {name: value if "time" in name else "" for name, value in row().items()}
    assert asked(tmp_path, [row(), empty], question="select count(*) from charge") == [(1,)]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"start_time": "soon"}, "start_time"),
        ({"start_time": "1790816400"}, "start_time"),
        ({"end_time": "1791417600"}, "end_time"),
        ({"amount_value": ""}, "amount_value"),
        ({"amount_value": "hush"}, "amount_value"),
        ({"amount_currency": ""}, "amount_currency"),
        ({"amount_currency": "$"}, "amount_currency"),
    ],
    ids=str,
)
def test_a_value_that_cannot_be_is_told_by_its_column(tmp_path: Path, changes, field) -> None:
    with pytest.raises(SourceError, match=rf"costs-0\.csv: .*no usable `{field}`") as told:
        asked(tmp_path, [row(), row(**changes)])
    assert "hush" not in str(told.value)


def test_a_day_in_two_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"costs-0\.csv: the day 2026-10-01 is also in .*costs-1\.csv"):
        asked(tmp_path, [row()], [row(line_item="another")])
