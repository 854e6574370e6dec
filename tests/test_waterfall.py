"""The waterfall, case by case: each account is one story, all built by one run of the real dbt project.

Prices are the catalogue's: gpt-4o 2.50 USD per million input tokens and 10 output; gpt-5.5 5 input, 10 above
272,000 tokens of context.
"""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest
from conftest import Books

from dagster_project.days import Days

DAY = date(2026, 10, 5)
NEXT_DAY = date(2026, 10, 6)
M = 1_000_000

OWNERSHIP = """
teams:
  support: {cost_center: CC-1}
  search: {}
  research: {}
  platform: {}

environments:
  production: [prod]
  staging: [stg]

services:
  support-bot:
    team: support
    project: customer-support
    environment: production
    match: {gateway_key: vk_support}
  search-api:
    team: search
    match: {gateway_key: vk_search}
  nightly:
    team: research
    match: {api_key: key_cron}
    history:
      - {until: 2026-10-06, team: search}
  gateway:
    shared: true
    match: {api_key: key_gateway}
    otherwise: platform
  vectors:
    split: {search: 0.6, support: 0.4}
    match: {provider_project: proj_vectors}
"""


@pytest.fixture(scope="module")
def books(tmp_path_factory) -> Books:  # noqa: PLR0915 - a book of short stories
    books = Books(tmp_path_factory.mktemp("home"))
    both = {"model": "gpt-4o"}
    gpt4o = {**both, "context_tier": "short", "service_tier": "standard"}

    # the worked example
    books.charge(DAY, "worked", "9.00", meter="input", **gpt4o)
    books.charge(DAY, "worked", "3.60", meter="output", **gpt4o)
    books.used(DAY, "worked", "key_gateway", input_tokens=3 * M, output_tokens=300_000, **both)
    books.used(DAY, "worked", "key_cron", input_tokens=1 * M, output_tokens=100_000, **both)
    support = {"input_tokens": 1_500_000, "output_tokens": 200_000}
    search = {"input_tokens": 750_000, "output_tokens": 50_000}
    books.asked(DAY, "worked", "key_gateway", "vk_support", **support, **both)
    books.asked(DAY, "worked", "key_gateway", "vk_search", **search, **both)

    # the bill is not in yet
    books.used(DAY, "unbilled", "key_cron", input_tokens=4 * M, **both)

    # only a gateway knows, and of one model only it knows a cost
    books.asked(DAY, "gateway only", None, "vk_support", input_tokens=2 * M, **both)
    homemade = {"model": "home-made", "output_tokens": 10, "reported_cost": Decimal("0.75")}
    books.asked(DAY, "gateway only", None, "vk_search", **homemade)

    # a bill without a usage report: 1 million of the 4 billed million went through the gateway
    million = {"quantity": Decimal(4 * M), "quantity_unit": "tokens", "meter": "input"}
    books.charge(DAY, "bill only", "10.00", **million, **gpt4o)
    books.asked(DAY, "bill only", "key_gateway", "vk_support", input_tokens=1 * M, **both)

    # a credit follows the usage of the whole account, in proportion
    books.charge(DAY, "credit", "7.50", meter="input", **gpt4o)
    books.charge(DAY, "credit", "-1.50", charge_category="credit", line_item="Promotional credit")
    books.used(DAY, "credit", "key_cron", input_tokens=2 * M, **both)
    books.used(DAY, "credit", "key_nobody", input_tokens=1 * M, **both)

    # a model without a price is billed all the same
    tuned = {"model": "home-made", "meter": "output", "service_tier": "standard"}
    books.charge(DAY, "unpriced", "8.00", **tuned)
    books.used(DAY, "unpriced", "key_cron", output_tokens=300, model="home-made")
    books.used(DAY, "unpriced", "key_nobody", output_tokens=100, model="home-made")
    books.used(NEXT_DAY, "unpriced", "key_nobody", output_tokens=100, model="home-made")

    # the gateway logged more than the provider counted
    books.charge(DAY, "over", "5.00", meter="input", **gpt4o)
    books.used(DAY, "over", "key_gateway", input_tokens=2 * M, **both)
    books.asked(DAY, "over", "key_gateway", "vk_support", input_tokens=3 * M, **both)
    books.asked(DAY, "over", "key_gateway", "vk_search", input_tokens=1 * M, **both)

    # long context is billed apart, and the usage report does not know whose it was
    long = {"model": "gpt-5.5", "meter": "input", "service_tier": "standard"}
    of_long = {"quantity_unit": "tokens", **long}
    books.charge(DAY, "long", "10.00", context_tier="long", quantity=Decimal(1 * M), **of_long)
    books.charge(DAY, "long", "15.00", context_tier="short", quantity=Decimal(3 * M), **of_long)
    books.used(DAY, "long", "key_gateway", input_tokens=2 * M, model="gpt-5.5")
    books.used(DAY, "long", "key_cron", input_tokens=2 * M, model="gpt-5.5")
    deep = {"model": "gpt-5.5", "input_tokens": 1 * M, "context_tokens": 300_000}
    shallow = {"model": "gpt-5.5", "input_tokens": 1 * M, "context_tokens": 272_000}
    books.asked(DAY, "long", "key_gateway", "vk_support", **deep)
    books.asked(DAY, "long", "key_gateway", "vk_search", **shallow)

    # a shared key: tags decide, a tag never beats a key, and nonsense decides nothing
    books.charge(DAY, "shared", "10.00", meter="input", **gpt4o)
    books.used(DAY, "shared", "key_gateway", input_tokens=4 * M, **both)
    for key, tags in {
        "vk_any": {"team": "Research", "environment": "PROD"},
        "vk_support": {"team": "search", "feature": "chat", "environment": "staging"},
        "vk_other": {"service": "search-api"},
        "vk_third": {"team": "nobody", "feature": "x"},
    }.items():
        books.asked(DAY, "shared", "key_gateway", key, input_tokens=1 * M, tags=tags, **both)

    # a service that two teams share
    books.charge(DAY, "split", "1.01", provider_project_id="proj_vectors", meter="vector_store_bytes")
    stored = {"provider_project_id": "proj_vectors", "service_tier": None}
    books.used(DAY, "split", None, **stored, other_meters={"vector_store_bytes": Decimal(12345)})

    # a service that changed hands
    for day in (DAY, NEXT_DAY):
        books.charge(day, "moved", "2.50", meter="input", **gpt4o)
        books.used(day, "moved", "key_cron", input_tokens=1 * M, **both)

    # the route names a project that has two keys
    books.charge(DAY, "project route", "10.00", provider_project_id="p", meter="input", **gpt4o)
    for key, tokens in {"key_a": 3 * M, "key_b": 1 * M}.items():
        books.used(DAY, "project route", key, provider_project_id="p", input_tokens=tokens, **both)
    through = {"provider_project_id": "p", "input_tokens": 2 * M, **both}
    books.asked(DAY, "project route", None, "vk_support", **through)

    # what cannot be on a bill weighs nothing; what was cut off in the middle does
    books.charge(DAY, "failures", "5.00", meter="input", **gpt4o)
    books.used(DAY, "failures", "key_gateway", input_tokens=2 * M, **both)
    million = {"input_tokens": 1 * M, **both}
    books.asked(DAY, "failures", "key_gateway", "vk_support", **million)
    books.asked(DAY, "failures", "key_gateway", "vk_search", is_cache_hit=True, **million)
    books.asked(DAY, "failures", "key_gateway", "vk_search", status="error", **million)
    cut_off = {"status": "error", "reported_cost": Decimal("0.10")}
    books.asked(DAY, "failures", "key_gateway", "vk_third", **cut_off, **million)

    # charges that no usage agrees with in every respect
    books.charge(DAY, "coarse", "4.00", meter="input", model="gpt-4o", service_tier="priority")
    books.charge(DAY, "coarse", "2.00", line_item="Surprise fee", api_key_id="key_cron", model="gpt-9")
    books.used(DAY, "coarse", "key_cron", input_tokens=3 * M, **both)
    books.used(DAY, "coarse", "key_nobody", input_tokens=1 * M, **both)

    # a bill without a usage report whose line names no meter
    books.charge(DAY, "no meter", "10.00", **both)
    books.asked(DAY, "no meter", "key_gateway", "vk_support", input_tokens=1 * M, output_tokens=1000, **both)

    # the usage report only counts requests
    books.charge(DAY, "counted", "3.00", line_item="Something")
    books.used(DAY, "counted", "key_cron", requests=10, **both)

    # what the groups of a bill leave out is usage that is billed
    books.charge(DAY, "adjusted", "10.00", charge_category="adjustment")
    books.used(DAY, "adjusted", "key_cron", input_tokens=4 * M, **both)

    # the bill names no key, but the gateway knows which one it used
    four_million = {"quantity": Decimal(4 * M), "quantity_unit": "tokens", "meter": "input", **gpt4o}
    books.charge(DAY, "key of the route", "10.00", **four_million)
    books.asked(DAY, "key of the route", "key_cron", "vk_unknown", input_tokens=4 * M, **both)

    # a credit before any bill or usage report is in
    books.charge(DAY, "early credit", "-1.50", charge_category="credit")
    books.asked(DAY, "early credit", "key_gateway", "vk_support", input_tokens=2 * M, **both)

    # lines beside the usage follow it where there is no usage report, too; other units weigh nothing
    books.charge(DAY, "bill and credit", "10.00", **four_million)
    books.charge(DAY, "bill and credit", "-2.00", charge_category="credit")
    books.asked(DAY, "bill and credit", "key_gateway", "vk_support", input_tokens=1 * M, **both)
    books.charge(DAY, "bill and seats", "10.00", **four_million)
    seats = {"line_item": "Seats", "quantity": Decimal(5), "quantity_unit": "seats"}
    books.charge(DAY, "bill and seats", "100.00", **seats)
    books.asked(DAY, "bill and seats", "key_gateway", "vk_support", input_tokens=1 * M, **both)
    books.charge(DAY, "bill and refund", "10.00", **four_million)
    books.charge(DAY, "bill and refund", "-2.50", **{**four_million, "quantity": Decimal(-1 * M)})
    books.asked(DAY, "bill and refund", "key_gateway", "vk_support", input_tokens=2 * M, **both)

    # long contexts as above, of requests in a tier that the usage report does not have
    books.charge(DAY, "long tier", "10.00", context_tier="long", quantity=Decimal(1 * M), **of_long)
    books.charge(DAY, "long tier", "15.00", context_tier="short", quantity=Decimal(3 * M), **of_long)
    books.used(DAY, "long tier", "key_gateway", input_tokens=4 * M, model="gpt-5.5")
    books.asked(DAY, "long tier", "key_gateway", "vk_support", service_tier="priority", **deep)
    for _ in range(3):
        books.asked(DAY, "long tier", "key_gateway", "vk_search", service_tier="priority", **shallow)

    # usage that names no model does not take what names one
    books.charge(DAY, "beside", "10.00", **both)
    books.used(DAY, "beside", "key_cron", input_tokens=4 * M, model="gpt-4o-2024-08-06")
    books.used(DAY, "beside", None, **stored, other_meters={"vector_store_bytes": Decimal(123)})

    # a credit follows the money, not the tokens of a model that nobody prices
    books.charge(DAY, "money", "100.00", meter="output", **gpt4o)
    books.charge(DAY, "money", "1.00", meter="input", model="home-made", service_tier="standard")
    books.charge(DAY, "money", "-10.10", charge_category="credit")
    books.used(DAY, "money", "key_cron", output_tokens=10 * M, **both)
    books.used(DAY, "money", "key_nobody", input_tokens=1000 * M, model="home-made")

    # an account without a name
    books.charge(DAY, None, "9.00", meter="input", **gpt4o)
    books.used(DAY, None, "key_cron", input_tokens=4 * M, **both)

    books.pull(Days(DAY, NEXT_DAY))
    map_folder = books.home / "map"
    map_folder.mkdir()
    (map_folder / "owners.yaml").write_text(OWNERSHIP, encoding="utf-8")
    built = books.build(map_folder)
    assert built.returncode == 0, built.stdout[-4000:]
    return books


def by_team(books: Books, account: str, day: date = DAY) -> dict[str, Decimal | None]:
    return dict(
        books.query(
            "select team, sum(cost_usd) from fct_cost_allocations "
            "where account_id is not distinct from ? and usage_date = ? group by all",
            account,
            day,
        )
    )


def money(**amounts: str) -> dict[str, Decimal]:
    return {team: Decimal(amount) for team, amount in amounts.items()}


@pytest.mark.parametrize(
    ("account", "owners"),
    [
        ("worked", money(support="5.175", search="5.2875", platform="2.1375")),
        ("unbilled", money(search="10")),
        ("gateway only", money(support="5", search="0.75")),
        ("bill only", money(support="2.50", unallocated="7.50")),
        ("credit", money(search="4.00", unallocated="2.00")),
        ("unpriced", money(search="6.00", unallocated="2.00")),
        ("over", money(support="3.75", search="1.25")),
        # long: all 10.00 is vk_support's; short: 15.00 over 3 million tokens, 1 million of them key_gateway's
        ("long", money(support="10.00", search="15.00")),
        ("shared", money(research="2.50", support="2.50", search="2.50", platform="2.50")),
        ("split", money(search="0.606", support="0.404")),
        ("moved", money(search="2.50")),
        ("project route", money(support="5.00", unallocated="5.00")),
        ("failures", money(support="2.50", platform="2.50")),
        ("coarse", money(search="5.00", unallocated="1.00")),
        ("no meter", money(support="2.51", unallocated="7.49")),
        ("counted", money(search="3.00")),
        ("adjusted", money(search="10.00")),
        ("key of the route", money(search="10.00")),
        ("early credit", money(support="3.50")),
        ("bill and credit", money(support="2.00", unallocated="6.00")),
        ("bill and seats", money(support="5.00", unallocated="105.00")),
        ("bill and refund", money(support="3.75", unallocated="3.75")),
        ("long tier", money(support="10.00", search="15.00")),
        ("beside", money(search="10.00", support="0")),
        ("money", money(search="90.00", unallocated="0.90")),
        (None, money(search="9.00")),
    ],
)
def test_who_pays(books, account, owners):
    assert by_team(books, account) == owners


def test_history_decides_by_the_usage_date(books):
    assert by_team(books, "moved", DAY) == money(search="2.50")
    assert by_team(books, "moved", NEXT_DAY) == money(research="2.50")


def test_the_bill_is_attributed_to_the_last_digit(books):
    assert books.query("select count(*) from reconciliation_daily where difference_usd <> 0") == [(0,)]
    billed, attributed = books.query(
        "select (select sum(billed_cost) from staging.stg_charges), sum(cost_usd) from fct_cost_allocations "
        "where cost_basis = 'billed'"
    )[0]
    assert billed == attributed == sum(row["billed_cost"] for row in books.charges)


@pytest.mark.parametrize(
    ("account", "day", "bases"),
    [
        ("worked", DAY, {"billed"}),
        ("unbilled", DAY, {"rated_usage"}),
        ("gateway only", DAY, {"rated_requests", "reported", "unpriced"}),
        ("unpriced", NEXT_DAY, {"unpriced"}),
    ],
)
def test_every_dollar_says_where_it_comes_from(books, account, day, bases):
    rows = books.query(
        "select distinct cost_basis from fct_cost_allocations where account_id = ? and usage_date = ?",
        account,
        day,
    )
    assert {basis for (basis,) in rows} == bases


def test_a_model_without_a_price_is_null_not_free(books):
    assert by_team(books, "unpriced", NEXT_DAY) == {"unallocated": None}


def test_quantities_sum_to_the_usage_report(books):
    wanted = books.query("select meter, sum(quantity) from staging.stg_usage group by all order by all")
    given = books.query(
        "select meter, sum(quantity) from fct_cost_allocations where cell_id in "
        "(select cell_id from intermediate.int_cells_rated where evidence = 'usage') "
        "group by all order by all"
    )
    assert given == wanted


@pytest.mark.parametrize(
    ("account", "line", "level"),
    [
        ("worked", "input", "exact"),
        ("coarse", "input", "without service tier"),
        ("coarse", "Surprise fee", "without model"),
        ("bill only", "input", "charge alone"),
    ],
)
def test_how_a_charge_met_its_usage_is_kept(books, account, line, level):
    rows = books.query(
        "select distinct charge_match from fct_cost_allocations where account_id = ? and line_item = ?",
        account,
        line,
    )
    assert rows == [(level,)]


def test_what_decided_is_kept_with_its_place_in_the_map(books):
    rows = books.query(
        "select distinct gateway_key_id, rule, owner_evidence, rule_place from fct_cost_allocations "
        "where account_id = 'shared' order by all"
    )
    assert [row[:3] for row in rows] == [
        ("vk_any", "team:research", "tag"),
        ("vk_other", "search-api", "tag"),
        ("vk_support", "support-bot", "gateway key"),
        ("vk_third", "gateway", "otherwise"),
    ]
    lines = OWNERSHIP.splitlines()
    for *_, place in rows:
        file, line = place.rsplit(":", 1)
        assert file.endswith("owners.yaml")
        assert lines[int(line) - 1].strip()
    assert lines[int(rows[2][3].rsplit(":", 1)[1]) - 1].strip() == "match: {gateway_key: vk_support}"


def test_the_rule_says_the_environment_and_only_where_it_does_not_the_tag(books):
    rows = books.query(
        "select distinct gateway_key_id, environment, project from fct_cost_allocations "
        "where account_id = 'shared' order by all"
    )
    assert rows == [
        ("vk_any", "production", "unspecified"),
        ("vk_other", "unspecified", "unspecified"),
        ("vk_support", "production", "customer-support"),
        ("vk_third", "unspecified", "unspecified"),
    ]


def test_unowned_identities_are_ranked_by_cost(books):
    rows = books.query("select rank, account_id, api_key_id, cost_usd from unowned_identities order by rank")
    assert rows[0] == (1, "bill and seats", None, Decimal("105.00"))
    costs = [cost for *_, cost in rows if cost is not None]
    assert costs == sorted(costs, reverse=True)


def test_each_tag_key_has_every_dollar_once(books):
    total = books.query("select sum(cost_usd) from fct_cost_allocations")[0][0]
    assert books.query("select tag_key, sum(cost_usd) from chargeback_by_tag group by all order by all") == [
        (key, total) for key in ("customer", "environment", "feature", "service", "team")
    ]


def test_requests_are_a_view_with_every_column(books):
    rows = books.query(
        "select gateway_key_id, input_tokens from fct_requests order by input_tokens desc limit 1"
    )
    assert rows == [("vk_unknown", 4 * M)]
