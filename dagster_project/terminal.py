"""What is printed for people, whatever the names in it hold."""

from __future__ import annotations

from decimal import Decimal

from rich.text import Text


def plain(text: str) -> str:
    """`text` on one line: what does not show stands as its escape, so no name moves the cursor."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def cell(value: object) -> Text:
    """A value in a table; nothing in it is markup."""
    return Text("" if value is None else plain(str(value)))


def usd(amount: Decimal | None) -> str:
    """To the cent, and what is less than one to six digits; what nobody priced is no zero."""
    if amount is None:
        return "no price"
    return f"{amount:,.6f}" if 0 < abs(amount) < Decimal("0.01") else f"{amount:,.2f}"


def dollars(amount: Decimal | None) -> str:
    """The same in a sentence, with its unit."""
    return usd(amount) if amount is None else f"{usd(amount)} USD"


def counted(number: int, noun: str) -> str:
    """`1 file`, `2 files`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def jsonable(value: object) -> str:
    """For `json.dumps(default=...)`: decimals with all their digits, anything else as its text."""
    return f"{value:f}" if isinstance(value, Decimal) else str(value)
