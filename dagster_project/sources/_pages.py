"""Pages of a provider's API, kept as they came: what was asked, and the text of the answer."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

FILE = "pages.ndjson.gz"


@dataclass(frozen=True)
class Page:
    """One answer. `endpoint` and `params` say what was asked; never a header, so never a secret."""

    endpoint: str
    params: tuple[tuple[str, Any], ...]
    body: str

    def json(self) -> Any:
        """The body; every number with a fraction is a Decimal made from its text."""
        return json.loads(self.body, parse_float=Decimal)


def write(pages: Iterable[Page], raw: Path) -> None:
    # Without a time, so that the same answers are the same bytes.
    with gzip.GzipFile(raw / FILE, "wb", compresslevel=1, mtime=0) as file:
        for page in pages:
            line = {"endpoint": page.endpoint, "params": page.params, "body": page.body}
            file.write(json.dumps(line).encode() + b"\n")


def read(raw: Path) -> Iterator[Page]:
    with gzip.open(raw / FILE, "rt", encoding="utf-8") as file:
        for line in file:
            page = json.loads(line)
            yield Page(page["endpoint"], tuple(map(tuple, page["params"])), page["body"])
