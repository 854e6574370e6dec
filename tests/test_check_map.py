"""`chargeback check-map`: mistakes of the map, and what an edit moves, before anything is built."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from io import StringIO
from pathlib import Path

import duckdb
import pytest
from conftest import Books
from rich.console import Console

from dagster_project import check_map, warehouse
from dagster_project.days import Days
from dagster_project.errors import ConfigError

SEPTEMBER, OCTOBER = date(2026, 9, 30), date(2026, 10, 5)
HOSTILE = "\x1b[2J\n::error::pwned%0A##[error]\u202e"

BEFORE = """
teams: {support: {}, search: {}, research: {}, platform: {}}
services:
  bot: {team: support, match: {gateway_key: vk_bot}}
  nightly: {team: research, match: {api_key: key_cron}}
  labs: {team: research, match: {api_key: key_labs}}
  gateway: {shared: true, otherwise: platform, match: {api_key: key_gateway}}
  vectors: {split: {search: 0.6, support: 0.4}, match: {api_key: key_vectors}}
  reserved: {split: by_usage, among: [support, research], otherwise: platform, match: {api_key: key_reserved}}
"""

# A service changes hands, one is gone, one has a typo in its key, one is new, one is new and matches nothing;
# so does a policy, and another leaves lines to their user.
AFTER = """
teams: {support: {}, search: {}, research: {}, platform: {}}
services:
  bot: {team: search, match: {gateway_key: vk_bot}, history: [{until: 2026-10-01, team: support}]}
  labs: {team: research, match: {api_key: key_lab}}
  found: {team: search, match: {api_key: key_nobody}}
  idle: {team: search, match: {api_key: key_never}}
  gateway: {shared: true, match: {api_key: key_gateway}}
  vectors: {split: {search: 0.5, support: 0.25, research: 0.25}, match: {api_key: key_vectors}}
  reserved: {split: by_usage, among: [support, search], otherwise: platform, match: {api_key: key_reserved}}
policies:
  - {match: {category: tax}, policy: central, team: platform}
  - {match: {category: usage, line_item: "*"}, policy: user}
"""
MODELS_ONLY = ("--exclude-resource-type", "test", "--exclude-resource-type", "unit_test")


@pytest.fixture(scope="module")
def books(tmp_path_factory) -> Books:
    """A deployment that was published with the map BEFORE."""
    books = Books(tmp_path_factory.mktemp("home"))
    for day in (SEPTEMBER, OCTOBER):
        for key, amount, said in (
            ("key_gateway", "10.000000000007", {"virtual_key": "vk_bot"}),
            ("key_gateway", "7.77", {"tags": {"team": "search"}}),
            ("key_gateway", "3.333333333333", {}),
            ("key_cron", "5.55", {}),
            ("key_labs", "2.5", {}),
            ("key_nobody", "4.000000000001", {"tags": {"team": "nobody"}}),
            ("key_vectors", "9.999999999999", {}),
            ("key_reserved", "100.01", {}),
        ):
            account = f"{key} {amount}"
            books.charge(day, account, amount, meter="input", model="gpt-4o")
            books.used(day, account, key, model="gpt-4o", input_tokens=1000)
            books.asked(
                day, account, key, **{"virtual_key": "gw", "model": "gpt-4o", "input_tokens": 1000, **said}
            )
        books.charge(day, "key_cron 5.55", "-20", charge_category="credit", line_item="credit")
    books.charge(OCTOBER, HOSTILE, "1.25", meter="input", model="gpt-4o")
    books.used(OCTOBER, HOSTILE, "key_labs", model="gpt-4o", input_tokens=1000)
    # what nobody priced
    books.used(OCTOBER, "unpriced", "key_nobody", model="no such model", input_tokens=1000)
    books.pull(Days(SEPTEMBER, OCTOBER))
    build(books, BEFORE)
    with warehouse.building(books.lake):
        pass
    warehouse.publish(books.lake)
    return books


def build(books: Books, text: str) -> None:
    folder = books.home / "built"
    folder.mkdir(exist_ok=True)
    (folder / "owners.yaml").write_text(text, encoding="utf-8")
    built = books.build(folder, *MODELS_ONLY)
    assert built.returncode == 0, built.stdout[-4000:]


@pytest.fixture(scope="module")
def edited(books, tmp_path_factory) -> check_map.Checked:
    """The map AFTER, compared; the deployment is as it was, down to the last byte."""
    # The lake may have moved on since, or be elsewhere: what was published is all that is asked.
    lake = books.lake.root.rename(tmp_path_factory.mktemp("elsewhere") / "lake")
    before = contents(books.home)
    checked = check_map.check(written(tmp_path_factory.mktemp("edit"), AFTER), books.lake.published)
    assert contents(books.home) == before
    lake.rename(books.lake.root)
    return checked


def written(folder: Path, text: str, file: str = "owners.yaml") -> Path:
    (folder / file).write_text(text, encoding="utf-8")
    return folder


def contents(home: Path) -> dict[str, tuple[int, str]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.is_file() and hashlib.md5(path.read_bytes()).hexdigest())
        for path in (home, *home.rglob("*"))
    }


def chargeback(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The console command in an environment that is not configured: no sources, no secrets, an empty home."""
    bare = {
        name: value for name, value in os.environ.items() if not name.startswith(("CHARGEBACK", "GITHUB"))
    }
    return subprocess.run(
        [str(Path(sys.executable).with_name("chargeback")), "check-map", *arguments],
        env={**bare, "COLUMNS": "120", "CHARGEBACK_SOURCES": "/nowhere", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def heard_by_the_runner(log: str) -> list[str]:
    """The commands that GitHub's runner takes from a log: at a line's start, or the old form anywhere."""
    heard, deaf_until = [], None
    for line in map(str.strip, re.split(r"[\r\n]", log)):
        command = re.fullmatch(r"::([\w-]+)( [^:]*)?::(.*)", line)
        if deaf_until is not None:
            deaf_until = None if line == f"::{deaf_until}::" else deaf_until
        elif command and command[1] == "stop-commands":
            deaf_until = command[3]
        elif command or "##[" in line:
            heard.append(line)
    assert deaf_until is None
    return heard


def by_month_and_team(books: Books) -> Mapping[tuple[date, str], Decimal | None]:
    rows = books.query(
        "select date_trunc('month', usage_date)::date, team, sum(cost_usd) "
        "from fct_cost_allocations group by all"
    )
    return {(month, team): cost for month, team, cost in rows}


@pytest.mark.slow
def test_the_table_is_what_the_next_build_says(books, edited):
    told = edited.comparison.teams
    published = by_month_and_team(books)
    build(books, AFTER)
    assert {(row.month, row.team): row.after_usd for row in told if row.after_usd != 0} == by_month_and_team(
        books
    )
    assert {(row.month, row.team): row.before_usd for row in told if row.before_usd != 0} == published
    assert published != by_month_and_team(books)
    for month in (SEPTEMBER.replace(day=1), OCTOBER.replace(day=1)):
        assert sum(row.change_usd for row in told if row.month == month) == 0
    marts = {
        (month, team): cost
        for month, team, cost in books.query("select month, team, cost_usd from chargeback_by_team")
    }
    assert all(marts[row.month, row.team] == row.after_usd for row in told if row.after_usd != 0)


def test_a_deleted_service_names_its_amount(edited):
    ((gone, cost),) = [(gone.service, gone.cost_usd) for gone in edited.comparison.deleted_services]
    assert (gone, cost) == ("nightly", Decimal("5.55") * 2 - 40)
    assert any("`nightly`" in text and "-28.90 USD" in text for text in edited.comparison.warnings())


def test_rules_that_own_nothing(edited):
    idle = {(rule.rule, rule.is_new): rule.cost_before_usd for rule in edited.comparison.idle_rules}
    assert idle == {
        ("labs", False): Decimal("2.5") * 2 + Decimal("1.25"),
        ("idle", True): None,
        ("policy:{category: tax}", True): None,
    }


def test_identities_that_get_an_owner_or_lose_it(edited):
    found = [(move.team, move.cost_usd) for move in edited.comparison.newly_owned]
    assert found == [("search", Decimal("8.000000000002")), ("search", None)]
    assert edited.comparison.newly_owned[0].identity["api_key_id"] == "key_nobody"
    lost = {
        move.identity["account_id"]: (move.team, move.cost_usd) for move in edited.comparison.newly_unowned
    }
    assert lost == {
        "key_labs 2.5": ("research", Decimal("5")),
        HOSTILE: ("research", Decimal("1.25")),
        "key_cron 5.55": ("research", Decimal("-28.9")),
        "key_gateway 3.333333333333": ("platform", Decimal("6.666666666666")),
    }


@pytest.mark.slow
def test_a_warehouse_of_strangers_cannot_speak_to_the_runner_or_the_terminal(books, edited, tmp_path):
    published = str(books.lake.published)
    told = chargeback(str(written(tmp_path, AFTER)), "--warehouse", published, GITHUB_ACTIONS="true")
    assert (told.returncode, told.stderr) == (0, "")
    heard = heard_by_the_runner(told.stdout)
    assert [line.partition("::")[2].partition("::")[0] for line in heard] == [
        "warning title=ownership map"
    ] * 4
    assert "pwned" not in "".join(heard)
    on_a_terminal = StringIO()
    check_map.show(edited, Console(file=on_a_terminal, width=120))
    for text in (told.stdout, on_a_terminal.getvalue()):
        assert r"\x1b[2J\n::error::pwned" in text
        assert not set(text) & {"\x1b", "\u202e", "\r"}


def test_json_has_all_digits_and_no_commands(edited):
    text = edited.to_json()
    assert heard_by_the_runner(text) == []
    said = json.loads(text)
    assert HOSTILE in [move["identity"]["account_id"] for move in said["comparison"]["newly_unowned"]]
    (september,) = [
        row["before_usd"]
        for row in said["comparison"]["teams"]
        if (row["month"], row["team"]) == ("2026-09-01", "search")
    ]
    assert september == "13.769999999999"
    assert len(said["warnings"]) == 4


def test_a_map_of_strangers_cannot_speak_to_the_runner_or_the_terminal(tmp_path):
    hostile = json.dumps(HOSTILE, ensure_ascii=True)
    folder = written(tmp_path, f"teams: {{a: {{{hostile}: 1}}}}\nservices:\n  {hostile}: {{team: b}}\n")
    told = chargeback(
        str(folder), "--no-warehouse", GITHUB_ACTIONS="true", GITHUB_WORKSPACE=str(tmp_path.parent)
    )
    assert told.returncode == 1
    assert not set(told.stdout + told.stderr) & {"\x1b", "\u202e", "\r"}
    heard = heard_by_the_runner(told.stdout + told.stderr)
    assert heard
    for line in heard:
        assert re.match(rf"::error file={tmp_path.name}/owners.yaml,line=\d+,col=\d+::", line)
        assert "%0A" not in line.replace("%250A", "")
    whole = chargeback(str(folder), "--no-warehouse", "--json", GITHUB_ACTIONS="true")
    assert heard_by_the_runner(whole.stdout) == []
    assert len(json.loads(whole.stdout)["mistakes"]) == len(heard)


def test_every_mistake_is_a_line_under_its_file(tmp_path):
    written(tmp_path, "teams: {a: {}}\nservices:\n  x: {taem: a}\n  y: {team: b}\n")
    written(tmp_path, "services:\n  z: {team: c}\n", "more.yaml")
    told = chargeback(str(tmp_path))
    assert told.returncode == 1
    name = tmp_path.name
    assert [line for line in told.stdout.splitlines() if not line.startswith(" ")] == [
        f"{name}/more.yaml",
        "",
        f"{name}/owners.yaml",
        "",
        told.stdout.splitlines()[-1],
    ]
    assert re.search(r"^  3:\d+ +.*`taem`.*`team`", told.stdout, flags=re.MULTILINE)
    lines = [line for line in told.stdout.splitlines() if line.startswith("  ")]
    assert told.stdout.splitlines()[-1] == f"{len(lines)} mistakes in 2 files"


def test_a_fresh_clone_needs_nothing_else(tmp_path):
    folder = tmp_path / "map"
    folder.mkdir()
    home = tmp_path / "home"
    told = chargeback(str(written(folder, BEFORE)), CHARGEBACK_HOME=str(home))
    assert (told.returncode, told.stderr) == (0, "")
    assert "no mistakes in 1 file: 4 teams, 6 services, 6 selectors" in told.stdout
    assert not home.exists()
    default = chargeback(CHARGEBACK_HOME=str(home), CHARGEBACK_OWNERSHIP=str(folder))
    assert default.stdout == told.stdout


def test_the_map_alone_is_checked_without_dagster_and_dbt(tmp_path):
    loaded = (
        "import sys; from dagster_project import cli; "
        "from typer.testing import CliRunner; "
        "result = CliRunner().invoke(cli.app, ['check-map', '--no-warehouse', sys.argv[1]]); "
        "assert result.exit_code == 0, result.output; "
        "print(sorted({'dagster', 'dbt'} & set(sys.modules)))"
    )
    told = subprocess.run(
        [sys.executable, "-c", loaded, str(written(tmp_path, BEFORE))],
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == "[]"


def test_what_cannot_be_checked(books, tmp_path):
    for missing in (
        [str(tmp_path / "nowhere"), "--no-warehouse"],
        [str(tmp_path), "--warehouse", str(tmp_path / "nowhere")],
        [str(tmp_path), "--warehouse", str(books.lake.published), "--no-warehouse"],
    ):
        assert chargeback(*missing).returncode == 2
    with pytest.raises(ConfigError, match="there is no such folder"):
        check_map.check(tmp_path / "nowhere", None)
    old = tmp_path / "old.duckdb"
    duckdb.connect(str(old)).close()
    with pytest.raises(check_map.NotCompared, match="fct_cost_allocations does not exist") as refused:
        check_map.check(tmp_path, old)
    assert (refused.value.exit_code, "\n" in str(refused.value)) == (2, False)
