"""Rows of a table as records, by a map: all of it SQL.

A value that does not fit is a problem that is told; it never becomes null, 0 or a default.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import duckdb
from duckdb import ConstantExpression as Value

from dagster_project.records import BY_NAME, COLUMNS, METERS, MONEY, Kind
from dagster_project.settings import Route
from dagster_project.sources import _routes, _tags
from dagster_project.sources._map import (
    DEPLOYMENT,
    INPUT_PARTS,
    MICROSECONDS,
    OF_THE_LAKE,
    OUTPUT_PARTS,
    WORDS,
    Column,
    Map,
    Time,
)
from dagster_project.sources._request_log import LARGEST, LOGGED
from dagster_project.sources._sql import at_least_0, exact, is_currency, lookup, quoted
from dagster_project.terminal import counted

LONGEST_MS = 7 * 24 * 60 * 60 * 1000
"""Of a call: a batch may take a day."""

_COUNTS = {*(meter.column for meter in METERS), "reasoning_tokens", "context_tokens"}


@dataclass(frozen=True)
class Shape:
    """What becomes of a log's rows before a map says what they mean."""

    query: str = "select * from logged"
    """SQL of the rows, with `file`; every column that it reads and makes is text."""
    reads: tuple[str, ...] = ()
    """Columns of the log that it needs beside those that the map names."""
    makes: tuple[str, ...] = ()
    """Columns that the map names and the log does not have."""
    requires: tuple[str, ...] | None = None
    """Columns that every generation of the log has; if it is not said, all that the map names alone."""
    counts: Mapping[str, str] = field(default_factory=dict)
    """SQL of what is true of rows that are worth counting, by the name of the count."""
    skips: str = "false"
    """SQL of rows that are no calls: nothing of them is read, and how many they are is told. In it, the text
    that the map reads a column from is `said_<column>`."""

    @property
    def flags(self) -> Mapping[str, str]:
        """SQL of everything that is told of a row beside its record."""
        return {
            "is_skipped": self.skips,
            **{f"counted_{name}": sql for name, sql in self.counts.items()},
        }


AS_LOGGED = Shape()


def columns_read(map_: Map, shape: Shape = AS_LOGGED) -> list[str]:
    """The table's columns that the map names, and those that may hold what it names within them."""
    named = [name for names in _sources(map_) for name in names]
    pieces = [piece for name in named for piece in (name, name.partition(".")[0])]
    return [name for name in dict.fromkeys((*pieces, *shape.reads)) if name not in shape.makes]


def columns_required(map_: Map, shape: Shape = AS_LOGGED) -> list[str]:
    """Those that a table has to have: what is named alone, and not within another column."""
    if shape.requires is not None:
        return list(shape.requires)
    return [names[0] for names in _sources(map_) if len(names) == 1 and "." not in names[0]]


def _sources(map_: Map) -> Iterator[Sequence[str]]:
    yield from (column.column for column in map_.columns.values() if column.column)
    yield from map_.tags.columns.values()
    yield from ((name,) for name in (*map_.tags.maps, *map_.tags.headers))


def projection(
    map_: Map,
    kind: Kind,
    source: str,
    routes: Sequence[Route],
    aliases: Mapping[str, str],
    shape: Shape = AS_LOGGED,
) -> str:
    """The query of the rows of `logged`, whose columns are text, in the schema; with `file`, `problems` (a
    list of texts, none of which holds a value), `is_negative_remainder`, and the `shape`'s flags.
    """
    mapped = map_.columns
    said = ", ".join(f"{_said(column)} as said_{name}" for name, column in mapped.items())
    read = ", ".join(
        f"{_read(name, mapped[name], map_.time)} as {name}" if name in mapped else f"null::{kind_} as {name}"
        for name, kind_ in {
            **{c.name: c.type for c in COLUMNS if c.name not in OF_THE_LAKE},
            DEPLOYMENT: "VARCHAR",
        }.items()
    )
    has = {f"has_{n}": f"{quoted(name)} is not null" for n, name in enumerate(columns_required(map_, shape))}
    told = {**shape.flags, **has}
    flags = ", ".join(f"coalesce({sql}, false) as {name}" for name, sql in told.items())
    rows = f"""
select *, {read}, {_whole(map_)}
from (
  select file, {said}, {", ".join(_tag_texts(map_)) or "null as no_tags"}, {flags}
  from ({shape.query})
)"""
    record = _record(map_, kind, source, routes)
    return f"""
select
  file,
  list_filter([{", ".join(_problems(map_, kind))}], lambda problem: problem is not null) as problems,
  coalesce(least(input_rest, output_rest) < 0, false) as is_negative_remainder,
  {", ".join(told)},
  {", ".join(f"{sql} as {name}" for name, sql in record.items())}
from ({_tags.tagged(rows, _tag_pairs(map_, aliases), aliases)})"""


def newest(record_id: str, *versions: str) -> str:
    """SQL, for `qualify`, of whether a row is the last version of its record."""
    last_first = ", ".join(f"{version} desc nulls last" for version in versions)
    ranked = f"row_number() over (partition by {record_id} order by {last_first}, file)"
    return f"({record_id} is null or {ranked} = 1)"


def never_said(rows: duckdb.DuckDBPyRelation, map_: Map, shape: Shape) -> list[str]:
    """The required columns that no row says, if a call succeeded: a log in JSON has no header to ask."""
    required = columns_required(map_, shape)
    has = "".join(f", bool_or(has_{n})" for n in range(len(required)))
    succeeded, *found = rows.aggregate(f"count(*) filter (coalesce(status, 'ok') = 'ok'){has}").fetchall()[0]
    return [name for name, is_found in zip(required, found, strict=True) if succeeded and not is_found]


def problems(rows: duckdb.DuckDBPyRelation) -> list[str]:
    """What keeps rows from being records, the most frequent first, with the file of the first of them."""
    each = rows.project("unnest(problems) as problem, file")
    told = each.aggregate("problem, count(*) as rows, min(file) as file", "problem").order(
        "rows desc, problem"
    )
    return [
        f"{problem} ({counted(count, 'row')}, the first in {file})"
        for problem, count, file in told.fetchall()
    ]


def _record(map_: Map, kind: Kind, source: str, routes: Sequence[Route]) -> dict[str, str]:
    """SQL of every column of a record."""
    record = {column.name: column.name for column in COLUMNS if column.name not in OF_THE_LAKE}
    record |= {
        "record_kind": str(Value(kind)),
        "source": str(Value(source)),
        "tags": "tags",
        "quantity_unit": "case when quantity is not null then quantity_unit end",
        "input_tokens": at_least_0("input_rest"),
        "output_tokens": at_least_0("output_rest"),
    }
    if kind != "request":
        return record | {"usage_date": "started_at::date"}
    identity = _routes.identity(routes, provider="provider", model="model", deployments=(DEPLOYMENT,))
    ids = {name: f"coalesce({sql}, {name})" for name, sql in identity.items() if name != "provider"}
    if "record_id" not in map_.columns:
        said = [f"said_{name}" for name in map_.columns]
        tags = [f"tag_text_{n}::varchar" for n in range(len(_tag_texts(map_)))]
        row = f"md5(to_json([{', '.join([*said, *tags])}])::varchar)"
        # Rows that agree in all are as many calls; the same file again under another name is none.
        record["record_id"] = f"concat({row}, '-', row_number() over (partition by file, {row}))"
    return (
        record
        | ids
        | {
            "provider": identity["provider"],
            "ended_at": _ENDED,
            "usage_date": f"coalesce({_ENDED}, started_at)::date",
            "context_tokens": "context_tokens",
            "requests": "coalesce(requests, 1)",
        }
    )


_ENDED = f"""coalesce(ended_at,
    case when latency_ms between 0 and {LONGEST_MS} then started_at + to_milliseconds(latency_ms) end)"""


def _whole(map_: Map) -> str:
    """SQL of what is left of input and output without their parts, and of all input."""
    ins, outs = (
        [f"coalesce({part}, 0)" for part in parts if part in map_.columns]
        for parts in (INPUT_PARTS, OUTPUT_PARTS)
    )
    inside, beside = ("-", "") if map_.parts == "inside" else ("", "+")
    reasoning = " + coalesce(reasoning_tokens, 0)" if map_.reasoning == "beside" else ""

    def with_parts(whole: str, sign: str, parts: Sequence[str]) -> str:
        return " ".join([whole, *(f"{sign} {part}" for part in parts)]) if sign else whole

    return (
        f"{with_parts('input_tokens', inside, ins)} as input_rest, "
        f"{with_parts('input_tokens', beside, ins)} as context_tokens, "
        f"{with_parts('output_tokens', inside, outs)}{reasoning} as output_rest"
    )


def _said(column: Column) -> str:
    """The text that a row says, null where it says nothing."""
    return str(Value(column.value)) if column.value is not None else _first(column.column or ())


def _first(names: Iterable[str]) -> str:
    return f"coalesce({', '.join(map(_found, names))})"


def _found(name: str) -> str:
    here = f"nullif(trim({quoted(name)}), '')"
    head, dot, rest = name.partition(".")
    if not dot:
        return here
    path = "$" + "".join(f'."{piece}"' for piece in rest.split("."))
    return f"{here}, nullif(trim(try_cast({quoted(head)} as json) ->> {Value(path)}), '')"


def _read(name: str, column: Column, time: Time) -> str:
    """SQL of the value that the text `said_...` means, null where it means none."""
    said = f"said_{name}"
    words = {**WORDS.get(name, {}), **{word.lower(): meant for word, meant in column.words.items()}}
    meant = lookup(words, f"lower({said})", "null") if words else "null::varchar"
    if name in WORDS:
        return f"coalesce({meant}, {_HTTP.format(said)})" if name == "status" else f"{meant}::{_type(name)}"
    match _type(name):
        case "TIMESTAMP":
            return _instant(said, time)
        case "BIGINT" | "INTEGER" as kind:
            number = f"(try_cast({said} as decimal(27, 9)) * {column.times:f})"
            whole = f"try_cast({number} as {kind})"
            # a latency may be a fraction; half a token is none
            return whole if name.endswith("_ms") else f"case when {number} % 1 = 0 then {whole} end"
        case kind if kind == MONEY:
            return exact(said, f"{column.times:f}")
        case _:
            text = f"coalesce({meant}, {said})"
            return {"provider": f"lower({text})", "currency": f"upper({text})"}.get(name, text)


_HTTP = (
    "case when try_cast({0} as integer) between 200 and 299 then 'ok' when try_cast({0} as integer) = 499 "
    "then 'cancelled' when try_cast({0} as integer) between 100 and 599 then 'error' end"
)
"""SQL of what an HTTP status means."""


def _type(name: str) -> str:
    return "VARCHAR" if name == DEPLOYMENT else BY_NAME[name].type


def _instant(said: str, time: Time) -> str:
    """UTC of a text; null where it is no instant."""
    in_zone = f"timezone({Value(time.zone)}, {{}})::timestamp"
    if time.format == "iso":
        has_zone = f"regexp_matches({said}, '(Z|z|UTC|[+-]\\d\\d:?(\\d\\d)?)$') and contains({said}, ':')"
        local = in_zone.format(f"try_cast({said} as timestamp)")
        # A zone's name after the time would be passed over; and `infinity` is an instant, too.
        return f"""case when {has_zone} then try_cast({said} as timestamptz)::timestamp
            when not regexp_matches({said}, '[A-Za-z]$') then {local} end"""
    if time.format in MICROSECONDS:
        since = f"try_cast({said} as decimal(28, 9)) * {MICROSECONDS[time.format]}"
        return f"try(make_timestamp(({since})::bigint))"
    parsed = f"try_strptime({said}, {Value(time.format)})"
    return f"{parsed}::timestamp" if "%z" in time.format.lower() else in_zone.format(f"{parsed}::timestamp")


def _problems(map_: Map, kind: Kind) -> Iterator[str]:
    """SQL of what keeps a row from being a record: each a text, or null."""
    for name, column in map_.columns.items():
        where = ", ".join(f"`{one}`" for one in column.column or ()) or f"`value: {column.value}`"
        fits = f"{name} is not null"
        if name in ("started_at", "ended_at"):
            fits = f"coalesce({name} between {LOGGED[0]} and {LOGGED[1]}, false)"
        elif name == "currency":
            fits = is_currency("currency")
        elif name in ("latency_ms", "ttft_ms"):
            fits = f"coalesce({name} between 0 and {LONGEST_MS}, false)"
        elif name in _COUNTS or name == "reported_cost":
            fits = f"coalesce({name} between 0 and {LARGEST}, false)"
        problem = Value(f"{name}: {where} {_no(name)}")
        yield f"case when said_{name} is not null and not ({fits}) then {problem} end"
    for name in (*REQUIRED[kind], "record_id"):
        if name in map_.columns:
            where = ", ".join(f"`{one}`" for one in map_.columns[name].column or ())
            yield f"case when said_{name} is null then {Value(f'{name}: {where} is empty')} end"


REQUIRED: Mapping[Kind, Sequence[str]] = {
    "request": ("started_at",),
    "usage": ("started_at", "provider"),
    "charge": ("started_at", "provider", "billed_cost", "currency", "charge_category"),
}
"""What a record cannot do without."""


def _no(name: str) -> str:
    if _type(name) == "TIMESTAMP":
        return "is no instant of this century, in the format that `time` says"
    if name in WORDS:
        return "is a word that nobody said the meaning of: add it to `words`"
    if _type(name) == MONEY:
        return "is no number, or one that no request costs" if name == "reported_cost" else "is no number"
    return "is no currency's code" if name == "currency" else "is no whole number that could be one"


def _tag_texts(map_: Map) -> list[str]:
    of_columns = [_first(names) for names in map_.tags.columns.values()]
    of_maps = [
        f"coalesce(try_cast({_first((name,))} as json), to_json({_first((name,))}))"
        for name in map_.tags.maps
    ]
    of_headers = [f"try_cast({_first((name,))} as json)" for name in map_.tags.headers]
    return [f"{sql} as tag_text_{n}" for n, sql in enumerate((*of_columns, *of_maps, *of_headers))]


def _tag_pairs(map_: Map, aliases: Mapping[str, str]) -> list[str]:
    keys = list(map_.tags.columns)
    maps = range(len(keys), len(keys) + len(map_.tags.maps))
    headers = range(maps.stop, maps.stop + len(map_.tags.headers))
    said = ", ".join(f"{{'key': {Value(key)}, 'value': tag_text_{n}}}" for n, key in enumerate(keys))
    return [
        f"list_filter([{said}]::struct(key varchar, value varchar)[], lambda pair: pair.value is not null)",
        *(_tags.labels(f"tag_text_{n}") for n in maps),
        *(_tags.headers(f"tag_text_{n}", aliases) for n in headers),
    ]
