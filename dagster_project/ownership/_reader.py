"""What a map may say: files into teams, environments and services, and every mistake on the way."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

from dagster_project.ownership._backstage import Catalogue, Component, is_entity
from dagster_project.ownership._csv import rows
from dagster_project.ownership._files import Source, text_of
from dagster_project.ownership._form import (
    BY_USAGE_KEYS,
    HISTORY_KEYS,
    OWNER_KEYS,
    SERVICE_KEYS,
    TEAM_KEYS,
    Field,
    Form,
)
from dagster_project.ownership._policies import EXAMPLE, Policies
from dagster_project.ownership._ties import TooManyComparisonsError, ties
from dagster_project.ownership._yaml import (
    MOST_VALUES,
    Document,
    List,
    Map,
    Node,
    Scalar,
    kind_of,
    read,
    shown,
)
from dagster_project.ownership.model import (
    CLAIM_LEVEL,
    LEVELS,
    OPEN_FROM,
    OPEN_TO,
    SHARE_DECIMALS,
    ByUsage,
    Condition,
    Mistake,
    Owner,
    Place,
    Selector,
    Service,
    Team,
)
from dagster_project.sources._tags import canonical_key, key_in_records

SECTIONS = ("teams", "environments", "services", "policies")
SELECTOR_KEYS = (*LEVELS, "tag")
DRIVERS = ("cost", "tokens", "requests")
PERIODS = ("month", "day")

MOST_ENTRIES = 60_000
"""Teams, words for environments, services and selectors, each some 2 kB in the end."""

MOST_CHARACTERS = 20_000_000

RESERVED_NAMES = ("unallocated", "unspecified")
"""What the marts call money without an owner; a team of that name would hide in it."""

_SECRET = re.compile(r"sk-(?=.*[0-9])(?=.*[a-z])(?=.*[A-Z])[A-Za-z0-9_-]{20,}")
"""A secret of OpenAI, Anthropic, OpenRouter or LiteLLM; the ids and names of keys look different."""


class Reader(Form):
    """Reads files into teams, environments and services, and collects the mistakes on the way."""

    def __init__(self) -> None:
        super().__init__([])
        self.teams: dict[str, Team] = {}
        self.environments: dict[str, Scalar] = {}
        """What callers write, in lower case, and the name of the environment that it means."""
        self.services: dict[str, Service] = {}
        self._declared: dict[tuple[str, str], Scalar] = {}
        self._catalogue = Catalogue(self.mistakes)
        self.policies = Policies(self.mistakes, self._team)
        self._written_services: list[Field | Component] = []
        self._cost_centers: list[tuple[str, Source]] = []
        self._team_facts: dict[tuple[str, str], Node] = {}
        """Where it is written what a team's cost centre, owner or channel is."""
        self._names: dict[str, str] = {}
        """Teams by their lower case."""
        self._values = 0
        self._characters = 0
        self._entries = 0
        self._is_incomplete = False
        """Whether a file could not be read, so that a name may be declared although it is unknown."""

    def refuse(self, mistake: Mistake) -> None:
        """A file that cannot be read."""
        self._mistake(*mistake)
        self._is_incomplete = True

    def read_file(self, path: Path, file: str) -> None:
        """Teams and environments at once; cost centres and services wait until all of those are known."""
        if self._characters > MOST_CHARACTERS:
            return
        text = text_of(path, file)
        if isinstance(text, Mistake):
            self.refuse(text)
            return
        self._characters += len(text)
        if self._characters > MOST_CHARACTERS:
            what = f"the map has more than {MOST_CHARACTERS:,} characters up to here; make it smaller"
            self.refuse(Mistake(Place(file, 1, 1), what))
            return
        source = Source(file, text)
        if path.suffix.lower() == ".csv":
            self._cost_centers.append((text, source))
            return
        documents = read(text, source, MOST_VALUES - self._values - self._catalogue.values)
        if isinstance(documents, Mistake):
            self.refuse(documents)
        elif any(is_entity(document.node) for document in documents):
            self._read_entities(documents, text)
        else:
            self._read_own(documents)

    def finish(self) -> None:
        """What had to wait for all files."""
        self._names = {name.lower(): name for name in self.teams}
        for text, source in self._cost_centers:
            self._read_cost_centers(text, source)
        self._written_services += self._catalogue.components
        self._written_services.reverse()
        while self._written_services:
            # One by one they make room for what is made of them.
            self._read_service(self._written_services.pop())
        self._refuse_ties()
        self.policies.finish()

    def _read_own(self, documents: Sequence[Document]) -> None:
        unread = [mistake for document in documents for mistake in document.mistakes]
        if len(documents) > 1:
            what = "a second document begins here; remove the `---` or write another file"
            unread.append(Mistake(documents[1].node.place, what))
        for mistake in unread:
            self.refuse(mistake)
        if unread or not documents:
            return
        self._values += documents[0].values
        sections = self._fields(documents[0].node, SECTIONS, "the ownership map")
        if "policies" in sections:
            self.policies.add(self._items(sections, "policies", EXAMPLE))
        named = {
            name: self._fields(field.value, None, f"`{name}`")
            for name, field in sections.items()
            if name != "policies"
        }
        for field in named.get("teams", {}).values():
            self._read_team(field)
        for field in named.get("environments", {}).values():
            self._read_environment(field)
        self._written_services += named.get("services", {}).values()

    def _read_entities(self, documents: Sequence[Document], text: str) -> None:
        for node in (document.node for document in documents):
            if isinstance(node, Scalar) and node.is_null:
                continue
            if not (isinstance(node, Map) and is_entity(node)):
                self._mistake(
                    node.place,
                    "this document is no entity, and another one is; give it `apiVersion` and `kind`, "
                    "or a file of its own",
                )
                continue
            team = self._catalogue.read(node, text)
            if team is not None:
                self._read_team(team)

    def _read_cost_centers(self, text: str, source: Source) -> None:
        columns: dict[str, int] = {}
        header: list[Scalar] = []
        for row in rows(text, source):
            if isinstance(row, Mistake):
                self._mistake(*row)
            elif not header:
                header = row
                columns = self._columns(header)
                if not {"team", "cost_center"} <= columns.keys():
                    return
            elif len(row) != len(header):
                self._mistake(
                    row[0].place,
                    f"this row has {len(row)} values, and the header {len(header)}; "
                    "put a value with a comma in quotes",
                )
            else:
                self._complete_team({key: row[column] for key, column in columns.items()})

    def _columns(self, header: Sequence[Scalar]) -> dict[str, int]:
        """Where in a row the key of a team is."""
        columns: dict[str, int] = {}
        for column, cell in enumerate(header):
            key = canonical_key(cell.text).replace("centre", "center")
            if key not in {"team", *TEAM_KEYS}:
                continue
            first = columns.setdefault(key, column)
            if first != column:
                self._mistake(
                    cell.place,
                    f"the column {shown(cell.text)} is the same as {shown(header[first].text)} at "
                    f"{header[first].place}; keep one",
                )
        for missing in sorted({"team", "cost_center"} - columns.keys(), reverse=True):
            self._mistake(
                header[0].place,
                f"no column of this list of cost centres is `{missing}`; its first line names the columns, "
                "with commas between them: team,cost_center",
            )
        return columns

    def _complete_team(self, row: Mapping[str, Scalar]) -> None:
        written = row["team"]
        name = self._names.get(written.text.lower())
        if name is None:
            name = self._declare("team", written)
            if name is None:
                return
            self._names[name.lower()] = name
            self.teams[name] = Team(name, written.place, None, None, None)
        for key in TEAM_KEYS:
            if key not in row or not row[key].text:
                continue
            text = self._text(row[key], f"`{key}`")
            first = self._team_facts.setdefault((name, key), row[key])
            if first is row[key]:
                self.teams[name] = replace(self.teams[name], **{key: text})
            elif text is not None and text != getattr(self.teams[name], key):
                self._mistake(
                    row[key].place,
                    f"the {key.replace('_', ' ')} of team {shown(name)} is {shown(text)} here and "
                    f"{kind_of(first)} at {first.place}; make them one",
                )

    def _refuse_ties(self) -> None:
        selectors = [s for service in self.services.values() for s in service.selectors]
        try:
            for later, earlier in ties(selectors):
                self._mistake(
                    later.place,
                    f"{later} of service `{later.rule}` and {earlier} of service `{earlier.rule}` at "
                    f"{earlier.place} are equally specific and can match the same identity; "
                    "add a key to one of them or narrow it",
                )
        except TooManyComparisonsError as error:
            self._mistake(
                error.selector.place,
                f"{error.selector} is one of too many patterns that may match the same; let patterns begin "
                "with letters that tell them apart, e.g. support-bot-*",
            )

    def _is_too_large(self, place: Place) -> bool:
        """Whether the map has too many entries, of which there is one more now."""
        self._entries += 1
        if self._entries > MOST_ENTRIES:
            what = "teams, environments, services and selectors up to here; make the map smaller"
            self._mistake(place, f"there are more than {MOST_ENTRIES:,} {what}")
        return self._entries > MOST_ENTRIES

    def _declare(self, kind: str, key: Scalar) -> str | None:
        """The name, if it is one and new."""
        name = self._text(key, f"the name of a {kind}")
        if name is None:
            return None
        if name.lower() in RESERVED_NAMES or name.lower().startswith(("team:", "policy:")):
            self._mistake(key.place, f"{shown(name)} has a meaning of its own; choose another {kind} name")
            return None
        if self._entries > MOST_ENTRIES:
            return None
        # Tags are compared in lower case: names that differ only in that could not be told apart.
        first = self._declared.setdefault((kind, name.lower()), key)
        if first is not key:
            self._mistake(
                key.place, f"{kind} {shown(name)} is declared already at {first.place}; make them one"
            )
            return None
        if self._is_too_large(key.place):
            return None
        return name

    def _read_team(self, field: Field) -> None:
        fields = self._fields(field.value, TEAM_KEYS, "a team")
        texts = {key: self._optional_text(fields, key) for key in TEAM_KEYS}
        name = self._declare("team", field.key)
        if name is not None:
            self.teams[name] = Team(name, field.key.place, **texts)
            self._team_facts |= {(name, key): fields[key].value for key in TEAM_KEYS if key in fields}

    def _read_environment(self, field: Field) -> None:
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
            if text is None or self._is_too_large(written.place):
                continue
            meant = self.environments.setdefault(text.lower(), field.key)
            if meant.text != field.key.text:
                self._mistake(
                    written.place,
                    f"{shown(text)} means the environment `{meant.text}` already at {meant.place}; "
                    "a word means one environment",
                )

    def _read_service(self, written: Field | Component) -> None:
        mistakes_before = len(self.mistakes)
        field, lifecycle = written, None
        if isinstance(written, Component):
            field = self._catalogue.service(written, self._names, not self._is_incomplete)
            lifecycle = written.lifecycle
        place = field.key.place
        fields = self._fields(field.value, SERVICE_KEYS, "a service")
        is_understood = len(self.mistakes) == mistakes_before
        if is_understood and not any(key in fields for key in (*OWNER_KEYS, *BY_USAGE_KEYS)):
            self._mistake(
                place,
                f"service {shown(field.key.text)} has no owner; write `team: NAME`, "
                "`split: {NAME: 0.6, OTHER: 0.4}` or `shared: true`",
            )
        current = self._owner(fields, Owner(place, OPEN_FROM, OPEN_TO, None, {}, None, False, None, None))
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
            self.services[name] = Service(name, place, lifecycle, tuple(owners), tuple(selectors))

    def _owners(self, fields: Mapping[str, Field], current: Owner) -> list[Owner]:
        """The lines of `history`, each from the end of the one before it, and then `current`."""
        owners: list[Owner] = []
        for line, begins, until, said in self._history(fields, HISTORY_KEYS, "team: NAME", current.place):
            owner = replace(current, place=line.place, valid_from=begins, valid_to=until)
            owners.append(self._owner(said, owner))
        return [*owners, replace(current, valid_from=owners[-1].valid_to if owners else OPEN_FROM)]

    def _owner(self, fields: Mapping[str, Field], before: Owner) -> Owner:
        """`before`, with everything that `fields` say instead."""
        said = [key for key in fields if key in OWNER_KEYS]
        if len(said) > 1:
            remedy = "; for what no tag claims write `otherwise`" if "split" not in said else ""
            self._mistake(
                fields[said[1]].key.place,
                f"`{said[0]}` at {fields[said[0]].key.place} and `{said[1]}` contradict each other; "
                f"keep one of the two{remedy}",
            )
        split = fields["split"].value if "split" in fields else None
        is_by_usage = isinstance(split, Scalar) and split.text == "by_usage"
        team, shares, by_usage, is_shared = before.team, before.shares, before.by_usage, before.is_shared
        is_as_before = (said == ["shared"] and is_shared) or (is_by_usage and by_usage is not None)
        if said and not is_as_before:
            team, shares, by_usage, is_shared = None, {}, None, False
        if "team" in fields:
            team = self._team(fields["team"].value)
        if split is not None and not is_by_usage:
            shares = self._shares(split)
        if "shared" in fields:
            is_shared = True
            self._check_true(fields["shared"].value)
        usage = [fields[key].key for key in BY_USAGE_KEYS if key in fields]
        if is_by_usage or (by_usage is not None and usage):
            by_usage = self._by_usage(fields, split or usage[0], by_usage)
        elif usage:
            self._mistake(
                usage[0].place,
                f"`{usage[0].text}` is of a split by usage, and this is none; "
                "write `split: by_usage`, or leave the line out",
            )
        if "otherwise" in fields:
            team = self._team(fields["otherwise"].value)
            if not is_shared and by_usage is None:
                self._mistake(
                    fields["otherwise"].key.place,
                    "`otherwise` says whose the rest of a shared service or of a split by usage is, and this "
                    "is neither; write `shared: true`, or `team` instead of `otherwise`",
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
            by_usage=by_usage,
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

    def _by_usage(self, fields: Mapping[str, Field], split: Node, before: ByUsage | None) -> ByUsage:
        if before is None and "among" not in fields:
            self._mistake(
                split.place, "a split by usage is between teams that are named; write `among: [NAME, OTHER]`"
            )
        by_usage = before or ByUsage((), DRIVERS[0], PERIODS[0])
        if "among" in fields:
            by_usage = replace(by_usage, among=self._among(fields))
        if "driver" in fields:
            by_usage = replace(by_usage, driver=self._one_of(DRIVERS, fields["driver"]))
        if "period" in fields:
            by_usage = replace(by_usage, period=self._one_of(PERIODS, fields["period"]))
        return by_usage

    def _among(self, fields: Mapping[str, Field]) -> tuple[str, ...]:
        teams: dict[str, Node] = {}
        for node in self._items(fields, "among", "teams such as [search, support]"):
            team = self._team(node)
            if team is None:
                continue
            first = teams.setdefault(team, node)
            if first is not node:
                self._mistake(
                    node.place,
                    f"team {shown(team)} is in `among` already at {first.place}; keep one of the two",
                )
        return tuple(sorted(teams))

    def _one_of(self, known: Sequence[str], field: Field) -> str | None:
        text = self._text(field.value, f"`{field.key.text}`")
        if text is not None and text not in known:
            instead = self._nearest(text, known) or f"write one of {', '.join(known)}"
            self._mistake(
                field.value.place, f"{shown(text)} is not a {field.key.text} of a split by usage; {instead}"
            )
        return text

    def _shares(self, node: Node) -> dict[str, Decimal]:
        if not isinstance(node, Map):
            self._mistake(
                node.place,
                f"`split` is `by_usage` or shares such as {{search: 0.6, support: 0.4}}, not {kind_of(node)}",
            )
            return {}
        mistakes_before = len(self.mistakes)
        fields = self._fields(node, None, "`split`")
        if not node.items:
            self._mistake(
                node.place, "`split` is empty; write shares that sum to 1, e.g. {search: 0.6, support: 0.4}"
            )
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

    def _selectors(self, service: str, fields: Mapping[str, Field]) -> list[Selector]:
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
        if self._is_too_large(node.place):
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
            tag_key = key_in_records(key.text)
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
