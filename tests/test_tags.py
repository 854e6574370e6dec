"""What callers say in tags, and what an operator says in routes."""

from __future__ import annotations

import json
from typing import Any

import duckdb
import pytest
from duckdb import ConstantExpression as Literal

from dagster_project.settings import Route
from dagster_project.sources import _routes, _tags


def tags(said: Any, how: str = "labels", **aliases: str) -> dict[str, str]:
    column = f"select '{json.dumps(said)}'::json as said"
    part = _tags.headers("said", aliases) if how == "headers" else getattr(_tags, how)("said")
    query = f"select tags from ({_tags.tagged(column, [part], aliases)})"
    with duckdb.connect() as engine:
        [(found,)] = engine.sql(query).fetchall()
    return found


def test_an_object_with_a_key_twice_keeps_its_others() -> None:
    column = """select '{"team": "a", "a/b~\\"c": "1", "team": "b", "env": "p"}'::json as said"""
    with duckdb.connect() as engine:
        query = f"select tags from ({_tags.tagged(column, [_tags.members('said')], {})})"
        assert engine.sql(query).fetchall() == [({"team": "a", "a_b_c": "1", "environment": "p"},)]


@pytest.mark.parametrize(
    "keys", [("iamPrincipal/team", "resourceTags/team"), ("resourceTags/team", "iamPrincipal/team")]
)
def test_a_tag_of_two_origins_is_the_resources(keys: tuple[str, str]) -> None:
    said = {key: key.partition("/")[0] for key in keys}
    assert tags(said, "allocated") == {"team": "resourceTags"}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (["team:growth", "feature:chat"], {"team": "growth", "feature": "chat"}),
        ([" Team : Growth "], {"team": "Growth"}),
        (["x-feature-name: chat", "env:prod"], {"feature": "chat", "environment": "prod"}),
        (["note:a:b:c"], {"note": "a:b:c"}),
        (["plain", "größe:groß"], {"plain": "true", "größe": "groß"}),
        (["team:a", "TEAM:b", "team-name:c"], {"team": "a"}),
        (["team:", ":growth", "", " ", None, 42, {"a": 1}, ["b"]], {"42": "true"}),
        (["User-Agent: OpenAI", "User-Agent: OpenAI/Python 2.54.0", "user-agent:curl"], {}),
        (["prompt:" + "x" * 257, "x" * 257, "label:" + "x" * 256], {"label": "x" * 256}),
        (
            {"team": "growth", "n": 1, "flag": True, "deep": {"a": 1}, "none": None},
            {"team": "growth", "n": "1", "flag": "true"},
        ),
        ("team:growth, feature:chat", {"team": "growth", "feature": "chat"}),
        ("", {}),
        (7, {}),
        (None, {}),
        ([], {}),
    ],
)
def test_labels(said: Any, expected: dict[str, str]) -> None:
    assert tags(said) == expected


@pytest.mark.parametrize(
    "key",
    [
        "feature",
        "Feature",
        "X-Feature-Name",
        "x-prismo-feature",
        "Helicone-Property-Feature",
        "featureName",
        "X-Majordomo-Feature",
    ],
)
def test_a_well_known_key_behind_its_aliases(key: str) -> None:
    assert tags([f"{key}: chat"]) == {"feature": "chat"}


def test_the_aliases_of_one_gateway() -> None:
    assert tags(["Squad:a", "plan-code:b"], squad="team", PlanCode="user_tier") == {
        "team": "a",
        "user_tier": "b",
    }
    assert tags(["env:prod"], env="stage") == {"stage": "prod"}


def test_every_alias_is_in_its_canonical_form() -> None:
    assert all(_tags.canonical_key(key) == key for key in _tags.ALIASES)


@pytest.mark.parametrize(
    "key", ["X-Feature-Name", "userTier", "größe", "a--b__c", " x ", "HTTPServer", "v2Beta", "ünter.Größe"]
)
def test_python_and_sql_agree_on_a_canonical_key(key: str) -> None:
    assert list(tags([f"{key}:1"])) == [_tags.canonical_key(key)] or key == "X-Feature-Name"


@pytest.mark.parametrize(
    "prefix", ["", "X-", "x-prismo-", "X-Majordomo-", "Majordomo-", "Helicone-Property-"]
)
def test_a_selector_of_the_ownership_map_means_the_key_that_records_have(prefix: str) -> None:
    said = [*_tags.ALIASES, "cost-center", "XFeature", "Feature-Flag", "x-team"]
    for key in said:
        assert list(tags([f"{prefix}{key}:1"])) == [_tags.key_in_records(prefix + key)]


def test_of_headers_only_well_known_ones_are_taken() -> None:
    headers = {
        "x-tenant-id": "acme",
        "x-squad": "a",
        "x-api-key": "hush",
        "authorization": "hush",
        "x-stainless-os": "Linux",
        "x-litellm-tags": "team:b",
    }
    assert tags(headers, "headers") == {"customer": "acme"}
    assert tags(headers, "headers", squad="team") == {"customer": "acme", "team": "a"}


def identity(*routes: dict[str, str], **request: str | None) -> tuple[str | None, ...]:
    """(provider, account, project, key) of a request that `routes` are applied to."""
    given = {"provider": "openai", "model": "gpt-4o", "deployment": "d-1", **request}
    row = ", ".join(
        "null as " + name if value is None else f"{Literal(value)} as {name}" for name, value in given.items()
    )
    columns = _routes.identity(
        [Route.model_validate(route) for route in routes],
        provider="provider",
        model="model",
        deployments=["deployment"],
    )
    with duckdb.connect() as engine:
        [found] = engine.sql(f"select {', '.join(columns.values())} from (select {row})").fetchall()
    return found


def test_without_a_route_only_the_provider_is_known() -> None:
    assert identity() == ("openai", None, None, None)
    assert identity({"provider": "anthropic", "account": "acme"}) == ("openai", None, None, None)


def test_the_route_with_the_most_conditions_wins_whole() -> None:
    routes = [
        {"provider": "openai", "account": "acme", "provider_project": "p", "api_key": "k"},
        {"provider": "openai", "account": "acme-ft", "model": "ft:*"},
        {"provider": "openai", "account": "acme-eu", "model": "ft:*", "deployment": "d-*"},
    ]
    assert identity(*routes) == ("openai", "acme", "p", "k")
    # What the winning route leaves out is not borrowed from another.
    assert identity(*routes, model="ft:gpt-4o", deployment=None) == ("openai", "acme-ft", None, None)
    assert identity(*routes, model="ft:gpt-4o") == ("openai", "acme-eu", None, None)
    assert identity(*routes[::-1], model="ft:gpt-4o") == ("openai", "acme-eu", None, None)


def test_of_equal_routes_the_first_wins() -> None:
    routes = [{"provider": "openai", "account": account, "model": "gpt-*"} for account in ("a", "b")]
    assert identity(*routes) == ("openai", "a", None, None)


def test_a_request_without_a_provider_is_unrouted_unless_its_model_is_claimed() -> None:
    assert identity(provider=None) == (_routes.UNROUTED, None, None, None)
    assert identity({"provider": "openai", "account": "acme"}, provider=None) == (
        _routes.UNROUTED,
        None,
        None,
        None,
    )
    assert identity({"provider": "openai", "account": "acme", "model": "gpt-*"}, provider=None) == (
        "openai",
        "acme",
        None,
        None,
    )


def test_a_quote_in_a_route_is_text() -> None:
    assert (
        identity({"provider": "openai", "account": "o'neill", "model": "it's*"}, model="it's me")[1]
        == "o'neill"
    )
