"""When things run: every source once a day, and everything that follows from it by itself."""

from datetime import UTC

import dagster as dg

from dagster_project import sources
from dagster_project.days import Days
from dagster_project.sources import Source


def range_tags(days: Days) -> dict[str, str]:
    """The run tags by which Dagster materialises a range of days in one run."""
    return {
        "dagster/asset_partition_range_start": days.first.isoformat(),
        "dagster/asset_partition_range_end": days.last.isoformat(),
    }


def _daily(source: Source) -> dg.ScheduleDefinition:
    @dg.schedule(
        name=f"daily_{source.name}",
        cron_schedule="0 5 * * *",
        execution_timezone="UTC",
        target=dg.AssetSelection.assets(source.name),
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Pulls today and the {source.restates_days} days before it again; the marts follow.",
    )
    def daily(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        today = context.scheduled_execution_time.astimezone(UTC).date()
        days = source.look_back(today)
        if days is None:
            return dg.SkipReason(f"{source.name} starts on {source.entry.start_date}")
        return dg.RunRequest(run_key=today.isoformat(), tags=range_tags(days))

    return daily


@dg.definitions
def defs() -> dg.Definitions:
    return dg.Definitions(
        schedules=[_daily(source) for source in sources.configured().values()],
        sensors=[
            dg.AutomationConditionSensorDefinition(
                "follow",
                target=dg.AssetSelection.all(),
                default_status=dg.DefaultSensorStatus.RUNNING,
                description="Rebuilds and publishes the marts when a pull or the ownership map changed.",
            )
        ],
    )
