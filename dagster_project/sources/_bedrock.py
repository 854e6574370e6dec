"""Amazon Bedrock: what the usage types of its bill say, and what its models and resources are called.

After the region's code a usage type has one of four grammars:

    USE1-anthropic.claude-opus-5-5-mantle-cache-read-tokens-global-batch    <model>-mantle-<words>
    USE1-Claude4.6Opus-input-tokens-cross-region-global                     <the bill's name of it>-<words>
    USE1-MP:USE1_CacheWrite1hInputTokenCount_Global-Units                   <words>; the product is the model
    USE1-reserved-1-month-input-tokens-per-minute-cross-region-global       capacity, no tokens

A global route has prices of its own, and so have its models in the catalogue: their ids begin with `global.`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

EDITION = " (Amazon Bedrock Edition)"
"""The end of a product's name in the AWS Marketplace."""

OWNED = "^arn:[^:]+:bedrock[^:]*:.*:(application-inference-profile|project|workspace)/"
"""ARNs that an application has to itself and calls with. All else that a bill or a log names as the resource
(a model, a geography's profile) is everybody's."""


def session(principal: str) -> str:
    """SQL: who an ARN of IAM is, for people: the user, or the session of an assumed role."""
    return f"nullif(regexp_extract({principal}, '^arn:.*/([^/]+)$', 1), '')"


class Line(NamedTuple):
    """What a usage type says; null where it says nothing or is not understood."""

    model: str | None = None
    meter: str | None = None
    service_tier: str | None = None
    context_tier: str | None = None
    is_capacity: bool = False
    """Paid whether it is used or not."""


_GRAMMAR = re.compile(
    r"(?:[A-Z]{3,4}\d{1,2}-|EU-)?"
    r"(?:(?P<id>.+)-mantle-(?P<mantle>.+)"
    r"|MP:[A-Z0-9]+_(?P<market>.+)-Units"
    r"|(?P<name>[A-Za-z].*?)-(?P<legacy>(?:input|output|cache)-.+))"
)
_CAPACITY = re.compile(r"reserved|provisioned|model-?units?", re.IGNORECASE)
_NO_TEXT = re.compile(r"custom|optimizeprompt|speech|audio|image|video", re.IGNORECASE)
"""In the names of what is priced by tokens, and not of text, or not of a model as it stands."""

_TIERS = {"standard", "batch", "flex", "priority"}
_LATENCY = {"latency", "optimized"}
_LONG = ({"long", "context"}, {"long", "ctx"})
_ROUTES = {"cross", "region", "global", "geo"}
_UNITS = {"token", "tokens", "count"}
_METERS = {
    frozenset({"input"}): "input",
    frozenset({"output"}): "output",
    frozenset({"cache", "read"}): "cache_read",
    frozenset({"cache", "write"}): "cache_write_other",
    frozenset({"cache", "write", "5m"}): "cache_write_5m",
    frozenset({"cache", "write", "1h"}): "cache_write_1h",
    frozenset({"cache", "write", "30m"}): "cache_write_other",
}
"""By what is left of the words. A write without a lifetime is of an unsaid one."""


def line(usage_type: str | None, product: str | None) -> Line:
    """What a usage type says; a marketplace's model is its `product`."""
    text = usage_type or ""
    if _CAPACITY.search(text):
        return Line(is_capacity=True)
    found = _GRAMMAR.fullmatch(text)
    if found is None:
        return Line()
    if found["market"]:
        said = re.sub(r"(?<=[a-z])(?=[A-Z0-9])", "-", found["market"])
        model = model_id(product) if product and product.endswith(EDITION) else None
    else:
        said = (found["mantle"] or found["legacy"]).replace("-1-hour", "-1h")
        model = found["id"] or model_id(found["name"])
    words = set(re.split("[-_]", said.lower()))
    tiers = words & _TIERS | ({"latency-optimized"} if words >= _LATENCY else set())
    is_long = any(words >= long for long in _LONG)
    left = words - _ROUTES - _TIERS - _LATENCY - (set().union(*_LONG) if is_long else set())
    meter = _METERS.get(frozenset(left - _UNITS - ({"input"} if "cache" in left else set())))
    if meter is None or len(tiers) > 1 or not left & _UNITS or _NO_TEXT.search(text):
        return Line()
    return Line(
        f"global.{model}" if model and "global" in words else model,
        meter,
        next(iter(tiers), "standard"),
        "long" if is_long else "short",
    )


_CLAUDE = re.compile(
    r"Claude ?(?:(?P<number>\d(?:\.\d)?) ?(?P<family>[A-Z][a-z]+)"
    r"|(?P<name>[A-Z][a-z]+) ?(?P<version>\d(?:\.\d)?))(?P<second> ?v2)?"
)
_NOVA = re.compile(r"Nova ?(?P<version>\d)?(?:\.0)? ?(?P<name>[A-Z][a-z]+)")
_SNAPSHOTS = {
    "3-opus": "20240229",
    "3-sonnet": "20240229",
    "3-haiku": "20240307",
    "3-5-sonnet": "20240620",
    "3-5-sonnet-v2": "20241022",
    "3-5-haiku": "20241022",
    "3-7-sonnet": "20250219",
    "opus-4": "20250514",
    "sonnet-4": "20250514",
    "opus-4-1": "20250805",
    "sonnet-4-5": "20250929",
    "haiku-4-5": "20251001",
}
"""The one snapshot of each Claude whose id has a date."""


def model_id(name: str) -> str:
    """The id of the model that a bill calls `name` ("Claude4.6Opus", "Claude Opus 4.6 (Amazon Bedrock
    Edition)", "NovaPro"), so that it meets the id that callers ask for; the name as it is where there is no
    rule.
    """
    bare = name.removesuffix(EDITION)
    if claude := _CLAUDE.fullmatch(bare):
        version = (claude["number"] or claude["version"]).removesuffix(".0").replace(".", "-")
        family = (claude["family"] or claude["name"]).lower()
        stem = f"{version}-{family}" if version.startswith("3") else f"{family}-{version}"
        dated = _SNAPSHOTS.get(f"{stem}-v2" if claude["second"] else stem)
        return f"anthropic.claude-{stem}" + (f"-{dated}" if dated else "")
    if nova := _NOVA.fullmatch(bare):
        return "-".join(("amazon.nova", *filter(None, (nova["version"], nova["name"].lower()))))
    return bare
