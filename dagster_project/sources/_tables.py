"""Tables in files: CSV, Parquet, or JSON rows, with every value as text, as the file says it.

A name that ends in `.parquet` or `.csv` (`.gz`, `.zst` too) says the form; anything else is JSON. Names of
columns are compared without regard to case, but in JSON. What is nested is its JSON text. Numbers are the
shortest text that means them, so they can become exact decimals; of a JSON number the engine keeps 17 digits.
Instants without a zone are as written. An empty text is null.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import duckdb
from duckdb import ConstantExpression as Literal

from dagster_project.errors import SourceError
from dagster_project.sources import _files

DELIMITERS = ",;\t|"


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
    Raises SourceError for files of several forms, for a table without one of the `required` columns, and
    with file and line for what is no row of it.
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
            texts = ", ".join(f"nullif({_name(name)} ->> '$', '') as {_name(name)}" for name in columns)
            records = _files.read_json(dict.fromkeys(columns, "JSON"), longest)
            return f"select file, {texts} from {records}", [names]
        table, parameters = _csv(connection, names, longest) if form == "csv" else (_PARQUET, [names])
        held = _types(connection, table, parameters)
        missing = [name for name in required if name.lower() not in held]
        if missing and held.keys() != {"file"}:
            raise SourceError(
                source,
                f"there is no column {', '.join(missing)}",
                where=min(files),
                remedy=f"The columns are {', '.join(sorted(held.keys() - {'file'}))}.",
            )
        texts = ", ".join(f"{_as_text(name, held.get(name.lower()))} as {_name(name)}" for name in columns)
        return f"select file, {texts} from ({table})", parameters

    _files.copy_rows(source, connection, files, rows, projection, target, are_json=form == "json")


_PARQUET = "select * from read_parquet(?, filename = 'file', union_by_name = true, binary_as_string = true)"


def _form(file: str) -> str:
    found = re.search(r"\.(csv|parquet)(\.gz|\.zst)?$", file.lower())
    return found[1] if found else "json"


def _types(connection: duckdb.DuckDBPyConnection, rows: str, parameters: list[list[str]]) -> dict[str, str]:
    described = connection.execute(f"describe {rows}", parameters).fetchall()
    return {name.lower(): kind for name, kind, *_ in described}


def _as_text(name: str, kind: str | None) -> str:
    if kind is None:
        return "null::varchar"
    nested = kind.endswith("]") or kind.startswith(("MAP", "STRUCT"))
    return f"to_json({_name(name)})::varchar" if nested else f"nullif({_name(name)}::varchar, '')"


def _csv(
    connection: duckdb.DuckDBPyConnection, files: list[str], longest: int
) -> tuple[str, list[list[str]]]:
    """Rows of CSV files by the names in their headers.

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
            delimiter = max(DELIMITERS, key=found[0].count)
            (header,) = csv.reader([found[0]], delimiter=delimiter)
            alike[delimiter, tuple(_told_apart(header))].append(file)
    tables = []
    for delimiter, header in alike:
        columns = ", ".join(f"{Literal(name)}: 'VARCHAR'" for name in header)
        tables.append(
            f"select * from read_csv(?, {read}, header = true, delim = {Literal(delimiter)}, quote = '\"', "
            f"escape = '\"', columns = {{{columns}}}, filename = 'file', strict_mode = true)"
        )
    if not tables:  # files without so much as a header
        return "select null::varchar as file limit 0", []
    return " union all by name ".join(tables), list(alike.values())


def _told_apart(header: Iterable[str]) -> list[str]:
    """Names without the blanks around them; the second of one name gets one that nobody asks for."""
    names: list[str] = []
    for number, raw in enumerate(header):
        name = raw.strip()
        known = {other.lower() for other in names}
        names.append(name if name and name.lower() not in {*known, "file"} else f"column {number} {name}")
    return names


def _name(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'
