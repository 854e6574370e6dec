"""Tables in files: CSV, Parquet, or JSON rows, with every value as text, as the file says it.

A name that ends in `.parquet` or `.csv` (`.gz`, `.zst` too) says the form; anything else is JSON. Names of
columns are compared without regard to case, but in JSON; one of CSV that has a slash, as in AWS's legacy
report, goes by its snake_case, too (`lineItem/UsageType`, `line_item_usage_type`). What is nested is its JSON
text. Numbers are the shortest text that means them, so they can become exact decimals; of a JSON number the
engine keeps 17 digits. Instants without a zone are as written. An empty text is null.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import duckdb
from duckdb import ConstantExpression as Literal

from dagster_project.errors import SourceError
from dagster_project.sources import _files, _tags
from dagster_project.sources._sql import quoted

DELIMITERS = ",;\t|"
LONGEST_NAME = 1000
"""Characters of a column's name: what is longer is a text, in a table without a header."""


def extract(
    source: str,
    connection: duckdb.DuckDBPyConnection,
    files: Mapping[str, int],
    columns: Collection[str],
    required: Collection[str],
    projection: str,
    target: Path,
) -> None:
    """Write what the query `projection` says of the table `logged` to the Parquet file `target`.

    `logged` has `file` and the `columns` of the files, as text; null where a file has no such column.
    Raises SourceError for files of several forms, for a CSV or Parquet file without one of the `required`
    columns (what a JSON file does not have, is null), and with file and line for what is no row of it.
    """
    forms = {_form(file) for file in files}
    if len(forms) > 1:
        raise SourceError(
            source,
            f"the files are of several forms: {', '.join(sorted(forms))}",
            where=min(files),
            remedy="Let `path` name those of one form; another form is another entry.",
        )
    (form,) = forms

    def rows(names: list[str], longest: int) -> tuple[str, list[list[str]]]:
        if form == "json":
            texts = ", ".join(f"nullif({quoted(name)} ->> '$', '') as {quoted(name)}" for name in columns)
            records = _files.read_json(dict.fromkeys(columns, "JSON"), longest)
            return f"select file, {texts} from {records}", [names]
        parts = list((_csv if form == "csv" else _parquet)(source, connection, names, longest))
        for part in parts:
            if missing := [name for name in required if name.lower() not in part.columns]:
                raise SourceError(
                    source,
                    f"there is no column {', '.join(missing)}",
                    where=part.files[0],
                    remedy="Is its first line the header, and is it the table that was meant? "
                    "Nothing was taken from any file.",
                )
        if not parts:  # files without so much as a header
            return (
                f"select null as file, {', '.join(f'null as {quoted(name)}' for name in columns)} limit 0",
                [],
            )
        texts = (", ".join(part.text(name) for name in columns) for part in parts)
        return " union all ".join(
            f"select {quoted(_FILE)} as file, {text} from {part.table}"
            for part, text in zip(parts, texts, strict=True)
        ), [part.files for part in parts]

    _files.copy_rows(source, connection, files, rows, projection, target, are_json=form == "json")


_FILE = "file of the row"
"""No column is called so."""


class _Part(NamedTuple):
    """Files with the same columns: SQL of their rows, and the columns' own names and types by the names that
    they go by, in lower case."""

    files: list[str]
    table: str
    columns: Mapping[str, tuple[str, str]]

    def text(self, name: str) -> str:
        """SQL of a column as text."""
        if name.lower() not in self.columns:
            return f"null::varchar as {quoted(name)}"
        own, kind = self.columns[name.lower()]
        nested = kind.endswith("]") or kind.startswith(("MAP", "STRUCT"))
        text = f"to_json({quoted(own)})::varchar" if nested else f"nullif({quoted(own)}::varchar, '')"
        return f"{text} as {quoted(name)}"


def _form(file: str) -> str:
    found = re.search(r"\.(csv|parquet)(\.gz|\.zst)?$", file.lower())
    return found[1] if found else "json"


def _parquet(
    _source: str, connection: duckdb.DuckDBPyConnection, files: list[str], _longest: int
) -> Iterator[_Part]:
    """Each file's own types, since together the engine would make all of them the least exact."""
    table = f"read_parquet(?, filename = {Literal(_FILE)}, binary_as_string = true)"
    alike: dict[tuple[tuple[str, str], ...], list[str]] = defaultdict(list)
    for file in files:
        described = connection.execute(f"describe select * from {table}", [[file]]).fetchall()
        alike[tuple((name.lower(), kind) for name, kind, *_ in described)].append(file)
    for types, same in alike.items():
        yield _Part(same, table, {name: (name, kind) for name, kind in types})


def _csv(
    source: str, connection: duckdb.DuckDBPyConnection, files: list[str], longest: int
) -> Iterator[_Part]:
    """Rows by the names in the headers.

    The engine's own guess of the dialect takes a first row that does not fit for another header and skips
    what stands before it, so each file's header is read first; those with the same one are read together.
    """
    read = f"auto_detect = false, max_line_size = {longest}"
    line = f"{read}, header = false, delim = chr(1), quote = '', escape = '', columns = {{'line': 'VARCHAR'}}"
    alike: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
    for file in files:
        found = connection.execute(
            f"select line from read_csv(?, {line}, strict_mode = false) limit 1", [file]
        ).fetchone()
        if found:
            alike[_header(source, file, found[0] or "")].append(file)
    for (delimiter, header), same in alike.items():
        columns = ", ".join(f"{Literal(name)}: 'VARCHAR'" for name in header)
        own = {name.lower(): name for name in header}
        snake_case = {_tags.canonical_key(name): name for name in reversed(header) if "/" in name}
        yield _Part(
            same,
            f"read_csv(?, {read}, header = true, delim = {Literal(delimiter)}, quote = '\"', escape = '\"', "
            f"columns = {{{columns}}}, filename = {Literal(_FILE)}, strict_mode = true)",
            {called: (name, "VARCHAR") for called, name in (snake_case | own).items()},
        )


def _header(source: str, file: str, line: str) -> tuple[str, tuple[str, ...]]:
    """The delimiter and the names in the first line of a file."""
    delimiter = max(DELIMITERS, key=line.count)
    try:
        names = next(csv.reader([line], delimiter=delimiter), None)
    except csv.Error:
        names = None
    if not names or max(map(len, names)) > LONGEST_NAME:
        raise SourceError(source, "the first line is no header", where=f"{file}:1", remedy=_files.REMEDY)
    return delimiter, tuple(_told_apart(names))


def _told_apart(header: Iterable[str]) -> list[str]:
    """Names without the blanks around them; the second of one name gets one that nobody asks for."""
    names: list[str] = []
    for number, raw in enumerate(header):
        name = raw.strip()
        known = {other.lower() for other in names}
        names.append(name if name and name.lower() not in known else f"column {number} {name}")
    return names
