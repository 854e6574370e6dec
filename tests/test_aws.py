"""Amazon Bedrock's bill: its grammars, what counts once, Parquet as it comes, and which delivery is read.

S3 is moto, asked by the real client.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import boto3
import duckdb
import pytest
from moto.server import ThreadedMotoServer
from test_sources import FIXTURES, as_csv

from dagster_project.days import Days
from dagster_project.errors import SourceError
from dagster_project.sources import Parsed, _bedrock, _files, aws
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
        self.counts, self.gone = parsed.counts, parsed.days_without_files
        self.charges = parsed.records["charge"]
        self.charges.create("charge")

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


# --- Manifests

OCTOBER = "BILLING_PERIOD=2026-10"
DATA = f"data/{OCTOBER}/acme-00001.csv"
OWN = f"metadata/{OCTOBER}/acme-Manifest.json"
DELIVERED_AT = datetime(2026, 10, 17, 3, tzinfo=UTC)


def manifest(*files: str, field: str = "dataFiles", prefix: str = "s3://bills/finance/acme") -> str:
    """As a Data Export has it, as far as it is known, of files below the export's folder."""
    return json.dumps({"executionId": "0a", field: [f"{prefix}/{file}" for file in files], "columns": []})


def export(folder: Path, files: Mapping[str, str], late: timedelta = timedelta()) -> str:
    """An export's folder `acme` with `files` by their places in it, data so much later than manifests; a path
    that names its manifests."""
    for place, text in files.items():
        file = folder / "acme" / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        written_at = DELIVERED_AT + (timedelta() if place.endswith("Manifest.json") else late)
        os.utime(file, (written_at.timestamp(), written_at.timestamp()))
    return f"{folder}/acme/**/*Manifest.json"


def read(folder: Path, path: str) -> list[str]:
    """What is read of the files of an export, by their places in its folder."""
    aws.fetch(entry(path), DAYS, folder)
    return [file.partition("/acme/")[2] for file in _files.read_manifest(folder)]


def test_what_the_manifest_lists_is_read_and_nothing_else(tmp_path: Path) -> None:
    """A month with fewer files than before keeps the others, emptied or not yet."""
    chunks = [f"data/{OCTOBER}/acme-0000{number}.csv" for number in (1, 2, 3, 4)]
    path = export(tmp_path, {OWN: manifest(*chunks[:2]), **dict.fromkeys(chunks, "")})
    assert read(tmp_path, path) == chunks[:2]


EARLIER, LATER = (f"{OCTOBER}/2026-10-1{day}T03:00:00.000Z-{id}" for day, id in ((6, "ff"), (7, "0a")))


def kept(*folders: str) -> dict[str, str]:
    """The manifests of deliveries that are all kept."""
    return {f"metadata/{one}/acme-Manifest.json": manifest(f"data/{one}/acme-00001.csv") for one in folders}


@pytest.mark.parametrize(
    ("manifests", "newest"),
    [
        (kept(LATER, EARLIER), LATER),
        (kept(EARLIER) | {OWN: manifest(f"data/{EARLIER}/acme-00001.csv")}, EARLIER),
        (kept(LATER, EARLIER) | {OWN: manifest(f"data/{EARLIER}/acme-00001.csv")}, EARLIER),
    ],
    ids=["by time", "the newest folder is not complete yet", "as the period's own manifest says"],
)
def test_of_deliveries_that_are_kept_the_newest_is_read(
    tmp_path: Path, manifests: dict[str, str], newest: str
) -> None:
    data = dict.fromkeys((f"data/{one}/acme-00001.csv" for one in (EARLIER, LATER)), "")
    assert read(tmp_path, export(tmp_path, data | manifests)) == [f"data/{newest}/acme-00001.csv"]


MONTH = "20261001-20261101"
PLACES = {
    "a bare name": (f"metadata/{OCTOBER}/Manifest.json", DATA),
    "legacy": (f"{MONTH}/acme-Manifest.json", f"{MONTH}/7c1e/acme-1.csv"),
    "legacy, overwritten": (f"{MONTH}/acme-Manifest.json", f"{MONTH}/acme-1.csv"),
    "legacy, for Athena": (f"{MONTH}/acme-Manifest.json", "acme/year=2026/month=10/acme-00001.csv"),
    "legacy, in the folder for Athena": (
        "acme/year=2026/month=10/acme-Manifest.json",
        "acme/year=2026/month=10/acme-00001.csv",
    ),
}


@pytest.mark.parametrize(("place", "file"), PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("prefix", ["s3://bills/finance/acme", "finance/acme", "acme/acme", "/acme"])
def test_a_file_is_beside_its_manifest_wherever_it_was_delivered_to(
    tmp_path: Path, place: str, file: str, prefix: str
) -> None:
    listed = manifest(
        file, field="dataFiles" if place.startswith("metadata") else "reportKeys", prefix=prefix
    )
    others = dict.fromkeys(("acme-1.csv", "acme-00001.csv", f"data/{LATER}/acme-00001.csv"), "")
    assert read(tmp_path, export(tmp_path, {place: listed, file: "", **others})) == [file]


def test_a_legacy_report_with_its_manifests(tmp_path: Path) -> None:
    """One of each delivery, one of the newest, and one for Redshift."""
    case = shutil.copytree(FIXTURES / "aws" / "legacy", tmp_path / "copy", copy_function=shutil.copyfile)
    delivery = case / MONTH / "20261016T030000Z"
    shutil.copyfile(case / MONTH / "acme-Manifest.json", delivery / "acme-Manifest.json")
    (delivery / "acme-RedshiftManifest.json").write_text("{}")
    tags = ["resource_tags_user_cost_center", "resourceTags/user:team"]
    pulled = Bill(tmp_path, f"{case}/{{date:%Y%m}}*/**/*Manifest.json", tag_columns=tags)
    expected = (case / "expected" / "charge.csv").read_text(encoding="utf-8")
    assert as_csv(pulled.charges).splitlines() == expected.splitlines()
    assert pulled.gone == set()


def test_days_without_a_manifest_are_told(tmp_path: Path) -> None:
    file = write(tmp_path / "acme" / DATA, ROW)
    path = export(tmp_path, {OWN: manifest(DATA), DATA: file.read_text(encoding="utf-8")})
    pulled = Bill(tmp_path, path, Days(date(2026, 9, 29), date(2026, 10, 31)))
    assert pulled.gone == {date(2026, 9, 29), date(2026, 9, 30)}
    assert pulled.ask("select billed_cost from charge") == [(Decimal("0.8"),)]


HALF_WRITTEN: Mapping[str, tuple[str, timedelta, str]] = {
    "a file is missing": (
        manifest(DATA, f"data/{OCTOBER}/acme-00002.csv"),
        timedelta(),
        r"acme-00002\.csv is not there",
    ),
    "its folder is missing": (
        manifest(DATA, f"data/{LATER}/acme-00001.csv"),
        timedelta(),
        r"-0a/acme-00001\.csv is not there",
    ),
    "a file is of the next one": (
        manifest(DATA),
        timedelta(hours=1, seconds=1),
        r"acme-00001\.csv was written after it",
    ),
}


@pytest.mark.parametrize(("listed", "late", "told"), HALF_WRITTEN.values(), ids=HALF_WRITTEN)
def test_a_delivery_that_is_half_written_is_told(
    tmp_path: Path, listed: str, late: timedelta, told: str
) -> None:
    path = export(tmp_path, {OWN: listed, DATA: ""}, late)
    with pytest.raises(SourceError, match=rf"{OWN}: .*{told}\. The delivery is replaced just now.*run again"):
        read(tmp_path, path)


def test_a_copy_is_read_whatever_was_copied_first(tmp_path: Path) -> None:
    assert read(tmp_path, export(tmp_path, {OWN: manifest(DATA), DATA: ""}, timedelta(hours=1))) == [DATA]


REFUSALS: Mapping[str, tuple[Mapping[str, str], str]] = {
    "several exports": (
        {OWN: manifest(DATA), f"again/{OWN}": manifest(DATA)},
        r"several exports: .*/acme, .*/acme/again\. Let `path`",
    ),
    "a legacy report in the same folder": (
        {OWN: manifest(DATA), f"{MONTH}/acme-Manifest.json": manifest(DATA, field="reportKeys")},
        r"acme-Manifest\.json is of the same month",
    ),
    "two in one folder": (
        {OWN: manifest(DATA), f"metadata/{OCTOBER}/other-Manifest.json": manifest(DATA)},
        r"other-Manifest\.json is of the same month",
    ),
    "deliveries without a time": (kept(f"{OCTOBER}/0f6a", f"{OCTOBER}/9b1c"), "2 deliveries of one period"),
    "no month": ({"acme-Manifest.json": manifest(DATA)}, "its folder names no month"),
    "no such month": (
        {"metadata/BILLING_PERIOD=2026-13/acme-Manifest.json": manifest(DATA)},
        "its folder names no month",
    ),
    "only another month": (
        {"metadata/BILLING_PERIOD=2026-08/acme-Manifest.json": manifest(DATA)},
        r"no manifest is of 2026-10-01\.\.2026-10-31",
    ),
    "no manifest": ({}, r"no manifest is of 2026-10-01\.\.2026-10-31"),
    "a file of another month": (
        {OWN: manifest("data/BILLING_PERIOD=2026-09/acme-00001.csv")},
        "in no folder of its month",
    ),
    "a file elsewhere": ({OWN: manifest(f"data/{OCTOBER}/../../../b/c.csv")}, "in no folder of its month"),
    "no file": ({OWN: manifest()}, "lists no file"),
    "another field": ({OWN: manifest(DATA, field="files")}, r"no manifest of .* \(`reportKeys` is missing\)"),
    "objects": ({OWN: '{"dataFiles": [{"s3Uri": "hush"}]}'}, "it is not understood"),
    "a list": ({OWN: '["hush"]'}, "it is not understood"),
    "half of it": ({OWN: '{"dataFiles": ["hush'}, "it is not understood"),
}


@pytest.mark.parametrize(("manifests", "told"), REFUSALS.values(), ids=REFUSALS)
def test_manifests_that_are_not_understood_or_would_count_twice_are_refused(
    tmp_path: Path, manifests: Mapping[str, str], told: str
) -> None:
    with pytest.raises(SourceError, match=told) as refused:
        read(tmp_path, export(tmp_path, {DATA: "", **manifests}))
    assert "hush" not in str(refused.value)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A bucket `bills`, which the environment points to."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "aHVzaC1odXNo",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    yield boto3.resource("s3").create_bucket(Bucket="bills")
    server.stop()


def test_deliveries_in_s3(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read by their manifest, and refused while the next one overwrites them."""

    def deliver(place: str, text: str, hours: int) -> None:
        monkeypatch.setattr("moto.s3.models.utcnow", lambda: DELIVERED_AT + timedelta(hours=hours))
        s3.put_object(Key=f"finance/acme/{place}", Body=text.encode())

    row = write(tmp_path / "row.csv", ROW).read_text(encoding="utf-8")
    second = DATA.replace("00001", "00002")
    for place in (DATA, second, DATA.replace("00001", "00003")):
        deliver(place, row, 0)
    deliver(OWN, manifest(DATA, second), 0)
    path = "s3://bills/finance/acme/metadata/BILLING_PERIOD={date:%Y-%m}/*Manifest.json"
    pulled = Bill(tmp_path, path)
    assert pulled.ask("select sum(billed_cost) from charge") == [(Decimal("1.6"),)]
    deliver(DATA, row, 8)
    with pytest.raises(SourceError, match=r"/acme-00001\.csv was written after it"):
        aws.fetch(entry(path), DAYS, tmp_path)
