"""FOCUS files of every form: which rows are read, whose they are, and what their texts say."""

from __future__ import annotations

import csv
import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest
from test_azure import LATER, delivered, written

from dagster_project.days import Days
from dagster_project.errors import SourceError
from dagster_project.sources import focus
from dagster_project.sources._exports import tokens_each

DAYS = Days(date(2026, 10, 1), date(2026, 10, 31))
ROW = {
    "BilledCost": "1.5",
    "BillingAccountId": "acme",
    "BillingCurrency": "USD",
    "BillingPeriodStart": "2026-10-01T00:00:00Z",
    "ChargeCategory": "Usage",
    "ChargePeriodStart": "2026-10-16T00:00:00Z",
    "ServiceCategory": "AI and Machine Learning",
    "ServiceName": "API",
    "ServiceProviderName": "OpenAI",
    "Tags": "",
    "ListCost": "",
    "ConsumedQuantity": "",
    "PricingQuantity": "",
    "SkuPriceDetails": "",
}


class Bill:
    """What a pull of some files yields, as a table `charge` to ask."""

    def __init__(self, folder: Path, name: str, **settings: Any) -> None:
        raw = folder / "raw"
        raw.mkdir()
        pulled = focus.Entry.model_validate(
            {
                "name": "focus",
                "type": "focus",
                "start_date": "2026-01-01",
                "path": f"{folder}/{name}",
                **settings,
            }
        )
        focus.fetch(pulled, DAYS, raw)
        self.engine = duckdb.connect()
        self.engine.execute("set TimeZone = 'America/New_York'")
        parsed = focus.parse(pulled, DAYS, raw, self.engine)
        self.counts, self.gone = parsed.counts, parsed.days_without_files
        parsed.records["charge"].create("charge")

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        return self.engine.sql(sql).fetchall()


def bill(folder: Path, *changes: dict[str, str], **settings: Any) -> Bill:
    with (folder / "bill.csv").open("w", encoding="utf-8", newline="") as opened:
        writer = csv.DictWriter(opened, list(ROW | changes[0]))
        writer.writeheader()
        writer.writerows({**ROW, **row} for row in changes)
    return Bill(folder, "bill.csv", **settings)


def test_json_rows_with_numbers(tmp_path: Path) -> None:
    row = {**ROW, "BilledCost": 0.1, "ListCost": None, "Tags": {"team": "search"}, "ConsumedQuantity": 2}
    row |= {
        "ConsumedUnit": "1M Tokens",
        "SkuPriceDetails": {"TokenDirection": "Output", "ModelId": "gpt-5.5"},
    }
    (tmp_path / "bill.json").write_text(json.dumps([row]))
    columns = "billed_cost, list_cost, tags, quantity, meter, model"
    assert Bill(tmp_path, "bill.json").ask(f"select {columns} from charge") == [
        (Decimal("0.1"), None, {"team": "search"}, Decimal(2_000_000), "output", "gpt-5.5")
    ]


def test_parquet_with_doubles_instants_and_maps(tmp_path: Path) -> None:
    texts = ", ".join(
        f"'{value}' as {name}" for name, value in ROW.items() if value and name not in ("BilledCost",)
    )
    duckdb.sql(f"""copy (select * replace (timestamptz '2026-10-16 20:00-05' as ChargePeriodStart,
        timestamp '2026-10-01' as BillingPeriodStart), 1e-9::double as BilledCost,
        map {{'user:team': 'search'}} as Tags from (select {texts})) to '{tmp_path}/bill.parquet'""")
    pulled = Bill(tmp_path, "*.parquet")
    assert pulled.ask("select usage_date, billed_cost, tags from charge") == [
        (date(2026, 10, 17), Decimal("1e-9"), {"team": "search"})
    ]


def test_a_data_export_by_its_manifest(tmp_path: Path) -> None:
    """Not the file that an earlier, longer delivery left behind."""
    period = "BILLING_PERIOD=2026-10"
    for number in (1, 2):
        file = tmp_path / "data" / period / f"acme-0000{number}.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(",".join(ROW) + "\n" + ",".join(ROW.values()) + "\n", encoding="utf-8")
    manifest = tmp_path / "metadata" / period / "acme-Manifest.json"
    manifest.parent.mkdir(parents=True)
    listed = {"dataFiles": [f"s3://bills/acme/data/{period}/acme-00001.csv"]}
    manifest.write_text(json.dumps(listed), encoding="utf-8")
    pulled = Bill(tmp_path, "metadata/*/*Manifest.json")
    assert pulled.ask("select billed_cost from charge") == [(Decimal("1.5"),)]
    assert pulled.gone == set()


def test_an_export_of_azure_by_its_manifests(tmp_path: Path) -> None:
    """The newest run, whose files have as many rows as its manifest says: of other services, too."""
    compute = ROW | {"ServiceCategory": "Compute", "BilledCost": "99"}
    focus_cost = {"exportName": "focus", "type": "FocusCost"}
    early = delivered(ROW, ROW, ROW, run="early", exportConfig=focus_cost)
    written(tmp_path, early, delivered(ROW, compute, run="late", exportConfig=focus_cost, runInfo=LATER))
    pulled = Bill(tmp_path, "**/manifest.json")
    assert pulled.ask("select billed_cost from charge") == [(Decimal("1.5"),)]
    assert pulled.counts["rows_of_other_services"] == 1
    assert pulled.gone == set()


def test_a_run_of_azure_that_lacks_rows_or_is_of_other_costs_is_refused(tmp_path: Path) -> None:
    run = delivered(ROW, run="a", exportConfig={"type": "FocusCost"})
    manifest = next(name for name in run if name.endswith("manifest.json"))
    run[manifest] = run[manifest].replace(b'"dataRowCount": 1}]', b'"dataRowCount": 2}]')
    (tmp_path / "short").mkdir()
    written(tmp_path / "short", run)
    with pytest.raises(SourceError, match=r"part_0_0001\.csv\.gz: 1 rows, and 2 in its manifest"):
        Bill(tmp_path / "short", "**/manifest.json")
    (tmp_path / "actual").mkdir()
    written(tmp_path / "actual", delivered(ROW, run="a"))
    with pytest.raises(SourceError, match="of ActualCost, not of FocusCost"):
        Bill(tmp_path / "actual", "**/manifest.json")


def test_providers_with_names_in_other_scripts_are_not_one(tmp_path: Path) -> None:
    deep = '{"x_a":' * 20_000 + "1" + "}" * 20_000
    rows = [{"ServiceProviderName": name, "SkuPriceDetails": deep} for name in ("百度智能云", "腾讯云")]
    pulled = bill(tmp_path, *rows)
    assert pulled.ask("select provider from charge order by 1") == [("百度智能云",), ("腾讯云",)]


@pytest.mark.parametrize("instant", ["infinity", "-infinity"])
def test_no_row_is_of_no_day(tmp_path: Path, instant: str) -> None:
    with pytest.raises(SourceError, match="no usable `ChargePeriodStart`"):
        bill(tmp_path, {"ChargePeriodStart": instant})


def test_which_rows_are_read(tmp_path: Path) -> None:
    rows = [
        {},
        {"ServiceName": "API 2", "ServiceCategory": "Other"},
        {"ServiceName": "EC2", "ServiceCategory": "Compute", "BilledCost": "not read", "Tags": "{nor this"},
    ]
    pulled = bill(tmp_path, *rows)
    assert (pulled.ask("select count(*) from charge"), pulled.counts["rows_of_other_services"]) == ([(1,)], 2)
    named = tmp_path / "named"
    named.mkdir()
    pulled = bill(named, *rows, services=["API*", "Nothing"])
    assert (pulled.ask("select count(*) from charge"), pulled.counts["rows_of_other_services"]) == ([(2,)], 1)


def test_whose_a_row_is(tmp_path: Path) -> None:
    names = ("AWS", "Amazon Web Services, Inc.", "Microsoft", "Google Cloud", "Anthropic", "Some Lab (EU)")
    rows = [{"ServiceProviderName": name, "ProviderName": "x", "InvoiceIssuerName": "y"} for name in names]
    rows.append({"ServiceProviderName": "", "ProviderName": "Mistral AI", "InvoiceIssuerName": "y"})
    pulled = bill(tmp_path, *rows)
    assert {provider for [provider] in pulled.ask("select provider from charge")} == {
        *("aws", "azure", "google", "anthropic", "some_lab_eu", "mistral")
    }
    fixed = tmp_path / "fixed"
    fixed.mkdir()
    assert bill(fixed, *rows, provider="reseller").ask("select distinct provider from charge") == [
        ("reseller",)
    ]


@pytest.mark.parametrize(
    ("unit", "tokens"),
    [
        ("Tokens", 1),
        ("token", 1),
        ("1K tokens", 1_000),
        ("1000 Tokens", 1_000),
        ("1000000 Tokens", 10**6),
        ("1M tokens ", 10**6),
        ("Token-Hours", None),
        ("K TPM-Hours", None),
        ("Units", None),
        ("", None),
        (None, None),
    ],
)
def test_how_many_tokens_a_unit_is(unit: str | None, tokens: int | None) -> None:
    assert tokens_each(unit) == tokens


@pytest.mark.parametrize(
    ("details", "text", "unit", "said"),
    [
        ({"TokenDirection": "Input", "TokenCacheAction": "Read"}, "Output", None, ("cache_read", None)),
        ({"x_TokenDirection": "Output"}, None, None, ("output", None)),
        ({"TokenDirection": "Input", "TokenCacheAction": "Other"}, "Input", "Tokens", (None, None)),
        ({"ModelId": 5, "TokenDirection": None}, "Input", "Tokens", ("input", None)),
        ({}, "Input Tokens", "Tokens", ("input", None)),
        ({}, "Input Tokens", "Units", (None, None)),
        ({}, "gpt audio output, batch", "1K Tokens", ("output_audio", "batch")),
        ({}, "Cache Write Input Tokens", "Tokens", ("cache_write_other", None)),
        ({}, "1h cache writes", "Tokens", ("cache_write_1h", None)),
        ({}, "Cache hits", "Tokens", ("cache_read", None)),
        ({}, "Cache tokens", "Tokens", (None, None)),
        ({}, "Input and output, flex or batch", "Tokens", (None, None)),
        ({}, "Video input tokens", "Tokens", (None, None)),
        ({"x_ServiceTier": "priority"}, "Fine-tuning tokens", "Tokens", (None, "priority")),
    ],
)
def test_what_the_texts_of_a_row_say(
    details: dict[str, str], text: str | None, unit: str | None, said: tuple[str | None, str | None]
) -> None:
    told = focus._told("OpenAI", json.dumps(details), text, None, "API", unit)
    assert (told["meter"], told["service_tier"]) == said


def test_reserved_capacity_is_a_purchase(tmp_path: Path) -> None:
    usage_type = "USE1-reserved-1-month-input-tokens-per-minute-cross-region-global"
    pulled = bill(tmp_path, {"x_UsageType": usage_type})
    assert pulled.ask("select charge_category, line_item, meter from charge") == [
        ("purchase", usage_type, None)
    ]


UNUSABLE = [
    {"BilledCost": ""},
    {"BilledCost": "hush"},
    {"BillingAccountId": ""},
    {"BillingCurrency": "Credits"},
    {"ChargeCategory": "usage"},
    {"ChargePeriodStart": "16.10.2026"},
    {"ConsumedQuantity": "hush"},
    {"ListCost": "hush"},
    {"PricingQuantity": "hush"},
    {"ServiceCategory": ""},
    {"ServiceName": ""},
    {"ServiceProviderName": ""},
    {"SkuPriceDetails": "[1]"},
    {"SkuPriceDetails": "hush"},
    {"Tags": "{hush"},
]


def test_a_value_that_cannot_be_is_told_by_its_column(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"bill\.csv: 15 rows have no usable `BilledCost`") as told:
        bill(tmp_path, {}, *UNUSABLE)
    assert "hush" not in str(told.value)
    found = duckdb.sql(f"select broken from '{tmp_path}/raw/lines.parquet'").fetchall()
    assert [broken for [broken] in found] == [None, *(name for row in UNUSABLE for name in row)]
