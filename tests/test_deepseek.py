"""DeepSeek's downloads: two files of one account, and what is no row of either."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import duckdb
import pytest

from dagster_project.days import Days
from dagster_project.errors import SourceError
from dagster_project.sources import deepseek

AMOUNTS = "user_id,utc_date,model,api_key_name,api_key,type,price,amount"
COSTS = "user_id,utc_date,model,wallet_type,cost,currency"
AMOUNT = "u,20261001,deepseek-chat,search,sk-hush,output_tokens,0.0000011,90"
COST = "u,2026-10-01,deepseek-chat,topped_up,0.4,CNY"


def asked(folder: Path, amounts: list[str], costs: list[str], question: str) -> list[tuple[object, ...]]:
    (folder / "amount-1.csv").write_bytes("\r\n".join([AMOUNTS, *amounts]).encode("utf-8-sig"))
    (folder / "cost-1.csv").write_bytes("\r\n".join([COSTS, *costs]).encode("utf-8-sig"))
    entry = deepseek.Entry(
        name="deepseek", type="deepseek", start_date=date(2026, 1, 1), path=f"{folder}/*.csv"
    )
    raw, days = folder / "raw", Days(date(2026, 10, 1), date(2026, 10, 1))
    raw.mkdir()
    deepseek.fetch(entry, days, raw)
    with duckdb.connect() as engine:
        parsed = deepseek.parse(entry, days, raw, engine)
        for kind, records in parsed.records.items():
            records.create(kind)
        return engine.sql(question).fetchall()


def test_a_day_of_both_files_is_one_day(tmp_path: Path) -> None:
    question = (
        "select usage_date, charge.account_id, usage.output_tokens from charge join usage using (usage_date)"
    )
    assert asked(tmp_path, [AMOUNT], [COST], question) == [(date(2026, 10, 1), "deepseek", 90)]


def test_a_key_is_kept_as_a_hash_only(tmp_path: Path) -> None:
    ((key, name),) = asked(tmp_path, [AMOUNT], [COST], "select api_key_id, api_key_name from usage")
    assert (len(key), name) == (16, "search")
    assert not [file for file in (tmp_path / "raw").iterdir() if b"sk-hush" in file.read_bytes()]


@pytest.mark.parametrize(
    ("amount", "cost", "field"),
    [
        (AMOUNT.replace("20261001", "yesterday"), COST, "utc_date"),
        (AMOUNT.replace(",90", ",90.5"), COST, "amount"),
        (AMOUNT.replace(",90", ",-1"), COST, "amount"),
        (AMOUNT.replace(",90", ","), COST, "amount"),
        (AMOUNT.replace("output_tokens", ""), COST, "cost"),
        (AMOUNT, COST.replace("0.4", ""), "cost"),
        (AMOUNT, COST.replace("CNY", "yuan"), "currency"),
        (AMOUNT, COST.replace("CNY", ""), "currency"),
        (AMOUNT, COST.replace("deepseek-chat", ""), "model"),
    ],
)
def test_a_value_that_cannot_be_is_told_by_its_column(tmp_path: Path, amount, cost, field) -> None:
    with pytest.raises(SourceError, match=rf"csv: .*no usable `{field}`") as told:
        asked(tmp_path, [AMOUNT, amount], [COST, cost], "")
    assert "hush" not in str(told.value)


def test_a_day_in_two_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cost-2.csv").write_text(f"{COSTS}\n{COST}\n")
    with pytest.raises(SourceError, match=r"cost-1\.csv: the day 2026-10-01 is also in .*cost-2\.csv"):
        asked(tmp_path, [AMOUNT], [COST], "")


def test_one_file_without_the_other_is_refused(tmp_path: Path) -> None:
    (tmp_path / "amount.csv").write_text(f"{AMOUNTS}\n{AMOUNT}\n")
    entry = deepseek.Entry(
        name="deepseek", type="deepseek", start_date=date(2026, 1, 1), path=f"{tmp_path}/amount.csv"
    )
    days = Days(date(2026, 10, 1), date(2026, 10, 1))
    deepseek.fetch(entry, days, tmp_path)
    with (
        duckdb.connect() as engine,
        pytest.raises(SourceError, match="no file of costs has a row"),
    ):
        deepseek.parse(entry, days, tmp_path, engine)
