"""Google's billing export: every form of the table, every family of SKUs, and what is no row of it."""

from __future__ import annotations

import csv
import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest
from pydantic import ValidationError

from dagster_project.days import Days
from dagster_project.errors import SourceError
from dagster_project.sources import google
from dagster_project.sources._line_items import Line

DAY = Days(date(2026, 10, 1), date(2026, 10, 1))


def entry(path: str, **fields: Any) -> google.Entry:
    return google.Entry(name="gcp", type="google", start_date=date(2026, 1, 1), path=path, **fields)


def row(**changes: Any) -> dict[str, Any]:
    return {
        "billing_account_id": "01AAAA-BBBBBB-CCCCCC",
        "service": {"id": "C7E2-9256-1C43", "description": "Vertex AI"},
        "sku": {"id": "0000-AAAA-1111", "description": "Gemini 3.8 Flash Global Text Input - Predictions"},
        "usage_start_time": "2026-10-01T07:00:00Z",
        "usage_end_time": "2026-10-01T08:00:00Z",
        "project": {"id": "acme-prod", "number": "7", "name": "Acme", "labels": []},
        "labels": [{"key": "team", "value": "search"}],
        "system_labels": [{"key": "hush", "value": "hush"}],
        "tags": [],
        "location": {"location": "global"},
        "cost": 0.75,
        "currency": "USD",
        "usage": {"amount": 1000000, "unit": "count"},
        "credits": [],
        "invoice": {"month": "202610"},
        "cost_type": "regular",
        "cost_at_list": 0.75,
        **changes,
    }


class Pulled:
    """What one pull of a file yields, as a table `charge` to ask."""

    def __init__(self, folder: Path, file: Path, **fields: Any) -> None:
        raw = folder / "raw"
        raw.mkdir()
        of = entry(str(file), **fields)
        google.fetch(of, DAY, raw)
        self.engine = duckdb.connect()
        self.engine.execute("set TimeZone = 'America/New_York'")
        parsed = google.parse(of, DAY, raw, self.engine)
        self.counts = parsed.counts
        parsed.records["charge"].create("charge")

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        return self.engine.sql(sql).fetchall()


def pulled(folder: Path, *rows: dict[str, Any], **fields: Any) -> Pulled:
    file = folder / "export.json"
    file.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    return Pulled(folder, file, **fields)


def flattened(record: dict[str, Any], joint: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, dict):
            flat |= {f"{name}{joint}{field}": inner for field, inner in value.items()}
        else:
            flat[name] = value
    return {name: json.dumps(said) if isinstance(said, list) else said for name, said in flat.items()}


SKUS = [
    # text, model, meter, service tier, context tier
    ("Gemini 3.8 Flash Global Text Input - Predictions", "gemini-3.8-flash", "input", "standard", None),
    ("Gemini 2.5 Flash GA Text Output - Predictions", "gemini-2.5-flash", "output", "standard", None),
    ("Gemini 2.5 Flash GA Thinking Text Output - Predictions",
     "gemini-2.5-flash", "output", "standard", None),
    ("Gemini 3 Flash Text Input Caching", "gemini-3-flash", "cache_read", None, None),
    ("Gemini 2.5 Flash GA Input Text Caching", "gemini-2.5-flash", "cache_read", None, None),
    ("Gemini 3 Flash Text Input Caching Storage", "gemini-3-flash", "cache_storage_token_hours", None, None),
    ("Gemini 3.1 Flash Image Text Input - Predictions", "gemini-3.1-flash-image", "input", "standard", None),
    ("Gemini 3.1 Flash Image Image Output - Batch Predictions",
     "gemini-3.1-flash-image", "output_image", "batch", None),
    ("Gemini 2.5 Pro Long Text Input - Predictions", "gemini-2.5-pro", "input", "standard", "long"),
    ("Generate content input token count gemini 3.5 flash text",
     "gemini-3.5-flash", "input", "standard", None),
    ("Generate content output token count gemini 3.8 flash text priority",
     "gemini-3.8-flash", "output", "priority", None),
    ("Generate_content text output token count for gemini 3 flash batch",
     "gemini-3-flash", "output", "batch", None),
    ("Generate_content_cached_input_token_count_gemini_3_pro_short_image",
     "gemini-3-pro", "cache_read", None, "short"),
    ("Generate_content image output token count for Gemini 3 Pro Image",
     "gemini-3-pro-image", "output_image", "standard", None),
    ("Generate content input token count gemini 3.7 flash image flex caching",
     "gemini-3.7-flash", "cache_read", "flex", None),
    ("Generate content input token count gemini 3.1 flash lite preview text",
     "gemini-3.1-flash-lite-preview", "input", "standard", None),
    ("Generate content input token count Gemini 2.5 Pro long input text",
     "gemini-2.5-pro", "input", "standard", "long"),
    ("Generate content output token count gemini 2.5 flash short input text",
     "gemini-2.5-flash", "output", "standard", "short"),
    ("Generate content output token count gemini 2.5 flash lite short output text non-thinking",
     "gemini-2.5-flash-lite", "output", "standard", "short"),
    ("Generate content input token count gemini 2.5 flash input audio",
     "gemini-2.5-flash", "input_audio", "standard", None),
    ("Generate content input token count gemini 3.8 flash video",
     "gemini-3.8-flash", "input_video", "standard", None),
    ("GENERATECONTENT TEXT INPUT TOKEN COUNT FOR GEMINI 2.0 FLASH",
     "gemini-2.0-flash", "input", "standard", None),
    ("EmbedContent input token count for gemini-embedding-001",
     "gemini-embedding-001", "input", "standard", None),
    ("Bidi_generate_content text input token count for gemini-3.8-live",
     "gemini-3.8-live", "input", "standard", None),
    ("Generate content cached content storage token hours gemini 3.8 flash",
     "gemini-3.8-flash", "cache_storage_token_hours", None, None),
    ("Claude Sonnet 4.5 Input Tokens", "claude-sonnet-4-5", "input", "standard", None),
    ("Claude Opus 4.1 - Cache Write 5m Tokens Global", "claude-opus-4-1", "cache_write_5m", "standard", None),
    ("Claude Haiku 4.5 Batch Cache Hit Tokens", "claude-haiku-4-5", "cache_read", "batch", None),
    ("Llama 3.3 70B Instruct Output Tokens", "llama-3.3-70b-instruct", "output", "standard", None),
    ("Imagen 4 Fast Generation", "imagen-4-fast", "images", "standard", None),
    ("Grounding with Google Search", None, "web_search", None, None),
    ("Generate content search query gemini 3 paid one", None, "web_search", None, None),
    ("Gemini 2.5 Flash Tuning Training Tokens", "gemini-2.5-flash", None, None, None),
    ("Gemini 2.5 Flash Batch Flex Text Input", "gemini-2.5-flash", None, None, None),
    ("Online/Batch Prediction N1 RAM", None, None, None, None),
    ("Vertex AI: Provisioned Throughput 1 month", None, None, None, None),
    ("Veo 3 Video Generation", None, None, None, None),
    ("", None, None, None, None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "model", "meter", "tier", "context"), SKUS)
def test_a_sku_is_read(text, model, meter, tier, context) -> None:
    assert google.line_item(text) == Line(model, meter, tier, context)


def forms(folder: Path) -> dict[str, Path]:
    """One row in each form of the table."""
    one = row(credits=[{"name": "Promo", "full_name": None, "type": "PROMOTION", "amount": -0.25}])
    nested = folder / "nested.ndjson"
    nested.write_text(json.dumps(one) + "\n", encoding="utf-8")
    files = {"json": nested, "parquet": folder / "table.parquet"}
    types = "cost::double as cost, usage_start_time::timestamptz as usage_start_time"
    duckdb.sql(f"""copy (select * replace ({types}) from read_json('{nested}')) to '{files["parquet"]}'""")
    for name, joint in (("dots", "."), ("underscores", "_")):
        files[name] = folder / f"{name}.csv"
        flat = flattened(one, joint) | {"usage_start_time": "2026-10-01 07:00:00 UTC"}
        with files[name].open("w", newline="") as out:
            writer = csv.DictWriter(out, flat)
            writer.writeheader()
            writer.writerow(flat)
    return files


@pytest.mark.parametrize("form", ["json", "parquet", "dots", "underscores"])
def test_every_form_of_the_table_says_the_same(tmp_path: Path, form: str) -> None:
    pull = Pulled(tmp_path, forms(tmp_path)[form])
    assert pull.ask(
        "select usage_date, account_id, provider_project_id, provider_project_name, region, tags['team'], "
        "charge_category, model, meter, quantity, quantity_unit, line_item, billed_cost, list_cost, currency "
        "from charge order by charge_category"
    ) == [
        (
            *(DAY.first, "01AAAA-BBBBBB-CCCCCC", "acme-prod", "Acme", "global", "search", category),
            *("gemini-3.8-flash", *said),
            "USD",
        )
        for category, *said in [
            ("credit", None, None, None, "Promo", Decimal("-0.25"), None),
            (
                *("usage", "input", Decimal(1000000), "tokens"),
                *("Gemini 3.8 Flash Global Text Input - Predictions", Decimal("0.75"), Decimal("0.75")),
            ),
        ]
    ]


def test_rows_of_a_day_are_one_line_whenever_they_were_exported(tmp_path: Path) -> None:
    """Half an hour before UTC midnight is that day; a correction lowers cost and tokens by a row."""
    pull = pulled(
        tmp_path,
        row(cost=0.1),
        row(cost=0.2, usage_start_time="2026-10-01T23:30:00Z"),
        row(cost=-0.05, usage={"amount": -50000, "unit": "requests"}, export_time="2026-10-20T00:00:00Z"),
        row(cost=7, usage_start_time="2026-10-01T20:00:00-05:00"),
    )
    assert pull.ask("select usage_date, billed_cost, quantity from charge order by all") == [
        (DAY.first, Decimal("0.25"), 1950000),
        (date(2026, 10, 2), 7, 1000000),
    ]


def test_labels_of_the_request_come_before_those_of_its_project(tmp_path: Path) -> None:
    project = {"id": "p", "labels": [{"key": "team", "value": "platform"}, {"key": "env", "value": "prod"}]}
    labels = [
        *({"key": "team", "value": "search"}, {"key": "goog-generativelanguage-model", "value": "x"}),
        {"key": "empty", "value": ""},
    ]
    tags = [{"key": "cost_center", "value": "42", "inherited": True, "namespace": "123"}]
    pull = pulled(tmp_path, row(project=project, labels=labels, tags=tags))
    assert pull.ask("select tags from charge") == [
        ({"team": "search", "cost_center": "42", "environment": "prod"},)
    ]


def test_labels_in_another_form_are_counted(tmp_path: Path) -> None:
    pull = pulled(tmp_path, row(labels={"team": "search"}), row(labels="team=search"), row(labels=None))
    assert pull.ask("select sum(billed_cost), max(cardinality(tags)) from charge") == [(Decimal("2.25"), 0)]
    assert pull.counts["labels_not_understood"] == 2


def test_other_services_are_left_out_and_counted(tmp_path: Path) -> None:
    compute = row(service={"description": "Compute Engine"}, cost=99, cost_type="whatever")
    tax = row(service={"description": "Invoice"}, sku={"description": "Tax"}, cost_type="tax", project=None)
    claude = row(service={"description": "Claude Sonnet 4.5"})
    pull = pulled(tmp_path, compute, tax, claude)
    assert pull.ask("select line_item, billed_cost from charge") == [
        ("Gemini 3.8 Flash Global Text Input - Predictions", Decimal("0.75"))
    ]
    assert pull.counts == {
        "rows_of_other_services": 2,
        "unparsed_line_items": 0,
        "labels_not_understood": 0,
    }


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"billing_account_id": None}, "billing_account_id"),
        ({"service": {"id": "1"}}, r"service\.description"),
        ({"sku": None}, r"sku\.description"),
        ({"usage_start_time": "soon"}, "usage_start_time"),
        ({"usage_start_time": "infinity"}, "usage_start_time"),
        ({"cost": None}, "cost"),
        ({"cost": "hush"}, "cost"),
        ({"cost": 1e30}, "cost"),
        ({"credits": [{"name": "Promo"}]}, "credits"),
        ({"credits": "hush"}, "credits"),
        ({"currency": "dollars"}, "currency"),
        ({"currency": None}, "currency"),
        ({"cost_type": None}, "cost_type"),
        ({"cost_type": "gift"}, "cost_type"),
    ],
)
def test_a_value_that_cannot_be_is_told_by_its_column(tmp_path: Path, changes, field) -> None:
    with pytest.raises(SourceError, match=rf"export\.json: .*no usable `{field}`") as told:
        pulled(tmp_path, row(), row(**changes))
    assert "hush" not in str(told.value)


def test_days_of_a_month_whose_file_is_gone_are_told(tmp_path: Path) -> None:
    (tmp_path / "2026-10.json").write_text(json.dumps(row()))
    raw, days = tmp_path / "raw", Days(date(2026, 9, 29), date(2026, 10, 1))
    raw.mkdir()
    of = entry(f"{tmp_path}/{{date:%Y-%m}}.json")
    google.fetch(of, days, raw)
    with duckdb.connect() as engine:
        parsed = google.parse(of, days, raw, engine)
    assert sorted(parsed.days_without_files) == [date(2026, 9, 29), date(2026, 9, 30)]


def test_a_table_without_credits_is_no_bill(tmp_path: Path) -> None:
    file = tmp_path / "export.csv"
    file.write_text("billing_account_id,usage_start_time,cost,cost_type,currency\n")
    with pytest.raises(SourceError, match="there is no column credits"):
        Pulled(tmp_path, file)


def test_no_services_at_all_are_refused() -> None:
    with pytest.raises(ValidationError, match="at least 1 item"):
        entry("gs://acme/*.parquet", services=[])


def test_files_by_day_of_export_are_refused() -> None:
    assert entry("gs://acme/{date:%Y-%m}/*.parquet").path
    with pytest.raises(ValidationError, match="name its month"):
        entry("gs://acme/{date}/*.parquet")
