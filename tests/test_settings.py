"""sources.yaml: every mistake is told with its entry and field, and no secret is in it or in a message."""

from __future__ import annotations

from pathlib import Path

import pytest

from dagster_project import settings, sources
from dagster_project.errors import ConfigError

GOOD = """
sources:
  openai:
    start_date: 2026-10-01
    api_key: ${OPENAI_ADMIN_KEY}
  gateway:
    type: litellm
    start_date: 2026-10-01
    path: ${LOGS}/{date:%Y-%m-%d}/*.json
    routes:
      - {provider: openai, provider_project: proj_gateway}
active_tags: [feature, team]
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    def written(text: str) -> Path:
        file = tmp_path / "sources.yaml"
        file.write_text(text, encoding="utf-8")
        monkeypatch.setenv("CHARGEBACK_SOURCES", str(file))
        return file

    return written


def test_entries_are_typed_by_their_module(write, monkeypatch):
    monkeypatch.setenv("LOGS", "/logs")
    write(GOOD)
    configured = sources.configured()
    assert list(configured) == ["openai", "gateway"]
    assert configured["openai"].entry.account_id == "openai", "the entry's name, since it names no account"
    assert configured["gateway"].entry.path == "/logs/{date:%Y-%m-%d}/*.json"
    assert configured["gateway"].entry.routes[0].account == "openai", "the only account of that provider"
    assert sources.load_settings().active_tags == ("feature", "team")


def test_a_secret_is_read_when_it_is_used(write, monkeypatch):
    monkeypatch.setenv("LOGS", "/logs")
    write(GOOD)
    secret = sources.configured()["openai"].entry.api_key
    with pytest.raises(ConfigError, match="OPENAI_ADMIN_KEY is not set"):
        secret.value("openai")
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "sk-admin-1234")
    assert secret.value("openai") == "sk-admin-1234"
    assert "1234" not in repr(sources.configured()["openai"])


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("sources: [", ["not readable as YAML"]),
        ("sources:\n  tabby:\n    start_date: 2026-10-01\n", ["tabby: there is no source type `tabby`"]),
        (
            "sources:\n  openai: {start_date: soon, api_key: sk-admin-5678, colour: red}\n",
            [
                "openai: start_date:",
                "openai: api_key: Value error, a secret is written as ${ENVIRONMENT_VARIABLE}",
                "openai: colour: Extra inputs are not permitted",
            ],
        ),
        ("sources:\n  openai: {start_date: 2026-10-01}\n", ["openai: api_key: Field required"]),
        (
            "sources:\n  openai: {start_date: 2026-10-01, api_key: '${A}', base_url: '${NOT_SET}/v1'}\n",
            ["openai: base_url: Value error, the environment variable NOT_SET is not set"],
        ),
        (
            "sources:\n"
            "  a: {type: openai, start_date: 2026-10-01, api_key: '${A}', account: acme}\n"
            "  b: {type: openai, start_date: 2026-10-01, api_key: '${B}', account: acme}\n",
            ["b: `a` pulls the account acme of openai, too; its bill would count twice"],
        ),
        ("sources:\n  a: {}\n  a: {}\n", ["a key stands twice (line 3, column 3)"]),
        ("sources:\n  a: {api_key: sk-admin-5678: x}\n", ["not readable as YAML", "(line 2"]),
        (
            "sources:\n  rate_card: {type: openai, start_date: 2026-10-01, api_key: '${A}'}\n",
            ["rate_card: name: Value error, `rate_card` is the name of something else"],
        ),
        (
            "sources:\n  openai: {start_date: 2026-10-01, api_key: '${A}', base_url: 'https://u:5678@h'}\n",
            ["openai: base_url: Value error, an address holds no user or password"],
        ),
        ("sources: {}\ncolour: red\n", ["colour: Extra inputs are not permitted"]),
        (
            "sources:\n"
            "  a: {type: openai, start_date: 2026-10-01, api_key: '${A}'}\n"
            "  b: {type: openai, start_date: 2026-10-01, api_key: '${B}'}\n"
            "  g: {type: litellm, start_date: 2026-10-01, path: /x, routes: [{provider: openai}]}\n",
            ["g: routes: openai has the accounts a, b; say which with `account:`"],
        ),
    ],
)
def test_every_mistake_is_told_at_once_and_no_value_is_repeated(write, text, problems):
    file = write(text)
    with pytest.raises(ConfigError) as raised:
        sources.configured()
    assert str(raised.value).startswith(str(file))
    for problem in problems:
        assert problem in str(raised.value)
    assert "5678" not in str(raised.value)
    assert raised.value.exit_code == 2


def test_a_missing_file_says_what_to_set(tmp_path, monkeypatch):
    monkeypatch.setenv("CHARGEBACK_SOURCES", str(tmp_path / "none.yaml"))
    with pytest.raises(ConfigError, match="set CHARGEBACK_SOURCES"):
        sources.configured()


def test_the_shipped_file_is_valid_and_empty(monkeypatch):
    monkeypatch.delenv("CHARGEBACK_SOURCES", raising=False)
    assert sources.configured() == {}
    assert sources.load_settings().active_tags == settings.DEFAULT_ACTIVE_TAGS


@pytest.mark.parametrize("folder", ["it's", "a*b", "a[0]", "{date}"])
def test_a_home_that_would_be_a_pattern_is_refused(tmp_path, monkeypatch, folder):
    monkeypatch.setenv("CHARGEBACK_HOME", str(tmp_path / folder))
    with pytest.raises(ConfigError, match="choose another folder"):
        settings.home()
