"""What Anthropic's classic and analytics reports say in the same words: amounts, dimensions, meters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any

from dagster_project.settings import ProviderEntry
from dagster_project.sources import _buckets
from dagster_project.sources._buckets import Bounds, Bucket, Control, Record, count

TOKEN_METERS = {
    "uncached_input_tokens": "input",
    "cache_read_input_tokens": "cache_read",
    "cache_creation.ephemeral_5m_input_tokens": "cache_write_5m",
    "cache_creation.ephemeral_1h_input_tokens": "cache_write_1h",
    "output_tokens": "output",
}
OTHER_METERS = {"web_search": "web_search", "code_execution": "code_execution_hours"}


def bounds(sent: Mapping[str, Any]) -> Bounds:
    """Of a bucket, or of a row that says its own."""
    return _buckets.instant(sent, "starting_at"), _buckets.instant(sent, "ending_at")


def dollars(result: Mapping[str, Any], name: str) -> Decimal | None:
    """Cents become dollars: "123.78912" is 1.2378912."""
    return None if result[name] is None else _buckets.number(result, name).scaleb(-2)


def amount(result: Mapping[str, Any]) -> tuple[Decimal | None, str | None]:
    """What a line bills, and its currency."""
    return dollars(result, "amount"), _buckets.text(result, "currency")


def meter(kind: str | None, token_type: str | None) -> str | None:
    """The meter of a line, of a `cost_type` and a `token_type`."""
    return TOKEN_METERS.get(token_type) if kind == "tokens" else OTHER_METERS.get(kind)


def what(result: Mapping[str, Any]) -> Record:
    """The dimensions of the price."""
    model, tier, window, geo = (
        _buckets.text(result, name) for name in ("model", "service_tier", "context_window", "inference_geo")
    )
    return {
        "model": model,
        "service_tier": tier,
        "context_tier": None if window is None else "short" if window.startswith("0-") else "long",
        "region": None if geo == "not_available" else geo,
    }


def usage(
    entry: ProviderEntry,
    buckets: Iterable[Bucket],
    cell_of: Callable[[Bucket, Mapping[str, Any]], Record],
    counts: Counter[str],
) -> list[Record]:
    """A record per result, of which `cell_of` says everything but its tokens; and the remainders."""
    cells = []
    control = Control()
    for bucket in buckets:
        sums: Counter[str] = Counter()
        for result in bucket.results:
            with _buckets.understood(entry.name, str(bucket)):
                meters = _meters(result)
                sums.update(meters)
                if bucket.is_grouped:
                    key = _buckets.text(result, "api_key_id") or "no_key"
                    cells.append(cell_of(bucket, result) | {"api_key_id": key, "operation": "chat", **meters})
        control.add(bucket, sums)
    return _buckets.told_apart(cells) + _buckets.unexplained_usage(entry, "chat", control, counts)


def tokens(result: Mapping[str, Any]) -> int:
    """All tokens of a result."""
    return sum(amount for column, amount in _meters(result).items() if column.endswith("_tokens"))


def _meters(result: Mapping[str, Any]) -> Mapping[str, int]:
    """Anthropic's counts are disjoint as they come."""
    written = _buckets.inner(result, "cache_creation")
    return {
        "input_tokens": count(result, "uncached_input_tokens"),
        "cache_read_tokens": count(result, "cache_read_input_tokens"),
        "cache_write_5m_tokens": count(written, "ephemeral_5m_input_tokens"),
        "cache_write_1h_tokens": count(written, "ephemeral_1h_input_tokens"),
        "output_tokens": count(result, "output_tokens"),
        "web_searches": count(_buckets.inner(result, "server_tool_use"), "web_search_requests"),
    }
