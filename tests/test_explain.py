"""`chargeback explain`: every row of every mart can be named, and its dollars are accounted for."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from pathlib import Path

import duckdb
import pytest

from dagster_project import explain
from dagster_project.days import Days
from dagster_project.demo import company, providers
from dagster_project.errors import ConfigError
from dagster_project.lake import Lake

DAYS = Days(date(2026, 10, 15), date(2026, 10, 17))
"""Around the day on which the recommender changes hands."""

# What a row of a mart costs; marts without any of these have no dollars of their own.
COSTS = ("attributed_usd", "cost_usd", "billed_cost")
ROWS_OF_EACH_MART = 4

NAMES = (
    *(
        "month",
        "usage_date",
        "identity_id",
        "cost_basis",
        "rule",
        "team",
        "project",
        "environment",
        "service",
    ),
    *("provider", "account_id", "provider_project_id", "provider_project_name", "api_key_id", "api_key_name"),
    *("principal_id", "gateway", "gateway_key_id", "gateway_key_name", "gateway_team", "gateway_user"),
    *("model", "claimed_team", "rule_place", "claimed_rule_place"),
)


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """Acme's warehouse, in a folder with nothing else: no lake, no map, no configuration."""
    home = tmp_path_factory.mktemp("home")
    simulation = company.simulate(tmp_path_factory.mktemp("acme") / "simulated", DAYS, scale=0.1)
    with providers.serve(simulation.folder, restated=False) as servers:
        settings = {
            "CHARGEBACK_HOME": str(home),
            "CHARGEBACK_SOURCES": str(company.SOURCES),
            "CHARGEBACK_OWNERSHIP": str(company.OWNERSHIP),
            "ACME_LOGS": str(simulation.folder),
            **servers.environment,
        }
        finished = chargeback("run", "--from", str(DAYS.first), "--to", str(DAYS.last), **settings)
    assert finished.returncode == 0, finished.stderr
    alone = tmp_path_factory.mktemp("alone")
    return Lake(home).published.rename(Lake(alone).published)


def chargeback(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).with_name("chargeback")), *arguments],
        env={**os.environ, "COLUMNS": "120", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def query(published: Path, sql: str, *parameters: object) -> list[tuple]:
    with duckdb.connect(str(published), read_only=True) as warehouse:
        return warehouse.execute(sql, parameters).fetchall()


def explained(published: Path, *named: str, limit: int | None = None) -> Mapping:
    """What it says, through JSON and back, with its amounts as decimals."""
    said = json.loads(explain.explain(published, named, limit).to_json())
    return said | {"cost_usd": None if said["cost_usd"] is None else Decimal(said["cost_usd"])}


def total(part: Mapping) -> Decimal:
    shown = sum((Decimal(row["cost_usd"]) for row in part["rows"] if row["cost_usd"] is not None), Decimal(0))
    return shown + Decimal(part["others_usd"])


def marts(published: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for mart, column in query(
        published,
        "select table_name, column_name from information_schema.columns "
        "inner join information_schema.tables using (table_schema, table_name) "
        "where table_schema = 'main' and table_type = 'BASE TABLE' order by table_name, ordinal_position",
    ):
        found.setdefault(mart, []).append(column)
    return found


def names_of(mart: str, columns: list[str], row: tuple) -> list[str]:
    """The row's columns that name it, as somebody copies them from a table."""
    said = dict(zip(columns, row, strict=True))
    if mart == "new_keys":
        at = {"API key": "provider", "gateway key": "gateway"}[said["kind"]]
        return [f"key={said['key_id']}", f"{at}={said['issuer']}"]
    # Facts about what exists, not about money: there it is enough to say what.
    if not {"month", "usage_date", "charge_id"} & {*columns}:
        keys = (
            ["identity_id"] if "identity_id" in columns else ["service"] if "service" in columns else ["team"]
        )
    elif unique := {"charge_id", "allocation_id"} & {*columns}:
        keys = ["allocation_id"] if "allocation_id" in unique else ["charge_id"]
    else:
        keys = [*NAMES, *(("tag_key", "tag_value") if "tag_value" in columns else ())]
    if mart == "unowned_identities":
        said["team"] = "unallocated"
    return [f"{key}={'' if said[key] is None else said[key]}" for key in keys if key in said]


def test_every_row_of_every_mart_is_explained_to_the_last_digit(published):
    checked = 0
    for mart, columns in marts(published).items():
        cost = next((column for column in COSTS if column in columns), None)
        rows = query(published, f"from {mart} order by hash({mart}::varchar) limit {ROWS_OF_EACH_MART}")
        for row in rows:
            if not (names := names_of(mart, columns, row)):
                continue
            said = explained(published, *names)
            if cost is not None:
                assert said["cost_usd"] == row[columns.index(cost)], (mart, names)
                checked += 1
            accounted_for(said)
    assert checked > 40


def accounted_for(said: Mapping) -> None:
    billed = [row for row in said["by_basis"]["rows"] if row["cost_basis"] == "billed"]
    for part in ("by_basis", "owners", "requests", "identities"):
        assert total(said[part]) == (said["cost_usd"] or 0), part
    assert total(said["charges"]) == sum(Decimal(row["cost_usd"]) for row in billed)
    for owner in said["owners"]["rows"]:
        assert (owner["rule"] is None) == (owner["team"] == "unallocated")
        for place in (owner["rule_place"], owner["owner_place"]):
            assert place is None or is_a_place(place)
        assert owner["rule"] is None or (owner["rule_place"] and owner["owner_place"] and owner["selector"])
    for loser in said["not_deciding"]["rows"]:
        assert is_a_place(loser["place"])


def is_a_place(text: str) -> bool:
    file, _, line = text.rpartition(":")
    lines = (company.OWNERSHIP.parent / file).read_text(encoding="utf-8").splitlines()
    return lines[int(line) - 1].strip() != ""


@pytest.mark.parametrize("named", [("team=support", "month=2026-10"), ("usage_date=2026-10-16",)])
def test_what_is_left_out_is_counted(published, named):
    whole, short = explained(published, *named), explained(published, *named, limit=2)
    accounted_for(short)
    for part in explain.PARTS:
        assert len(short[part]["rows"]) == min(2, whole[part]["count"])
        assert short[part]["count"] == whole[part]["count"] == len(whole[part]["rows"])
        assert total(short[part]) == total(whole[part])
        sizes = [abs(Decimal(row["cost_usd"])) for row in whole[part]["rows"]]
        assert sizes == sorted(sizes, reverse=True)


def test_a_charge_is_explained_as_the_whole_line(published):
    ((charge, billed),) = query(
        published, "select charge_id, billed_cost from fct_charges order by billed_cost desc limit 1"
    )
    said = explained(published, f"charge_id={charge}")
    ((line,),) = [said["charges"]["rows"]]
    assert Decimal(line["charge_billed_cost"]) == Decimal(line["cost_usd"]) == billed == said["cost_usd"]
    for used in said["cells"]["rows"]:
        assert 0 < Decimal(used["share"]) <= 1
        assert Decimal(used["cost_usd"]) <= Decimal(used["cell_cost_usd"])


def test_a_split_tells_its_shares(published):
    said = explained(published, "rule=legacy-tools", "month=2026-10")
    shares = {
        row["team"]: (Decimal(row["split_share"]), row["split_driver"]) for row in said["splits"]["rows"]
    }
    assert shares == {"growth": (Decimal("0.5"), None), "support": (Decimal("0.5"), None)}
    assert total(said["splits"]) == said["cost_usd"] > 0


def test_losers_say_why(published):
    said = explained(published, "service=support-bot", "rule=support-bot")
    outcomes = {(row["rule"], row["outcome"]) for row in said["not_deciding"]["rows"]}
    assert ("gateway", "a stronger identity decides") in outcomes
    assert ("team:support", "tags do not decide here") in outcomes


def test_a_key_is_known_by_id_and_name_at_providers_and_gateways(published):
    for column, at in (("api_key", "provider"), ("gateway_key", "gateway")):
        id_, name = query(
            published,
            f"select min({column}_id), {column}_name from dim_identities where {column}_name is not null "
            f"group by {column}_name having count(distinct concat({at}, {column}_id)) = 1 order by all",
        )[0]
        ((cost,),) = query(
            published, f"select sum(cost_usd) from fct_cost_allocations where {column}_id = ?", id_
        )
        for text in (id_, name):
            assert explained(published, f"key={text}")["cost_usd"] == cost


def test_a_name_of_several_keys_asks_which(published):
    with pytest.raises(explain.NotFound) as refused:
        explained(published, "key=LiteLLM gateway")
    one = re.search(r"provider=\S+ api_key_id=[^\s;]+", str(refused.value))
    assert one
    assert explained(published, *one[0].split())["cost_usd"] > 0


def test_what_has_no_value_is_named_by_none(published):
    ((unseen,),) = query(published, "select sum(cost_usd) from fct_cost_allocations where gateway is null")
    assert explained(published, "gateway=")["cost_usd"] == unseen
    ((untagged,),) = query(
        published,
        "select cost_usd from chargeback_by_tag where tag_key = 'feature' and tag_value = '(untagged)'",
    )
    for value in ("", "(untagged)"):
        assert explained(published, "tag_key=feature", f"tag_value={value}")["cost_usd"] == untagged


def test_a_row_without_dollars_is_no_mistake(published):
    said = explained(published, "team=research", "service=support-bot")
    assert (said["allocations"], said["cost_usd"]) == (0, 0)


@pytest.mark.parametrize(
    ("named", "told", "exit_code"),
    [
        (["team"], "`team` is not COLUMN=VALUE", 2),
        (["tem=support"], "did you mean `team`?", 2),
        (["cost_usd=3"], "`cost_usd` tells something about a row, but does not name it", 2),
        (["rank=1"], "`rank` tells something about a row", 2),
        (["team=support", "team=search"], "`team` stands twice", 2),
        (["tag_key=feature"], "add tag_value=", 2),
        (["month=2026-10-15"], "a month, as in 2026-10", 2),
        (["month="], "a month, as in 2026-10", 2),
        (["usage_date=yesterday"], "a UTC day, as in 2026-10-05", 2),
        (["team=suport"], "nothing has team=suport; nearest: `support`", 1),
        (["usage_date=2027-01-01"], "there is 2026-10-15 .. 2026-10-17", 1),
        (["key=support-bot-prd"], "`support-bot-prod`", 1),
        (["tag_key=featre", "tag_value=x"], "`feature`", 1),
        (["tag_key=team", "tag_value=suport"], "`support`", 1),
        (["team=' or 1=1 --"], "nothing has team=' or 1=1 --", 1),
        (['team" is not null or "team=support'], 'no mart has a column `team" is not null or "team`', 2),
        (["team=\x1b[31m\n::error::pwned"], r"nothing has team=\x1b[31m\n::error::pwned", 1),
    ],
)
def test_wrong_names_are_told(published, named, told, exit_code):
    with pytest.raises((explain.WrongName, explain.NotFound)) as refused:
        explain.explain(published, named, 5)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)
    assert refused.value.exit_code == exit_code


def test_without_a_warehouse_it_says_what_to_run(tmp_path):
    with pytest.raises(ConfigError, match="chargeback run"):
        explain.explain(tmp_path / "warehouse.duckdb", ["team=support"], 5)


def test_the_command(published):
    home = {"CHARGEBACK_HOME": str(published.parent)}
    before = sorted(published.parent.iterdir()), published.read_bytes()
    text = chargeback("explain", "team=support", "month=2026-10", **home)
    assert text.returncode == 0, text.stderr
    assert re.search(
        r"support-bot \(ownership/acme.yaml:\d+\) \{gateway_key: support-bot-prod\}", text.stdout
    )
    assert len(text.stdout.splitlines()) < 100
    whole = chargeback("explain", "team=support", "month=2026-10", "--json", **home)
    said = json.loads(whole.stdout)
    assert f"{Decimal(said['cost_usd']):,.2f} USD" in text.stdout
    assert said["charges"]["count"] == len(said["charges"]["rows"]) > explain.SHOWN
    wrong = chargeback("explain", "team=suport", **home)
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "nearest: `support`" in wrong.stderr
    assert (sorted(published.parent.iterdir()), published.read_bytes()) == before
