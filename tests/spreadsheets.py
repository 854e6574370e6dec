"""What a program that opens a CSV file makes of it."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator

csv.field_size_limit(2**31)


def cells(text: str) -> Iterator[str]:
    """What may be taken for cells, whatever separates them where the file is opened."""
    for separator in ",;\t|":
        for row in csv.reader(text.splitlines(keepends=True), delimiter=separator):
            yield from row
    for line in text.splitlines():
        yield from re.split(r"[,;\t|]", line)


def is_formula(cell: str) -> bool:
    """Whether a cell begins like one, to a program that passes over what does not show; numbers do not."""
    shown = "".join(c for c in cell if c.isprintable() and not c.isspace() and c != '"')
    return shown.startswith(tuple("=+-@＝＋－＠")) and not re.fullmatch(r"-[0-9.]+", shown)  # noqa: RUF001
