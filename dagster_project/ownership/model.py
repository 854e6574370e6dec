"""The ownership map as values and as the tables that the warehouse joins."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import polars as pl

from dagster_project.errors import ChargebackError

LEVELS: Mapping[str, int] = {
    "gateway_key": 10,
    "gateway_user": 11,
    "gateway_team": 12,
    "api_key": 20,
    "principal": 21,
    "provider_project": 30,
    "account": 40,
    "gateway": 50,
    "provider": 50,
    "model": 50,
    "line_item": 50,
}
"""The keys of a selector besides `tag`, and their levels."""

POLICY_LEVELS: Mapping[str, int] = {"line_item": 10, "category": 20, "account": 30, "provider": 40}
"""The keys of a policy's selector, and their levels."""

CLAIM_LEVEL = 60
SERVICE_CLAIM_LEVEL = 61
TEAM_CLAIM_LEVEL = 62
IMPLIED_LEVELS = (SERVICE_CLAIM_LEVEL, TEAM_CLAIM_LEVEL)

OPEN_FROM = date.min
OPEN_TO = date.max

SHARE_DECIMALS = 12


class Place(NamedTuple):
    """Where something is written; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"

    @property
    def row(self) -> str:
        """`file:line`, as the marts show it."""
        return f"{self.file}:{self.line}"


class Mistake(NamedTuple):
    """What is wrong at a place, and what to write instead; one line."""

    place: Place
    what: str

    def __str__(self) -> str:
        return f"{self.place}: {self.what}"


class OwnershipError(ChargebackError):
    """The ownership map is wrong. `mistakes` are all of them, in the order of the files."""

    def __init__(self, folder: Path, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = tuple(sorted(mistakes))
        count = "1 mistake" if len(self.mistakes) == 1 else f"{len(self.mistakes)} mistakes"
        lines = "\n".join(map(str, self.mistakes))
        super().__init__(f"the ownership map in {folder} has {count}:\n{lines}")


@dataclass(frozen=True, slots=True)
class Condition:
    """One key of a selector. Tag keys are lower_snake_case, tag values lower case."""

    dimension: str
    tag_key: str | None
    value: str

    @property
    def is_glob(self) -> bool:
        return "*" in self.value or "?" in self.value

    @property
    def pattern(self) -> str:
        r"""The value, a glob or not, as a pattern of SQL's `LIKE ... ESCAPE '\'`."""
        literal = re.sub(r"[\\%_]", r"\\\g<0>", self.value)
        return literal.replace("*", "%").replace("?", "_")

    @property
    def like_pattern(self) -> str | None:
        """The pattern of a glob."""
        return self.pattern if self.is_glob else None


@dataclass(frozen=True, slots=True)
class Selector:
    """A way to recognise what belongs to `rule`: all conditions must hold."""

    selector_id: str
    rule: str
    place: Place
    level: int
    conditions: tuple[Condition, ...]

    @property
    def keys(self) -> int:
        return len(self.conditions)

    @property
    def exact_keys(self) -> int:
        return sum(not condition.is_glob for condition in self.conditions)

    @property
    def rank(self) -> tuple[int, int, int]:
        """Selectors of one rank are equally specific."""
        return self.level, self.keys, self.exact_keys

    @property
    def policy_rule(self) -> str:
        """The rule's name, where the selector is a policy's."""
        return f"policy:{self}"

    def patterns(self, keys: Iterable[str]) -> Iterator[str | None]:
        """The pattern of each key; None where the selector does not say it."""
        said = {condition.dimension: condition.pattern for condition in self.conditions}
        return (said.get(key) for key in keys)

    def __str__(self) -> str:
        said = [f"{c.dimension}: {c.value}" for c in self.conditions if c.tag_key is None]
        tags = [f"{c.tag_key}: {c.value}" for c in self.conditions if c.tag_key is not None]
        if tags:
            said.append(f"tag: {{{', '.join(tags)}}}")
        return f"{{{', '.join(said)}}}"


@dataclass(frozen=True, slots=True)
class ByUsage:
    """A split in proportion to what the teams `among` used in the same UTC month or day.

    `driver` is what is counted of their use: cost, tokens or requests. `among` is in order of name.
    """

    among: tuple[str, ...]
    driver: str
    period: str


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose a service is from `valid_from` (inclusive) to `valid_to` (exclusive), UTC days.

    `shares` by team sum to exactly 1, or are empty where the service has no fixed shares. `team` is None
    for those that do; for shared services it is the owner of what no tag claims, and for `by_usage` that
    of a period in which nobody used anything; None if there is none.
    `project` and `environment` are None where the map leaves them to the requests' tags.
    """

    place: Place
    valid_from: date
    valid_to: date
    team: str | None
    shares: Mapping[str, Decimal]
    by_usage: ByUsage | None
    is_shared: bool
    project: str | None
    environment: str | None

    @property
    def is_split(self) -> bool:
        return bool(self.shares) or self.by_usage is not None

    @property
    def shares_by_team(self) -> Iterable[tuple[str, Decimal | None]]:
        """Teams of a split; None is a share that the warehouse finds out."""
        return self.shares.items() if self.by_usage is None else ((t, None) for t in self.by_usage.among)


@dataclass(frozen=True, slots=True)
class Service:
    """A service; its `owners` follow each other without overlap or hole, the current one last.

    `lifecycle` is what Backstage says, e.g. experimental.
    """

    name: str
    place: Place
    lifecycle: str | None
    owners: tuple[Owner, ...]
    selectors: tuple[Selector, ...]


@dataclass(frozen=True, slots=True)
class PolicyTerms:
    """What a policy says from `valid_from` (inclusive) to `valid_to` (exclusive), UTC days.

    `policy` is user, central or proportional. `team` is who pays what is kept central, and what is
    proportional to nothing (None: nobody). `over` is account, provider or everything where it is
    proportional, else None.
    """

    place: Place
    valid_from: date
    valid_to: date
    policy: str
    team: str | None
    over: str | None


@dataclass(frozen=True, slots=True)
class Policy:
    """How lines of the bill are allocated that `selectors` match; `terms` follow each other like owners."""

    selectors: tuple[Selector, ...]
    terms: tuple[PolicyTerms, ...]


@dataclass(frozen=True, slots=True)
class Team:
    name: str
    place: Place
    cost_center: str | None
    owner: str | None
    channel: str | None

    @property
    def rule(self) -> str:
        """The implied rule that gives the team what is tagged with its name."""
        return f"team:{self.name}"


@dataclass(frozen=True)
class OwnershipMap:
    """The map, valid. Teams and services by name; environments by what callers write, in lower case."""

    teams: Mapping[str, Team]
    environments: Mapping[str, str]
    services: Mapping[str, Service]
    policies: tuple[Policy, ...]

    def selectors(self) -> Iterator[Selector]:
        """Those that are written, and those that every service and team has by its name."""
        for service in self.services.values():
            yield from service.selectors
            yield _implied("service", SERVICE_CLAIM_LEVEL, service.name, service.name, service.place)
        for team in self.teams.values():
            yield _implied("team", TEAM_CLAIM_LEVEL, team.name, team.rule, team.place)

    def tables(self) -> dict[str, pl.DataFrame]:
        """The map as the warehouse joins it: one frame per name in `TABLES`."""
        selectors = list(self.selectors())
        owners = [(s.name, s.name, owner) for s in self.services.values() for owner in s.owners]
        owners += [(team.rule, None, _whole(team)) for team in self.teams.values()]
        # Generators: of a large map, the rows of all tables together would be half of the memory.
        rows = {
            "ownership_selectors": (
                (
                    *(s.selector_id, s.rule, s.place.row, s.level, s.keys, s.exact_keys, len(s.conditions)),
                    *(str(s), s.level in IMPLIED_LEVELS),
                )
                for s in selectors
            ),
            "ownership_conditions": (
                (s.selector_id, c.dimension, c.tag_key, None if c.is_glob else c.value, c.like_pattern)
                for s in selectors
                for c in s.conditions
            ),
            "ownership_owners": (
                (
                    *(rule, o.valid_from, o.valid_to, service, o.team, o.project, o.environment),
                    *(o.is_shared, o.is_split, o.by_usage and o.by_usage.driver),
                    *(o.by_usage and o.by_usage.period, o.place.row),
                )
                for rule, service, o in owners
            ),
            "ownership_splits": (
                (rule, o.valid_from, o.valid_to, team, share)
                for rule, _, o in owners
                for team, share in o.shares_by_team
            ),
            "ownership_services": (
                (
                    *(s.name, None if now.is_shared or now.is_split else now.team),
                    *(now.project, now.environment, s.lifecycle, s.place.row),
                )
                for s in self.services.values()
                for now in s.owners[-1:]
            ),
            "ownership_environments": iter(self.environments.items()),
            "ownership_teams": (
                (t.name, t.cost_center, t.owner, t.channel, t.place.row) for t in self.teams.values()
            ),
            "ownership_policies": (
                (
                    *(s.policy_rule, *s.patterns(POLICY_LEVELS), s.level, s.keys, s.exact_keys),
                    *(t.valid_from, t.valid_to, t.policy, t.team, t.over, t.place.row),
                )
                for policy in self.policies
                for s in policy.selectors
                for t in policy.terms
            ),
        }
        return {
            name: pl.DataFrame(list(rows[name]), schema=schema, orient="row", strict=True)
            for name, schema in TABLES.items()
        }


TABLES: Mapping[str, Mapping[str, pl.DataType | type[pl.DataType]]] = {
    "ownership_selectors": {
        "selector_id": pl.String,
        "rule": pl.String,
        "place": pl.String,
        "level": pl.Int32,
        "keys": pl.Int32,
        "exact_keys": pl.Int32,
        "conditions": pl.Int32,
        "selector": pl.String,
        "is_implied": pl.Boolean,
    },
    "ownership_conditions": {
        "selector_id": pl.String,
        "dimension": pl.String,
        "tag_key": pl.String,
        "value": pl.String,
        "like_pattern": pl.String,
    },
    "ownership_owners": {
        "rule": pl.String,
        "valid_from": pl.Date,
        "valid_to": pl.Date,
        "service": pl.String,
        "team": pl.String,
        "project": pl.String,
        "environment": pl.String,
        "is_shared": pl.Boolean,
        "is_split": pl.Boolean,
        "split_driver": pl.String,
        "split_period": pl.String,
        "place": pl.String,
    },
    "ownership_splits": {
        "rule": pl.String,
        "valid_from": pl.Date,
        "valid_to": pl.Date,
        "team": pl.String,
        "share": pl.Decimal(18, SHARE_DECIMALS),
    },
    "ownership_services": {
        "service": pl.String,
        "team": pl.String,
        "project": pl.String,
        "environment": pl.String,
        "lifecycle": pl.String,
        "place": pl.String,
    },
    "ownership_environments": {"written": pl.String, "environment": pl.String},
    "ownership_teams": {
        "team": pl.String,
        "cost_center": pl.String,
        "owner": pl.String,
        "channel": pl.String,
        "place": pl.String,
    },
    "ownership_policies": {
        "rule": pl.String,
        **{f"{key}_like": pl.String for key in POLICY_LEVELS},
        "level": pl.Int32,
        "keys": pl.Int32,
        "exact_keys": pl.Int32,
        "valid_from": pl.Date,
        "valid_to": pl.Date,
        "policy": pl.String,
        "team": pl.String,
        "proportional_over": pl.String,
        "place": pl.String,
    },
}
"""Columns of each table; dates, teams of owners and what may be null as in `Owner`.

    ownership_selectors     one row per selector. `selector` is its text; `is_implied` ones are not written:
                            the name of a service or team as its tag
    ownership_conditions    one row per key of a selector; `value` or `like_pattern` is null
    ownership_owners        one row per rule and period. `is_split` by fixed shares, or, where
                            `split_driver` and `split_period` are not null, by usage
    ownership_splits        one row per rule, period and team of a split; `share` is null by usage
    ownership_services      one row per service, as it is now; `team` is null if it is split or shared
    ownership_environments  one row per word that callers write
    ownership_teams         one row per team
    ownership_policies      one row per selector of a policy and period of its terms; a pattern is null where
                            the selector does not say that key
"""


def _implied(tag_key: str, level: int, name: str, rule: str, place: Place) -> Selector:
    condition = Condition("tag", tag_key, name.lower())
    return Selector(f"{place}#{tag_key}", rule, place, level, (condition,))


def _whole(team: Team) -> Owner:
    return Owner(team.place, OPEN_FROM, OPEN_TO, team.name, {}, None, False, None, None)
