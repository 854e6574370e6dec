"""`chargeback check-map`: whether the ownership map is good, and what an edit of it would move.

The map alone needs nothing but its folder. The dollars come from a published warehouse: its copy gets the
edited map, and the same dbt models that the next build runs, so that they are what it will say. All of it
happens in a temporary folder; of the deployment nothing is written.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory

import duckdb
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dagster_project import ownership, settings
from dagster_project.errors import ChargebackError, ConfigError
from dagster_project.lake import Lake
from dagster_project.ownership import Mistake, OwnershipError, OwnershipMap, files_of
from dagster_project.terminal import cell, counted, dollars, jsonable, plain, usd

# From the map's first reader to the marts' common source; the rest follows from that.
MODELS = "int_asked_by_map+,+fct_cost_allocations"

MOST_SHOWN = 10
"""Identities that change hands, in text; JSON has all."""


class NotCompared(ChargebackError):
    """The map is good, but what it would move could not be found out."""

    exit_code = 2

    def __init__(self, warehouse: Path, why: str) -> None:
        super().__init__(
            f"the map has no mistakes, but it could not be compared with {warehouse}: {plain(why)}. "
            "If another version built that file, run `chargeback build`; --no-warehouse checks the map alone"
        )


@dataclass(frozen=True)
class TeamMonth:
    """Dollars of a team in a UTC month; None where nothing of it has a price, 0 where it has nothing."""

    month: date
    team: str
    before_usd: Decimal | None
    after_usd: Decimal | None
    change_usd: Decimal


@dataclass(frozen=True)
class Deleted:
    """A service that the map no longer has, and what it cost in the open months."""

    service: str
    place_before: str
    cost_usd: Decimal | None


@dataclass(frozen=True)
class Idle:
    """A rule that owns nothing, but owned `cost_before_usd`; or a new one that no cost matches."""

    rule: str
    place: str
    is_new: bool
    cost_before_usd: Decimal | None


@dataclass(frozen=True)
class Moved:
    """Dollars of `team` that nobody owned before, or nobody owns now; `identity` is what is known of them."""

    team: str
    cost_usd: Decimal | None
    identity: dict[str, str]


@dataclass(frozen=True)
class Comparison:
    """What the edited map changes in the open months of `warehouse`; without closed ones, these are all."""

    warehouse: str
    teams: Sequence[TeamMonth]
    deleted_services: Sequence[Deleted]
    idle_rules: Sequence[Idle]
    newly_owned: Sequence[Moved]
    newly_unowned: Sequence[Moved]

    def warnings(self) -> Iterator[str]:
        for gone in self.deleted_services:
            yield (
                f"service `{gone.service}` ({gone.place_before}) is deleted, but {dollars(gone.cost_usd)} "
                "of the open months are its; keep it and end its period with `history` if it was moved"
            )
        for idle in self.idle_rules:
            if idle.is_new:
                yield f"new rule `{idle.rule}` ({idle.place}) owns nothing: no cost matches it"
            else:
                had = dollars(idle.cost_before_usd)
                yield f"rule `{idle.rule}` ({idle.place}) owns nothing any more; it had {had}"


@dataclass(frozen=True)
class Checked:
    """A map that was read. `comparison` is None with mistakes, or where there is no warehouse."""

    folder: Path
    files: int
    teams: int
    services: int
    selectors: int
    mistakes: Sequence[Mistake]
    comparison: Comparison | None

    def to_json(self) -> str:
        """The fields of this class and of `Comparison`; money as decimal text, days as ISO text."""
        said = asdict(self) | {
            "mistakes": [{**m.place._asdict(), "message": m.what} for m in self.mistakes],
            "warnings": list(self.comparison.warnings()) if self.comparison else [],
        }
        # A log reader would take `##[` for a command, wherever it stands.
        return json.dumps(said, indent=2, default=jsonable).replace("##[", r"#\u0023[")


def check(folder: Path, warehouse: Path | None) -> Checked:
    """Read the map, and, if it is good, compare it with the published file `warehouse`.

    Raises ConfigError where either is missing, and NotCompared.
    """
    if not folder.is_dir():
        raise ConfigError(
            plain(str(folder)),
            ["there is no such folder; name the folder of the ownership map, or set CHARGEBACK_OWNERSHIP"],
        )
    if warehouse is not None and not warehouse.is_file():
        raise ConfigError(
            plain(str(warehouse)), ["there is no such file; name a published warehouse, or --no-warehouse"]
        )
    files = sum(not isinstance(found, Mistake) for found in files_of(folder))
    try:
        owners = ownership.load(folder)
    except OwnershipError as error:
        return Checked(folder, files, 0, 0, 0, error.mistakes, None)
    return Checked(
        folder,
        files,
        len(owners.teams),
        len(owners.services),
        sum(len(service.selectors) for service in owners.services.values()),
        (),
        _compare(owners, warehouse) if warehouse else None,
    )


def _compare(owners: OwnershipMap, warehouse: Path) -> Comparison:
    with TemporaryDirectory(prefix="chargeback-") as scratch:
        copy = Lake(Path(scratch))
        copy.build.parent.mkdir()
        shutil.copyfile(warehouse, copy.build)
        copy.root.mkdir()
        for name, table in owners.tables().items():
            table.write_parquet(copy.table(name))
        try:
            with duckdb.connect(str(copy.build)) as build:
                build.execute("create schema before")
                build.execute("create table before.allocations as from fct_cost_allocations")
                build.execute("create table before.services as from dim_services")
                build.execute(
                    "create table before.rules as select service as rule from dim_services "
                    "union select service from intermediate.int_selectors_used"
                )
            _run_models(copy, warehouse)
            with duckdb.connect(str(copy.build), read_only=True) as build:
                return Comparison(
                    str(warehouse),
                    _teams(build),
                    _deleted(build, owners),
                    _idle(build, owners),
                    _moved(build, unowned="before.allocations", owned="main.fct_cost_allocations"),
                    _moved(build, unowned="main.fct_cost_allocations", owned="before.allocations"),
                )
        except duckdb.Error as error:
            raise NotCompared(warehouse, str(error).partition("\n")[0]) from None


def _run_models(scratch: Lake, warehouse: Path) -> None:
    project = str(settings.CHECKOUT / "dbt")
    finished = subprocess.run(
        [
            *(str(Path(sys.executable).with_name("dbt")), "--no-use-colors", "run", "--select", MODELS),
            *("--project-dir", project, "--profiles-dir", project),
            *("--target-path", str(scratch.home / "target"), "--log-path", str(scratch.home / "logs")),
        ],
        env={**os.environ, "CHARGEBACK_HOME": str(scratch.home)},
        capture_output=True,
        text=True,
        check=False,
    )
    if finished.returncode != 0:
        told = [re.sub(r"^[0-9:]{8} +", "", line) for line in finished.stdout.splitlines()]
        start = next((n for n, line in enumerate(told) if "Error" in line), 0)
        raise NotCompared(warehouse, "dbt said " + " ".join(line.strip() for line in told[start : start + 4]))


def _teams(build: duckdb.DuckDBPyConnection) -> list[TeamMonth]:
    monthly = (
        "select date_trunc('month', usage_date)::date as month, team, sum(cost_usd) as usd, count(*) as n"
    )
    rows = build.execute(
        f"""
        select
            month,
            team,
            case when before.n is null then 0 else before.usd end as before_usd,
            case when after.n is null then 0 else after.usd end as after_usd,
            coalesce(after.usd, 0) - coalesce(before.usd, 0) as change_usd
        from ({monthly} from before.allocations group by all) as before
        full join ({monthly} from main.fct_cost_allocations group by all) as after using (month, team)
        order by month, after_usd desc nulls last, team
        """
    ).fetchall()
    return [TeamMonth(*row) for row in rows]


def _deleted(build: duckdb.DuckDBPyConnection, owners: OwnershipMap) -> list[Deleted]:
    rows = build.execute(
        """
        select services.service, services.place, sum(allocations.cost_usd)
        from before.services
        inner join before.allocations on services.service = allocations.rule
        group by all
        order by all
        """
    ).fetchall()
    return [Deleted(*row) for row in rows if row[0] not in owners.services]


def _idle(build: duckdb.DuckDBPyConnection, owners: OwnershipMap) -> list[Idle]:
    cost_before = dict(
        build.execute("select rule, sum(cost_usd) from before.allocations group by rule").fetchall()
    )
    known = {rule for (rule,) in build.execute("select rule from before.rules").fetchall()}
    # What is shared works although tags decide.
    useful = {
        rule
        for (rule,) in build.execute(
            "select rule from main.fct_cost_allocations union select rule "
            "from intermediate.int_identities_resolved where outcome = 'shared: tags decide'"
        ).fetchall()
    }
    # A policy may leave a line to its user.
    matched = {
        rule
        for (rule,) in build.execute(
            "select rule from intermediate.int_policies_matched where precedence = 1"
        ).fetchall()
    }
    places = {service.name: service.place for service in owners.services.values()}
    places |= {team.rule: team.place for team in owners.teams.values()}
    places |= {s.policy_rule: s.place for policy in owners.policies for s in policy.selectors}
    teams = {team.rule for team in owners.teams.values()}
    return [
        Idle(rule, place.row, rule not in cost_before, cost_before.get(rule))
        for rule, place in places.items()
        if rule not in useful and (rule in cost_before or rule not in known | teams | matched)
    ]


def _moved(build: duckdb.DuckDBPyConnection, *, unowned: str, owned: str) -> list[Moved]:
    """What has no owner in one table and has one in the other: a fragment is in both, under one id."""
    known = [name for (name, *_) in build.execute("describe before.allocations").fetchall()]
    asked = [name for (name, *_) in build.execute("describe main.dim_identities").fetchall()]
    columns = [name for name in asked if name in known and name != "identity_id"]
    rows = build.execute(
        f"""
        select team, sum(cost_usd) as cost_usd, {", ".join(columns)}
        from {owned} as owned
        where
            team <> 'unallocated'
            and concat(split_part(allocation_id, '/', 1), '/unallocated') in (
                select allocation_id from {unowned} where team = 'unallocated'
            )
        group by all
        order by abs(sum(cost_usd)) desc nulls last, team, {", ".join(columns)}
        """
    ).fetchall()
    return [
        Moved(team, cost, {k: v for k, v in zip(columns, values, strict=True) if v is not None})
        for team, cost, *values in rows
    ]


def show(checked: Checked, out: Console) -> None:
    """Print it for people; in GitHub Actions also as annotations on the lines of the map."""
    if os.environ.get("GITHUB_ACTIONS") != "true":
        _show(checked, out)
        return
    # Names in the map may look like commands to the runner, which is told not to listen meanwhile.
    deaf = token_hex(16)
    _line(out, f"::stop-commands::{deaf}")
    _show(checked, out)
    _line(out, f"::{deaf}::")
    for mistake in checked.mistakes:
        _line(out, _annotation(mistake, checked.folder))
    for warning in checked.comparison.warnings() if checked.comparison else ():
        _line(out, f"::warning title=ownership map::{_message(warning)}")


def _annotation(mistake: Mistake, folder: Path) -> str:
    file, line, column = mistake.place
    path = folder.resolve().parent / file
    workspace = Path(os.environ.get("GITHUB_WORKSPACE") or Path.cwd()).resolve()
    if path.is_relative_to(workspace):
        path = path.relative_to(workspace)
    where = f"file={_property(str(path))},line={line},col={column}"
    return f"::error {where}::{_message(mistake.what)}"


def _message(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")


def _line(out: Console, text: str) -> None:
    out.print(Text(plain(text)), soft_wrap=True, highlight=False)


def _show(checked: Checked, out: Console) -> None:
    if checked.mistakes:
        _show_mistakes(checked.mistakes, out)
        return
    _line(
        out,
        f"{checked.folder}: no mistakes in {counted(checked.files, 'file')}: "
        f"{counted(checked.teams, 'team')}, {counted(checked.services, 'service')}, "
        f"{counted(checked.selectors, 'selector')}",
    )
    if checked.comparison is None:
        _line(out, "not compared with a warehouse")
    else:
        _show_comparison(checked.comparison, out)


def _show_mistakes(mistakes: Sequence[Mistake], out: Console) -> None:
    files: dict[str, list[Mistake]] = {}
    for mistake in mistakes:
        files.setdefault(mistake.place.file, []).append(mistake)
    for file, found in files.items():
        _line(out, file)
        places = [f"{m.place.line}:{m.place.column}" for m in found]
        for place, mistake in zip(places, found, strict=True):
            _line(out, f"  {place:<{max(map(len, places))}}  {mistake.what}")
        _line(out, "")
    _line(out, f"{counted(len(mistakes), 'mistake')} in {counted(len(files), 'file')}")


def _show_comparison(comparison: Comparison, out: Console) -> None:
    months: dict[date, list[TeamMonth]] = {}
    for row in comparison.teams:
        months.setdefault(row.month, []).append(row)
    moving = {month: rows for month, rows in months.items() if any(row.change_usd for row in rows)}
    for month, rows in moving.items():
        table = Table(f"{month:%Y-%m}")
        for heading in ("before", "after", "change (USD)"):
            table.add_column(heading, justify="right", no_wrap=True)
        for row in rows:
            change = f"{'+' if row.change_usd > 0 else ''}{usd(row.change_usd)}" if row.change_usd else ""
            table.add_row(cell(row.team), usd(row.before_usd), usd(row.after_usd), change)
        out.print(table)
    if still := [f"{month:%Y-%m}" for month in months if month not in moving]:
        _line(out, f"no team's dollars change in {still[0]}{f' .. {still[-1]}' if len(still) > 1 else ''}")
    for title, moves in (
        ("now owned", comparison.newly_owned),
        ("without an owner now", comparison.newly_unowned),
    ):
        for move in moves[:MOST_SHOWN]:
            _line(out, f"{title}: {dollars(move.cost_usd)}, {move.team}: {' / '.join(_words(move.identity))}")
        if len(moves) > MOST_SHOWN:
            _line(out, f"{title}: and {counted(len(moves) - MOST_SHOWN, 'other')} (--json has all)")
    for warning in comparison.warnings():
        _line(out, f"warning: {warning}")


def _words(identity: dict[str, str]) -> Iterator[str]:
    """Each thing once: by its name where it has one, else by its id."""
    for column, value in identity.items():
        if not (column.endswith("_id") and column.removesuffix("_id") + "_name" in identity):
            yield value
