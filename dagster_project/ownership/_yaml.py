"""YAML as texts with places: no value is constructed, no alias followed, no type obeyed."""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import yaml

from dagster_project.ownership._files import Source, printable
from dagster_project.ownership.model import Mistake, Place

DEEPEST_NESTING = 20
MOST_MISTAKES = 1_000

MOST_VALUES = 500_000
"""Keys and values of a whole map, which is 90 MB of nodes; ten thousand services have some 350,000."""

# The C parser is ten times as fast, but not every build of PyYAML has it.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_NOT_YAML = re.compile("[^\t\n\r -~\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")

_INSTEAD_OF_ALIAS = 'put a glob that begins with a star in quotes, e.g. "*-prod"'


@dataclass(slots=True)
class Node:
    """Something written. Half a million of them are in a large map, so the place is made when asked for."""

    source: Source
    start: int

    @property
    def place(self) -> Place:
        return self.source.place(self.start)


@dataclass(slots=True)
class Scalar(Node):
    """A value by its text, so that 007, 0.60 and `no` stay what was written. `style` is "" if it is plain."""

    text: str
    style: str

    @property
    def is_null(self) -> bool:
        return not self.style and self.text in {"", "~", "null", "Null", "NULL"}


@dataclass(slots=True)
class Alias(Node):
    """Stands for something else, which nobody looks up."""

    name: str


@dataclass(slots=True)
class List(Node):
    items: list[Node]


@dataclass(slots=True)
class Map(Node):
    """Its `items` are keys and values by turns: nothing is lost of keys that are written twice."""

    items: list[Node]


class Document(NamedTuple):
    """A document of a file. `mistakes` are aliases and types in it; `values` says how large it is."""

    node: Node
    mistakes: list[Mistake]
    values: int


def read(
    text: str, source: Source, most_values: int = MOST_VALUES, positions: Sequence[int] = ()
) -> list[Document] | Mistake:
    """The documents of a text, none if it is empty; or why it cannot be read.

    `positions` are those of its characters in the source, and of its end, if it is only a part of that.
    """
    positions = positions or range(len(text) + 1)
    refused = _NOT_YAML.search(text)
    if refused is not None:
        what = f"the character U+{ord(refused[0]):04X} is not allowed in YAML; remove it"
        return Mistake(source.place(positions[refused.start()]), what)
    try:
        return _documents(text, source, most_values, positions)
    except yaml.MarkedYAMLError as error:
        instead = f"; {_INSTEAD_OF_ALIAS}" if error.context == "while scanning an alias" else ""
        what = f"this is not YAML: {error.problem}{instead}"
        return Mistake(source.place(positions[error.problem_mark.index]), what)


def _documents(
    text: str, source: Source, most_values: int, positions: Sequence[int]
) -> list[Document] | Mistake:
    """Raises yaml.MarkedYAMLError. What follows a mistake is read on, except beyond the limits."""
    documents: list[Document] = []
    mistakes: list[Mistake] = []
    # Each document begins here, and is its only item in the end.
    open_items: list[list[Node]] = [[]]
    values = 1
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionEndEvent):
            open_items.pop()
        elif isinstance(event, yaml.DocumentEndEvent):
            documents.append(Document(open_items[0].pop(), mistakes, values))
            most_values -= values
            mistakes, values = [], 1
        if not isinstance(event, yaml.NodeEvent):
            continue
        start = positions[event.start_mark.index]
        values += 1
        if values > most_values:
            what = f"the map has more than {MOST_VALUES:,} keys and values up to here; make it smaller"
            return Mistake(source.place(start), what)
        if isinstance(event, yaml.AliasEvent):
            what = f"{shown('*' + event.anchor)} is a YAML alias, and none is followed; {_INSTEAD_OF_ALIAS}"
            tell(mistakes, source.place(start), what)
            open_items[-1].append(Alias(source, start, event.anchor))
            continue
        if event.tag is not None:
            what = f"the YAML type {shown(event.tag)} is not used here; leave it out"
            tell(mistakes, source.place(start), what)
        if isinstance(event, yaml.ScalarEvent):
            open_items[-1].append(Scalar(source, start, event.value, event.style or ""))
            continue
        node = (Map if isinstance(event, yaml.MappingStartEvent) else List)(source, start, [])
        open_items[-1].append(node)
        open_items.append(node.items)
        if len(open_items) > DEEPEST_NESTING:
            # The C parser goes down with the stack at some depth, so it is not asked for more.
            what = f"this is nested {DEEPEST_NESTING} levels deep; nothing in the map needs that"
            return Mistake(node.place, what)
    return documents


_BLANK = re.compile("[ \t\n\r\x85\u2028\u2029]")
_PROPERTIES = re.compile(r"(?:[&!]\S*\s+)*")
_BLOCK_HEADER = re.compile("[^\n\r\x85\u2028\u2029]*")
_WRITTEN = {
    "'": re.compile("''|.", re.DOTALL),
    '"': re.compile(
        r"\\x[0-9A-Fa-f]{2}|\\u[0-9A-Fa-f]{4}|\\U[0-9A-Fa-f]{8}|\\(?:\r\n|.)|.",
        re.DOTALL,
    ),
}
_ANY = re.compile(".", re.DOTALL)


def positions_of(scalar: Scalar, whole: str) -> array[int]:
    """Where each character of a scalar's text, and its end, is in `whole`, the text that it is written in.

    YAML folds and indents only with blanks, so that the others of the text follow each other as written.
    Blanks are aligned from their right end, where the indentation of a block is already over.
    """
    start = _PROPERTIES.match(whole, scalar.start).end()
    if scalar.style in {"|", ">"}:
        start = _BLOCK_HEADER.match(whole, start).end()
    elif scalar.style:
        start += 1
    written = _WRITTEN.get(scalar.style, _ANY).finditer(whole, start)
    positions = array("I")
    blanks = 0
    for character in scalar.text:
        if _BLANK.match(character):
            blanks += 1
            continue
        before = array("I")
        for found in written:
            if not _is_blank(found[0]):
                break
            before.append(found.start())
        positions.extend(_from_the_right(before or [found.start()], blanks))
        positions.append(found.start())
        start, blanks = found.end(), 0
    positions.extend(start for _ in range(blanks + 1))
    return positions


def _is_blank(written: str) -> bool:
    if written[:2] in {"\\x", "\\u", "\\U"} and len(written) > 2:
        return bool(_BLANK.match(chr(int(written[2:], 16))))
    return bool(_BLANK.match(written[-1:])) or written in {"\\n", "\\r", "\\t", "\\N", "\\L", "\\P"}


def _from_the_right(positions: Sequence[int], wanted: int) -> list[int]:
    missing = max(wanted - len(positions), 0)
    return [*[positions[0]] * missing, *positions[len(positions) - wanted + missing :]]


def tell(mistakes: list[Mistake], place: Place, what: str) -> None:
    """Adds a mistake, unless there are MOST_MISTAKES: whoever has so many made one of them."""
    if len(mistakes) < MOST_MISTAKES:
        mistakes.append(Mistake(place, what))


def shown(text: str) -> str:
    """A value in a message: on one line, and not endless."""
    short = text if len(text) <= 60 else f"{text[:57]}..."
    return f"`{printable(short)}`"


def kind_of(node: Node) -> str:
    """What a node is, in a message about what it should be."""
    if isinstance(node, Scalar):
        return "nothing" if node.is_null else shown(node.text)
    if isinstance(node, Alias):
        return f"the YAML alias {shown('*' + node.name)}"
    return "a list" if isinstance(node, List) else "a mapping"
