"""OpenAI: the organisation's cost report (the bill) and its usage reports, from the administration API.

    organization/costs                      by project, API key and line item; and in all
    organization/usage/<USAGE>              by project, user, API key, model, ...; tokens also in all
    organization/projects[/<id>/api_keys]   names for people

All are daily buckets in UTC. Amounts are dollars, as JSON numbers or as text with some 30 decimals.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, localcontext
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import duckdb

from dagster_project import records
from dagster_project.days import Days
from dagster_project.settings import Address, ProviderEntry
from dagster_project.sources import NamedKind, Parsed, _buckets, _http, _pages
from dagster_project.sources._buckets import Bucket, Control, Record, count, count_if_any
from dagster_project.sources._line_items import Line

KINDS = ("charge", "usage")
TELLS = ("bill", "usage", "api key")
READS = "costs, every usage report, projects (archived too) and keys, with control totals"
KEEPS_RAW = True
RESTATES_DAYS = 35
"""A day's cost may move until its month is invoiced, some days into the next month."""

COSTS = "organization/costs"
USAGE = "organization/usage"
PROJECTS = "organization/projects"
LISTINGS: Mapping[str, NamedKind] = {PROJECTS: "project", f"{PROJECTS}/[^/]+/api_keys": "api_key"}

BUCKETS_OF_COSTS = "180"
BUCKETS_OF_USAGE = "31"
"""Days per page, the most that each report allows."""

BY_ID = _http.Cursor("after", "last_id")


class Entry(ProviderEntry):
    """An OpenAI organisation, pulled with an administrator's key."""

    provider: ClassVar[str] = "openai"

    base_url: Address = "https://api.openai.com/v1"


Meters = Mapping[str, Any]


def _tokens(result: Mapping[str, Any], counts: Counter[str]) -> Meters:
    """OpenAI's totals include everything, so text is what the other meters leave of them.

    Only the totals are always there: older days lack the finer fields. There `input_audio_tokens`
    includes cached audio, so text can come out too low, at worst below zero: then it is 0, and counted.
    """
    _refuse_renamed(result)
    cached = count_if_any(result, "input_cached_tokens")
    written = count_if_any(result, "input_cache_write_tokens")
    if written is None:
        parts = [part for name in _WRITES_BY_LIFETIME if (part := count_if_any(result, name)) is not None]
        written = sum(parts) if parts else None
    in_audio = count_if_any(result, "input_audio_tokens")
    in_image = count_if_any(result, "input_image_tokens")
    out_audio = count_if_any(result, "output_audio_tokens")
    out_image = count_if_any(result, "output_image_tokens")

    def text(total: str, others: Sequence[int | None], says: str) -> int:
        left = count(result, total) - sum(other for other in others if other is not None)
        if left < 0:
            counts["negative_remainders"] += 1
        elif count_if_any(result, says) not in (None, left):
            counts["token_sums_that_disagree"] += 1
        return max(left, 0)

    return {
        "requests": count(result, "num_model_requests"),
        "input_tokens": text("input_tokens", (cached, written, in_audio, in_image), "input_text_tokens"),
        "cache_read_tokens": cached,
        "cache_write_other_tokens": written,
        "output_tokens": text("output_tokens", (out_audio, out_image), "output_text_tokens"),
        "input_audio_tokens": in_audio,
        "output_audio_tokens": out_audio,
        "input_image_tokens": in_image,
        "output_image_tokens": out_image,
    }


_PARTS: Mapping[str, str] = {
    "input_cached_tokens": "cached",
    "input_cache_write_tokens": "write",
    "input_audio_tokens": "input.*audio|audio.*input",
    "input_image_tokens": "input.*image|image.*input",
    "output_audio_tokens": "output.*audio|audio.*output",
    "output_image_tokens": "output.*image|image.*output",
}
"""The fields that leave the rest to text, and a pattern of what each would be called under another name."""

_WRITES_BY_LIFETIME = ("input_cache_write_30m_tokens", "input_cache_write_12h_tokens")
_NO_PARTS = r"(in|out)put_(text_|uncached_|cached_(text|audio|image)_|cache_write_(30m|12h)_)?tokens"
"""Counts that are sums of the parts, or parts of them."""


def _refuse_renamed(result: Mapping[str, Any]) -> None:
    """A part that is not there is 0, unless it is there by a name that nobody knows."""
    there = set(result)
    if not there.isdisjoint(_WRITES_BY_LIFETIME):
        there.add("input_cache_write_tokens")
    unknown = [name for name in result if name not in _PARTS and not re.fullmatch(_NO_PARTS, name)]
    for part in _PARTS.keys() - there:
        for name in unknown:
            if "token" in name and re.search(_PARTS[part], name):
                raise ValueError(f"`{part}` is missing, and `{name}` is not known")


def _one(field: str, column: str) -> Callable[[Mapping[str, Any], Counter[str]], Meters]:
    """The meters of a report that counts one thing and the model requests that caused it."""

    def meters(result: Mapping[str, Any], _: Counter[str]) -> Meters:
        return {"requests": count(result, "num_model_requests"), column: count(result, field)}

    return meters


def _seconds(result: Mapping[str, Any], _: Counter[str]) -> Meters:
    seconds = _buckets.rounded(_buckets.number(result, "seconds"))
    return {"requests": count(result, "num_model_requests"), "audio_seconds": seconds}


def _web_searches(result: Mapping[str, Any], _: Counter[str]) -> Meters:
    """The model requests that searched are already in the report of completions."""
    return {"web_searches": count(result, "num_requests")}


def _other(field: str, meter: str) -> Callable[[Mapping[str, Any], Counter[str]], Meters]:
    """The meters of a tool that has no column. `vector_store_bytes` is a gauge of the day."""

    def meters(result: Mapping[str, Any], _: Counter[str]) -> Meters:
        return {"other_meters": {meter: Decimal(count(result, field))}}

    return meters


@dataclass(frozen=True)
class Report:
    """A usage report: what it is grouped by, and how its results become meters.

    `has_control`: pulled in all too, since it counts tokens. `is_optional`: an organisation may not
    have it. Then the identity behind its cost is less well known; the cost itself is in the bill.
    """

    operation: str
    group_by: tuple[str, ...]
    meters: Callable[[Mapping[str, Any], Counter[str]], Meters]
    has_control: bool = False
    is_optional: bool = False


_WHO = ("project_id", "user_id", "api_key_id")

REPORTS: Mapping[str, Report] = {
    "completions": Report("chat", (*_WHO, "model", "batch", "service_tier"), _tokens, has_control=True),
    "embeddings": Report(
        "embedding", (*_WHO, "model"), _one("input_tokens", "input_tokens"), has_control=True
    ),
    "moderations": Report(
        "moderation", (*_WHO, "model"), _one("input_tokens", "input_tokens"), has_control=True
    ),
    "images": Report("image", (*_WHO, "model"), _one("images", "images")),
    "audio_speeches": Report("speech", (*_WHO, "model"), _one("characters", "characters")),
    "audio_transcriptions": Report("transcription", (*_WHO, "model"), _seconds),
    "vector_stores": Report(
        "storage", ("project_id",), _other("usage_bytes", "vector_store_bytes"), is_optional=True
    ),
    "code_interpreter_sessions": Report(
        "other", ("project_id",), _other("num_sessions", "code_interpreter_sessions"), is_optional=True
    ),
    "file_search_calls": Report("search", _WHO, _other("num_requests", "file_searches"), is_optional=True),
    "web_search_calls": Report("search", (*_WHO, "model"), _web_searches, is_optional=True),
}


def fetch(entry: Entry, days: Days, raw: Path) -> None:
    """Pull every report of `days`: a page per 31 days of usage and per 180 days of cost."""
    with _http.Api(
        entry,
        days,
        headers=_http.bearer,
        needs="an organisation's admin key (sk-admin-...) that may read usage, costs and projects; "
        "a project's key is refused",
    ) as api:
        _pages.write(_answers(api, entry, days), raw)


def _answers(api: _http.Api, entry: Entry, days: Days) -> Iterator[_pages.Page]:
    window = (
        ("start_time", str(int(days.start.timestamp()))),
        ("end_time", str(int(days.end.timestamp()))),
        ("bucket_width", "1d"),
    )
    costs = (*window, ("limit", BUCKETS_OF_COSTS))
    yield from api.pages(COSTS, costs)
    yield from api.pages(COSTS, (*costs, *_grouped("project_id", "api_key_id", "line_item")))

    usage = (*window, ("limit", BUCKETS_OF_USAGE))
    for name, report in REPORTS.items():
        endpoint = f"{USAGE}/{name}"
        if report.has_control:
            yield from api.pages(endpoint, usage)
        grouped = (*usage, *_grouped(*report.group_by))
        yield from api.pages(endpoint, grouped, is_optional=report.is_optional)

    # Archived projects are hidden by default and still have costs.
    for page in api.pages(PROJECTS, (("include_archived", "true"), ("limit", "100")), BY_ID):
        yield page
        with _buckets.understood(entry.name, f"{PROJECTS} for {days}"):
            projects = [_buckets.issued(project, "id") for project in _buckets.objects(page.json(), "data")]
        for project in projects:
            # "any": else some enabled keys are left out. Optional: the project may be gone by now.
            keys = (("owner_project_access", "any"), ("limit", "100"))
            yield from api.pages(
                f"{PROJECTS}/{quote(project, safe='')}/api_keys", keys, BY_ID, is_optional=True
            )


def _grouped(*dimensions: str) -> _http.Params:
    return tuple(("group_by[]", dimension) for dimension in dimensions)


def parse(entry: Entry, days: Days, raw: Path, connection: duckdb.DuckDBPyConnection) -> Parsed:
    """Charges and usage, each with what the ungrouped reports have beyond the grouped ones."""
    pages = list(_pages.read(raw))
    counts: Counter[str] = Counter(
        negative_remainders=0,
        token_sums_that_disagree=0,
        unparsed_line_items=0,
        usage_remainders=0,
        usage_reports_not_there=0,
        usage_totals_below_groups=0,
    )
    with localcontext(_buckets.EXACT):
        costs = _buckets.read(entry.name, days, pages, COSTS, _bounds)
        line = partial(_line, entry, counts)
        charges = _buckets.bill(entry, days, costs, "line_item", _amount, line, counts)
        usage = [
            record
            for name, report in REPORTS.items()
            for record in _usage(entry, days, pages, counts, name, report)
        ]
    return Parsed(
        {
            "charge": records.frame(_sure_of_tier(charges, usage), entry.name, "charge"),
            "usage": records.frame(usage, entry.name, "usage"),
        },
        counts,
        names=_buckets.names(entry, days, pages, LISTINGS),
    )


def _bounds(bucket: Mapping[str, Any]) -> tuple[datetime, datetime]:
    start, end = (datetime.fromtimestamp(count(bucket, name), UTC) for name in ("start_time", "end_time"))
    return start.replace(tzinfo=None), end.replace(tzinfo=None)


def _amount(result: Mapping[str, Any]) -> tuple[Decimal | None, str | None]:
    """The amount may be null as a whole or in its value."""
    if result["amount"] is None:
        return None, None
    sent = _buckets.inner(result, "amount")
    amount = None if sent["value"] is None else _buckets.number(sent, "value")
    return amount, _buckets.text(sent, "currency")


def _line(
    entry: Entry,
    counts: Counter[str],
    bucket: Bucket,
    result: Mapping[str, Any],
) -> Record:
    project, key, text = (_buckets.text(result, name) for name in ("project_id", "api_key_id", "line_item"))
    line = line_item(text)
    category = None if line.meter else _buckets.category(text)
    if line.meter is None and category is None:
        counts["unparsed_line_items"] += 1
    quantity, unit = result.get("quantity"), _buckets.text_if_any(result, "quantity_unit")
    if quantity is not None:
        quantity = _buckets.number(result, "quantity") * (1000 if unit == "1000_tokens" else 1)
    return bucket.record(entry, project, key, text, result["amount"]["currency"], unit) | {
        "provider_project_id": project,
        "provider_project_name": _buckets.text_if_any(result, "project_name"),
        "api_key_id": key or ("no_key" if line.meter and line.meter not in _WITHOUT_KEYS else None),
        "model": line.model,
        "service_tier": line.service_tier,
        "context_tier": line.context_tier,
        "charge_category": category or "usage",
        "line_item": text,
        "meter": line.meter,
        "quantity": None if quantity is None else _buckets.rounded(quantity),
        "quantity_unit": "tokens" if unit == "1000_tokens" else unit,
    }


def _usage(
    entry: Entry,
    days: Days,
    pages: Sequence[_pages.Page],
    counts: Counter[str],
    name: str,
    report: Report,
) -> list[Record]:
    endpoint = f"{USAGE}/{name}"
    if not any(page.endpoint == endpoint for page in pages):
        counts["usage_reports_not_there"] += 1
    usage = []
    control, wholes = Control(), Control()
    for bucket in _buckets.read(entry.name, days, pages, endpoint, _bounds):
        sums: Counter[str] = Counter()
        whole: Counter[str] = Counter()
        for result in bucket.results:
            with _buckets.understood(entry.name, str(bucket)):
                meters = report.meters(result, counts if bucket.is_grouped else Counter())
                if report.has_control:
                    sums.update({column: value for column, value in meters.items() if value is not None})
                    whole.update({field: count(result, field) for field in _WHOLES if field in result})
                if bucket.is_grouped:
                    said = {name: _dimension(result, name) for name in report.group_by}
                    usage.append(_cell(entry, bucket, report, said) | meters)
        control.add(bucket, sums)
        wholes.add(bucket, whole)
    _refuse_other_parts(entry, control, wholes)
    remainders = _buckets.unexplained_usage(entry, report.operation, control, counts)
    return _buckets.told_apart(usage) + remainders


_WHOLES = ("input_tokens", "output_tokens")


def _refuse_other_parts(entry: Entry, control: Control, wholes: Control) -> None:
    """Groups and total that agree on a day's tokens also agree on each part of them.

    Else a field is gone from one of the two, and its tokens would be taken for text. Where the tokens
    differ, usage went on between the two questions.
    """
    went_on = {bucket.day for bucket, _ in wholes.remainders()}
    for bucket, lacking in control.remainders():
        parts = sorted(lacking.keys() - {*_WHOLES, "requests"})
        if parts and bucket.day not in went_on:
            with _buckets.understood(entry.name, str(bucket)):
                raise ValueError(
                    f"its groups and its total have as many tokens, but other {', '.join(parts)}"
                )


def _sure_of_tier(charges: Sequence[Record], usage: Sequence[Record]) -> list[Record]:
    """A token line that names no tier is of the standard one, if each other tier has its own lines.

    A day's usage of a model in a tier (batch, say) that no line of the bill names was billed on the
    lines without a tier: these then are of several, so their tier is null. Scale Tier is no reason to
    doubt: it is bought in advance, its tokens are on no line.
    """
    used = {(cell["usage_date"], cell["model"], cell["service_tier"]) for cell in usage if cell.get("model")}
    billed = {(line["usage_date"], line.get("model"), line.get("service_tier")) for line in charges}
    mixed = {(day, model) for day, model, tier in used - billed if tier not in _WITHOUT_LINES}
    return [
        line | {"service_tier": None}
        if line.get("service_tier") == "standard" and (line["usage_date"], line["model"]) in mixed
        else line
        for line in charges
    ]


def _dimension(result: Mapping[str, Any], name: str) -> str | bool | None:
    return _buckets.flag(result, name) if name == "batch" else _buckets.text(result, name)


def _cell(entry: Entry, bucket: Bucket, report: Report, said: Mapping[str, Any]) -> Record:
    """Who and what a usage result is about. A dimension that the report does not have stays null."""
    project, key = said["project_id"], said.get("api_key_id")
    tier = "batch" if said.get("batch") else said.get("service_tier")
    return bucket.record(entry, *said.values()) | {
        "provider_project_id": project,
        "api_key_id": key or ("no_key" if "api_key_id" in said else None),
        "principal_id": said.get("user_id"),
        "operation": report.operation,
        "model": said.get("model"),
        "service_tier": _TIERS.get(tier, tier) if "service_tier" in said else None,
    }


_TIERS = {None: "standard", "default": "standard", "auto": "standard"}
_WITHOUT_LINES = (None, "standard", "scale")


_WITHOUT_KEYS = ("vector_store_bytes", "code_interpreter_sessions")
"""Meters that OpenAI does not know by key: without one, their lines do not say `no_key`."""

_TIER_WORDS = {"priority", "flex", "batch", "fast", "scale", "ultrafast"}
_MODALITY_WORDS = {"text", "audio", "image"}
_LONG_CONTEXT = {"long", "context"}
_METER_WORDS: Mapping[frozenset[str], str] = {
    frozenset({"input"}): "input",
    frozenset({"output"}): "output",
    frozenset({"cached", "input"}): "cache_read",
    frozenset({"cache", "write"}): "cache_write_other",
    frozenset({"cache", "writes"}): "cache_write_other",
    frozenset({"cache", "write", "input"}): "cache_write_other",
}
_TOOLS = (
    ("web search", "web_search"),
    ("file search tool call", "file_searches"),
    ("storage", "vector_store_bytes"),
    ("code interpreter", "code_interpreter_sessions"),
)


def line_item(text: str | None) -> Line:
    """What a line item says. Its text is free and changes over time; observed are

    gpt-5.5-2026-04-23, cached input                <model>, <meter>
    gpt-5-nano, input_tokens                        the same in another family
    priority | gpt-5.6-sol, output, long context    <tier> | ...
    evals | gpt-4o-mini-2024-07-18, input           no tier: it may have a price of its own
    gpt-image-1 text, cached input                  <model> <modality>, <meter>
    whisper-1, audio                                seconds, not tokens
    tts-1, characters                               the unit of the quantity, for want of a better word
    web search tool calls                           a tool, no model
    """
    *prefixes, rest = (text or "").split(" | ")
    head, _, tail = rest.partition(", ")
    model, *qualifiers = head.split(" ")
    words = {word.lower() for word in (*qualifiers, *re.split("[ ,_]+", tail))}

    tiers = _TIER_WORDS & {*words, *(prefix.lower() for prefix in prefixes)}
    modalities = _MODALITY_WORDS & words
    if tail and len(tiers) <= 1 and len(modalities) <= 1:
        modality = next(iter(modalities - {"text"}), None)
        context = _LONG_CONTEXT & words
        rest_of_words = words - tiers - modalities - context - {"tokens"}
        meter = _METER_WORDS.get(frozenset(rest_of_words))
        if meter and context in (set(), _LONG_CONTEXT):
            return Line(
                model=model,
                meter=f"{meter}_{modality}" if modality and meter in ("input", "output") else meter,
                service_tier=next(iter(tiers), None if prefixes else "standard"),
                context_tier="long" if context else "short",
            )
        if modality == "audio" and not rest_of_words:
            return Line(model=model, meter="audio_seconds")
        if not modality and rest_of_words in ({"characters"}, {"images"}):
            return Line(model=model, meter=rest_of_words.pop())
    return Line(meter=next((meter for name, meter in _TOOLS if name in rest.lower()), None))
