"""What the Dagster UI shows of tables: Markdown in which a name is text, whatever it holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dagster_project.terminal import plain

LONGEST = 200
"""Characters of a value; the event log keeps every preview."""

_ENTITIES = str.maketrans({c: f"&#{ord(c)};" for c in "&<>|`*_[]\\~!$#"} | {":": "&#58;", "@": "&#64;"})
"""Of what means something in Markdown, and begins a link by itself."""


def text(value: object) -> str:
    """`value` on one line, cut after LONGEST characters; nothing in it is markup. Nothing for None."""
    shown = "" if value is None else plain(str(value))
    return (shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}...").translate(_ENTITIES)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Rows below the `columns`, which are ours."""
    lines = [columns, ["---"] * len(columns), *(map(text, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
