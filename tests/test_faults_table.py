"""The table of faults names tests that exist, and says which of them take minutes."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROWS = re.findall(
    r"^\| (?P<fault>[^|]+) \| (?P<held>.+) \| `(?P<file>test_\w+\.py)::(?P<test>\w+)` \|$",
    (TESTS / "FAULTS.md").read_text(encoding="utf-8"),
    flags=re.MULTILINE,
)


def is_slow(function: ast.FunctionDef) -> bool:
    return any(ast.unparse(decorator) == "pytest.mark.slow" for decorator in function.decorator_list)


def test_every_row_is_read():
    lines = (TESTS / "FAULTS.md").read_text(encoding="utf-8").splitlines()
    told = [line for line in lines if line.startswith("| ") and not line.startswith("| fault |")]
    assert len(ROWS) == len(told) > 40


@pytest.mark.parametrize(("held", "file", "test"), [row[1:] for row in ROWS], ids=[row[3] for row in ROWS])
def test_a_row_names_a_test_and_says_whether_it_is_slow(held: str, file: str, test: str):
    module = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    found = [part for part in module.body if isinstance(part, ast.FunctionDef) and part.name == test]
    assert len(found) == 1
    assert is_slow(found[0]) == held.endswith("(*slow*)")
