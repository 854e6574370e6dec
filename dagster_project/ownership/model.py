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

CLAIM_LEVEL = 60
SERVICE_CLAIM_LEVEL = 61
TEAM_CLAIM_LEVEL = 62

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
    def like_pattern(self) -> str | None:
        r"""A glob as a pattern of SQL's `LIKE ... ESCAPE '\'`."""
        if not self.is_glob:
            return None
        literal = re.sub(r"[\\%_]", r"\\\g<0>", self.value)
        return literal.replace("*", "%").replace("?", "_")

    def __str__(self) -> str:
        said = f"{self.dimension}: {self.value}"
        return said if self.tag_key is None else f"tag: {{{self.tag_key}: {self.value}}}"


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

    def __str__(self) -> str:
        return f"{{{', '.join(map(str, self.conditions))}}}"


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose a service is from `valid_from` (inclusive) to `valid_to` (exclusive), UTC days.

    `shares` by team sum to exactly 1, or are empty where the service is not split. `team` is None for
    split services; for shared ones it is the owner of what no tag claims, None if there is none.
    `project` and `environment` are None where the map leaves them to the requests' tags.
    """

    place: Place
    valid_from: date
    valid_to: date
    team: str | None
    shares: Mapping[str, Decimal]
    is_shared: bool
    project: str | None
    environment: str | None


@dataclass(frozen=True, slots=True)
class Service:
    """A service; its `owners` follow each other without overlap or hole, the current one last."""

    name: str
    place: Place
    owners: tuple[Owner, ...]
    selectors: tuple[Selector, ...]


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
        rows = {
            "ownership_selectors": [
                (s.selector_id, s.rule, s.place.row, s.level, s.keys, s.exact_keys, len(s.conditions))
                for s in selectors
            ],
            "ownership_conditions": [
                (s.selector_id, c.dimension, c.tag_key, None if c.is_glob else c.value, c.like_pattern)
                for s in selectors
                for c in s.conditions
            ],
            "ownership_owners": [
                (
                    *(rule, o.valid_from, o.valid_to, service, o.team, o.project, o.environment),
                    *(o.is_shared, bool(o.shares), o.place.row),
                )
                for rule, service, o in owners
            ],
            "ownership_splits": [
                (rule, o.valid_from, o.valid_to, team, share)
                for rule, _, o in owners
                for team, share in o.shares.items()
            ],
            "ownership_environments": list(self.environments.items()),
            "ownership_teams": [
                (t.name, t.cost_center, t.owner, t.channel, t.place.row) for t in self.teams.values()
            ],
        }
        return {
            name: pl.DataFrame(rows[name], schema=schema, orient="row", strict=True)
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
        "place": pl.String,
    },
    "ownership_splits": {
        "rule": pl.String,
        "valid_from": pl.Date,
        "valid_to": pl.Date,
        "team": pl.String,
        "share": pl.Decimal(18, SHARE_DECIMALS),
    },
    "ownership_environments": {"written": pl.String, "environment": pl.String},
    "ownership_teams": {
        "team": pl.String,
        "cost_center": pl.String,
        "owner": pl.String,
        "channel": pl.String,
        "place": pl.String,
    },
}
"""Columns of each table. `value` and `like_pattern`: one of them is null. Dates as in `Owner`."""


def _implied(tag_key: str, level: int, name: str, rule: str, place: Place) -> Selector:
    condition = Condition("tag", tag_key, name.lower())
    return Selector(f"{place}#{tag_key}", rule, place, level, (condition,))


def _whole(team: Team) -> Owner:
    return Owner(team.place, OPEN_FROM, OPEN_TO, team.name, {}, False, None, None)
