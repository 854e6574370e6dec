"""What Acme's services ask of the providers, request by request, with the truth about each.

A day depends on the seed and the day alone, so a simulation of three days is the same as those three
days of a longer one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from random import Random
from typing import Literal, NamedTuple

from dagster_project.days import Days
from dagster_project.demo.roster import (
    CODE_SESSIONS,
    CUSTOMERS,
    GATEWAY_KEY,
    KEYS,
    LONG_CONTEXT,
    NOBODYS_KEYS,
    SERVICES,
    STORED_GIB,
    UNTOLD_KEYS,
    VIRTUAL_KEYS,
    WORKLOADS,
    VirtualKey,
    Workload,
)

Outcome = Literal["ok", "aborted", "error", "cache_hit"]
"""`aborted`: the stream broke; the provider bills all of it, the gateway saw only its beginning."""

Log = Literal["whole", "twice", "null", "lost", "unseen"]
"""What the gateway's log holds of a request: its record, the record two times, a literal `null`,
nothing; `unseen` never went through the gateway."""

METERS = (
    "input",
    "cache_read",
    "cache_write_5m",
    "cache_write_1h",
    "output",
    "output_image",
    "images",
    "web_searches",
    "file_searches",
    "characters",
    "audio_seconds",
    "video_seconds",
    "code_sessions",
    "storage_gib_days",
)
"""Disjoint; the last fields of Request."""


class Request(NamedTuple):
    """One attempt at a provider, or a day's storage. `call_id` is of the call, whose retries share it."""

    call_id: str
    ended_at: datetime
    seconds: float
    service: str
    team: str
    environment: str
    project: str
    feature: str | None
    customer: str | None
    experiment: str | None
    variant: str | None
    provider: str
    provider_project: str
    api_key: str | None
    user: str | None
    virtual_key: str | None
    operation: str
    model: str | None
    service_tier: str
    is_long_context: bool
    outcome: Outcome
    http_status: int
    log: Log
    unknowable_because: str | None
    """Why no evidence names the true owner; None when some does."""
    tags: tuple[str, ...] = ()
    headers: Mapping[str, str] = {}
    input: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    output: int = 0
    output_image: int = 0
    images: int = 0
    web_searches: int = 0
    file_searches: int = 0
    characters: int = 0
    audio_seconds: int = 0
    video_seconds: int = 0
    code_sessions: int = 0
    storage_gib_days: int = 0

    @property
    def is_billed(self) -> bool:
        return self.outcome in ("ok", "aborted")

    @property
    def meters(self) -> dict[str, int]:
        return dict(zip(METERS, self[-len(METERS) :], strict=True))

    @property
    def usage_date(self) -> date:
        return self.ended_at.date()

    @property
    def context_tokens(self) -> int:
        return self.input + self.cache_read + self.cache_write_5m + self.cache_write_1h


HOURS = {
    "office": [1] * 7 + [3, 8, 10, 10, 9, 7, 9, 10, 10, 8, 5, 3, 2, 2, 1, 1, 1],
    "always": [4, 3, 2, 2, 2, 3, 4, 5, 7, 8, 8, 8, 8, 8, 8, 8, 8, 7, 7, 7, 7, 6, 6, 5],
    "night": [0, 6, 8, 6, 2] + [0] * 19,
}
"""Weight of each UTC hour of the day, by schedule."""

FAILING_CALLS = 0.025
LOST_RECORDS, NULL_RECORDS, TWICE_RECORDS = 0.012, 0.003, 0.002
ABORTED_STREAMS = 0.02
CACHE_HITS = 0.03


def requests(days: Days, seed: int, scale: float) -> Iterator[Request]:
    """Everything that ended on `days`, day by day; `scale` multiplies how much there is."""
    for day in days:
        rng = Random(f"{seed}/{day}")
        yield from _stored(day, rng, scale)
        for workload in WORKLOADS:
            is_weekend = day.weekday() >= 5
            expected = workload.per_weekday * (workload.weekend if is_weekend else 1) * scale
            # Rounded at random, so that a small scale keeps a few of what is rare.
            for _ in range(int(expected * rng.uniform(0.9, 1.1) + rng.random())):
                yield from _calls(workload, day, rng)


def _calls(workload: Workload, day: date, rng: Random) -> Iterator[Request]:
    """A call of `workload`: the attempts that failed, and the one that did not."""
    service = SERVICES[workload.service]
    (hour,) = rng.choices(range(24), HOURS[workload.schedule])
    meters = {meter: _about(median, rng) for meter, median in workload.medians.items()}
    meters |= {meter: int(rng.random() < chance) for meter, chance in workload.chances.items()}
    # Where a service is shared, each request is some team's own.
    team = (
        rng.choices([*service.shares], [float(share) for share in service.shares.values()])[0]
        if service.shares
        else service.team_on(day)
    )
    key = GATEWAY_KEY[workload.provider] if workload.is_gateway else workload.via
    if key in KEYS and day >= KEYS[key].deleted_on:
        key = KEYS[key].successor
    call = Request(
        call_id=f"{rng.getrandbits(128):032x}",
        ended_at=_midnight(day) + timedelta(seconds=round(hour * 3600 + rng.random() * 3600, 6)),
        seconds=round(rng.uniform(0.3, 2) + meters.get("output", 0) / 90, 6),
        service=workload.service,
        team=team,
        environment=service.environment,
        project=service.project,
        feature=rng.choice(workload.features) if workload.features else None,
        customer=CUSTOMERS[int(len(CUSTOMERS) * rng.random() ** 2)] if workload.has_customers else None,
        experiment=workload.experiment,
        variant=rng.choice("ab") if workload.experiment else None,
        provider=workload.provider,
        provider_project=workload.project or KEYS[key].project,
        api_key=None if workload.project else key,
        user=workload.via if workload.via.startswith("user_") else None,
        virtual_key=workload.via if workload.is_gateway else None,
        operation=workload.operation,
        model=workload.model,
        service_tier=workload.tier,
        is_long_context=False,
        outcome="ok",
        http_status=200,
        log="unseen",
        unknowable_because=_unowned(workload.via),
        **meters,
    )
    if call.model in LONG_CONTEXT and call.context_tokens > LONG_CONTEXT[call.model]:
        call = call._replace(is_long_context=True)
    if workload.is_gateway:
        yield from _through_gateway(call, rng)
    else:
        yield call


def _through_gateway(call: Request, rng: Random) -> Iterator[Request]:
    key = VIRTUAL_KEYS[call.virtual_key]
    call, is_told = _claimed(call, key, rng)
    is_retried = rng.random() < FAILING_CALLS
    if is_retried:
        status = rng.choice((429, 500))
        nothing = dict.fromkeys(METERS, 0)
        failed = call._replace(
            outcome="error",
            http_status=status,
            log="whole",
            seconds=0.1,
            ended_at=_same_day(call, -call.seconds - 0.5),
            **nothing,
        )
        yield failed
        if rng.random() < 0.2:
            return
    luck = rng.random()
    # A call has one `failure` record at most, so what is retried does not break off, too.
    if call.operation == "chat" and luck < ABORTED_STREAMS and not is_retried:
        call = call._replace(outcome="aborted")
    elif call.operation in ("chat", "embedding") and luck < ABORTED_STREAMS + CACHE_HITS:
        call = call._replace(outcome="cache_hit", seconds=0.01)
    luck = rng.random()
    log: Log = "whole"
    for fate, share in (("lost", LOST_RECORDS), ("null", NULL_RECORDS), ("twice", TWICE_RECORDS)):
        luck -= share
        if luck < 0:
            log = fate
            break
    reason = call.unknowable_because
    if log in ("lost", "null"):
        reason = "log record lost"
    elif key.is_shared and reason is None and not is_told:
        reason = "tags missing or wrong"
    yield call._replace(log=log, unknowable_because=reason)


def _claimed(call: Request, key: VirtualKey, rng: Random) -> tuple[Request, bool]:
    """The call with what its caller says of itself, and whether that names its service."""
    luck = rng.random()
    if key.says == "nothing" or luck < 0.06:
        return call, False
    if key.says == "headers":
        headers = {
            "x-feature-name": call.feature,
            "x-tenant-id": call.customer,
            "x-environment": "prod",
            "x-user-tier": rng.choice(("free", "pro")),
        }
        return call._replace(headers=headers), False
    said = {
        "service": call.service,
        "team": call.team,
        "env": {"production": "prod", "staging": "stage"}.get(call.environment, "dev"),
        "feature": call.feature,
        "customer": call.customer,
        "experiment": call.experiment,
        "variant": call.variant,
    }
    if luck < 0.12:
        said["team"] = rng.choice([team for team in ("support", "growth", "research") if team != call.team])
        if luck < 0.09:
            said["service"] = None
    pairs = [(name, value) for name, value in said.items() if value]
    if luck > 0.94:
        pairs = [(f" {name.title()}", f" {value.upper()} ") for name, value in pairs]
    return call._replace(tags=tuple(f"{name}:{value}" for name, value in pairs)), said["service"] is not None


def _stored(day: date, rng: Random, scale: float) -> Iterator[Request]:
    """What the providers bill by the project alone: the vector store, and code interpreter sessions."""
    stored = round((STORED_GIB + 5 * (day.day // 6)) * scale)
    for team, share in SERVICES["retrieval"].shares.items():
        yield _of_project("retrieval", "proj_vectors", "storage", day, rng)._replace(
            team=team, storage_gib_days=round(stored * share)
        )
    if day.weekday() < 5:
        for _ in range(round(CODE_SESSIONS * scale)):
            session = _of_project("eval-harness", "proj_research", "code", day, rng)
            yield session._replace(code_sessions=1)


def _of_project(service: str, project: str, operation: str, day: date, rng: Random) -> Request:
    return Request(
        call_id=f"{rng.getrandbits(128):032x}",
        ended_at=_midnight(day) + timedelta(hours=12),
        seconds=0.0,
        service=service,
        team=SERVICES[service].team,
        environment=SERVICES[service].environment,
        project=SERVICES[service].project,
        feature=None,
        customer=None,
        experiment=None,
        variant=None,
        provider="openai",
        provider_project=project,
        api_key=None,
        user=None,
        virtual_key=None,
        operation=operation,
        model=None,
        service_tier="standard",
        is_long_context=False,
        outcome="ok",
        http_status=200,
        log="unseen",
        unknowable_because=None,
    )


def _unowned(via: str) -> str | None:
    if via in UNTOLD_KEYS:
        return "key shared without tags"
    return "not in the ownership map" if via in NOBODYS_KEYS else None


def _about(median: int, rng: Random) -> int:
    return max(1, round(median * rng.lognormvariate(0, 0.45)))


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _same_day(call: Request, seconds: float) -> datetime:
    return max(call.ended_at + timedelta(seconds=seconds), _midnight(call.usage_date))
