"""One daily-partitioned asset per entry of sources.yaml: a pull of the provider or gateway into the lake."""

from datetime import UTC, datetime, timedelta

import dagster as dg

from dagster_project import sources
from dagster_project.days import Days
from dagster_project.ingest import Report, ingest
from dagster_project.lake import Lake
from dagster_project.sources import Source


def _asset(source: Source, active_tags: tuple[str, ...]) -> dg.AssetsDefinition:
    @dg.asset(
        name=source.name,
        group_name="sources",
        kinds={"python", "parquet"},
        description=f"{' and '.join(source.module.KINDS).capitalize()} records of `{source.name}`. "
        f"The daily run pulls the last {source.restates_days} days again.",
        # The day in progress is a partition too: it can be looked at, and is replaced when it is over.
        partitions_def=dg.DailyPartitionsDefinition(
            start_date=source.entry.start_date.isoformat(), timezone="UTC", end_offset=1
        ),
        # A range of days is one pull: one request per page, not per day.
        backfill_policy=dg.BackfillPolicy.single_run(),
        pool=source.entry.provider or source.name,
        metadata={"restates_days": source.restates_days},
    )
    def pull(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        window = context.partition_time_window
        days = Days(window.start.date(), (window.end - timedelta(days=1)).date())
        report = ingest(source, days, Lake.of_environment(), active_tags, datetime.now(UTC).date())
        for name, count in report.counts.items():
            if count:
                context.log.warning(f"{source.name} {days}: {count} {name.replace('_', ' ')}")
        return dg.MaterializeResult(metadata=_metadata(report))

    return pull


def _metadata(report: Report) -> dict[str, dg.MetadataValue]:
    """What the UI shows of a pull, and the console command its user."""
    kinds = dict.fromkeys(part.kind for part in report.by_day)
    header = [
        "| day | kind | rows | billed cost | reported cost (USD) | tokens |",
        "|---|---|--:|--:|--:|--:|",
    ]
    rows = [
        f"| {part.day} | {part.kind} | {part.rows} | {part.billed_cost} | {part.reported_cost} "
        f"| {part.tokens} |"
        for part in report.by_day
    ]
    billed = [part.billed_cost for part in report.by_day if part.billed_cost is not None]
    reported = [part.reported_cost for part in report.by_day if part.reported_cost is not None]
    return {
        "dagster/row_count": dg.MetadataValue.int(sum(part.rows for part in report.by_day)),
        "days": dg.MetadataValue.text(str(report.days)),
        "tokens": dg.MetadataValue.int(sum(part.tokens for part in report.by_day)),
        **({"billed_cost": dg.MetadataValue.text(str(sum(billed)))} if billed else {}),
        **({"reported_cost_usd": dg.MetadataValue.text(str(sum(reported)))} if reported else {}),
        **{f"rows/{kind}": dg.MetadataValue.int(report.rows(kind)) for kind in kinds},
        **{f"counts/{name}": dg.MetadataValue.int(count) for name, count in report.counts.items()},
        "preview": dg.MetadataValue.md("\n".join([*header, *rows]).replace("None", "")),
    }


@dg.definitions
def defs() -> dg.Definitions:
    active_tags = sources.load_settings().active_tags
    return dg.Definitions(assets=[_asset(source, active_tags) for source in sources.configured().values()])
