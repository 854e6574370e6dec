"""Things are called on each day what they were called then, whenever that day is pulled."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import ACTIVE_TAGS, Books, hand_written, written

from dagster_project import lake
from dagster_project.days import Days
from dagster_project.errors import ContractError
from dagster_project.ingest import ingest
from dagster_project.names import NO_NAMES, with_listed
from dagster_project.sources import Name

OLD, MIDDLE, NEW = date(2026, 10, 5), date(2026, 10, 12), date(2026, 10, 19)
RENAMED, RENAMED_BACK = date(2026, 10, 10), date(2026, 10, 17)
EVER, ON = date(1, 1, 1), date(9999, 12, 31)
DAYS = Days(OLD, NEW)
NO_TESTS = ("--exclude-resource-type", "test", "unit_test")

OWNERSHIP = """
teams: {support: {}, search: {}, research: {}, platform: {}}
services:
  before: {team: support, match: {account: acme, provider_project: Lab}}
  after: {team: search, match: {account: acme, provider_project: Agents}}
  deleted: {team: research, match: {api_key: nightly}}
  growth: {team: platform, match: {gateway_team: Growth}}
  expansion: {team: research, match: {gateway_team: Expansion}}
  listed: {team: support, match: {gateway_team: Listed}}
  bot: {team: search, match: {gateway_key: bot}}
"""


def project(name: str | None, account: str = "acme", provider: str = "openai") -> Name:
    return Name("project", "proj_1", name, provider, account)


# --- the file of a source


def after(*pulls: tuple[date, list[Name]]) -> list[tuple[str, date]]:
    known = NO_NAMES
    for day, listed in pulls:
        known = with_listed(known, "openai", listed, day)
    return known.select("name", "seen_date").rows()


@pytest.mark.parametrize(
    ("seen", "kept"),
    [
        pytest.param([(OLD, "Lab")], [("Lab", OLD)], id="once"),
        pytest.param([(OLD, "Lab"), (NEW, "Lab")], [("Lab", OLD)], id="the same again"),
        pytest.param([(OLD, "Lab"), (NEW, "Agents")], [("Lab", OLD), ("Agents", NEW)], id="renamed"),
        pytest.param(
            [(OLD, "Lab"), (MIDDLE, "Agents"), (NEW, "Lab")],
            [("Lab", OLD), ("Agents", MIDDLE), ("Lab", NEW)],
            id="renamed back",
        ),
        pytest.param([(OLD, "Lab"), (NEW, None)], [("Lab", OLD)], id="null erases nothing"),
        pytest.param([(OLD, "Lab"), (NEW, "")], [("Lab", OLD)], id="neither does an empty name"),
        pytest.param([(OLD, None), (NEW, "Lab")], [("Lab", NEW)], id="named later"),
        pytest.param([(OLD, "Lab"), (NEW, "A"), (NEW, "B")], [("Lab", OLD), ("B", NEW)], id="twice a day"),
        pytest.param([(OLD, "Lab"), (NEW, "A"), (NEW, "Lab")], [("Lab", OLD)], id="and back within it"),
        pytest.param([(OLD, "lab"), (NEW, "Lab")], [("lab", OLD), ("Lab", NEW)], id="case counts"),
        pytest.param(
            [(OLD, "Lab"), (NEW, "Agents"), (MIDDLE, "Agents")],
            [("Lab", OLD), ("Agents", MIDDLE)],
            id="a clock that went back",
        ),
    ],
)
def test_each_change_of_a_name_is_kept_with_its_day(seen, kept):
    assert after(*((day, [project(name)]) for day, name in seen)) == kept


def test_what_is_not_listed_any_more_keeps_its_last_name():
    assert after((OLD, [project("Lab")]), (NEW, [])) == [("Lab", OLD)]


def test_the_same_id_is_another_thing_elsewhere():
    things = [
        project("Lab"),
        project("Other lab", account="umbrella"),
        project("Third lab", provider="anthropic"),
        Name("api_key", "proj_1", "a key", "openai", "acme"),
        Name("gateway_team", "proj_1", "a team"),
    ]
    known = with_listed(NO_NAMES, "openai", things, OLD)
    assert with_listed(known, "openai", reversed(things), NEW).equals(known)
    assert sorted(known["name"]) == sorted(thing.name for thing in things)


# --- a pull


def kept(books: Books) -> list[tuple[str, date]]:
    return pl.read_parquet(books.lake.names("openai")).select("name", "seen_date").rows()


@pytest.fixture
def books(home) -> Books:
    books = Books(home, names=[project("Lab")])
    books.pull(DAYS, OLD)
    books.names = [project("Agents")]
    return books


def test_a_pull_that_fails_changes_no_names(books):
    books.charge(OLD, "acme", "1")
    books.charges[0] = {**books.charges[0], "currency": None}
    with pytest.raises(ContractError):
        books.pull(DAYS, NEW)
    assert kept(books) == [("Lab", OLD)]


def test_a_merge_that_is_interrupted_leaves_the_old_file_and_is_repaired_by_the_next(books, monkeypatch):
    def full(place: Path) -> None:
        if place.name == "names.parquet":
            raise OSError(28, "No space left on device", str(place))

    before = books.lake.names("openai").read_bytes()
    monkeypatch.setattr(lake, "_sync", full)
    with pytest.raises(lake.NoRoom, match="make room and run this again"):
        books.pull(DAYS, NEW)
    assert books.lake.names("openai").read_bytes() == before
    monkeypatch.undo()
    books.pull(DAYS, NEW)
    assert kept(books) == [("Lab", OLD), ("Agents", NEW)]


# --- the warehouse


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Books:
    """Pulled as on three days; the last pull is again about all days."""
    books = Books(tmp_path_factory.mktemp("home"))
    for day in (OLD, MIDDLE, NEW):
        # the bill says what the listing does not: what the project was called when it was billed
        for account in ("acme", "umbrella", "unlisted"):
            said = {"provider_project_id": "proj_1", "provider_project_name": "as billed"}
            books.charge(day, account, "10", api_key_id="key_1", **said)
        books.used(day, "used", "key_2", provider_project_id="proj_1", model="gpt-4o", input_tokens=1000)
    books.charge(OLD, "deleted", "10", api_key_id="key_gone", provider_project_id="proj_2")

    def asked(name: str, day: date, **said: Any) -> None:
        books.asked(day, name, "key_3", said.pop("key", "vk"), model="gpt-4o", input_tokens=1000, **said)

    for day, name in [(OLD, None), (MIDDLE, "Growth"), (RENAMED_BACK, None), (NEW, "Expansion")]:
        noon = datetime(day.year, day.month, day.day, 12)  # noqa: DTZ001 - naive UTC, as in the schema
        asked("renamed team", day, gateway_team="t-1", gateway_team_name=name, started_at=noon)
    asked("own name", NEW, gateway_team="t-1", gateway_team_name="Growth")
    asked("listed team", OLD, gateway_team="t-2")
    for day, name in [(OLD, "bot"), (MIDDLE, None), (NEW, "robot")]:
        asked("renamed key", day, key="vk_bot", gateway_key_name=name)

    always = [project("Elsewhere", account="umbrella"), Name("api_key", "key_2", "used", "openai", "used")]
    gone = Name("api_key", "key_gone", "nightly", "openai", "deleted")
    late = Name("principal", "user_1", "Ana", "openai", "acme")
    # the log says another name of t-1, and is better
    books.gateway_names = [Name("gateway_team", "t-1", "Tomorrow's"), Name("gateway_team", "t-2", "Listed")]
    books.names = [project("Lab"), project("Desk", account="used"), gone, late._replace(name=None), *always]
    books.pull(DAYS, OLD)
    books.names = [project("Agents"), project(None, account="used"), late, *always]
    books.pull(DAYS, RENAMED)
    books.names = [project("Lab"), project("Bench", account="used"), late, *always]
    books.pull(DAYS, RENAMED_BACK)
    # another entry lists the same account, but only now
    other = hand_written("openai_too", {"charge": []}, [project("Lab"), gone])
    ingest(other, DAYS, books.lake, ACTIVE_TAGS, Days(NEW, NEW).start)
    result = books.build(written(books.home, OWNERSHIP))
    assert result.returncode == 0, result.stdout[-4000:]
    return books


@pytest.mark.parametrize(
    ("account", "column", "names"),
    [
        ("acme", "provider_project_name", ["Lab", "Agents", "Lab"]),
        ("umbrella", "provider_project_name", ["Elsewhere"] * 3),
        ("unlisted", "provider_project_name", ["as billed"] * 3),
        ("used", "provider_project_name", ["Desk", "Desk", "Bench"]),
        ("used", "api_key_name", ["used"] * 3),
        ("deleted", "api_key_name", ["nightly"]),
        ("renamed key", "gateway_key_name", ["bot", "bot", "robot"]),
        ("renamed team", "gateway_team_name", ["Growth", "Growth", "Growth", "Expansion"]),
        ("listed team", "gateway_team_name", ["Listed"]),
        ("own name", "gateway_team_name", ["Growth"]),
    ],
)
def test_each_day_has_the_names_of_its_time(built, account, column, names):
    rows = built.query(
        f"select distinct usage_date, identity.{column} from fct_cost_allocations "
        "join dim_identities as identity using (identity_id) where identity.account_id = ? order by all",
        account,
    )
    assert [name for _, name in rows] == names


@pytest.mark.parametrize(
    ("account", "teams"),
    [
        ("acme", ["support", "search", "support"]),
        ("umbrella", ["unallocated"] * 3),
        ("deleted", ["research"]),
        ("renamed team", ["platform", "platform", "platform", "research"]),
        ("listed team", ["support"]),
        ("renamed key", ["search", "search", "unallocated"]),
    ],
)
def test_a_selector_by_name_owns_the_days_on_which_it_was_the_name(built, account, teams):
    rows = built.query(
        "select distinct usage_date, team from fct_cost_allocations where account_id = ? order by all",
        account,
    )
    assert [team for _, team in rows] == teams


def test_the_names_are_a_table_with_their_periods(built):
    rows = built.query(
        "select kind, coalesce(account_id, gateway), id, name, valid_from, valid_to "
        "from dim_names order by all"
    )
    assert rows == [
        ("api_key", "deleted", "key_gone", "nightly", EVER, ON),
        ("api_key", "used", "key_2", "used", EVER, ON),
        ("gateway_key", "gateway", "vk_bot", "bot", EVER, NEW),
        ("gateway_key", "gateway", "vk_bot", "robot", NEW, ON),
        ("gateway_team", "gateway", "t-1", "Expansion", NEW, ON),
        ("gateway_team", "gateway", "t-1", "Growth", EVER, NEW),
        ("gateway_team", "gateway", "t-2", "Listed", EVER, ON),
        ("principal", "acme", "user_1", "Ana", EVER, ON),
        ("project", "acme", "proj_1", "Agents", RENAMED, RENAMED_BACK),
        ("project", "acme", "proj_1", "Lab", EVER, RENAMED),
        ("project", "acme", "proj_1", "Lab", RENAMED_BACK, ON),
        ("project", "umbrella", "proj_1", "Elsewhere", EVER, ON),
        ("project", "used", "proj_1", "Bench", RENAMED_BACK, ON),
        ("project", "used", "proj_1", "Desk", EVER, RENAMED_BACK),
    ]


def test_names_lose_and_double_no_money(built):
    billed, allocated, lines = built.query(
        "select (select sum(billed_cost) from fct_charges), sum(cost_usd), "
        "(select count(*) from fct_charges) from fct_cost_allocations where cost_basis = 'billed'"
    )[0]
    assert billed == allocated == 100
    assert lines == len(built.charges)


@pytest.mark.slow
def test_without_a_rename_the_warehouse_does_not_tell_when_it_was_pulled(tmp_path):
    """The published tables, from pulls on another day, in other pieces and of a listing in another order."""
    published = []
    for number, pulls in enumerate(([DAYS], [Days(MIDDLE, NEW), Days(OLD, MIDDLE)])):
        home = tmp_path / str(number)
        home.mkdir()
        books = Books(home, names=[project("Lab"), project("Other", account="umbrella")])
        for day in (OLD, NEW):
            books.charge(day, "acme", "10", provider_project_id="proj_1")
            books.used(day, "acme", "key_1", provider_project_id="proj_1", model="gpt-4o", input_tokens=9)
        for later, days in enumerate(pulls):
            books.names.reverse()
            books.pull(days, date(2026, 11, 1 + 7 * number + later))
        # All others are made of these and of the requests, which are dated by themselves.
        tables = ("fct_charges", "stg_usage", "dim_names")
        result = books.build(
            written(home, OWNERSHIP), "--select", *(f"+{table}" for table in tables), *NO_TESTS
        )
        assert result.returncode == 0, result.stdout[-4000:]
        rows = [
            books.query(f"from {place} order by all") for place in (tables[0], "staging.stg_usage", tables[2])
        ]
        assert all(rows)
        published.append(rows)
    assert published[0] == published[1]
