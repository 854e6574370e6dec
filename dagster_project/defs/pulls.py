"""One daily-partitioned asset per entry of sources.yaml: a pull of the provider or gateway into the lake."""

from datetime import UTC, datetime, timedelta

import dagster as dg

from dagster_project import markdown, settings, sources
from dagster_project.days import Days
from dagster_project.ingest import Report, ingest
from dagster_project.lake import Lake
from dagster_project.small_days import ACCEPT_TAG
from dagster_project.sources import Source


def _asset(source: Source, configured: settings.Settings) -> dg.AssetsDefinition:
    @dg.asset(
        name=source.name,
        group_name="sources",
        kinds={"python", "parquet"},
        description=f"{' and '.join(source.kinds).capitalize()} records of `{source.name}`. "
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
        report = ingest(
            source,
            days,
            Lake.of_environment(),
            configured.active_tags,
            datetime.now(UTC),
            configured.guards,
            configured.retention,
            tag_values=configured.tag_values,
            accept_small_days=context.run.tags.get(ACCEPT_TAG) == "true",
        )
        for small in report.accepted:
            context.log.warning(f"{source.name}: accepted {small}")
        for name, count in report.counts.items():
            if count:
                context.log.warning(f"{source.name} {days}: {count} {name.replace('_', ' ')}")
        return dg.MaterializeResult(metadata=_metadata(report))

    return pull


def _metadata(report: Report) -> dict[str, dg.MetadataValue]:
    """What the UI shows of a pull, and the console command its user."""
    kinds = dict.fromkeys(part.kind for part in report.by_day)
    columns = ["day", "kind", "rows", "billed cost", "reported cost (USD)", "tokens"]
    rows = [
        (part.day, part.kind, part.rows, part.billed_cost, part.reported_cost, part.tokens)
        for part in report.by_day
    ]
    billed = [part.billed_cost for part in report.by_day if part.billed_cost is not None]
    accepted = "; ".join(map(str, report.accepted))
    reported = [part.reported_cost for part in report.by_day if part.reported_cost is not None]
    return {
        "dagster/row_count": dg.MetadataValue.int(sum(part.rows for part in report.by_day)),
        "days": dg.MetadataValue.text(str(report.days)),
        "tokens": dg.MetadataValue.int(sum(part.tokens for part in report.by_day)),
        **({"billed_cost": dg.MetadataValue.text(str(sum(billed)))} if billed else {}),
        **({"reported_cost_usd": dg.MetadataValue.text(str(sum(reported)))} if reported else {}),
        **{f"rows/{kind}": dg.MetadataValue.int(report.rows(kind)) for kind in kinds},
        **{f"counts/{name}": dg.MetadataValue.int(count) for name, count in report.counts.items()},
        "restated/records": dg.MetadataValue.int(report.restated.records),
        **{
            f"restated/billed_cost/{currency}": dg.MetadataValue.text(f"{amount:f}")
            for currency, amount in report.restated.billed_cost.items()
        },
        **({"accepted_small_days": dg.MetadataValue.text(accepted)} if accepted else {}),
        "preview": dg.MetadataValue.md(markdown.table(columns, rows)),
    }


@dg.definitions
def defs() -> dg.Definitions:
    configured = sources.load_settings()
    return dg.Definitions(assets=[_asset(source, configured) for source in sources.configured().values()])
