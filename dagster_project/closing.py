"""Month close: a UTC month whose numbers never move again, signed by a statement that ties them to the bills.

    $CHARGEBACK_HOME/closed/2026-10/
      allocations.parquet       fct_cost_allocations of the month: what every mart goes on saying of it
      statement.csv, .parquet   per team, cost centre, project, environment and account
      journal.csv               the same for the general ledger, where sources.yaml has a `journal:`
      closing.json              when, by whom, why, what was accepted, and the control totals
      ownership_map/            the map that decided
      SHA256SUMS                of all of these; `sha256sum --check SHA256SUMS` proves them

The folder is the only thing that says a month is closed; it appears in one rename and goes in one. Months are
closed in order. What changes later is booked in the first open month (`int_corrections`).
"""

from __future__ import annotations

import getpass
import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from importlib import metadata
from itertools import count, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import yaml

from dagster_project import journal, pulled_days, rates, settings, statement
from dagster_project.days import Days
from dagster_project.errors import ChargebackError, ConfigError
from dagster_project.lake import Lake, add_folder, replace_file
from dagster_project.ownership import Mistake, files_of
from dagster_project.sources import Source
from dagster_project.terminal import dollars, jsonable, plain

EMPTY = "_empty"
"""A folder beside the closed months that holds no allocations, so that dbt always has a table to read."""

_MARTS = settings.CHECKOUT / "dbt" / "models" / "marts"
_FROZEN = {
    "fct_cost_allocations": ("chargeback/chargeback.yml", "allocations.parquet"),
    "statements": ("finance/statements.yml", "statement.parquet"),
}
"""The marts of which a closed month keeps its rows: where their contract is, and the file."""

_ALWAYS_SIGNED = frozenset({"allocations.parquet", "statement.csv", "statement.parquet", "closing.json"})

CLOSINGS = {
    "month": pl.Date,
    "is_closed": pl.Boolean,
    "closed_at": pl.Datetime("us"),
    "closed_by": pl.String,
    "reason": pl.String,
    "accepted": pl.String,
    "allocations": pl.Int64,
    "cost_usd": pl.Decimal(38, 12),
    "billed_usd": pl.Decimal(38, 12),
    "estimated_usd": pl.Decimal(38, 12),
    "corrections_usd": pl.Decimal(38, 12),
    "statement_sha256": pl.String,
    "reopened_at": pl.Datetime("us"),
    "reopened_by": pl.String,
    "reopened_reason": pl.String,
}


class NotClosed(ChargebackError):
    """A month that cannot be closed, or reopened, as asked, and all reasons. Nothing was changed."""

    def __init__(self, month: date, problems: Sequence[str], remedy: str) -> None:
        told = "".join(f"\n  - {problem}" for problem in problems)
        super().__init__(f"{month:%Y-%m} stays as it is:{told}\n{remedy}")


class Damaged(ChargebackError):
    """A file of a closed month is not what was signed."""

    def __init__(self, folder: Path, file: str) -> None:
        super().__init__(
            f"{folder / file} is missing or is not what was signed (SHA256SUMS): put the file back from a "
            f"backup, or `chargeback reopen {folder.name}`"
        )


class Lost(ChargebackError):
    """A closing that was known before is neither closed nor reopened now."""

    def __init__(self, lake: Lake, months: Sequence[date]) -> None:
        told = ", ".join(f"{month:%Y-%m}" for month in months)
        super().__init__(
            f"what was signed of {told} is neither in {lake.closed} nor in {lake.reopened}: put the folder "
            f"back from a backup, or remove {lake.table('closings')} to go on without it"
        )


class Stranger(ChargebackError):
    """A folder among the closed months that is none."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"{folder} is no closed month, such as 2026-10; move it elsewhere")


@dataclass(frozen=True)
class Closed:
    """A month that has just been closed, and where its statement is."""

    month: date
    folder: Path
    totals: statement.Totals
    accepted: Sequence[str]
    has_journal: bool


def month_of(text: str) -> date:
    """The first day of a month written like 2026-10. Raises ValueError."""
    return datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC).date()


def closed_months(lake: Lake) -> list[date]:
    """The closed months, in order. Raises Stranger."""
    return list(_closed_folders(lake))


def tables(lake: Lake) -> Mapping[str, pl.DataFrame]:
    """What dbt reads of closings: `closed_months`, and `closings` with those that were reopened.

    Raises Damaged when a closed month's files are not those that were signed, Lost, and Stranger.
    """
    folders = _closed_folders(lake).values()
    for folder in folders:
        _verify(folder)
    closings = [_said(folder, "closing.json") for folder in folders]
    undone = [_said(file.parent, file.name) for file in lake.reopened.glob("*/reopening.json")]
    rows = [
        {**closing, "is_closed": is_closed, "accepted": "; ".join(closing["accepted"]) or None}
        for is_closed, those in ((True, closings), (False, undone))
        for closing in those
    ]
    data = {name: [_typed(kind, row.get(name)) for row in rows] for name, kind in CLOSINGS.items()}
    frame = pl.DataFrame(data, schema=CLOSINGS)
    _refuse_lost(lake, frame)
    return {
        "closed_months": frame.filter("is_closed").select("month").sort("month"),
        "closings": frame.sort("month", "closed_at"),
    }


def _refuse_lost(lake: Lake, closings: pl.DataFrame) -> None:
    """The last build knew of as many closings of each month, or of fewer."""
    file = lake.table("closings")
    known = Counter(pl.read_parquet(file)["month"]) if file.exists() else Counter()
    if lost := known - Counter(closings["month"]):
        raise Lost(lake, sorted(lost))


def prepare(lake: Lake) -> None:
    """Write what dbt reads while no month is closed: files with the marts' columns and no row."""
    folder = lake.closed / EMPTY
    folder.mkdir(parents=True, exist_ok=True)
    with lake.scratch() as scratch, duckdb.connect() as engine:
        for mart, (contract, name) in _FROZEN.items():
            file = scratch / name
            columns = ", ".join(f'null::{kind} as "{column}"' for column, kind in _columns(contract, mart))
            engine.execute(f"copy (select {columns} limit 0) to '{file}' (format parquet)")
            file.replace(folder / name)


def _columns(contract: str, mart: str) -> list[tuple[str, str]]:
    """Name and type of a mart's columns, as its contract has them."""
    models = yaml.safe_load((_MARTS / contract).read_text(encoding="utf-8"))["models"]
    (columns,) = (model["columns"] for model in models if model["name"] == mart)
    return [(column["name"], column["data_type"]) for column in columns]


def refuse_out_of_order(lake: Lake, month: date, today: date) -> None:
    """Raises NotClosed for a month that is not over, is closed, or is not the next one."""
    closed = closed_months(lake)
    if month in closed:
        raise NotClosed(
            month, ["it is closed"], f"What changed since is booked in {_after(closed[-1]):%Y-%m}."
        )
    if month >= today.replace(day=1):
        raise NotClosed(month, [f"it is not over: today is {today} (UTC)"], "Close it when it is.")
    if closed and month != _after(closed[-1]):
        raise NotClosed(
            month,
            [f"months are closed in order, and {_after(closed[-1]):%Y-%m} is open"],
            "Close that one first.",
        )


def doubts_of_pulls(lake: Lake, month: date, configured: Mapping[str, Source]) -> list[str]:
    """Why the lake may not have the month's last word: days not pulled, or pulled before they had settled.

    To be asked before a build: what is pulled later is not in it.
    """
    days = Days.of_month(month)
    return [doubt for source in configured.values() for doubt in _doubts_of(lake, source, days)]


def doubts_of_build(published: Path, month: date) -> list[str]:
    """Which of the month's published numbers stand for bills that are not in, or have no price."""
    with duckdb.connect(str(published), read_only=True) as warehouse:
        unbilled = warehouse.execute(
            """
            select provider, account_id, usage_date, sum(cost_usd)
            from fct_cost_allocations as allocations
            semi join fct_charges as charges on allocations.provider = charges.provider
            where date_trunc('month', usage_date) = ? and cost_basis <> 'billed' and corrects_date is null
                and cost_usd is distinct from 0
            group by all
            order by all
            """,
            [month],
        ).fetchall()
        ((unpriced,),) = warehouse.execute(
            "select count(*) from fct_cost_allocations "
            "where date_trunc('month', usage_date) = ? and cost_usd is null",
            [month],
        ).fetchall()
    found = []
    for (provider, account), rows in groupby(unbilled, key=itemgetter(0, 1)):
        those = list(rows)
        estimated = sum((usd for *_, usd in those if usd is not None), start=0)
        who = plain(" ".join(filter(None, (provider, account))))
        found.append(
            f"{who}: no bill yet for {_told([day for _, _, day, _ in those])}; "
            f"{dollars(estimated)} are estimated"
        )
    if unpriced:
        found.append(f"{unpriced:,} allocations have no price and no bill; `fct_cost_allocations` has them")
    return found


def _doubts_of(lake: Lake, source: Source, days: Days) -> Iterator[str]:
    wanted = source.days_of(days)
    if wanted is None:
        return
    known = pulled_days.read(lake.pulled_days(source.name))
    for kind in source.kinds:
        loaded = set(lake.days_of(kind, source.name))
        pulled = pulled_days.last_pulled(known, kind)
        if missing := [day for day in wanted if day not in loaded]:
            yield f"{source.name}: no {kind} records of {_told(missing)} were pulled"
        settles = timedelta(days=source.restates_days)
        if moving := [
            day
            for day in wanted
            if day in loaded and (day not in pulled or pulled[day].date() < day + settles)
        ]:
            yield (
                f"{source.name}: {kind} records of {_told(moving)} may still be restated; they were not "
                f"pulled again {source.restates_days} days later"
            )


def close(
    lake: Lake,
    month: date,
    *,
    accepted: Sequence[str],
    reason: str | None,
    by: str | None,
    now: datetime,
    accounts: settings.Journal | None,
    ownership_map: Path,
) -> Closed:
    """Freeze `month` as the published warehouse has it. `accepted` are the doubts accepted for `reason`.

    Raises NotClosed, and statement.NotReconciled; nothing is changed then.
    """
    with lake.scratch() as scratch, lake.locked("warehouse"):
        refuse_out_of_order(lake, month, now.date())
        folder = scratch / f"{month:%Y-%m}"
        folder.mkdir()
        with duckdb.connect(str(lake.published), read_only=True) as warehouse:
            if not closed_months(lake):
                _refuse_another_first(warehouse, month)
            totals = statement.totals(warehouse, month)
            warehouse.execute(
                f"copy (from fct_cost_allocations where date_trunc('month', usage_date) = date '{month}' "
                f"order by allocation_id) to '{folder / 'allocations.parquet'}' (format parquet)"
            )
            statement.write(warehouse, month, folder)
        if accounts:
            _write_journal(folder, month, accounts, folder / "journal.csv")
        _copy_map(ownership_map, folder / "ownership_map")
        said = {
            "month": month,
            "closed_at": now.replace(tzinfo=None),
            "closed_by": _signatory(month, by),
            "reason": reason,
            "accepted": list(accepted),
            "statement_sha256": _digest(folder / "statement.csv"),
            **asdict(totals),
            "versions": {
                "llm-chargeback": metadata.version("llm-chargeback"),
                "price catalogue": rates.catalogue_version(),
            },
        }
        _write_json(folder / "closing.json", said)
        _sign(folder)
        place = lake.closed / folder.name
        add_folder(folder, place)
    return Closed(month, place, totals, accepted, accounts is not None)


def reopen(lake: Lake, month: date, *, reason: str, by: str | None, now: datetime) -> Path:
    """Let the month move again; what was signed is kept below `reopened/`, whose new folder is returned.

    Raises NotClosed when the month is not the last closed one.
    """
    with lake.locked("warehouse"):
        closed = closed_months(lake)
        if month not in closed:
            raise NotClosed(month, ["it is not closed"], "There is nothing to reopen.")
        if month != closed[-1]:
            raise NotClosed(
                month,
                [f"{closed[-1]:%Y-%m} is closed after it, and holds what corrects it"],
                f"Reopen {closed[-1]:%Y-%m} first.",
            )
        folder = lake.closed / f"{month:%Y-%m}"
        said = {
            **_believed(folder, month),
            "reopened_at": now.replace(tzinfo=None),
            "reopened_by": _signatory(month, by),
            "reopened_reason": reason,
        }
        # Before the rename: a process that is killed in between leaves the month closed.
        with lake.scratch() as scratch:
            _write_json(scratch / "reopening.json", said)
            replace_file(scratch / "reopening.json", folder / "reopening.json")
        places = (lake.reopened / f"{folder.name}.{number}" for number in count(1))
        place = next(place for place in places if not place.exists())
        add_folder(folder, place)
    return place


def _believed(folder: Path, month: date) -> Mapping[str, Any]:
    """What closing.json says; only the month where it is not the file that was signed."""
    try:
        _verify(folder, ["closing.json"])
    except Damaged:
        return {"month": month, "accepted": []}
    return _said(folder, "closing.json")


def journal_of(lake: Lake, month: date, accounts: settings.Journal | None) -> bytes:
    """The journal of a closed month as CSV: as signed, or by `accounts` where it was closed without any.

    Raises NotClosed, Damaged, and ConfigError where there are no accounts at all.
    """
    folder = _closed_folders(lake).get(month)
    if folder is None:
        raise NotClosed(month, ["it is not closed, so it has no statement"], "Close it first.")
    _verify(folder)
    if "journal.csv" in _sums(folder):
        return (folder / "journal.csv").read_bytes()
    if accounts is None:
        raise ConfigError(
            str(settings.sources_file()), ["there are no accounts to book to; add a section `journal:`"]
        )
    with lake.scratch() as scratch:
        _write_journal(folder, month, accounts, scratch / "journal.csv")
        return (scratch / "journal.csv").read_bytes()


def _write_journal(folder: Path, month: date, accounts: settings.Journal, file: Path) -> None:
    """Write the journal of the statement in `folder` to `file`."""
    rows = pl.read_parquet(folder / "statement.parquet").to_dicts()
    lines = journal.lines(rows, month, accounts)
    statement.write_csv(file, journal.COLUMNS, (line.row(journal.posting_date(month)) for line in lines))


def _refuse_another_first(warehouse: duckdb.DuckDBPyConnection, month: date) -> None:
    """The first month that is ever closed is the first that has anything."""
    ((first,),) = warehouse.execute(
        "select date_trunc('month', min(usage_date))::date from fct_cost_allocations"
    ).fetchall()
    if first is None or month < first:
        remedy = f"The first month with cost is {first:%Y-%m}." if first else "Nothing has been pulled."
        raise NotClosed(month, ["there is no cost in it, and none before it"], remedy)
    if first < month:
        raise NotClosed(month, [f"there is cost in {first:%Y-%m}, which is open"], "Close that one first.")


def _after(month: date) -> date:
    return Days.of_month(month).last + timedelta(days=1)


def _told(days: Sequence[date]) -> str:
    """Days as the ranges that they make, in order."""
    ranges: list[tuple[date, date]] = []
    for day in sorted(days):
        if ranges and ranges[-1][1] == day - timedelta(days=1):
            ranges[-1] = (ranges[-1][0], day)
        else:
            ranges.append((day, day))
    return ", ".join(str(Days(*ends)) for ends in ranges)


def _closed_folders(lake: Lake) -> Mapping[date, Path]:
    """The folder of each closed month, in order. Raises Stranger: dbt would read what is in a copy, too."""
    found = {}
    for folder in sorted(lake.closed.glob("*/")):
        if folder.name == EMPTY:
            continue
        if not re.fullmatch(r"[1-9][0-9]{3}-(0[1-9]|1[0-2])", folder.name):
            raise Stranger(folder)
        found[month_of(folder.name)] = folder
    return found


def _signatory(month: date, by: str | None) -> str:
    """Who closes or reopens: as told, else the user of this machine."""
    if by is not None and not by.strip():
        raise NotClosed(month, ["nobody signs"], "Say who signs with --by NAME.")
    try:
        return by or getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        raise NotClosed(month, ["this machine's user has no name"], "Say who signs with --by NAME.") from None


def _copy_map(ownership_map: Path, folder: Path) -> None:
    for found in files_of(ownership_map):
        if not isinstance(found, Mistake):
            path, _ = found
            place = folder / path.relative_to(ownership_map)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)


def _sign(folder: Path) -> None:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    (folder / "SHA256SUMS").write_text(
        "".join(f"{_digest(file)}  {file.relative_to(folder)}\n" for file in files), encoding="utf-8"
    )


def _sums(folder: Path) -> Mapping[str, str]:
    """The digest of each signed file. Raises Damaged where there are none."""
    try:
        text = (folder / "SHA256SUMS").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        raise Damaged(folder, "SHA256SUMS") from None
    return {file: digest for digest, _, file in (line.partition("  ") for line in text.splitlines())}


def _verify(folder: Path, files: Iterable[str] = ()) -> None:
    """Raises Damaged unless these files are those that were signed; all of them, if none is named."""
    sums = _sums(folder)
    for file in files or sorted(_ALWAYS_SIGNED | sums.keys()):
        if not (folder / file).is_file() or _digest(folder / file) != sums.get(file):
            raise Damaged(folder, file)


def _digest(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _write_json(file: Path, said: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(said, indent=2, default=jsonable) + "\n", encoding="utf-8")


def _said(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def _typed(kind: Any, value: Any) -> Any:
    """A value of closing.json as its column has it."""
    if not isinstance(value, str):
        return value
    if kind == pl.Date:
        return date.fromisoformat(value)
    if kind == pl.Datetime("us"):
        return datetime.fromisoformat(value)
    return Decimal(value) if isinstance(kind, pl.Decimal) else value
