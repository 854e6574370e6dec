"""Pieces of SQL that several sources write."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from duckdb import ConstantExpression as Literal

from dagster_project.records import MONEY

CENTURY = ("2000-01-01", "2100-01-01")
"""Between these days requests are made: milliseconds since 1970, or a clock that was never set, are none."""


def quoted(identifier: str) -> str:
    """A name as SQL has it, in any engine. DuckDB's own ColumnExpression takes `*` for all columns."""
    return '"' + identifier.replace('"', '""') + '"'


def texts(values: Iterable[str]) -> str:
    """Texts, for a list."""
    return ", ".join(str(Literal(value)) for value in values)


def lookup(table: Mapping[str, str], key: str, otherwise: str) -> str:
    """What `table` says of `key`, null of null."""
    said = f"map([{texts(table)}], [{texts(table.values())}])[{key}]"
    return f"case when {key} is not null then coalesce({said}, {otherwise}) end"


def instant(text: str) -> str:
    """UTC of epoch seconds or of ISO text; null when it is neither."""
    return f"""case when contains({text}, ':') then try_cast({text} as timestamptz)::timestamp
    else try(make_timestamp((try_cast({text} as decimal(20, 6)) * 1000000)::bigint)) end"""


def exact(text: str, times: str = "1") -> str:
    """`text` `times` a number of up to 11 digits, to the 12 decimals that the lake keeps; null where it is no
    number, or one of a million millions.
    """
    # Not `try(...)`: a cast that two of them have in common is made once, outside of both, and fails.
    return f"try_cast(try_cast({text} as decimal(27, 15)) * {times} as {MONEY})"


def at_least_0(number: str) -> str:
    """0 for what is less; null stays null, which `greatest` would not leave."""
    return f"case when {number} < 0 then 0 else {number} end"


def is_currency(text: str) -> str:
    """Whether a text can be a currency's code."""
    return f"coalesce(regexp_full_match({text}, '[A-Za-z]{{3}}'), false)"


def unless_within(value: str, least: object, most: object) -> str:
    """Whether a value is missing, or outside of what it can be."""
    return f"coalesce({value} not between {least} and {most}, true)"
