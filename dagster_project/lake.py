"""Where everything is on disk. The only module that knows a path, and the only one that replaces a file.

    $CHARGEBACK_HOME/
      raw/<source>/<first>..<last>/       what a provider's API answered, page by page
      lake/records/<kind>/<source>/<day>.parquet
      lake/rollups/<kind>/<source>/<day>.parquet
      lake/rollups/spoken/<source>/<day>.parquet
                                          of its requests those that no other source speaks for
      lake/set_aside/<day>.parquet        who speaks for the others
      lake/names/<source>.parquet         what its listings have called things, and since when
      lake/pulled_days/<source>.parquet   when each of its days was pulled
      lake/restatements/<source>/<pull_id>.parquet
                                          what the pull changed of days that were loaded before
      lake/<table>.parquet                ownership map and rate card, as tables
      build/warehouse.duckdb              dbt's private file
      build/passed                        there while that may be published
      warehouse.duckdb                    the published file: read-only, replaced whole
      dagster/                            the Dagster instance
      commit/                             the files of one pull, on their way to their places
      closed/<month>/                     a month that is closed: its allocations, statement and journal
      reopened/<month>.<n>/               what was closed before, kept as a trace
      locks/<what>                        held by the process that works on it

A file is written beside its place and renamed over it, so a reader or a crash sees the old or the
new one, never half of one. What must not change in between is done under a lock.

Files that belong together are replaced by a commit: finished and on disk, they are gathered in one
folder, which becomes `commit/` by one rename. From then on all of them count as replaced; each is
renamed to its place, by this process or by whoever next takes the lock `warehouse`.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from tempfile import mkdtemp
from typing import TextIO

import duckdb
import polars as pl

from dagster_project import settings
from dagster_project.days import Days
from dagster_project.errors import ChargebackError
from dagster_project.records import Kind

ROOM = 16 * 2**20
"""With less than these bytes free, the disk is why an engine could not write: not every one says it."""

_MANIFEST = "places.json"
"""In a commit: where each of its numbered files and folders goes, below the home."""


@dataclass(frozen=True)
class Lake:
    """The folder tree under one `CHARGEBACK_HOME`."""

    home: Path

    @classmethod
    def of_environment(cls) -> Lake:
        return cls(settings.home())

    @property
    def root(self) -> Path:
        return self.home / "lake"

    @property
    def published(self) -> Path:
        return self.home / "warehouse.duckdb"

    @property
    def build(self) -> Path:
        return self.home / "build" / "warehouse.duckdb"

    @property
    def passed(self) -> Path:
        """There while the build file is one whose blocking checks have all passed."""
        return self.home / "build" / "passed"

    @property
    def dagster_home(self) -> Path:
        return self.home / "dagster"

    def raw(self, source: str, days: Days) -> Path:
        return self.home / "raw" / source / f"{days.first}..{days.last}"

    def records(self, kind: Kind, source: str, day: date) -> Path:
        return self.records_of(kind, source) / f"{day}.parquet"

    def records_of(self, kind: Kind, source: str) -> Path:
        """The folder of the source's days."""
        return self.root / "records" / kind / source

    def rollup(self, kind: Kind, source: str, day: date) -> Path:
        return self.root / "rollups" / kind / source / f"{day}.parquet"

    def spoken(self, source: str, day: date | str) -> Path:
        return self.root / "rollups" / "spoken" / source / f"{day}.parquet"

    def set_aside(self, day: date | str) -> Path:
        return self.root / "set_aside" / f"{day}.parquet"

    @property
    def overlaps_decided(self) -> Path:
        """What each day's decision was made of."""
        return self.home / "build" / "overlaps.json"

    def answers(self) -> list[tuple[Path, Days]]:
        """The folders of `raw`, and the days that each is of."""
        found = []
        for folder in sorted((self.home / "raw").glob("*/*")):
            if days := re.fullmatch(r"(\d{4}-\d\d-\d\d)\.\.(\d{4}-\d\d-\d\d)", folder.name):
                found.append((folder, Days(*map(date.fromisoformat, days.groups()))))
        return found

    def names(self, source: str) -> Path:
        return self.root / "names" / f"{source}.parquet"

    def pulled_days(self, source: str) -> Path:
        return self.root / "pulled_days" / f"{source}.parquet"

    def restatements(self, source: str, pull_id: str) -> Path:
        return self.restatements_of(source) / f"{pull_id}.parquet"

    def restatements_of(self, source: str) -> Path:
        """The folder of the source's pulls that changed something."""
        return self.root / "restatements" / source

    def table(self, name: str) -> Path:
        return self.root / f"{name}.parquet"

    @property
    def closed(self) -> Path:
        """The folder of the closed months, one folder each, named like 2026-10."""
        return self.home / "closed"

    @property
    def reopened(self) -> Path:
        return self.home / "reopened"

    def days_of(self, kind: Kind, source: str) -> list[date]:
        """The days of `source` that are in the lake, in order."""
        return sorted(
            date.fromisoformat(file.stem) for file in self.records_of(kind, source).glob("*.parquet")
        )

    @contextmanager
    def locked(self, what: str, *, wait: bool = True) -> Iterator[TextIO]:
        """Be the only process that works on `what`; yields the open lock, which holds this process's id.

        The kernel lets go of it when the last process that has it open ends, however it ends. Without
        `wait`, raises Busy when another process has it. Not to be nested for the same `what`. Whoever
        has `warehouse` finds no commit half done. Raises NoRoom, as `scratch` does.
        """
        folder = self.home / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        with self._full_disk_told(), (folder / what).open("a+", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                raise Busy(self, lock.read()) from None
            sign(lock, os.getpid())
            if what == "warehouse":
                self._finish_commit()
            yield lock

    def commit(self, replaced: Mapping[Path, Path], scratch: Path) -> None:
        """Put finished files and folders at their places (by place): all of them or, if this raises, none.

        What is new is in `scratch`, a folder of this lake's. Called with the lock `warehouse`. Raises
        OSError; after a failure that came too late for none, whoever has the lock next does the rest.
        """
        gathered = scratch / "commit"
        gathered.mkdir()
        manifest = {}
        for number, (place, new) in enumerate(replaced.items()):
            place.parent.mkdir(parents=True, exist_ok=True)
            if place.parent.stat().st_dev != gathered.stat().st_dev:
                # Found out later, it would stop everybody who writes.
                raise OSError(errno.EXDEV, "not on the disk of the deployment", str(place.parent))
            _sync_whole(new)
            new.rename(gathered / str(number))
            manifest[str(number)] = str(place.relative_to(self.home))
        (gathered / _MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
        _sync(gathered / _MANIFEST)
        _sync(gathered)
        gathered.rename(self._commit)
        _sync(self.home)
        self._finish_commit()

    def wait_for_commit(self) -> None:
        """Wait until no commit is half done. Who has the lock of a source's pulls may read its files then."""
        if self._commit.exists():
            with self.locked("warehouse"):
                pass

    @property
    def _commit(self) -> Path:
        return self.home / "commit"

    def _finish_commit(self) -> None:
        """Each step may be done twice, so that a process can be killed after any of them."""
        manifest = self._commit / _MANIFEST
        if manifest.exists():
            places = {
                self._commit / number: self.home / place
                for number, place in json.loads(manifest.read_text(encoding="utf-8")).items()
            }
            for new, place in places.items():
                if not new.exists():
                    continue
                # A rename replaces no folder that holds something, and no link by a folder.
                if new.is_dir() and (place.exists() or place.is_symlink()):
                    place.rename(new.with_suffix(".old"))
                new.rename(place)
            for folder in {place.parent for place in places.values()}:
                _sync(folder)
        if self._commit.exists():
            shutil.rmtree(self._commit)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A private folder on the lake's own disk, so that what is in it can be renamed into place.

        Raises NoRoom when the disk is full.
        """
        with self._full_disk_told():
            parent = self.home / "scratch"
            parent.mkdir(parents=True, exist_ok=True)
            for left in parent.iterdir():
                if not _is_alive(int(left.name.partition("-")[0])):
                    shutil.rmtree(left, ignore_errors=True)
            folder = Path(mkdtemp(prefix=f"{os.getpid()}-", dir=parent))
        try:
            with self._full_disk_told():
                yield folder
        finally:
            shutil.rmtree(folder)

    @contextmanager
    def _full_disk_told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise NoRoom(self) from error
        except (duckdb.IOException, duckdb.FatalException, pl.exceptions.ComputeError) as error:
            if shutil.disk_usage(self.home).free >= ROOM:
                raise
            raise NoRoom(self) from error


class Busy(ChargebackError):
    """Another process is working on the same part of the deployment."""

    def __init__(self, lake: Lake, process: str) -> None:
        super().__init__(
            f"another chargeback command (process {process}) is working on {lake.home}; "
            "wait until it is done and run this again"
        )


class NoRoom(ChargebackError):
    """The disk of the deployment is full, or the user's share of it."""

    def __init__(self, lake: Lake) -> None:
        free = shutil.disk_usage(lake.home).free
        super().__init__(
            f"no room is left on the disk of {lake.home} ({free // 2**10:,} KiB are free): make room and run "
            "this again. Nothing was replaced by halves"
        )


def sign(lock: TextIO, process: int) -> None:
    """Write into a lock which process others have to wait for."""
    lock.truncate(0)
    lock.write(str(process))
    lock.flush()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def replace_file(new: Path, place: Path) -> None:
    """Put the finished file `new` at `place`, atomically and durably; both are on one disk."""
    place.parent.mkdir(parents=True, exist_ok=True)
    _sync(new)
    new.replace(place)
    _sync(place.parent)


def replace_folder(new: Path, place: Path) -> None:
    """Put the finished folder `new` at `place`; what was there before is removed."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        old = Path(mkdtemp(dir=new.parent))
        place.replace(old / "old")
    new.replace(place)
    _sync(place.parent)


def add_folder(new: Path, place: Path) -> None:
    """Put the finished folder `new` at `place`, where nothing is yet: atomically and durably."""
    place.parent.mkdir(parents=True, exist_ok=True)
    _sync_whole(new)
    new.rename(place)
    _sync(place.parent)


def _sync_whole(new: Path) -> None:
    for entry in (new, *new.rglob("*")):
        _sync(entry)


def _sync(place: Path) -> None:
    """Have a file's content, or a folder's names, on disk."""
    handle = os.open(place, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
