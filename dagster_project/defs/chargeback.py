"""The dbt models as assets, their tests as checks, and the publication of the result."""

import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import duckdb
from dagster_dbt import DagsterDbtTranslator, DbtProject, dbt_assets

from dagster_project import (
    coverage,
    dbt_in_process,
    markdown,
    overlaps,
    retention,
    settings,
    sources,
    verdicts,
    warehouse,
)
from dagster_project.defs.knowledge import FOLLOWS
from dagster_project.lake import Lake
from dagster_project.terminal import counted

# dbt's profile and sources read the folder from the environment.
os.environ.setdefault("CHARGEBACK_HOME", str(settings.home()))

PROJECT = DbtProject(project_dir=settings.CHECKOUT / "dbt", profiles_dir=settings.CHECKOUT / "dbt")


_RECORDS_OF: Mapping[str, str] = {
    "charges": "charge",
    "usage_rollups": "usage",
    "request_rollups": "request",
    "requests": "request",
}

# Asked for each of dbt's many dependencies, so sources.yaml is read once.
_PULLS = {source.name: source.kinds for source in sources.configured().values()}


class Translator(DagsterDbtTranslator):
    """dbt's lake tables are what the pulls, the ownership map and the rate card write."""

    def get_asset_spec(
        self, manifest: Mapping[str, Any], unique_id: str, project: DbtProject | None
    ) -> dg.AssetSpec:
        spec = super().get_asset_spec(manifest, unique_id, project)
        node = self.get_resource_props(manifest, unique_id)
        if node["resource_type"] == "seed":
            return spec.replace_attributes(group_name="knowledge")
        if node["resource_type"] != "model":
            return spec
        upstream = [
            key
            for dep in spec.deps
            for key in (_written_by(dep.asset_key) if dep.asset_key.path[0] == "lake" else [dep.asset_key])
        ]
        group = "marts" if "marts" in node["fqn"] else node["fqn"][1]
        return spec.replace_attributes(
            deps=list(dict.fromkeys(upstream)), group_name=group, automation_condition=FOLLOWS
        )


def _written_by(table: dg.AssetKey) -> list[dg.AssetKey]:
    name = table.path[-1]
    if name in ("names", "pulled_days", "restatements"):
        return [dg.AssetKey(source) for source in _PULLS]
    if name in _RECORDS_OF:
        return [dg.AssetKey(source) for source, kinds in _PULLS.items() if _RECORDS_OF[name] in kinds]
    return [dg.AssetKey("ownership_map" if name.startswith("ownership_") else "rate_card")]


def parse_dbt_project() -> None:
    """Make dbt's manifest where it is missing or older than the project."""
    folder = settings.CHECKOUT / "dbt"
    inputs = [
        *folder.glob("*.yml"),
        # with their folders, whose age tells that a file is gone
        *(entry for part in ("models", "macros", "tests", "seeds") for entry in (folder / part).rglob("*")),
    ]
    newest = max(file.stat().st_mtime for file in inputs)
    if not PROJECT.manifest_path.exists() or PROJECT.manifest_path.stat().st_mtime < newest:
        dbt_in_process.parse(PROJECT)


parse_dbt_project()


@dbt_assets(
    manifest=PROJECT.manifest_path,
    project=PROJECT,
    dagster_dbt_translator=Translator(),
    name="dbt_build",
    pool="duckdb",
)
def dbt_build(context: dg.AssetExecutionContext) -> Iterator[Any]:
    lake = Lake.of_environment()
    configured = sources.load_settings()
    with lake.locked("warehouse"):
        overlaps.decide(lake, configured)  # before what it goes by is forgotten
    forgotten = retention.honour(lake, configured.retention, datetime.now(UTC).date())
    if any(forgotten):
        context.log.info(
            f"forgotten, as `retention` says: the answers of {counted(forgotten.answers, 'pull')}, and the "
            f"request records of {counted(forgotten.days_of_requests, 'day')}"
        )
    warehouse.prepare(lake, configured)
    with warehouse.building(lake, whole=context.selected_asset_keys == set(dbt_build.keys)):
        overlaps.decide(lake, configured)  # what was pulled since
        # Unit tests are about the models, not about the data.
        built = dbt_in_process.build(context, lake.home / "dbt", "--exclude-resource-type", "unit_test")
        found = _verdicts(built, lake)
        if built.error:
            blocking = [verdict for verdict in found if verdict.blocks]
            if not blocking:
                raise built.error
            yield from (event for event in built.events if isinstance(event, dg.AssetCheckResult))
            raise verdicts.Refused(blocking)
        for verdict in found:
            context.log.warning(str(verdict))
        with duckdb.connect(str(lake.build), read_only=True) as build:
            for event in built.events:
                if isinstance(event, dg.Output):
                    key = context.asset_key_for_output(event.output_name)
                    context.add_output_metadata(_metadata(build, key.path[-1]), output_name=event.output_name)
    yield from built.events


def _verdicts(built: dbt_in_process.Build, lake: Lake) -> list[verdicts.Verdict]:
    if not built.results:
        return []
    with duckdb.connect(str(lake.build), read_only=True) as build:
        return verdicts.of_run(built.results, build)


def _metadata(build: duckdb.DuckDBPyConnection, table: str) -> dict[str, Any]:
    ((schema, kind),) = build.execute(
        "select table_schema, table_type from information_schema.tables where table_name = ?", [table]
    ).fetchall()
    if kind == "VIEW" and schema != "main":
        return {}  # to count it is to compute it
    place = f'"{schema}"."{table}"'
    columns = [name for (name, *_) in build.execute(f"describe {place}").fetchall()]
    told: dict[str, Any] = {
        "dagster/row_count": build.execute(f"select count(*) from {place}").fetchall()[0][0]
    }
    if "cost_usd" in columns:
        told["cost_usd"] = str(build.execute(f"select sum(cost_usd) from {place}").fetchall()[0][0])
    if schema == "main" and table != "fct_requests":
        head = build.execute(f"select * from {place} limit 5").fetchall()
        told["preview"] = dg.MetadataValue.md(markdown.table(columns, head))
    return told


@dg.asset(
    group_name="marts",
    kinds={"duckdb"},
    deps=[dbt_build],
    pool="duckdb",
    automation_condition=FOLLOWS,
    name="warehouse",
    description="The published warehouse.duckdb: replaced whole, only when every blocking check has passed.",
    check_specs=[
        dg.AssetCheckSpec(name, asset="warehouse", description=what) for name, what in coverage.CHECKS.items()
    ],
)
def published_warehouse() -> dg.MaterializeResult:
    lake = Lake.of_environment()
    published = warehouse.publish(lake)
    return dg.MaterializeResult(
        check_results=[
            dg.AssetCheckResult(
                check_name=finding.check,
                passed=finding.passed,
                severity=dg.AssetCheckSeverity.WARN,
                description=finding.message,
                metadata={f"share/{of}": str(share) for of, share in finding.shares.items()},
            )
            for finding in coverage.findings(lake.published, sources.load_settings().coverage)
        ],
        metadata={
            "billed_usd": f"{published.billed:f}",
            "attributed_usd": f"{published.attributed:f}",
            "difference_usd": f"{published.difference:f}",
            "preview": dg.MetadataValue.md(markdown.table(["table", "rows"], published.rows.items())),
        },
    )


@dg.definitions
def defs() -> dg.Definitions:
    return dg.Definitions(assets=[dbt_build, published_warehouse])
