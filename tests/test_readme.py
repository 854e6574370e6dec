"""What the README shows is what works: its configuration, its map, its prices and its commands."""

from __future__ import annotations

import csv
import io
import re
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
import yaml
from conftest import ALLOCATED, Books
from typer.testing import CliRunner

from dagster_project import cli, sources
from dagster_project.days import Days

CHECKOUT = Path(__file__).parents[1]
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The README's code blocks of a language, without the indentation of the list they stand in."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", README, flags=re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


IN_SOURCES = ("sources:", "journal:", "overlaps:")
"""What the blocks for sources.yaml begin with; all others are of the ownership map."""


OTHERS = """sources:
  gateway: {type: litellm, start_date: 2026-10-01, path: unused}
  traces: {type: opentelemetry, start_date: 2026-10-01, path: unused}
"""
"""What blocks that are no sources themselves may name."""


def test_the_sources_are_valid(tmp_path, monkeypatch):
    found = []
    for text in blocks("yaml"):
        if text.startswith(IN_SOURCES):
            whole = text if text.startswith("sources:") else f"{OTHERS}\n{text}"
            (tmp_path / "sources.yaml").write_text(whole, encoding="utf-8")
            monkeypatch.setenv("CHARGEBACK_SOURCES", str(tmp_path / "sources.yaml"))
            found += sources.configured()
    others = list(yaml.safe_load(OTHERS)["sources"])
    assert [name for name in found if name not in others] == ["openai", "anthropic", "plans", "house_gateway"]


def types_of_sources() -> str:
    rows = [("type", "records", "tells", "reads"), ("---",) * 4, *sources.types()]
    return "\n".join(
        f"| {' | '.join((f'`{name}`' if name in sources.modules() else name, *row))} |" for name, *row in rows
    )


def test_the_table_of_source_types_is_theirs():
    assert types_of_sources() in README
    listed = CliRunner().invoke(cli.app, ["sources", "types"])
    assert listed.exit_code == 0, listed.output
    assert all(name in listed.output for name in sources.modules())


@pytest.fixture
def readme_map(tmp_path: Path) -> Path:
    """The README's map: each of its blocks is a file."""
    folder = tmp_path / "map"
    folder.mkdir()
    for number, text in enumerate(text for text in blocks("yaml") if not text.startswith(IN_SOURCES)):
        (folder / f"{number}.yaml").write_text(text, encoding="utf-8")
    return folder


def test_the_cases_of_the_map_come_out_as_told(readme_map, tmp_path):
    books = Books(tmp_path / "home")
    before, day = date(2026, 10, 15), date(2026, 10, 16)
    million = {"model": "gpt-4o", "input_tokens": 1_000_000}
    for virtual_key in ("support-bot-eu", "recommender-prod", "legacy-tools", "doc-search-7"):
        books.asked(day, virtual_key, None, virtual_key, **million)
    books.asked(before, "recommender-prod", None, "recommender-prod", **million)
    for tags in ({"service": "ticket-triage"}, {"service": "no-such-thing"}):
        books.asked(day, "gw", None, "a key for all", provider_project_id="proj_gw", tags=tags, **million)
    for project in ("proj_vs", "proj_eval"):
        books.used(day, project, "a key", provider_project_id=project, **million)
    books.asked(day, "nobody", None, "nobody", **million)
    books.pull(Days(before, day))
    built = books.build(readme_map, *ALLOCATED)
    assert built.returncode == 0, built.stdout

    def teams(account: str, on: date = day) -> dict[str, Decimal]:
        found = books.query(
            "select team, sum(cost_usd) from fct_cost_allocations "
            "where account_id = ? and usage_date = ? group by all",
            account,
            on,
        )
        return dict(found)

    each = Decimal("2.50")
    assert teams("support-bot-eu") == {"support": each}
    assert teams("gw") == {"support": each, "platform": each}
    assert teams("recommender-prod", before) == {"support": each}
    assert teams("recommender-prod") == {"search": each}
    assert teams("proj_vs") == {"search": Decimal("1.50"), "support": Decimal("1.00")}
    # their own, this month: search recommender, doc-search; support support-bot, recommender before, the tag
    assert teams("proj_eval") == {"search": Decimal("1.00"), "support": Decimal("1.50")}
    assert teams("legacy-tools") == {"search": each / 2, "support": each / 2}
    assert teams("doc-search-7") == {"search": each}
    assert teams("nobody") == {"unallocated": each}


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
