"""What the engine overlooks in a file: a checksum that is another; and in JSON, where it reads several files
on several threads, now and then a last record that is cut off or followed by zeros (of a disk that was not
written). Such a record would be missing unseen.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import BinaryIO

BLOCK = 2**20

DAMAGED = "the file cannot be read to its end: it is gone, damaged, cut off, or not yours to read"
NOT_JSON = "this is not JSON, or only a part of it"
NOT_CSV = (
    "this is no row of the table: it has more or fewer columns than the header, or a quotation without end"
)

_DECODER = json.JSONDecoder()


def fault_of_gzip(zipped: BinaryIO, *, is_json: bool) -> str | None:
    """What is wrong with a compressed file; None where nothing is."""
    with gzip.open(zipped) as inflated:
        try:
            line = _last_line(iter(partial(inflated.read, BLOCK), b""))
        except (gzip.BadGzipFile, EOFError, zlib.error):
            return DAMAGED
    return NOT_JSON if is_json and _is_cut_off(line) else None


def fault_of_text(read: Callable[[int, int], bytes], size: int) -> str | None:
    """What is wrong with a file of so many bytes, of which `read` gives those from one place to another."""
    return NOT_JSON if _is_cut_off(read(end_of_lines(read, size), size)) else None


def end_of_lines(read: Callable[[int, int], bytes], size: int) -> int:
    """The place after the last line break among the first `size` bytes."""
    end = size
    while end > 0:
        start = max(end - BLOCK, 0)
        if (found := read(start, end).rfind(b"\n")) >= 0:
            return start + found + 1
        end = start
    return 0


def _last_line(blocks: Iterable[bytes]) -> bytes:
    """What stands after the last line break."""
    line: list[bytes] = []
    for block in blocks:
        _, line_break, after = block.rpartition(b"\n")
        line = [after] if line_break else [*line, block]
    return b"".join(line)


def _is_cut_off(last_line: bytes) -> bool:
    """Whether no JSON file ends like this: records on one line, or what closes a document of many lines."""
    text = last_line.strip()
    if not text.startswith(b"{"):
        return bool(text) and not text.endswith((b"}", b"]", b"null"))
    try:
        rest = text.decode()
        while rest.startswith("{"):
            _, end = _DECODER.raw_decode(rest)
            rest = rest[end:].lstrip()
    except ValueError:
        return True
    return rest.strip("]}") != ""
