"""What the warehouse knows beside the records: whose is what, and what it costs."""

import dagster as dg

from dagster_project import markdown, ownership, rates, settings, sources, warehouse
from dagster_project.lake import Lake

FOLLOWS = dg.AutomationCondition.eager().without(~dg.AutomationCondition.any_deps_missing())
"""Brought up to date whenever something upstream is; days nobody has pulled yet do not hold it back."""


def _ownership_map() -> dg.AssetsDefinition:
    @dg.asset(
        group_name="knowledge",
        kinds={"yaml", "parquet"},
        automation_condition=dg.AutomationCondition.on_cron("0 5 * * *"),
        description="The ownership map (YAML files) as tables. Every mistake is told with file:line:column.",
    )
    def ownership_map() -> dg.MaterializeResult:
        tables = ownership.load(settings.ownership_folder()).tables()
        warehouse.write_tables(Lake.of_environment(), tables)
        return dg.MaterializeResult(
            metadata={
                "dagster/row_count": tables["ownership_selectors"].height,
                "teams": tables["ownership_teams"].height,
            }
        )

    return ownership_map


def _rate_card() -> dg.AssetsDefinition:
    @dg.asset(
        group_name="knowledge",
        kinds={"parquet"},
        deps=list(sources.configured()),
        automation_condition=FOLLOWS,
        description="List prices with their history, for every model that any record names.",
    )
    def rate_card() -> dg.MaterializeResult:
        lake = Lake.of_environment()
        warehouse.refuse_forgotten_sources(lake, sources.configured())
        warehouse.prepare(lake, sources.load_settings())
        models = rates.resolve(warehouse.models_seen(lake))
        card = rates.rate_card(models)
        warehouse.write_tables(lake, {"models": models, "rate_card": card})
        unpriced = models.filter(~models["is_priced"])
        return dg.MaterializeResult(
            metadata={
                "dagster/row_count": card.height,
                "models": models.height,
                "unpriced_models": unpriced.height,
                "catalogue": rates.catalogue_version(),
                "preview": dg.MetadataValue.md(
                    markdown.table(
                        ["provider", "model without a price"], unpriced.select("provider", "model").rows()
                    )
                    if unpriced.height
                    else "every model has a price"
                ),
            }
        )

    return rate_card


@dg.definitions
def defs() -> dg.Definitions:
    return dg.Definitions(assets=[_ownership_map(), _rate_card()])
