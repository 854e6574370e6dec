"""The marts around the ownership map: what it does not cover, what nothing uses, and what is new."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal
from io import StringIO

import duckdb
import pytest
from conftest import Books, place_in, written
from rich.console import Console
from spreadsheets import cells, is_formula

from dagster_project import explain, ownership, statement
from dagster_project.days import Days
from dagster_project.settings import Coverage

FIRST, SEPTEMBER, DAY, LAST = date(2026, 9, 1), date(2026, 9, 30), date(2026, 10, 5), date(2026, 10, 8)
STALE_AFTER, NEW_AFTER = 4, 2

OWNERSHIP = """
teams: {support: {}, search: {}, "yes: #1 \\\\ \\"team\\"": {}, platform: {}, "???": {}}
services:
  bot: {team: support, match: {gateway_key: vk_bot}}
  lobby: {shared: true, match: {api_key: key_lobby}}
  pool: {split: by_usage, among: [platform], match: {api_key: key_pool}}
  shadowed: {team: search, match: [{account: owned}, {gateway_key: "vk_b*"}]}
  old:
    team: search
    match:
      - {api_key: key_old}
      - {api_key: key_never}
      - {api_key: key_late}
"""

HOSTILE = (
    "plain",
    "quotes \" and \\ and '",
    "colon: {brace} # no comment",
    "*",
    "a*b?c",
    "line\nbreak",
    "tab\tand\x85nel",
    " blanks around ",
    "no\u00a0break\u200bspace\u202eoverride",
    "日本語 ключ é🙂",
    "null",
    "~",
    "- - -",
    "%_",
    "!!python/object",
    "2026-10-05",
    "sk-AbCdEfGh0123456789abcdefXYZ",
    "x" * 1200,
    "unallocated",
    "'); drop table fct_charges; --",
    "{{ env_var('HOME') }} {% raw %} {#",
    "<script>alert(1)</script>",
    "=1+1;=1+1",
    "../../../etc/passwd",
    "\x1b[2J\x07\x9b31m",
    "nul\x00byte",
    "y" * 1_000_000,
)


@pytest.fixture(scope="module")
def books(tmp_path_factory) -> Books:
    books = Books(tmp_path_factory.mktemp("home"))

    def seen(
        account: str, key: str | None, virtual_key: str | None, usd: str, day: date = DAY, **said
    ) -> None:
        """A request of its own account, or usage that no gateway saw."""
        books.charge(day, account, usd, meter="input", model="gpt-4o")
        books.used(day, account, key, model="gpt-4o", input_tokens=1000)
        if virtual_key is not None or said:
            books.asked(day, account, key, virtual_key, model="gpt-4o", input_tokens=1000, **said)

    seen("owned", "key_a", "vk_bot", "50", day=FIRST)
    for day in (FIRST, SEPTEMBER, DAY, LAST - timedelta(1), LAST):
        seen(f"owned {day}", "key_a", "vk_bot", "5", day=day, tags={"feature": "chat"})
    seen("old", "key_old", None, "1", day=FIRST)
    seen("late", "key_late", None, "1", day=SEPTEMBER)
    seen("new", "key_new", "vk_new", "7", day=LAST - timedelta(1), gateway_key_name="New one")
    seen("newer", "key_a", "vk_new", "2", day=LAST, gateway_key_name="New one")
    books.charge(DAY, "owned", "-3", charge_category="credit")

    # one key, of which its tags claim a part, in two months
    for day in (SEPTEMBER, DAY):
        seen(f"torn 1 {day}", "key_a", "vk_torn", "4", day=day, tags={"team": "search"})
        seen(f"torn 2 {day}", "key_a", "vk_torn", "1", day=day, tags={"team": "Support"})
        seen(f"torn 3 {day}", "key_a", "vk_torn", "3", day=day)
    seen("odd team", "key_a", "vk_odd", "1", tags={"team": 'Yes: #1 \\ "team"'})
    seen("odd team, untagged", "key_a", "vk_odd", "1")

    # `no_key` is everybody's who has none
    books.charge(LAST, "playground", "1", meter="input", model="gpt-4o", api_key_id="no_key")
    books.used(LAST, "playground", "no_key", principal_id="user_mia", model="gpt-4o", input_tokens=1000)

    # a rule matches, and names nobody to pay
    seen("lobby", "key_lobby", None, "6")
    seen("lobby, from a gateway", "key_lobby", "vk_lobby", "6.5")
    seen("pool", "key_pool", "vk_pool", "6.25")

    for number, text in enumerate(HOSTILE):
        seen(f"h1 {number}", "key_a", text, "2")
        seen(f"h2 {number}", text, None, "2")
        seen(f"h3 {number}", None, None, "2", gateway_user=text)
        books.charge(DAY, f"h4 {number}", "2", provider_project_id=text)
        books.charge(DAY, text, "2", provider="anthropic")
        said = dict.fromkeys(("record_id", "request_id", "trace_id"), text)
        said["tags"] = {"feature": text, text: text}
        books.charge(DAY, f"h5 {number}", "2", meter="input", model=text, line_item=text)
        books.used(DAY, f"h5 {number}", "key_a", model=text, input_tokens=1000)
        books.asked(DAY, f"h5 {number}", "key_a", "vk_said", model=text, input_tokens=1000, **said)
    books.charge(DAY, None, "1", provider="nobody knows more")

    books.pull(Days(FIRST, LAST))
    build(books, OWNERSHIP)
    return books


def build(books: Books, owners: str, stale_after: int = STALE_AFTER, new_after: int = NEW_AFTER) -> None:
    thresholds = Coverage(stale_after_days=stale_after, new_after_days=new_after)
    built = books.build(written(books.home, owners), coverage=thresholds)
    assert built.returncode == 0, built.stdout[-4000:]


def line(start: str) -> str:
    """The place of the line of the map that begins with `start`."""
    return place_in(OWNERSHIP, start)


def test_unowned_identities_are_all_that_is_unallocated(books):
    ((unowned, identities),) = books.query("select sum(cost_usd), count(*) from unowned_identities")
    ((unallocated,),) = books.query(
        "select sum(cost_usd) from fct_cost_allocations where team = 'unallocated'"
    )
    assert unowned == unallocated
    assert identities > 5 * len(HOSTILE)


def test_the_guess_is_the_team_that_tags_claim_for_most_dollars(books):
    rows = books.query(
        "select distinct suggested_team, suggested_share, map_lines from unowned_identities "
        "where gateway_key_id = 'vk_torn'"
    )
    ((team, share, lines),) = rows
    assert (team, share) == ("search", Decimal("0.5"))
    assert lines.splitlines()[1:] == [
        '    team: "search"  # a guess from tags: 50 % of its dollars',
        '    match: {gateway_key: "vk_torn"}',
    ]
    assert len(books.query("select month from unowned_identities where gateway_key_id = 'vk_torn'")) == 2


def test_without_a_tag_there_is_no_guess(books):
    ((team, share, lines),) = books.query(
        "select suggested_team, suggested_share, map_lines from unowned_identities "
        "where provider = 'nobody knows more'"
    )
    assert (team, share) == (None, None)
    assert lines.splitlines()[1:] == [
        "    team: ???  # no tag of a team was seen on it",
        '    match: {provider: "nobody knows more"}',
    ]


@pytest.mark.parametrize(
    ("account", "place", "has_lines"),
    [
        ("lobby", "lobby:", False),
        ("lobby, from a gateway", "lobby:", True),
        ("pool", "pool:", False),
        ("odd team, untagged", None, True),
    ],
)
def test_where_a_rule_names_nobody_to_pay_it_is_told(books, account, place, has_lines):
    rows = books.query(
        "select rule_place, map_lines is not null from unowned_identities where account_id = ?", account
    )
    assert rows == [(place and line(place), has_lines)]


def test_usage_without_a_key_is_known_by_whose_it_is(books):
    rows = books.query("select selector from unowned_identities where account_id = 'playground'")
    assert rows == [('{principal: "user_mia"}',)]


def test_no_map_line_holds_what_looks_like_a_secret(books):
    assert books.query("select 1 from unowned_identities where map_lines ilike '%0123456789abcdef%'") == []


@pytest.mark.parametrize(
    ("mart", "column"),
    [
        ("fct_cost_allocations", "gateway_key_id"),
        ("fct_cost_allocations", "gateway_user"),
        ("fct_cost_allocations", "api_key_id"),
        ("fct_cost_allocations", "provider_project_id"),
        ("fct_cost_allocations", "account_id"),
        ("fct_cost_allocations", "model"),
        ("fct_cost_allocations", "tags['feature']"),
        ("fct_requests", "record_id"),
        ("fct_requests", "request_id"),
        ("fct_requests", "unnest(map_keys(tags))"),
        ("fct_charges", "line_item"),
        ("statements", "account_id"),
    ],
)
def test_what_was_said_comes_out_to_the_letter(books, mart, column):
    found = {text for (text,) in books.query(f"select distinct {column} from {mart}")}
    assert [text[:40] for text in HOSTILE if text not in found] == []


def test_a_statement_of_such_names_has_no_formula(books, tmp_path):
    with duckdb.connect(str(books.lake.build), read_only=True) as build:
        statement.write(build, DAY.replace(day=1), tmp_path)
    text = (tmp_path / "statement.csv").read_bytes().decode()
    assert len(text) > 1_000_000
    assert [cell for cell in cells(text) if is_formula(cell)] == []
    assert all(c.isprintable() or c.isspace() for c in text)


def test_what_is_explained_of_such_names_moves_no_cursor(books):
    unseen = [text for text in HOSTILE if not text.isprintable()]
    for text in unseen:
        out = Console(file=StringIO(), width=200)
        explain.show(explain.explain(books.lake.build, [f"model={text}"], 5), out)
        told = out.file.getvalue()
        assert "2.00 USD: " in told
        assert [c for c in told if not c.isprintable() and c != "\n"] == []
    assert len(unseen) >= 5


def test_for_each_tag_key_every_dollar_is_covered_or_not(books):
    days = dict(books.query("select usage_date, sum(cost_usd) from fct_cost_allocations group by all"))
    covered = books.query("select tag_key, usage_date, sum(cost_usd) from tag_coverage group by all")
    assert len(covered) == 5 * len(days)
    assert all(usd == days[day] for _, day, usd in covered)
    keys = books.query(
        "select count(*), count(distinct (usage_date, team, gateway, gateway_key_id, tag_key)) "
        "from tag_coverage"
    )
    assert keys[0][0] == keys[0][1]


def test_dollars_of_providers_only_have_a_row_of_their_own(books):
    rows = books.query(
        "select gateway, gateway_key_id, cost_usd, tagged_cost_usd from tag_coverage "
        "where usage_date = ? and team = 'support' and tag_key = 'feature' order by all",
        FIRST,
    )
    assert rows == [("gateway", "vk_bot", Decimal(55), Decimal(5))]
    ((gateway, key, usd, tagged),) = books.query(
        "select gateway, gateway_key_id, cost_usd, tagged_cost_usd from tag_coverage "
        "where usage_date = ? and team = 'search' and tag_key = 'feature' and gateway is null",
        DAY,
    )
    assert (gateway, key, usd, tagged) == (None, None, Decimal(-3), 0)


def test_rules_that_match_nothing_any_more_are_stale(books):
    days = 5
    rows = books.query(
        "select selector, place, last_matched_date, last_decided_date, days_without_match "
        "from stale_rules order by selector"
    )
    assert rows == [
        ("{api_key: key_never}", line("- {api_key: key_never}"), None, None, days),
        ("{api_key: key_old}", line("- {api_key: key_old}"), FIRST, FIRST, days - 1),
    ]


def test_a_rule_that_matches_and_never_decides_is_not_stale(books):
    rows = books.query(
        "select last_matched_date, last_decided_date from intermediate.int_selectors_used "
        "where selector = '{gateway_key: vk_b*}'"
    )
    assert rows == [(LAST, None)]


def test_new_keys_are_those_that_the_data_did_not_begin_with(books):
    rows = books.query(
        "select kind, issuer, key_id, key_name, team, first_date, last_date, cost_usd "
        "from new_keys order by all"
    )
    new = LAST - timedelta(1)
    assert rows == [
        ("API key", "openai", "key_new", None, "unallocated", new, new, Decimal(7)),
        ("gateway key", "gateway", "vk_new", "New one", "unallocated", new, LAST, Decimal(9)),
    ]


# The last test: it builds again, with other thresholds and the lines pasted.
@pytest.mark.slow
def test_pasted_lines_own_everything_that_they_were_made_for(books):
    before = books.query(
        "select distinct account_id, usage_date, allocation_id from fct_cost_allocations as allocations "
        "where team = 'unallocated'"
    )
    lines = [text for (text,) in books.query("select distinct map_lines from unowned_identities") if text]
    unmended = books.query(
        "select account_id, rule_place from unowned_identities where map_lines is null order by all"
    )
    assert len(before) > 5 * len(HOSTILE)
    assert unmended == [("lobby", line("lobby:")), ("pool", line("pool:"))]
    pasted = OWNERSHIP + "\n".join(lines) + "\n"
    assert len(ownership.load(written(books.home, pasted)).services) == 5 + len(lines)
    build(books, pasted, stale_after=6, new_after=60)
    left = books.query("select account_id, rule_place, map_lines from unowned_identities order by all")
    assert left == [(*who, None) for who in unmended]
    assert books.query("from stale_rules") == [], "five days of data are fewer than six"
    first = books.query("select 1 from new_keys where key_id in ('key_a', 'vk_bot', 'key_old')")
    assert first == [], "these are as old as the data"
