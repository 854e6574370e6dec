"""Files as the engine opens them: those that were listed, as long as they were then."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from threading import get_ident
from typing import Any

from fsspec import AbstractFileSystem

from dagster_project.sources._endings import end_of_lines

GROWING = "growing://"
"""Before the path of a local file, for the engine to ask Growing for it."""


class Listed(AbstractFileSystem):
    """Read-only; knows names of one scheme and their sizes in bytes, and asks nobody for them."""

    cachable = False

    def __init__(self, scheme: str, sizes: Mapping[str, int]) -> None:
        super().__init__()
        self.protocol = scheme
        self._sizes = sizes

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path

    def exists(self, path: str, **_: Any) -> bool:
        return path in self._sizes

    def glob(self, path: str, **_: Any) -> list[str]:
        return [path] if path in self._sizes else []

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        return {"name": path, "size": self._sizes[path], "type": "file"}

    def modified(self, path: str) -> datetime:
        return datetime(1970, 1, 1, tzinfo=UTC)


class Growing(Listed):
    """Local files that somebody writes to: each ends with the last line that was whole when it was listed."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        """`sizes` are those of the listing, by path."""
        ends = {
            f"{GROWING}{file}": end_of_lines(partial(bytes_of, Path(file)), size)
            for file, size in sizes.items()
        }
        super().__init__(GROWING.removesuffix("://"), ends)

    def open(self, path: str, mode: str = "rb", **_: Any) -> Pieces:
        file = Path(path.removeprefix(GROWING))
        return Pieces(self._sizes[path], lambda start, end: bytes_of(file, start, end))


class Pieces(io.RawIOBase):
    """What `read` gives from one byte to another, as the file that the engine asks for: it reads pieces of
    one file on several threads, each a seek and a read, so each thread has a place of its own.
    """

    def __init__(self, size: int, read: Callable[[int, int], bytes]) -> None:
        self._size, self._read = size, read
        # By thread: a threading.local is a new one whenever a thread that Python did not start calls.
        self._places: dict[int, int] = {}

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._places.get(get_ident(), 0)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.tell(), io.SEEK_END: self._size}[whence]
        self._places[get_ident()] = start + offset
        return start + offset

    def read(self, size: int = -1) -> bytes:
        start = self.tell()
        data = self._read(start, self._size if size < 0 else min(start + size, self._size))
        self._places[get_ident()] = start + len(data)
        return data


def grown(files: Mapping[str, int]) -> dict[str, int]:
    """Those of the listed `files`, with their sizes then, that are on disk and longer now."""
    return {
        file: size
        for file, size in files.items()
        if Path(file).is_file() and Path(file).stat().st_size > size
    }


def bytes_of(file: Path, start: int, end: int) -> bytes:
    """Those from one place to another, as far as there are any."""
    with file.open("rb") as opened:
        opened.seek(start)
        return opened.read(max(end - start, 0))
