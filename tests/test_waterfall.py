"""The waterfall, case by case: each account is one story, all built by one run of the real dbt project.

Prices are the catalogue's: gpt-4o 2.50 USD per million input tokens and 10 output; gpt-5.5 5 input, 10 above
272,000 tokens of context.
"""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Any

import duckdb
import pytest
from conftest import Books

from dagster_project import settings
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
    history:
      - {until: 2026-10-05, split: {research: 0.5, support: 0.5}}
  any-model:
    team: support
    match: {api_key: key_multi}
  one-model:
    team: search
    match: {api_key: key_multi, model: gpt-5.5}
  bots:
    team: research
    match: {gateway_key: vk_bot_*}
  first-bot:
    team: platform
    match: {gateway_key: vk_bot_1}
  support-plan:
    team: platform
    match: {line_item: Support plan}
  labs:
    team: research
    match: {gateway_key: vk_labs}
    history:
      - {until: 2026-10-06, team: search}
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

    books.used(DAY, "unbilled gateway", "key_gateway", input_tokens=4 * M, **both)
    books.asked(DAY, "unbilled gateway", "key_gateway", "vk_support", input_tokens=1 * M, **both)

    # only a gateway knows, and of one model only it knows a cost
    books.asked(DAY, "gateway only", None, "vk_support", input_tokens=2 * M, **both)
    homemade = {"model": "home-made", "output_tokens": 10, "reported_cost": Decimal("0.75")}
    books.asked(DAY, "gateway only", None, "vk_search", **homemade)

    books.asked(DAY, "no model", None, "vk_support", output_tokens=10, reported_cost=Decimal("0.40"))

    # a bill without a usage report: 1 million of the 4 billed million went through the gateway
    million = {"quantity": Decimal(4 * M), "quantity_unit": "tokens", "meter": "input"}
    books.charge(DAY, "bill only", "10.00", **million, **gpt4o)
    books.asked(DAY, "bill only", "key_gateway", "vk_support", input_tokens=1 * M, **both)

    # the bill prints tags on its lines: they say whose it is where requests do not
    printed = {"service": "search-api", "feature": "ocr", "aws:createdBy": "hush"}
    books.charge(DAY, "printed tags", "10.00", tags=printed, **million, **gpt4o)
    books.asked(
        DAY, "printed tags", None, "vk_new", tags={"service": "support-bot"}, input_tokens=1 * M, **both
    )

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

    # who is printed on a line pays for it, used or not; the nameless lines follow all the money
    in_p = {"provider_project_id": "p", "meter": "input", **gpt4o}
    books.charge(DAY, "unused key", "6.00", api_key_id="key_nobody", **in_p)
    books.charge(DAY, "unused key", "4.00", api_key_id="key_cron", **in_p)
    books.charge(DAY, "unused key", "1.00", charge_category="tax", line_item="Tax")
    books.used(DAY, "unused key", "key_nobody", provider_project_id="p", input_tokens=1 * M, **both)
    books.charge(DAY, "unused project", "6.00", meter="input", **gpt4o)
    books.charge(DAY, "unused project", "4.00", provider_project_id="proj_vectors", meter="input", **gpt4o)
    books.charge(DAY, "unused project", "-1.00", provider_project_id="proj_vectors", charge_category="credit")
    books.used(DAY, "unused project", "key_nobody", provider_project_id="p", input_tokens=1 * M, **both)
    books.charge(DAY, "credit alone", "6.00", meter="input", **gpt4o)
    books.charge(DAY, "credit alone", "-1.00", provider_project_id="proj_vectors", charge_category="credit")
    books.used(DAY, "credit alone", "key_nobody", provider_project_id="p", input_tokens=1 * M, **both)
    books.charge(DAY, "credit apart", "6.00", provider_project_id="p", meter="input", **gpt4o)
    books.charge(DAY, "credit apart", "-1.00", provider_project_id="proj_vectors", charge_category="credit")

    # the requests through a key that only the bill knows; those of an unknown key are none of its business
    counted = {"quantity": Decimal(4 * M), "quantity_unit": "tokens"}
    books.charge(DAY, "unreported", "10.00", api_key_id="key_cron", **counted, meter="input", **gpt4o)
    books.charge(DAY, "unreported", "5.00", api_key_id="key_nobody", meter="input", **gpt4o)
    books.used(DAY, "unreported", "key_nobody", input_tokens=2 * M, **both)
    books.asked(DAY, "unreported", "key_cron", "vk_support", input_tokens=1 * M, **both)
    books.asked(DAY, "unreported", None, "vk_bot_2", input_tokens=1 * M, **both)

    # a line of no key is its project's: of those who used it, else of the project's owner
    books.charge(DAY, "no key", "5.00", api_key_id="no_key", **in_p)
    books.used(DAY, "no key", "key_cron", provider_project_id="p", input_tokens=1 * M, **both)
    vectors = {"provider_project_id": "proj_vectors"}
    books.charge(DAY, "no key alone", "5.00", api_key_id="no_key", **vectors, meter="input", **gpt4o)
    books.charge(DAY, "no key alone", "1.00", charge_category="adjustment", **vectors)
    books.used(DAY, "no key alone", "key_cron", provider_project_id="p", input_tokens=1 * M, **both)

    # usage of which the report names no key takes the key of the bill
    books.charge(DAY, "key of the bill", "5.00", api_key_id="key_cron", **in_p)
    books.used(DAY, "key of the bill", None, provider_project_id="p", input_tokens=1 * M, **both)

    # what a bill's groups leave out: alone it is a cell, else it is spread over those beside it
    books.charge(DAY, "remainder alone", "5.00", charge_category="adjustment")
    books.asked(DAY, "remainder alone", "key_gateway", "vk_support", input_tokens=1 * M, **both)
    of_cron = {"api_key_id": "key_cron", **four_million}
    books.charge(DAY, "remainder beside", "10.00", **of_cron)
    books.charge(DAY, "remainder beside", "5.00", charge_category="adjustment")

    # a fine-tuned model is billed by the name of its base
    for bill, tune, amount in [
        ("ft-gpt-4o-2024-08-06", "ft:gpt-4o-2024-08-06:acme::a1", "3.75"),
        ("ft-gpt-99", "ft:gpt-99:acme:x:b2", "8.00"),
    ]:
        books.charge(DAY, "tuned", amount, meter="input", model=bill, service_tier="standard")
        key = "key_cron" if amount == "3.75" else "key_nobody"
        books.used(DAY, "tuned", key, input_tokens=1 * M, model=tune)

    # searches that no gateway counted stay with the key: its requests prove nothing about who searched
    for account, searches in {"searched": {}, "searches counted": {"web_searches": 25}}.items():
        books.charge(DAY, account, "1.00", meter="web_search")
        books.used(DAY, account, "key_gateway", web_searches=100, **both)
        books.used(DAY, account, "key_gateway", input_tokens=1 * M, **both)
        books.asked(DAY, account, "key_gateway", "vk_support", input_tokens=1 * M, **searches, **both)

    # the more conditions, the stronger; a name beats a pattern; any part of an identity may own
    books.charge(DAY, "specific", "10.00", line_item="a line")
    books.charge(DAY, "specific", "50.00", line_item="Support plan", api_key_id="key_plan")
    books.used(DAY, "specific", "key_multi", input_tokens=2 * M, **both)
    books.used(DAY, "specific", "key_multi", input_tokens=1 * M, model="gpt-5.5")
    books.charge(DAY, "patterns", "10.00", meter="input", **gpt4o)
    books.used(DAY, "patterns", "key_gateway", input_tokens=4 * M, **both)
    for key in ("vk_bot_1", "vk_bot_2"):
        books.asked(DAY, "patterns", "key_gateway", key, input_tokens=2 * M, **both)

    # what tags claim is whose it was on that day, and two claims do not count twice
    for day in (DAY, NEXT_DAY):
        books.charge(day, "claims", "10.00", meter="input", **gpt4o)
        books.used(day, "claims", "key_gateway", input_tokens=2 * M, **both)
        books.asked(
            day, "claims", "key_gateway", "vk_x", input_tokens=1 * M, tags={"service": "labs"}, **both
        )
        books.asked(
            day,
            "claims",
            "key_gateway",
            "vk_x",
            input_tokens=1 * M,
            tags={"service": "support-bot", "team": "platform"},
            **both,
        )

    # requests that no route gives an account, though their provider reports; and an hour with two prices
    unrouted = {"provider": "anthropic", "model": "claude-sonnet-4-5"}
    books.used(DAY, "acme", "key_nobody", input_tokens=1 * M, **unrouted)
    for _ in range(2):
        books.asked(DAY, None, None, "vk_support", input_tokens=1 * M, **unrouted)
    for hour in (0, 1, 16, 17):
        by_night = {
            "provider": "deepseek",
            "model": "deepseek-chat",
            "started_at": datetime(2026, 10, 5, hour, 40),  # noqa: DTZ001
        }
        books.asked(DAY, "night", None, "vk_support", input_tokens=1 * M, **by_night)

    # more money and more tokens than anybody has
    books.charge(DAY, "huge", "1000000000000.000000000004", meter="input", **gpt4o)
    books.charge(DAY, "huge", "-4.00", charge_category="credit")
    books.used(DAY, "huge", "key_cron", input_tokens=3 * 10**16, **both)
    books.used(DAY, "huge", "key_multi", input_tokens=1 * 10**16, **both)
    books.asked(DAY, "huge", "key_cron", "vk_bot_2", input_tokens=10**16, **both)

    # an account without a name
    books.charge(DAY, None, "9.00", meter="input", **gpt4o)
    books.used(DAY, None, "key_cron", input_tokens=4 * M, **both)
    books.used(NEXT_DAY, None, "key_cron", input_tokens=4 * M, **both)
    books.used(DAY, "no tier", "key_cron", service_tier=None, input_tokens=4 * M, **both)

    books.pull(Days(DAY, NEXT_DAY))
    map_folder = books.home / "map"
    map_folder.mkdir()
    (map_folder / "owners.yaml").write_text(OWNERSHIP, encoding="utf-8")
    built = books.build(map_folder, "--select", "fqn:*", guards=settings.DEFAULT_GUARDS)
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
        ("unbilled gateway", money(support="2.50", platform="7.50")),
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
        ("unused key", money(unallocated="6.60", search="4.40")),
        ("unused project", money(unallocated="6.00", search="1.80", support="1.20")),
        ("credit alone", money(unallocated="6.00", search="-0.60", support="-0.40")),
        ("credit apart", money(unallocated="6.00", search="-0.60", support="-0.40")),
        ("unreported", money(support="2.50", search="7.50", research="2.50", unallocated="2.50")),
        ("no key", money(search="5.00")),
        ("no key alone", money(search="3.60", support="2.40")),
        ("key of the bill", money(search="5.00")),
        ("remainder alone", money(support="2.50", unallocated="2.50")),
        ("remainder beside", money(search="15.00")),
        ("tuned", money(search="3.75", unallocated="8.00")),
        ("searched", money(support="0", platform="1.00")),
        ("searches counted", money(support="0.25", platform="0.75")),
        ("specific", money(support="5.00", search="5.00", platform="50.00")),
        (
            "huge",
            money(
                research="249999999999.000000000001",
                search="499999999998.000000000002",
                support="249999999999.000000000001",
            ),
        ),
        ("no tier", money(search="10.00")),
        ("no model", money(support="0.40")),
        ("patterns", money(platform="5.00", research="5.00")),
        ("printed tags", money(support="2.50", search="7.50")),
        ("claims", money(search="5.00", support="5.00")),
        (None, money(search="9.00")),
    ],
)
def test_who_pays(books, account, owners):
    assert by_team(books, account) == owners


def test_history_decides_by_the_usage_date(books):
    assert by_team(books, "moved", DAY) == money(search="2.50")
    assert by_team(books, "moved", NEXT_DAY) == money(research="2.50")
    assert by_team(books, None, NEXT_DAY) == money(research="10.00")
    assert by_team(books, "claims", NEXT_DAY) == money(research="5.00", support="5.00")


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


def test_tags_of_the_bill_stand_below_those_of_requests(books):
    found = books.query(
        "select team, tags, feature from fct_cost_allocations where account_id = 'printed tags' order by all"
    )
    assert found == [
        ("search", {"service": "search-api", "feature": "ocr"}, "ocr"),
        ("support", {"service": "support-bot", "feature": "ocr"}, "ocr"),
    ]


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
        ("no key", "input", "without API key"),
        ("key of the bill", "input", "exact"),
        ("credit alone", "a line", "charge alone"),
        ("counted", "Something", "requests only"),
        ("tuned", "input", "catalogue model"),
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
    assert rows == [("vk_bot_2", 10**16)]


def warned(books: Books, check: str) -> list[dict[str, Any]]:
    """The rows of a check that warns: what it tells people."""
    compiled = next(books.home.glob(f"target/compiled/*/tests/{check}.sql"))
    with duckdb.connect(str(books.lake.build), read_only=True) as build:
        build.execute("set TimeZone = 'UTC'")
        rows = build.execute(compiled.read_text(encoding="utf-8"))
        columns = [name for name, *_ in rows.description]
        return [dict(zip(columns, row, strict=True)) for row in rows.fetchall()]


def test_requests_without_a_route_are_told_with_what_to_write(books):
    (row,) = warned(books, "requests_without_a_route")
    assert row == {
        "gateway": "gateway",
        "provider": "anthropic",
        "requests": 2,
        "rated_usd": Decimal(6),
        "first_date": DAY,
        "last_date": DAY,
        "what_to_write": "routes: [{provider: anthropic, account: acme, "
        "provider_project: <the project of the gateway's key>, api_key: <the id of that key>}]",
    }


def test_hours_with_two_prices_are_told(books):
    rows = warned(books, "prices_that_change_within_an_hour")
    assert sorted((row["model_key"], row["started_hour"], row["tokens"]) for row in rows) == [
        ("deepseek-chat", 0, M),
        ("deepseek-chat", 16, M),
    ]
