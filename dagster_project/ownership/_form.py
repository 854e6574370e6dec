"""Fields and texts out of what is written, and the mistakes on the way."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from dagster_project.ownership._yaml import List, Map, Node, Scalar, kind_of, shown, tell
from dagster_project.ownership.model import LEVELS, Mistake, Place

TEAM_KEYS = ("cost_center", "owner", "channel")
OWNER_KEYS = ("team", "split", "shared")
BY_USAGE_KEYS = ("among", "driver", "period")
TERM_KEYS = (*OWNER_KEYS, *BY_USAGE_KEYS, "otherwise", "project", "environment")
SERVICE_KEYS = (*TERM_KEYS, "match", "history")
HISTORY_KEYS = ("until", *TERM_KEYS)

_ELSEWHERE: Mapping[tuple[str, str], str] = {
    **{("a service", key): "it says who a team is; write it under `teams:`" for key in TEAM_KEYS},
    **{("a service", key): f"write it as a selector: match: [{{{key}: ...}}]" for key in LEVELS},
    **{("a service", key): "write it as a selector: match: [{tag: {KEY: VALUE}}]" for key in ("tag", "tags")},
    **{
        (what, "name"): f"the name of {what} is the word that its entry begins with; leave this out"
        for what in ("a service", "a team")
    },
    ("a selector", "name"): "say the name of what, e.g. {gateway_key: NAME} or {api_key: NAME}",
}
"""Keys that people write where they do not belong, by what they are written in; and what to write."""

LONGEST_TEXT = 1_000


class Field(NamedTuple):
    key: Scalar
    value: Node


class Form:
    """What the readers of all kinds of files share; they also share `mistakes`."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        self.mistakes = mistakes

    def _mistake(self, place: Place, what: str) -> None:
        tell(self.mistakes, place, what)

    def _fields(self, node: Node, known: Sequence[str] | None, what: str) -> dict[str, Field]:
        """The fields of a mapping by key; none if it is empty or no mapping. `known` None: any key."""
        if isinstance(node, Scalar) and node.is_null:
            return {}
        if not isinstance(node, Map):
            self._mistake(node.place, f"{what} is written as `key: value` lines, not {kind_of(node)}")
            return {}
        fields: dict[str, Field] = {}
        for key, value in zip(node.items[::2], node.items[1::2], strict=True):
            if not isinstance(key, Scalar):
                self._mistake(key.place, f"a key is a word, not {kind_of(key)}")
            elif key.text in fields:
                first = fields[key.text].key.place
                self._mistake(
                    key.place, f"the key {shown(key.text)} is already at {first}; keep one of the two"
                )
            elif known is not None and key.text not in known:
                instead = (
                    _ELSEWHERE.get((what, key.text))
                    or self._nearest(key.text, known)
                    or f"the keys of {what} are {', '.join(known)}"
                )
                self._mistake(key.place, f"unknown key {shown(key.text)}; {instead}")
            else:
                fields[key.text] = Field(key, value)
        return fields

    def _text(self, node: Node, what: str) -> str | None:
        """A label of one line; None if it is not one, which is then a mistake."""
        if not isinstance(node, Scalar):
            self._mistake(node.place, f"{what} is one text, not {kind_of(node)}")
        elif node.is_null or not node.text:
            self._mistake(node.place, f"{what} is empty; write it or leave the line out")
        elif len(node.text) > LONGEST_TEXT:
            self._mistake(node.place, f"{what} {shown(node.text)} is longer than {LONGEST_TEXT:,} characters")
        elif not node.text.isprintable() or node.text != node.text.strip():
            self._mistake(
                node.place,
                f"{what} {shown(node.text)} has blanks around it or characters that do not show; remove them",
            )
        else:
            return node.text
        return None

    def _optional_text(self, fields: Mapping[str, Field], key: str) -> str | None:
        return self._text(fields[key].value, f"`{key}`") if key in fields else None

    def _nearest(
        self, word: str, known: Collection[str], as_written: Callable[[str], str] = str
    ) -> str | None:
        # A tenth of a second among ten thousand names, and more for long words: not for every mistake.
        is_worth_it = len(self.mistakes) < 20 and len(word) <= 100
        near = difflib.get_close_matches(word, known, n=1) if is_worth_it else []
        return f"did you mean `{as_written(near[0])}`?" if near else None

    def _items(self, fields: Mapping[str, Field], key: str, example: str) -> list[Node]:
        """The list at `key`, which has items if the key is written at all."""
        if key not in fields:
            return []
        node = fields[key].value
        if isinstance(node, List) and node.items:
            return node.items
        is_empty = isinstance(node, List) or (isinstance(node, Scalar) and node.is_null)
        said = "empty" if is_empty else kind_of(node)
        self._mistake(node.place, f"`{key}` is {said}; it is a list of {example}")
        return []
