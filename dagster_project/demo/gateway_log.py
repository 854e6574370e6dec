"""The log of Acme's LiteLLM gateway: StandardLoggingPayload records, as its file and object sinks write them.

    gateway/<UTC day>/pod-new.ndjson.gz   LiteLLM 1.106
    gateway/<UTC day>/pod-old.ndjson.gz   LiteLLM 1.80, on a quarter of the calls: fewer fields, and it
                                          does not see web search fees or that a stream broke

Prompts and answers are in it, as by default they are; each holds PRIVATE, so that a leak can be found.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

from dagster_project.demo.billing import Rate
from dagster_project.demo.roster import VIRTUAL_KEYS
from dagster_project.demo.traffic import Request

PRIVATE = "my order number is 4711-acme-private"
"""In every prompt, answer and error message of the log, and nowhere else."""

FLUSH = timedelta(minutes=10)
"""Records arrive this late, so those of a day's last minutes are in the next day's folder."""

BROKEN_OFF = 20
"""Of an answer whose stream broke, the gateway saw one part in so many."""

CALL_TYPES = {
    "chat": "acompletion",
    "embedding": "aembedding",
    "image": "aimage_generation",
    "moderation": "amoderation",
}
USER_AGENT = "OpenAI/Python 2.54.0"


def write(requests: Iterable[Request], list_prices: Mapping[Rate, Decimal], folder: Path) -> None:
    """Write what the gateway's log holds of the requests, in order of arrival."""
    prices = {rate: float(usd) for rate, usd in list_prices.items()}
    arrived: defaultdict[tuple[date, str], list[Request]] = defaultdict(list)
    for request in requests:
        if request.log not in ("unseen", "lost"):
            pod = "old" if request.call_id[0] in "0123" else "new"
            arrived[(request.ended_at + FLUSH).date(), pod].append(request)
    for (day, pod), logged in arrived.items():
        place = folder / str(day) / f"pod-{pod}.ndjson.gz"
        place.parent.mkdir(parents=True, exist_ok=True)
        # Neither name nor time in the header: the same simulation is the same bytes.
        with place.open("wb") as raw, gzip.GzipFile("", "wb", 1, raw, mtime=0) as file:
            logged.sort(key=lambda request: request.ended_at)
            lines = (_lines(request, prices, is_new=pod == "new") for request in logged)
            file.write("".join(lines).encode())


def _lines(request: Request, prices: Mapping[Rate, float], *, is_new: bool) -> str:
    if request.log == "null":
        return "null\n"
    line = json.dumps(_record(request, prices, is_new=is_new)) + "\n"
    return line * 2 if request.log == "twice" else line


def _record(request: Request, prices: Mapping[Rate, float], *, is_new: bool) -> dict[str, Any]:
    key = VIRTUAL_KEYS[request.virtual_key]
    seen = _seen(request)
    usage = _usage(request, seen)
    cost, breakdown = _cost(request, seen, prices, sees_tools=is_new)
    is_hit = request.outcome == "cache_hit"
    failed = request.outcome == "error" or (request.outcome == "aborted" and is_new)
    ended = request.ended_at.timestamp()
    started = round(ended - request.seconds, 6)
    model = _deployed(request.model)
    error = f"{request.provider} answered {request.http_status} to: {PRIVATE}" if failed else None
    record = {
        "id": request.call_id if failed else _response_id(request, ended),
        "trace_id": request.call_id[::-1],
        "call_type": CALL_TYPES[request.operation],
        "cache_hit": is_hit or None,
        "stream": request.operation == "chat",
        "status": "failure" if failed else "success",
        "custom_llm_provider": request.provider,
        "saved_cache_cost": cost if is_hit else 0.0,
        "startTime": started,
        "endTime": ended,
        "completionStartTime": round(started + request.seconds / 3, 6),
        "response_time": request.seconds,
        "model": f"{request.provider}/{model}",
        "metadata": {
            "user_api_key_hash": key_hash(request.virtual_key),
            "user_api_key_alias": request.virtual_key,
            "user_api_key_team_id": f"t-{key.gateway_team}",
            "user_api_key_team_alias": key.gateway_team,
            "user_api_key_user_email": f"{key.gateway_team}@acme.example",
            "user_api_key_end_user_id": request.customer,
            "spend_logs_metadata": None,
            "requester_metadata": {
                "tags": [*request.tags],
                "headers": {"user-agent": USER_AGENT, **request.headers},
            },
            "usage_object": usage,
        },
        "cache_key": f"{request.call_id}{request.call_id}" if is_hit else None,
        "response_cost": 0.0 if is_hit else cost,
        "cost_breakdown": breakdown,
        "total_tokens": usage["total_tokens"] if usage else 0,
        "prompt_tokens": usage["prompt_tokens"] if usage else 0,
        "completion_tokens": usage["completion_tokens"] if usage else 0,
        "request_tags": [*request.tags, "User-Agent: OpenAI", f"User-Agent: {USER_AGENT}"],
        "end_user": request.customer or "",
        "api_base": f"https://api.{request.provider}.com/v1",
        "model_group": _public(model),
        "model_id": _hash(model),
        "requester_ip_address": "10.0.0.8",
        "messages": [
            {"role": "system", "content": f"You are Acme's {request.service}."},
            {"role": "user", "content": f"Hello, {PRIVATE}. Can you help?"},
        ],
        "response": {"choices": [{"message": {"role": "assistant", "content": f"Of course: {PRIVATE}."}}]},
        "model_parameters": {"stream": request.operation == "chat"},
        "error_str": error,
        "error_information": {
            "error_code": str(request.http_status) if request.outcome == "error" else "",
            "error_class": {"error": "APIError", "aborted": "ReadError"}[request.outcome] if failed else "",
            "error_message": error or "",
        },
        "standard_built_in_tools_params": {
            "web_search_options": {"type": "web_search"} if request.web_searches else None,
            "file_search": None,
        },
    }
    return record | {"litellm_call_id": request.call_id, "session_id": ""} if is_new else record


def key_hash(virtual_key: str) -> str:
    """What LiteLLM logs of a virtual key: the SHA-256 of its secret, here a made-up one."""
    return _hash(f"sk-{virtual_key}")


@cache
def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def _deployed(model: str) -> str:
    """The model as the gateway is told to ask for it; OpenAI bills the snapshot behind it."""
    return re.sub(r"-\d{4}-\d{2}-\d{2}$", "", model)


@cache
def _public(model: str) -> str:
    """The model as callers ask the gateway for it."""
    return re.sub(r"-\d{8}$", "", model)


def _response_id(request: Request, ended: float) -> str:
    answer = f"chatcmpl-{request.call_id}"
    return f"{answer}_cache_hit{ended}" if request.outcome == "cache_hit" else answer


def _seen(request: Request) -> dict[str, int]:
    """The meters as far as the gateway saw them."""
    meters = request.meters
    return meters | {"output": meters["output"] // BROKEN_OFF} if request.outcome == "aborted" else meters


def _usage(request: Request, seen: Mapping[str, int]) -> dict[str, Any]:
    """LiteLLM's prompt tokens include what is read from and written to the provider's cache."""
    if request.outcome == "error":
        return {}
    written = seen["cache_write_5m"] + seen["cache_write_1h"]
    output = seen["output"] + seen["output_image"]
    details: dict[str, Any] = {"audio_tokens": None, "cached_tokens": seen["cache_read"]}
    if request.provider == "anthropic":
        details |= {
            "cache_creation_tokens": written,
            "cache_creation_token_details": {
                "ephemeral_5m_input_tokens": seen["cache_write_5m"],
                "ephemeral_1h_input_tokens": seen["cache_write_1h"],
            },
        }
    usage: dict[str, Any] = {
        "prompt_tokens": request.context_tokens,
        "completion_tokens": output,
        "total_tokens": request.context_tokens + output,
        "prompt_tokens_details": details if request.operation in ("chat", "image") else None,
        "completion_tokens_details": {"reasoning_tokens": 0} if request.operation == "chat" else None,
    }
    return usage | {"output_image_count": seen["images"]} if request.operation == "image" else usage


def _cost(
    request: Request, seen: Mapping[str, int], prices: Mapping[Rate, float], *, sees_tools: bool
) -> tuple[float, dict[str, float] | None]:
    """USD at list prices, in binary floating point as the gateway reckons; None where it saw no usage."""
    if request.outcome == "error":
        return 0.0, None
    kind = (request.provider, request.model, request.service_tier, request.is_long_context)
    parts = {meter: count * prices[*kind, meter] for meter, count in seen.items() if count}
    tools = parts.pop("web_searches", 0.0) if sees_tools else 0.0
    parts.pop("web_searches", None)
    output = sum(cost for meter, cost in parts.items() if meter.startswith("output"))
    total = sum(parts.values()) + tools
    return total, {
        "input_cost": sum(parts.values()) - output,
        "output_cost": output,
        "tool_usage_cost": tools,
        "total_cost": total,
        "original_cost": total,
    }
