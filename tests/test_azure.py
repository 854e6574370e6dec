"""Azure's cost exports: columns of every agreement, meters, newest runs, and what is no row of them."""

from __future__ import annotations

import csv
import gzip
import io
import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import azure_blobs
import duckdb
import pytest

from dagster_project.days import Days
from dagster_project.errors import SourceError
from dagster_project.sources import azure
from dagster_project.sources._line_items import Line

DAY = Days(date(2026, 10, 2), date(2026, 10, 2))
RESOURCE = (
    "/subscriptions/AAAA/resourceGroups/RG-AI/providers/Microsoft.CognitiveServices/accounts/Acme-OpenAI"
)


def row(**changes: Any) -> dict[str, Any]:
    """A row as an enterprise agreement has it."""
    return {
        "BillingAccountId": "8611537",
        "SubscriptionId": "AAAA",
        "SubscriptionName": "Acme production",
        "ResourceGroup": "rg-ai",
        "ResourceId": RESOURCE,
        "ResourceName": "Acme-OpenAI",
        "ResourceLocation": "EastUS2",
        "Date": "10/02/2026",
        "MeterCategory": "Foundry Models",
        "MeterSubCategory": "Azure OpenAI GPT5",
        "MeterName": "5.4 inp Gl 1M Tokens",
        "UnitOfMeasure": "1M",
        "Quantity": "1.5",
        "Cost": "3.75",
        "BillingCurrency": "USD",
        "ChargeType": "Usage",
        "PublisherType": "Azure",
        "PublisherName": "Microsoft",
        "ReservationId": "",
        "Tags": '{"team": "search"}',
        "AdditionalInfo": '{"hush": "hush"}',
        **changes,
    }


def table(*rows: dict[str, Any]) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    return gzip.compress(out.getvalue().encode("utf-8-sig"))


class Pulled:
    """What one pull yields, as a table `charge` to ask."""

    def __init__(self, raw: Path, path: str, days: Days = DAY, **fields: Any) -> None:
        raw.mkdir()
        entry = azure.Entry(name="az", type="azure", start_date=date(2026, 1, 1), path=path, **fields)
        azure.fetch(entry, days, raw)
        self.engine = duckdb.connect()
        self.engine.execute("set TimeZone = 'America/New_York'")
        parsed = azure.parse(entry, days, raw, self.engine)
        self.counts, self.gone = parsed.counts, parsed.days_without_files
        parsed.records["charge"].create("charge")

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        return self.engine.sql(sql).fetchall()


def pulled(folder: Path, *rows: dict[str, Any], **fields: Any) -> Pulled:
    (folder / "costs.csv.gz").write_bytes(table(*rows))
    return Pulled(folder / "raw", str(folder / "costs.csv.gz"), **fields)


METERS = [
    # subcategory | name, model, meter, service tier, context tier
    ("Azure OpenAI | gpt 4o 1120 cached Inp glbl Tokens",
     "gpt-4o-2024-11-20", "cache_read", "standard", None),
    ("Azure OpenAI | gpt-4o-mini-0718-Outp-regnl Tokens",
     "gpt-4o-mini-2024-07-18", "output", "standard", None),
    ("Azure OpenAI | gpt 4o 1120 Batch Inp glbl Tokens", "gpt-4o-2024-11-20", "input", "batch", None),
    ("Azure OpenAI | gpt 4.1 Inp Data Zone Tokens", "gpt-4.1", "input", "standard", None),
    ("Azure OpenAI | gpt4o BatchOutp glbl Tokens", "gpt-4o", "output", "batch", None),
    ("Azure OpenAI Reasoning | o4-mini 0416 Inp glbl Tokens",
     "o4-mini-2025-04-16", "input", "standard", None),
    ("Azure OpenAI GPT5 | 5.4 inp Gl 1M Tokens", "gpt-5.4", "input", "standard", None),
    ("Azure OpenAI GPT5 | 5.4 opt Dz 1M Tokens", "gpt-5.4", "output", "standard", None),
    ("Azure OpenAI GPT5 | 54 inp Flex Gl 1M Tokens", "gpt-5.4", "input", "flex", None),
    ("Azure OpenAI GPT5 | GPT 5 Chat cchd Inpt Glbl 1M Tokens", "gpt-5-chat", "cache_read", "standard", None),
    ("Azure OpenAI GPT5 | 5.2 pp cd inp Gl 1M Tokens", "gpt-5.2", "cache_read", "priority", None),
    ("Azure OpenAI GPT5 | 5.6 sol LongCo Opt Std Gl 1M Tokens", "gpt-5.6-sol", "output", "standard", "long"),
    ("Azure OpenAI GPT5 | 5.6 sol ShCo Cd Wr Std Gl 1M Tokens",
     "gpt-5.6-sol", "cache_write_other", "standard", "short"),
    ("Azure OpenAI GPT5 | gpt-5-codex-ccchd-inp-glbl Tokens", "gpt-5-codex", "cache_read", "standard", None),
    ("Azure OpenAI | gpt-4o-rt-aud-1217 Outp glbl Tokens",
     "gpt-4o-rt-1217", "output_audio", "standard", None),
    ("Azure OpenAI | gpt-4o-mini-aud1217 Inp glbl Tokens",
     "gpt-4o-mini-1217", "input_audio", "standard", None),
    ("Azure OpenAI | gpt-image-1-output-img-glbl Tokens", "gpt-image-1", "output_image", "standard", None),
    ("MAI Models | Image 2.5 Flash Image Input glbl Tokens",
     "mai-image-2.5-flash", "input_image", "standard", None),
    ("Azure OpenAI | text-embedding-3-large-glbl Tokens",
     "text-embedding-3-large", "input", "standard", None),
    ("Azure OpenAI OSS Models | gpt-oss-120B Inp glbl Tokens", "gpt-oss-120b", "input", "standard", None),
    ("Azure Deepseek Models | V4 Pro cached DZ Tokens", "deepseek-v4-pro", "cache_read", "standard", None),
    ("Azure Grok Models | 4.3 Outp Glbl Tokens", "grok-4.3", "output", "standard", None),
    ("Azure Meta Models | Llama 3.3 70B Inp glbl Tokens", "llama-3.3-70b", "input", "standard", None),
    ("Azure Mistral Models | Large 3 Outp glbl Tokens", "mistral-large-3", "output", "standard", None),
    ("Claude Sonnet 4.5 | Cache Read Tokens", "claude-sonnet-4-5", "cache_read", "standard", None),
    ("Azure OpenAI | Provisioned Managed Global Unit", None, "provisioned_unit_hours", None, None),
    ("Azure OpenAI | gpt-4o-mini-0718-FT-Trng-glbl Tokens", None, None, None, None),
    ("Azure OpenAI | gpt-4-8K-FT-Hstng-glbl Unit", None, None, None, None),
    ("Azure OpenAI | Image-Dall-E-3 HD HighRes-glbl Images", None, None, None, None),
    ("Azure OpenAI | gpt 5 Batch Flex inp glbl Tokens", None, None, None, None),
    ("Speech | S1 Speech To Text", None, None, None, None),
    ("", None, None, None, None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "model", "meter", "tier", "context"), METERS)
def test_a_meter_is_read(text, model, meter, tier, context) -> None:
    assert azure.line_item(text) == Line(model, meter, tier, context)


def test_tokens_are_told_in_tokens_whatever_the_unit(tmp_path: Path) -> None:
    pull = pulled(
        tmp_path,
        row(),
        row(MeterName="5.4 opt Gl 1K Tokens", UnitOfMeasure="1K", Quantity="0.0070001"),
        row(MeterName="5.4 cd inp Gl Tokens", UnitOfMeasure="10K", Quantity="3"),
        row(MeterName="5.4 pro inp Gl Tokens", UnitOfMeasure="1 dozen", Quantity="3"),
        row(MeterName="Provisioned Managed Global Unit", UnitOfMeasure="1 Hour", Quantity="24"),
    )
    assert pull.ask(
        "select meter, quantity, quantity_unit from charge where model is distinct from 'gpt-5.4-pro' "
        "order by meter"
    ) == [
        ("cache_read", 30000, "tokens"),
        ("input", 1500000, "tokens"),
        ("output", Decimal("7.0001"), "tokens"),
        ("provisioned_unit_hours", 24, "1 Hour"),
    ]
    assert pull.ask("select quantity from charge where model = 'gpt-5.4-pro'") == [(None,)]
    assert pull.counts["tokens_in_unknown_units"] == 1


AGREEMENTS = {
    "EA": {},
    "MCA": {
        "Date": "date",
        "Cost": "costInBillingCurrency",
        "BillingCurrency": "billingCurrency",
        "ResourceGroup": "resourceGroupName",
        "Quantity": "quantity",
        "ChargeType": "chargeType",
        "Tags": "tags",
        "MeterName": "meterName",
        "MeterCategory": "meterCategory",
        "BillingAccountId": "billingAccountId",
    },
    "EA before 2020": {
        "BillingCurrency": "BillingCurrencyCode",
        "ResourceId": "InstanceId",
        "Cost": "CostInBillingCurrency",
    },
    "pay as you go": {
        "Date": "UsageDateTime",
        "Cost": "PreTaxCost",
        "BillingCurrency": "Currency",
        "ResourceId": "InstanceId",
        "SubscriptionId": "SubscriptionGuid",
        "Quantity": "UsageQuantity",
    },
}


@pytest.mark.parametrize("agreement", AGREEMENTS)
def test_every_agreement_says_the_same(tmp_path: Path, agreement: str) -> None:
    names = AGREEMENTS[agreement]
    pull = pulled(tmp_path, {names.get(name, name): value for name, value in row().items()})
    assert pull.ask(
        "select usage_date, account_id, provider_project_id, provider_project_name, region, tags, model, "
        "quantity, billed_cost, currency, line_item from charge"
    ) == [
        (
            *(DAY.first, "8611537", RESOURCE.lower(), "Acme-OpenAI", "eastus2", {"team": "search"}),
            *("gpt-5.4", 1500000, Decimal("3.75"), "USD", "Azure OpenAI GPT5 | 5.4 inp Gl 1M Tokens"),
        )
    ]


def test_parquet_with_its_types(tmp_path: Path) -> None:
    (tmp_path / "costs.csv.gz").write_bytes(table(row(Date="2026-10-02T00:00:00")))
    file = tmp_path / "costs.parquet"
    types = 'Cost::decimal(38, 18) as Cost, Quantity::double as Quantity, "Date"::timestamp as "Date"'
    duckdb.sql(f"""copy (select * replace ({types})
        from read_csv('{tmp_path}/costs.csv.gz', all_varchar = true)) to '{file}'""")
    pull = Pulled(tmp_path / "raw", str(file))
    assert pull.ask("select usage_date, billed_cost, quantity from charge") == [
        (DAY.first, Decimal("3.75"), 1500000)
    ]


def test_tags_are_json_with_or_without_braces(tmp_path: Path) -> None:
    pull = pulled(
        tmp_path,
        row(Tags='"env": "prod","Cost Center": "4711"'),
        row(Tags='{"Team": "search"}'),
        row(Tags=""),
        row(Tags="env=prod"),
    )
    assert pull.ask("select tags from charge where tags <> map {} order by cardinality(tags)") == [
        ({"team": "search"},),
        ({"environment": "prod", "cost_center": "4711"},),
    ]
    assert pull.counts["tags_not_understood"] == 1


def test_what_has_no_resource_is_of_the_narrowest_scope(tmp_path: Path) -> None:
    pull = pulled(
        tmp_path,
        row(ResourceId="", ResourceName=""),
        row(ResourceId="", ResourceName="", ResourceGroup=""),
        row(ResourceId="", ResourceName="", ResourceGroup="", SubscriptionId=""),
    )
    assert pull.ask("select provider_project_id, provider_project_name from charge order by 1") == [
        ("/subscriptions/aaaa", "Acme production"),
        ("/subscriptions/aaaa/resourcegroups/rg-ai", "rg-ai"),
        (None, "Acme production"),
    ]


def test_every_charge_type_has_its_category(tmp_path: Path) -> None:
    types = ("Usage", "Purchase", "Refund", "Credit", "Tax", "Adjustment", "RoundingAdjustment")
    pull = pulled(tmp_path, *(row(ChargeType=kind) for kind in types))
    assert pull.ask(
        "select charge_category, count(*), count(meter), sum(billed_cost) from charge group by 1 order by 1"
    ) == [
        ("adjustment", 1, 0, Decimal("7.5")),
        ("credit", 1, 0, Decimal("7.5")),
        ("purchase", 1, 0, Decimal("3.75")),
        ("tax", 1, 0, Decimal("3.75")),
        ("usage", 1, 1, Decimal("3.75")),
    ]


def test_other_services_are_left_out_and_counted(tmp_path: Path) -> None:
    machine = row(
        MeterCategory="Virtual Machines", Product="Claude's machine", ChargeType="whatever", Cost=""
    )
    claude = row(MeterCategory="SaaS", PublisherType="Marketplace", PublisherName="Anthropic", Cost="9")
    pull = pulled(
        tmp_path, machine, row(), claude, row(MeterCategory="Cognitive Services", MeterName="S1 Speech")
    )
    assert pull.ask("select sum(billed_cost) from charge") == [(Decimal("16.5"),)]
    assert pull.counts["rows_of_other_services"] == 1
    assert pull.counts["unparsed_line_items"] == 1


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"Date": "13/10/2026"}, "Date"),
        ({"Cost": ""}, "Cost"),
        ({"Cost": "hush"}, "Cost"),
        ({"BillingCurrency": ""}, "BillingCurrency"),
        ({"BillingCurrency": "dollars"}, "BillingCurrency"),
        ({"ChargeType": "Gift"}, "ChargeType"),
        ({"ChargeType": ""}, "ChargeType"),
        ({"MeterName": "", "MeterSubCategory": ""}, "MeterName"),
    ],
)
def test_a_value_that_cannot_be_is_told_by_its_column(tmp_path: Path, changes, field) -> None:
    with pytest.raises(SourceError, match=rf"costs\.csv\.gz: .*no usable `{field}`") as told:
        pulled(tmp_path, row(), row(**changes))
    assert "hush" not in str(told.value)


@pytest.mark.parametrize(
    ("dataset", "changes"),
    [
        ("ActualCost", {"ChargeType": "UnusedReservation"}),
        ("AmortizedCost", {"ChargeType": "Purchase", "ReservationId": "r-1"}),
    ],
)
def test_costs_of_the_other_dataset_are_refused(
    tmp_path: Path, dataset: str, changes: dict[str, str]
) -> None:
    with pytest.raises(SourceError, match=f"not \\(only\\) rows of {dataset}"):
        pulled(tmp_path, row(), row(**changes), dataset=dataset)


# --- Runs


def delivered(*rows: dict[str, Any], run: str, parts: int = 1, **changes: Any) -> dict[str, bytes]:
    """A run's files, each with every `parts`-th of the rows, and its manifest."""
    folder = f"acme/actual/20261001-20261031/{run}"
    shares = [table(*rows[part::parts]) for part in range(parts)]
    blobs = {f"{folder}/part_{part}_0001.csv.gz": share for part, share in enumerate(shares)}
    manifest: dict[str, Any] = {
        "manifestVersion": "2024-04-01",
        "dataRowCount": len(rows),
        "exportConfig": {"exportName": "actual", "type": "ActualCost", "dataVersion": "2025-04"},
        "runInfo": {
            "submittedTime": "2026-10-03T08:01:44.3733642Z",
            "runId": run,
            "startDate": "2026-10-01T00:00:00",
            "endDate": "2026-10-31T00:00:00",
        },
        "blobs": [
            {"blobName": name, "byteCount": len(share), "dataRowCount": len(rows[part::parts])}
            for part, (name, share) in enumerate(blobs.items())
        ],
    }
    for key, value in changes.items():
        manifest[key] = {**manifest[key], **value} if isinstance(value, dict) else value
    return {**blobs, f"{folder}/manifest.json": json.dumps(manifest).encode()}


LATER = {"submittedTime": "2026-10-04T08:00:00"}


def written(folder: Path, *runs: dict[str, bytes]) -> str:
    for name, data in (item for run in runs for item in run.items()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return f"{folder}/**/manifest.json"


def test_of_each_period_the_newest_run_is_read_whole(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        delivered(row(), row(), run="zz-first"),
        delivered(row(), row(Cost="0.25"), row(Cost="1"), run="aa-second", parts=2, runInfo=LATER),
    )
    pull = Pulled(tmp_path / "raw", path)
    assert pull.ask("select sum(billed_cost) from charge") == [(Decimal("5"),)]


def test_days_without_a_run_are_told(tmp_path: Path) -> None:
    path = written(tmp_path, delivered(row(), run="a"))
    days = Days(date(2026, 9, 30), date(2026, 10, 2))
    assert Pulled(tmp_path / "raw", path, days).gone == {date(2026, 9, 30)}


def test_runs_in_blob_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = delivered(row(), run="first") | delivered(row(Cost="2"), run="second", runInfo=LATER)
    with azure_blobs.served(azure_blobs.AzureBlobs({"exports": blobs})) as endpoint:
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", endpoint)
        monkeypatch.setenv("AZURE_ALLOW_HTTP", "true")
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", azure_blobs.ACCOUNT)
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", azure_blobs.KEY)
        pull = Pulled(tmp_path / "raw", "az://exports/acme/actual/**/manifest.json")
    assert pull.ask("select sum(billed_cost) from charge") == [(2,)]


NEXT = {"startDate": "2026-10-31T00:00:00", "endDate": "2026-11-30T00:00:00"}
WITHIN = {"startDate": "2026-10-02T00:00:00", "endDate": "2026-10-08T00:00:00"}
FOCUS = {"type": "FocusCost"}

REFUSALS = {
    "several exports": (
        [{"run": "a"}, {"run": "b", "exportConfig": {"exportName": "other"}}],
        r"several exports: actual \(ActualCost\), other \(ActualCost\)",
    ),
    "actual and amortized": (
        [{"run": "a"}, {"run": "b", "exportConfig": {"type": "AmortizedCost"}}],
        r"several exports: actual \(ActualCost\), actual \(AmortizedCost\)",
    ),
    "another dataset": ([{"run": "a", "exportConfig": FOCUS}], "FocusCost, not of ActualCost.*type `focus`"),
    "periods that overlap": (
        [{"run": "a"}, {"run": "b", "runInfo": WITHIN}],
        "a/manifest.json: its period overlaps",
    ),
    "no run of the days": ([{"run": "a", "runInfo": NEXT}], r"manifest\.json: no run is of 2026-10-02"),
    "no such file": (
        [{"run": "a", "blobs": [{"blobName": "x/part_9.csv.gz", "byteCount": 3}]}],
        r"part_9\.csv\.gz is not there as the manifest says",
    ),
    "a file of another size": (
        [{"run": "a", "blobs": [{"blobName": "x/part_0_0001.csv.gz", "byteCount": 3}]}],
        r"part_0_0001\.csv\.gz is not there as the manifest says \(3 bytes\)",
    ),
    "rows that lack": (
        [{"run": "a", "blobs": [{"blobName": "x/part_0_0001.csv.gz", "dataRowCount": 2}]}],
        r"part_0_0001\.csv\.gz: 1 rows, and 2 in its manifest",
    ),
    "a run without files": ([{"run": "a", "blobs": []}], "no run .*has a file"),
    "no manifest": ([{"run": "a", "runInfo": {"submittedTime": "soon"}}], "this is no manifest"),
    "a field that lacks": ([{"run": "a", "blobs": [{}]}], "this is no manifest .*`blobName` is missing"),
}


@pytest.mark.parametrize(("runs", "told"), REFUSALS.values(), ids=REFUSALS)
def test_runs_that_cannot_be_read_whole_are_refused(tmp_path: Path, runs, told) -> None:
    path = written(tmp_path, *(delivered(row(), **run) for run in runs))
    with pytest.raises(SourceError, match=told):
        Pulled(tmp_path / "raw", path)


@pytest.mark.parametrize(
    "names",
    [
        ("20261001-20261031/one/part_0.csv.gz", "20261001-20261031/two/part_0.csv.gz"),
        *[tuple(f"20261001-20261031/acme_{n}f9c0e6a-1111-2222-3333-444455556666.csv.gz" for n in "12")],
    ],
)
def test_several_deliveries_of_a_period_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    written(tmp_path, dict.fromkeys(names, table(row())))
    with pytest.raises(SourceError, match=r"2 (runs|deliveries) of one period"):
        Pulled(tmp_path / "raw", f"{tmp_path}/**/*.csv.gz")


def test_parts_of_one_delivery_and_other_periods_are_not(tmp_path: Path) -> None:
    names = (
        *(f"20261001-20261031/one/part_{part}.csv.gz" for part in (0, 1)),
        "20260901-20260930/two/part_0.csv.gz",
    )
    written(tmp_path, dict.fromkeys(names, table(row())))
    pull = Pulled(tmp_path / "raw", f"{tmp_path}/**/*.csv.gz")
    assert pull.ask("select sum(billed_cost) from charge") == [(Decimal("11.25"),)]
