"""The `chargeback` command.

Exit codes: 0 it worked, 1 it ran and something is wrong (the message says what), 2 it could not run
(wrong usage, configuration or environment).
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Annotated, NoReturn

import duckdb
import typer
from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from dagster_project import pipeline, settings, sources
from dagster_project.days import Days
from dagster_project.errors import ChargebackError, ConfigError
from dagster_project.lake import Lake

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
) -> None:
    """Pull the days of every source, then build, check and publish the warehouse.

    The runs are recorded in the deployment's Dagster instance and show in its UI. A source that fails
    keeps its old data; the others go on, and the exit code is 1.
    """
    today = datetime.now(UTC).date()
    end = last.date() if last else today
    if first and first.date() > end:
        raise typer.BadParameter(f"{first.date()} is after {end}", param_hint="--from")
    if end > today:
        raise typer.BadParameter(f"{end} has not begun yet (today is {today}, UTC)", param_hint="--to")
    with err.status("starting") as status:
        pipeline.run(Days(first.date(), end) if first else None, end, lambda name: _tell(status, name))
    out.print(f"published {escape(str(Lake.of_environment().published))}", soft_wrap=True)


@app.command()
def build() -> None:
    """Build, check and publish the warehouse again, without pulling: after a change of owners or prices."""
    with err.status("starting") as status:
        pipeline.build(lambda name: _tell(status, name))
    out.print(f"published {escape(str(Lake.of_environment().published))}", soft_wrap=True)


@app.command("sources")
def list_sources() -> None:
    """List the configured sources with their last good day."""
    configured = sources.configured()
    if not configured:
        out.print(f"{escape(str(settings.sources_file()))} has no sources yet; add an entry.", soft_wrap=True)
        return
    lake = Lake.of_environment()
    table = Table("source", "type", "records", "since", "last good day", "days missing before it")
    for source in configured.values():
        loaded = set.intersection(*(set(lake.days_of(kind, source.name)) for kind in source.module.KINDS))
        last = max((day for day in loaded if day < datetime.now(UTC).date()), default=None)
        missing = (
            len([day for day in Days(source.entry.start_date, last) if day not in loaded])
            if last and last >= source.entry.start_date
            else 0
        )
        table.add_row(
            source.name,
            source.entry.type,
            ", ".join(source.module.KINDS),
            str(source.entry.start_date),
            str(last) if last else "never",
            str(missing) if last else "",
        )
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
            table = Table(*(escape(column[0]) for column in asked.description))
            for row in asked.fetchall():
                table.add_row(*("" if value is None else escape(str(value)) for value in row))
    except duckdb.Error as error:
        raise QueryError(str(error)) from None
    out.print(table)


class QueryError(ChargebackError):
    """The engine refused a query."""


@app.command()
def ui(
    port: Annotated[int, typer.Option(help="Port of the Dagster UI on this machine.")] = 3000,
) -> None:
    """Open the Dagster UI and daemon on this deployment; stop them with Ctrl-C."""
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
    except KeyboardInterrupt:
        _fail("interrupted; what was not finished is as it was", 130)
    except OSError as error:
        _fail(f"{error.filename or settings.home()}: {error.strerror}", 2)


def _fail(message: str, exit_code: int) -> NoReturn:
    # Messages name paths and patterns, which are no markup.
    err.print(f"[red]error:[/red] {escape(message)}", soft_wrap=True)
    sys.exit(exit_code)
