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
from rich.markup import escape
from rich.table import Table

from dagster_project import pipeline, settings, sources
from dagster_project.days import Days
from dagster_project.demo import accuracy, company, providers, roster
from dagster_project.ingest import ingest
from dagster_project.lake import Lake

MONTH = Days(date(2026, 10, 1), date(2026, 10, 31))


@contextmanager
def acme(home: Path) -> Iterator[tuple[company.Simulation, providers.Servers]]:
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
        yield simulation, servers


def _see_names(servers: providers.Servers) -> None:
    """What daily runs have seen: lists of today would neither know a deleted key nor an earlier name."""
    configured = sources.load_settings()
    for day in (MONTH.first, roster.LISTS_CHANGE):
        servers.lists_are_of(day)
        for source in sources.configured().values():
            if source.entry.provider:
                days = Days(day, day)
                ingest(source, days, Lake.of_environment(), configured.active_tags, days.start)


def run(out: Console, progress: Callable[[str], None]) -> None:
    """Simulate a month, run the pipeline on it and print the result. Raises pipeline.RunFailed."""
    progress("simulating Acme, a company with teams, keys and a gateway")
    with acme(settings.home() / "demo") as (simulation, servers):
        if not Lake.of_environment().published.exists():
            progress("listing keys and workspaces as they were during the month")
            _see_names(servers)
        pipeline.run(MONTH, datetime.now(UTC).date(), progress)
        progress("measuring how many dollars reached their true owner")
        published = Lake.of_environment().published
        measured = accuracy.measure(simulation.truth, published)
    with duckdb.connect(str(published), read_only=True) as warehouse:
        out.print(_by_team(warehouse))
        out.print(_totals(warehouse))
        out.print(_unallocated(warehouse))
        out.print(escape(_to_paste(warehouse)), highlight=False, soft_wrap=True)
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
    table.add_column("what the map says")
    for provider, project, key, principal, gateway_key, place, cost in warehouse.execute(
        "select provider, coalesce(provider_project_name, provider_project_id), "
        "coalesce(api_key_name, api_key_id), principal_id, coalesce(gateway_key_name, gateway_key_id), "
        "rule_place, cost_usd from unowned_identities where month = ? order by rank limit 8",
        [MONTH.first],
    ).fetchall():
        where = " / ".join(part for part in (provider, project, key, principal, gateway_key) if part)
        table.add_row(escape(where), _usd(cost), f"nobody pays: {place}" if place else "nothing")
    return table


def _to_paste(warehouse: duckdb.DuckDBPyConnection) -> str:
    lines = warehouse.execute(
        "select map_lines from unowned_identities where month = ? and map_lines is not null "
        "group by map_lines order by min(rank) limit 8",
        [MONTH.first],
    ).fetchall()
    return "\n".join(["To paste below `services:` of the map:\n", *(text for (text,) in lines), ""])


def _accuracy(measured: object) -> Table:
    table = Table("method", title="Share of dollars that reach their true owner (known, because simulated)")
    table.add_column("share", justify="right")
    for row in measured.iter_rows(named=True):
        table.add_row(row["method"], f"{row['share_to_true_owner']:.1%}")
    return table
