"""A provider's administration API: a patient client, whose answers are pages and failures SourceErrors.

    408, 409, 429, 5xx, no connection, a timeout, half an answer    tried again, up to `max_attempts`
    `Retry-After` of more than LONGEST_WAIT_SECONDS                 fails at once, and says until when
    everything else                                                 fails at once, and says what to do

The key is never part of a page, a log line or an error.
"""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from importlib.metadata import version
from types import TracebackType
from typing import Any, NamedTuple

import httpx
from httpx_retries import Retry, retry_request

from dagster_project.days import Days
from dagster_project.errors import ConfigError, SourceError
from dagster_project.settings import ProviderEntry
from dagster_project.sources._pages import Page

LONGEST_WAIT_SECONDS = 120
"""A provider that wants us to stay away for longer is not waited for: the run says when to come back."""

Params = tuple[tuple[str, Any], ...]


class Cursor(NamedTuple):
    """How a list goes on: the parameter to send, and the field of the last answer that it is taken from.

    `more` is the field that says whether there is more; without one, a `field` that is null, empty or not
    there is the end.
    """

    parameter: str
    field: str
    more: str | None = "has_more"


BY_TOKEN = Cursor("page", "next_page")

_LONGEST_MESSAGE = 400
_PASSING = (408, 409, 429)
_REQUEST_ID_HEADERS = ("x-request-id", "request-id")
_ANY_KEY = re.compile(r"(sk-|xai-|fw_|tgp_)[\w*.-]+")
_EMAIL = re.compile(r'("(?:user_)?email(?:_address)?"\s*:\s*)"(?:[^"\\]|\\.)*"')


def today() -> date:
    """The UTC day that it is: of later days a provider knows nothing yet, and of this one not all."""
    return datetime.now(UTC).date()


class Api:
    """The administration API of `entry` during the pull of `days`. A context manager.

    `headers` makes the request headers from the key; `needs` tells, to somebody whose key was
    refused, which kind of key the API wants; `missing` what a 404 may mean besides a wrong address.
    Raises ConfigError when there is no usable key.
    """

    def __init__(
        self,
        entry: ProviderEntry,
        days: Days,
        *,
        headers: Callable[[str], Mapping[str, str]],
        needs: str,
        missing: str = "",
    ) -> None:
        self._entry = entry
        self._days = days
        self._needs = needs
        self._missing = missing
        self._key = _key(entry)
        self._client = httpx.Client(
            base_url=entry.base_url,
            headers={"User-Agent": f"llm-chargeback/{version('llm-chargeback')}", **headers(self._key)},
            timeout=entry.timeout_seconds,
        )
        self._patience = _Patience(
            total=entry.max_attempts - 1,
            backoff_factor=0.5,
            backoff_jitter=0.5,
            max_backoff_wait=30,
            allowed_methods=("GET", "POST"),  # a POST asks here, too: it changes nothing
            retry_on_exceptions=(*Retry.RETRYABLE_EXCEPTIONS, httpx.DecodingError, _TryAgain),
            validate_response=_try_again,
        )

    def __enter__(self) -> Api:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._client.close()

    def pages(
        self,
        endpoint: str,
        params: Params,
        cursor: Cursor | None = BY_TOKEN,
        *,
        posts: bool = False,
        is_optional: bool = False,
        absent: Collection[int] = (httpx.codes.NOT_FOUND,),
        says_more: bool = True,
    ) -> Iterator[Page]:
        """Every page of a list, as it arrives; all parameters but the cursor stay the same.

        `posts`: the parameters are the fields of a JSON object that is posted, not a query. Without a
        cursor the first answer is all. E-mail addresses are blanked, since pages are kept. An optional
        endpoint whose first answer has a status of `absent` is an empty list; an empty page that says there
        is more is legal. An answer that does not say whether there is more is the last one only where
        `says_more` is false. Raises SourceError, also where following the cursor would loop or lose pages.
        """
        method = "POST" if posts else "GET"
        sent: set[str] = set()
        position: Params = ()
        for number in itertools.count(1):
            where = f"{method} {endpoint} for {self._days}, page {number}"
            response = self._ask(method, endpoint, (*params, *position), where)
            if is_optional and number == 1 and response.status_code in absent:
                return
            if not response.is_success or _fault(response):
                raise self._failure(response, where)
            yield Page(endpoint, (*params, *position), _EMAIL.sub(r"\1null", response.text))

            if cursor is None:
                return
            answer = response.json()
            following = answer.get(cursor.field)
            more = following not in (None, "")
            if cursor.more:
                more = answer.get(cursor.more, None if says_more else False)
            if not isinstance(more, bool):
                raise self._broken_list(
                    f"the answer does not say whether there is more (`{cursor.more}`)", where
                )
            if not more:
                return
            if not (following and isinstance(following, str)):
                raise self._broken_list(f"there is more, but `{cursor.field}` does not say where", where)
            if following in sent:
                raise self._broken_list(f"`{cursor.field}` leads back to a page that was already read", where)
            sent.add(following)
            position = ((cursor.parameter, following),)

    def _ask(self, method: str, endpoint: str, params: Params, where: str) -> httpx.Response:
        question = {"json": dict(params)} if method == "POST" else {"params": params}
        try:
            return retry_request(self._client, method, endpoint, **question, retry=self._patience)
        except (httpx.InvalidURL, UnicodeEncodeError) as error:
            raise self._broken_list(
                f"what the last answer says cannot be asked for ({error})", where
            ) from None
        except httpx.RequestError as error:
            what = f"no answer in {self._entry.max_attempts} attempts ({type(error).__name__}: {error})"
        raise SourceError(
            self._entry.name,
            self._without_key(what),
            where=where,
            remedy=f"Check that {self._entry.base_url} can be reached from here, then run again.",
        )

    def _failure(self, response: httpx.Response, where: str) -> SourceError:
        said = [_fault(response) or f"HTTP {response.status_code}"]
        said += [f"request id {response.headers[h]}" for h in _REQUEST_ID_HEADERS if h in response.headers]
        attempts = response.extensions["retry"].attempts_made + 1
        if attempts > 1:
            said.append(f"{attempts} attempts")
        what = ", ".join(said) + _provider_says(response)
        return SourceError(
            self._entry.name,
            self._without_key(what)[:_LONGEST_MESSAGE],
            where=where,
            remedy=self._remedy(response),
        )

    def _remedy(self, response: httpx.Response) -> str:
        wait = _asked_wait(response)
        match response.status_code:
            case 401 | 403:
                variable = self._entry.api_key.variable
                return f"It needs {self._needs}; the environment variable {variable} is to hold it."
            case 404 | 301 | 302 | 307 | 308:
                where = f"Check `base_url` of the entry, {self._entry.base_url}: the endpoint is not there."
                return f"{where} {self._missing}".rstrip()
            case status if status >= 400 and wait is not None:
                return f"Run again after {datetime.now(UTC) + timedelta(seconds=wait):%Y-%m-%d %H:%M} UTC."
            case status if status in _PASSING or status >= 500:
                return "The provider is failing, or limits what this key may ask: run again later."
            case status if status >= 400:
                return "The provider does not accept this question: its API may have changed."
        return "Run again; if it stays, something between here and the provider spoils its answers."

    def _broken_list(self, what: str, where: str) -> SourceError:
        remedy = "Nothing was kept; run again, and if it stays, its API has changed."
        return SourceError(self._entry.name, what, where=where, remedy=remedy)

    def _without_key(self, text: str) -> str:
        return _ANY_KEY.sub("[key]", text.replace(self._key, "[key]"))


def bearer(key: str) -> dict[str, str]:
    """The header of most APIs, for `Api`."""
    return {"Authorization": f"Bearer {key}"}


class _TryAgain(Exception):
    """An answer that a second question may better. It never leaves the retry loop."""


class _Patience(Retry):
    """The retry rules of the providers' own SDKs: what the response's headers say comes first."""

    def is_retryable_status_code(self, status_code: int) -> bool:
        """Never by the status alone: `_try_again` sees the whole response."""
        return False

    def sleep(self, response: httpx.Response | Exception) -> None:
        asked = _asked_wait(response) if isinstance(response, httpx.Response) else None
        time.sleep(asked or self.backoff_strategy())


def _try_again(response: httpx.Response) -> None:
    if response.is_success:
        again = _fault(response) is not None
    elif (_asked_wait(response) or 0) > LONGEST_WAIT_SECONDS:
        again = False
    elif (verdict := response.headers.get("x-should-retry")) in ("true", "false"):
        again = verdict == "true"
    else:
        again = response.status_code in _PASSING or response.status_code >= 500
    if again:
        raise _TryAgain


def _asked_wait(response: httpx.Response) -> float | None:
    """Seconds that the provider asks us to wait, from `retry-after-ms` or `Retry-After`."""
    milliseconds = response.headers.get("retry-after-ms", "")
    if re.fullmatch(r"\d+(\.\d+)?", milliseconds):
        return float(milliseconds) / 1000
    try:
        return Retry().parse_retry_after(response.headers.get("retry-after", ""))
    except ValueError:
        return None


def _key(entry: ProviderEntry) -> str:
    key = entry.api_key.value(entry.name)
    if not re.fullmatch(r"[!-~]+", key):
        # Such a header would be refused further down, in an error that quotes it.
        problem = f"{entry.api_key.variable} holds a blank, a line end or a non-ASCII character"
        raise ConfigError(f"source `{entry.name}`", [f"{problem}; export the key again without it"])
    return key


def _fault(response: httpx.Response) -> str | None:
    """What is wrong with an answer that claims success."""
    if not response.is_success:
        return None
    try:
        answer = json.loads(response.text)
    except (ValueError, RecursionError):
        return f"HTTP {response.status_code}, but the answer is cut off or not JSON"
    return None if isinstance(answer, dict) else f"HTTP {response.status_code}, but not a JSON object"


def _provider_says(response: httpx.Response) -> str:
    """The provider's own type, code and message; nothing else of an error's body is ever repeated."""
    try:
        error = json.loads(response.text)["error"]
        said = [error.get("type"), error.get("code"), error.get("message")]
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
        return ""
    return "".join(f": {' '.join(str(part).split())}" for part in said if part)
