"""Around dbt: the tables of the lake that it reads, and the file that users query.

dbt builds in a private file. When its tests have passed, a copy replaces the published file in one
rename: a running query keeps the old file, and nobody ever sees a half-built one.
"""

from __future__ import annotations

import shutil
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal

import duckdb
import polars as pl

from dagster_project import build_info, closing, overlaps, pulled_days, restatements, rollup, settings
from dagster_project.errors import ChargebackError, ConfigError
from dagster_project.ingest import empty_records
from dagster_project.lake import Lake, replace_file
from dagster_project.names import NO_NAMES
from dagster_project.records import KINDS, METERS
from dagster_project.sources import declared

EMPTY = "_empty"
"""A source folder with one file without rows, so that a kind that nobody yields is still a table."""


def refuse_forgotten_sources(lake: Lake, configured: Collection[str]) -> None:
    """Raises ConfigError when the lake has records of a source that sources.yaml no longer names.

    A renamed entry would otherwise count its bill twice, under both names.
    """
    folders = {folder.name for folder in lake.root.glob("records/*/*")} - {EMPTY}
    if forgotten := sorted(folders - set(configured)):
        raise ConfigError(
            str(settings.sources_file()),
            [
                f"the lake has records of `{name}`, which no entry names: give the entry its name back, or "
                f"remove {lake.root}/records/*/{name} and {lake.root}/rollups/*/{name}"
                for name in forgotten
            ],
        )


def prepare(lake: Lake, configured: settings.Settings) -> None:
    """Write the small tables that dbt reads beside the records: meters, tags, thresholds, versions, what
    entries declare, empty kinds.
    """
    write_tables(
        lake,
        {
            "meters": pl.DataFrame(
                [(meter.name, meter.unit) for meter in METERS],
                schema={"meter": pl.String, "unit": pl.String},
                orient="row",
            ),
            "versions": build_info.versions(),
            **closing.tables(lake),
            **declared.tables(configured.entries.values()),
            **overlaps.tables(lake, configured),
            "active_tags": pl.DataFrame(
                {"tag_key": list(configured.active_tags)}, schema={"tag_key": pl.String}
            ),
            "thresholds": pl.DataFrame(
                {
                    "stale_after_days": [configured.coverage.stale_after_days],
                    "new_after_days": [configured.coverage.new_after_days],
                    "price_factor": [configured.guards.price_factor],
                    "unpriced_share": [configured.guards.unpriced_share],
                },
                schema={
                    "stale_after_days": pl.Int64,
                    "new_after_days": pl.Int64,
                    "price_factor": pl.Decimal(9, 2),
                    "unpriced_share": pl.Decimal(9, 8),
                },
            ),
        },
    )
    with lake.scratch() as scratch, duckdb.connect() as connection:
        for kind in KINDS:
            records = scratch / f"{kind}.parquet"
            empty_records(connection, records)
            if kind in rollup.KINDS:
                rolled = scratch / f"{kind}-rollup.parquet"
                with rollup.rolled_up(connection, [records], configured.active_tags) as rolled_up:
                    connection.execute(f"copy ({rolled_up.rows}) to '{rolled}' (format parquet)")
                if kind == "request":
                    shutil.copyfile(rolled, scratch / "spoken.parquet")
                    replace_file(scratch / "spoken.parquet", lake.spoken(EMPTY, "none"))
                replace_file(rolled, lake.root / "rollups" / kind / EMPTY / "none.parquet")
            replace_file(records, lake.root / "records" / kind / EMPTY / "none.parquet")
        replace_file(overlaps.empty(scratch), lake.set_aside("none"))
        NO_NAMES.write_parquet(scratch / "names.parquet")
        replace_file(scratch / "names.parquet", lake.names(EMPTY))
        pulled_days.NO_DAYS.write_parquet(scratch / "pulled_days.parquet")
        replace_file(scratch / "pulled_days.parquet", lake.pulled_days(EMPTY))
        restatements.empty(connection, scratch / "restatements.parquet")
        replace_file(scratch / "restatements.parquet", lake.restatements(EMPTY, "none"))
    closing.prepare(lake)
    lake.build.parent.mkdir(parents=True, exist_ok=True)


def write_tables(lake: Lake, tables: Mapping[str, pl.DataFrame]) -> None:
    """Replace whole tables of the lake."""
    with lake.scratch() as scratch:
        for name in tables:
            tables[name].write_parquet(scratch / f"{name}.parquet")
        with lake.locked("warehouse"):
            for name in tables:
                replace_file(scratch / f"{name}.parquet", lake.table(name))


def models_seen(lake: Lake) -> list[tuple[str, str]]:
    """Every (provider, model) that the lake's records name, for the rate card."""
    rollups = f"{lake.root}/rollups/*/*/*.parquet"
    charges = f"{lake.root}/records/charge/*/*.parquet"
    lake.wait_for_commit()
    with duckdb.connect() as connection:
        return connection.sql(
            f"""select distinct provider, model from read_parquet('{rollups}', union_by_name = true)
            where model is not null
            union
            select distinct provider, model from read_parquet('{charges}', union_by_name = true)
            where model is not null
            order by all"""
        ).fetchall()


@contextmanager
def building(lake: Lake, whole: bool = True) -> Iterator[None]:
    """Be the only one who writes the build file; it may be published when the body has not raised.

    A build that is not `whole` makes only some models again: what was not fit to be published stays so.
    """
    with lake.locked("warehouse"):
        fit = whole or lake.passed.exists()
        lake.passed.unlink(missing_ok=True)
        yield
        if fit:
            lake.passed.touch()


class NotPassed(ChargebackError):
    """There is no build that may be published."""

    def __init__(self, lake: Lake) -> None:
        super().__init__(
            f"{lake.build} has not passed its checks, or was not finished; run `chargeback build`. "
            "What is published stays"
        )


@dataclass(frozen=True)
class Published:
    """What the published file holds: rows per mart, and the sums of the reconciliation, in USD."""

    rows: Mapping[str, int]
    billed: Decimal
    attributed: Decimal
    difference: Decimal


def publish(lake: Lake) -> Published:
    """Replace the published warehouse by the build file. Readers are never disturbed.

    Raises NotPassed when the last build was refused by its checks or did not get to its end.
    """
    with lake.locked("warehouse"):
        if not lake.passed.exists():
            raise NotPassed(lake)
        return _publish(lake)


def _publish(lake: Lake) -> Published:
    with duckdb.connect(str(lake.build)) as build:
        build.execute("checkpoint")
        marts = build.sql(
            "select table_name from information_schema.tables where table_schema = 'main' order by all"
        ).fetchall()
        rows = {name: build.sql(f'select count(*) from main."{name}"').fetchall()[0][0] for (name,) in marts}
        sums = build.sql(
            "select coalesce(sum(billed_usd), 0), coalesce(sum(attributed_usd), 0), "
            "coalesce(sum(difference_usd), 0) from reconciliation_daily"
        ).fetchall()[0]
    with lake.scratch() as scratch:
        copy = scratch / "warehouse.duckdb"
        shutil.copyfile(lake.build, copy)
        copy.chmod(stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH)
        # A log that somebody's writing session left beside the old file does not belong to the new one.
        lake.published.with_name("warehouse.duckdb.wal").unlink(missing_ok=True)
        replace_file(copy, lake.published)
    return Published(rows, *sums)
