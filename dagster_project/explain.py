"""`chargeback explain`: where the dollars of a row of a mart come from, and why they are whose they are.

A row is named by its columns, whatever the mart: they are looked up in `fct_cost_allocations`, of which
every mart is a sum. Nothing but the published file is read, and nothing is written.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dagster_project.errors import ChargebackError, ConfigError
from dagster_project.terminal import cell, counted, dollars, jsonable, plain, usd

SHOWN = 5
"""Rows of each part, in text."""

PAIR = ("tag_key", "tag_value")
UNTAGGED = "(untagged)"


class WrongName(ChargebackError):
    """What was asked names no row, as it is written."""

    exit_code = 2


class NotFound(ChargebackError):
    """A value that no mart has, or one that several things have."""


@dataclass(frozen=True)
class Condition:
    """`column` has `value` (None: it has none); `sql` says so, with `parameters`."""

    column: str
    value: str | date | None
    sql: str
    parameters: Sequence[object]


@dataclass(frozen=True)
class Part:
    """The largest `rows` of `count`, each with its `cost_usd`; `others_usd` is that of those left out."""

    rows: Sequence[Mapping[str, Any]]
    count: int
    others_usd: Decimal


@dataclass(frozen=True)
class Explanation:
    """Dollars and what they are made of. Every part divides `cost_usd` anew, except as said.

        by_basis      billed, rated_usage, ...: where the money comes from
        owners        rule or policy, its place, and the selector that decided
        not_deciding  what else matched, and why it lost; several may have matched the same dollars
        splits        shares of the services and lines of the bill that several teams pay; of nothing else
        charges       lines of the bill: what they bill, what is here of it; their sum is what is `billed`
        cells         the provider's own usage: what is here of it and of its cost; `share` is of its cost
        requests      through which gateway and key, and how their requests were found
        identities    what it was recognised by; both are of nothing that a policy allocates

    `cost_usd` is None where nothing has a price.
    """

    named: Mapping[str, str | date | None]
    allocations: int
    unpriced_allocations: int
    cost_usd: Decimal | None
    list_cost_usd: Decimal | None
    parts: Mapping[str, Part]

    def to_json(self) -> str:
        """The fields, each part under its name; amounts and shares as decimal text, days as ISO text.

        Columns are those of the marts with these names, besides `share` and what begins with `charge_`,
        `cell_` (the whole line, the whole cell). Names may be added, none changes its meaning.
        """
        said = {
            "named": self.named,
            "allocations": self.allocations,
            "unpriced_allocations": self.unpriced_allocations,
            "cost_usd": self.cost_usd,
            "list_cost_usd": self.list_cost_usd,
        } | {name: vars(part) for name, part in self.parts.items()}
        return json.dumps(said, indent=2, default=jsonable)


def explain(published: Path, named: Sequence[str], limit: int | None) -> Explanation:
    """Explain what `named` (`column=value`, all must hold) names, at most `limit` rows of each part.

    Raises WrongName, NotFound, and ConfigError where nothing is published.
    """
    if not published.exists():
        raise ConfigError(str(published), ["nothing is published yet; run `chargeback run` first"])
    with TemporaryDirectory(prefix="chargeback-") as spill:
        try:
            with duckdb.connect(
                str(published), read_only=True, config={"temp_directory": spill}
            ) as warehouse:
                return _explain(warehouse, named, limit)
        except duckdb.Error as error:
            why = plain(str(error).partition("\n")[0])
            raise ConfigError(
                str(published), [f"{why}; if another version built it, run `chargeback build`"]
            ) from None


def _explain(warehouse: duckdb.DuckDBPyConnection, named: Sequence[str], limit: int | None) -> Explanation:
    conditions = list(_Columns(warehouse).conditions(named))
    warehouse.execute(
        "create temp table here as select * exclude (tags) from fct_cost_allocations where "
        + " and ".join(condition.sql for condition in conditions),
        [parameter for condition in conditions for parameter in condition.parameters],
    )
    totals = warehouse.execute(
        "select count(*), count(*) - count(cost_usd), sum(cost_usd), sum(list_cost_usd) from here"
    ).fetchall()[0]
    if totals[0] == 0:
        totals = (0, 0, Decimal(0), Decimal(0))
    parts = {name: _part(warehouse, sql, limit) for name, sql in PARTS.items()}
    return Explanation({c.column: c.value for c in conditions}, *totals, parts)


def _part(warehouse: duckdb.DuckDBPyConnection, sql: str, limit: int | None) -> Part:
    asked = warehouse.execute(
        f"select *, count(*) over (), sum(cost_usd) over () from ({sql}) as part "
        "order by abs(cost_usd) desc nulls last, part::varchar limit ?",
        [limit if limit is not None else 2**62],
    )
    columns = [column[0] for column in asked.description][:-2]
    rows = asked.fetchall()
    if not rows:
        return Part([], 0, Decimal(0))
    *_, count, total = rows[0]
    shown = [dict(zip(columns, row, strict=False)) for row in rows]
    return Part(shown, count, (total or 0) - sum((row["cost_usd"] or 0 for row in shown), Decimal(0)))


class _Columns:
    """The columns that name rows, of the file at hand: what is asked by is never anybody's text."""

    def __init__(self, warehouse: duckdb.DuckDBPyConnection) -> None:
        self._warehouse = warehouse
        columns = warehouse.execute(
            """
            select table_name, column_name, data_type
            from information_schema.columns
            inner join information_schema.tables using (table_schema, table_name)
            where table_schema = 'main' and table_type = 'BASE TABLE'
            order by all
            """
        ).fetchall()
        self._marts: dict[str, list[str]] = {}
        types: dict[tuple[str, str], str] = {}
        for mart, column, kind in columns:
            types[mart, column] = kind
            if kind in ("VARCHAR", "DATE"):
                self._marts.setdefault(column, []).append(mart)
        self._types = {
            column: kind
            for mart in ("dim_identities", "fct_cost_allocations")
            for (owner, column), kind in types.items()
            if owner == mart and kind in ("VARCHAR", "DATE")
        } | {"month": "DATE"}
        self._of_identities = {column for mart, column in types if mart == "dim_identities"} - {
            column for mart, column in types if mart == "fct_cost_allocations"
        }
        self._others = {column for _, column in types} - set(self._types) - set(PAIR)

    def conditions(self, named: Sequence[str]) -> Iterator[Condition]:
        values: dict[str, str] = {}
        for name in named:
            column, equals, value = name.partition("=")
            column = column.strip()
            if not equals:
                raise WrongName(f"`{plain(name)}` is not COLUMN=VALUE, as in team=support")
            if column in values:
                raise WrongName(f"`{plain(column)}` stands twice; a row has one value for it")
            self._refuse_other(column)
            values[column] = value
        if missing := set(PAIR) - values.keys() if values.keys() & set(PAIR) else set():
            raise WrongName(f"tag_key and tag_value name a tag together: add {missing.pop()}=...")
        for column, value in values.items():
            if column == "key":
                yield self._key(value)
            elif column == "tag_key":
                yield self._tag(value, values["tag_value"])
            elif column != "tag_value":
                yield self._column(column, value)

    def _refuse_other(self, column: str) -> None:
        names = {*self._types, *PAIR, "key"}
        if column in names:
            return
        if column in self._others:
            raise WrongName(
                f"`{column}` tells something about a row, but does not name it; name it by columns such as "
                "month, usage_date, team, service, model, charge_id or identity_id"
            )
        near = difflib.get_close_matches(column, sorted(names), n=1, cutoff=0)
        raise WrongName(f"no mart has a column `{plain(column)}`; did you mean `{near[0]}`?")

    def _column(self, column: str, text: str) -> Condition:
        is_date = self._types[column] == "DATE"
        value = _day(column, text) if is_date else text or None
        if column == "month":
            expression = "date_trunc('month', usage_date)::date"
        elif is_date:
            expression = f'"{column}"'
        else:
            expression = f"nullif(\"{column}\", '')"
        if value is not None:
            self._refuse_unknown(column, value)
        holds = f"{expression} is not distinct from ?"
        if column in self._of_identities:
            holds = f"identity_id in (select identity_id from dim_identities where {holds})"
        return Condition(column, value, holds, [value])

    def _refuse_unknown(self, column: str, value: str | date) -> None:
        marts = self._marts[column]
        known = " union all ".join(f'select "{column}" as value from {mart}' for mart in marts)
        if self._warehouse.execute(f"select 1 from ({known}) where value = ? limit 1", [value]).fetchall():
            return
        if isinstance(value, date):
            first, last = self._warehouse.execute(f"select min(value), max(value) from ({known})").fetchall()[
                0
            ]
            raise NotFound(f"nothing has {column}={value}; there is {first} .. {last}")
        self._not_found(column, value, f"select distinct value from ({known})", [])

    def _not_found(self, column: str, value: str, known: str, parameters: Sequence[object]) -> None:
        near = self._warehouse.execute(
            f"select value from ({known}) where value is not null "
            "order by jaro_winkler_similarity(lower(value), lower(?)) desc, value limit 3",
            [*parameters, value],
        ).fetchall()
        told = ", ".join(f"`{plain(text)}`" for (text,) in near) or "nothing at all"
        raise NotFound(f"nothing has {column}={plain(value)}; nearest: {told}")

    def _tag(self, key: str, value: str) -> Condition:
        keys = (
            "select distinct unnest(map_keys(tags)) as value from fct_cost_allocations "
            "union select tag_key from chargeback_by_tag"
        )
        if not self._warehouse.execute(f"select 1 from ({keys}) where value = ?", [key]).fetchall():
            self._not_found("tag_key", key, keys, [])
        tagged = "coalesce(tags[?], ?)"
        values = f"select distinct {tagged} as value from fct_cost_allocations"
        found = self._warehouse.execute(
            f"select 1 from ({values}) where value = ?", [key, UNTAGGED, value or UNTAGGED]
        ).fetchall()
        if value and not found:
            self._not_found("tag_value", value, values, [key, UNTAGGED])
        return Condition(f"tag {key}", value or UNTAGGED, f"{tagged} = ?", [key, UNTAGGED, value or UNTAGGED])

    def _key(self, text: str) -> Condition:
        found = self._warehouse.execute(
            """
            select distinct 'provider' as issuer, provider as of, 'api_key' as kind, api_key_id as id,
                case when api_key_id is null then api_key_name end as name
            from dim_identities
            where ? in (api_key_id, api_key_name)
            union
            select distinct 'gateway', gateway, 'gateway_key', gateway_key_id,
                case when gateway_key_id is null then gateway_key_name end
            from dim_identities
            where ? in (gateway_key_id, gateway_key_name)
            order by all
            """,
            [text, text],
        ).fetchall()
        if not found:
            keys = " union ".join(
                f"select {column} as value from dim_identities"
                for column in ("api_key_id", "api_key_name", "gateway_key_id", "gateway_key_name")
            )
            self._not_found("key", text, keys, [])
        if len(found) > 1:
            choices = "; ".join(
                f"{issuer}={of} {kind}_name={name}" if id_ is None else f"{issuer}={of} {kind}_id={id_}"
                for issuer, of, kind, id_, name in found
            )
            raise NotFound(f"key={plain(text)} names several; say which: {plain(choices)}")
        ((issuer, of, kind, id_, name),) = found
        sql = f"{issuer} = ? and {kind}_id is not distinct from ?"
        if id_ is None:
            return Condition("key", text, f"{sql} and {kind}_name = ?", [of, id_, name])
        return Condition("key", text, sql, [of, id_])


def _day(column: str, text: str) -> date | None:
    if not text and column != "month":
        return None
    try:
        day = date.fromisoformat(f"{text}-01" if column == "month" and text.count("-") == 1 else text)
    except ValueError:
        day = None
    if day is None or (column == "month" and day.day != 1):
        form = "a month, as in 2026-10" if column == "month" else "a UTC day, as in 2026-10-05"
        raise WrongName(f"{column}={plain(text)} is not {form}")
    return day


def _one(*columns: str) -> str:
    """Each column's value where all rows of the group have the same, else null."""
    return ", ".join(f"case when min({c}) = max({c}) then min({c}) end as {c}" for c in columns)


_OF_IDENTITIES = (
    "select identity_id, usage_date, rule, rule_place, owner_evidence, team, service, "
    "sum(cost_usd) as cost_usd from here group by all"
)

PARTS: Mapping[str, str] = {
    "by_basis": """
        select cost_basis, sum(cost_usd) as cost_usd, count(*) as allocations from here group by all
    """,
    "owners": f"""
        select mine.team, mine.rule, mine.service, mine.rule_place, decided.owner_place, decided.selector,
            mine.owner_evidence, sum(mine.cost_usd) as cost_usd
        from ({_OF_IDENTITIES}) as mine
        left join ownership_decisions as decided
            on mine.identity_id = decided.identity_id
            and mine.usage_date >= decided.valid_from
            and mine.usage_date < decided.valid_to
            and decided.decides
        group by all
    """,
    "not_deciding": f"""
        select lost.team, lost.rule, lost.service, lost.place, lost.selector, lost.evidence, lost.outcome,
            sum(mine.cost_usd) as cost_usd
        from ({_OF_IDENTITIES}) as mine
        inner join ownership_decisions as lost
            on mine.identity_id = lost.identity_id
            and mine.usage_date >= lost.valid_from
            and mine.usage_date < lost.valid_to
            and not lost.decides
        group by all
    """,
    "splits": """
        select team, rule, rule_place, split_share, split_weight, split_total, split_driver,
            split_period_start, sum(cost_usd) as cost_usd
        from here
        where split_share <> 1 or split_driver is not null
        group by all
    """,
    "charges": """
        select charge_id, charges.usage_date, charges.provider, charges.account_id,
            charges.provider_project_id, charges.api_key_id, charges.model, charges.meter,
            charges.charge_category, charges.line_item,
            charges.billed_cost as charge_billed_cost, charges.currency as charge_currency,
            charges.billed_usd as charge_billed_usd,
            string_agg(distinct here.charge_match, ', ' order by here.charge_match) as charge_match,
            sum(here.cost_usd) as cost_usd
        from here
        left join fct_charges as charges using (charge_id)
        where charge_id is not null
        group by all
    """,
    "cells": f"""
        select mine.*, whole.cost_usd as cell_cost_usd, whole.quantity as cell_quantity,
            case when whole.cost_usd <> 0
                then round((mine.cost_usd / whole.cost_usd)::decimal(38, 12), 6)::decimal(18, 6)
            end as share
        from (
            select cell_id, {_one("usage_date", "provider", "provider_project_id")},
                {_one("api_key_id", "api_key_name", "model", "meter", "service_tier")},
                {_one("quantity_unit", "price_status")},
                string_agg(distinct request_match, ', ' order by request_match) as request_match,
                sum(quantity) as quantity, sum(cost_usd) as cost_usd
            from here
            where cell_id is not null
            group by cell_id
        ) as mine
        inner join (
            select cell_id, sum(cost_usd) as cost_usd, sum(quantity) as quantity
            from fct_cost_allocations
            where cell_id in (select cell_id from here)
            group by cell_id
        ) as whole using (cell_id)
    """,
    "requests": f"""
        select request_match, gateway, gateway_key_id, {_one("gateway_key_name")},
            sum(quantity) filter (where meter = 'requests') as requests, sum(cost_usd) as cost_usd
        from here
        where request_match <> 'by policy'
        group by request_match, gateway, gateway_key_id
    """,
    "identities": """
        select identities.* exclude (deciding_tags), mine.cost_usd
        from (select identity_id, sum(cost_usd) as cost_usd from here group by identity_id) as mine
        inner join dim_identities as identities using (identity_id)
    """,
}
"""Each part's rows, from `here`: the allocations that are explained."""


def show(explanation: Explanation, out: Console) -> None:
    """Print it for people: the sum, who decided, and what it is made of, largest first."""
    asked = " ".join(f"{column}={'' if v is None else v}" for column, v in explanation.named.items())
    _line(out, asked)
    if not explanation.allocations:
        _line(out, "  0.00 USD: each of these exists, but no cost has all of them")
        return
    bases = ", ".join(
        f"{usd(row['cost_usd'])} {row['cost_basis'].replace('_', ' ')}"
        for row in explanation.parts["by_basis"].rows
    )
    _line(out, f"  {dollars(explanation.cost_usd)}: {bases}")
    parts = explanation.parts
    _table(out, "Whose it is, and what decided", parts["owners"], _owner)
    _table(out, "What else matched, and why it does not decide", parts["not_deciding"], _loser)
    _table(out, "Shares of what several teams pay", parts["splits"], _split)
    _table(out, "Lines of the bill", parts["charges"], _charge)
    _table(out, "The provider's usage", parts["cells"], _cell)
    _table(out, "Requests", parts["requests"], _request)
    _table(out, "Recognised by", parts["identities"], _identity)


Row = Mapping[str, Any]


def _table(out: Console, title: str, part: Part, words: Callable[[Row], Iterator[str | None]]) -> None:
    if not part.rows:
        return
    rows = [(usd(row["cost_usd"]), words(row)) for row in part.rows]
    if part.count > len(part.rows):
        rows.append((usd(part.others_usd), [f"in {counted(part.count - len(part.rows), 'other')}"]))
    out.print()
    _line(out, title)
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 1))
    table.add_column(justify="right", no_wrap=True, min_width=12)
    table.add_column(overflow="fold")
    for amount, said in rows:
        table.add_row(amount, cell(", ".join(str(word) for word in said if word)))
    out.print(table)


def _owner(row: Row) -> Iterator[str | None]:
    if row["rule"] is None:
        yield f"{row['team']}: no rule of the map owns it"
        return
    selector = f" {row['selector']}" if row["selector"] else ""
    yield f"{row['team']}: {row['rule']} ({row['rule_place']}){selector}"
    yield f"by {row['owner_evidence']}"
    if row["owner_place"] not in (None, row["rule_place"]):
        yield f"owner says {row['owner_place']}"


def _loser(row: Row) -> Iterator[str | None]:
    yield f"{row['rule']} ({row['place']}) {row['selector']}: {row['outcome']}"


def _split(row: Row) -> Iterator[str | None]:
    share = f"{row['team']}: {row['split_share'].normalize():f} of {row['rule']} ({row['rule_place']})"
    if row["split_driver"] is None:
        yield share
    else:
        used = f"{row['split_weight'].normalize():f} of {row['split_total'].normalize():f}"
        yield f"{share}, by {row['split_driver']}: {used} from {row['split_period_start']}"


def _charge(row: Row) -> Iterator[str | None]:
    yield f"of {usd(row['charge_billed_usd'])}"
    said = row["line_item"] or row["meter"] or ""
    yield from (str(row["usage_date"]), row["provider"], said)
    yield row["model"] if row["model"] and row["model"] not in said else None
    yield from (row["provider_project_id"], row["api_key_id"])
    if row["charge_category"] != "usage":
        yield row["charge_category"]
    yield f"match: {row['charge_match']}"
    yield row["charge_id"]


def _cell(row: Row) -> Iterator[str | None]:
    yield f"{row['share']:.1%} of {usd(row['cell_cost_usd'])}" if row["share"] is not None else None
    yield from (str(row["usage_date"]), row["provider"], row["api_key_name"] or row["api_key_id"])
    yield from (row["model"], row["meter"])
    if row["quantity"] is not None:
        yield f"{row['quantity']:,.0f} of {row['cell_quantity']:,.0f} {row['quantity_unit'] or ''}".strip()
    yield row["request_match"]


def _request(row: Row) -> Iterator[str | None]:
    yield row["request_match"]
    yield row["gateway"]
    yield row["gateway_key_name"] or row["gateway_key_id"]
    if row["requests"]:
        yield f"{row['requests']:,.0f} requests"


def _identity(row: Row) -> Iterator[str | None]:
    for column, value in row.items():
        named = column.endswith("_id") and row.get(column.removesuffix("_id") + "_name")
        if value and column not in ("identity_id", "cost_usd") and not named:
            yield value
    yield f"identity_id={row['identity_id']}"


def _line(out: Console, text: str) -> None:
    out.print(Text(plain(text)), soft_wrap=True)
