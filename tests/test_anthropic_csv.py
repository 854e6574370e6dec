"""The CSV export of Anthropic's Console: names for people, dollars, and what is no row."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path

import duckdb
import pytest

from dagster_project.days import Days
from dagster_project.errors import SourceError
from dagster_project.sources import anthropic_csv

DAY = Days(date(2026, 10, 1), date(2026, 10, 1))
HEADER = "usage_date_utc,model,workspace,api_key,usage_type,context_window,token_type,cost_usd,cost_type"
ROW = "2026-10-01,Claude Haiku 4.5,Default,search,message,0-200k,output,123.78912,tokens"


def asked(folder: Path, *files: list[str], question: str = "select 1") -> list[tuple[object, ...]]:
    for number, rows in enumerate(files):
        (folder / f"costs-{number}.csv").write_text("\n".join([HEADER, *rows]))
    path = f"{folder}/*.csv"
    entry = anthropic_csv.Entry(name="console", type="anthropic_csv", start_date=date(2026, 1, 1), path=path)
    raw = folder / "raw"
    raw.mkdir()
    anthropic_csv.fetch(entry, DAY, raw)
    with duckdb.connect() as engine:
        anthropic_csv.parse(entry, DAY, raw, engine).records["charge"].create("charge")
        return engine.sql(question).fetchall()


def test_dollars_are_dollars_without_the_newer_columns_too(tmp_path: Path) -> None:
    question = "select billed_cost, currency, model, meter, service_tier, context_tier, region from charge"
    assert asked(tmp_path, [ROW], question=question) == [
        (Decimal("123.78912"), "USD", "claude-haiku-4-5", "output", "standard", "short", None)
    ]


@pytest.mark.parametrize(
    ("window", "tier"), [("0-200k", "short"), ("200k-1M", "long"), ("≤ 200k", "short"), ("", None)]
)
def test_the_context_is_one_of_two(tmp_path: Path, window: str, tier: str | None) -> None:
    question = "select context_tier from charge"
    assert asked(tmp_path, [ROW.replace("0-200k", window)], question=question) == [(tier,)]


@pytest.mark.parametrize(
    ("said", "instead", "field"),
    [
        ("2026-10-01", "October", "usage_date_utc"),
        ("123.78912", "", "cost_usd"),
        ("123.78912", "hush", "cost_usd"),
        ("123.78912", "$1", "cost_usd"),
        (",tokens", ",", "cost_type"),
    ],
)
def test_a_value_that_cannot_be_is_told_by_its_column(tmp_path: Path, said, instead, field) -> None:
    with pytest.raises(SourceError, match=rf"costs-0\.csv: .*no usable `{field}`") as told:
        asked(tmp_path, [ROW, ROW.replace(said, instead)])
    assert "hush" not in str(told.value)


def test_a_day_in_two_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"costs-0\.csv: the day 2026-10-01 is also in .*costs-1\.csv"):
        asked(tmp_path, [ROW], [ROW])
