"""The dbt models as assets, their tests as checks, and the publication of the result."""

import os
import sys
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
from dagster_dbt import DagsterDbtTranslator, DbtCliResource, DbtProject, dbt_assets
from packaging.version import Version

from dagster_project import settings, sources, warehouse
from dagster_project.defs.knowledge import FOLLOWS
from dagster_project.lake import Lake

# dbt's profile and sources read the folder from the environment.
os.environ.setdefault("CHARGEBACK_HOME", str(settings.home()))

PROJECT = DbtProject(project_dir=settings.CHECKOUT / "dbt", profiles_dir=settings.CHECKOUT / "dbt")


class Dbt(DbtCliResource):
    """The dbt of this environment, whose version its metadata tell: `dbt --version` takes seconds."""

    @cached_property
    def _cli_version(self) -> Version:
        return Version(metadata.version("dbt-core"))


# Named by its path, whether or not the environment is activated.
DBT = Dbt(project_dir=PROJECT, dbt_executable=str(Path(sys.executable).with_name("dbt")))

_RECORDS_OF: Mapping[str, str] = {
    "charges": "charge",
    "usage_rollups": "usage",
    "request_rollups": "request",
    "requests": "request",
}

# Asked for each of dbt's many dependencies, so sources.yaml is read once.
_PULLS = {source.name: source.module.KINDS for source in sources.configured().values()}


class Translator(DagsterDbtTranslator):
    """dbt's lake tables are what the pulls, the ownership map and the rate card write."""

    def get_asset_spec(
        self, manifest: Mapping[str, Any], unique_id: str, project: DbtProject | None
    ) -> dg.AssetSpec:
        spec = super().get_asset_spec(manifest, unique_id, project)
        node = self.get_resource_props(manifest, unique_id)
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
        DBT.cli(["parse"], target_path=PROJECT.project_dir / PROJECT.target_path).wait()


parse_dbt_project()


@dbt_assets(
    manifest=PROJECT.manifest_path,
    project=PROJECT,
    dagster_dbt_translator=Translator(),
    name="dbt_build",
    pool="duckdb",
)
def dbt_build(context: dg.AssetExecutionContext, dbt: Dbt) -> Iterator[Any]:
    lake = Lake.of_environment()
    warehouse.prepare(lake, sources.load_settings().active_tags)
    # Unit tests are about the models, not about the data. Events are collected before they are passed
    # on, because the file can be asked for counts only when dbt has let go of it.
    invocation = dbt.cli(
        ["build", "--exclude-resource-type", "unit_test"], context=context, target_path=lake.home / "dbt"
    )
    events = list(invocation.stream())
    with duckdb.connect(str(lake.build), read_only=True) as build:
        for event in events:
            if isinstance(event, dg.Output):
                key = context.asset_key_for_output(event.output_name)
                context.add_output_metadata(_metadata(build, key.path[-1]), output_name=event.output_name)
            yield event


def _metadata(build: duckdb.DuckDBPyConnection, table: str) -> dict[str, Any]:
    schemas = build.execute(
        "select table_schema from information_schema.tables where table_name = ?", [table]
    ).fetchall()
    place = f'"{schemas[0][0]}"."{table}"'
    columns = [name for (name, *_) in build.execute(f"describe {place}").fetchall()]
    told: dict[str, Any] = {
        "dagster/row_count": build.execute(f"select count(*) from {place}").fetchall()[0][0]
    }
    if "cost_usd" in columns:
        told["cost_usd"] = str(build.execute(f"select sum(cost_usd) from {place}").fetchall()[0][0])
    if schemas[0][0] == "main" and table != "fct_requests":
        head = build.execute(f"select * from {place} limit 5").fetchall()
        told["preview"] = dg.MetadataValue.md(
            "\n".join(
                "| " + " | ".join("" if value is None else str(value) for value in row) + " |"
                for row in [columns, ["---"] * len(columns), *head]
            )
        )
    return told


@dg.asset(
    group_name="marts",
    kinds={"duckdb"},
    deps=[dbt_build],
    pool="duckdb",
    automation_condition=FOLLOWS,
    name="warehouse",
    description="The published warehouse.duckdb: replaced whole, only when every blocking check has passed.",
)
def published_warehouse() -> dg.MaterializeResult:
    published = warehouse.publish(Lake.of_environment())
    return dg.MaterializeResult(
        metadata={
            "billed_usd": str(published.billed),
            "attributed_usd": str(published.attributed),
            "difference_usd": str(published.difference),
            "preview": dg.MetadataValue.md(
                "\n".join(
                    [
                        "| table | rows |",
                        "|---|--:|",
                        *(f"| {t} | {n} |" for t, n in published.rows.items()),
                    ]
                )
            ),
        }
    )


@dg.definitions
def defs() -> dg.Definitions:
    return dg.Definitions(assets=[dbt_build, published_warehouse], resources={"dbt": DBT})
