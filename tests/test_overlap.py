"""Calls that several sources have logged: none counts twice, none is lost, what is set aside is shown."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest
from conftest import ACTIVE_TAGS, UNGUARDED, WITHOUT_UNIT_TESTS, Books, dbt, hand_written, written

from dagster_project import overlaps, ownership, rates, settings, warehouse
from dagster_project.days import Days
from dagster_project.errors import SourceError
from dagster_project.ingest import empty_records, ingest

DAY = date(2026, 10, 5)
DAYS = Days(DAY - timedelta(days=1), DAY + timedelta(days=1))
M = 1_000_000


class Logs(Books):
    """Books in which several sources log requests."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.logs: dict[str, list[Any]] = {}

    def logged(self, source: str, request_id: str | None, account: str = "acme", **said: Any) -> None:
        self.requests = self.logs.setdefault(source, [])
        day = said.pop("day", DAY)
        key = said.pop("key", "key_gateway")
        said = {"model": "gpt-4o", "input_tokens": M, "request_id": request_id, **said}
        self.asked(day, account, key, said.pop("virtual_key", f"vk_{source}"), **said)

    def settings(self, *declared: Sequence[str]) -> settings.Settings:
        start = {"type": "litellm", "start_date": DAYS.first}
        entries = {name: settings.Entry(name=name, **start) for name in self.logs}
        return settings.Settings(entries, ACTIVE_TAGS, guards=UNGUARDED, overlaps=tuple(map(tuple, declared)))

    def pull(self, source: str) -> None:
        one = hand_written(source, {"request": self.logs[source]})
        ingest(one, Days(DAY, DAY), self.lake, ACTIVE_TAGS, DAYS.end)

    def pull_all(self) -> None:
        logs = [hand_written(name, {"request": rows}) for name, rows in self.logs.items()]
        for source in (hand_written("openai", {"charge": self.charges, "usage": self.usage}), *logs):
            ingest(source, DAYS, self.lake, ACTIVE_TAGS, DAYS.end, accept_small_days=True)

    def left(self, *declared: Sequence[str]) -> dict[str, list[str]]:
        """The ids (or models) of the requests that count, by source; as dbt would read them."""
        configured = self.settings(*declared)
        self.decide(configured)
        return {name: self._left(name) for name in self.logs}

    def decide(self, configured: settings.Settings) -> None:
        with self.lake.locked("warehouse"):
            overlaps.decide(self.lake, configured)

    def _left(self, source: str) -> list[str]:
        own = self.lake.spoken(source, DAY)
        file = own if own.exists() else self.lake.rollup("request", source, DAY)
        return [
            model
            for model, count in duckdb.sql(
                f"""select model, sum(quantity)::int from read_parquet('{file}')
                where meter = 'requests' and usage_date = date '{DAY}' group by all order by all"""
            ).fetchall()
            for _ in range(count)
        ]

    def billable(self, source: str) -> int:
        file = self.lake.rollup("request", source, DAY)
        return len(duckdb.sql(f"from read_parquet('{file}') where is_billable").fetchall())

    def forget(self, source: str, day: date) -> None:
        """As `retention` does."""
        with duckdb.connect() as engine:
            empty_records(engine, self.lake.records("request", source, day))

    def set_aside(self) -> list[tuple[Any, ...]]:
        file = self.lake.set_aside(DAY)
        return duckdb.sql(
            "select source, spoken_by, reason, sum(requests)::int "
            f"from read_parquet('{file}') group by all order by all"
        ).fetchall()


@pytest.fixture
def logs(home: Path) -> Logs:
    return Logs(home)


def test_the_same_request_id_is_one_call_whoever_declared_what(logs: Logs) -> None:
    logs.logged("gateway", "r1", model="a")
    logs.logged("gateway", "r2", model="b")
    logs.logged("gateway", None, model="c")
    logs.logged("trace", "r1", model="a, too")
    logs.logged("trace", "r2", model="b", key=None, account=None)
    logs.logged("trace", "r2", model="of another provider", provider="anthropic")
    logs.logged("trace", "r3", model="d")
    logs.logged("trace", None, model="e")
    logs.pull_all()
    assert logs.left() == {"gateway": ["a", "b", "c"], "trace": ["d", "e", "of another provider"]}
    assert logs.set_aside() == [("trace", "gateway", "same request id", 2)]


def test_a_call_that_two_logs_file_under_neighbouring_days_is_one(logs: Logs) -> None:
    logs.logged("gateway", "r1", model="a", day=DAY - timedelta(days=1))
    logs.logged("gateway", "r2", model="b")
    logs.logged("trace", "r1", model="a")
    logs.pull_all()
    assert logs.left()["trace"] == []


def test_of_declared_sources_the_first_speaks_for_its_keys(logs: Logs) -> None:
    logs.logged("gateway", "x1", model="a")  # ids of its own making
    logs.logged("trace", "r1", model="a")
    logs.logged("trace", "r2", model="a", key=None)
    logs.logged("trace", None, model="b", account=None, key=None)
    logs.logged("trace", "r3", model="other key", key="key_cron")
    logs.logged("trace", "r4", model="other account", account="beta")
    logs.logged("trace", "r5", model="other provider", provider="anthropic")
    logs.logged("trace", "r6", model="failed", status="error")
    logs.pull_all()
    assert logs.left(["gateway", "trace"])["trace"] == [
        "failed",
        "other account",
        "other key",
        "other provider",
    ]
    assert logs.set_aside() == [("trace", "gateway", "declared to see the same calls", 3)]
    assert logs.left(["trace", "gateway"]) == {
        "gateway": [],
        "trace": logs.left(["trace", "gateway"])["trace"],
    }
    assert len(logs.left()["trace"]) == 7


def test_where_ids_meet_what_only_the_later_source_has_is_kept(logs: Logs) -> None:
    logs.logged("gateway", "r1", model="a-2026")
    logs.logged("gateway", "x2", model="b")
    logs.logged("trace", "r1", model="a")
    logs.logged("trace", "r2", model="a")  # bypassed the gateway
    logs.logged("trace", None, model="a")  # nobody can tell
    logs.logged("trace", "r3", model="b")  # of this model the gateway makes up its ids
    logs.pull_all()
    assert logs.left(["gateway", "trace"])["trace"] == ["a"]
    assert logs.set_aside() == [
        ("trace", "gateway", "declared to see the same calls", 2),
        ("trace", "gateway", "same request id", 1),
    ]


def test_one_id_that_meets_does_not_tell_of_the_others(logs: Logs) -> None:
    """A gateway may keep the ids of one kind of call and make up those of another, of the same model."""
    for number in range(4):
        logs.logged("gateway", f"own {number}", model="a")
        logs.logged("trace", f"r{number}", model="a")
    logs.logged("gateway", "r9", model="a")
    logs.logged("trace", "r9", model="a")
    logs.pull_all()
    assert logs.left(["gateway", "trace"])["trace"] == []


def test_who_is_spoken_for_does_not_speak(logs: Logs) -> None:
    logs.logged("gateway", "x1", model="a")
    logs.logged("trace", "r1", model="a", key=None)
    logs.logged("provider_log", "p1", model="a")
    logs.logged("provider_log", "p2", model="b", key="key_cron")
    logs.pull_all()
    assert logs.left(["gateway", "trace", "provider_log"]) == {
        "gateway": ["a"],
        "trace": [],
        "provider_log": ["b"],
    }


def test_what_a_gateways_cache_answered_is_nobodys(logs: Logs) -> None:
    logs.logged("gateway", "r1", model="a", is_cache_hit=True)
    logs.logged("trace", "r1", model="a")
    logs.logged("provider_log", "r2", model="b")
    logs.pull_all()
    assert logs.left() == {"gateway": ["a"], "trace": [], "provider_log": ["b"]}
    assert logs.billable("gateway") == 0


def test_a_call_at_midnight_is_one_where_nothing_else_was_logged(logs: Logs) -> None:
    logs.logged("gateway", "r1", model="a", day=DAY - timedelta(days=1))
    logs.logged("trace", "r1", model="a")
    logs.pull_all()
    assert logs.left()["trace"] == []


def test_a_decision_that_was_cut_off_is_made_again(logs: Logs) -> None:
    logs.logged("gateway", "r1", model="a")
    logs.logged("trace", "r1", model="a")
    logs.pull_all()
    assert logs.left()["trace"] == []
    logs.lake.overlaps_decided.write_text("")
    assert logs.left()["trace"] == []


def test_days_beside_forgotten_ones_stay_decided_and_are_not_pulled_by_halves(logs: Logs) -> None:
    logs.logged("gateway", "r1", model="a", day=DAY - timedelta(days=1))
    logs.logged("gateway", "r2", model="b")
    logs.logged("trace", "r1", model="a")
    logs.pull_all()
    assert logs.left()["trace"] == []
    logs.forget("gateway", DAY - timedelta(days=1))
    assert logs.left()["trace"] == []
    logs.forget("gateway", DAY)
    with pytest.raises(SourceError, match="request records that tell which are the same are forgotten"):
        logs.pull("trace")
    assert logs.left()["trace"] == []
    logs.pull("gateway")
    assert logs.left()["trace"] == []


def test_a_decision_follows_what_it_was_made_of_and_outlives_forgotten_records(logs: Logs) -> None:
    logs.logged("gateway", "r1", model="a")
    logs.logged("trace", "r1", model="a")
    logs.pull_all()
    assert logs.left()["trace"] == []
    made = logs.lake.set_aside(DAY).stat().st_mtime_ns
    assert logs.left()["trace"] == []
    assert logs.lake.set_aside(DAY).stat().st_mtime_ns == made

    logs.forget("trace", DAY)
    assert logs.left()["trace"] == []

    logs.logs["gateway"] = []
    logs.pull("trace")
    logs.pull_all()
    assert logs.left() == {"gateway": [], "trace": ["a"]}
    assert not logs.lake.set_aside(DAY).exists()


def test_money_is_divided_by_those_who_speak_and_the_rest_is_shown(logs: Logs) -> None:
    gpt4o = {"model": "gpt-4o", "context_tier": "short", "service_tier": "standard"}
    logs.charge(DAY, "acme", "10.00", meter="input", **gpt4o)
    logs.used(DAY, "acme", "key_gateway", input_tokens=4 * M, model="gpt-4o")
    logs.logged("gateway", "r1", virtual_key="vk_search")
    logs.logged("trace", "r1", reported_cost=Decimal("2.5"))
    logs.logged("trace", "r2", virtual_key="vk_support")
    logs.logged("elsewhere", "e1", virtual_key="vk_support")
    logs.pull_all()
    configured = logs.settings(["gateway", "trace"])
    warehouse.prepare(logs.lake, configured)
    logs.decide(configured)
    models = rates.resolve(warehouse.models_seen(logs.lake))
    teams = """
teams: {search: {}, support: {}}
services:
  a: {team: search, match: {gateway_key: vk_search}}
  b: {team: support, match: {gateway_key: vk_support}}
"""
    owners = ownership.load(written(logs.home, teams)).tables()
    warehouse.write_tables(logs.lake, {"models": models, "rate_card": rates.rate_card(models), **owners})
    wanted = ("--select", "+chargeback_by_team", "+source_overlap", "--indirect-selection", "buildable")
    built = dbt("build", logs.home, *wanted, *WITHOUT_UNIT_TESTS)
    assert built.returncode == 0, built.stdout
    assert dict(logs.query("select team, cost_usd from chargeback_by_team")) == {
        "search": Decimal("2.5"),
        "support": Decimal(5),
        "unallocated": Decimal("2.5"),
    }
    shown = "source, spoken_by, verdict, requests, reported_cost_usd, what_to_write"
    assert logs.query(f"select {shown} from source_overlap order by all") == [
        (
            *("elsewhere", "gateway", "kept: nobody declared that the sources log the same calls", 1, None),
            "overlaps: [[gateway, elsewhere]]",
        ),
        ("trace", "gateway", "kept: only this source saw them", 1, None, None),
        ("trace", "gateway", "set aside: same request id", 1, Decimal("2.5"), None),
    ]
