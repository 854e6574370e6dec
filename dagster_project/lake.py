"""Where everything is on disk. The only module that knows a path, and the only one that replaces a file.

    $CHARGEBACK_HOME/
      raw/<source>/<first>..<last>/       what a provider's API answered, page by page
      lake/records/<kind>/<source>/<day>.parquet
      lake/rollups/<kind>/<source>/<day>.parquet
      lake/names/<source>.parquet         what its listings have called things, and since when
      lake/<table>.parquet                ownership map and rate card, as tables
      build/warehouse.duckdb              dbt's private file
      build/passed                        there while that may be published
      warehouse.duckdb                    the published file: read-only, replaced whole
      dagster/                            the Dagster instance
      locks/<what>                        held by the process that works on it

A file is written beside its place and renamed over it, so a reader or a crash sees the old or the
new one, never half of one. What must not change in between is done under a lock.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from tempfile import mkdtemp
from typing import TextIO

from dagster_project import settings
from dagster_project.days import Days
from dagster_project.errors import ChargebackError
from dagster_project.records import Kind


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
        return self.root / "records" / kind / source / f"{day}.parquet"

    def rollup(self, kind: Kind, source: str, day: date) -> Path:
        return self.root / "rollups" / kind / source / f"{day}.parquet"

    def names(self, source: str) -> Path:
        return self.root / "names" / f"{source}.parquet"

    def table(self, name: str) -> Path:
        return self.root / f"{name}.parquet"

    def days_of(self, kind: Kind, source: str) -> list[date]:
        """The days of `source` that are in the lake, in order."""
        folder = self.root / "records" / kind / source
        return sorted(date.fromisoformat(file.stem) for file in folder.glob("*.parquet"))

    @contextmanager
    def locked(self, what: str, *, wait: bool = True) -> Iterator[TextIO]:
        """Be the only process that works on `what`; yields the open lock, which holds this process's id.

        The kernel lets go of it when the last process that has it open ends, however it ends. Without
        `wait`, raises Busy when another process has it. Not to be nested for the same `what`.
        """
        folder = self.home / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / what).open("a+", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                raise Busy(self, lock.read()) from None
            sign(lock, os.getpid())
            yield lock

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A private folder on the lake's own disk, so that what is in it can be renamed into place."""
        parent = self.home / "scratch"
        parent.mkdir(parents=True, exist_ok=True)
        for left in parent.iterdir():
            if not _is_alive(int(left.name.partition("-")[0])):
                shutil.rmtree(left, ignore_errors=True)
        folder = Path(mkdtemp(prefix=f"{os.getpid()}-", dir=parent))
        try:
            yield folder
        finally:
            shutil.rmtree(folder)


class Busy(ChargebackError):
    """Another process is working on the same part of the deployment."""

    def __init__(self, lake: Lake, process: str) -> None:
        super().__init__(
            f"another chargeback command (process {process}) is working on {lake.home}; "
            "wait until it is done and run this again"
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
    with new.open("rb") as handle:
        os.fsync(handle.fileno())
    new.replace(place)
    _sync_folder(place.parent)


def replace_folder(new: Path, place: Path) -> None:
    """Put the finished folder `new` at `place`; what was there before is removed."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        old = Path(mkdtemp(dir=new.parent))
        place.replace(old / "old")
    new.replace(place)
    _sync_folder(place.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
