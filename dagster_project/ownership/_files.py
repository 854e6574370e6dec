"""The files of a map: which there are, and their text, from a folder that may hold anything."""

from __future__ import annotations

import os
import re
import stat
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path

from dagster_project.ownership.model import Mistake, Place

SUFFIXES = (".yaml", ".yml", ".csv")

MOST_FILES = 20_000
LARGEST_FILE_BYTES = 5_000_000

# YAML's line breaks.
_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")


class Source:
    """Where the characters of a text are in its file."""

    def __init__(self, file: str, text: str) -> None:
        self.file = file
        self._lines = array("I", [0])
        self._lines.extend(found.end() for found in _BREAK.finditer(text))

    def place(self, index: int) -> Place:
        line = bisect_right(self._lines, index)
        return Place(self.file, line, index - self._lines[line - 1] + 1)


def files_of(folder: Path) -> Iterator[tuple[Path, str] | Mistake]:
    """Files in `folder` and below, by path, each with its name in places; and what must not be passed over.

    Not what is hidden: a mounted Kubernetes config map has every file a second time in `..data`.
    """
    # The folder's name without its path: places are stored in tables, on whatever machine.
    root = folder.resolve().name
    found: list[Path] = []
    refused: list[Mistake] = []

    def refuse(path: Path, what: str) -> None:
        refused.append(Mistake(Place(printable(f"{root}/{path.relative_to(folder).as_posix()}"), 1, 1), what))

    def refuse_folder(error: OSError) -> None:
        refuse(Path(error.filename), f"the folder cannot be read: {error.strerror}")

    for parent, folders, names in os.walk(folder, onerror=refuse_folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in folders:
            if (Path(parent) / name).is_symlink():
                refuse(Path(parent) / name, "links to folders are not followed; link each file, or copy them")
        found += [
            Path(parent) / name
            for name in names
            if not name.startswith(".") and name.lower().endswith(SUFFIXES)
        ]
        if len(found) > MOST_FILES:
            yield Mistake(
                Place(printable(root), 1, 1),
                f"there are more than {MOST_FILES:,} files; keep only those of the ownership map here",
            )
            return
    yield from refused
    for path in sorted(found):
        file = f"{root}/{path.relative_to(folder).as_posix()}"
        if file.isprintable():
            yield path, file
        else:
            what = "the name of the file has characters that do not show; rename it"
            yield Mistake(Place(printable(file), 1, 1), what)


def text_of(path: Path, file: str) -> str | Mistake:
    """The text of a file without its byte order mark, or why it cannot be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return Mistake(Place(file, 1, 1), "this is no regular file; remove it or rename it")
        with path.open("rb") as content:
            raw = content.read(LARGEST_FILE_BYTES + 1)
    except OSError as error:
        return Mistake(Place(file, 1, 1), f"the file cannot be read: {error.strerror}")
    if len(raw) > LARGEST_FILE_BYTES:
        what = f"the file is larger than {LARGEST_FILE_BYTES:,} bytes; split it"
        return Mistake(Place(file, 1, 1), what)
    try:
        return raw.decode("utf-8").removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode("utf-8")
        what = f"the byte {raw[error.start]:#04x} is not UTF-8; save the file in that encoding"
        return Mistake(Source(file, before).place(len(before)), what)


def printable(text: str) -> str:
    """On one line, whatever it holds."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
