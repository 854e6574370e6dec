"""Which build a warehouse is: its code, what its prices and its map were, through which day it is in."""

from __future__ import annotations

import shutil
import subprocess
from datetime import date, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

import duckdb
import jinja2
import pytest

from dagster_project import build_info, pulled_days

MACROS = Path(__file__).parents[1] / "dbt" / "macros" / "digests.sql"
macros = jinja2.Environment().from_string(MACROS.read_text(encoding="utf-8")).module
FIRST = date(2026, 10, 1)


def digest(*relations: str) -> str:
    return duckdb.sql(f"select {macros.digest_of(relations)}").fetchall()[0][0]


def test_a_digest_is_of_the_rows_whatever_their_order():
    rows = "(values ('a', 1), ('b', null), ('b', null))"
    assert len(digest(rows)) == 64
    assert digest(rows) == digest("(values ('b', null), ('a', 1), ('b', null))")
    others = (
        "(values ('a', 1), ('b', null))",
        "(values ('a', '1'), ('b', null), ('b', null))",
        "(values ('a', 1), ('b', 0), ('b', null))",
        "(values ('NULL', 1), ('b', null), ('b', null))",
        "(select 'a' as x where false)",
    )
    assert len({digest(rows), *map(digest, others)}) == 1 + len(others)


def test_a_digest_tells_which_table_a_row_is_in():
    row, nothing = "(select 'a' as x)", "(select 'a' as x where false)"
    assert digest(row, nothing) != digest(nothing, row)


@pytest.mark.skipif(shutil.which("git") is None, reason="this machine has no git")
def test_the_code_is_told_by_its_commit_and_whether_it_was_edited(tmp_path, monkeypatch):
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=ana", "-c", "user.email=ana@acme.example")
        finished = subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *arguments], capture_output=True, text=True, check=True
        )
        return finished.stdout.strip()

    monkeypatch.setattr(build_info, "CHECKOUT", tmp_path)
    released = version("llm-chargeback")
    assert build_info.code_version() == released
    git("init", "--quiet")
    (tmp_path / "sources.yaml").write_text("sources: {}\n")
    git("add", ".")
    git("commit", "--quiet", "--message", "first")
    commit = git("rev-parse", "--short", "HEAD")
    assert build_info.code_version() == f"{released}+{commit}"
    (tmp_path / "sources.yaml").write_text("sources: {a: {}}\n")
    assert build_info.code_version() == f"{released}+{commit}-dirty"


def test_a_day_is_good_when_all_kinds_were_pulled_after_it_was_over():
    known = pulled_days.NO_DAYS
    over = datetime(2026, 10, 2)  # noqa: DTZ001 - the lake's instants are naive UTC
    for kind, day, pulled_at in (
        ("charge", 0, over),
        ("usage", 0, over),
        ("charge", 1, over + timedelta(days=9)),
        ("usage", 1, over + timedelta(days=1) - timedelta(microseconds=1)),
        ("charge", 2, over + timedelta(days=9)),
        ("charge", 3, over + timedelta(days=9)),
        ("usage", 3, over + timedelta(days=9)),
    ):
        rows = [(kind, FIRST + timedelta(days=day), 1)]
        known = pulled_days.with_pulled(known, "openai", rows, pulled_at)
    assert pulled_days.good_days(known) == [FIRST, FIRST + timedelta(days=3)]
    assert pulled_days.good_days(pulled_days.NO_DAYS) == []
