"""Amazon Bedrock's bill: its grammars, what counts once, Parquet as it comes, and which delivery is read."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest

from dagster_project.days import Days
from dagster_project.errors import SourceError
from dagster_project.sources import Parsed, _bedrock, aws
from dagster_project.sources._bedrock import Line

DAYS = Days(date(2026, 10, 1), date(2026, 10, 31))
ROW = {
    "bill_billing_period_start_date": "2026-10-01",
    "bill_payer_account_id": "999988887777",
    "line_item_usage_account_id": "111122223333",
    "line_item_usage_start_date": "2026-10-16T10:00:00.000Z",
    "line_item_line_item_type": "Usage",
    "line_item_product_code": "AmazonBedrock",
    "line_item_usage_type": "USE1-NovaPro-input-tokens",
    "line_item_usage_amount": "1000",
    "line_item_unblended_cost": "0.8",
    "line_item_net_unblended_cost": "",
    "line_item_currency_code": "USD",
    "pricing_unit": "1K tokens",
}


def entry(path: Path | str, **settings: Any) -> aws.Entry:
    return aws.Entry(name="aws", type="aws", start_date=date(2026, 1, 1), path=str(path), **settings)


class Bill:
    """What a pull of some files yields, as a table `charge` to ask."""

    def __init__(self, folder: Path, path: Path | str, days: Days = DAYS, **settings: Any) -> None:
        raw = folder / "raw"
        raw.mkdir()
        pulled = entry(path, **settings)
        aws.fetch(pulled, days, raw)
        self.engine = duckdb.connect()
        self.engine.execute("set TimeZone = 'America/New_York'")
        parsed: Parsed = aws.parse(pulled, days, raw, self.engine)
        self.counts = parsed.counts
        parsed.records["charge"].create("charge")

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        return self.engine.sql(sql).fetchall()


def write(file: Path, *rows: Mapping[str, str]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.DictWriter(opened, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return file


def bill(folder: Path, *rows: Mapping[str, str], **settings: Any) -> Bill:
    return Bill(folder, write(folder / "bill.csv", *({**ROW, **row} for row in rows)), **settings)


HAIKU = "anthropic.claude-haiku-4-5-20251001"


@pytest.mark.parametrize(
    ("usage_type", "product", "said"),
    [
        (
            "USE1-anthropic.claude-opus-5-5-mantle-output-tokens-global-standard",
            None,
            Line("global.anthropic.claude-opus-5-5", "output", "standard", "short"),
        ),
        (
            "USE1-openai.gpt-5.6-luna-mantle-cache-write-tokens-5m-long-ctx-flex",
            None,
            Line("openai.gpt-5.6-luna", "cache_write_5m", "flex", "long"),
        ),
        (
            "openai.gpt-oss-120b-mantle-cache-write-tokens-30m-priority",
            None,
            Line("openai.gpt-oss-120b", "cache_write_other", "priority", "short"),
        ),
        (
            "EU-Claude4.6Opus-input-tokens-cross-region-global-batch",
            None,
            Line("global.anthropic.claude-opus-4-6", "input", "batch", "short"),
        ),
        (
            "APS10-Claude4.5Haiku-cache-write-input-token-count-1-hour-long-context-cross-region-geo",
            None,
            Line(HAIKU, "cache_write_1h", "standard", "long"),
        ),
        (
            "USE1-NovaPro-input-tokens-latency-optimized",
            None,
            Line("amazon.nova-pro", "input", "latency-optimized", "short"),
        ),
        ("EUC1-Nova2.0Lite-output-tokens", None, Line("amazon.nova-2-lite", "output", "standard", "short")),
        ("USE1-Llama3-3-70B-input-tokens", None, Line("Llama3-3-70B", "input", "standard", "short")),
        (
            "USE1-MP:USE1_CacheWrite1hInputTokenCount_Global-Units",
            "Claude Haiku 4.5 (Amazon Bedrock Edition)",
            Line(f"global.{HAIKU}", "cache_write_1h", "standard", "short"),
        ),
        (
            "USE1-MP:USE1_InputTokenCount_Batch-Units",
            "Claude 3.5 Sonnet v2 (Amazon Bedrock Edition)",
            Line("anthropic.claude-3-5-sonnet-20241022", "input", "batch", "short"),
        ),
        (
            "USW2-MP:USW2_cache_read_input_tokens_standard-Units",
            "Claude Opus 4.0 (Amazon Bedrock Edition)",
            Line("anthropic.claude-opus-4-20250514", "cache_read", "standard", "short"),
        ),
        ("USE1-MP:USE1_input_tokens-Units", "Amazon Bedrock", Line(None, "input", "standard", "short")),
        ("USE1-reserved-1-month-input-tokens-per-minute-cross-region-global", None, Line(is_capacity=True)),
        ("USE1-ClaudeInstant-ProvisionedThroughput-ModelUnits", None, Line(is_capacity=True)),
        ("USE1-NovaLite-custom-model-input-tokens", None, Line()),
        ("USE1-optimizePrompt-input-tokens", None, Line()),
        ("USE1-NovaSonic-speech-input-tokens", None, Line()),
        ("USE1-NovaCanvas-T2I-1024-Standard", None, Line()),
        ("USE1-NovaPro-input-tokens-turbo", None, Line()),
        ("USE1-NovaPro-input-tokens-batch-flex", None, Line()),
        ("USE1-NovaPro-input-minutes", None, Line()),
        (None, None, Line()),
    ],
)
def test_what_a_usage_type_says(usage_type: str | None, product: str | None, said: Line) -> None:
    assert _bedrock.line(usage_type, product) == said


def test_without_net_costs_the_discounts_are_lines(tmp_path: Path) -> None:
    discount = {"line_item_line_item_type": "EdpDiscount", "line_item_unblended_cost": "-0.08"}
    pulled = bill(tmp_path, {}, discount)
    assert pulled.ask("select charge_category, billed_cost from charge order by all") == [
        ("credit", Decimal("-0.08")),
        ("usage", Decimal("0.8")),
    ]


def test_a_month_with_net_costs_has_its_discounts_inside(tmp_path: Path) -> None:
    """And says nothing of another month's, when there was no discount yet."""
    discount = {"line_item_line_item_type": "EdpDiscount", "line_item_unblended_cost": "-0.08"}
    september = {
        "bill_billing_period_start_date": "2026-09-01",
        "line_item_usage_start_date": "2026-09-16T10:00:00.000Z",
    }
    net = {"line_item_net_unblended_cost": "0.72"}
    pulled = bill(tmp_path, net, {**discount, **net}, september, {**september, **discount})
    assert pulled.ask("select month(usage_date), sum(billed_cost) from charge group by 1 order by 1") == [
        (9, Decimal("0.72")),
        (10, Decimal("0.72")),
    ]
    assert pulled.counts["discounts_inside_net_costs"] == 1


def test_net_costs_of_one_payer_say_nothing_of_another(tmp_path: Path) -> None:
    discount = {"line_item_line_item_type": "EdpDiscount", "line_item_unblended_cost": "-0.08"}
    other = {"bill_payer_account_id": "999900001111"}
    pulled = bill(tmp_path, {"line_item_net_unblended_cost": "0.72"}, other, {**other, **discount})
    assert dict(pulled.ask("select account_id, sum(billed_cost) from charge group by all")) == {
        ROW["bill_payer_account_id"]: Decimal("0.72"),
        other["bill_payer_account_id"]: Decimal("0.72"),
    }


def test_a_bill_without_bedrock_has_no_line(tmp_path: Path) -> None:
    pulled = bill(tmp_path, {"line_item_product_code": "AmazonEC2", "line_item_unblended_cost": "not read"})
    assert (pulled.ask("from charge"), pulled.counts["rows_of_other_services"]) == ([], 1)


def test_where_no_row_names_its_resource_nobody_is_without_a_key(tmp_path: Path) -> None:
    assert bill(tmp_path, {}).ask("select api_key_id from charge") == [(None,)]


def test_a_row_is_of_a_day_of_its_bill(tmp_path: Path) -> None:
    started = {
        "2026-09-30T23:59:59.999Z": date(2026, 10, 1),
        "2026-10-01T00:00:00Z": date(2026, 10, 1),
        "2026-10-31T20:00:00-05:00": date(2026, 10, 31),
        "2026-10-31 23:59:59": date(2026, 10, 31),
    }
    rows = ({"line_item_usage_start_date": text, "line_item_usage_type": text} for text in started)
    assert dict(bill(tmp_path, *rows).ask("select line_item, usage_date from charge")) == started


def test_a_restated_row_keeps_its_id_whatever_its_order_and_names(tmp_path: Path) -> None:
    ids = []
    for number, row in enumerate(
        (
            {"resource_tags": '{"user_team":"a","user_env":"b"}', "line_item_usage_account_name": "old"},
            {
                "resource_tags": '{"user_env":"b","user_team":"a"}',
                "line_item_usage_account_name": "new",
                "line_item_unblended_cost": "0.7",
                "line_item_usage_amount": "900",
            },
        )
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        ids += bill(folder, row).ask("select record_id from charge")
    assert ids[0] == ids[1]


UNUSABLE = [
    {"bill_payer_account_id": ""},
    {"line_item_usage_account_id": ""},
    {"line_item_usage_start_date": "yesterday"},
    {"line_item_usage_start_date": "2026-10-32"},
    {"line_item_line_item_type": ""},
    {"line_item_usage_type": ""},
    {"line_item_usage_amount": ""},
    {"line_item_usage_amount": "hush"},
    {"line_item_unblended_cost": ""},
    {"line_item_unblended_cost": "hush"},
    {"line_item_net_unblended_cost": "hush"},
    {"pricing_public_on_demand_cost": "hush"},
    {"line_item_currency_code": ""},
    {"line_item_currency_code": "dollars"},
    {"resource_tags": "{hush"},
    {"product": "hush"},
]


def test_a_value_that_cannot_be_is_told_by_its_column(tmp_path: Path) -> None:
    optional = dict.fromkeys(("resource_tags", "product", "pricing_public_on_demand_cost"), "")
    with pytest.raises(SourceError, match=r"bill\.csv: 16 rows have no usable `bill_payer") as told:
        bill(tmp_path, optional, *({**optional, **row} for row in UNUSABLE))
    assert "hush" not in str(told.value)
    found = duckdb.sql(f"select broken from '{tmp_path}/raw/lines.parquet'").fetchall()
    assert [broken for [broken] in found] == [None, *(name for row in UNUSABLE for name in row)]


def test_a_table_without_a_column_is_told(tmp_path: Path) -> None:
    rest = {name: value for name, value in ROW.items() if name != "pricing_unit"}
    with pytest.raises(SourceError, match=r"there is no column pricing_unit"):
        Bill(tmp_path, write(tmp_path / "bill.csv", rest))


def test_parquet_as_it_is_delivered(tmp_path: Path) -> None:
    """Maps, doubles and instants; and the flat columns of the legacy report."""
    values = ", ".join(
        f"'{value}'::varchar as {name}"
        for name, value in ROW.items()
        if name not in ("line_item_usage_amount", "line_item_unblended_cost", "line_item_usage_start_date")
    )
    duckdb.sql(f"""copy (select {values}, timestamp '2026-10-16 10:00' as line_item_usage_start_date,
        0.1::double + 0.2::double as line_item_usage_amount, 1e-7::double as line_item_unblended_cost,
        map {{'user_team': 'search', 'aws_created_by': 'x'}} as resource_tags,
        map {{'resourceTags/user:service': 'ranker'}} as tags, map {{}} as cost_category,
        'prod' as resource_tags_user_environment, map {{'region_code': 'us-east-1'}} as product)
        to '{tmp_path}/a.snappy.parquet'""")
    pulled = Bill(tmp_path, tmp_path / "*.parquet", tag_columns=["resource_tags_user_environment"])
    assert pulled.ask("select usage_date, billed_cost, quantity, tags, region from charge") == [
        (
            date(2026, 10, 16),
            Decimal("0.0000001"),
            Decimal("300"),
            {"environment": "prod", "service": "ranker", "team": "search"},
            "us-east-1",
        )
    ]


def delivered(tmp_path: Path, *names: str) -> str:
    for name in names:
        write(tmp_path / "data" / name, ROW)
    return f"{tmp_path}/data/BILLING_PERIOD={{date:%Y-%m}}/**/*.csv"


def test_of_versioned_deliveries_the_latest_is_read(tmp_path: Path) -> None:
    path = delivered(
        tmp_path,
        "BILLING_PERIOD=2026-10/2026-10-16T03:00:00.000Z-0f/acme-00001.csv",
        "BILLING_PERIOD=2026-10/2026-10-17T03:00:00.000Z-0a/acme-00001.csv",
        "BILLING_PERIOD=2026-10/2026-10-17T03:00:00.000Z-0a/acme-00002.csv",
        "BILLING_PERIOD=2026-09/2026-09-30T03:00:00.000Z-0c/acme-00001.csv",
    )
    pulled = Bill(tmp_path, path)
    assert pulled.ask("select sum(billed_cost) from charge") == [(Decimal("2.4"),)]


@pytest.mark.parametrize(
    "names",
    [
        ("BILLING_PERIOD=2026-10/0f6a/a.csv", "BILLING_PERIOD=2026-10/9b1c/a.csv"),
        ("BILLING_PERIOD=2026-10/a.csv", "BILLING_PERIOD=2026-10/2026-10-17T03:00:00.000Z-0a/a.csv"),
    ],
    ids=["without a time", "overwritten before"],
)
def test_deliveries_that_nobody_can_tell_apart_are_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    where = re.escape("data/BILLING_PERIOD=2026-10: 2 deliveries of one period")
    with pytest.raises(SourceError, match=where):
        Bill(tmp_path, delivered(tmp_path, *names))
