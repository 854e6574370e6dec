"""A deployment's configuration: three environment variables and `sources.yaml`, typed and validated.

Every mistake in the file is told at once, with the entry and the field. Secrets are never in the
file: a field that holds one is a reference to an environment variable, read when it is used.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, ClassVar

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from dagster_project.errors import ConfigError
from dagster_project.records import Kind
from dagster_project.terminal import plain

CHECKOUT = Path(__file__).resolve().parent.parent

DEFAULT_ACTIVE_TAGS = (
    "service",
    "feature",
    "team",
    "project",
    "environment",
    "customer",
    "experiment",
    "variant",
    "user_tier",
)


DEFAULT_TAG_VALUES = 10_000
"""Of one active tag on one day: what is above is an id, and every request would be a row of the rollup."""


def home() -> Path:
    """`CHARGEBACK_HOME`: lake, raw pages, build file and the published warehouse.

    Raises ConfigError for a path that the engine would take for a pattern or a quotation, and Dagster's
    database for an address (`%2F` is a slash there).
    """
    folder = Path(os.environ.get("CHARGEBACK_HOME") or CHECKOUT / "data").absolute()
    special = sorted(c for c in set(str(folder)) if c in "'\"*?[]{}\\%" or not c.isprintable())
    if special:
        raise ConfigError(
            "CHARGEBACK_HOME",
            [f"{plain(str(folder))} contains {plain(' '.join(special))}; choose another folder"],
        )
    return folder


def sources_file() -> Path:
    """`CHARGEBACK_SOURCES`: which sources this deployment pulls."""
    default = CHECKOUT / "dagster_project" / "sources.yaml"
    return Path(os.environ.get("CHARGEBACK_SOURCES") or default).absolute()


def ownership_folder() -> Path:
    """`CHARGEBACK_OWNERSHIP`: the folder of the ownership map."""
    return Path(os.environ.get("CHARGEBACK_OWNERSHIP") or CHECKOUT / "ownership_maps").absolute()


@dataclass(frozen=True)
class Secret:
    """A reference `${NAME}` to an environment variable; its value never shows in repr or errors."""

    variable: str

    def value(self, source: str) -> str:
        """The secret itself. Raises ConfigError when the variable is not set."""
        found = os.environ.get(self.variable)
        if not found:
            raise ConfigError(
                f"source `{source}`",
                [f"the environment variable {self.variable} is not set; export it and run again"],
            )
        return found


def _secret(raw: Any) -> Secret:
    reference = re.fullmatch(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", raw) if isinstance(raw, str) else None
    if isinstance(raw, Secret):
        return raw
    if reference is None:
        # The value is not repeated: it may be the secret itself.
        raise ValueError("a secret is written as ${ENVIRONMENT_VARIABLE}, never in this file")
    return Secret(reference[1])


SecretReference = Annotated[Secret, BeforeValidator(_secret)]


def _expanded(raw: Any) -> Any:
    """`${NAME}` in paths and addresses is replaced from the environment when the file is read."""

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1])
        if found is None:
            raise ValueError(f"the environment variable {match[1]} is not set")
        return found

    return re.sub(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", value, raw) if isinstance(raw, str) else raw


Text = Annotated[str, BeforeValidator(_expanded)]
"""A plain setting in which `${NAME}` may stand for an environment variable that is no secret."""


class Strict(BaseModel):
    """A piece of configuration: unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


def _not_taken(name: str) -> str:
    if name in ("config", "context", "warehouse", "rate_card", "ownership_map", "dbt_build"):
        raise ValueError(f"`{name}` is the name of something else here; choose another")
    return name


class Entry(Strict):
    """What every entry of sources.yaml has. A source module's own `Entry` adds its fields."""

    name: Annotated[str, AfterValidator(_not_taken)] = Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=60)
    type: str
    start_date: date
    restates_days: int | None = Field(default=None, ge=1)
    """How many of the last days each daily run pulls again; the module's own figure when unset."""

    provider: ClassVar[str | None] = None
    """Who bills what this source reports; None for a gateway."""

    @property
    def kinds(self) -> tuple[Kind, ...] | None:
        """The kinds of its records, where not all entries of the type have the same."""
        return None

    def require_secrets(self) -> None:
        """Raises ConfigError when an environment variable that a secret refers to is not set."""
        for field in type(self).model_fields:
            secret = getattr(self, field)
            if isinstance(secret, Secret):
                secret.value(self.name)


def _without_password(url: str) -> str:
    if "@" in url.partition("://")[2].partition("/")[0]:
        raise ValueError("an address holds no user or password; the secret belongs into api_key")
    return url


Address = Annotated[Text, AfterValidator(_without_password)]
"""The address of an HTTP API."""


class ProviderEntry(Entry):
    """An account at a provider, pulled with an administrator's key over HTTP."""

    base_url: Address
    api_key: SecretReference
    account: str | None = None
    """The organisation's name in our tables; the entry's name when unset."""
    timeout_seconds: float = Field(default=60, gt=0)
    max_attempts: int = Field(default=6, ge=1)

    @property
    def account_id(self) -> str:
        return self.account or self.name


class Route(Strict):
    """Which provider identity a gateway's traffic uses: all conditions given must hold.

    `model` and `deployment` may be globs. A route with more conditions wins.
    """

    provider: str
    model: str | None = None
    deployment: str | None = None
    account: str | None = None
    provider_project: str | None = None
    api_key: str | None = None


class GatewayEntry(Entry):
    """A gateway whose request log is read, from files or from a database."""

    routes: tuple[Route, ...] = ()
    tag_aliases: dict[str, str] = {}
    """Tag keys of this gateway's callers, and the well-known keys that they mean: `{squad: team}`.

    They hold for this entry's records only, before those that hold everywhere. The ownership map is for all
    sources and read without them: its selectors name what records have (`team`)."""


Share = Annotated[Decimal, Field(ge=0, le=1)]
"""A part of something, 0 to 1."""


class Coverage(Strict):
    """How much of the latest month's dollars may be known badly before a check warns; nothing is blocked."""

    unowned_share: Share = Decimal("0.02")
    """Without an owner."""
    conflict_share: Share = Decimal("0.01")
    """Paid by another team than the one that the tags name."""
    untagged_share: dict[str, Share] = {}
    """Without the tag, by active tag key; tags that are not named are expected of nobody."""
    unexplained_share: Share = Decimal("0.02")
    """Billed without usage, or used without a bill."""
    mispriced_share: Share = Decimal("0.05")
    """Billed above or below our prices."""
    stale_after_days: int = Field(default=60, ge=1)
    """A rule that matched nothing in so many days of data is in `stale_rules`."""
    new_after_days: int = Field(default=7, ge=1)
    """A key is in `new_keys` for so many days of data."""


DEFAULT_COVERAGE = Coverage()


class Guards(Strict):
    """What no bill of a working source looks like: beyond it, nothing is published or replaced."""

    smallest_day_share: Share = Decimal("0.1")
    """Of the usual number of rows that a day has to have, to replace a day that has more."""
    price_factor: Decimal = Field(default=Decimal(50), gt=1, max_digits=9, decimal_places=2)
    """Times that a day's billed price of a meter may be above or below the one that is known."""
    unpriced_share: Share = Decimal("0.25")
    """Of a month's tokens that no bill pays and no price rates."""


DEFAULT_GUARDS = Guards()


class Retention(Strict):
    """For how many days before today what tells of single calls and answers is kept; unset, for ever.

    No number is made of it: rollups stay.
    """

    request_days: int | None = Field(default=None, ge=1)
    """Of request records, one per call."""
    raw_days: int | None = Field(default=None, ge=1)
    """Of the answers of APIs, as they came (`raw/`)."""

    def first_request_day(self, today: date) -> date:
        """The first day whose request records are kept."""
        return _days_before(today, self.request_days)

    def first_raw_day(self, today: date) -> date:
        """The first day whose answers are kept."""
        return _days_before(today, self.raw_days)


def _days_before(today: date, days: int | None) -> date:
    return date.min if days is None else today - timedelta(days=days)


KEEP_ALL = Retention()


class Journal(Strict):
    """Accounts of the general ledger that a closed month is booked to."""

    expense_account: str = Field(min_length=1)
    """Debited for what teams pay."""
    payable_account: str = Field(min_length=1)
    """Credited for what providers bill."""
    accrual_account: str = Field(min_length=1)
    """Credited for what was closed before its bill was in."""
    expense_accounts: dict[str, str] = {}
    """By team, where it is another: e.g. the asset account of the team that keeps prepaid credits."""
    payable_accounts: dict[str, str] = {}
    """By provider, where it is another."""


@dataclass(frozen=True)
class Settings:
    """`sources.yaml`, validated. Made by `load`."""

    entries: Mapping[str, Entry]
    active_tags: tuple[str, ...]
    coverage: Coverage = DEFAULT_COVERAGE
    guards: Guards = DEFAULT_GUARDS
    journal: Journal | None = None
    retention: Retention = KEEP_ALL
    tag_values: int = DEFAULT_TAG_VALUES
    overlaps: tuple[tuple[str, ...], ...] = ()
    """Lists of sources that log the same calls; the one that stands first speaks."""


class _Loader(yaml.SafeLoader):
    """YAML in which a key that stands twice is a mistake, not the last one's win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem="a key stands twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Document(Strict):
    sources: dict[str, dict[str, Any]]
    active_tags: tuple[str, ...] = DEFAULT_ACTIVE_TAGS
    tag_values: int = Field(default=DEFAULT_TAG_VALUES, ge=1)
    overlaps: tuple[tuple[str, ...], ...] = ()
    coverage: Coverage = DEFAULT_COVERAGE
    guards: Guards = DEFAULT_GUARDS
    journal: Journal | None = None
    retention: Retention = KEEP_ALL


def load(path: Path, entry_types: Mapping[str, type[Entry]]) -> Settings:
    """Read sources.yaml. `entry_types` says which model each `type` has.

    Raises ConfigError with every mistake, each naming its entry and field.
    """
    try:
        top = _Document.model_validate(_read(path))
    except ValidationError as error:
        raise ConfigError(str(path), _readable(error)) from None

    entries: dict[str, Entry] = {}
    problems = list(_overlap_problems(top))
    problems += [
        f"coverage.untagged_share: `{key}` is not one of active_tags; {nearest(key, top.active_tags)}"
        for key in top.coverage.untagged_share
        if key not in top.active_tags
    ]
    for name, fields in top.sources.items():
        kind = fields.get("type", name)
        if not isinstance(kind, str) or kind not in entry_types:
            known = ", ".join(sorted(entry_types))
            problems.append(f"{name}: there is no source type `{kind}`; the types are {known}")
            continue
        try:
            entries[name] = entry_types[kind].model_validate({**fields, "name": name, "type": kind})
        except ValidationError as error:
            problems.extend(f"{name}: {problem}" for problem in _readable(error))
    accounts: dict[tuple[str | None, str], str] = {}
    for name, entry in entries.items():
        if isinstance(entry, ProviderEntry):
            other = accounts.setdefault((entry.provider, entry.account_id), name)
            if other != name:
                problems.append(
                    f"{name}: `{other}` pulls the account {entry.account_id} of {entry.provider}, too; "
                    "its bill would count twice"
                )
    if not problems:
        try:
            entries = {name: _with_accounts(entry, entries) for name, entry in entries.items()}
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError(str(path), problems)
    return Settings(
        entries,
        top.active_tags,
        top.coverage,
        top.guards,
        top.journal,
        top.retention,
        top.tag_values,
        top.overlaps,
    )


def _overlap_problems(top: _Document) -> Iterator[str]:
    said = [name for declared in top.overlaps for name in declared]
    for name in sorted(set(said)):
        if name not in top.sources:
            yield f"overlaps: there is no source `{name}`; {nearest(name, list(top.sources))}"
        elif said.count(name) > 1:
            yield f"overlaps: `{name}` stands twice; put all sources of the same calls into one list"
    if any(len(declared) < 2 for declared in top.overlaps):
        yield "overlaps: a list needs two sources or more"


def nearest(word: str, known: Sequence[str]) -> str:
    """What to say after a name that is not `known`."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean `{near[0]}`?" if near else f"those are {', '.join(known)}"


def _read(path: Path) -> object:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise ConfigError(
            str(path), [f"{error.strerror}; set CHARGEBACK_SOURCES to your sources.yaml"]
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(str(path), ["not readable as YAML: it is not UTF-8"]) from None
    except yaml.MarkedYAMLError as error:
        # The parser's own message quotes the line, which may hold a secret.
        mark = error.problem_mark
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise ConfigError(str(path), [f"not readable as YAML: {error.problem}{place}"]) from None


def _with_accounts(entry: Entry, entries: Mapping[str, Entry]) -> Entry:
    """A route that names no account means the only configured account of its provider."""
    if not isinstance(entry, GatewayEntry):
        return entry
    routes = []
    for route in entry.routes:
        accounts = [
            other.account_id
            for other in entries.values()
            if isinstance(other, ProviderEntry) and other.provider == route.provider
        ]
        if route.account is None and len(accounts) > 1:
            raise ValueError(
                f"{entry.name}: routes: {route.provider} has the accounts {', '.join(accounts)}; "
                "say which with `account:`"
            )
        routes.append(
            route if route.account or not accounts else route.model_copy(update={"account": accounts[0]})
        )
    return entry.model_copy(update={"routes": tuple(routes)})


def _readable(error: ValidationError) -> list[str]:
    """Each mistake as `field: what is wrong`; the offending value is left out, it may be a secret."""
    return [
        f"{'.'.join(str(part) for part in mistake['loc']) or 'file'}: {mistake['msg']}"
        for mistake in error.errors(include_input=False, include_url=False)
    ]
