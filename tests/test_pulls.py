"""What Dagster and the console command are told of a pull, and how they are asked for one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import dagster as dg
import polars as pl
import pytest
from conftest import ACTIVE_TAGS, Books, hand_written
from typer.testing import CliRunner

from dagster_project import cli, pipeline, settings
from dagster_project.days import Days
from dagster_project.defs import pulls
from dagster_project.defs.schedules import range_tags
from dagster_project.demo import company
from dagster_project.errors import ConfigError
from dagster_project.small_days import ACCEPT_TAG

DAY = date(2026, 10, 5)
DAYS = Days(DAY, DAY + timedelta(days=1))


@pytest.fixture
def books(home) -> Books:
    """Thirty lines of each of two days, in the lake."""
    books = Books(home)
    for day in DAYS:
        for number in range(30):
            books.charge(day, "acme", "1", record_id=f"line {number}")
    books.pull(DAYS, instant=datetime(2026, 10, 10, tzinfo=UTC))
    return books


def pull(books: Books, **tags: str) -> tuple[dg.ExecuteInProcessResult, list[str]]:
    """The source as an asset, materialised as a backfill of both days does it."""
    configured = settings.Settings({}, ACTIVE_TAGS, settings.DEFAULT_COVERAGE, settings.DEFAULT_GUARDS, None)
    asset = pulls._asset(hand_written("openai", {"charge": books.charges}), configured)
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [asset], instance=instance, tags={**range_tags(DAYS), **tags}, raise_on_error=False
        )
        logged = [entry.user_message for entry in instance.all_logs(result.run_id)]
    return result, logged


def rows(books: Books) -> list[int]:
    files = [books.lake.records("charge", "openai", day) for day in DAYS]
    return [pl.read_parquet(file).height for file in files]


@pytest.mark.parametrize("tags", [{}, {ACCEPT_TAG: "false"}])
def test_a_cut_off_pull_fails_its_run(books, tags):
    books.charges = books.charges[:31]
    result, _ = pull(books, **tags)
    assert not result.success
    assert rows(books) == [30, 30]


def test_a_run_with_the_tag_accepts_small_days_and_says_so(books):
    books.charges = books.charges[:31]
    result, logged = pull(books, **{ACCEPT_TAG: "true"})
    assert result.success
    assert rows(books) == [30, 1]
    event, _ = result.get_asset_materialization_events()  # one for each day
    told = event.materialization.metadata
    accepted = "charge records of 2026-10-06: 1 where 30 were expected"
    assert told["accepted_small_days"].value == accepted
    assert f"openai: accepted {accepted}" in logged
    assert told["restated/records"].value == 29
    assert told["restated/billed_cost/USD"].value == "-29.000000000000"
    pulled = pipeline._pulled("openai", told)
    assert (pulled.restated_records, pulled.restated_cost) == (29, {"USD": Decimal(-29)})
    shown = list(cli._beside(pulled))
    assert shown == ["29 records restated", "-29.00 USD restated", f"accepted: {accepted}"]


def test_a_pull_that_changes_nothing_says_nothing_of_it(books):
    result, _ = pull(books)
    event, _ = result.get_asset_materialization_events()  # one for each day
    pulled = pipeline._pulled("openai", event.materialization.metadata)
    assert (pulled.restated_records, pulled.restated_cost, pulled.accepted) == (0, {}, None)
    assert list(cli._beside(pulled)) == []


@pytest.fixture
def acme(home, monkeypatch) -> Iterator[list[dict]]:
    """Acme's sources, and what the pipeline would have been asked to execute."""
    monkeypatch.setenv("CHARGEBACK_SOURCES", str(company.SOURCES))
    monkeypatch.setenv("ACME_LOGS", str(home))
    for name in ("ACME_OPENAI_URL", "ACME_ANTHROPIC_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/v1")
    monkeypatch.setattr(settings.Entry, "require_secrets", lambda _: None)
    asked: list[dict] = []

    def execute(pulled, _progress, tags):
        asked.append({"pulls": dict(pulled), "tags": dict(tags)})
        return []

    monkeypatch.setattr(pipeline, "_execute", execute)
    monkeypatch.setattr(cli, "_tell_published", lambda: None)
    return asked


def run(*arguments: str) -> str:
    result = CliRunner().invoke(cli.app, ["run", "--from", "2026-10-01", "--to", "2026-10-31", *arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


OCTOBER = Days(date(2026, 10, 1), date(2026, 10, 31))


def test_all_sources_are_pulled_unless_some_are_named(acme):
    run()
    run("--source", "gateway", "--source", "openai")
    everything, named = acme
    assert everything == {"pulls": dict.fromkeys(["openai", "anthropic", "gateway"], OCTOBER), "tags": {}}
    assert named == {"pulls": dict.fromkeys(["openai", "gateway"], OCTOBER), "tags": {}}


def test_small_days_are_accepted_by_an_option(acme):
    run("--source", "openai", "--accept-small-days")
    assert acme == [{"pulls": {"openai": OCTOBER}, "tags": {ACCEPT_TAG: "true"}}]


def test_a_source_that_is_not_configured_is_told_with_the_nearest_name(acme):
    with pytest.raises(ConfigError) as raised:
        run("--source", "opnai", "--source", "gateway", "--source", "zzz")
    assert raised.value.problems == [
        "there is no source `opnai`; did you mean `openai`?",
        "there is no source `zzz`; those are openai, anthropic, gateway",
    ]
    assert acme == []
