"""The sources: one module each. A module whose name starts with `_` is shared, not a source.

A source module is all that a new system needs, besides an entry in sources.yaml and a folder in
tests/fixtures. It defines

    KINDS           the kinds of record that it may yield
    TELLS           what can be learned from it: bill, usage, api key, caller, tags, reported cost
    READS           what it reads, in one line of Markdown
    RESTATES_DAYS   how many of the last days may still change, so the daily run pulls them again
    KEEPS_RAW       whether what `fetch` wrote is kept under raw/ (never where a prompt could be in it)
    Entry           the model of its entry in sources.yaml
    fetch(entry, days, raw)
                    all the I/O and none of the meaning: writes what the source says for those days
                    into the empty folder `raw`
    parse(entry, days, raw, connection)
                    all the meaning and none of the I/O: returns `Parsed`
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import duckdb
import polars as pl

from dagster_project import settings
from dagster_project.days import Days
from dagster_project.records import Kind

Records = pl.DataFrame | duckdb.DuckDBPyRelation

Told = Literal["bill", "usage", "api key", "caller", "tags", "reported cost"]
"""What a source may tell: what a provider bills, and what it says was used; by which of its keys; who called
a gateway, with which tags; and what the gateway thinks it cost.
"""

NamedKind = Literal["project", "api_key", "principal", "gateway_key", "gateway_team"]


class Name(NamedTuple):
    """What a listing calls a thing now; None where it has no name. A gateway's things have no provider."""

    kind: NamedKind
    id: str
    name: str | None
    provider: str | None = None
    account_id: str | None = None


@dataclass(frozen=True)
class Parsed:
    """What a source yields: for each of its kinds all records (of the asked days and their neighbours).

    A frame comes from `records.frame`; a relation has the columns of `records.COLUMNS` by name.
    `counts` are figures worth seeing beside the records, e.g. line items that could not be parsed.
    """

    records: Mapping[Kind, Records]
    counts: Mapping[str, int] = field(default_factory=dict)
    days_without_files: Collection[date] = ()
    """Days of which there is nothing to read any more, not even something empty: logs are rotated away, and
    an API's history ends. What was read of them before stays."""
    names: Collection[Name] = ()
    """What the source's listings say as of the pull. A name that a record itself says is in the record."""
    problems: Collection[str] = ()
    """What keeps rows from being records. As long as there is one, a pull takes nothing."""


class Module(Protocol):
    KINDS: tuple[Kind, ...]
    TELLS: tuple[Told, ...]
    READS: str
    RESTATES_DAYS: int
    KEEPS_RAW: bool
    Entry: type[settings.Entry]

    def fetch(self, entry: settings.Entry, days: Days, raw: Path) -> None: ...

    def parse(
        self,
        entry: settings.Entry,
        days: Days,
        raw: Path,
        connection: duckdb.DuckDBPyConnection,
    ) -> Parsed: ...


@dataclass(frozen=True)
class Source:
    """An entry of sources.yaml together with the module that serves it."""

    entry: settings.Entry
    module: Module

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return self.entry.kinds or self.module.KINDS

    @property
    def restates_days(self) -> int:
        return self.entry.restates_days or self.module.RESTATES_DAYS

    def days_of(self, days: Days) -> Days | None:
        """Those of `days` that are not before the source's start; None if all are."""
        first = max(days.first, self.entry.start_date)
        return Days(first, days.last) if first <= days.last else None

    def look_back(self, today: date) -> Days | None:
        """What a daily run pulls: `today`, which has just begun, and the days that may be restated."""
        return self.days_of(Days(today - timedelta(days=self.restates_days), today))


@cache
def modules() -> Mapping[str, Module]:
    """Every source module of this folder, by name."""
    return {
        info.name: importlib.import_module(f"{__name__}.{info.name}")
        for info in pkgutil.iter_modules(__path__)
        if not info.name.startswith("_")
    }


def types() -> Iterator[tuple[str, str, str, str]]:
    """Every type of source: its name, the kinds of its records, what it tells, and what it reads."""
    for name, module in modules().items():
        yield (
            name,
            ", ".join(f"{kind}s" if kind != "usage" else kind for kind in module.KINDS),
            ", ".join(module.TELLS),
            module.READS,
        )


def load_settings() -> settings.Settings:
    """The configured sources.yaml. Raises ConfigError."""
    types = {name: module.Entry for name, module in modules().items()}
    return settings.load(settings.sources_file(), types)


def configured() -> Mapping[str, Source]:
    """The sources of this deployment, by name. Raises ConfigError."""
    return {name: Source(entry, modules()[entry.type]) for name, entry in load_settings().entries.items()}
