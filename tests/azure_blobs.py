"""Azure's Blob Storage as far as a reader of logs asks it: lists in pages and ranges, for whoever signs.

The signature is made anew from the request, as the documentation of "Shared Key" says. What this does not
prove: other ways to sign in (SAS, Entra ID), throttling, and names that only Azure itself would refuse.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import unquote
from xml.sax.saxutils import escape

from werkzeug import Request, Response
from werkzeug.serving import make_server

ACCOUNT = "acmelogs"
KEY = base64.b64encode(b"the key of the account, of any length").decode()

_SIGNED_HEADERS = (
    "Content-Encoding",
    "Content-Language",
    "Content-Length",
    "Content-MD5",
    "Content-Type",
    "Date",
    "If-Modified-Since",
    "If-Match",
    "If-None-Match",
    "If-Unmodified-Since",
    "Range",
)


@dataclass
class AzureBlobs:
    """One account; `containers` hold bytes by name. `pages` counts the lists that were answered."""

    containers: dict[str, dict[str, bytes]] = field(default_factory=dict)
    page_size: int = 5000
    pages: int = 0

    def __call__(self, request: Request) -> Response:
        _, account, container, *name = unquote(request.environ["RAW_URI"].partition("?")[0]).split("/", 3)
        if request.headers.get("Authorization") != f"SharedKey {ACCOUNT}:{_signature(request)}":
            return _refusal(403, "AuthenticationFailed")
        if account != ACCOUNT or container not in self.containers:
            return _refusal(404, "ContainerNotFound")
        blobs = self.containers[container]
        if not name:
            return self._page(blobs, request)
        if name[0] not in blobs:
            return _refusal(404, "BlobNotFound")
        response = Response(blobs[name[0]], headers={"ETag": '"1"', "Last-Modified": _NEVER})
        return response.make_conditional(request, accept_ranges=True, complete_length=len(blobs[name[0]]))

    def _page(self, blobs: dict[str, bytes], request: Request) -> Response:
        assert (request.args["restype"], request.args["comp"]) == ("container", "list")
        self.pages += 1
        prefix, marker = request.args.get("prefix", ""), request.args.get("marker", "")
        names = sorted(name for name in blobs if name.startswith(prefix) and name >= marker)
        page, rest = names[: self.page_size], names[self.page_size :]
        listed = "".join(
            f"<Blob><Name>{escape(name)}</Name><Properties><Last-Modified>{_NEVER}</Last-Modified>"
            f"<Etag>1</Etag><Content-Length>{len(blobs[name])}</Content-Length><Content-Type>text/plain</Content-Type></Properties></Blob>"
            for name in page
        )
        following = escape(rest[0]) if rest else ""
        return _xml(
            f"<EnumerationResults><Blobs>{listed}</Blobs><NextMarker>{following}</NextMarker></EnumerationResults>"
        )


@contextmanager
def served(store: AzureBlobs) -> Iterator[str]:
    """The endpoint of `store` while it lasts."""
    server = make_server("127.0.0.1", 0, Request.application(store), threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/{ACCOUNT}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


_NEVER = "Thu, 01 Jan 1970 00:00:00 GMT"


def _signature(request: Request) -> str:
    headers = [request.headers.get(name, "") for name in _SIGNED_HEADERS]
    headers[2] = "" if headers[2] == "0" else headers[2]
    own = sorted((name.lower(), value) for name, value in request.headers if name.lower().startswith("x-ms-"))
    path = request.environ["RAW_URI"].partition("?")[0]
    query = [f"{name.lower()}:{request.args[name]}" for name in sorted(request.args)]
    lines = [
        request.method,
        *headers,
        *(f"{name}:{value}" for name, value in own),
        f"/{ACCOUNT}{path}",
        *query,
    ]
    digest = hmac.digest(base64.b64decode(KEY), "\n".join(lines).encode(), hashlib.sha256)
    return base64.b64encode(digest).decode()


def _refusal(status: int, code: str) -> Response:
    return _xml(f"<Error><Code>{code}</Code><Message>No.</Message></Error>", status)


def _xml(text: str, status: int = 200) -> Response:
    declared = f'<?xml version="1.0" encoding="utf-8"?>{text}'
    return Response(declared, status, mimetype="application/xml")
