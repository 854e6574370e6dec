"""A year of OpenAI's bill and usage from a local server: how many requests, and whose the time is.

    .venv/bin/python benchmarks/backfill_year.py [--days 365] [--keys 20] [--latency 0.5]

The server answers each page after `latency` seconds, with as many days as the real API puts on a page
(180 of costs, 31 of usage); each day has a line and a usage row for every key and three models. Printed:
the requests beside the fewest that page sizes allow, and how much of the time was waiting for answers.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from dagster_project.days import Days
from dagster_project.ingest import ingest
from dagster_project.lake import Lake
from dagster_project.settings import DEFAULT_ACTIVE_TAGS
from dagster_project.sources import Source, openai

LAST = date(2026, 10, 31)
MODELS = ("gpt-5.5-2026-04-23", "gpt-4o-2024-08-06", "gpt-4o-mini-2024-07-18")
REPORTS = "/v1/organization/"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    keys: int
    latency: float
    asked: ClassVar[Counter[str]] = Counter()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        params = parse_qs(url.query)
        grouped = "group_by[]" in params
        name = url.path.removeprefix(REPORTS)
        self.asked[f"{name}{' by group' if grouped else ''}"] += 1
        body = self._report(name, params, grouped) if "start_time" in params else {"data": []}
        data = json.dumps({"has_more": False, **body}).encode()
        time.sleep(self.latency)
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _report(self, name: str, params: dict[str, list[str]], grouped: bool) -> dict[str, Any]:
        first = int(params.get("page", params["start_time"])[0])
        end = int(params["end_time"][0])
        after = min(end, first + 86_400 * int(params["limit"][0]))
        buckets = [
            {"start_time": day, "end_time": day + 86_400, "results": self._results(name, grouped)}
            for day in range(first, after, 86_400)
        ]
        return {"data": buckets, "has_more": after < end, "next_page": str(after) if after < end else None}

    def _results(self, name: str, grouped: bool) -> list[dict[str, Any]]:
        groups = [(f"key_{n}", model) for n in range(self.keys) for model in MODELS] if grouped else [None]
        parts = 1 if grouped else self.keys * len(MODELS)
        if name == "costs":
            return [
                {"amount": {"value": parts * 0.25, "currency": "usd"}, "quantity": None}
                | {"project_id": "proj", "api_key_id": group and group[0]}
                | {"line_item": group and f"{group[1]}, input"}
                for group in groups
            ]
        if name == "usage/completions":
            return [
                {"input_tokens": parts * 1000, "output_tokens": 0, "input_cached_tokens": 0}
                | {"num_model_requests": parts, "project_id": "proj", "user_id": None, "batch": False}
                | {"api_key_id": group and group[0], "model": group and group[1], "service_tier": "default"}
                for group in groups
            ]
        return []

    def log_message(self, *_: Any) -> None:
        """Nothing: only the figures are printed."""


@contextmanager
def served(keys: int, latency: float) -> Iterator[str]:
    _Handler.keys, _Handler.latency = keys, latency
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()


def fewest(name: str, days: int) -> int:
    """Requests for one report (or list) of so many days, at the page sizes that the API allows."""
    if name.startswith("projects"):
        return 1
    return math.ceil(days / (180 if name.startswith("costs") else 31))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--keys", type=int, default=20)
    parser.add_argument("--latency", type=float, default=0.5)
    asked = parser.parse_args()
    os.environ["BENCHMARK_KEY"] = "sk-admin-none"
    days = Days(LAST - timedelta(days=asked.days - 1), LAST)
    with served(asked.keys, asked.latency) as url, tempfile.TemporaryDirectory() as folder:
        entry = openai.Entry(
            name="openai",
            type="openai",
            start_date=days.first,
            api_key="${BENCHMARK_KEY}",
            base_url=url,
        )
        start, worked = time.perf_counter(), time.process_time()
        report = ingest(
            Source(entry, openai), days, Lake(Path(folder)), DEFAULT_ACTIVE_TAGS, datetime.now(UTC)
        )
        seconds, processor = time.perf_counter() - start, time.process_time() - worked
    requests = sum(_Handler.asked.values())
    least = sum(fewest(name, asked.days) for name in _Handler.asked)
    waited = requests * asked.latency
    print(f"{report.rows('charge'):,} charges and {report.rows('usage'):,} usage records of {len(days)} days")
    print(f"{requests} requests for {len(_Handler.asked)} reports and lists; {least} are the fewest")
    print(
        f"{seconds:.1f} s, of which {waited:.1f} s ({waited / seconds:.0%}) are the server's answers, "
        f"{seconds - waited:.1f} s are ours ({processor:.1f} s of processor, the server's included)"
    )


if __name__ == "__main__":
    main()
