"""Cloudflare AI Gateway's logs: from its API, or as files of what that lists.

Facts about the rows, by its API reference:

* `tokens_in` and `tokens_out` are all that is said of tokens: how many were cached, or reasoning, is not.
* `cost` is Cloudflare's estimate in USD, or the caller's own figure (`custom_cost`).
* `cached` is a hit of Cloudflare's cache. `step` is 0 for the first provider, 1 for the first fallback, ...
* `metadata` (the header `cf-aig-metadata`) is JSON text of at most five entries; further ones are dropped.
* Logs are no longer saved once as many as `log_management` says are stored, unless the gateway deletes the
  oldest (`log_management_strategy`). Nothing in the logs says so: the API is asked, and a log that is full
  is counted (`full_logs`).

The API lists 50 logs a page, of which those fields are kept that are read here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import duckdb
from pydantic import AfterValidator, model_validator

from dagster_project.days import Days
from dagster_project.errors import SourceError
from dagster_project.records import Kind
from dagster_project.settings import Address, ProviderEntry, SecretReference, Text
from dagster_project.sources import Parsed, _files, _mapped_rows, _mapped_tables, _operations
from dagster_project.sources._http import Api, Params, bearer
from dagster_project.sources._map import Map
from dagster_project.sources._mapped_rows import Shape
from dagster_project.sources._request_log import FilesEntry
from dagster_project.sources._who_bills import WHO_BILLS

KINDS: tuple[Kind, ...] = ("request",)
TELLS = ("caller", "tags", "reported cost")
READS = f"its logs API, or what that lists {_mapped_tables.FILES}"
RESTATES_DAYS = 3
KEEPS_RAW = False


PER_PAGE = 50
"""The most that the API gives."""

LONGEST_CALL = timedelta(hours=1)
"""A call that ended today may have begun yesterday; no call takes longer."""

STATE = "state.json"


class Entry(FilesEntry):
    """A gateway of an account: asked with a token that may read AI Gateway, or logs in files."""

    path: Annotated[Text, AfterValidator(_files.check)] | None = None
    account: str | None = None
    gateway: str | None = None
    api_key: SecretReference | None = None
    base_url: Address = "https://api.cloudflare.com/client/v4"

    @model_validator(mode="after")
    def _one_place(self) -> Entry:
        api = (self.account, self.gateway, self.api_key)
        if (self.path is None) == all(said is None for said in api) or (self.path is None and None in api):
            raise ValueError("give either `path`, or `account`, `gateway` and `api_key`")
        return self


MAP = Map.model_validate(
    {
        "columns": {
            "record_id": "id",
            "started_at": "created_at",
            "latency_ms": "duration",
            "provider": {"column": "provider", "words": WHO_BILLS},
            "model": "model",
            "operation": "operation",
            "attempt": "step",
            "status": {
                "column": "success",
                "words": {"true": "ok", "1": "ok", "false": "error", "0": "error"},
            },
            "http_status": "status_code",
            "is_cache_hit": "cached",
            "input_tokens": "tokens_in",
            "output_tokens": "tokens_out",
            "reported_cost": "cost",
        },
        "tags": {"maps": ["metadata"]},
    }
)

SHAPE = Shape(
    query=f"""
select *, case when path is not null then {_operations.of_path("concat('/', path)")} end as operation
from logged""",
    reads=("path",),
    makes=("operation",),
    requires=("id", "created_at", "provider", "model", "tokens_in"),
)


def fetch(entry: Entry, days: Days, raw: Path) -> None:
    """Of files only the list; of the API the fields that are read, and how full the log is.

    Raises SourceError when there is no file, or the API fails.
    """
    if entry.api_key is None:
        _mapped_tables.fetch(entry, MAP, None, days, raw)
        return
    account = ProviderEntry(
        name=entry.name,
        type=entry.type,
        start_date=entry.start_date,
        base_url=entry.base_url,
        api_key=entry.api_key,
    )
    gateway = f"accounts/{entry.account}/ai-gateway/gateways/{entry.gateway}"
    fields = _mapped_rows.columns_read(MAP, SHAPE)
    rows = raw / "rows.ndjson"
    with (
        Api(account, days, headers=bearer, needs="a token with the permission AI Gateway Read") as api,
        rows.open("w", encoding="utf-8") as lines,
    ):
        for log in _logs(api, entry.name, f"{gateway}/logs", days):
            kept = {name: log[name] for name in fields if name in log}
            lines.write(json.dumps(kept, default=str) + "\n")  # a Decimal is its text
        is_full = _is_full(api, entry.name, gateway)
    (raw / STATE).write_text(json.dumps({"full_logs": int(is_full)}), encoding="utf-8")
    _files.write_manifest({str(rows): rows.stat().st_size}, raw)


def _logs(api: Api, source: str, endpoint: str, days: Days) -> Iterator[dict[str, Any]]:
    """The logs of those days, the oldest first, so that new ones do not move the pages."""
    asked = (
        ("start_date", f"{days.start - LONGEST_CALL:%Y-%m-%dT%H:%M:%SZ}"),
        ("end_date", f"{days.end:%Y-%m-%dT%H:%M:%SZ}"),
        ("order_by", "created_at"),
        ("order_by_direction", "asc"),
        ("per_page", str(PER_PAGE)),
    )
    listed, number, total, oldest = 0, 0, 1, None
    while number * PER_PAGE < total:
        number += 1
        where = f"GET {endpoint} for {days}, page {number}"
        logs, total = _page(api, source, endpoint, (*asked, ("page", str(number))), where)
        listed += len(logs)
        oldest = oldest or logs[:1]
        yield from logs
    if number > 1 and _page(api, source, endpoint, (*asked, ("page", "1")), where)[0][:1] != oldest:
        raise _broken(
            source, "the gateway deleted logs while they were listed, so some were passed over", where
        )
    if listed < total:
        raise _broken(source, f"the pages hold {listed} of {total} logs", where)


def _is_full(api: Api, source: str, gateway: str) -> bool:
    """Whether as many logs are stored as may be: a further one is not saved, or the oldest is deleted."""
    said = next(api.pages(gateway, ())).json().get("result") or {}
    limit = said.get("log_management")
    _, stored = _page(api, source, f"{gateway}/logs", (("per_page", "1"),), f"GET {gateway}/logs")
    return limit is not None and stored >= limit


def _page(api: Api, source: str, endpoint: str, params: Params, where: str) -> tuple[list[Any], int]:
    """The logs of a page, and how many there are on all of them."""
    answer = next(api.pages(endpoint, params)).json()  # its number is asked for: no answer says the next
    logs, total = answer.get("result"), (answer.get("result_info") or {}).get("total_count")
    if not isinstance(logs, list) or not isinstance(total, int):
        raise _broken(source, "the answer has no `result`, or no `result_info.total_count`", where)
    return logs, total


def _broken(source: str, what: str, where: str) -> SourceError:
    remedy = "Nothing was kept; run again, and if it stays, its API has changed."
    return SourceError(source, what, where=where, remedy=remedy)


def parse(entry: Entry, days: Days, raw: Path, connection: duckdb.DuckDBPyConnection) -> Parsed:
    """Raises SourceError naming file and line of what is no row."""
    parsed = _mapped_tables.parse(entry, MAP, "request", days, raw, connection, SHAPE)
    if entry.api_key is None:
        return parsed
    told = json.loads((raw / STATE).read_text(encoding="utf-8"))
    return replace(parsed, counts={**parsed.counts, **told})
