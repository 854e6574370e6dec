"""What a map may say: files into teams, environments and services, and every mistake on the way."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from dagster_project.ownership._ties import ties
from dagster_project.ownership._yaml import List, Map, Node, Scalar, kind_of, read, shown
from dagster_project.ownership.model import (
    CLAIM_LEVEL,
    LEVELS,
    OPEN_FROM,
    OPEN_TO,
    SHARE_DECIMALS,
    Condition,
    Mistake,
    Owner,
    Place,
    Selector,
    Service,
    Team,
)
from dagster_project.sources._tags import ALIASES, canonical_key

SECTIONS = ("teams", "environments", "services")
TEAM_KEYS = ("cost_center", "owner", "channel")
OWNER_KEYS = ("team", "split", "shared")
TERM_KEYS = (*OWNER_KEYS, "otherwise", "project", "environment")
SERVICE_KEYS = (*TERM_KEYS, "match", "history")
HISTORY_KEYS = ("until", *TERM_KEYS)
SELECTOR_KEYS = (*LEVELS, "tag")
BY_USAGE_KEYS = ("among", "driver", "period")

RESERVED_NAMES = ("unallocated", "unspecified")
"""What the marts call money without an owner; a team of that name would hide in it."""

LONGEST_TEXT = 1_000

_SECRET = re.compile(r"sk-(?=.*[0-9])(?=.*[a-z])(?=.*[A-Z])[A-Za-z0-9_-]{20,}")
"""A secret of OpenAI, Anthropic, OpenRouter or LiteLLM; the ids and names of keys look different."""


class _Field(NamedTuple):
    key: Scalar
    value: Node


class Reader:
    """Reads files into teams, environments and services, and collects the mistakes on the way."""

    def __init__(self) -> None:
        self.mistakes: list[Mistake] = []
        self.teams: dict[str, Team] = {}
        self.environments: dict[str, Scalar] = {}
        """What callers write, in lower case, and the name of the environment that it means."""
        self.services: dict[str, Service] = {}
        self._declared: dict[tuple[str, str], Place] = {}
        self._written_services: list[_Field] = []
        self._is_incomplete = False
        """Whether a file could not be read, so that a name may be declared although it is unknown."""

    def read_file(self, path: Path, file: str) -> None:
        """Teams and environments at once; services wait until all of those are known."""
        document, mistakes = read(path, file)
        self.mistakes += mistakes
        self._is_incomplete |= bool(mistakes)
        if document is None:
            return
        sections = self._fields(document, SECTIONS, "the ownership map")
        named = {name: self._fields(field.value, None, f"`{name}`") for name, field in sections.items()}
        for field in named.get("teams", {}).values():
            self._read_team(field)
        for field in named.get("environments", {}).values():
            self._read_environment(field)
        self._written_services += named.get("services", {}).values()

    def read_services(self) -> None:
        for field in self._written_services:
            self._read_service(field)

    def refuse_ties(self) -> None:
        selectors = [s for service in self.services.values() for s in service.selectors]
        for later, earlier in ties(selectors):
            self._mistake(
                later.place,
                f"{later} of service `{later.rule}` and {earlier} of service `{earlier.rule}` at "
                f"{earlier.place} are equally specific and can match the same identity; "
                "add a key to one of them or narrow it",
            )

    def _mistake(self, place: Place, what: str) -> None:
        self.mistakes.append(Mistake(place, what))

    def _fields(
        self, node: Node, known: Sequence[str] | None, what: str, hidden: Sequence[str] = ()
    ) -> dict[str, _Field]:
        """The fields of a mapping by key; none if it is empty or no mapping. `known` None: any key."""
        if isinstance(node, Scalar) and node.is_null:
            return {}
        if not isinstance(node, Map):
            self._mistake(node.place, f"{what} is written as `key: value` lines, not {kind_of(node)}")
            return {}
        fields: dict[str, _Field] = {}
        for key, value in zip(node.items[::2], node.items[1::2], strict=True):
            if not isinstance(key, Scalar):
                self._mistake(key.place, f"a key is a word, not {kind_of(key)}")
            elif key.text in fields:
                first = fields[key.text].key.place
                self._mistake(
                    key.place, f"the key {shown(key.text)} is already at {first}; keep one of the two"
                )
            elif known is not None and key.text not in known and key.text not in hidden:
                instead = self._nearest(key.text, known) or f"the keys of {what} are {', '.join(known)}"
                self._mistake(key.place, f"unknown key {shown(key.text)}; {instead}")
            else:
                fields[key.text] = _Field(key, value)
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

    def _optional_text(self, fields: Mapping[str, _Field], key: str) -> str | None:
        return self._text(fields[key].value, f"`{key}`") if key in fields else None

    def _nearest(self, word: str, known: Collection[str]) -> str | None:
        # A tenth of a second among ten thousand names; whoever has so many mistakes made one of them.
        near = difflib.get_close_matches(word, known, n=1) if len(self.mistakes) < 20 else []
        return f"did you mean `{near[0]}`?" if near else None

    def _declare(self, kind: str, key: Scalar) -> str | None:
        """The name, if it is one and new."""
        name = self._text(key, f"the name of a {kind}")
        if name is None:
            return None
        if name.lower() in RESERVED_NAMES or name.lower().startswith("team:"):
            self._mistake(key.place, f"{shown(name)} has a meaning of its own; choose another {kind} name")
            return None
        # Tags are compared in lower case: names that differ only in that could not be told apart.
        first = self._declared.setdefault((kind, name.lower()), key.place)
        if first != key.place:
            self._mistake(key.place, f"{kind} {shown(name)} is declared already at {first}; make them one")
            return None
        return name

    def _read_team(self, field: _Field) -> None:
        fields = self._fields(field.value, TEAM_KEYS, "a team")
        texts = {key: self._optional_text(fields, key) for key in TEAM_KEYS}
        name = self._declare("team", field.key)
        if name is not None:
            self.teams[name] = Team(name, field.key.place, **texts)

    def _read_environment(self, field: _Field) -> None:
        aliases: list[Node] = []
        if isinstance(field.value, List):
            aliases = field.value.items
        elif not (isinstance(field.value, Scalar) and field.value.is_null):
            self._mistake(
                field.value.place,
                f"the aliases of an environment are a list such as [prod, live], not {kind_of(field.value)}",
            )
        if self._declare("environment", field.key) is None:
            return
        for written in (field.key, *aliases):
            text = self._text(written, "an alias")
            if text is None:
                continue
            meant = self.environments.setdefault(text.lower(), field.key)
            if meant.text != field.key.text:
                self._mistake(
                    written.place,
                    f"{shown(text)} means the environment `{meant.text}` already at {meant.place}; "
                    "a word means one environment",
                )

    def _read_service(self, field: _Field) -> None:
        place = field.key.place
        mistakes_before = len(self.mistakes)
        fields = self._fields(field.value, SERVICE_KEYS, "a service", hidden=BY_USAGE_KEYS)
        is_understood = len(self.mistakes) == mistakes_before
        if is_understood and not any(key in fields for key in (*OWNER_KEYS, *BY_USAGE_KEYS)):
            self._mistake(
                place,
                f"service {shown(field.key.text)} has no owner; write `team: NAME`, "
                "`split: {NAME: 0.6, OTHER: 0.4}` or `shared: true`",
            )
        current = self._owner(fields, Owner(place, OPEN_FROM, OPEN_TO, None, {}, False, None, None))
        owners = self._owners(fields, current)
        name = self._declare("service", field.key)
        selectors = self._selectors(field.key.text, fields)
        if any(owner.is_shared for owner in owners):
            for selector in selectors:
                if selector.level >= CLAIM_LEVEL:
                    self._mistake(
                        selector.place,
                        f"{selector} selects a shared service by a tag, but tags are what divides it; "
                        "leave `tag` out",
                    )
        if name is not None:
            self.services[name] = Service(name, place, tuple(owners), tuple(selectors))

    def _owners(self, fields: Mapping[str, _Field], current: Owner) -> list[Owner]:
        """The lines of `history`, each from the end of the one before it, and then `current`."""
        owners: list[Owner] = []
        begins, begins_at = OPEN_FROM, current.place
        for line in self._items(fields, "history", "lines such as {until: 2026-07-01, team: NAME}"):
            mistakes_before = len(self.mistakes)
            said = self._fields(line, HISTORY_KEYS, "a history line", hidden=BY_USAGE_KEYS)
            is_understood = len(self.mistakes) == mistakes_before
            if is_understood and ("until" not in said or len(said) == 1):
                self._mistake(
                    line.place,
                    "a history line says until when, and whose it was: {until: 2026-07-01, team: NAME}",
                )
            until = self._day(said["until"].value) if "until" in said else None
            owner = replace(current, place=line.place, valid_from=begins, valid_to=until or begins)
            owners.append(self._owner(said, owner))
            if until is None:
                continue
            if until <= begins:
                self._mistake(
                    said["until"].value.place,
                    f"`{until}` is not after the start of this period, `{begins}` at {begins_at}; "
                    "write the oldest line first, each with a later `until`",
                )
            begins, begins_at = until, said["until"].value.place
        return [*owners, replace(current, valid_from=begins)]

    def _owner(self, fields: Mapping[str, _Field], before: Owner) -> Owner:
        """`before`, with everything that `fields` say instead."""
        usage = [fields[key].key for key in BY_USAGE_KEYS if key in fields]
        split = fields["split"].value if "split" in fields else None
        if isinstance(split, Scalar) and split.text == "by_usage":
            usage = [split]
        if usage:
            self._mistake(
                usage[0].place,
                "by_usage splits are not supported yet; write fixed shares, "
                "e.g. split: {search: 0.6, support: 0.4}",
            )
            return before
        said = [key for key in fields if key in OWNER_KEYS]
        if len(said) > 1:
            remedy = "; for what no tag claims write `otherwise`" if "split" not in said else ""
            self._mistake(
                fields[said[1]].key.place,
                f"`{said[0]}` at {fields[said[0]].key.place} and `{said[1]}` contradict each other; "
                f"keep one of the two{remedy}",
            )
        team, shares, is_shared = before.team, before.shares, before.is_shared
        if said and not (said == ["shared"] and before.is_shared):
            team, shares, is_shared = None, {}, False
        if "team" in fields:
            team = self._team(fields["team"].value)
        if "split" in fields:
            shares = self._shares(fields["split"].value)
        if "shared" in fields:
            is_shared = True
            self._check_true(fields["shared"].value)
        if "otherwise" in fields:
            team = self._team(fields["otherwise"].value)
            if not is_shared:
                self._mistake(
                    fields["otherwise"].key.place,
                    "`otherwise` says whose the rest of a shared service is, and this one is not shared; "
                    "write `shared: true`, or `team` instead of `otherwise`",
                )
        project, environment = before.project, before.environment
        if "project" in fields:
            project = self._text(fields["project"].value, "`project`")
        if "environment" in fields:
            environment = self._environment(fields["environment"].value)
        return replace(
            before,
            team=team,
            shares=shares,
            is_shared=is_shared,
            project=project,
            environment=environment,
        )

    def _team(self, node: Node) -> str | None:
        name = self._text(node, "the name of a team")
        if name is None or name in self.teams:
            return name
        if not self._is_incomplete:
            instead = self._nearest(name, self.teams) or "declare it under `teams:`"
            self._mistake(node.place, f"team {shown(name)} is not declared; {instead}")
        return None

    def _environment(self, node: Node) -> str | None:
        name = self._text(node, "`environment`")
        if name is None:
            return None
        if name.lower() in self.environments:
            return self.environments[name.lower()].text
        if not self._is_incomplete:
            instead = self._nearest(name, self.environments) or "declare it under `environments:`"
            self._mistake(node.place, f"environment {shown(name)} is not declared; {instead}")
        return None

    def _check_true(self, node: Node) -> None:
        said = self._text(node, "`shared`")
        if said is not None and said.lower() not in {"true", "yes", "on"}:
            self._mistake(node.place, f"`shared` is `true`, not {shown(said)}; or leave the line out")

    def _shares(self, node: Node) -> dict[str, Decimal]:
        mistakes_before = len(self.mistakes)
        fields = self._fields(node, None, "`split`")
        shares = {key.text: self._share(value) for key, value in fields.values()}
        exact = {team: share for team, share in shares.items() if share is not None}
        total = sum(exact.values(), Decimal(0))
        # A line that is wrong already would make the sum wrong too.
        if total != 1 and len(self.mistakes) == mistakes_before:
            sum_of = " + ".join(map(str, exact.values())) or "no team"
            self._mistake(
                node.place, f"the shares sum to {total}, not to exactly 1 ({sum_of}); correct one of them"
            )
        for key, _ in fields.values():
            self._team(key)
        return exact

    def _share(self, node: Node) -> Decimal | None:
        text = self._text(node, "a share")
        if text is None:
            return None
        if re.fullmatch(rf"[01](\.[0-9]{{1,{SHARE_DECIMALS}}})?", text) and Decimal(text) <= 1:
            return Decimal(text)
        self._mistake(
            node.place,
            f"{shown(text)} is not a share; write a decimal from 0 to 1 with at most {SHARE_DECIMALS} "
            "decimals, e.g. 0.25",
        )
        return None

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

    def _items(self, fields: Mapping[str, _Field], key: str, example: str) -> list[Node]:
        """The list at `key`, which has items if the key is written at all."""
        if key not in fields:
            return []
        node = fields[key].value
        if isinstance(node, List) and node.items:
            return node.items
        said = "empty" if isinstance(node, List) else kind_of(node)
        self._mistake(node.place, f"`{key}` is {said}; it is a list of {example}")
        return []

    def _selectors(self, service: str, fields: Mapping[str, _Field]) -> list[Selector]:
        if "match" in fields and isinstance(fields["match"].value, Map):
            nodes = [fields["match"].value]
        else:
            nodes = self._items(fields, "match", "selectors such as {gateway_key: support-bot-*}")
        selectors: dict[frozenset[Condition], Selector] = {}
        for selector in (self._selector(service, node) for node in nodes):
            if selector is None:
                continue
            first = selectors.setdefault(frozenset(selector.conditions), selector)
            if first is not selector:
                self._mistake(selector.place, f"{selector} is already at {first.place}; keep one of the two")
        return list(selectors.values())

    def _selector(self, service: str, node: Node) -> Selector | None:
        """None where any of it is a mistake, because the rest of it would match too much."""
        mistakes_before = len(self.mistakes)
        conditions: list[Condition] = []
        for key, value in self._fields(node, SELECTOR_KEYS, "a selector").values():
            if key.text == "tag":
                conditions += self._tags(value)
            else:
                text = self._text(value, f"`{key.text}`")
                if text is None:
                    continue
                if key.text in {"api_key", "gateway_key"} and _SECRET.fullmatch(text):
                    # Not repeated: an error is read in places where a secret must not be.
                    self._mistake(
                        value.place,
                        f"this `{key.text}` looks like the secret itself; revoke it and write its id or name",
                    )
                conditions.append(Condition(key.text, None, text))
        if len(self.mistakes) > mistakes_before:
            return None
        if not conditions:
            self._mistake(
                node.place,
                "a selector without keys would match everything; write one, "
                "e.g. {gateway_key: support-bot-*}",
            )
            return None
        has_tag = any(condition.dimension == "tag" for condition in conditions)
        level = CLAIM_LEVEL if has_tag else min(LEVELS[condition.dimension] for condition in conditions)
        return Selector(str(node.place), service, node.place, level, tuple(conditions))

    def _tags(self, node: Node) -> Iterator[Condition]:
        """One condition per tag, its key as the records have it after aliasing."""
        written: dict[str, Scalar] = {}
        mistakes_before = len(self.mistakes)
        fields = self._fields(node, None, "`tag`")
        if not fields and len(self.mistakes) == mistakes_before:
            self._mistake(node.place, "`tag` is empty; write one, e.g. tag: {feature: search}")
        for key, value in fields.values():
            text = self._text(value, "the value of a tag")
            snake = canonical_key(key.text)
            tag_key = ALIASES.get(snake, snake)
            first = written.setdefault(tag_key, key)
            if not tag_key:
                self._mistake(key.place, f"{shown(key.text)} is not a tag key; write one such as `feature`")
            elif first is not key:
                self._mistake(
                    key.place,
                    f"the tag {shown(key.text)} is the same as `{first.text}` at {first.place}; keep one",
                )
            elif text is not None:
                yield Condition("tag", tag_key, text.lower())
