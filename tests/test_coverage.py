"""The checks of what is known badly: they warn, name whom and where, and hold nothing back."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path

import duckdb
import pytest
from conftest import Books
from dagster import AssetCheckKey, AssetCheckSeverity, AssetKey, DagsterInstance

from dagster_project import coverage, settings, sources
from dagster_project.days import Days
from dagster_project.errors import ConfigError

SEPTEMBER, DAY = date(2026, 9, 30), date(2026, 10, 5)

OWNERSHIP = """
teams: {support: {}, search: {}}
services:
  bot: {team: support, match: {gateway_key: vk_bot}}
  lobby: {shared: true, match: {api_key: key_lobby}}
"""

SOURCES = """
sources:
  openai: {start_date: 2026-09-01, api_key: "${NOT_READ_BY_A_BUILD}"}
  gateway: {type: litellm, start_date: 2026-09-01, path: /nowhere/*.json}
coverage:
  unowned_share: 0.1
  conflict_share: 0.25
  untagged_share: {feature: 0.5, team: 0.9}
guards: {price_factor: 9999999}
"""


@dataclass
class Deployment:
    """Pulled by hand, and built by the console command."""

    books: Books
    finished: subprocess.CompletedProcess[str]

    @property
    def published(self) -> Path:
        return self.books.lake.published


@pytest.fixture(scope="module")
def deployment(tmp_path_factory) -> Deployment:
    home = tmp_path_factory.mktemp("home")
    books = Books(home)

    def seen(account: str, key: str, virtual_key: str | None, usd: str, **said: object) -> None:
        books.charge(DAY, account, usd, meter="input", model="gpt-4o")
        books.used(DAY, account, key, model="gpt-4o", input_tokens=1000)
        if virtual_key is not None:
            books.asked(DAY, account, key, virtual_key, model="gpt-4o", input_tokens=1000, **said)

    books.charge(SEPTEMBER, "long ago", "1000")
    seen("tagged", "key_a", "vk_bot", "40", tags={"feature": "chat"})
    seen(
        "claimed",
        "key_a",
        "vk_bot",
        "30",
        tags={"feature": "chat", "team": "search"},
        gateway_key_name="Bot\x1b[2J",
    )
    seen("lobby", "key_lobby", None, "12")
    for number in range(1, 7):
        seen(f"nobody {number}", f"key_{number}", None, str(number))
    books.charge(DAY, "tagged", "-3", charge_category="credit", api_key_id="key_6")
    books.pull(Days(SEPTEMBER, DAY))
    (home / "map").mkdir()
    (home / "map" / "owners.yaml").write_text(OWNERSHIP, encoding="utf-8")
    (home / "sources.yaml").write_text(SOURCES, encoding="utf-8")
    finished = subprocess.run(
        [str(Path(sys.executable).with_name("chargeback")), "build"],
        env={
            **os.environ,
            "CHARGEBACK_HOME": str(home),
            "CHARGEBACK_SOURCES": str(home / "sources.yaml"),
            "CHARGEBACK_OWNERSHIP": str(home / "map"),
            "COLUMNS": "300",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    return Deployment(books, finished)


def test_the_warnings_are_told_and_nothing_is_held_back(deployment):
    assert deployment.finished.returncode == 0, deployment.finished.stderr
    assert "published" in deployment.finished.stdout
    told = [line.strip() for line in deployment.finished.stderr.splitlines()]
    start = told.index(
        "warning: 30.00% of October 2026's cost has no owner (10.00% is allowed): 30.00 of 100.00 USD"
    )
    paste = "paste its map_lines of unowned_identities"
    assert told[start + 1 : start + 6] == [
        '12.00 USD {api_key: "key_lobby"}: say at map/owners.yaml:5 who pays, e.g. with `otherwise`',
        f'5.00 USD {{api_key: "key_5"}}: {paste}',
        f'4.00 USD {{api_key: "key_4"}}: {paste}',
        f'3.00 USD {{api_key: "key_3"}}: {paste}',
        f'3.00 USD {{api_key: "key_6"}}: {paste}',
    ]
    start = told.index(
        "warning: 30.00% of October 2026's cost is claimed for another team than pays it "
        "(25.00% is allowed): 30.00 of 100.00 USD"
    )
    # the tag `team` is missing as often as it may
    ours = "write what you agreed on into contract_prices.csv"
    assert told[start + 1 :] == [
        "30.00 USD support pays by map/owners.yaml:4: the tag team: search claims it by map/owners.yaml:2",
        "warning: 102.98% of October 2026's cost is above or below our prices (5.00% is allowed): "
        "102.98 of 100.00 USD",
        f"40.00 USD openai tagged - gpt-4o input is billed at 16000.0 of our price: {ours}",
        f"30.00 USD openai claimed - gpt-4o input is billed at 12000.0 of our price: {ours}",
        f"12.00 USD openai lobby - gpt-4o input is billed at 4800.0 of our price: {ours}",
        f"6.00 USD openai nobody 6 - gpt-4o input is billed at 2400.0 of our price: {ours}",
        f"5.00 USD openai nobody 5 - gpt-4o input is billed at 2000.0 of our price: {ours}",
    ]


def test_the_checks_are_recorded_on_the_published_asset(deployment):
    with DagsterInstance.from_config(str(deployment.books.home / "dagster")) as instance:
        for check, passed, shares in (
            ("unowned_share", False, {"share/unowned": Decimal("0.3")}),
            ("conflict_share", False, {"share/conflict": Decimal("0.3")}),
            ("untagged_share", True, {"share/feature": Decimal("0.3"), "share/team": Decimal("0.7")}),
            ("unexplained_share", True, {"share/unexplained": Decimal(0)}),
            ("mispriced_share", False, {"share/mispriced": Decimal("1.029775")}),
        ):
            key = AssetCheckKey(AssetKey("warehouse"), check)
            (record,) = instance.event_log_storage.get_asset_check_execution_history(key, limit=2)
            evaluation = record.event.dagster_event.asset_check_evaluation_data
            assert (evaluation.passed, evaluation.severity) == (passed, AssetCheckSeverity.WARN)
            assert {of: Decimal(told.value) for of, told in evaluation.metadata.items()} == shares
            assert "October 2026" in evaluation.description


def test_exactly_as_much_as_allowed_passes(deployment):
    for threshold, passed in ((Decimal("0.3"), True), (Decimal("0.3") - Decimal("1e-20"), False)):
        found = coverage.findings(deployment.published, settings.Coverage(unowned_share=threshold))
        assert {f.check: f.passed for f in found} == {
            "unowned_share": passed,
            "conflict_share": False,
            "untagged_share": True,
            "unexplained_share": True,
            "mispriced_share": False,
        }


def test_untagged_dollars_are_told_by_whom_they_are_of(deployment):
    thresholds = settings.Coverage(untagged_share={"feature": Decimal("0.29"), "team": Decimal("0.69")})
    (found,) = [f for f in coverage.findings(deployment.published, thresholds) if f.check == "untagged_share"]
    assert not found.passed
    assert found.message.splitlines() == [
        "30.00% of October 2026's cost lacks the tag `feature` (29.00% is allowed): 30.00 of 100.00 USD",
        "  30.00 USD unallocated, unseen by any gateway: send it through a gateway",
        "70.00% of October 2026's cost lacks the tag `team` (69.00% is allowed): 70.00 of 100.00 USD",
        "  40.00 USD support, Bot\\x1b[2J of gateway: its callers have to send the tag `team`",
        "  30.00 USD unallocated, unseen by any gateway: send it through a gateway",
    ]


def test_what_is_unexplained_is_told_whatever_its_sign(tmp_path):
    file = tmp_path / "warehouse.duckdb"
    with duckdb.connect(str(file)) as warehouse:
        warehouse.execute(
            "create table chargeback_by_team as select date '2026-10-01' as month, 100.0 as cost_usd"
        )
        for empty in ("unowned_identities", "tag_conflicts"):
            warehouse.execute(
                f"create table {empty} as select null::date as month, null as selector, null as map_lines, "
                "null as rule_place, null as team, null as tag_key, null as tag_value, "
                "null as claimed_rule_place, 1.0 as cost_usd where false"
            )
        warehouse.execute(
            "create table fct_cost_allocations as "
            "select null::date as usage_date, null::date as corrects_date, null as rule, "
            "null as rule_place, null as owner_evidence, null as team, null as charge_match, "
            "1.0 as cost_usd where false"
        )
        warehouse.execute(
            "create table reconciliation_causes as "
            "select date '2026-10-05' as usage_date, 'openai' as provider, 'acme' as account_id, * "
            "from (values ('billed minus usage', 'unexplained', 'a surprise', 1.5), "
            "('billed minus usage', 'unexplained', 'a gift', -1.5), "
            "('billed minus usage', 'price', 'cheap', -5.0), "
            "('usage minus requests', 'unseen_traffic', 'a key', 90.0)) "
            "as found (delta, cause, evidence, amount_usd)"
        )
    found = {f.check: f for f in coverage.findings(file, settings.DEFAULT_COVERAGE)}
    assert found["mispriced_share"].passed, "exactly as much as is allowed"
    assert found["unexplained_share"].message.splitlines() == [
        "3.00% of October 2026's cost has no explanation in the usage report (2.00% is allowed): "
        "3.00 of 100.00 USD",
        "  1.50 USD openai acme - a gift: see reconciliation_by_key, and ask the provider",
        "  1.50 USD openai acme - a surprise: see reconciliation_by_key, and ask the provider",
    ]


def test_a_month_without_cost_has_no_shares(deployment, tmp_path):
    file = tmp_path / "warehouse.duckdb"
    with duckdb.connect(str(file)) as warehouse:
        warehouse.execute("create table chargeback_by_team (month date, cost_usd decimal(38, 12))")
    for rows in ("", "('2026-10-01', null)", "('2026-10-01', -5)"):
        with duckdb.connect(str(file)) as warehouse:
            warehouse.execute("delete from chargeback_by_team")
            if rows:
                warehouse.execute(f"insert into chargeback_by_team values {rows}")
        found = coverage.findings(file, settings.DEFAULT_COVERAGE)
        assert [(f.check, f.passed) for f in found] == [(check, True) for check in coverage.CHECKS]


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ("{unowned_share: 1.01}", "coverage.unowned_share: Input should be less than or equal to 1"),
        ("{conflict_share: -0.01}", "coverage.conflict_share: Input should be greater than or equal to 0"),
        ("{conflict_share: 2%}", "coverage.conflict_share: Input should be a valid decimal"),
        ("{untagged_share: {team: .nan}}", "coverage.untagged_share.team: Input should be a finite number"),
        ("{untagged_share: {feture: 0.5}}", "`feture` is not one of active_tags; did you mean `feature`?"),
        ("{untagged_share: {colour: 0.5}}", "`colour` is not one of active_tags; those are feature, team"),
        ("{unowned: 0.1}", "coverage.unowned: Extra inputs are not permitted"),
        ("{stale_after_days: 0}", "coverage.stale_after_days: Input should be greater than or equal to 1"),
    ],
)
def test_a_wrong_threshold_is_told_with_its_place(said, problem, tmp_path, monkeypatch):
    file = tmp_path / "sources.yaml"
    file.write_text(f"sources: {{}}\nactive_tags: [feature, team]\ncoverage: {said}\n", encoding="utf-8")
    monkeypatch.setenv("CHARGEBACK_SOURCES", str(file))
    with pytest.raises(ConfigError) as error:
        sources.load_settings()
    assert problem in str(error.value)


def test_thresholds_are_exact_decimals(tmp_path, monkeypatch):
    file = tmp_path / "sources.yaml"
    file.write_text(SOURCES, encoding="utf-8")
    monkeypatch.setenv("CHARGEBACK_SOURCES", str(file))
    assert sources.load_settings().coverage == settings.Coverage(
        unowned_share=Decimal("0.1"),
        conflict_share=Decimal("0.25"),
        untagged_share={"feature": Decimal("0.5"), "team": Decimal("0.9")},
    )
