"""The `chargeback` command.

Exit codes: 0 it worked, 1 it ran and something is wrong (the message says what), 2 it could not run
(wrong usage, configuration or environment).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import duckdb
import typer
from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from dagster_project import check_map, closing, coverage, explain, pulled_days, settings, sources
from dagster_project.days import Days
from dagster_project.errors import ChargebackError, ConfigError
from dagster_project.lake import Lake
from dagster_project.terminal import cell, counted, plain

if TYPE_CHECKING:
    from dagster_project import pipeline

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Who caused the AI bill, and for what? Every breakdown sums exactly to the bill.",
)
out = Console()
err = Console(stderr=True, highlight=False)


def _tell(status: Status, step: str) -> None:
    err.print(f"[dim]{datetime.now(UTC):%H:%M:%S}[/dim] {escape(step)}")
    status.update(escape(step))


@app.command()
def run(
    first: Annotated[
        datetime | None,
        typer.Option(
            "--from",
            formats=["%Y-%m-%d"],
            help="First UTC day; each source's own look-back if left out.",
        ),
    ] = None,
    last: Annotated[
        datetime | None,
        typer.Option("--to", formats=["%Y-%m-%d"], help="Last UTC day; today if left out."),
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this source; may stand several times. All if left out."),
    ] = None,
    accept_small_days: Annotated[
        bool,
        typer.Option("--accept-small-days", help="Replace finished days even by far fewer rows than usual."),
    ] = False,
) -> None:
    """Pull the days of every source, then build, check and publish the warehouse.

    Days that are in already are asked for again: one request per page, however old they are. The runs
    are recorded in the deployment's Dagster instance and show in its UI. A source that fails keeps its
    old data; the others go on, and the exit code is 1.
    """
    from dagster_project import pipeline  # noqa: PLC0415 - Dagster takes seconds to load

    days, end = _asked(first, last)
    try:
        with err.status("starting") as status:
            pulled = pipeline.run(
                days,
                end,
                lambda name: _tell(status, name),
                source or (),
                accept_small_days=accept_small_days,
            )
    except pipeline.RunFailed as failed:
        if failed.pulled:
            out.print(_pulled(failed.pulled))
        raise
    out.print(_pulled(pulled))
    _tell_published()


def _asked(first: datetime | None, last: datetime | None) -> tuple[Days | None, date]:
    """The days that `--from` and `--to` ask for, None without `--from`, and the last of them."""
    today = datetime.now(UTC).date()
    end = last.date() if last else today
    if first and first.date() > end:
        raise typer.BadParameter(f"{first.date()} is after {end}", param_hint="--from")
    if end > today:
        raise typer.BadParameter(f"{end} has not begun yet (today is {today}, UTC)", param_hint="--to")
    return Days(first.date(), end) if first else None, end


def _tell_published() -> None:
    """What is published, and what of its latest month is known badly: a warning, no failure."""
    published = Lake.of_environment().published
    out.print(f"published {escape(str(published))}", soft_wrap=True)
    for finding in coverage.findings(published, sources.load_settings().coverage):
        if not finding.passed:
            err.print(f"[yellow]warning:[/yellow] {escape(finding.message)}", soft_wrap=True)


def _pulled(pulled: Sequence[pipeline.Pulled]) -> Table:
    table = Table("source", "days", "records")
    for column in ("billed", "reported (USD)"):
        table.add_column(column, justify="right")
    table.add_column("of these, or beside them")
    for pull in pulled:
        table.add_row(
            pull.source,
            pull.days,
            "\n".join(f"{rows:,} {kind}" for kind, rows in pull.rows.items()),
            *("" if usd is None else f"{usd:,.2f}" for usd in (pull.billed_cost, pull.reported_cost_usd)),
            "\n".join(escape(plain(said)) for said in _beside(pull)),
        )
    return table


def _beside(pull: pipeline.Pulled) -> Iterator[str]:
    yield from _told(pull.counts)
    if pull.restated_records:
        yield f"{counted(pull.restated_records, 'record')} restated"
    for currency, amount in pull.restated_cost.items():
        yield f"{amount:+,.2f} {currency} restated"
    if pull.accepted:
        yield f"accepted: {pull.accepted}"


def _told(counts: Mapping[str, int]) -> Iterator[str]:
    """A source's own counts, but for those of nothing."""
    for name, count in counts.items():
        if count:
            yield f"{count:,} {name.replace('_', ' ')}"


@app.command()
def build() -> None:
    """Build, check and publish the warehouse again, without pulling: after a change of owners or prices."""
    from dagster_project import pipeline  # noqa: PLC0415

    with err.status("starting") as status:
        pipeline.build(lambda name: _tell(status, name))
    _tell_published()


about_sources = typer.Typer(invoke_without_command=True)
app.add_typer(about_sources, name="sources")


@about_sources.callback()
def list_sources(context: typer.Context) -> None:
    """List the configured sources with their last good day."""
    if context.invoked_subcommand is not None:
        return
    configured = sources.configured()
    if not configured:
        out.print(f"{escape(str(settings.sources_file()))} has no sources yet; add an entry.", soft_wrap=True)
        return
    lake = Lake.of_environment()
    table = Table("source", "type", "records", "since", "last good day", "days missing before it")
    for source in configured.values():
        good = set(pulled_days.good_days(pulled_days.read(lake.pulled_days(source.name))))
        last = max(good, default=None)
        missing = (
            len([day for day in Days(source.entry.start_date, last) if day not in good])
            if last and last >= source.entry.start_date
            else 0
        )
        table.add_row(
            source.name,
            source.entry.type,
            ", ".join(source.kinds),
            str(source.entry.start_date),
            str(last) if last else "never",
            str(missing) if last else "",
        )
    out.print(table)


@about_sources.command("try")
def try_source(
    name: Annotated[str, typer.Argument(metavar="NAME", help="An entry of sources.yaml.")],
    first: Annotated[
        datetime | None,
        typer.Option(
            "--from", formats=["%Y-%m-%d"], help="First UTC day; the source's look-back if left out."
        ),
    ] = None,
    last: Annotated[
        datetime | None, typer.Option("--to", formats=["%Y-%m-%d"], help="Last UTC day; today if left out.")
    ] = None,
    shown: Annotated[int, typer.Option("--records", min=1, max=10, help="How many of them to show.")] = 2,
) -> None:
    """Read a source and show its first records as they would be taken, and every problem; nothing is kept."""
    from dagster_project import trial  # noqa: PLC0415 - Polars takes a second to load

    configured = sources.configured()
    if name not in configured:
        hint = settings.nearest(name, list(configured)) if configured else "it has none"
        raise ConfigError(str(settings.sources_file()), [f"there is no source `{name}`; {hint}"])
    source = configured[name]
    days, end = _asked(first, last)
    days = days or source.look_back(end)
    if days is None:
        raise typer.BadParameter(f"`{name}` begins on {source.entry.start_date}", param_hint="--to")
    tried = trial.of(source, days, Lake.of_environment(), shown)
    for kind, records in tried.first.items():
        out.print(f"{counted(tried.rows[kind], kind + ' record')} of {days}")
        table = Table("column", *(f"record {n}" for n in range(1, len(records) + 1)))
        for column in dict.fromkeys(column for record in records for column in record):
            table.add_row(column, *(cell(record.get(column)) for record in records))
        if records:
            out.print(table)
    for said in _told(tried.counts):
        out.print(escape(plain(said)))
    for problem in tried.problems:
        err.print(f"[red]problem:[/red] {escape(plain(problem))}", soft_wrap=True)
    if tried.problems:
        sys.exit(1)


@about_sources.command("types")
def list_source_types() -> None:
    """List every type of source that there is, and what can be learned from each."""
    table = Table("type", "records", "tells", "reads")
    for name, kinds, told, reads in sources.types():
        table.add_row(name, kinds, told, escape(reads.replace("`", "")))
    out.print(table)


@app.command()
def query(sql: Annotated[str, typer.Argument(help="A query, e.g. 'from chargeback_by_team'.")]) -> None:
    """Ask the published warehouse; it is opened read-only."""
    published = Lake.of_environment().published
    if not published.exists():
        raise ConfigError(str(published), ["nothing is published yet; run `chargeback run` first"])
    try:
        with duckdb.connect(str(published), read_only=True) as warehouse:
            asked = warehouse.execute(sql)
            table = Table(*(escape(plain(column[0])) for column in asked.description))
            for row in asked.fetchall():
                table.add_row(*map(cell, row))
    except duckdb.Error as error:
        raise QueryError(str(error)) from None
    out.print(table)


class QueryError(ChargebackError):
    """The engine refused a query."""


@app.command("check-map")
def check_ownership_map(
    folder: Annotated[
        Path | None, typer.Argument(help="Folder of the map; CHARGEBACK_OWNERSHIP if left out.")
    ] = None,
    warehouse: Annotated[
        Path | None, typer.Option(help="Published file to compare with; the deployment's if left out.")
    ] = None,
    no_warehouse: Annotated[bool, typer.Option("--no-warehouse", help="Check the map alone.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell every mistake of the ownership map, and what an edit of it would move, in dollars.

    Needs neither sources.yaml nor secrets; of the deployment nothing is written. Exit code 1: mistakes.
    """
    if warehouse and no_warehouse:
        raise typer.BadParameter("not together with --warehouse", param_hint="--no-warehouse")
    if not (warehouse or no_warehouse):
        published = Lake.of_environment().published
        warehouse = published if published.exists() else None
    with err.status("reading the map"):
        checked = check_map.check(folder or settings.ownership_folder(), warehouse)
    if as_json:
        typer.echo(checked.to_json())
    else:
        check_map.show(checked, out)
    if checked.mistakes:
        sys.exit(1)


@app.command("explain")
def explain_rows(
    named: Annotated[
        list[str],
        typer.Argument(
            metavar="COLUMN=VALUE...",
            help="Columns of any mart: team=support month=2026-10, charge_id=..., key=...; "
            "COLUMN= is what has none.",
        ),
    ],
    limit: Annotated[
        int | None, typer.Option(min=1, help="Most rows of each part; 5 if left out, all in JSON.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Explain the dollars of any row of any mart: what they are made of, and what decided whose they are."""
    explanation = explain.explain(
        Lake.of_environment().published, named, limit or (None if as_json else explain.SHOWN)
    )
    if as_json:
        typer.echo(explanation.to_json())
    else:
        explain.show(explanation, out)


def _month(text: str) -> date:
    try:
        return closing.month_of(text)
    except ValueError:
        raise typer.BadParameter(f"`{plain(text)}` is not a month, as in 2026-10") from None


Month = Annotated[date, typer.Argument(parser=_month, metavar="MONTH", help="A UTC month, as in 2026-10.")]
Who = Annotated[
    str | None,
    typer.Option("--by", help="Who signs; the user of this machine if left out.", show_default=False),
]


@app.command()
def close(
    month: Month,
    accept_unsettled: Annotated[
        bool,
        typer.Option("--accept-unsettled", help="Close although numbers may still move; needs --reason."),
    ] = False,
    reason: Annotated[str | None, typer.Option(help="Why; it is kept with the closing.")] = None,
    by: Who = None,
) -> None:
    """Freeze a month and write its statement: what changes later is booked in the first open month.

    Builds first; refuses (exit code 1) while days are missing, may still be restated or have no bill.
    """
    from dagster_project import pipeline  # noqa: PLC0415

    if accept_unsettled and not (reason or "").strip():
        raise typer.BadParameter("say why the numbers are good enough", param_hint="--reason")
    lake = Lake.of_environment()
    now = datetime.now(UTC)
    closing.refuse_out_of_order(lake, month, now.date())
    doubts = closing.doubts_of_pulls(lake, month, sources.configured())
    with err.status("starting") as status:
        pipeline.build(lambda name: _tell(status, name))
        doubts += closing.doubts_of_build(lake.published, month)
        if doubts and not accept_unsettled:
            raise closing.NotClosed(
                month, doubts, "Pull those days again, or close with --accept-unsettled --reason WHY."
            )
        closed = closing.close(
            lake,
            month,
            accepted=doubts,
            reason=reason,
            by=by,
            now=now,
            accounts=sources.load_settings().journal,
            ownership_map=settings.ownership_folder(),
        )
        # It is, whatever becomes of the build.
        _tell_closed(closed)
        pipeline.build(lambda name: _tell(status, name))


def _tell_closed(closed: closing.Closed) -> None:
    table = Table("account", "lines", "billed", title=f"{closed.month:%B %Y} is closed")
    for column in table.columns[1:]:
        column.justify = "right"
    for bill in closed.totals.bills:
        who = f"{bill.provider} {bill.account_id or ''}"
        table.add_row(cell(who), f"{bill.lines:,}", cell(f"{bill.billed_cost:,.2f} {bill.currency}"))
    out.print(table)
    found = closed.totals
    out.print(
        f"billed {found.billed_usd:f} USD + estimated {found.estimated_usd:f} + corrections of closed months "
        f"{found.corrections_usd:f} = {found.cost_usd:f}",
        soft_wrap=True,
    )
    for doubt in closed.accepted:
        err.print(f"[yellow]accepted:[/yellow] {escape(doubt)}", soft_wrap=True)
    if not closed.has_journal:
        err.print("no journal: sources.yaml names no accounts (`journal:`)")
    out.print(f"signed {escape(str(closed.folder))}", soft_wrap=True)


@app.command()
def reopen(
    month: Month,
    reason: Annotated[str, typer.Option(help="Why; it is kept with what was signed.")],
    by: Who = None,
) -> None:
    """Let the last closed month move again. What was signed is kept; tell those who hold a copy of it."""
    from dagster_project import pipeline  # noqa: PLC0415

    if not reason.strip():
        raise typer.BadParameter("say why", param_hint="--reason")
    lake = Lake.of_environment()
    kept = closing.reopen(lake, month, reason=reason, by=by, now=datetime.now(UTC))
    err.print(
        f"[bold red]{month:%B %Y} is open again:[/bold red] its numbers move with the next build. What was "
        f"signed is kept in {escape(str(kept))}; tell those who have the statement, and close it again.",
        soft_wrap=True,
    )
    with err.status("starting") as status:
        pipeline.build(lambda name: _tell(status, name))


@app.command("journal")
def print_journal(month: Month) -> None:
    """Print the general-ledger journal of a closed month as CSV: balanced, to the cent."""
    accounts = sources.load_settings().journal
    typer.echo(closing.journal_of(Lake.of_environment(), month, accounts), nl=False)


@app.command()
def ui(
    port: Annotated[int, typer.Option(help="Port of the Dagster UI on this machine.")] = 3000,
) -> None:
    """Open the Dagster UI and daemon on this deployment; stop them with Ctrl-C."""
    from dagster_project import pipeline  # noqa: PLC0415

    sys.exit(pipeline.serve_ui(port))


@app.command()
def demo(
    ui: Annotated[bool, typer.Option("--ui", help="Open the Dagster UI on Acme instead.")] = False,
    port: Annotated[int, typer.Option(help="Port of the Dagster UI on this machine.")] = 3000,
) -> None:
    """Run the pipeline on Acme, a simulated company whose true owners are known."""
    from dagster_project.demo import tour  # noqa: PLC0415 - a deployment has no need of it

    if ui:
        sys.exit(tour.open_ui(port))
    with err.status("starting") as status:
        tour.run(out, lambda name: _tell(status, name))


def main() -> None:
    """Run the command; an error is one readable paragraph and an exit code, never a traceback."""
    try:
        app()
    except ChargebackError as error:
        _fail(str(error), error.exit_code)
    except SystemExit as ended:
        # How Typer ends a command on Ctrl-C, without a word.
        if ended.code == 130:
            _fail("interrupted; what was not finished is as it was", 130)
        raise
    except OSError as error:
        _fail(f"{error.filename or settings.home()}: {error.strerror}", 2)


def _fail(message: str, exit_code: int) -> NoReturn:
    # Messages name paths and patterns, which are no markup, and names, which may move the cursor.
    told = "\n".join(map(plain, message.split("\n")))
    err.print(f"[red]error:[/red] {escape(told)}", soft_wrap=True)
    sys.exit(exit_code)
