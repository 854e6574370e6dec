"""OpenAI's and Anthropic's administration APIs, answering for Acme on this machine.

    GET /v1/organization/costs, /usage/<report>, /projects, /projects/<id>/api_keys       OpenAI
    GET /v1/organizations/cost_report, /usage_report/messages, /workspaces, /api_keys     Anthropic
    POST /_restate            from now on OpenAI's final answer about the restated day, not its first

Lists of projects, workspaces and keys change within the month; they are the last ones if nobody sets a day.
Everything else, Anthropic's analytics API too, is not found.

It is as strict and as unhelpful as they are: pages are small, some first attempts fail, an unknown
parameter is an error, and what is not grouped by is null.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import duckdb

from dagster_project.demo.roster import (
    ARCHIVED_PROJECT,
    KEYS,
    LISTS_CHANGE,
    PROJECTS,
    RENAMED_WORKSPACES,
    WORKSPACES,
)

OPENAI_ADMIN_KEY = "sk-admin-acme-simulated"
ANTHROPIC_ADMIN_KEY = "sk-ant-admin01-acme-simulated"

DAYS_PER_PAGE = 10
ROWS_PER_LIST = 3
"""Far fewer than the real APIs allow, so that there are pages to follow."""

Params = Sequence[tuple[str, str]]
Row = dict[str, Any]


class Refused(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers or {}


@dataclass(frozen=True)
class Servers:
    """Where Acme's providers answer, and the environment in which `sources.yaml` finds them."""

    url: str
    _acme: _Acme

    def lists_are_of(self, day: date) -> None:
        """From now on the lists of projects, workspaces and keys are as they were on `day`."""
        self._acme.today = day

    @property
    def openai(self) -> str:
        return f"{self.url}/v1"

    @property
    def anthropic(self) -> str:
        return self.url

    @property
    def environment(self) -> dict[str, str]:
        return {
            "ACME_OPENAI_URL": self.openai,
            "ACME_OPENAI_ADMIN_KEY": OPENAI_ADMIN_KEY,
            "ACME_ANTHROPIC_URL": self.anthropic,
            "ACME_ANTHROPIC_ADMIN_KEY": ANTHROPIC_ADMIN_KEY,
        }


@contextmanager
def serve(folder: Path, port: int = 0, *, restated: bool = True) -> Iterator[Servers]:
    """Answer for the simulation in `folder` until the block ends; port 0 is any that is free.

    `restated=False` starts with OpenAI's first answer about the restated day.
    """
    server = _Server(("127.0.0.1", port), _Handler)
    server.acme = _Acme(folder, restated)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield Servers(f"http://127.0.0.1:{server.server_port}", server.acme)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        server.acme.books.close()


@dataclass(frozen=True)
class _Report:
    """A report: its rows' table and condition, what it can be grouped by, and what it sums, as SQL."""

    table: str
    groups: Mapping[str, str]
    sums: Mapping[str, str]
    where: str = "true"
    result: str = ""


_WHO = {"project_id": "provider_project", "user_id": '"user"', "api_key_id": "api_key"}
_MODEL = {**_WHO, "model": "model"}
_CALLS = {"num_model_requests": "sum(requests)"}

_OPENAI_TOKENS = {
    "input_tokens": "sum(input + cache_read)",
    "output_tokens": "sum(output)",
    "input_cached_tokens": "sum(cache_read)",
    "input_uncached_tokens": "sum(input)",
    "input_cache_write_tokens": "0",
    "input_text_tokens": "sum(input)",
    "input_audio_tokens": "0",
    "input_image_tokens": "0",
    "output_text_tokens": "sum(output)",
    "output_audio_tokens": "0",
    "output_image_tokens": "0",
}


def _usage(
    name: str, operation: str, groups: Mapping[str, str], sums: Mapping[str, str], where: str = "true"
) -> _Report:
    return _Report(
        "usage",
        groups,
        sums,
        f"provider = 'openai' and operation = '{operation}' and {where}",
        f"organization.usage.{name}.result",
    )


OPENAI_REPORTS: Mapping[str, _Report] = {
    "/v1/organization/costs": _Report(
        "charges",
        {**_WHO, "user_id": "null", "line_item": "text", "api_source": "null"},
        {"amount": "sum(cost_usd)", "quantity": "sum(quantity)", "quantity_unit": "any_value(quantity_unit)"},
        "provider = 'openai'",
        "organization.costs.result",
    ),
    "/v1/organization/usage/completions": _usage(
        "completions",
        "chat",
        {
            **_MODEL,
            "batch": "service_tier = 'batch'",
            "service_tier": "case service_tier when 'flex' then 'flex' else 'default' end",
        },
        {**_OPENAI_TOKENS, **_CALLS},
    ),
    "/v1/organization/usage/embeddings": _usage(
        "embeddings", "embedding", _MODEL, {"input_tokens": "sum(input)", **_CALLS}
    ),
    "/v1/organization/usage/moderations": _usage(
        "moderations", "moderation", _MODEL, {"input_tokens": "sum(input)", **_CALLS}
    ),
    "/v1/organization/usage/images": _usage(
        "images", "image", {**_MODEL, "size": "'1024x1024'"}, {"images": "sum(images)", **_CALLS}
    ),
    "/v1/organization/usage/audio_speeches": _usage(
        "audio_speeches", "speech", _MODEL, {"characters": "sum(characters)", **_CALLS}
    ),
    "/v1/organization/usage/audio_transcriptions": _usage(
        "audio_transcriptions", "transcription", _MODEL, {"seconds": "sum(audio_seconds)", **_CALLS}
    ),
    "/v1/organization/usage/vector_stores": _usage(
        "vector_stores",
        "storage",
        {"project_id": "provider_project"},
        {"usage_bytes": "sum(storage_gib_days) * 1073741824"},
    ),
    "/v1/organization/usage/code_interpreter_sessions": _usage(
        "code_interpreter_sessions",
        "code",
        {"project_id": "provider_project"},
        {"num_sessions": "sum(code_sessions)"},
    ),
    "/v1/organization/usage/file_search_calls": _usage(
        "file_searches", "chat", _WHO, {"num_requests": "sum(file_searches)"}, "file_searches > 0"
    ),
    "/v1/organization/usage/web_search_calls": _usage(
        "web_searches",
        "chat",
        _MODEL,
        {"num_requests": "sum(web_searches)", **_CALLS},
        "web_searches > 0",
    ),
}

_WINDOW = "case when is_long_context then '200k-1M' when not is_long_context then '0-200k' end"
_PARSED = {
    "model": "model",
    "service_tier": "service_tier",
    "context_window": _WINDOW,
    "cost_type": "cost_type",
    "token_type": "token_type",
    "inference_geo": "case when cost_type = 'tokens' then 'global' end",
}
"""What Anthropic adds to a cost that is grouped by its description."""

ANTHROPIC_REPORTS: Mapping[str, _Report] = {
    "/v1/organizations/cost_report": _Report(
        "charges",
        {"workspace_id": "nullif(provider_project, 'default')", "description": "text"},
        {"amount": "sum(cost_usd)"},
        "provider = 'anthropic'",
    ),
    "/v1/organizations/usage_report/messages": _Report(
        "usage",
        {
            "api_key_id": "api_key",
            "workspace_id": "nullif(provider_project, 'default')",
            "model": "model",
            "service_tier": "service_tier",
            "context_window": _WINDOW,
            "inference_geo": "'global'",
            "speed": "null",
        },
        {
            "uncached_input_tokens": "sum(input)",
            "written_5m": "sum(cache_write_5m)",
            "written_1h": "sum(cache_write_1h)",
            "cache_read_input_tokens": "sum(cache_read)",
            "output_tokens": "sum(output)",
            "web_searches": "sum(web_searches)",
        },
        "provider = 'anthropic'",
    ),
}


@dataclass
class _Acme:
    """The books that the answers are made from, and what the servers remember between questions."""

    folder: Path
    is_restated: bool
    today: date = LISTS_CHANGE
    stumbles: dict[tuple[str, str], Refused] = field(
        default_factory=lambda: {
            ("/v1/organization/costs", _token(DAYS_PER_PAGE)): Refused(
                429, "Rate limit reached", {"Retry-After": "1"}
            ),
            ("/v1/organizations/usage_report/messages", ""): Refused(500, "Internal server error"),
        }
    )
    """Questions that fail the first time that they are asked: the path, and the page."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.books = duckdb.connect()

    def rows(self, report: _Report, first: date, last: date, grouped_by: Sequence[str]) -> list[Row]:
        """The report's rows of the days from `first` to `last`, inclusive, each with its `usage_date`."""
        for name in grouped_by:
            if name not in report.groups:
                raise Refused(400, f"Invalid value for group_by: {name}")
        groups = {name: report.groups[name] if name in grouped_by else "null" for name in report.groups}
        if "description" in groups:
            groups |= {name: sql if "description" in grouped_by else "null" for name, sql in _PARSED.items()}
        columns = ", ".join(f'{sql} as "{name}"' for name, sql in (groups | report.sums).items())
        cursor = self.books.cursor().execute(f"""
select usage_date, {columns} from read_parquet('{self.folder / report.table}.parquet')
where {report.where} and usage_date between '{first}' and '{last}'
  and seen in ('both', '{"final" if self.is_restated else "first"}')
group by usage_date{"".join(f", {number}" for number in range(2, 2 + len(groups)))}
order by all""")
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def stumble(self, path: str, page: str) -> None:
        with self.lock:
            refusal = self.stumbles.pop((path, page), None)
        if refusal:
            raise refusal


class _Server(ThreadingHTTPServer):
    acme: _Acme


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        if self.path != "/_restate":
            return self._send(404, {"error": {"message": "Not found"}})
        self.server.acme.is_restated = True
        return self._send(200, {"restated": True})

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        try:
            answer = self._answer(url.path, parse_qsl(url.query, keep_blank_values=True))
        except Refused as refusal:
            error = {"type": "error", "error": {"type": "refused", "message": str(refusal)}}
            return self._send(refusal.status, error, refusal.headers)
        return self._send(200, answer)

    def log_message(self, *_: Any) -> None:
        """Nothing: the console is the user's."""

    def _send(self, status: int, body: Row, headers: Mapping[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _answer(self, path: str, params: Params) -> Row:
        if path.startswith("/v1/organization/"):
            if self.headers["Authorization"] != f"Bearer {OPENAI_ADMIN_KEY}":
                raise Refused(401, "Incorrect API key provided")
        elif path.startswith("/v1/organizations/"):
            if self.headers["x-api-key"] != ANTHROPIC_ADMIN_KEY:
                raise Refused(401, "invalid x-api-key")
            if not self.headers["anthropic-version"]:
                raise Refused(400, "anthropic-version: header is required")
        if path in OPENAI_REPORTS:
            return _openai_report(self.server.acme, path, params)
        if path in ANTHROPIC_REPORTS:
            return _anthropic_report(self.server.acme, path, params)
        return _directory(path, params, self.server.acme.today)


def _openai_report(acme: _Acme, path: str, params: Params) -> Row:
    asked = _Asked(params, {"start_time", "end_time", "bucket_width", "limit", "page", "group_by[]"})
    acme.stumble(path, asked.one("page", ""))
    first, after = (
        datetime.fromtimestamp(int(asked.one(name)), UTC).date() for name in ("start_time", "end_time")
    )
    report = OPENAI_REPORTS[path]
    is_bill = report.table == "charges"

    def bucket(day: date, rows: list[Row]) -> Row:
        results = [_openai_cost(row, day, asked.groups) if is_bill else row for row in rows]
        return {
            "object": "bucket",
            "start_time": int(_instant(day).timestamp()),
            "end_time": int(_instant(day + timedelta(days=1)).timestamp()),
            "results": [{"object": report.result, **result} for result in results],
        }

    return {"object": "page", **_page(acme, report, asked, first, after, bucket)}


def _openai_cost(row: Row, day: date, groups: Sequence[str]) -> Row:
    """Every other day the amounts are text with 30 decimals, as some of OpenAI's own answers are."""
    amount, quantity, unit = row["amount"], row["quantity"], row["quantity_unit"]
    is_counted = "line_item" in groups and quantity is not None
    return row | {
        "amount": {"value": f"{amount:.30f}" if day.day % 2 else float(amount), "currency": "usd"},
        "quantity": float(quantity) if is_counted else None,
        "quantity_unit": unit if is_counted else None,
    }


def _anthropic_report(acme: _Acme, path: str, params: Params) -> Row:
    asked = _Asked(params, {"starting_at", "ending_at", "bucket_width", "limit", "page", "group_by[]"})
    acme.stumble(path, asked.one("page", ""))
    first, after = (datetime.fromisoformat(asked.one(name)).date() for name in ("starting_at", "ending_at"))
    report = ANTHROPIC_REPORTS[path]

    def bucket(day: date, rows: list[Row]) -> Row:
        return {
            "starting_at": f"{_instant(day):%Y-%m-%dT%H:%M:%SZ}",
            "ending_at": f"{_instant(day + timedelta(days=1)):%Y-%m-%dT%H:%M:%SZ}",
            "results": [_anthropic_result(row) for row in rows],
        }

    return _page(acme, report, asked, first, after, bucket)


def _anthropic_result(row: Row) -> Row:
    """A cost is a text of cents; a usage has its parts in objects."""
    if "amount" in row:
        return row | {"amount": f"{row['amount'].scaleb(2):f}", "currency": "USD"}
    return row | {
        "cache_creation": {
            "ephemeral_5m_input_tokens": row.pop("written_5m"),
            "ephemeral_1h_input_tokens": row.pop("written_1h"),
        },
        "server_tool_use": {"web_search_requests": row.pop("web_searches")},
    }


class _Asked:
    """The parameters of a question, each of which must be known."""

    def __init__(self, params: Params, known: set[str]) -> None:
        for name, _ in params:
            if name not in known:
                raise Refused(400, f"Unknown parameter: {name}")
        self.params = params
        self.groups = [value for name, value in params if name == "group_by[]"]

    def one(self, name: str, default: str | None = None) -> str:
        found = dict(self.params).get(name, default)
        if found is None:
            raise Refused(400, f"Missing required parameter: {name}")
        return found


def _page(
    acme: _Acme,
    report: _Report,
    asked: _Asked,
    first: date,
    after: date,
    bucket: Callable[[date, list[Row]], Row],
) -> Row:
    """A page of daily buckets, empty days included. A page token is the place of its first day."""
    if asked.one("bucket_width", "1d") != "1d":
        raise Refused(400, "Acme's books are daily: bucket_width must be 1d")
    page = asked.one("page", _token(0))
    if not re.fullmatch(r"page_[0-9a-f]{8}", page):
        raise Refused(400, "Invalid value for page")
    size = min(int(asked.one("limit", "7")), DAYS_PER_PAGE)
    skipped = int(page.removeprefix("page_"), 16)
    days = [first + timedelta(days=number) for number in range((after - first).days)]
    shown = days[skipped : skipped + size]
    rows: dict[date, list[Row]] = {day: [] for day in shown}
    if shown:
        for row in acme.rows(report, shown[0], shown[-1], asked.groups):
            rows[row.pop("usage_date")].append(row)
    has_more = skipped + size < len(days)
    return {
        "data": [bucket(day, rows[day]) for day in shown],
        "has_more": has_more,
        "next_page": _token(skipped + size) if has_more else None,
    }


def _token(skipped: int) -> str:
    return f"page_{skipped:08x}"


def _directory(path: str, params: Params, today: date) -> Row:
    """Lists of projects, workspaces and keys, as of `today`. Deleted keys are in none of them."""
    has_archived = ("include_archived", "true") in params
    of_project = re.fullmatch(r"/v1/organization/projects/(\w+)/api_keys", path)
    if path == "/v1/organization/projects":
        things = [
            {
                "id": project,
                "object": "organization.project",
                "name": name,
                "created_at": 1704067200,
                "archived_at": 1725148800 if project == ARCHIVED_PROJECT else None,
                "status": "archived" if project == ARCHIVED_PROJECT else "active",
            }
            for project, name in PROJECTS.items()
            if has_archived or project != ARCHIVED_PROJECT
        ]
    elif of_project and of_project[1] in PROJECTS:
        things = [
            {
                "object": "organization.project.api_key",
                "id": key_id,
                "name": key.name,
                "redacted_value": "sk-proj-...aaaa",
                "created_at": 1704067200,
                "owner": {
                    "type": "user",
                    "user": {"id": "user_ops", "email": "ops@acme.example", "name": "Ops"},
                },
            }
            for key_id, key in KEYS.items()
            if key.project == of_project[1] and today < key.deleted_on
        ]
    elif path == "/v1/organizations/workspaces":
        workspaces = {**WORKSPACES, **(RENAMED_WORKSPACES if today >= LISTS_CHANGE else {})}
        things = [
            {"id": workspace, "type": "workspace", "name": name, "archived_at": None}
            for workspace, name in workspaces.items()
        ]
    elif path == "/v1/organizations/api_keys":
        things = [
            {
                "id": key_id,
                "type": "api_key",
                "name": key.name,
                "partial_key_hint": "sk-ant-api03-...AAAA",
                "status": "active",
                "workspace_id": None if key.project == "default" else key.project,
            }
            for key_id, key in KEYS.items()
            if key.provider == "anthropic" and today < key.deleted_on
        ]
    else:
        raise Refused(404, "Not found")
    ids = [thing["id"] for thing in things]
    last_seen = dict(params).get("after") or dict(params).get("after_id")
    if last_seen and last_seen not in ids:
        raise Refused(400, "Invalid cursor")
    start = ids.index(last_seen) + 1 if last_seen else 0
    shown = things[start : start + min(int(dict(params).get("limit", "20")), ROWS_PER_LIST)]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": start + len(shown) < len(things),
    }


def _instant(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
