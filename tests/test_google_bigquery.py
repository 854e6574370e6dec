"""Google's billing table where it is: the real client against a server that speaks BigQuery's REST API.

The server runs the query that it is sent: sqlglot makes DuckDB's SQL of BigQuery's, and values are encoded as
is documented of TO_JSON_STRING. It answers to a token only that was exchanged for a signature.
"""

from __future__ import annotations

import gzip
import json
import logging
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest
import sqlglot
import yaml
from conftest import assert_nothing_left, digests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import jwt
from google.auth.credentials import CredentialsWithRegionalAccessBoundary
from leaks import files_with
from pydantic import ValidationError
from pytest_httpserver import HTTPServer
from test_google import row
from test_sources import FIXTURES, as_csv
from werkzeug import Request, Response

from dagster_project import sources
from dagster_project.days import Days
from dagster_project.errors import SourceError
from dagster_project.ingest import ingest
from dagster_project.lake import Lake
from dagster_project.sources import Parsed, Source, _bigquery, _line_items, google

TABLE = "acme-billing.costs.gcp_billing_export_v1_01AAAA_BBBBBB_CCCCCC"
CASE = FIXTURES / "google" / "standard"
DAYS = Days(date(2026, 10, 1), date(2026, 10, 2))
PLACE = "/bigquery/v2/projects/acme-billing/"
SCHEMA = f"{PLACE}datasets/costs/tables/{TABLE.rpartition('.')[2]}"
QUERY, JOB, PAGES = f"{PLACE}queries", f"{PLACE}jobs/job_1", f"{PLACE}queries/job_1"
"""Where the table is described, and the query sent; where it is asked for, and its answer goes on."""

AUDIENCE = "https://oauth2.googleapis.com/token"
"""Of what a service account signs, wherever its token comes from."""

Fetch = Callable[..., google.Entry]
INGESTED, EXPORTED = {"type": "DAY"}, {"type": "DAY", "field": "export_time"}


def entry(**fields: Any) -> google.Entry:
    return google.Entry(name="gcp", type="google", start_date=date(2026, 1, 1), **{"table": TABLE} | fields)


def fixture_rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (CASE / "table.ndjson").read_text(encoding="utf-8").splitlines()]


class BigQuery:
    """One table, whose partitions `partitions` describes; a view has none."""

    def __init__(self, folder: Path, public_key: bytes) -> None:
        self.folder = folder
        self.public_key = public_key
        self.partitions: Mapping[str, Any] | None = INGESTED
        self.page = 8
        """Rows of an answer."""
        self.mishaps: dict[str, list[Response | None]] = {}
        """Answers to give instead, by path, one after the other."""
        self.asked: list[Mapping[str, Any]] = []
        self.paths: list[str] = []
        self.tokens: list[str] = []
        self.waits = 0
        """How many times the job is asked for before it is done."""
        self.fill(fixture_rows())

    def fill(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Values are JSON, as TO_JSON_STRING has them, but for those that the query compares."""
        self.rows = rows
        self.columns = list(dict.fromkeys(name for one in rows for name in one)) or list(row())

    def _found(self, asked: Mapping[str, Any]) -> list[tuple[str, int]]:
        """What the query says of the table."""
        file = self.folder / "table.ndjson"
        file.write_text("".join(json.dumps(one) + "\n" for one in self.rows), encoding="utf-8")
        types = dict.fromkeys([*self.columns, "export_time"], "JSON") | {
            "usage_start_time": "TIMESTAMPTZ",
            "export_time": "TIMESTAMPTZ",
            "service": "STRUCT(id VARCHAR, description VARCHAR)",
            "service_description": "VARCHAR",
        }
        read = ", ".join(f"{name}: '{kind}'" for name, kind in types.items())
        project, dataset, name = TABLE.split(".")
        values = {
            said["name"]: datetime.fromisoformat(said["parameterValue"]["value"])
            if said["parameterType"]["type"] == "TIMESTAMP"
            else said["parameterValue"]["value"]
            for said in asked["queryParameters"]
        }
        (sql,) = sqlglot.transpile(asked["query"], read="bigquery", write="duckdb")
        with duckdb.connect() as engine:
            engine.execute(f"""set TimeZone = 'UTC'; attach ':memory:' as "{project}"; use "{project}";
create schema {dataset}; create view {dataset}.{name} as
select *, date_trunc('day', export_time) as _PARTITIONTIME
from read_json('{file}', columns = {{{read}}}, format = 'newline_delimited')""")
            lines = engine.execute(sql, values).fetchall()
        # DuckDB writes instants otherwise.
        return [(re.sub(r'"(\d{4}-\d\d-\d\d) ([\d:.]+)\+00"', r'"\1T\2Z"', line), n) for line, n in lines]

    def __call__(self, request: Request) -> Response:
        if (left := self.mishaps.get(request.path)) and (mishap := left.pop(0)) is not None:
            return mishap
        if request.path == "/token":
            return self._token(request)
        if not self.tokens or request.headers["Authorization"] != f"Bearer {self.tokens[-1]}":
            return refusal(401, "authError", "Invalid Credentials")
        self.paths.append(f"{request.method} {request.path}")
        return answer(self._answer(request))

    def _answer(self, request: Request) -> Mapping[str, Any]:
        match self.paths[-1].split(PLACE):
            case "GET ", "jobs/job_1":
                return self._job()
            case "POST ", "jobs/job_1/cancel":
                return {"job": self._job()}
            case "POST ", "queries":
                self.asked.append(request.json)
                lines = self._found(request.json)
                self.lines = [{"f": [{"v": line}, {"v": str(times)}]} for line, times in lines]
                return self._page(0, 0 if self.waits else self.page)
            case "GET ", "queries/job_1":
                assert request.args["location"] == "EU"
                first, rows = request.args.get("pageToken", 0), request.args.get("maxResults", self.page)
                return self._page(int(first), int(rows))
        assert self.paths[-1] == f"GET {SCHEMA}"
        return self._table()

    def _token(self, request: Request) -> Response:
        said = jwt.decode(request.form["assertion"], certs=self.public_key, audience=AUDIENCE)
        assert said["iss"] == "reader@acme.iam.gserviceaccount.com"
        self.tokens.append(f"ya29.hush-{len(self.tokens)}")
        return answer({"access_token": self.tokens[-1], "expires_in": 3600, "token_type": "Bearer"})

    def _table(self) -> Mapping[str, Any]:
        project, dataset, name = TABLE.split(".")
        return {
            "tableReference": {"projectId": project, "datasetId": dataset, "tableId": name},
            "schema": {"fields": [{"name": name, "type": "JSON"} for name in self.columns]},
            "location": "EU",
            **({"timePartitioning": self.partitions} if self.partitions else {"type": "VIEW"}),
        }

    def _job(self) -> Mapping[str, Any]:
        self.waits -= self.waits > 0
        reference = {"projectId": "acme-billing", "jobId": "job_1", "location": "EU"}
        state = "RUNNING" if self.waits else "DONE"
        return {"jobReference": reference, "status": {"state": state}, "configuration": {"query": {}}}

    def _page(self, first: int, rows: int) -> Mapping[str, Any]:
        reference = {"projectId": "acme-billing", "jobId": "job_1", "location": "EU"}
        if self.waits:
            return {"jobReference": reference, "jobComplete": False}
        here, more = self.lines[first : first + rows], first + rows < len(self.lines)
        fields = [{"name": "line", "type": "STRING"}, {"name": "times", "type": "INTEGER"}]
        return {
            "jobReference": reference,
            "jobComplete": True,
            "totalRows": str(len(self.lines)),
            "schema": {"fields": fields},
            **({"rows": here} if here else {}),
            **({"pageToken": str(first + rows)} if more else {}),
        }


def answer(body: Mapping[str, Any], status: int = 200) -> Response:
    return Response(json.dumps(body), status, content_type="application/json")


def refusal(status: int, reason: str, message: str) -> Response:
    errors = [{"message": message, "domain": "global", "reason": reason}]
    return answer({"error": {"code": status, "message": message, "errors": errors}}, status)


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=1024)


@pytest.fixture
def secret(key: rsa.RSAPrivateKey) -> str:
    """A line of the private key, which is in the file of the service account."""
    return pem(key).splitlines()[5]


def pem(key: rsa.RSAPrivateKey) -> str:
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return key.private_bytes(*form).decode()


@pytest.fixture
def server(
    httpserver: HTTPServer, key: rsa.RSAPrivateKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> BigQuery:
    """BigQuery, and the environment that leads there."""
    account = {
        "type": "service_account",
        "client_email": "reader@acme.iam.gserviceaccount.com",
        "token_uri": httpserver.url_for("/token"),
        "private_key_id": "1",
        "private_key": pem(key),
    }
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "account.json").write_text(json.dumps(account), encoding="utf-8")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(folder / "account.json"))
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", httpserver.url_for("").rstrip("/"))
    monkeypatch.setattr(_bigquery, "PATIENCE_SECONDS", 4.0)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    # Where an account may be used from: a thread would ask the real Google.
    boundary = "_maybe_start_regional_access_boundary_refresh"
    monkeypatch.setattr(CredentialsWithRegionalAccessBoundary, boundary, lambda *_: None)
    form = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    bigquery = BigQuery(folder, key.public_key().public_bytes(*form))
    httpserver.expect_request(re.compile(".*")).respond_with_handler(bigquery)
    return bigquery


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


@pytest.fixture
def fetch(server: BigQuery, raw: Path, secret: str, caplog: pytest.LogCaptureFixture) -> Iterator[Fetch]:
    """Wherever it ends, nobody is told a key or a token."""
    said = []

    def fetched(days: Days = DAYS, **fields: Any) -> google.Entry:
        of = entry(**fields)
        try:
            google.fetch(of, days, raw)
        except SourceError as error:
            said.extend(traceback.format_exception(error))
            raise
        return of

    with caplog.at_level(logging.DEBUG):
        yield fetched
    assert files_with(raw, ["hush", secret]) == []
    told = "\n".join([*said, caplog.text])
    assert "hush" not in told
    assert secret not in told


@pytest.fixture
def pull(fetch: Fetch, raw: Path) -> Iterator[Callable[..., Parsed]]:
    """What one pull yields."""
    with duckdb.connect() as engine:
        yield lambda days=DAYS, **fields: google.parse(fetch(days, **fields), days, raw, engine)


def lines_of(raw: Path) -> int:
    return len(gzip.decompress((raw / f"{TABLE}.ndjson.gz").read_bytes()).splitlines())


def charges(parsed: Parsed, sql: str) -> list[tuple[Any, ...]]:
    return parsed.records["charge"].query("charge", f"select {sql} from charge order by all").fetchall()


# What there is


def as_numeric(value: Any) -> Any:
    """As TO_JSON_STRING has a NUMERIC: a text, unless it is whole."""
    if isinstance(value, dict):
        return {name: as_numeric(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [as_numeric(inner) for inner in value]
    return f"{Decimal(repr(value)):f}" if isinstance(value, float) else value


@pytest.mark.parametrize(
    ("partitions", "numbers"), [(INGESTED, "FLOAT64"), (EXPORTED, "NUMERIC"), (None, "FLOAT64")]
)
def test_the_table_says_what_its_files_say(server: BigQuery, pull, partitions, numbers) -> None:
    server.partitions = partitions
    if numbers == "NUMERIC":
        server.fill([as_numeric(one) for one in fixture_rows()])
    parsed = pull()
    assert as_csv(parsed.records["charge"]) == (CASE / "expected" / "charge.csv").read_text(encoding="utf-8")
    assert parsed.counts == yaml.safe_load((CASE / "case.yaml").read_text(encoding="utf-8"))["counts"]
    assert list(parsed.days_without_files) == []


def test_one_query_reads_what_is_needed_and_nothing_of_the_entry_is_in_its_text(
    server: BigQuery, fetch
) -> None:
    fetch(services=("Vertex AI*", "x') or (true", "Gemini [A-Z]P?", r"\*"))
    (asked,) = server.asked
    read = ", ".join(
        f"{name} as {name}"
        for name in (
            *("billing_account_id", "usage_start_time", "cost", "cost_type", "currency", "credits"),
            *("cost_at_list", "labels", "tags", "service", "sku", "project", "location", "usage"),
        )
    )
    assert (
        asked["query"]
        == f"""
select line, count(*) as times
from (
  select
    if(
      regexp_contains(lower(service.description), @services),
      to_json_string(struct({read})),
      to_json_string(struct(service as service))
    ) as line
  from `{TABLE}`
  where (usage_start_time is null or usage_start_time >= @first and usage_start_time < @until)
    and (_PARTITIONTIME is null or _PARTITIONTIME >= @exported)
)
group by line"""
    )
    assert asked["useLegacySql"] is False
    assert asked["location"] == "EU"
    assert {
        (said["name"], said["parameterType"]["type"], said["parameterValue"]["value"])
        for said in asked["queryParameters"]
    } == {
        ("first", "TIMESTAMP", "2026-10-01 00:00:00+00:00"),
        ("until", "TIMESTAMP", "2026-10-03 00:00:00+00:00"),
        ("exported", "TIMESTAMP", "2026-09-30 00:00:00+00:00"),
        ("services", "STRING", r"(?s)^(?:vertex\ ai.*|x'\)\ or\ \(true|gemini\ .p.|\*)$"),
    }


def test_older_partitions_are_not_read_where_that_leaves_nothing_out(server: BigQuery, fetch) -> None:
    server.page = 100
    ingested = "and (_PARTITIONTIME is null or _PARTITIONTIME >= @exported)"
    for partitions, pruned in [
        (INGESTED, ingested),
        ({"type": "HOUR"}, ingested),
        (EXPORTED, "and (export_time is null or export_time >= @exported)"),
        ({"type": "MONTH"}, ""),
        ({"type": "DAY", "field": "usage_end_time"}, ""),
        (None, ""),
    ]:
        server.partitions = partitions
        fetch()
        where = server.asked[-1]["query"].partition("usage_start_time < @until)")[2]
        assert where.removesuffix(")\ngroup by line").strip() == pruned


def test_rows_of_the_days_only_whenever_they_were_exported(server: BigQuery, pull) -> None:
    server.fill(
        [
            row(cost=1, usage_start_time="2026-09-30T23:59:59Z", export_time="2026-10-01T04:00:00Z"),
            row(cost=2, usage_start_time="2026-10-01T00:00:00Z", export_time="2026-10-01T04:00:00Z"),
            row(cost=4, usage_start_time="2026-10-02T23:00:00Z", export_time="2026-11-20T04:00:00Z"),
            row(cost=8, usage_start_time="2026-10-03T00:00:00Z", export_time="2026-10-03T04:00:00Z"),
            row(cost=16, usage_start_time="2026-10-01T05:00:00Z", export_time=None),
        ]
    )
    parsed = pull()
    assert charges(parsed, "usage_date, billed_cost") == [(date(2026, 10, 1), 18), (date(2026, 10, 2), 4)]


def test_amounts_are_exact(server: BigQuery, pull) -> None:
    """Two rows that say the same are two; 0.1 + 0.2 is 0.3; and no digit of a NUMERIC is lost."""
    credits = [{"name": "Promo", "amount": "-0.000000000001"}, {"name": "Promo", "amount": -0.3}]
    server.fill(
        [
            *(row(cost=0.1), row(cost=0.1), row(cost=0.2), row(cost="0.2")),
            row(cost="98765432109.123456789012", credits=credits),
        ]
    )
    assert charges(pull(), "charge_category, billed_cost, quantity") == [
        ("credit", Decimal("-0.300000000001"), None),
        ("usage", Decimal("98765432109.723456789012"), 5000000),
    ]


def test_other_services_are_counted_and_say_no_more_than_their_name(server: BigQuery, pull, raw) -> None:
    compute = {"id": "6F81", "description": "Compute Engine"}
    server.fill([row(), *[row(service=compute, cost=cost, currency="hush") for cost in (1, 2, 3)]])
    assert pull().counts["rows_of_other_services"] == 3
    assert len(server.lines) == 2
    assert files_with(raw, ["Compute Engine"]) != []


def test_a_service_of_a_set_of_characters_is_told_by_the_set(server: BigQuery, pull) -> None:
    """RE2 lets more pass than the glob means."""
    server.fill([row(service={"description": f"Vertex {letter}"}) for letter in "ABC"])
    parsed = pull(services=("vertex [!b]",))
    assert charges(parsed, "billed_cost") == [(Decimal("1.5"),)]
    assert parsed.counts["rows_of_other_services"] == 1


def test_the_expression_passes_all_that_the_globs_mean() -> None:
    globs = (
        "Vertex AI*",
        "*Claude*",
        "a?c",
        "a[bc]d",
        "a[!b]c",
        "a[]]b",
        "a.c",
        "ÄÖ*",
        "a+(b)",
        r"a\*c",
        "a|b",
        "[",
    )
    texts = [
        "vertex ai",
        "Vertex AI Search",
        "a\nc",
        "abc",
        "abd",
        "adc",
        "a]b",
        "a.c",
        "a*c",
        "A+(B)",
        "äöx",
        "a|b",
    ]
    for glob in globs:
        passed = "regexp_matches(lower(text), ?)"
        found = duckdb.execute(
            f"select text, {_line_items.any_of(['text'], [glob])}, {passed} from (select unnest(?) as text)",
            [_line_items.expression_of_any(["no such thing", glob]), texts],
        ).fetchall()
        meant = [text for text, is_meant, _ in found if is_meant]
        passing = [text for text, _, is_passed in found if is_passed]
        assert meant == passing or ("[" in glob and set(meant) <= set(passing)), glob


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"service": None}, "service.description"),
        ({"usage_start_time": None}, "usage_start_time"),
        ({"cost": "a lot"}, "cost"),
    ],
)
def test_a_row_that_cannot_be_is_told_with_its_table_and_column(
    server: BigQuery, pull, changes, field
) -> None:
    server.fill([row(), row(**changes)])
    with pytest.raises(SourceError, match=rf"{re.escape(TABLE)}\.ndjson\.gz: a row has no usable `{field}`"):
        pull()


def test_a_view_may_be_flat(server: BigQuery, pull) -> None:
    flat = row(service_description="Vertex AI", sku_description="Gemini 3 Flash Text Input Caching")
    server.fill([{name: said for name, said in flat.items() if name not in ("service", "sku")}])
    server.partitions = None
    assert charges(pull(), "model, billed_cost") == [("gemini-3-flash", Decimal("0.75"))]


@pytest.mark.parametrize("gone", ["credits", "cost", "service"])
def test_a_table_without_a_column_that_must_be_there_is_no_bill(server: BigQuery, fetch, gone) -> None:
    server.fill([{name: said for name, said in row().items() if name != gone}])
    with pytest.raises(
        SourceError, match=f"table {re.escape(TABLE)}: there is no column {gone}.*It has billing"
    ):
        fetch()
    assert server.asked == []


def test_a_table_without_rows_empties_the_days(server: BigQuery, pull) -> None:
    server.fill([])
    parsed = pull()
    assert charges(parsed, "*") == []
    assert list(parsed.days_without_files) == []


def test_days_whose_partitions_may_be_deleted_are_refused(server: BigQuery, fetch) -> None:
    server.partitions = {"type": "DAY", "expirationMs": str(60 * 86_400_000)}
    long_ago = Days(date(2024, 1, 1), date(2024, 1, 2))
    with pytest.raises(SourceError, match="deleted after 60 days, so not all of 2024-01-01 is left"):
        fetch(long_ago)
    today = datetime.now(UTC).date()
    fetch(Days(today, today))
    # a partition of a month is as old as its first day
    end_of_month = today.replace(day=1) - timedelta(days=1)
    kept = today - end_of_month + timedelta(days=5)
    server.partitions = {"type": "MONTH", "expirationMs": str(kept.days * 86_400_000)}
    with pytest.raises(SourceError, match="partitions are deleted after"):
        fetch(Days(end_of_month, end_of_month))


def test_another_project_may_pay(server: BigQuery, fetch) -> None:
    server.mishaps["/bigquery/v2/projects/acme-data/queries"] = [refusal(403, "accessDenied", "No rights")]
    with pytest.raises(SourceError, match="HTTP 403: accessDenied: No rights"):
        fetch(job_project="acme-data")


# How it is asked


def test_a_query_that_takes_its_time_is_waited_for(server: BigQuery, fetch, raw) -> None:
    server.waits = 3
    fetch()
    assert lines_of(raw) == 19
    assert server.paths.count(f"GET {JOB}") > 1


def test_a_token_that_has_expired_is_exchanged_for_another(server: BigQuery, fetch, raw) -> None:
    server.mishaps[PAGES] = [None, refusal(401, "authError", "Invalid Credentials")]
    fetch()
    assert lines_of(raw) == 19
    assert len(server.tokens) == 2


PASSING = {
    "429": refusal(429, "rateLimitExceeded", "Exceeded rate limits"),
    "500": refusal(500, "internalError", "An internal error occurred"),
    "503": refusal(503, "backendError", "Visibility check was unavailable"),
    "503 of somebody between": Response("<html>hush</html>", 503),
}


@pytest.mark.parametrize("mishap", PASSING.values(), ids=PASSING)
def test_what_passes_is_asked_again(server: BigQuery, fetch, raw, mishap) -> None:
    server.mishaps = {path: [mishap] for path in ("/token", SCHEMA, QUERY, JOB, PAGES)}
    fetch()
    assert lines_of(raw) == 19
    assert not any(server.mishaps.values())


NO_ANSWER = "an answer is cut off, or not BigQuery's"
NO_RIGHTS = refusal(403, "accessDenied", "Access Denied: no bigquery.tables.getData\nhush")
REFUSED = [
    (SCHEMA, NO_RIGHTS, "HTTP 403: accessDenied: Access Denied: no bigquery.tables.getData. ", "Data Viewer"),
    (
        QUERY,
        refusal(403, "accessDenied", "No bigquery.jobs.create"),
        "HTTP 403: accessDenied: No",
        "Job User",
    ),
    (PAGES, NO_RIGHTS, "HTTP 403: accessDenied", "Data Viewer"),
    (SCHEMA, refusal(404, "notFound", "Not found: Table"), "HTTP 404: notFound: Not found", "Check `table`"),
    (QUERY, refusal(401, "authError", "Invalid Credentials"), "HTTP 401: authError", "roles"),
    (
        QUERY,
        refusal(400, "invalidQuery", "Bad int64 value: hush"),
        r"HTTP 400: invalidQuery: Bad int64 value\. ",
        "billing export",
    ),
    (QUERY, refusal(403, "quotaExceeded", "Exceeded"), "HTTP 403: quotaExceeded", "Run again later"),
    (SCHEMA, PASSING["429"], "HTTP 429: rate.*; tried again for 4 seconds", "Run again later"),
    (QUERY, PASSING["503"], "HTTP 503: backendError.*; tried again for 4 seconds", "Run again later"),
    (PAGES, PASSING["500"], "HTTP 500: internalError.*; tried again for 4 seconds", "Run again later"),
    (SCHEMA, Response("<html>hush</html>"), NO_ANSWER, "Run again"),
    (QUERY, Response('{"jobReference": {"hush'), NO_ANSWER, "Run again"),
    (PAGES, Response('{"rows": [{"f": [{"v": "hush'), NO_ANSWER, "Run again"),
    (QUERY, answer({}), NO_ANSWER, "Run again"),
    (PAGES, Response("[]"), NO_ANSWER, "Run again"),
]


@pytest.mark.parametrize(("path", "mishap", "what", "remedy"), REFUSED)
def test_what_does_not_pass_is_told_with_the_table_and_what_to_do(
    server: BigQuery, fetch, raw, path, mishap, what, remedy
) -> None:
    server.mishaps = {path: [mishap] * 100}
    with pytest.raises(SourceError, match=f"table {re.escape(TABLE)}: {what}") as told:
        fetch()
    assert remedy in told.value.remedy
    assert not (raw / "files.json").exists()


def test_rows_that_do_not_come_are_missed(server: BigQuery, fetch, raw) -> None:
    page = {"totalRows": "16", "rows": [{"f": [{"v": "{}"}, {"v": "1"}]}]}
    server.mishaps[PAGES] = [None, answer(page)]
    with pytest.raises(SourceError, match=r"\d rows came of the 16 that it has"):
        fetch()
    assert not (raw / "files.json").exists()


def test_a_job_that_fails_is_told(server: BigQuery, fetch) -> None:
    server.waits = 1
    failed = {"reason": "resourcesExceeded", "message": "Resources exceeded during query execution"}
    server.mishaps[JOB] = [answer({"status": {"state": "DONE", "errorResult": failed}})]
    with pytest.raises(SourceError, match="resourcesExceeded: Resources exceeded during query execution"):
        fetch()


def test_a_query_without_an_end_is_told(server: BigQuery, fetch, monkeypatch) -> None:
    monkeypatch.setattr(_bigquery, "QUERY_SECONDS", 0.05)
    server.waits = 10**9
    with pytest.raises(SourceError, match="the query has no result after 0 seconds"):
        fetch()
    assert f"POST {JOB}/cancel" in server.paths


def test_nobody_who_answers_is_told(server: BigQuery, fetch, monkeypatch) -> None:
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", "http://127.0.0.1:9")
    with pytest.raises(SourceError, match=r"no answer \(ConnectionError\); tried again"):
        fetch()


def test_a_refused_pull_changes_nothing_and_the_next_one_repairs(server: BigQuery, home: Path) -> None:
    source = Source(entry(), google)
    now = datetime(2026, 11, 22, tzinfo=UTC)
    ingest(source, Days(DAYS.first, DAYS.first), Lake(home), (), now)
    before = digests(home)
    server.mishaps[PAGES] = [None, NO_RIGHTS]
    with pytest.raises(SourceError, match="Access Denied"):
        ingest(source, DAYS, Lake(home), (), now)
    assert digests(home) == before
    assert_nothing_left(home)
    assert ingest(source, DAYS, Lake(home), (), now).rows("charge") == 16


# Who asks


@pytest.mark.parametrize(
    ("said", "what"),
    [
        (
            {"error": "invalid_grant", "error_description": "Invalid JWT Signature."},
            "invalid_grant: Invalid JWT",
        ),
        ({"odd": "hush"}, "without a reason"),
    ],
)
def test_credentials_that_google_does_not_take_are_told(server: BigQuery, fetch, said, what) -> None:
    server.mishaps["/token"] = [answer(said, 400)] * 100
    with pytest.raises(SourceError, match=rf"Google does not take the credentials \({what}") as told:
        fetch()
    assert "GOOGLE_APPLICATION_CREDENTIALS" in told.value.remedy


def test_an_answer_without_a_token_is_told_without_what_is_in_it(server: BigQuery, fetch) -> None:
    server.mishaps["/token"] = [answer({"refresh_token": "hush"})] * 100
    with pytest.raises(SourceError, match="Google does not take the credentials"):
        fetch()


@pytest.mark.parametrize(
    "named",
    ["nothing", "no such file", "a folder", "no JSON", "no object", "no key in it", "the key itself"],
)
def test_who_is_not_logged_in_is_told_how(server: BigQuery, fetch, named, monkeypatch) -> None:
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(server.folder))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    file = server.folder / "account.json"
    account = json.loads(file.read_text())
    match named:
        case "nothing":
            monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
        case "no such file":
            file.unlink()
        case "a folder":
            file.unlink()
            file.mkdir()
        case "no object":
            file.write_text('["hush"]')
        case "no JSON":
            file.write_text(account["private_key"])
        case "no key in it":
            file.write_text(json.dumps(account | {"private_key": "hush"}))
        case "the key itself":
            monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", json.dumps(account))
    with pytest.raises(SourceError, match="no usable Application Default Credentials") as told:
        fetch()
    assert "gcloud auth application-default login" in told.value.remedy


def test_without_the_extra_it_is_told_what_to_install(server: BigQuery, fetch, monkeypatch) -> None:
    assert not hasattr(google, "_bigquery")
    monkeypatch.delattr(sources, "_bigquery")
    monkeypatch.delitem(sys.modules, _bigquery.__name__)
    monkeypatch.setitem(sys.modules, "google.api_core.exceptions", None)
    with pytest.raises(SourceError, match=r"google.* is not installed\. .*pip install google-cloud-bigquery"):
        fetch()


# The entry


@pytest.mark.parametrize(
    "fields",
    [
        {"table": None},
        {"path": "export.json"},
        {"table": None, "path": "export.json", "job_project": "acme"},
        {"job_project": "acme/../other"},
        *(
            {"table": table}
            for table in (
                "costs.export",
                "a.b.c.d",
                "a.b.c` where true --",
                "a.b.c\n",
                "a.b.{date}",
                "a.b.c_*",
                "a.b-c.d",
                "a.b.é",
                "../a.b.c",
                "",
            )
        ),
    ],
)
def test_what_is_no_table_is_refused(fields: Mapping[str, Any]) -> None:
    with pytest.raises(ValidationError):
        entry(**fields)


def test_a_table_may_come_from_the_environment(monkeypatch) -> None:
    monkeypatch.setenv("BILLING_TABLE", TABLE)
    assert entry(table="${BILLING_TABLE}").table == TABLE
    monkeypatch.setenv("BILLING_TABLE", "a.b.c` --")
    with pytest.raises(ValidationError):
        entry(table="${BILLING_TABLE}")
