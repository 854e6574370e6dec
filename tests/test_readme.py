"""What the README shows is what works: its configuration, its map, its prices and its commands."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dagster_project import cli, ownership, sources

CHECKOUT = Path(__file__).parents[1]
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The README's code blocks of a language, without the indentation of the list they stand in."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", README, flags=re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


def test_the_sources_are_valid(tmp_path, monkeypatch):
    (tmp_path / "sources.yaml").write_text(blocks("yaml")[0], encoding="utf-8")
    monkeypatch.setenv("CHARGEBACK_SOURCES", str(tmp_path / "sources.yaml"))
    assert list(sources.configured()) == ["openai", "anthropic", "gateway"]


def test_the_map_is_valid(tmp_path):
    (tmp_path / "owners.yaml").write_text(blocks("yaml")[1], encoding="utf-8")
    assert ownership.load(tmp_path).tables()["ownership_owners"].height > 3


def test_the_contract_prices_have_the_seeds_columns():
    shown = list(csv.reader(io.StringIO(blocks("csv")[0])))
    with (CHECKOUT / "dbt" / "seeds" / "contract_prices.csv").open(encoding="utf-8") as seed:
        assert shown[0] == next(csv.reader(seed))
    assert all(len(row) == len(shown[0]) for row in shown)


@pytest.mark.parametrize("command", sorted({line for b in blocks("bash") for line in b.splitlines() if line}))
def test_every_command_exists(command):
    words = command.split("#")[0].split()
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (CHECKOUT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    else:
        assert words[0] == ".venv/bin/chargeback"
        helped = CliRunner().invoke(cli.app, [words[1], "--help"])
        assert helped.exit_code == 0
        for option in (word for word in words if word.startswith("--")):
            assert option in helped.output


def test_every_table_and_type_is_named():
    marts = [file.stem for file in (CHECKOUT / "dbt" / "models" / "marts").rglob("*.sql")]
    for name in [*marts, *sources.modules()]:
        short = name.removeprefix("chargeback") if name.startswith("chargeback_by_") else name
        assert f"`{name}`" in README or f"`{short}`" in README, name
