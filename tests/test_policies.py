"""Policies: who pays what nobody used.

Each account is one story, all built by one run of the real dbt project.
"""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from io import StringIO
from pathlib import Path

import pytest
from conftest import Books, place_in, written
from rich.console import Console

from dagster_project import check_map, coverage, explain, ownership, warehouse
from dagster_project.days import Days
from dagster_project.ownership import OwnershipError
from dagster_project.settings import Coverage

SEPTEMBER, DAY, NEXT_DAY = date(2026, 9, 30), date(2026, 10, 1), date(2026, 10, 2)
DECEMBER = date(2026, 12, 1)
DAYS_OF_DATA = 5
M = 1_000_000

OWNERSHIP = """
teams: {support: {}, search: {}, platform: {}, finance: {}}
services:
  cron: {team: search, project: crawler, environment: production, match: {api_key: key_cron}}
  bot: {team: support, match: {api_key: key_bot}}
  vectors: {split: {search: 0.5, support: 0.5}, match: {api_key: key_vectors}}
  account: {team: finance, match: {account: fully owned}}
environments: {production: []}
policies:
  - {match: {category: tax}, policy: proportional}
  - match: {category: tax, account: dated}
    policy: proportional
    otherwise: finance
    history:
      - {until: 2026-10-01, policy: user}
      - {until: 2026-10-02, policy: central, team: platform}
  - {match: {category: fee, provider: open*}, policy: proportional, over: provider}
  - match: {category: fee, provider: mistral, account: none}
    policy: proportional
    over: everything
    otherwise: finance
  - match: [{line_item: "PTU * (idle)"}, {line_item: "Seats"}]
    policy: central
    team: platform
  - {match: {category: credit, account: taken back}, policy: central, team: finance}
  - {match: {category: fee, account: specific, line_item: "* tax"}, policy: central, team: search}
  - {match: {category: fee, account: specific, line_item: "Value tax"}, policy: central, team: support}
  - {match: {category: fee, account: specific}, policy: user}
  - match: [{category: adjustment, line_item: "Rounding"}, {category: credit, provider: open*}]
    policy: user
    history:
      - {until: 2026-10-01, policy: central, team: finance}
"""


@pytest.fixture(scope="module")
def books(tmp_path_factory) -> Books:
    books = Books(tmp_path_factory.mktemp("home"))
    gpt4o = {"model": "gpt-4o", "service_tier": "standard"}
    both = {"model": "gpt-4o"}

    def used(day: date, account: str, **million_tokens: int) -> None:
        """At the price of 2.50 for a million tokens of gpt-4o, billed without a discount."""
        for key, millions in million_tokens.items():
            books.used(day, account, key, input_tokens=millions * M, **both)
        amount = str(Decimal("2.50") * sum(million_tokens.values()))
        books.charge(day, account, amount, meter="input", **gpt4o)

    # a month's tax on the month's cost: 10.00 : 7.50 : 2.50, whatever was used on the day of the tax
    used(DAY, "taxed", key_cron=4, key_bot=3)
    used(NEXT_DAY, "taxed", key_nobody=1)
    books.charge(NEXT_DAY, "taxed", "1.000000000001", charge_category="tax", line_item="VAT")
    used(SEPTEMBER, "taxed", key_bot=100)

    # nobody pays anything: before September's last day there is no cost in the account; or just a credit
    books.charge(DAY, "idle", "3.00", charge_category="tax", line_item="VAT")
    used(DAY, "sunk", key_bot=2)
    books.charge(DAY, "sunk", "-8.00", charge_category="credit", line_item="Promotion")
    books.charge(DAY, "sunk", "3.00", charge_category="tax", line_item="VAT")

    # three terms of one policy, on both sides of each boundary; in the third month there is something
    for day in (SEPTEMBER, DAY, NEXT_DAY):
        books.charge(day, "dated", "6.00", charge_category="tax", line_item="VAT")
    used(SEPTEMBER, "dated", key_bot=1)

    # what bills usage is its users', unless a policy says the line
    used(DAY, "seats", key_bot=2)
    books.charge(DAY, "seats", "30.00", line_item="Seats", quantity=Decimal(2), quantity_unit="seats")
    books.charge(DAY, "seats", "7.00", charge_category="purchase", line_item="PTU east (idle)")
    books.charge(DAY, "seats", "1.85", charge_category="tax", line_item="VAT")

    # a credit is finance's, though its users caused it; the users pay in full
    used(DAY, "taken back", key_bot=2, key_cron=2)
    books.charge(DAY, "taken back", "-4.00", charge_category="credit", line_item="Grant")

    # the more is said, the stronger; an exact value beats a pattern
    used(DAY, "specific", key_bot=1, key_cron=1)
    for item in ("Value tax", "Sales tax", "Gateway"):
        books.charge(DAY, "specific", "2.00", charge_category="fee", line_item=item)

    # a provider's fee, on two of its accounts; and one of a provider without usage, over everything there is
    other = {"provider": "openrouter", "model": "gpt-4o"}
    for account, key, amount in (("one", "key_cron", "7.50"), ("two", "key_bot", "2.50")):
        books.charge(DAY, account, amount, **other)
        books.used(DAY, account, key, input_tokens=1 * M, **other)
    books.charge(NEXT_DAY, "one", "0.40", charge_category="fee", line_item="Fee", provider="openrouter")
    books.charge(
        date(2026, 11, 1), "none", "5.00", charge_category="fee", line_item="Fee", provider="mistral"
    )
    books.charge(NEXT_DAY, None, "0.000000000003", charge_category="tax", line_item="VAT", provider="cohere")
    books.charge(NEXT_DAY, None, "2.00", provider="cohere", api_key_id="key_vectors", **gpt4o)

    # the latest month: half of a tax is where half of the costs are, nowhere; another is nobody's
    used(DECEMBER, "half owned", key_nobody=2, key_bot=2)
    books.charge(DECEMBER, "half owned", "2.00", charge_category="tax", line_item="VAT")
    books.charge(DECEMBER, "unused", "3.00", charge_category="tax", line_item="VAT")

    books.pull(Days(SEPTEMBER, DECEMBER))
    thresholds = Coverage(stale_after_days=DAYS_OF_DATA)
    built = books.build(written(books.home, OWNERSHIP), coverage=thresholds)
    assert built.returncode == 0, built.stdout[-4000:]
    with warehouse.building(books.lake):
        pass
    warehouse.publish(books.lake)
    return books


def by_team(books: Books, account: str | None, where: str = "true") -> dict[str, str]:
    rows = books.query(
        "select team, sum(cost_usd) from fct_cost_allocations "
        f"where account_id is not distinct from ? and {where} group by all",
        account,
    )
    return {team: f"{amount:f}".rstrip("0").rstrip(".") for team, amount in rows}


TAX = "charge_category = 'tax'"


@pytest.mark.parametrize(
    ("account", "where", "owners"),
    [
        # 1.000000000001 by 10.00 : 2.50 : 7.50 of 20.00, in order of name
        ("taxed", TAX, {"search": "0.500000000001", "support": "0.375", "unallocated": "0.125"}),
        ("taxed", "usage_date < '2026-10-01'", {"support": "250"}),
        ("idle", TAX, {"unallocated": "3"}),
        ("sunk", TAX, {"unallocated": "3"}),
        ("sunk", "true", {"support": "-3", "unallocated": "3"}),
        ("dated", "usage_date = '2026-09-30'", {"support": "8.5"}),
        ("dated", "usage_date = '2026-10-01'", {"platform": "6"}),
        # what was kept central in October is what the tax of the next day is proportional to
        ("dated", "usage_date = '2026-10-02'", {"platform": "6"}),
        # 1.85 by 5.00 : 37.00
        ("seats", TAX, {"support": "0.220238095238", "platform": "1.629761904762"}),
        ("seats", f"not {TAX}", {"support": "5", "platform": "37"}),
        ("taken back", "true", {"support": "5", "search": "5", "finance": "-4"}),
        ("specific", "line_item = 'Value tax'", {"support": "2"}),
        ("specific", "line_item = 'Sales tax'", {"search": "2"}),
        ("specific", "line_item = 'Gateway'", {"support": "1", "search": "1"}),
        ("one", "charge_category = 'fee'", {"search": "0.3", "support": "0.1"}),
        ("none", "true", {"finance": "5"}),
        # 1.5 units of the last decimal each: the first in the order of names takes the half
        (None, TAX, {"search": "0.000000000002", "support": "0.000000000001"}),
    ],
)
def test_who_pays(books, account, where, owners) -> None:
    assert by_team(books, account, where) == owners


def test_a_policy_divides_between_owners_not_between_usage(books) -> None:
    """However many keys and models the owners used, one row each, and nobody's identity."""
    rows = books.query(
        """
        select project, environment, service, owner_evidence, split_share, split_weight, split_total,
            split_driver, split_period_start, rule_place, identity_id, api_key_id
        from fct_cost_allocations
        where account_id = 'one' and charge_category = 'fee' and team = 'search'
        """
    )
    place = place_in(OWNERSHIP, "- {match: {category: fee, provider: open*}")
    assert rows == [
        (
            *("crawler", "production", "cron", "proportional policy"),
            *(Decimal("0.75"), Decimal("7.5"), Decimal(10), "cost", DAY, place, None, None),
        )
    ]


def test_the_dated_terms_of_a_policy_are_its_places(books) -> None:
    places = books.query(
        "select usage_date, rule, rule_place, owner_evidence from fct_cost_allocations "
        "where account_id = 'dated' and charge_category = 'tax' order by all"
    )
    rule = "policy:{category: tax, account: dated}"
    assert places == [
        (SEPTEMBER, "bot", place_in(OWNERSHIP, "bot:"), "API key"),
        (DAY, rule, place_in(OWNERSHIP, "- {until: 2026-10-02"), "central policy"),
        (
            NEXT_DAY,
            rule,
            place_in(OWNERSHIP, "- match: {category: tax, account: dated}"),
            "proportional policy",
        ),
    ]


def told(books: Books, *named: str) -> str:
    out = StringIO()
    explain.show(explain.explain(books.lake.published, named, limit=5), Console(file=out, width=200))
    return out.getvalue()


def test_explain_tells_the_policy_with_its_place(books) -> None:
    ((charge_id,),) = books.query(f"select charge_id from fct_charges where account_id = 'taxed' and {TAX}")
    place = place_in(OWNERSHIP, "- {match: {category: tax}")
    text = told(books, f"charge_id={charge_id}")
    assert f"search: policy:{{category: tax}} ({place}), by proportional policy" in text
    assert f"support: 0.375 of policy:{{category: tax}} ({place}), by cost: 7.5 of 20 from 2026-10-01" in text
    for absent in ("Requests", "Recognised by", "None"):
        assert absent not in text


@pytest.mark.slow
def test_check_map_shows_what_an_edited_policy_moves(books, tmp_path) -> None:
    edited = OWNERSHIP.replace(
        "{match: {category: tax}, policy: proportional}", "{match: {category: tax}, policy: user}"
    )
    edited = edited.replace("policy: central, team: finance", "policy: central, team: platform")
    checked = check_map.check(written(tmp_path, edited), books.lake.published)
    assert checked.comparison is not None
    moved = {
        row.team: row.change_usd for row in checked.comparison.teams if row.month == DAY and row.change_usd
    }
    # the grant moves from finance to platform; of the taxes those of `taxed` move to the day's only user,
    # who is nobody, those of `sunk` from nobody to support, that of `seats` to support
    assert moved == {
        "finance": Decimal(4),
        "platform": Decimal("-4") - Decimal("1.629761904762"),
        "search": Decimal("-0.500000000001"),
        "support": Decimal("-0.375") + Decimal(3) + Decimal("1.629761904762"),
        "unallocated": Decimal("0.875000000001") - Decimal(3),
    }
    assert [w for w in checked.comparison.warnings() if "policy" in w] == [
        f"rule `policy:{{category: tax}}` ({place_in(edited, '- {match: {category: tax}')}) "
        "owns nothing any more; it had 13.85 USD"
    ]


def test_a_policy_that_matches_nothing_is_stale(books) -> None:
    """Its history is no match, and neither is a stronger policy that decides instead."""
    stale = books.query(
        "select selector, service, place, last_matched_date, days_without_match from stale_rules "
        "where service like 'policy:%'"
    )
    unheard_of = "{category: adjustment, line_item: Rounding}"
    assert stale == [
        (
            *(unheard_of, f"policy:{unheard_of}"),
            *(place_in(OWNERSHIP, "- match: [{category: adjustment"), None, DAYS_OF_DATA),
        )
    ]
    used = books.query(
        "select selector, last_matched_date, last_decided_date from intermediate.int_selectors_used "
        "where selector in ('{category: tax}', '{category: credit, provider: open*}') order by all"
    )
    assert used == [
        ("{category: credit, provider: open*}", DAY, DAY),
        ("{category: tax}", DECEMBER, DECEMBER),
    ]


def test_what_a_policy_leaves_to_nobody_has_no_owner(books) -> None:
    finding, *_ = coverage.findings(books.lake.published, Coverage(unowned_share=Decimal("0.5")))
    place = place_in(OWNERSHIP, "- {match: {category: tax}")
    # 5.00 that nobody owns, a half of 2.00, and 3.00, of 10.00 and the two taxes
    assert finding.check == "unowned_share"
    assert finding.shares == {"unowned": Decimal(9) / 15}
    assert finding.message.splitlines()[1:] == [
        '  5.00 USD {api_key: "key_nobody"}: paste its map_lines of unowned_identities',
        f"  3.00 USD policy:{{category: tax}}: say at {place} who pays, e.g. with `otherwise`",
        "  1.00 USD policy:{category: tax}: it follows the costs that it is divided by",
    ]


TEAMS = "teams: {search: {}}\npolicies:\n"
MISTAKES = {
    "no list": ("teams: {}\npolicies: {category: tax}", ["2:11: `policies` is a mapping; it is a list of"]),
    "nothing said": ("  - {}", ["3:5: a policy says `match`", "3:5: a policy says `policy`"]),
    "unknown words": (
        "  - {match: {categroy: tax}, policy: proprtional, ovr: account}",
        [
            "3:51: unknown key `ovr`; did you mean `over`?",
            "3:14: unknown key `categroy`; did you mean `category`?",
            "3:38: `policy` is never `proprtional`; did you mean `proportional`?",
        ],
    ),
    "an unknown policy": (
        "  - {match: {category: taxes}, policy: proprtional, over: acount}",
        [
            "3:24: `category` is never `taxes`; did you mean `tax`?",
            "3:40: `policy` is never `proprtional`; did you mean `proportional`?",
            "3:59: `over` is never `acount`; did you mean `account`?",
        ],
    ),
    "whose it is kept": (
        "  - {match: {category: tax}, policy: central}",
        ["3:30: what is kept central is a team's; write `team: NAME` beside it"],
    ),
    "an unknown team": (
        "  - {match: {category: tax}, policy: central, team: serch}",
        ["3:53: team `serch` is not declared; did you mean `search`?"],
    ),
    "terms of another policy": (
        "  - {match: {category: tax}, policy: user, team: search, over: account}",
        [
            "3:44: `team` is of the policy `central`, and this is `user`; leave it out",
            "3:58: `over` is of the policy `proportional`, and this is `user`; leave it out",
        ],
    ),
    "who caused it": (
        "  - {match: {api_key: key_cron, category: fee}, policy: user}",
        ["3:14: unknown key `api_key`; a policy is for lines of the bill, whoever caused them; leave it out"],
    ),
    "all usage": (
        "  - {match: {category: usage}, policy: user}",
        ["3:24: what bills usage (usage) is its users'; say which lines are not, by `line_item`"],
    ),
    "everything": ("  - {match: {}, policy: user}", ["3:13: this would match every line"]),
    "the same twice": (
        "  - {match: [{category: tax}, {category: tax}], policy: user}",
        ["3:31: {category: tax} is already at map/owners.yaml:3:14; keep one of the two"],
    ),
    "a tie": (
        '  - {match: {line_item: "PTU*"}, policy: user}\n  - {match: {line_item: "*idle"}, policy: user}',
        ["4:13: {line_item: *idle} and {line_item: PTU*} at map/owners.yaml:3:13 are equally"],
    ),
    "a tie of different keys": (
        "  - {match: {category: fee, provider: openrouter}, policy: user}\n"
        "  - {match: {category: fee, provider: open*}, policy: user}\n"
        "  - {match: {provider: openrouter, category: fee}, policy: central, team: search}",
        ["5:13: {provider: openrouter, category: fee} and {category: fee, provider: openrouter}"],
    ),
    "a history out of order": (
        "  - match: {category: tax}\n    policy: user\n    history:\n"
        "      - {until: 2026-10-01, policy: central}\n      - {until: 2026-09-01, policy: user}",
        ["6:29: what is kept central", "7:17: `2026-09-01` is not after the start of this period"],
    ),
}


@pytest.mark.parametrize(("text", "mistakes"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_told_with_their_place(tmp_path: Path, text: str, mistakes: list[str]) -> None:
    with pytest.raises(OwnershipError) as error:
        ownership.load(written(tmp_path, text if text.startswith("teams") else TEAMS + text))
    found = [str(mistake) for mistake in error.value.mistakes]
    expected = [f"map/owners.yaml:{mistake}" for mistake in sorted(mistakes)]
    assert len(found) == len(expected), found
    for one, start in zip(found, expected, strict=True):
        assert one.startswith(start), found
