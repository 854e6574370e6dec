"""Who exists at Acme and what they do: services, keys, and the requests that each service makes.

five teams   support, search, growth, research, platform
OpenAI       gateway key, direct keys, a nightly job's key, a key of two services, a deleted key,
             an archived project, people in the playground; 10 % discount
Anthropic    the gateway in the default workspace, two more workspaces, people in the Workbench
LiteLLM      a virtual key for most services, one shared by services that tell themselves apart by
             tags, one shared by two that do not, one that nobody declared
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Literal

CUSTOMERS = tuple(f"cust-{number:03}" for number in range(1, 41))

MOVES_ON = date(2026, 10, 16)
"""First day on which the recommender belongs to search; it was growth's before."""
LISTS_CHANGE = date(2026, 10, 20)
"""First day on which the providers' lists show another name of a workspace, and lack a key."""


@dataclass(frozen=True)
class Service:
    """What spends: it belongs to one team, or to several by fixed shares (of the truth, too)."""

    team: str
    project: str
    environment: str
    before_move: str | None = None
    shares: Mapping[str, Decimal] = field(default_factory=dict)

    def team_on(self, day: date) -> str:
        return self.before_move if self.before_move and day < MOVES_ON else self.team


SERVICES: Mapping[str, Service] = {
    "support-bot": Service("support", "customer-support", "production"),
    "support-bot-staging": Service("support", "customer-support", "staging"),
    "ticket-triage": Service("support", "customer-support", "production"),
    "meeting-notes": Service("support", "back-office", "production"),
    "doc-search": Service("search", "discovery", "production"),
    "search-indexer": Service("search", "discovery", "production"),
    "faq-miner": Service("search", "discovery", "development"),
    "recommender": Service("search", "personalisation", "production", before_move="growth"),
    "retrieval": Service(
        "search",
        "retrieval",
        "production",
        shares={"search": Decimal("0.6"), "support": Decimal("0.4")},
    ),
    "ad-copy": Service("growth", "campaigns", "production"),
    "email-writer": Service("growth", "campaigns", "production"),
    "report-writer": Service("growth", "reporting", "production"),
    "old-exporter": Service("growth", "reporting", "production"),
    "eval-harness": Service("research", "evaluation", "development"),
    "agent-lab": Service("research", "agents", "development"),
    "hackathon": Service("research", "hackathon", "development"),
    "invoice-reader": Service("platform", "back-office", "production"),
    "safety-filter": Service("platform", "safety", "production"),
    "code-assistant": Service("platform", "developer-tools", "production"),
    "playground-support": Service("support", "playground", "development"),
    "playground-growth": Service("growth", "playground", "development"),
    "playground-research": Service("research", "playground", "development"),
}


@dataclass(frozen=True)
class ProviderKey:
    """A key at a provider, with whom a list of keys names as its owner: what tools without logs go by.

    From `deleted_on` it is in no list of keys, and what used it uses `successor`.
    """

    provider: str
    project: str
    name: str
    team: str
    environment: str
    deleted_on: date = date.max
    successor: str | None = None


KEYS: Mapping[str, ProviderKey] = {
    "key_gateway": ProviderKey("openai", "proj_gateway", "LiteLLM gateway", "platform", "production"),
    "key_cron": ProviderKey("openai", "proj_search", "nightly indexer", "search", "production"),
    "key_indexer_old": ProviderKey(
        "openai",
        "proj_search",
        "indexer (old)",
        "search",
        "production",
        deleted_on=LISTS_CHANGE,
        successor="key_cron",
    ),
    "key_vectors": ProviderKey("openai", "proj_vectors", "retrieval", "search", "production"),
    "key_research": ProviderKey("openai", "proj_research", "eval harness", "research", "development"),
    "key_voice": ProviderKey("openai", "proj_apps", "meeting notes audio", "support", "production"),
    "key_apps": ProviderKey("openai", "proj_apps", "small apps", "platform", "production"),
    "key_exporter": ProviderKey("openai", "proj_old", "exporter", "growth", "production"),
    "apikey_gateway": ProviderKey("anthropic", "default", "LiteLLM gateway", "platform", "production"),
    "apikey_code": ProviderKey("anthropic", "wrkspc_code", "code assistant", "platform", "production"),
    "apikey_agents": ProviderKey("anthropic", "wrkspc_lab", "agent lab", "research", "development"),
}
GATEWAY_KEY = {"openai": "key_gateway", "anthropic": "apikey_gateway"}

PROJECTS: Mapping[str, str] = {
    "proj_default": "Default project",
    "proj_gateway": "Gateway",
    "proj_search": "Search",
    "proj_vectors": "Vector store",
    "proj_research": "Research",
    "proj_apps": "Small apps",
    "proj_old": "Exporter 2024",
}
ARCHIVED_PROJECT = "proj_old"
WORKSPACES: Mapping[str, str] = {"wrkspc_code": "Code", "wrkspc_lab": "Lab"}
RENAMED_WORKSPACES: Mapping[str, str] = {"wrkspc_lab": "Agents"}


@dataclass(frozen=True)
class VirtualKey:
    """A key of the gateway: the team that it shows, and how its callers say who they are."""

    gateway_team: str
    says: Literal["tags", "headers", "nothing"] = "tags"
    is_shared: bool = False


VIRTUAL_KEYS: Mapping[str, VirtualKey] = {
    "support-bot-prod": VirtualKey("support"),
    "support-bot-staging": VirtualKey("support"),
    "doc-search-prod": VirtualKey("search", says="headers"),
    "recommender-prod": VirtualKey("growth"),
    "shared-apps": VirtualKey("platform", is_shared=True),
    "legacy-tools": VirtualKey("platform", says="nothing", is_shared=True),
    "hackathon-2026": VirtualKey("platform", says="nothing"),
}

UNTOLD_KEYS = frozenset({"legacy-tools", "key_apps"})
"""Keys of two teams' services of which no record says which one called."""
NOBODYS_KEYS = frozenset({"hackathon-2026", "key_exporter", "user_mia"})
"""Identities that Acme's ownership map leaves out."""

DISCOUNT_PERCENT = {"openai": Decimal(10), "anthropic": Decimal(0)}

GPT = "gpt-5.5-2026-04-23"
MIDDLE = "gpt-5.1-2025-11-13"
MINI = "gpt-5-mini-2025-08-07"
TUNED = "ft:gpt-4.1-nano-2025-04-14:acme::b7x"
SONNET = "claude-sonnet-4-5-20250929"
OPUS = "claude-opus-5-5"
HAIKU = "claude-haiku-4-5-20251001"

LONG_CONTEXT = {GPT: 272_000, SONNET: 200_000}
"""Input tokens above which a request costs more, all of it."""

UNLISTED_USD: Mapping[tuple[str | None, str], Decimal] = {
    (TUNED, "input"): Decimal("0.0000002"),
    (TUNED, "output"): Decimal("0.0000008"),
    (None, "code_sessions"): Decimal("0.03"),
    (None, "storage_gib_days"): Decimal("0.10"),
    (None, "video_seconds"): Decimal("0.10"),
}
"""USD per unit, before the discount, of what the public price catalogue does not list."""

Schedule = Literal["office", "always", "night"]


@dataclass(frozen=True)
class Workload:
    """Requests of one kind: how many on a weekday, their share of it at the weekend, and their meters.

    `via` is a virtual key, a provider's key, or a person in a playground. `medians` are per request; a
    meter in `chances` counts 1 in that share of the requests.
    """

    service: str
    via: str
    model: str | None
    per_weekday: int
    medians: Mapping[str, int]
    operation: str = "chat"
    weekend: float = 0.3
    schedule: Schedule = "office"
    tier: str = "standard"
    chances: Mapping[str, float] = field(default_factory=dict)
    features: tuple[str, ...] = ()
    has_customers: bool = False
    experiment: str | None = None
    project: str | None = None
    """Of a person in a playground: a person has no key that would say it."""

    @property
    def is_gateway(self) -> bool:
        return self.via in VIRTUAL_KEYS

    @property
    def provider(self) -> str:
        return "anthropic" if self.model and self.model.startswith("claude") else "openai"


WORKLOADS: tuple[Workload, ...] = (
    # through the gateway
    Workload(
        "support-bot",
        "support-bot-prod",
        GPT,
        380,
        {"input": 1_700, "cache_read": 1_800, "output": 330},
        weekend=0.7,
        schedule="always",
        features=("answer", "summarize", "handoff"),
        has_customers=True,
        experiment="prompt-v2",
    ),
    Workload(
        "support-bot",
        "support-bot-prod",
        SONNET,
        180,
        {"input": 1_500, "cache_read": 2_600, "cache_write_5m": 400, "output": 420},
        weekend=0.7,
        schedule="always",
        features=("answer", "summarize"),
        has_customers=True,
    ),
    Workload(
        "support-bot-staging",
        "support-bot-staging",
        MINI,
        50,
        {"input": 2_000, "output": 300},
        weekend=0.05,
        features=("answer",),
    ),
    Workload(
        "doc-search",
        "doc-search-prod",
        "text-embedding-3-small",
        300,
        {"input": 900},
        operation="embedding",
        weekend=0.6,
        schedule="always",
        features=("query",),
        has_customers=True,
    ),
    Workload(
        "doc-search",
        "doc-search-prod",
        MINI,
        280,
        {"input": 5_200, "cache_read": 1_200, "output": 500},
        weekend=0.6,
        schedule="always",
        chances={"web_searches": 0.08},
        features=("answer", "rerank"),
        has_customers=True,
    ),
    Workload(
        "recommender",
        "recommender-prod",
        MIDDLE,
        260,
        {"input": 9_000, "output": 700},
        weekend=0.9,
        schedule="always",
        features=("homepage", "email"),
        experiment="ranker-b",
    ),
    Workload(
        "ticket-triage",
        "shared-apps",
        MIDDLE,
        150,
        {"input": 4_000, "output": 250},
        features=("route", "priority"),
        has_customers=True,
    ),
    Workload(
        "ad-copy",
        "shared-apps",
        HAIKU,
        140,
        {"input": 1_800, "output": 900},
        features=("headline", "body"),
    ),
    Workload(
        "ad-copy",
        "shared-apps",
        "gpt-image-1",
        25,
        {"input": 60, "output_image": 1_500},
        operation="image",
        chances={"images": 1.0},
        features=("banner",),
    ),
    Workload(
        "safety-filter",
        "shared-apps",
        "omni-moderation-latest",
        140,
        {"input": 500},
        operation="moderation",
        features=("inbox",),
    ),
    Workload(
        "faq-miner",
        "shared-apps",
        GPT,
        35,
        {"input": 6_000, "output": 800},
        features=("mine",),
    ),
    Workload("email-writer", "legacy-tools", MIDDLE, 90, {"input": 2_500, "output": 900}),
    Workload("meeting-notes", "legacy-tools", MIDDLE, 60, {"input": 5_000, "output": 800}),
    Workload("hackathon", "hackathon-2026", MIDDLE, 25, {"input": 3_000, "output": 600}, weekend=2.0),
    # straight to the provider
    Workload(
        "search-indexer",
        "key_cron",
        MINI,
        160,
        {"input": 7_000, "output": 450},
        weekend=1.0,
        schedule="night",
        tier="batch",
    ),
    Workload(
        "search-indexer",
        "key_cron",
        MINI,
        40,
        {"input": 6_000, "output": 400},
        weekend=1.0,
        schedule="night",
        tier="flex",
    ),
    Workload(
        "search-indexer",
        "key_indexer_old",
        "text-embedding-3-large",
        60,
        {"input": 30_000},
        operation="embedding",
        weekend=1.0,
        schedule="night",
    ),
    Workload(
        "retrieval",
        "key_vectors",
        MINI,
        70,
        {"input": 3_500, "output": 350},
        chances={"file_searches": 0.9},
    ),
    Workload("eval-harness", "key_research", GPT, 4, {"input": 300_000, "output": 1_500}, weekend=0),
    Workload("eval-harness", "key_research", TUNED, 70, {"input": 1_500, "output": 250}),
    Workload("eval-harness", "key_research", None, 2, {"video_seconds": 10}, operation="video", weekend=0),
    Workload(
        "meeting-notes",
        "key_voice",
        "whisper-1",
        30,
        {"audio_seconds": 1_100},
        operation="transcription",
    ),
    Workload("meeting-notes", "key_voice", "tts-1", 20, {"characters": 1_800}, operation="speech"),
    Workload("report-writer", "key_apps", MINI, 60, {"input": 4_000, "output": 1_400}),
    Workload("invoice-reader", "key_apps", MINI, 45, {"input": 8_000, "output": 300}),
    Workload("old-exporter", "key_exporter", "gpt-4o-mini-2024-07-18", 20, {"input": 9_000, "output": 900}),
    Workload(
        "code-assistant",
        "apikey_code",
        OPUS,
        130,
        {
            "input": 1_800,
            "cache_read": 38_000,
            "cache_write_5m": 2_500,
            "cache_write_1h": 1_200,
            "output": 850,
        },
        weekend=0.1,
    ),
    Workload(
        "agent-lab",
        "apikey_agents",
        SONNET,
        30,
        {"input": 12_000, "cache_read": 20_000, "output": 1_200},
        chances={"web_searches": 0.25},
    ),
    Workload("agent-lab", "apikey_agents", SONNET, 3, {"input": 240_000, "output": 2_000}, weekend=0),
    Workload(
        "agent-lab",
        "apikey_agents",
        HAIKU,
        40,
        {"input": 6_000, "output": 900},
        schedule="night",
        tier="batch",
        weekend=1.0,
    ),
    # people in playgrounds
    Workload(
        "playground-support",
        "user_ana",
        MINI,
        8,
        {"input": 1_500, "output": 600},
        weekend=0,
        project="proj_default",
    ),
    Workload(
        "playground-research",
        "user_raj",
        GPT,
        10,
        {"input": 2_500, "output": 900},
        weekend=0.2,
        project="proj_default",
    ),
    Workload(
        "playground-growth",
        "user_mia",
        GPT,
        5,
        {"input": 1_500, "output": 700},
        weekend=0,
        project="proj_default",
    ),
    Workload(
        "playground-research",
        "workbench",
        SONNET,
        8,
        {"input": 2_000, "output": 800},
        weekend=0,
        project="wrkspc_lab",
    ),
)

STORED_GIB = 25
"""In the vector store at the start of a month; it grows by 5 GiB every six days."""
CODE_SESSIONS = 6
"""Of the code interpreter per weekday, in research's project; the provider does not say by which key."""
