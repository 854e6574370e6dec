"""Rows of a BigQuery table, streamed to compressed NDJSON by Google's own client.

Imported only for an entry that names a table: the client is the extra `bigquery`, and takes a second to load.
It asks in the name of Google's Application Default Credentials, and tries again what passes (429, 5xx, no
connection, an expired token) until PATIENCE_SECONDS are over.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import repeat
from pathlib import Path
from typing import Any

from google.api_core.exceptions import GoogleAPICallError, GoogleAPIError, RetryError
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, RefreshError
from google.cloud import bigquery
from google.cloud.bigquery.retry import DEFAULT_JOB_RETRY
from requests.exceptions import RequestException

from dagster_project.errors import SourceError

PATIENCE_SECONDS = 120.0
ANSWER_SECONDS = 60.0
QUERY_SECONDS = 900.0
"""What a query may take, the time included in which BigQuery lets it wait for its turn."""

_LONGEST_MESSAGE = 400
_LIMITS = ("quotaExceeded", "rateLimitExceeded")
"""Reasons of a refusal (403) that pass."""
_NOT_UNDERSTOOD = (ValueError, KeyError, TypeError, AttributeError)
"""What the client raises of an answer that is no JSON, or another."""
_AGAIN = "Run again; if it stays, something between here and BigQuery spoils its answers."
_LATER = "Run again later: BigQuery is failing, or limits what may be asked."
_LOG_IN = (
    "Let the environment variable GOOGLE_APPLICATION_CREDENTIALS name the file of a service account's key, "
    "or log in with `gcloud auth application-default login`."
)
_ROLES = (
    "Check `table`. Whose credentials these are needs the roles BigQuery Data Viewer (of the table) and "
    "BigQuery Job User (of the project that pays for the query: `job_project`, else the table's)."
)
_QUERY = "BigQuery does not accept the query: is this the billing export, or a view with its columns?"


class Table:
    """One table or view, open for reading. `columns` are the names that it has; `partition` is the column
    that says in which of its partitions of days or hours a row is, if there are such.
    """

    def __init__(self, source: str, client: bigquery.Client, name: str) -> None:
        self._source = source
        self._client = client
        self.where = f"table {name}"
        with _told(source, self.where):
            table = client.get_table(name, retry=_retry(), timeout=ANSWER_SECONDS)
        self.name = f"`{name}`"
        self.columns = frozenset(column.name for column in table.schema)
        self._location = table.location
        partitions = table.time_partitioning
        self.partition = None
        if partitions is not None and partitions.type_ in ("DAY", "HOUR"):
            self.partition = partitions.field or "_PARTITIONTIME"
        self._type = partitions and partitions.type_
        self._kept = None
        if partitions is not None and partitions.expiration_ms is not None:
            self._kept = timedelta(milliseconds=partitions.expiration_ms)

    def require_since(self, first: datetime) -> None:
        """Raises SourceError if partitions of `first` may be deleted: what is left of it is a lower bill. Of
        a view, nobody says it."""
        begun = {"MONTH": first.replace(day=1), "YEAR": first.replace(month=1, day=1)}.get(self._type, first)
        if self._kept is not None and begun < datetime.now(UTC) - self._kept:
            raise SourceError(
                self._source,
                f"partitions are deleted after {self._kept.days} days, so not all of {first.date()} is left",
                where=self.where,
                remedy="Ask for later days, or set `restates_days` to fewer; what was read before stays.",
            )

    def write_lines(self, query: str, parameters: Collection[tuple[str, str, Any]], file: Path) -> None:
        """Write the text `line` of each row of `query` to `file`, as many `times` as the row says. One page
        of the answer is in memory at a time. `parameters` are names, types and values.
        """
        typed = [bigquery.ScalarQueryParameter(*parameter) for parameter in parameters]
        read = 0
        with (
            _told(self._source, self.where),
            gzip.open(file, "wt", encoding="utf-8", compresslevel=1) as lines,
        ):
            rows = self._client.query_and_wait(
                query,
                job_config=bigquery.QueryJobConfig(query_parameters=typed),
                location=self._location,
                retry=_retry(),
                job_retry=DEFAULT_JOB_RETRY.with_timeout(PATIENCE_SECONDS),
                api_timeout=ANSWER_SECONDS,
                wait_timeout=QUERY_SECONDS,
            )
            for row in rows:
                lines.writelines(repeat(f"{row.line}\n", row.times))
                read += 1
        if read != rows.total_rows:
            what = f"{read} rows came of the {rows.total_rows} that it has"
            raise SourceError(self._source, what, where=self.where, remedy=_AGAIN)


@contextmanager
def table(source: str, name: str, job_project: str | None) -> Iterator[Table]:
    """Open the table `name`, project.dataset.table; its own project pays for queries if no other is said.

    Raises SourceError; no message holds a credential.
    """
    with _told(source, f"table {name}"):
        try:
            client = bigquery.Client(project=job_project or name.partition(".")[0])
        except (OSError, *_NOT_UNDERSTOOD):
            raise DefaultCredentialsError("a file that cannot be read, or is none of credentials") from None
    with closing(client):
        yield Table(source, client, name)


def _retry() -> Any:
    return bigquery.DEFAULT_RETRY.with_timeout(PATIENCE_SECONDS)


@contextmanager
def _told(source: str, where: str) -> Iterator[None]:
    try:
        yield
    except (GoogleAPIError, GoogleAuthError, RequestException, TimeoutError, *_NOT_UNDERSTOOD) as error:
        what, remedy = _meaning(error)
        raise SourceError(source, what[:_LONGEST_MESSAGE], where=where, remedy=remedy) from None


def _meaning(error: Exception) -> tuple[str, str]:
    """What went wrong, and what to do. Of texts only those are passed on that cannot hold a credential."""
    what, remedy = f"no answer ({type(error).__name__})", _LATER
    match error:
        case RetryError():
            what, remedy = _meaning(error.cause)
            what += f"; tried again for {PATIENCE_SECONDS:.0f} seconds"
        case GoogleAPICallError():
            said = next((one for one in error.errors if isinstance(one, dict)), {})
            reason, message = said.get("reason"), str(said.get("message", "")).partition("\n")[0]
            if reason == "invalidQuery":  # of a view that casts, the rest quotes the value
                message = message.partition(":")[0]
            what = ": ".join(filter(None, (f"HTTP {error.code}", reason, message)))
            if error.code in (401, 403, 404) and reason not in _LIMITS:
                remedy = _ROLES
            elif error.code == 400:
                remedy = _QUERY
        case DefaultCredentialsError():  # its text quotes a key that stands where its file was to be named
            what, remedy = "there are no usable Application Default Credentials", _LOG_IN
        case RefreshError():
            refusal = re.match(r"\w+: [^{\n]*", str(error.args[0]))
            what = f"Google does not take the credentials ({refusal[0] if refusal else 'without a reason'})"
            remedy = _LOG_IN
        case TimeoutError():
            what = f"the query has no result after {QUERY_SECONDS:.0f} seconds"
        case _ if isinstance(error, _NOT_UNDERSTOOD):
            what, remedy = "an answer is cut off, or not BigQuery's", _AGAIN
    return what, remedy
