"""Deliveries of AWS by their manifests: of each month the files that the newest one lists, and no others.

    acme/metadata/BILLING_PERIOD=2026-10/[<time>-<id>/]acme-Manifest.json     Data Exports: CUR 2.0, FOCUS
    acme/data/BILLING_PERIOD=2026-10/[<time>-<id>/]acme-00001.csv.gz
    acme/20261001-20261101/[<id>/]acme-Manifest.json                          the legacy report
    acme/20261001-20261101/[<id>/]acme-00001.csv.gz
    acme/acme/year=2026/month=10/acme-Manifest.json                           the same, overwritten
    acme/acme/year=2026/month=10/acme-00001.snappy.parquet

AWS documents these places; that the manifest in a period's own folder is of the newest delivery; that one of
Data Exports is written after all of its files; and that it lists them, but not in which field. Manifests of
legacy reports that people published have `reportKeys`, without the bucket. Of Data Exports no published one
was found: programs that read them agree on `dataFiles`, which are `s3://` URIs. Here either may be either. A
file is looked for beside its manifest, by what its key says from the folder of the period on, so a copy of an
export's folder, on disk or in another bucket, is read in the same way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import pairwise
from pathlib import Path

from dagster_project.days import Days
from dagster_project.errors import SourceError
from dagster_project.sources import _exports, _files
from dagster_project.sources._exports import ExportEntry

MANIFEST = "Manifest.json"
OF_REDSHIFT = "RedshiftManifest.json"
"""Lies beside a legacy manifest and lists the same files, for a database to load."""

ONE_DELIVERY = timedelta(hours=1)
"""A file that was written longer than this after its manifest is of the next delivery, which overwrites one
file after the other, and its manifest last; no manifest is known to say sizes. There are a few deliveries a
day, and a copy of one is made within this time, in any order."""

_MONTH = r"(?P<month>0?[1-9]|1[0-2])"
_PLACES = (
    (rf"metadata/(?P<period>BILLING_PERIOD=(?P<year>\d{{4}})-{_MONTH})", "data/{period}"),
    (
        rf"(?P<period>(?P<year>\d{{4}}){_MONTH}\d\d-\d{{8}})",
        "(?:{period}|[^/]+/year={year}/month=0?{month})",
    ),
    (rf"(?P<period>year=(?P<year>\d{{4}})/month={_MONTH})", "{period}"),
)
"""Below an export: the folders of the manifests of a period, and those of its files."""


@dataclass(frozen=True)
class _Manifest:
    """`export` and `period` are its folders, and `delivery` is the one below, which may be none; `files` is a
    pattern of the folders of its files, below the export's."""

    file: str
    written_at: datetime
    export: str
    period: str
    delivery: str
    month: Days
    files: str


def fetch(entry: ExportEntry, days: Days, raw: Path) -> None:
    """The list of files, which stay where they are: where `path` names manifests, what the newest ones list.

    Raises SourceError when there is none, for manifests of several exports, when it is not clear which of a
    month is the newest, and for a file that is not there, or is of another delivery than its manifest.
    """
    if not entry.path.endswith(MANIFEST):
        _exports.fetch(entry, days, raw)
        return
    newest = _newest(entry, days)
    files = {file: size for manifest in newest for file, size in _delivered(entry.name, manifest)}
    _files.write_manifest(files, raw)
    _exports.write_periods(((manifest.month.first, manifest.month.last) for manifest in newest), raw)


def _newest(entry: ExportEntry, days: Days) -> list[_Manifest]:
    """The newest manifest of each month that has some of `days`, by month."""
    near = days.widened(1)
    listed = _files.listed(entry.name, entry.path, days)
    placed = [
        _placed(entry.name, file, found.written_at)
        for file, found in listed.items()
        if not file.endswith(OF_REDSHIFT)
    ]
    manifests = [one for one in placed if one.month.first <= near.last and near.first <= one.month.last]
    if not manifests:
        raise SourceError(
            entry.name,
            f"no manifest is of {days}",
            where=entry.path,
            remedy="Correct `path`, or the permission to list it, or begin later (`start_date`).",
        )
    if len(exports := sorted({manifest.export for manifest in manifests})) > 1:
        raise SourceError(
            entry.name,
            f"the manifests are of several exports: {', '.join(exports)}",
            where=entry.path,
            remedy="Let `path` name those of one; their rows would count twice. Another is another entry.",
        )
    own = {manifest.period for manifest in manifests if not manifest.delivery}
    candidates = [one for one in manifests if not one.delivery or one.period not in own]
    latest = _exports.latest(entry.name, [manifest.file for manifest in candidates])
    newest = sorted((one for one in candidates if one.file in latest), key=lambda one: one.month.first)
    for manifest, after in pairwise(newest):
        if manifest.month == after.month:
            raise SourceError(
                entry.name,
                f"{after.file} is of the same month",
                where=manifest.file,
                remedy="Each lists the whole month, so the bill would count twice: let `path` name one.",
            )
    return newest


def _placed(source: str, file: str, written_at: datetime) -> _Manifest:
    for folder, files in _PLACES:
        place = rf"(?P<export>.+)/{folder}/(?P<delivery>(?:.+/)?)(?:[^/]+-)?{MANIFEST}"
        if found := re.fullmatch(place, file):
            year, month = int(found["year"]), int(found["month"])
            return _Manifest(
                file,
                written_at,
                found["export"],
                found["period"],
                found["delivery"],
                Days.of_month(date(year, month, 1)),
                files.format(period=found["period"], year=year, month=month),
            )
    raise SourceError(
        source,
        "this is no place of a manifest of AWS: its folder names no month",
        where=file,
        remedy="Copy an export's folder whole (`metadata` and `data`), or let `path` name the files.",
    )


def _delivered(source: str, manifest: _Manifest) -> Iterator[tuple[str, int]]:
    """The files that a manifest lists, with their sizes."""
    files = _said(source, manifest)
    there = {
        file: found
        for folder in sorted({file.rpartition("/")[0] for file in files})
        for file, found in _files.listed(source, f"{_files.literally(folder)}/*", manifest.month).items()
    }
    for file in files:
        found = there.get(file)
        if found is None or found.written_at > manifest.written_at + ONE_DELIVERY:
            raise SourceError(
                source,
                f"{file} {'is not there' if found is None else 'was written after it'}",
                where=manifest.file,
                remedy="The delivery is replaced just now, or was copied in part: run again.",
            )
        yield file, found.size


def _said(source: str, manifest: _Manifest) -> list[str]:
    """The files that a manifest lists, by their places beside it."""
    try:
        said = json.loads(_files.content(source, manifest.file))
        keys = said["dataFiles"] if "dataFiles" in said else said["reportKeys"]
        places = [re.search(rf"(?:^|/)({manifest.files}/.+)", key) for key in keys]
    except (KeyError, TypeError, ValueError) as error:
        what = f"`{error.args[0]}` is missing" if isinstance(error, KeyError) else "it is not understood"
        raise SourceError(
            source,
            f"this is no manifest of a Data Export or of a Cost and Usage Report ({what})",
            where=manifest.file,
            remedy="Let `path` name manifests only, or the files themselves.",
        ) from None
    if not places or not all(places) or any(".." in key.split("/") for key in keys):
        raise SourceError(
            source,
            "it lists no file, or one that is in no folder of its month",
            where=manifest.file,
            remedy="Have the month delivered again, or let `path` name the files themselves.",
        )
    return [f"{manifest.export}/{place[1]}" for place in places if place]
