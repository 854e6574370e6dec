"""Files of a source, on disk or in an object store: which there are, and how the engine reads them.

A path is a glob (`*`, `?`, `[...]`, `**` for any depth) and may name the day: `{date}` is the ISO day,
`{date:%Y/%m/%d}` any strftime pattern. `s3://`, `gs://` and `az://` are object stores, whose
credentials and endpoint are the usual environment variables (AWS_..., GOOGLE_..., AZURE_...).
"""

from __future__ import annotations

import fnmatch
import glob
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import obstore
from duckdb import ConstantExpression as Literal
from obstore.exceptions import BaseError as StoreError
from obstore.store import from_url

from dagster_project.days import Days
from dagster_project.errors import SourceError
from dagster_project.records import COLUMNS
from dagster_project.sources import _listed
from dagster_project.sources._endings import DAMAGED, NOT_CSV, NOT_JSON, fault_of_gzip, fault_of_text
from dagster_project.sources._listed import GROWING, Growing, Listed, Pieces

MANIFEST = "files.json"
SMALL_OBJECT = 2**20
OBJECTS_AHEAD = 32
USUAL_RECORD, LARGEST_RECORD = 16 * 2**20, 256 * 2**20
"""Bytes of a record. The engine's buffers are twice as large on every thread, so the larger figure is for
logs that were found to need it (images in a request), and for one thread."""

GZIP = ".gz"
REMEDY = "Nothing was taken from any file. Have it delivered again, or take the file out of `path`."

_VARIABLES: Mapping[str, str] = {
    "s3": "the environment variables AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL "
    "(one without TLS needs AWS_ALLOW_HTTP=true)",
    "gs": "the environment variable GOOGLE_SERVICE_ACCOUNT, which names the file of a service account's key",
    "az": "the environment variables AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY and "
    "AZURE_STORAGE_ENDPOINT (one without TLS needs AZURE_ALLOW_HTTP=true)",
}

_OBJECT = re.compile(r"(?P<root>(?P<scheme>s3|gs|az)://[^/]+)/(?P<key>.+)", re.DOTALL)
_PLACE = re.compile(
    r'in file "(?P<file>.*)",(?: at byte \d+)? in (?P<unit>line|record/value) (?P<number>\d+)'
)
_CSV_LINE = re.compile(r"CSV Error on Line: (?P<number>\d+)\n.*\n  file = (?P<file>[^\n]*)\n", re.DOTALL)

_TOO_LONG = re.compile("maximum_object_size|max_line_size", re.IGNORECASE)

Rows = Callable[[list[str], int], tuple[str, list[list[str]]]]
"""What makes the query of all rows of files, with `file`, and its parameters, as soon as the engine can read
them; a row may have so many bytes."""


class Found(NamedTuple):
    """A file as it was listed: its size in bytes, and when it was last written, UTC."""

    size: int
    written_at: datetime


def check(pattern: str) -> str:
    """`pattern` itself. Raises ValueError when its braces are no date or name more than the day."""
    try:
        pattern.format(date=date.min)
    except (KeyError, IndexError, ValueError):
        raise ValueError("only {date} or {date:%Y-%m-%d} may stand in braces") from None
    if re.search("%[-]?[HIMSfpcXTRr]", pattern):
        raise ValueError("a date may only name the day; write * for the hour")
    return pattern


def find(source: str, pattern: str, days: Days) -> dict[str, int]:
    """The files of `pattern` for `days` with their sizes in bytes.

    With a date, one more day on each side: a record may arrive after midnight, and LiteLLM names its
    folders in local time. Raises SourceError when there is no file at all.
    """
    found = listed(source, pattern, days)
    if not found:
        patterns = _of_days(pattern, days)
        raise SourceError(
            source,
            f"no file matches {patterns[0]}" + (f" .. {patterns[-1]}" if len(patterns) > 1 else ""),
            where=pattern,
            remedy="Correct `path`, or the permission to list it.",
        )
    return {file: one.size for file, one in found.items()}


def listed(source: str, pattern: str, days: Days) -> dict[str, Found]:
    """As `find`, with all that a listing says; there may be none."""
    try:
        return {file: found for one in _of_days(pattern, days) for file, found in _matching(source, one)}
    except StoreError as error:
        raise _refused(source, pattern, "listed", error) from None


def _of_days(pattern: str, days: Days) -> list[str]:
    return sorted({pattern.format(date=day) for day in days.widened(1)})


def literally(folder: str) -> str:
    """A pattern of just this folder: neither glob nor date."""
    return glob.escape(folder).replace("{", "{{").replace("}", "}}")


def content(source: str, file: str) -> bytes:
    """All of a small file, e.g. of one that lists others. Raises SourceError when it cannot be read."""
    try:
        if (remote := _OBJECT.fullmatch(file)) is not None:
            return obstore.get(from_url(remote["root"]), remote["key"]).bytes().to_bytes()
        return Path(file).read_bytes()
    except StoreError as error:
        raise _refused(source, file, "read", error) from None
    except OSError as error:
        raise SourceError(source, DAMAGED, where=file, remedy=REMEDY) from error


def _refused(source: str, place: str, done: str, error: StoreError) -> SourceError:
    return SourceError(
        source,
        f"the object store cannot be {done} ({_said(error)})",
        where=place,
        remedy=f"Check the bucket and {_VARIABLES[place.partition('://')[0]]}.",
    )


def _said(error: StoreError) -> str:
    """What went wrong, without anything that could be a credential: the status and the store's code, else
    the client's first line without queries and quotations.
    """
    text = str(error)
    if status := re.search(r"status code: (\d{3}[A-Za-z ]*)", text):
        code = re.search(r"<Code>(\w+)</Code>", text)
        return f"HTTP {status[1].strip()}" + (f", {code[1]}" if code else "")
    line = text.partition("\n")[0]
    return re.sub(r"""\?\S*|"[^"]*"|`[^`]*`|'[^']*'""", "...", line)


def days_without_files(pattern: str, days: Days, files: Iterable[str]) -> set[date]:
    """The days of which a dated `pattern` has no file of its own; none for a pattern without a date."""
    if pattern.format(date=days.first) == pattern.format(date=days.first + timedelta(days=400)):
        return set()
    return {day for day in days if not fnmatch.filter(files, pattern.format(date=day))}


def write_manifest(files: Mapping[str, int], raw: Path) -> None:
    (raw / MANIFEST).write_text(json.dumps(files), encoding="utf-8")


def read_manifest(raw: Path) -> dict[str, int]:
    return json.loads((raw / MANIFEST).read_text(encoding="utf-8"))


def extract(
    source: str,
    connection: duckdb.DuckDBPyConnection,
    files: Mapping[str, int],
    columns: Mapping[str, str],
    projection: str,
    target: Path,
) -> None:
    """Write what the query `projection` says of the table `logged` to the Parquet file `target`.

    `logged` has the `columns` (name to DuckDB type) of all records in the JSON `files`, and `file`;
    what is not among them is never read into a value. Raises SourceError with file and line.
    """

    def records(names: list[str], longest: int) -> tuple[str, list[list[str]]]:
        return f"select * from {read_json(columns, longest)}", [names]

    copy_rows(source, connection, files, records, projection, target, are_json=True)


def read_json(columns: Mapping[str, str], longest: int) -> str:
    """SQL of the records of JSON files, with `file`; the files' names are its parameter."""
    types = ", ".join(f"{Literal(name)}: {Literal(kind)}" for name, kind in columns.items())
    # Not told that they are `records`, the engine would first read 20,480 of them to find out.
    return (
        f"read_json(?, filename = 'file', columns = {{{types}}}, records = 'true', "
        f"maximum_object_size = {longest})"
    )


def copy_rows(
    source: str,
    connection: duckdb.DuckDBPyConnection,
    files: Mapping[str, int],
    rows: Rows,
    projection: str,
    target: Path,
    *,
    are_json: bool,
) -> None:
    """As `extract`, with the `rows` of the files as `logged`."""

    def copy(names: list[str], longest: int) -> None:
        logged, parameters = rows(names, longest)
        connection.execute(
            f"copy (with logged as ({logged}) {projection}) to {Literal(str(target))} (format parquet)",
            parameters,
        )

    with _objects_readable(connection, files, are_json=are_json), ThreadPoolExecutor(1) as beside:
        overlooked = beside.submit(_overlooked, files, are_json=are_json)
        try:
            _copy_listed(connection, copy, files)
        except duckdb.Error as error:
            raise _unreadable(source, connection, files, error) from None
        if (found := overlooked.result()) is not None:
            file, what = found
            raise SourceError(source, what, where=file, remedy=REMEDY)


def completed(records: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """All columns of the schema in their exact types; null where `records` has no such column."""
    said = set(records.columns)
    return records.project(
        ", ".join(
            f"{column.name if column.name in said else 'null'}::{column.type} as {column.name}"
            for column in COLUMNS
        )
    )


_Copy = Callable[[list[str], int], None]


def _copy_listed(connection: duckdb.DuckDBPyConnection, copy: _Copy, files: Mapping[str, int]) -> None:
    """What somebody goes on writing to is read as far as it was when it was listed."""
    try:
        _copy_any_length(connection, copy, list(files))
    except duckdb.Error:
        if not (grown := _listed.grown(files)):
            raise
        connection.register_filesystem(Growing(grown))
        try:
            names = [f"{GROWING}{file}" if file in grown else file for file in files]
            _copy_any_length(connection, copy, names)
        finally:
            connection.unregister_filesystem(GROWING.removesuffix("://"))


def _copy_any_length(connection: duckdb.DuckDBPyConnection, copy: _Copy, files: list[str]) -> None:
    try:
        copy(files, USUAL_RECORD)
    except duckdb.InvalidInputException as error:
        if not _TOO_LONG.search(str(error)):
            raise
        connection.execute("set threads = 1")
        try:
            copy(files, LARGEST_RECORD)
        finally:
            connection.execute("reset threads")


@contextmanager
def _objects_readable(
    connection: duckdb.DuckDBPyConnection, files: Mapping[str, int], *, are_json: bool
) -> Iterator[None]:
    """While it lasts, `connection` reads those of `files` that are in an object store."""
    objects = [found for found in map(_OBJECT.fullmatch, files) if found is not None]
    schemes = {found["scheme"] for found in objects}
    with ThreadPoolExecutor(OBJECTS_AHEAD) as pool:
        for scheme in schemes:
            connection.register_filesystem(_Objects(scheme, files, pool, are_json=are_json))
        try:
            yield
        finally:
            for scheme in schemes:
                connection.unregister_filesystem(scheme)


def _unreadable(
    source: str, connection: duckdb.DuckDBPyConnection, files: Mapping[str, int], error: duckdb.Error
) -> Exception:
    """What the engine's `error` means, with file and line; `error` itself when no file is to blame.

    The engine's own text quotes the record, so nothing of it but the place is passed on.
    """
    text = str(error).replace(GROWING, "")
    if row := _CSV_LINE.search(text):
        return SourceError(source, NOT_CSV, where=f"{row['file']}:{row['number']}", remedy=REMEDY)
    if place := _PLACE.search(text):
        malformed = "Malformed" in text[: place.start()]
        # Of malformed text the engine tells the number after the one it stopped at.
        number = int(place["number"]) - malformed
        unit = "line" if place["unit"] == "line" else "record"
        what = NOT_JSON if malformed else "a field has an unexpected type"
        return SourceError(source, what, where=f"{place['file']}:{number} ({unit} {number})", remedy=REMEDY)
    file = max((file for file in files if file in text), key=len, default=None)
    if file is None and isinstance(error, duckdb.IOException):
        file = _unreadable_alone(connection, files)
    if file is None:
        return error
    is_long = _TOO_LONG.search(text)
    what = f"a record is longer than {LARGEST_RECORD} bytes" if is_long else DAMAGED
    return SourceError(source, what, where=file, remedy=REMEDY)


def _unreadable_alone(connection: duckdb.DuckDBPyConnection, files: Iterable[str]) -> str | None:
    """The compressed file that the engine cannot read: of some faults it does not tell where they are."""
    for file in files:
        if file.endswith((GZIP, ".zst")):
            try:
                connection.execute("select count(*) from read_json_objects(?)", [file])
            except duckdb.IOException:
                return file
            except duckdb.InvalidInputException:
                continue  # read, and not understood
    return None


def _overlooked(files: Mapping[str, int], *, are_json: bool) -> tuple[str, str] | None:
    """The first file on disk that has a fault which the engine overlooks, and the fault. What is written to
    now may end anywhere.
    """
    for file, size in files.items():
        if file.endswith(".zst") or _OBJECT.fullmatch(file) is not None:
            continue
        try:
            with Path(file).open("rb") as opened:
                fault = None
                if file.endswith(GZIP):
                    fault = fault_of_gzip(opened, is_json=are_json)
                elif are_json:
                    fault = fault_of_text(partial(_listed.bytes_of, Path(file)), size)
        except OSError:
            fault = DAMAGED
        if fault and not _listed.grown({file: size}):
            return file, fault
    return None


def _fixed_folder(place: Path) -> Path | None:
    """The folder above the first piece of `place` that is a glob; None where none is."""
    for number, piece in enumerate(place.parts):
        if glob.has_magic(piece):
            return Path(*place.parts[:number])
    return None


def _matching(source: str, pattern: str) -> Iterator[tuple[str, Found]]:
    remote = _OBJECT.fullmatch(pattern)
    if remote is None:
        place = Path(pattern).expanduser()
        fixed = _fixed_folder(place)
        # Not Path.glob: it takes no absolute pattern.
        for name in glob.iglob(str(place), recursive=True):  # noqa: PTH207
            file = Path(name)
            if file.is_file():
                if fixed and not file.resolve().is_relative_to(fixed.resolve()):
                    raise SourceError(
                        source,
                        f"this is a link, or behind one, that leads out of {fixed}",
                        where=name,
                        remedy="Copy it there, or name its own folder in `path`. Nothing was read.",
                    )
                status = file.stat()
                written_at = datetime.fromtimestamp(status.st_mtime, UTC)
                yield str(file.absolute()), Found(status.st_size, written_at)
        return
    root, key = remote["root"], remote["key"]
    wanted = re.compile(_regex(key), re.DOTALL)
    folder = re.split(r"[*?\[]", key, maxsplit=1)[0].rpartition("/")[0]
    for batch in obstore.list(from_url(root), prefix=folder or None):
        for entry in batch:
            if wanted.fullmatch(entry["path"]):
                yield f"{root}/{entry['path']}", Found(entry["size"], entry["last_modified"])


def _regex(pattern: str) -> str:
    """The regular expression of a glob over object names."""
    pieces = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}

    def piece(match: re.Match[str]) -> str:
        text = match[0]
        if text.startswith("[") and text != "[":
            negated = text.startswith("[!")
            return (
                f"[{'^' if negated else ''}{re.escape(text[1 + negated : -1]).replace(re.escape('-'), '-')}]"
            )
        return pieces.get(text) or re.escape(text)

    return re.sub(r"\*\*/|\*\*|\*|\?|\[!?\]?[^\]]*\]|.", piece, pattern, flags=re.DOTALL)


class _Objects(Listed):
    """The objects of a manifest; small ones are fetched ahead, many at once.

    A gateway may write an object per request. obstore's own fsspec adapter asks seven times for each,
    because it cannot know what the listing already said, one after another, and refuses names with
    characters that mean something in a URL or a glob.
    """

    def __init__(
        self, scheme: str, sizes: Mapping[str, int], pool: ThreadPoolExecutor, *, are_json: bool
    ) -> None:
        super().__init__(scheme, sizes)
        self._pool = pool
        self._are_json = are_json
        self._names = list(sizes)
        roots = {found["root"] for found in map(_OBJECT.fullmatch, sizes) if found is not None}
        self._stores = {root: from_url(root) for root in roots}
        self._position = {name: position for position, name in enumerate(self._names)}
        self._coming: dict[str, Future[bytes]] = {}

    def open(self, path: str, mode: str = "rb", **_: Any) -> Pieces:
        size = self._sizes[path]
        if size > SMALL_OBJECT:
            if self._are_json and not path.endswith((GZIP, ".zst")):
                self._refuse(path, fault_of_text(partial(self._bytes, path), size))
            return Pieces(size, lambda start, end: self._bytes(path, start, end))
        position = self._position[path]
        for name in self._names[position : position + OBJECTS_AHEAD]:
            if name not in self._coming and self._sizes[name] <= SMALL_OBJECT:
                self._coming[name] = self._pool.submit(self._bytes, name, 0, self._sizes[name])
        whole = self._coming.pop(path).result()
        if path.endswith(GZIP):
            self._refuse(path, fault_of_gzip(io.BytesIO(whole), is_json=self._are_json))
        elif self._are_json and not path.endswith(".zst"):
            self._refuse(path, fault_of_text(lambda start, end: whole[start:end], size))
        return Pieces(size, lambda start, end: whole[start:end])

    @staticmethod
    def _refuse(path: str, fault: str | None) -> None:
        if fault is not None:
            raise OSError(f"{path}: {fault}")

    def _bytes(self, name: str, start: int, end: int) -> bytes:
        found = _OBJECT.fullmatch(name)
        assert found is not None
        if start >= end:
            return b""
        try:
            store = self._stores[found["root"]]
            return obstore.get_range(store, found["key"], start=start, end=end).to_bytes()
        except (StoreError, FileNotFoundError, PermissionError) as error:
            raise OSError(f"{name}: {type(error).__name__}") from None
