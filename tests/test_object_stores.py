"""Logs in buckets of S3, Google and Azure, each read by its real client from a server on this machine.

S3 is moto. The calls that the client makes of Google are those of Google's XML API, which moto answers, too:
lists and ranges are S3's. Azure is `azure_blobs.py`. What they do not prove: how Google and Azure hand out
tokens, that is everything but keys and bearer tokens.
"""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import azure_blobs
import boto3
import duckdb
import httpx
import pytest
from moto.server import ThreadedMotoServer
from pytest_httpserver import HTTPServer
from test_files import DAY, GOOD, read
from werkzeug import Response

from dagster_project.days import Days
from dagster_project.errors import SourceError
from dagster_project.sources import _files

SECRET = "aHVzaC1odXNoLWh1c2g="
VARIABLES = (
    *("AWS_ENDPOINT_URL", "AWS_ALLOW_HTTP", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    *("AWS_DEFAULT_REGION", "GOOGLE_BASE_URL", "GOOGLE_BEARER_TOKEN", "AZURE_STORAGE_ENDPOINT"),
    *("AZURE_ALLOW_HTTP", "AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY"),
)


@dataclass
class Bucket:
    """A bucket `logs`, which the environment points to, and how to fill it."""

    url: str
    put: Callable[[Mapping[str, bytes]], None]
    page_by: Callable[[int], None]
    """Sets how many objects a page of a list has from now on."""


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@contextmanager
def _of_moto(endpoint: str, scheme: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    access = {"aws_access_key_id": "id", "aws_secret_access_key": SECRET, "region_name": "us-east-1"}
    bucket = boto3.resource("s3", endpoint_url=endpoint, **access).Bucket("logs")
    bucket.create()

    def put(objects: Mapping[str, bytes]) -> None:
        for key, body in objects.items():
            bucket.put_object(Key=key, Body=body)

    def page_by(size: int) -> None:
        monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", str(size))
        listed = bucket.meta.client.list_objects_v2(Bucket="logs")
        assert (listed["KeyCount"], listed["IsTruncated"]) == (size, True)

    yield Bucket(f"{scheme}://logs", put, page_by)
    bucket.objects.delete()


@pytest.fixture(params=["s3", "gs", "az"])
def bucket(request: pytest.FixtureRequest, moto: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    if request.param == "az":
        store = azure_blobs.AzureBlobs({"logs": {}})

        def page_by(size: int) -> None:
            assert len(store.containers["logs"]) > size
            store.page_size = size

        with azure_blobs.served(store) as endpoint:
            monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", endpoint)
            monkeypatch.setenv("AZURE_ALLOW_HTTP", "true")
            monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", azure_blobs.ACCOUNT)
            monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", azure_blobs.KEY)
            yield Bucket("az://logs", store.containers["logs"].update, page_by)
        return
    if request.param == "gs":
        monkeypatch.setenv("GOOGLE_BASE_URL", moto)
        monkeypatch.setenv("GOOGLE_BEARER_TOKEN", SECRET)
    else:
        monkeypatch.setenv("AWS_ENDPOINT_URL", moto)
        monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with _of_moto(moto, request.param, monkeypatch) as found:
        yield found


def keys(bucket: Bucket, pattern: str, days: Days = DAY) -> list[str]:
    found = _files.find("gateway", f"{bucket.url}/{pattern}", days)
    return sorted(name.removeprefix(f"{bucket.url}/") for name in found)


def test_objects_in_every_form(bucket: Bucket, tmp_path: Path) -> None:
    large = b'{"n": 7, "image": "' + b"x" * (20 * 2**20) + b'"}\n{"n": 8}'
    noise = random.Random(1).randbytes(2**21).hex().encode()
    with duckdb.connect() as engine:
        engine.execute(f"copy (select 11 as n) to '{tmp_path}/zst' (format json, compression zstd)")
    bucket.put(
        {
            "gw/2026-11-21/a.json": b'{"n": 1}',
            f"gw/growth/2026-11-21/time-01_{'x' * 400}.json": b'{"n": 2}',
            "gw/team [eu] *?/2026-11-21/a+b=c%20#&é.json": b'{"n": 3}',
            "gw/2026-11-20/batch_23-59.jsonl.gz": gzip.compress(b'{"n": 4}\n{"n": 5}\n'),
            "gw/2026-11-22/posted.json": b'[{"n": 6}, null]',
            "gw/2026-11-22/large.json": large,
            "gw/2026-11-22/large.json.gz": gzip.compress(b'{"n": 10, "noise": "' + noise + b'"}'),
            "gw/2026-11-22/packed.json.zst": (tmp_path / "zst").read_bytes(),
            "gw/2026-11-23/later.json": b'{"n": 90}',
            "gw/2026-11-21/read.me": b"nothing",
            **{f"gw/2026-11-21/many/{number}.json": b'{"n": 9}' for number in range(100)},
            "other/2026-11-21/a.json": b'{"n": 91}',
        }
    )
    files = _files.find("gateway", f"{bucket.url}/gw/**/{{date}}/**/*.json*", DAY)
    assert read(files, tmp_path / "out.parquet") == [1, 2, 3, 4, 5, 6, 7, 8, *[9] * 100, 10, 11, None]


def test_globs_mean_the_same_as_on_a_disk(bucket: Bucket) -> None:
    bucket.put(dict.fromkeys(("a.json", "b/a.json", "b/c/a.json", "b/[x].json", "b/!.json"), b"{}"))
    assert keys(bucket, "*.json") == ["a.json"]
    assert keys(bucket, "**/a.json") == ["a.json", "b/a.json", "b/c/a.json"]
    assert keys(bucket, "b/?.json") == ["b/!.json", "b/a.json"]
    assert keys(bucket, "b/[!a-z].json") == ["b/!.json"]
    assert keys(bucket, "b/[[]x].json") == ["b/[x].json"]
    with pytest.raises(SourceError, match=r"no file matches \w\w://logs/c/\*\. Correct `path`"):
        keys(bucket, "c/*")


def test_a_date_means_the_asked_days_and_one_on_each_side(bucket: Bucket) -> None:
    bucket.put({f"gw/{day:%Y/%m/%d}/a.json": b"{}" for day in Days(date(2026, 11, 28), date(2026, 12, 4))})
    last = Days(date(2026, 11, 30), date(2026, 11, 30))
    assert keys(bucket, "gw/{date:%Y/%m/%d}/*.json", last) == [
        f"gw/2026/{day}/a.json" for day in ("11/29", "11/30", "12/01")
    ]


def test_a_list_of_many_pages_is_read_to_its_end(bucket: Bucket, tmp_path: Path) -> None:
    names = [f"gw/2026-11-21/team {number % 3}/{number:03}&.json" for number in range(120)]
    bucket.put({name: b'{"n": %d}' % number for number, name in enumerate(names)})
    bucket.page_by(25)  # The client hands them on by fifties.
    files = _files.find("gateway", f"{bucket.url}/gw/{{date}}/**/*.json", DAY)
    assert read(files, tmp_path / "out.parquet") == list(range(120))


def test_an_object_cut_off_is_told_by_its_name(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put({"a.json.gz": gzip.compress(GOOD * 9999)[:-20]})
    with pytest.raises(SourceError, match=r"://logs/a\.json\.gz: the file cannot be read to its end"):
        read(_files.find("gateway", f"{bucket.url}/*", DAY), tmp_path / "out.parquet")


def test_an_object_that_went_away_after_it_was_listed(bucket: Bucket, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot be read to its end: it is gone"):
        read({f"{bucket.url}/a.json": 9}, tmp_path / "out.parquet")


NOT_THERE = {"s3": "NoSuchBucket", "gs": "NoSuchBucket", "az": "ContainerNotFound"}
CREDENTIALS = {
    "s3": "AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_SERVICE_ACCOUNT",
    "az": "AZURE_STORAGE_ACCOUNT_KEY",
}


def refused(pattern: str) -> str:
    """What is told of a store that does not list `pattern`: what happened, what to do, and no secret."""
    with pytest.raises(SourceError) as told:
        _files.find("gateway", pattern, DAY)
    message = str(told.value)
    assert message.startswith(f"source `gateway`, {pattern}: the object store cannot be listed (")
    assert ". Check the bucket and the environment variable" in message
    assert CREDENTIALS[pattern[:2]] in message
    assert told.value.__suppress_context__
    for secret in (SECRET, azure_blobs.KEY, "hush"):
        assert secret not in message
    return told.value.what


def test_a_bucket_that_is_not_there(bucket: Bucket) -> None:
    scheme = bucket.url[:2]
    what = refused(f"{scheme}://of-somebody-else/*.json")
    assert what == f"the object store cannot be listed (HTTP 404 Not Found, {NOT_THERE[scheme]})"


@pytest.fixture
def guarded(moto: str) -> Iterator[None]:
    """While it lasts, the S3 server lets in nobody whom it does not know."""

    def open_for(requests: str) -> None:
        httpx.post(f"{moto}/moto-api/reset-auth", content=requests).raise_for_status()

    open_for("0")
    yield
    open_for("inf")


@pytest.mark.parametrize("bucket", ["s3"], indirect=True)
def test_a_key_that_s3_does_not_know(bucket: Bucket, guarded: None) -> None:
    what = refused("s3://logs/*.json")
    assert what == "the object store cannot be listed (HTTP 403 Forbidden, InvalidAccessKeyId)"


@pytest.mark.parametrize("bucket", ["az"], indirect=True)
def test_a_key_that_is_not_the_accounts(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", SECRET)
    what = refused("az://logs/*.json")
    assert what == "the object store cannot be listed (HTTP 403 Forbidden, AuthenticationFailed)"


@pytest.mark.parametrize(("status", "said"), [(401, "Unauthorized"), (403, "Forbidden")])
def test_a_token_that_google_refuses(
    httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch, status: int, said: str
) -> None:
    body = f"<Error><Code>AccessDenied</Code><Details>{SECRET}</Details></Error>"
    httpserver.expect_request("/logs").respond_with_response(Response(body, status))
    monkeypatch.setenv("GOOGLE_BASE_URL", httpserver.url_for("/").rstrip("/"))
    monkeypatch.setenv("GOOGLE_BEARER_TOKEN", SECRET)
    what = refused("gs://logs/*.json")
    assert what == f"the object store cannot be listed (HTTP {status} {said}, AccessDenied)"
    assert httpserver.log[0][0].headers["Authorization"] == f"Bearer {SECRET}"


@pytest.mark.parametrize(
    ("scheme", "variables", "said"),
    [
        ("s3", {"AWS_ACCESS_KEY_ID": "id"}, "Missing SecretAccessKey"),
        ("gs", {"GOOGLE_SERVICE_ACCOUNT_KEY": '"hush hush"'}, "Unable to decode service account file"),
        ("gs", {"GOOGLE_SERVICE_ACCOUNT": "/no/such/key.json"}, "/no/such/key.json: No such file"),
        ("az", {"AZURE_STORAGE_ACCOUNT_KEY": SECRET}, "Account must be specified"),
        (
            "az",
            {"AZURE_STORAGE_ACCOUNT_NAME": "a", "AZURE_STORAGE_ACCOUNT_KEY": "hush hush"},
            "Invalid Access Key",
        ),
        (
            "az",
            {"AZURE_STORAGE_ACCOUNT_NAME": "a", "AZURE_STORAGE_SAS_KEY": "hush"},
            "Missing component in SAS",
        ),
        (
            "az",
            {
                "AZURE_STORAGE_ACCOUNT_NAME": "a",
                "AZURE_STORAGE_ENDPOINT": "http://127.0.0.1:9",
                "AZURE_STORAGE_SAS_KEY": "sv=1&sig=hush",
            },
            "Error performing GET REDACTED in",
        ),
    ],
)
def test_credentials_that_no_client_can_be_made_of(
    monkeypatch: pytest.MonkeyPatch, scheme: str, variables: dict[str, str], said: str
) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    assert said in refused(f"{scheme}://logs/*.json")
