"""What dbt's tests found, with rows that show it: a failed check says where to look, not only how often."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import duckdb

from dagster_project.errors import ChargebackError
from dagster_project.terminal import plain

ROWS_SHOWN = 3
LONGEST_VALUE = 300


@dataclass(frozen=True)
class Verdict:
    """A test that did not pass. `blocks` is false where it only warns."""

    test: str
    blocks: bool
    text: str

    def __str__(self) -> str:
        return f"{self.test}: {self.text}"


class Refused(ChargebackError):
    """The build did not pass its checks, or could not be made; what is published stays."""

    def __init__(self, verdicts: Sequence[Verdict]) -> None:
        super().__init__("dbt refused the result:\n" + "\n".join(map(str, verdicts)))


def of_run(results: Sequence[Mapping[str, Any]], build: duckdb.DuckDBPyConnection) -> list[Verdict]:
    """The tests of a run that failed or warned, and models that could not be made; those that block first.

    `results` are those of dbt's artifact `run_results.json`. The rows are asked of the build file again.
    """
    verdicts = []
    for result in results:
        if result["status"] not in ("fail", "warn", "error"):
            continue
        # model.project.name, test.project.name or test.project.name.hash
        name = result["unique_id"].split(".")[2]
        if result["status"] == "error":
            text = " ".join(str(result["message"]).split())
        else:
            text = f"{result['failures']} rows, e.g. {_rows(build, result['compiled_code'])}"
        verdicts.append(Verdict(name, result["status"] != "warn", text))
    return sorted(verdicts, key=lambda verdict: not verdict.blocks)


def _rows(build: duckdb.DuckDBPyConnection, sql: str) -> str:
    asked = build.execute(f"select * from (\n{sql}\n) limit {ROWS_SHOWN}")
    columns = [column[0] for column in asked.description]
    return "; ".join(
        ", ".join(
            f"{column}={_shown(value)}"
            for column, value in zip(columns, row, strict=True)
            if value is not None
        )
        for row in asked.fetchall()
    )


def _shown(value: Any) -> str:
    text = plain(f"{value:f}" if isinstance(value, Decimal) else str(value))
    if isinstance(value, Decimal) and "." in text:
        text = text.rstrip("0").rstrip(".")
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."
