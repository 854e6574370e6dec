"""Fields and texts out of what is written, and the mistakes on the way."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import date
from typing import NamedTuple

from dagster_project.ownership._yaml import List, Map, Node, Scalar, kind_of, shown, tell
from dagster_project.ownership.model import LEVELS, OPEN_FROM, POLICY_LEVELS, Mistake, Place

TEAM_KEYS = ("cost_center", "owner", "channel")
OWNER_KEYS = ("team", "split", "shared")
BY_USAGE_KEYS = ("among", "driver", "period")
TERM_KEYS = (*OWNER_KEYS, *BY_USAGE_KEYS, "otherwise", "project", "environment")
SERVICE_KEYS = (*TERM_KEYS, "match", "history")
HISTORY_KEYS = ("until", *TERM_KEYS)
POLICY_TERM_KEYS = ("policy", "team", "over", "otherwise")
POLICY_KEYS = ("match", *POLICY_TERM_KEYS, "history")
POLICY_HISTORY_KEYS = ("until", *POLICY_TERM_KEYS)

_ELSEWHERE: Mapping[tuple[str, str], str] = {
    **{("a service", key): "it says who a team is; write it under `teams:`" for key in TEAM_KEYS},
    **{("a service", key): f"write it as a selector: match: [{{{key}: ...}}]" for key in LEVELS},
    **{("a service", key): "write it as a selector: match: [{tag: {KEY: VALUE}}]" for key in ("tag", "tags")},
    **{
        (what, "name"): f"the name of {what} is the word that its entry begins with; leave this out"
        for what in ("a service", "a team")
    },
    **{
        ("what a policy is for", key): "a policy is for lines of the bill, whoever caused them; leave it out"
        for key in (*LEVELS, "tag")
        if key not in POLICY_LEVELS
    },
    ("a selector", "name"): "say the name of what, e.g. {gateway_key: NAME} or {api_key: NAME}",
}
"""Keys that people write where they do not belong, by what they are written in; and what to write."""

LONGEST_TEXT = 1_000


class Field(NamedTuple):
    key: Scalar
    value: Node


class Period(NamedTuple):
    """A line of a history: what its `fields` say holds from `valid_from` to `valid_to` (exclusive)."""

    line: Node
    valid_from: date
    valid_to: date
    fields: dict[str, Field]


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

    def _history(
        self, fields: Mapping[str, Field], known: Sequence[str], example: str, begins_at: Place
    ) -> Iterator[Period]:
        """The lines of `history`, each from the end of the one before it. `begins_at` is what they are of."""
        begins = OPEN_FROM
        for line in self._items(fields, "history", f"lines such as {{until: 2026-07-01, {example}}}"):
            mistakes_before = len(self.mistakes)
            said = self._fields(line, known, "a history line")
            is_understood = len(self.mistakes) == mistakes_before
            if is_understood and ("until" not in said or len(said) == 1):
                self._mistake(
                    line.place,
                    f"a history line says until when, and what held before: {{until: 2026-07-01, {example}}}",
                )
            until = self._day(said["until"].value) if "until" in said else None
            yield Period(line, begins, until or begins, said)
            if until is None:
                continue
            if until <= begins:
                self._mistake(
                    said["until"].value.place,
                    f"`{until}` is not after the start of this period, `{begins}` at {begins_at}; "
                    "write the oldest line first, each with a later `until`",
                )
            begins, begins_at = until, said["until"].value.place

    def _day(self, node: Node) -> date | None:
        text = self._text(node, "`until`")
        if text is None:
            return None
        if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
            try:
                return date.fromisoformat(text)
            except ValueError:
                self._mistake(node.place, f"there is no day {shown(text)}; write one of the calendar")
        else:
            self._mistake(node.place, f"{shown(text)} is not a day; write it like 2026-07-01")
        return None
