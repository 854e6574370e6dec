"""Whose an identity is, and why: one explainable result per identity, period and selector that matches it."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import duckdb
import pytest
from conftest import Books, place_in, written

from dagster_project import warehouse
from dagster_project.days import Days

SEPTEMBER, DAY, NEXT_DAY = date(2026, 9, 30), date(2026, 10, 5), date(2026, 10, 6)
EVER, ON = date(1, 1, 1), date(9999, 12, 31)

OWNERSHIP = r"""
teams:
  support: {cost_center: CC-1, owner: ana@acme.example, channel: "#support-ai"}
  search: {}
  research: {}
  platform: {}
services:
  bot: {team: support, project: chat, match: {gateway_key: vk_support}}
  any-bot: {team: search, match: {gateway_key: "vk_*"}}
  nightly:
    team: research
    match:
      - {api_key: key_cron}
      - {provider: openai, api_key: "key_cr*"}
    history: [{until: 2026-10-06, team: search}]
  org: {team: platform, match: {account: acme}}
  gateway: {shared: true, match: {api_key: key_gateway}, otherwise: platform}
  lobby: {shared: true, match: {api_key: key_lobby}}
  fashion:
    shared: true
    match: {api_key: key_fashion}
    otherwise: platform
    history: [{team: search, until: 2026-10-06}]
  vectors: {split: {search: 0.6, support: 0.4}, match: {api_key: key_vectors}}
  index: {split: {search: 0.5, research: 0.5}, match: {api_key: key_index}}
  labs: {team: research, match: {tag: {feature: lab*, customer: acme}}}
  odd: {team: research, match: {api_key: "50%_of\\*"}}
  suffix: {team: support, match: {gateway_user: "*@support.example"}}
  inside: {team: search, match: {gateway_team: "*.search.*"}}
  letter: {team: research, match: {gateway_team: "r?d"}}
"""

KEYS = ("key_cron", "key_gateway", "key_lobby", "key_fashion", "key_vectors", "key_index", "key_nobody")


@pytest.fixture(scope="module")
def books(tmp_path_factory) -> Books:
    books = Books(tmp_path_factory.mktemp("home"))

    def story(name: str, key: str | None, *, day: date = DAY, account: str = "", **said: object) -> None:
        """One request, worth 10 USD on the bill, in an account of its own."""
        where = account or name
        books.charge(day, where, "10", meter="input", model="gpt-4o")
        books.used(day, where, key, model="gpt-4o", input_tokens=1000)
        books.asked(day, where, key, **{"virtual_key": "gw", "model": "gpt-4o", "input_tokens": 1000, **said})

    story("stronger", "key_cron", virtual_key="vk_support", tags={"team": "search"})
    story("acme", "key_cron", tags={"team": "search", "service": "bot"})
    story("nobody", "key_nobody")

    # claims: the first that is not for a shared service; of a written one before the implied ones
    for key in ("key_gateway", "key_nobody", "key_cron"):
        story(f"{key} shared claim", key, tags={"service": "Gateway", "team": " Research "})
        story(f"{key} only shared claim", key, tags={"service": "gateway"})
        story(f"{key} written claim", key, tags={"feature": "Lab 7", "customer": "acme", "team": "search"})
    story("half a claim", "key_gateway", tags={"feature": "lab 7", "customer": "other"})
    story("lobby", "key_lobby")
    story("lobby claimed", "key_lobby", tags={"team": "research"})

    # services that several teams pay
    story("claims one of them", "key_vectors", tags={"team": "support"})
    story("claims another", "key_vectors", tags={"team": "research"})
    story("claims several, in common", "key_vectors", tags={"service": "index"})
    story("claims several", "key_cron", day=NEXT_DAY, tags={"service": "vectors"})
    story("claims several, one is it", "key_cron", tags={"service": "vectors"})
    story("shared, claims several", "key_gateway", tags={"service": "vectors"})

    # changes of hands; the month of the earlier day is another one
    for day in (SEPTEMBER, DAY, NEXT_DAY):
        story("hands", "key_cron", day=day, tags={"team": "research"})
        story("fashion", "key_fashion", day=day, tags={"team": "research"})

    # globs: wildcards of SQL are letters, case counts, and a middle is found between other things
    story("odd", r"50%_of\thing")
    story("not odd", r"50x_of\thing")
    for user in ("ana@support.example", "ana@support.example.org"):
        story(f"user {user}", "key_nobody", gateway_user=user)
    for team in ("a.search.b", ".search.", "rnd", "rd", "R-d"):
        story(f"team {team}", "key_nobody", gateway_team=team)
    for name in ("r&d", "research"):
        story(f"team named {name}", "key_nobody", gateway_team="t-17", gateway_team_name=name)

    books.pull(Days(SEPTEMBER, NEXT_DAY))
    built = books.build(written(books.home, OWNERSHIP))
    assert built.returncode == 0, built.stdout[-4000:]
    return books


def line(start: str) -> str:
    """The place of the line of the map that begins with `start`."""
    return place_in(OWNERSHIP, start)


def outcomes(books: Books, account: str, day: date = DAY) -> dict[str, str]:
    """What became of each selector that matches the account's identity, by its text."""
    return dict(
        books.query(
            "select selector, outcome from ownership_decisions natural join dim_identities "
            "where account_id = ? and valid_from <= ? and valid_to > ?",
            account,
            day,
            day,
        )
    )


def owner(books: Books, account: str, day: date = DAY) -> tuple[object, ...]:
    rows = books.query(
        "select distinct team, rule, owner_evidence, claimed_team from fct_cost_allocations "
        "where account_id = ? and usage_date = ? order by all",
        account,
        day,
    )
    assert len(rows) == 1
    return rows[0]


RESEARCH_TAG = "{tag: {team: research}}"


@pytest.mark.parametrize(
    ("account", "wanted"),
    [
        (
            "stronger",
            {
                "{gateway_key: vk_support}": "decides",
                "{gateway_key: vk_*}": "less specific",
                "{api_key: key_cron}": "a stronger identity decides",
                "{provider: openai, api_key: key_cr*}": "a stronger identity decides",
                "{tag: {team: search}}": "tags do not decide here",
            },
        ),
        (
            "acme",
            {
                "{provider: openai, api_key: key_cr*}": "decides",
                "{api_key: key_cron}": "less specific",
                "{account: acme}": "a stronger identity decides",
                "{tag: {service: bot}}": "tags do not decide here",
                "{tag: {team: search}}": "tags do not decide here",
            },
        ),
        ("nobody", {}),
        (
            "key_gateway shared claim",
            {
                "{api_key: key_gateway}": "shared: tags decide",
                "{tag: {service: gateway}}": "claims a shared service",
                RESEARCH_TAG: "decides",
            },
        ),
        (
            "key_gateway only shared claim",
            {"{api_key: key_gateway}": "otherwise", "{tag: {service: gateway}}": "claims a shared service"},
        ),
        (
            "key_gateway written claim",
            {
                "{api_key: key_gateway}": "shared: tags decide",
                "{tag: {feature: lab*, customer: acme}}": "decides",
                "{tag: {team: search}}": "less specific",
            },
        ),
        ("key_nobody only shared claim", {"{tag: {service: gateway}}": "claims a shared service"}),
        ("half a claim", {"{api_key: key_gateway}": "otherwise"}),
        ("lobby", {"{api_key: key_lobby}": "shared: nobody claims it"}),
        ("lobby claimed", {"{api_key: key_lobby}": "shared: tags decide", RESEARCH_TAG: "decides"}),
    ],
)
def test_what_became_of_every_selector_that_matches(books, account, wanted):
    assert outcomes(books, account) == wanted


@pytest.mark.parametrize(
    ("account", "day", "wanted"),
    [
        ("stronger", DAY, ("support", "bot", "gateway key", "search")),
        ("acme", DAY, ("search", "nightly", "API key", "support")),
        ("nobody", DAY, ("unallocated", None, "none", None)),
        ("key_gateway shared claim", DAY, ("research", "team:research", "tag", "research")),
        ("key_nobody shared claim", DAY, ("research", "team:research", "tag", "research")),
        ("key_cron shared claim", DAY, ("search", "nightly", "API key", "research")),
        ("key_gateway only shared claim", DAY, ("platform", "gateway", "otherwise", None)),
        ("key_nobody only shared claim", DAY, ("unallocated", None, "none", None)),
        ("key_cron only shared claim", DAY, ("search", "nightly", "API key", None)),
        ("key_gateway written claim", DAY, ("research", "labs", "tag", "research")),
        ("key_nobody written claim", DAY, ("research", "labs", "tag", "research")),
        ("key_cron written claim", DAY, ("search", "nightly", "API key", "research")),
        ("half a claim", DAY, ("platform", "gateway", "otherwise", None)),
        ("lobby", DAY, ("unallocated", "lobby", "none", None)),
        ("lobby claimed", DAY, ("research", "team:research", "tag", "research")),
        ("claims several", NEXT_DAY, ("research", "nightly", "API key", None)),
        ("hands", DAY, ("search", "nightly", "API key", "research")),
        ("hands", NEXT_DAY, ("research", "nightly", "API key", "research")),
        ("fashion", DAY, ("search", "fashion", "API key", "research")),
        ("fashion", NEXT_DAY, ("research", "team:research", "tag", "research")),
        ("odd", DAY, ("research", "odd", "API key", None)),
        ("not odd", DAY, ("unallocated", None, "none", None)),
        ("user ana@support.example", DAY, ("support", "suffix", "gateway user", None)),
        ("user ana@support.example.org", DAY, ("unallocated", None, "none", None)),
        ("team a.search.b", DAY, ("search", "inside", "gateway team", None)),
        ("team .search.", DAY, ("search", "inside", "gateway team", None)),
        ("team rnd", DAY, ("research", "letter", "gateway team", None)),
        ("team named r&d", DAY, ("research", "letter", "gateway team", None)),
        ("team named research", DAY, ("unallocated", None, "none", None)),
        ("team rd", DAY, ("unallocated", None, "none", None)),
        ("team R-d", DAY, ("unallocated", None, "none", None)),
    ],
)
def test_who_owns_it_and_what_the_tags_claim(books, account, day, wanted):
    assert owner(books, account, day) == wanted


def test_a_claim_on_a_split_service_is_split_where_tags_decide(books):
    rows = books.query(
        "select team, cost_usd, owner_evidence, claimed_team, claimed_rule_place = rule_place "
        "from fct_cost_allocations where account_id = 'shared, claims several' and meter = 'input' "
        "order by team"
    )
    assert rows == [
        ("search", Decimal(6), "tag", None, True),
        ("support", Decimal(4), "tag", None, True),
    ]


def test_periods_are_cut_only_where_an_owner_of_a_matching_rule_changes(books):
    def periods(account: str) -> list[tuple[object, ...]]:
        return books.query(
            "select distinct valid_from, valid_to from ownership_decisions natural join dim_identities "
            "where account_id = ? order by all",
            account,
        )

    assert periods("fashion") == [(EVER, NEXT_DAY), (NEXT_DAY, ON)]
    assert periods("lobby") == [(EVER, ON)]


def test_a_decision_names_the_selector_and_the_line_that_says_whose_it_is(books):
    rows = books.query(
        "select valid_from, team, place, owner_place from ownership_decisions natural join dim_identities "
        "where account_id = 'fashion' and api_key_id = 'key_fashion' and not is_implied order by valid_from"
    )
    selector = line("match: {api_key: key_fashion}")
    assert rows == [
        (EVER, "search", selector, line("history: [{team: search")),
        (NEXT_DAY, "platform", selector, line("fashion:")),
    ]


@pytest.mark.parametrize(
    ("account", "wanted"),
    [
        ("stronger", [("support", "search", "team", "search", Decimal(10))]),
        ("acme", [("search", "support", "service", "bot", Decimal(10))]),
        ("key_cron written claim", [("search", "research", "customer, feature", "acme, Lab 7", Decimal(10))]),
        ("key_cron shared claim", [("search", "research", "team", " Research ", Decimal(10))]),
        # it owned the key on one day of October only
        ("hands", [("search", "research", "team", "research", Decimal(10))] * 2),
        ("fashion", [("search", "research", "team", "research", Decimal(10))] * 2),
        ("claims one of them", []),
        (
            "claims another",
            [
                ("search", "research", "team", "research", Decimal(6)),
                ("support", "research", "team", "research", Decimal(4)),
            ],
        ),
        ("claims several, in common", []),
        ("claims several", [("research", None, "service", "vectors", Decimal(10))]),
        ("claims several, one is it", []),
        # tags decide there, or say nothing
        ("key_gateway shared claim", []),
        ("key_nobody shared claim", []),
        ("key_cron only shared claim", []),
        ("lobby claimed", []),
        ("nobody", []),
    ],
)
def test_tag_conflicts(books, account, wanted):
    rows = books.query(
        "select team, claimed_team, tag_key, tag_value, cost_usd "
        "from tag_conflicts natural join dim_identities where account_id = ? order by month, team",
        account,
    )
    assert rows == wanted


def test_a_conflict_names_both_places_and_its_days(books):
    rows = books.query(
        "select month, service, evidence, rule_place, claimed_service, claimed_rule_place, first_date, "
        "last_date from tag_conflicts natural join dim_identities where account_id = 'hands' order by month"
    )
    places = ("nightly", "API key", line("- {provider: openai"), None, line("research: {}"))
    assert rows == [
        (date(2026, 9, 1), *places, SEPTEMBER, SEPTEMBER),
        (date(2026, 10, 1), *places, DAY, DAY),
    ]


def test_the_map_itself_is_published(books):
    assert books.query("select * from dim_teams where team = 'support'") == [
        ("support", "CC-1", "ana@acme.example", "#support-ai", line("support:"))
    ]
    services = books.query("select service, team, project, place from dim_services order by service")
    assert ("bot", "support", "chat", line("bot:")) in services
    assert ("vectors", None, None, line("vectors:")) in services


def test_a_dollar_is_explained_from_the_published_file_alone(books):
    with warehouse.building(books.lake):
        pass  # it was built, and passed its checks
    warehouse.publish(books.lake)
    with duckdb.connect(str(books.lake.published), read_only=True) as published:
        chain = published.sql(
            """select
                charges.billed_cost, parts.cost_usd, identities.api_key_id,
                decisions.selector, decisions.place
            from main.fct_charges as charges
            inner join main.fct_cost_allocations as parts on charges.charge_id = parts.charge_id
            inner join main.dim_identities as identities on parts.identity_id = identities.identity_id
            inner join main.ownership_decisions as decisions
                on parts.identity_id = decisions.identity_id
                and parts.usage_date >= decisions.valid_from
                and parts.usage_date < decisions.valid_to
                and decisions.decides
            where charges.account_id = 'acme' and parts.meter = 'input'"""
        ).fetchall()
        lines = published.sql("select count(*), sum(billed_cost) from main.fct_charges").fetchall()
    selector = "{provider: openai, api_key: key_cr*}"
    assert chain == [(Decimal(10), Decimal(10), "key_cron", selector, line("- {provider: openai"))]
    assert lines == [(len(books.charges), sum(row["billed_cost"] for row in books.charges))]


TIED = """
teams: {support: {}, search: {}}
services:
  by-id: {team: support, match: {api_key: key_1}}
  by-name: {team: search, match: {api_key: nightly}}
"""


@pytest.mark.slow
def test_a_tie_that_only_the_data_shows_blocks_and_is_told(home):
    books = Books(home)
    books.charge(DAY, "acme", "12.50", api_key_id="key_1", api_key_name="nightly")
    books.charge(DAY, "acme", "7", api_key_id="key_1", api_key_name="daily")
    books.charge(DAY, "acme", "8", api_key_id="key_2", api_key_name="nightly")
    books.pull(Days(DAY, DAY))
    built = books.build(written(home, TIED))
    assert built.returncode == 1
    assert "Failure in test ties_that_only_data_shows" in built.stdout
    check = home / "target/compiled/llm_chargeback/tests/ties_that_only_data_shows.sql"
    told = books.query(
        "select place, rival_place, cost_usd, api_key_id, api_key_name "
        f"from ({check.read_text(encoding='utf-8')})"
    )
    places = ("map/owners.yaml:4", "map/owners.yaml:5")
    assert told == [(*places, Decimal("12.50"), "key_1", "nightly")]
