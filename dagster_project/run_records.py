"""Dagster's records of runs, for whoever writes many of them: its SQLite files, kept open.

Dagster opens and closes a file for each of the two thousand events and questions of a run, and puts each
together as SQL anew. Whoever closes such a file last waits for the disk several times, too.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from dagster import DagsterInstance
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.event_log.sqlite.sqlite_event_log import INDEX_SHARD_NAME, SqliteEventLogStorage
from dagster._core.storage.runs import SqliteRunStorage
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData
from sqlalchemy import Connection, Engine, create_engine, event, inspect


def kept_open(home: str) -> DagsterInstance:
    """The instance of this folder; its files are closed when it is disposed of.

    One that keeps its records in another database, as its dagster.yaml says, is as it always is.
    """
    ref = InstanceRef.from_dir(home)
    kept = ref.storage_data
    if kept and kept.class_name == DagsterSqliteStorage.__name__:
        ref = ref._replace(storage_data=ConfigurableClassData(__name__, KeptOpen.__name__, kept.config_yaml))
    return DagsterInstance.from_ref(ref)


class KeptOpen(DagsterSqliteStorage):
    """As its base, with one engine for each file."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(base_dir, inst_data)
        self._run_storage = _Runs(self._run_storage)
        self._event_log_storage = _Events(self._event_log_storage)

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> Self:
        return cls.from_local(inst_data=inst_data, **config_value)


class _Runs(SqliteRunStorage):
    def __init__(self, opened: SqliteRunStorage) -> None:
        super().__init__(opened._conn_string)
        self._engine = _engine(self._conn_string)

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        with self._engine.begin() as connection:
            yield connection

    def dispose(self) -> None:
        self._engine.dispose()


class _Events(SqliteEventLogStorage):
    def __init__(self, opened: SqliteEventLogStorage) -> None:
        self._engines: dict[str, Engine] = {}
        super().__init__(opened._base_dir)

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        with self._db_lock, self._opened(shard).begin() as connection:
            yield connection

    def has_table(self, table_name: str) -> bool:
        # Asked inside a connection, too.
        return inspect(self._opened(INDEX_SHARD_NAME)).has_table(table_name)

    def _opened(self, shard: str) -> Engine:
        if shard not in self._engines:
            engine = _engine(self.conn_string_for_shard(shard))
            self._initdb(engine)
            self._engines[shard] = engine
        return self._engines[shard]

    def dispose(self) -> None:
        super().dispose()
        for engine in self._engines.values():
            engine.dispose()


def _engine(address: str) -> Engine:
    engine = create_engine(address, connect_args={"timeout": SQLITE_BUSY_TIMEOUT_SECONDS})

    @event.listens_for(engine, "connect")
    def at_checkpoints(connection: sqlite3.Connection, _record: object) -> None:
        """Commits wait for the disk there only: a power cut may cost the newest events, never a file."""
        connection.execute("pragma synchronous = normal")

    return engine
