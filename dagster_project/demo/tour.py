"""`chargeback demo`: the real pipeline on the simulated company, and what comes out of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import duckdb
from rich.console import Console
from rich.table import Table

from dagster_project import pipeline, settings
from dagster_project.days import Days
from dagster_project.demo import accuracy, company, providers
from dagster_project.lake import Lake

MONTH = Days(date(2026, 10, 1), date(2026, 10, 31))


@contextmanager
def acme(home: Path) -> Iterator[company.Simulation]:
    """Acme's month under `home`, its providers answering, and this process configured to pull from them."""
    simulation = company.simulate(home / "acme", MONTH)
    with providers.serve(simulation.folder) as servers:
        os.environ.update(
            {
                "CHARGEBACK_HOME": str(home),
                "CHARGEBACK_SOURCES": str(company.SOURCES),
                "CHARGEBACK_OWNERSHIP": str(company.OWNERSHIP),
                "ACME_LOGS": str(simulation.folder),
                **servers.environment,
            }
        )
        yield simulation


def run(out: Console, progress: Callable[[str], None]) -> None:
    """Simulate a month, run the pipeline on it and print the result. Raises pipeline.RunFailed."""
    progress("simulating Acme, a company with teams, keys and a gateway")
    with acme(settings.home() / "demo") as simulation:
        pipeline.run(MONTH, datetime.now(UTC).date(), progress)
        progress("measuring how many dollars reached their true owner")
        published = Lake.of_environment().published
        measured = accuracy.measure(simulation.truth, published)
    with duckdb.connect(str(published), read_only=True) as warehouse:
        out.print(_by_team(warehouse))
        out.print(_totals(warehouse))
        out.print(_unallocated(warehouse))
    out.print(_accuracy(measured))
    out.print(
        "\nNext:  [bold]make ui[/bold] opens this in the Dagster UI (http://127.0.0.1:3000)\n"
        f"       [bold]CHARGEBACK_HOME={os.path.relpath(published.parent)} .venv/bin/chargeback query "
        "'from chargeback_daily limit 20'[/bold]\n"
        "       every table is described in README.md; Acme's ownership map is "
        f"{os.path.relpath(company.OWNERSHIP)}",
        soft_wrap=True,
    )


def open_ui(port: int) -> int:
    """The Dagster UI on the simulated company, whose providers answer so that days can be backfilled."""
    with acme(settings.home() / "demo"):
        return pipeline.serve_ui(port)


def _usd(amount: Decimal | None) -> str:
    return "" if amount is None else f"{amount:,.2f}"


def _by_team(warehouse: duckdb.DuckDBPyConnection) -> Table:
    table = Table("team", title=f"Acme, {MONTH.first:%B %Y}: who caused the AI bill (USD)")
    for column in ("cost", "share", "at list prices"):
        table.add_column(column, justify="right")
    for team, cost, share, list_cost in warehouse.execute(
        "select team, cost_usd, month_share, list_cost_usd from chargeback_by_team where month = ? "
        "order by cost_usd desc",
        [MONTH.first],
    ).fetchall():
        table.add_row(team, _usd(cost), f"{share:.1%}", _usd(list_cost))
    return table


def _totals(warehouse: duckdb.DuckDBPyConnection) -> str:
    billed, attributed, difference = warehouse.execute(
        "select sum(billed_usd), sum(attributed_usd), sum(difference_usd) from reconciliation_daily "
        "where billed_usd is not null"
    ).fetchall()[0]
    exact = "0" if difference == 0 else str(difference)
    return f"billed {billed} USD, attributed {attributed} USD, difference {exact}\n"


def _unallocated(warehouse: duckdb.DuckDBPyConnection) -> Table:
    table = Table("identity without an owner", title="Unallocated, and why")
    table.add_column("USD", justify="right")
    table.add_column("add to the map")
    for provider, project, key, gateway_key, cost in warehouse.execute(
        "select provider, coalesce(provider_project_name, provider_project_id), coalesce(api_key_name, "
        "api_key_id), coalesce(gateway_key_name, gateway_key_id), cost_usd from unowned_identities "
        "where month = ? order by rank limit 8",
        [MONTH.first],
    ).fetchall():
        where = " / ".join(part for part in (provider, project, key, gateway_key) if part)
        line = (
            f"match: {{gateway_key: {gateway_key}}}"
            if gateway_key
            else f"match: {{provider: {provider}, api_key: {key}}}"
            if key
            else f"match: {{provider: {provider}}}"
        )
        table.add_row(where, _usd(cost), line)
    return table


def _accuracy(measured: object) -> Table:
    table = Table("method", title="Share of dollars that reach their true owner (known, because simulated)")
    table.add_column("share", justify="right")
    for row in measured.iter_rows(named=True):
        table.add_row(row["method"], f"{row['share_to_true_owner']:.1%}")
    return table
