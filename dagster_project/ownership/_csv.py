"""CSV as texts with places. The standard library's reader knows neither columns nor malformed quotes."""

from __future__ import annotations

import re
from collections.abc import Iterator

from dagster_project.ownership._files import Source
from dagster_project.ownership._yaml import Scalar
from dagster_project.ownership.model import Mistake

MOST_COLUMNS = 1_000

# Possessive, because backtracking over a long field would remember every character of it.
_CELL = re.compile(
    r'(?:[ \t]*"(?P<quoted>(?:[^"]|"")*+)"[ \t]*|(?P<bare>[^",\r\n]*+))(?P<end>,|\r\n|[\r\n]|\Z)'
)


def rows(text: str, source: Source) -> Iterator[list[Scalar] | Mistake]:
    """The rows but for empty ones; a mistake ends them."""
    row: list[Scalar] = []
    index = 0
    while True:
        cell = _CELL.match(text, index)
        if cell is None:
            instead = 'write it twice, and the value in quotes: "a ""b"""'
            what = f"this is not CSV: a quote is inside a value; {instead}"
            yield Mistake(source.place(text.find('"', index)), what)
            return
        quoted = cell["quoted"]
        said = cell["bare"] if quoted is None else quoted.replace('""', '"')
        blanks = len(said) - len(said.lstrip(" \t")) if quoted is None else 0
        row.append(Scalar(source, index + blanks, said.strip(" \t"), "" if quoted is None else '"'))
        if len(row) > MOST_COLUMNS:
            yield Mistake(row[-1].place, f"{MOST_COLUMNS:,} columns are before this one; leave some out")
            return
        index = cell.end()
        if cell["end"] != ",":
            if any(value.text for value in row):
                yield row
            row = []
        if not cell["end"]:
            return
