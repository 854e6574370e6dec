"""YAML as texts with places: no value is constructed, no alias followed, no type obeyed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from dagster_project.ownership.model import Mistake, Place

LARGEST_FILE_BYTES = 5_000_000
DEEPEST_NESTING = 20

# The C parser is ten times as fast, but not every build of PyYAML has it.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_INSTEAD_OF_ALIAS = 'put a glob that begins with a star in quotes, e.g. "*-prod"'


@dataclass(slots=True)
class Node:
    """Something written. Half a million of them are in a large map, so the place is made when asked for."""

    file: str
    line: int
    column: int

    @property
    def place(self) -> Place:
        return Place(self.file, self.line, self.column)


@dataclass(slots=True)
class Scalar(Node):
    """A value by its text, so that 007, 0.60 and `no` stay what was written."""

    text: str
    is_plain: bool

    @property
    def is_null(self) -> bool:
        return self.is_plain and self.text in {"", "~", "null", "Null", "NULL"}


@dataclass(slots=True)
class List(Node):
    items: list[Node]


@dataclass(slots=True)
class Map(Node):
    """Its `items` are keys and values by turns: nothing is lost of keys that are written twice."""

    items: list[Node]


def read(path: Path, file: str) -> tuple[Node | None, list[Mistake]]:
    """The document of a file, None if it is empty; or why it cannot be read. `file` is its name in places."""
    raw = b""
    try:
        size = path.stat().st_size
        if size > LARGEST_FILE_BYTES:
            what = f"the file has {size:,} bytes; split it into files of at most {LARGEST_FILE_BYTES:,}"
            return None, [Mistake(Place(file, 1, 1), what)]
        raw = path.read_bytes()
        documents, mistakes = _documents(raw.decode("utf-8"), file)
    except OSError as error:
        return None, [Mistake(Place(file, 1, 1), f"the file cannot be read: {error.strerror}")]
    except UnicodeDecodeError as error:
        what = f"the byte {raw[error.start]:#04x} is not UTF-8; save the file in that encoding"
        return None, [Mistake(_place_of(raw, error.start, file), what)]
    except yaml.reader.ReaderError as error:
        what = f"the character U+{error.character:04X} is not allowed in YAML; remove it"
        return None, [Mistake(_place_of(raw, error.position, file), what)]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        instead = f"; {_INSTEAD_OF_ALIAS}" if error.context == "while scanning an alias" else ""
        place = Place(file, mark.line + 1, mark.column + 1)
        return None, [Mistake(place, f"this is not YAML: {error.problem}{instead}")]
    if len(documents) > 1:
        what = "a second document begins here; remove the `---` or write another file"
        mistakes.append(Mistake(documents[1].place, what))
    return (documents[0] if documents and not mistakes else None), mistakes


def _documents(text: str, file: str) -> tuple[list[Node], list[Mistake]]:
    """Raises yaml.YAMLError. What follows a mistake is read on, except below the deepest nesting."""
    documents: list[Node] = []
    mistakes: list[Mistake] = []
    open_items = [documents]
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionEndEvent):
            open_items.pop()
        if not isinstance(event, yaml.NodeEvent):
            continue
        line, column = event.start_mark.line + 1, event.start_mark.column + 1
        if isinstance(event, yaml.AliasEvent):
            what = f"{shown('*' + event.anchor)} is a YAML alias, and none is followed; {_INSTEAD_OF_ALIAS}"
            mistakes.append(Mistake(Place(file, line, column), what))
            continue
        if event.tag is not None:
            what = f"the YAML type {shown(event.tag)} is not used here; leave it out"
            mistakes.append(Mistake(Place(file, line, column), what))
        if isinstance(event, yaml.ScalarEvent):
            open_items[-1].append(Scalar(file, line, column, event.value, event.implicit[0]))
            continue
        node = (Map if isinstance(event, yaml.MappingStartEvent) else List)(file, line, column, [])
        open_items[-1].append(node)
        open_items.append(node.items)
        if len(open_items) > DEEPEST_NESTING:
            # The C parser goes down with the stack at some depth, so it is not asked for more.
            what = f"this is nested {DEEPEST_NESTING} levels deep; nothing in the map needs that"
            return [], [*mistakes, Mistake(node.place, what)]
    return documents, mistakes


def shown(text: str) -> str:
    """A value in a message: on one line, and not endless."""
    short = text if len(text) <= 60 else f"{text[:57]}..."
    return "`" + "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in short) + "`"


def kind_of(node: Node) -> str:
    """What a node is, in a message about what it should be."""
    if isinstance(node, Scalar):
        return "nothing" if node.is_null else shown(node.text)
    return "a list" if isinstance(node, List) else "a mapping"


def _place_of(raw: bytes, offset: int, file: str) -> Place:
    before = raw[:offset].decode("utf-8", errors="replace")
    return Place(file, before.count("\n") + 1, len(before) - before.rfind("\n"))
