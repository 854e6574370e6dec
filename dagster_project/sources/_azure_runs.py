"""Runs of an export of Azure Cost Management: each delivers a period anew, and its manifest lists its files.

    .../<export>/20261001-20261031/[202610050801/]<run id>/manifest.json, part_0_0001.csv.gz, ...

A manifest is written after the files. Of each period the newest run counts, as a whole: reading two would
double the bill. Where folders lie is no contract, so all but the files' own names is taken from manifests.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import pairwise
from pathlib import Path

from dagster_project.days import Days
from dagster_project.errors import SourceError
from dagster_project.sources import _exports, _files, _listed
from dagster_project.sources._exports import ExportEntry

MANIFEST = "manifest.json"
RUNS = "runs.json"
"""How many rows a file of the runs that are read has to have."""


_OF_A_PERIOD = re.compile(r"(?P<period>.*/\d{8}-\d{8})/(?P<folder>.*/)?(?P<name>[^/]*)")
_RUN_ID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class _Run:
    """What a manifest says; `files` are names in its folder, with bytes and rows where it says them."""

    manifest: str
    export: str
    dataset: str
    first: date
    last: date
    submitted_at: datetime
    files: Mapping[str, tuple[int | None, int | None]]

    @property
    def folder(self) -> str:
        return self.manifest.rpartition("/")[0]


def are_named(entry: ExportEntry) -> bool:
    """Whether `path` names the manifests of runs."""
    return entry.path.endswith(MANIFEST)


def fetch(entry: ExportEntry, dataset: str, days: Days, raw: Path) -> None:
    """The list of the files of the newest runs for `days`.

    Raises SourceError for manifests of several exports or of another `dataset`, for runs whose periods
    overlap, and for one that is not there as its manifest says.
    """
    files: dict[str, int] = {}
    rows: dict[str, int] = {}
    newest = _newest(entry, dataset, days)
    for run in newest:
        there = _files.find(entry.name, f"{_files.literally(run.folder)}/*", days) if run.files else {}
        for name, (size, count) in run.files.items():
            file = f"{run.folder}/{name}"
            if file not in there or size not in (None, there[file]):
                raise SourceError(
                    entry.name,
                    f"{name} is not there as the manifest says ({size} bytes)",
                    where=run.manifest,
                    remedy="The run is replaced just now, or was copied in part: run again.",
                )
            files[file] = there[file]
            if count is not None:
                rows[file] = count
    if not files:
        raise SourceError(
            entry.name, f"no run of {days} has a file", where=entry.path, remedy="Export those days again."
        )
    _files.write_manifest(files, raw)
    _exports.write_periods(((run.first, run.last) for run in newest), raw)
    (raw / RUNS).write_text(json.dumps(rows), encoding="utf-8")


def _newest(entry: ExportEntry, dataset: str, days: Days) -> list[_Run]:
    """The last run of each period that has some of `days`, by period."""
    near = days.widened(1)
    runs = [_run(entry.name, file) for file in _files.find(entry.name, entry.path, days)]
    runs = [run for run in runs if run.first <= near.last and near.first <= run.last]

    def refused(what: str, remedy: str, where: str = entry.path) -> SourceError:
        return SourceError(entry.name, what, where=where, remedy=remedy)

    if not runs:
        raise refused(f"no run is of {days}", "Export those days, or begin later (`start_date`).")
    if len(exports := sorted({f"{run.export} ({run.dataset})" for run in runs})) > 1:
        raise refused(
            f"the manifests are of several exports: {', '.join(exports)}",
            "Let `path` name those of one; their rows would count twice. Another is another entry.",
        )
    if runs[0].dataset != dataset:
        raise refused(
            f"the export is of {runs[0].dataset}, not of {dataset}",
            "`FocusCost` is read by the type `focus`, the others by `azure` with that `dataset`.",
        )
    by_submission = sorted(runs, key=lambda run: (run.submitted_at, run.manifest))
    by_period = {(run.first, run.last): run for run in by_submission}
    newest = [by_period[period] for period in sorted(by_period)]
    for run, after in pairwise(newest):
        if after.first <= run.last:
            raise refused(
                f"its period overlaps that of {after.manifest}",
                "Rows would count twice: let `path` name runs of whole months, or of whole days.",
                run.manifest,
            )
    return newest


def refuse_several_runs(entry: ExportEntry, raw: Path) -> None:
    """Raises SourceError when the files, named without manifests, are of several runs of one period: those
    have folders of their own, or ids in the names of their files."""
    runs: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for found in filter(None, map(_OF_A_PERIOD.fullmatch, _files.read_manifest(raw))):
        run_id = _RUN_ID.search(found["name"])
        runs[found["period"]].add((found["folder"] or "", run_id[0] if run_id else ""))
    for period, several in runs.items():
        if len(several) > 1:
            raise SourceError(
                entry.name,
                f"files of {len(several)} runs of one period match, each of them the whole period",
                where=period,
                remedy=f"Let `path` name the manifests (`.../{MANIFEST}`): then the newest is read.",
            )


def require_all_rows(entry: ExportEntry, rows: Mapping[str, int], raw: Path) -> None:
    """Raises SourceError when a file's `rows`, by its name, are not as many as its manifest says."""
    found = {file.removeprefix(_listed.GROWING): count for file, count in rows.items()}
    for file, count in json.loads((raw / RUNS).read_text(encoding="utf-8")).items():
        if found.get(file, 0) != count:
            raise SourceError(
                entry.name,
                f"{found.get(file, 0)} rows, and {count} in its manifest",
                where=file,
                remedy="Nothing was replaced. Have the period exported again.",
            )


def _run(source: str, file: str) -> _Run:
    try:
        said = json.loads(_files.content(source, file))
        run, export = said["runInfo"], said["exportConfig"]
        submitted_at = datetime.fromisoformat(run["submittedTime"])
        return _Run(
            file,
            export["exportName"],
            export["type"],
            date.fromisoformat(run["startDate"][:10]),
            date.fromisoformat(run["endDate"][:10]),
            submitted_at if submitted_at.tzinfo else submitted_at.replace(tzinfo=UTC),
            {
                blob["blobName"].rpartition("/")[2]: (blob.get("byteCount"), blob.get("dataRowCount"))
                for blob in said["blobs"]
            },
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"`{error.args[0]}` is missing" if isinstance(error, KeyError) else "it is not understood"
        raise SourceError(
            source,
            f"this is no manifest of a Cost Management export ({what})",
            where=file,
            remedy="Let `path` name manifests of exports only.",
        ) from None
