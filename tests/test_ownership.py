"""The ownership map: what it means, and every mistake that it tells, with the place.

A case of a mistake is the text of owners.yaml beside DECLARED, and what is told as `line:column: ...`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import date
from decimal import Decimal
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import dedent

import duckdb
import polars as pl
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dagster_project import ownership
from dagster_project.ownership import Condition, OwnershipError, OwnershipMap, Place, Selector
from dagster_project.ownership._form import POLICY_KEYS, SERVICE_KEYS
from dagster_project.ownership._ties import globs_overlap, ties
from dagster_project.ownership.model import POLICY_LEVELS

SHIPPED = Path(__file__).parents[1] / "ownership_maps"

DECLARED = """\
teams:
  support: {cost_center: CC-2041, owner: ana@acme.example, channel: "#support-ai"}
  search: {cost_center: 0917}
  platform:
environments:
  production: [prod, PRD]
  staging:
"""


def write(folder: Path, files: Mapping[str, str]) -> Path:
    """A folder named `map`, so that places read map/<file>:<line>:<column>."""
    for name, text in files.items():
        path = folder / "map" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text), encoding="utf-8")
    return folder / "map"


def load(folder: Path, owners: str = "", **more: str) -> OwnershipMap:
    files = {"declared.yaml": DECLARED, "owners.yaml": owners}
    return ownership.load(write(folder, files | {f"{name}.yaml": text for name, text in more.items()}))


def mistakes(folder: Path, owners: str, **more: str) -> list[str]:
    with pytest.raises(OwnershipError) as told:
        load(folder, owners, **more)
    lines = str(told.value).splitlines()
    assert lines[1:] == [str(mistake) for mistake in told.value.mistakes]
    return [line.removeprefix("map/owners.yaml:").replace("map/owners.yaml", "owners") for line in lines[1:]]


def service(fields: str) -> str:
    """The text of owners.yaml with one service; `fields` begin at line 3, column 5."""
    return "services:\n  bot:\n" + "".join(f"    {line}\n" for line in dedent(fields).strip().splitlines())


# --- What is refused ----------------------------------------------------------------------------

NO_SPLIT = "`split` is `by_usage` or shares such as {search: 0.6, support: 0.4}, not"
NO_AMONG = "a split by usage is between teams that are named; write `among: [NAME, OTHER]`"
NOT_BY_USAGE = "is of a split by usage, and this is none; write `split: by_usage`, or leave the line out"
NO_TEAMS = "it is a list of teams such as [search, support]"
NO_SHARE = "is not a share; write a decimal from 0 to 1 with at most 12 decimals, e.g. 0.25"
NO_KEYS = "a selector without keys would match everything; write one, e.g. {gateway_key: support-bot-*}"
NO_OWNER = (
    "service `bot` has no owner; write `team: NAME`, `split: {NAME: 0.6, OTHER: 0.4}` or `shared: true`"
)
NO_OTHERWISE = (
    "`otherwise` says whose the rest of a shared service or of a split by usage is, and this is neither; "
    "write `shared: true`, or `team` instead of `otherwise`"
)
A_LINE = "a history line says until when, and what held before: {until: 2026-07-01, team: NAME}"
NO_LINES = "it is a list of lines such as {until: 2026-07-01, team: NAME}"
NO_SELECTORS = "it is a list of selectors such as {gateway_key: support-bot-*}"
BEFORE = "is the word that its entry begins with; leave this out"
IN_QUOTES = 'put a glob that begins with a star in quotes, e.g. "*-prod"'

REFUSED: dict[str, tuple[str, list[str]]] = {
    "unknown section": ("servises: {}", ["1:1: unknown key `servises`; did you mean `services`?"]),
    "section that is nothing like one": (
        "budgets: {}",
        [
            "1:1: unknown key `budgets`; the keys of the ownership map are teams, environments, services, "
            "policies",
        ],
    ),
    "a list": ("- team", ["1:1: the ownership map is written as `key: value` lines, not a list"]),
    "a word": ("teams", ["1:1: the ownership map is written as `key: value` lines, not `teams`"]),
    "section that is a list": (
        "teams: [search]",
        ["1:8: `teams` is written as `key: value` lines, not a list"],
    ),
    "unknown key of a team": (
        "teams: {growth: {cost_centre: CC-1}}",
        ["1:18: unknown key `cost_centre`; did you mean `cost_center`?"],
    ),
    "unknown key of a service, and no follow-up": (
        service("taem: search"),
        ["3:5: unknown key `taem`; did you mean `team`?"],
    ),
    "name within an entry": (
        "teams: {growth: {name: Growth}}\n" + service("team: search\nname: Bot"),
        [
            f"1:18: unknown key `name`; the name of a team {BEFORE}",
            f"5:5: unknown key `name`; the name of a service {BEFORE}",
        ],
    ),
    "what is of a team in a service": (
        service("team: search\nowner: ana\ncost_center: CC-1\nchannel: ai"),
        [
            "4:5: unknown key `owner`; it says who a team is; write it under `teams:`",
            "5:5: unknown key `cost_center`; it says who a team is; write it under `teams:`",
            "6:5: unknown key `channel`; it says who a team is; write it under `teams:`",
        ],
    ),
    "selectors beside `match`": (
        service("team: search\napi_key: key_1\ntag: {feature: a}\ntags: {feature: a}"),
        [
            "4:5: unknown key `api_key`; write it as a selector: match: [{api_key: ...}]",
            "5:5: unknown key `tag`; write it as a selector: match: [{tag: {KEY: VALUE}}]",
            "6:5: unknown key `tags`; write it as a selector: match: [{tag: {KEY: VALUE}}]",
        ],
    ),
    "empty entries": (
        "services:\n  a:\n  b: {}\n  c: ~\n",
        [
            f"{line}:3: service `{name}` has no owner; write `team: NAME`, "
            "`split: {NAME: 0.6, OTHER: 0.4}` or `shared: true`"
            for line, name in ((2, "a"), (3, "b"), (4, "c"))
        ],
    ),
    "entries that are one word or a list": (
        "services: {a: search, b: [search]}",
        [
            "1:15: a service is written as `key: value` lines, not `search`",
            "1:26: a service is written as `key: value` lines, not a list",
        ],
    ),
    "merge key": (
        service("<<: {team: search}"),
        [
            "3:5: unknown key `<<`; the keys of a service are team, split, shared, among, driver, period, "
            "otherwise, project, environment, match, history"
        ],
    ),
    "key that is a list": (
        service("team: search\n? [match]\n: x"),
        ["4:7: a key is a word, not a list"],
    ),
    "duplicate key": (
        service("team: search\nproject: a\nteam: support"),
        ["5:5: the key `team` is already at owners:3:5; keep one of the two"],
    ),
    "duplicate section": (
        "teams:\nteams:\n",
        ["2:1: the key `teams` is already at owners:1:1; keep one of the two"],
    ),
    "duplicate service in one file": (
        "services:\n  a: {team: search}\n  a: {team: search}\n",
        ["3:3: the key `a` is already at owners:2:3; keep one of the two"],
    ),
    "services that tags could not tell apart": (
        "services:\n  Bot: {team: search}\n  bot: {team: search}\n",
        ["3:3: service `bot` is declared already at owners:2:3; make them one"],
    ),
    "team declared in two files": (
        "teams:\n  search: {cost_center: CC-1}\n",
        ["2:3: team `search` is declared already at map/declared.yaml:3:3; make them one"],
    ),
    "environment declared in two files": (
        "environments: {staging: [qa]}",
        ["1:16: environment `staging` is declared already at map/declared.yaml:7:3; make them one"],
    ),
    "alias of two environments": (
        "environments: {live: [Prod, live]}",
        [
            "1:23: `Prod` means the environment `production` already at map/declared.yaml:6:3; "
            "a word means one environment"
        ],
    ),
    "aliases that are no list": (
        "environments: {live: yes}",
        ["1:22: the aliases of an environment are a list such as [prod, live], not `yes`"],
    ),
    "reserved names": (
        "teams: {Unallocated: }\nservices:\n  team:search: {team: search}\n  unspecified: {team: search}",
        [
            "1:9: `Unallocated` has a meaning of its own; choose another team name",
            "3:3: `team:search` has a meaning of its own; choose another service name",
            "4:3: `unspecified` has a meaning of its own; choose another service name",
        ],
    ),
    "undeclared team": (
        service("team: serach"),
        ["3:11: team `serach` is not declared; did you mean `search`?"],
    ),
    "undeclared team like no other": (
        service("team: growth"),
        ["3:11: team `growth` is not declared; declare it under `teams:`"],
    ),
    "undeclared teams everywhere": (
        service(
            """
            split: {serch: 0.5, search: 0.5}
            history: [{until: 2026-07-01, shared: true, otherwise: Support}]
            """
        ),
        [
            "3:13: team `serch` is not declared; did you mean `search`?",
            "4:60: team `Support` is not declared; did you mean `support`?",
        ],
    ),
    "undeclared environment": (
        service("team: search\nenvironment: prodution"),
        ["4:18: environment `prodution` is not declared; did you mean `production`?"],
    ),
    "undeclared environment of a history line": (
        service("team: search\nhistory: [{until: 2026-07-01, environment: qa}]"),
        ["4:48: environment `qa` is not declared; declare it under `environments:`"],
    ),
    "no owner": (service("project: x"), ["2:3: " + NO_OWNER]),
    "no owner, no lines": ("services: {bot: }", ["1:12: " + NO_OWNER]),
    "service that is a word": (
        "services: {bot: search}",
        ["1:17: a service is written as `key: value` lines, not `search`"],
    ),
    "team and split": (
        service("split: {search: 1}\nteam: search"),
        ["4:5: `split` at owners:3:5 and `team` contradict each other; keep one of the two"],
    ),
    "team and shared": (
        service("team: search\nshared: true"),
        [
            "4:5: `team` at owners:3:5 and `shared` contradict each other; keep one of the two; "
            "for what no tag claims write `otherwise`"
        ],
    ),
    "shared that is not": (
        service("shared: false"),
        ["3:13: `shared` is `true`, not `false`; or leave the line out"],
    ),
    "otherwise of a service that is not shared": (
        service("team: search\notherwise: platform"),
        ["4:5: " + NO_OTHERWISE],
    ),
    "otherwise of a time when it was not shared": (
        service("shared: true\nhistory: [{until: 2026-07-01, team: search, otherwise: platform}]"),
        ["4:49: " + NO_OTHERWISE],
    ),
    "shared service that a tag selects": (
        service("shared: true\nmatch: {provider: openai, tag: {service: bot}}"),
        [
            "4:12: {provider: openai, tag: {service: bot}} selects a shared service by a tag, "
            "but tags are what divides it; leave `tag` out"
        ],
    ),
    "names that are nothing, blank or hidden": (
        service('team: ~\nproject: " x"\nmatch: {model: "a\\u00a0b", gateway_team: "", line_item: "a\\nb"}'),
        [
            "3:11: the name of a team is empty; write it or leave the line out",
            "4:14: `project` ` x` has blanks around it or characters that do not show; remove them",
            "5:20: `model` `a�b` has blanks around it or characters that do not show; remove them",
            "5:46: `gateway_team` is empty; write it or leave the line out",
            "5:61: `line_item` `a�b` has blanks around it or characters that do not show; remove them",
        ],
    ),
    "text that is a list": (
        service("team: [search]\nmatch: {api_key: [key_1, key_2]}"),
        ["3:11: the name of a team is one text, not a list", "4:22: `api_key` is one text, not a list"],
    ),
    "endless text": (
        service(f"team: search\nproject: {'x' * 1001}"),
        [f"4:14: `project` `{'x' * 57}...` is longer than 1,000 characters"],
    ),
    # 0.6 + 0.3 = 0.9
    "shares below the whole": (
        service("split: {search: 0.6, support: 0.3}"),
        ["3:12: the shares sum to 0.9, not to exactly 1 (0.6 + 0.3); correct one of them"],
    ),
    # 3 x 0.333333333333 = 0.999999999999: nearly is not exactly
    "shares that nearly sum to 1": (
        service("split:\n  search: 0.333333333333\n  support: 0.333333333333\n  platform: 0.333333333333"),
        [
            "4:7: the shares sum to 0.999999999999, not to exactly 1 "
            "(0.333333333333 + 0.333333333333 + 0.333333333333); correct one of them"
        ],
    ),
    "shares of nobody": (
        service("split: {}"),
        ["3:12: `split` is empty; write shares that sum to 1, e.g. {search: 0.6, support: 0.4}"],
    ),
    "shares that are a list": (
        service("split: [search, support]"),
        [f"3:12: {NO_SPLIT} a list"],
    ),
    "shares that are no decimals": (
        service(
            """
            split:
              search: 60%
              support: -0.2
              platform: 1e-1
            history:
              - {until: 2026-01-01, split: {search: .inf, support: nan, platform: 2}}
              - {until: 2026-02-01, split: {search: 0.3333333333333, support: 1/3, platform: .5}}
              - {until: 2026-03-01, split: {search: 1.000000000001, support: 0_1, platform: }}
            """
        ),
        [
            f"4:15: `60%` {NO_SHARE}",
            f"5:16: `-0.2` {NO_SHARE}",
            f"6:17: `1e-1` {NO_SHARE}",
            f"8:45: `.inf` {NO_SHARE}",
            f"8:60: `nan` {NO_SHARE}",
            f"8:75: `2` {NO_SHARE}",
            f"9:45: `0.3333333333333` {NO_SHARE}",
            f"9:71: `1/3` {NO_SHARE}",
            f"9:86: `.5` {NO_SHARE}",
            f"10:45: `1.000000000001` {NO_SHARE}",
            f"10:70: `0_1` {NO_SHARE}",
            "10:85: a share is empty; write it or leave the line out",
        ],
    ),
    "split that is a word": (
        service("split: by-usage\nhistory: [{until: 2026-07-01, split: }]"),
        [f"3:12: {NO_SPLIT} `by-usage`", f"4:42: {NO_SPLIT} nothing"],
    ),
    "by usage of nobody": (
        service(
            """
            split: by_usage
            history:
              - {until: 2026-01-01, split: by_usage, among: []}
              - {until: 2026-02-01, split: by_usage, among: search}
              - {until: 2026-03-01, split: by_usage, among: }
              - {until: 2026-04-01, split: by_usage, among: {search: 1}}
            """
        ),
        [
            f"3:12: {NO_AMONG}",
            f"5:53: `among` is empty; {NO_TEAMS}",
            f"6:53: `among` is `search`; {NO_TEAMS}",
            f"7:53: `among` is empty; {NO_TEAMS}",
            f"8:53: `among` is a mapping; {NO_TEAMS}",
        ],
    ),
    "by usage of teams that are none, or twice": (
        service("split: by_usage\namong: [serch, search, ~, [support], search]\notherwise: Platform"),
        [
            "4:13: team `serch` is not declared; did you mean `search`?",
            "4:28: the name of a team is empty; write it or leave the line out",
            "4:31: the name of a team is one text, not a list",
            "4:42: team `search` is in `among` already at owners:4:20; keep one of the two",
            "5:16: team `Platform` is not declared; did you mean `platform`?",
        ],
    ),
    "by usage of what is not counted": (
        service("split: by_usage\namong: [search]\ndriver: token\nperiod: fortnight"),
        [
            "5:13: `token` is not a driver of a split by usage; did you mean `tokens`?",
            "6:13: `fortnight` is not a period of a split by usage; write one of month, day",
        ],
    ),
    "keys of a split by usage elsewhere": (
        service(
            """
            split: {search: 1}
            driver: cost
            history:
              - {until: 2026-01-01, team: search, among: [support]}
              - {until: 2026-02-01, shared: true, period: day, driver: cost}
              - {until: 2026-03-01, among: [search], otherwise: platform}
            """
        ),
        [
            f"4:5: `driver` {NOT_BY_USAGE}",
            f"6:43: `among` {NOT_BY_USAGE}",
            f"7:56: `driver` {NOT_BY_USAGE}",
            f"8:29: `among` {NOT_BY_USAGE}",
            f"8:46: {NO_OTHERWISE}",
        ],
    ),
    "among alone": (service("among: [search]"), [f"3:5: `among` {NOT_BY_USAGE}"]),
    "by usage, and a team": (
        service("split: by_usage\namong: [search]\nteam: search"),
        ["5:5: `split` at owners:3:5 and `team` contradict each other; keep one of the two"],
    ),
    "days that are none": (
        service(
            """
            team: search
            history:
              - {until: 2026-7-1, team: support}
              - {until: 2026-02-30, team: support}
              - {until: 2026-07-01T00:00:00Z, team: support}
              - {until: 20260701, team: support}
              - {until: 01.07.2026, team: support}
              - {until: [2026-07-01], team: support}
            """
        ),
        [
            "5:17: `2026-7-1` is not a day; write it like 2026-07-01",
            "6:17: there is no day `2026-02-30`; write one of the calendar",
            "7:17: `2026-07-01T00:00:00Z` is not a day; write it like 2026-07-01",
            "8:17: `20260701` is not a day; write it like 2026-07-01",
            "9:17: `01.07.2026` is not a day; write it like 2026-07-01",
            "10:17: `until` is one text, not a list",
        ],
    ),
    "periods that overlap": (
        service(
            """
            team: search
            history:
              - {until: 2026-07-01, team: support}
              - {until: 2026-06-30, team: search}
            """
        ),
        [
            "6:17: `2026-06-30` is not after the start of this period, `2026-07-01` at owners:5:17; "
            "write the oldest line first, each with a later `until`"
        ],
    ),
    "period of no day": (
        service(
            """
            team: search
            history:
              - {until: 2026-07-01, team: support}
              - {until: 2026-07-01, team: search}
            """
        ),
        [
            "6:17: `2026-07-01` is not after the start of this period, `2026-07-01` at owners:5:17; "
            "write the oldest line first, each with a later `until`"
        ],
    ),
    "history lines that say too little": (
        service(
            """
            team: search
            history:
              - {team: support}
              - {until: 2026-07-01}
              - {from: 2026-01-01}
              -
            """
        ),
        [
            f"5:9: {A_LINE}",
            f"6:9: {A_LINE}",
            "7:10: unknown key `from`; the keys of a history line are until, team, split, shared, among, "
            "driver, period, otherwise, project, environment",
            f"8:8: {A_LINE}",
        ],
    ),
    "history that is no list": (
        service("team: search\nhistory: {until: 2026-07-01, team: support}"),
        [f"4:14: `history` is a mapping; {NO_LINES}"],
    ),
    "history without lines": (
        service("team: search\nhistory: []"),
        [f"4:14: `history` is empty; {NO_LINES}"],
    ),
    "match without selectors": (
        service("team: search\nmatch: []"),
        [f"4:12: `match` is empty; {NO_SELECTORS}"],
    ),
    "match without anything": (
        service("team: search\nmatch:"),
        [f"4:11: `match` is empty; {NO_SELECTORS}"],
    ),
    "match that is a word": (
        service("team: search\nmatch: key_1"),
        [f"4:12: `match` is `key_1`; {NO_SELECTORS}"],
    ),
    "selectors without keys": (
        service(
            "team: search\nmatch:\n  - {}\n  - ~\n  - key_1\n  - {provider: openai, tag: {}}\n  - {tag: }"
        ),
        [
            f"5:9: {NO_KEYS}",
            f"6:9: {NO_KEYS}",
            "7:9: a selector is written as `key: value` lines, not `key_1`",
            "8:33: `tag` is empty; write one, e.g. tag: {feature: search}",
            "9:15: `tag` is empty; write one, e.g. tag: {feature: search}",
        ],
    ),
    "unknown key of a selector": (
        service("team: search\nmatch: {provider: openai, apikey: key_1}"),
        ["4:31: unknown key `apikey`; did you mean `api_key`?"],
    ),
    "name of nobody knows what in a selector": (
        service("team: search\nmatch: {name: bot}"),
        [
            "4:13: unknown key `name`; say the name of what, e.g. {gateway_key: NAME} or {api_key: NAME}",
        ],
    ),
    "tags that are one behind their headers": (
        service("team: search\nmatch: {tag: {X-Feature-Name: a, x-prismo-feature: b}}"),
        ["4:38: the tag `x-prismo-feature` is the same as `X-Feature-Name` at owners:4:19; keep one"],
    ),
    "tags": (
        service('team: search\nmatch: {tag: {Env: a, environment: b, "--": c, feature: ~}}'),
        [
            "4:27: the tag `environment` is the same as `Env` at owners:4:19; keep one",
            "4:43: `--` is not a tag key; write one such as `feature`",
            "4:61: the value of a tag is empty; write it or leave the line out",
        ],
    ),
    "selector that is there already": (
        service("team: search\nmatch:\n  - {model: a, provider: b}\n  - {provider: b, model: a}"),
        ["6:9: {provider: b, model: a} is already at owners:5:9; keep one of the two"],
    ),
    "YAML that is none": (
        service("team: search\nmatch: [{model: a}"),
        ["5:1: this is not YAML: did not find expected ',' or ']'"],
    ),
    "a tab": ("teams:\n\tsearch:\n", ["2:1: this is not YAML: found character that cannot start any token"]),
    "two documents": (
        "teams:\n---\nservices:\n",
        ["3:1: a second document begins here; remove the `---` or write another file"],
    ),
    "YAML types": (
        service("team: !!python/object:os.system {}\nproject: !secret x\nenvironment: !!str prod"),
        [
            "3:11: the YAML type `tag:yaml.org,2002:python/object:os.system` is not used here; leave it out",
            "4:14: the YAML type `!secret` is not used here; leave it out",
            "5:18: the YAML type `tag:yaml.org,2002:str` is not used here; leave it out",
        ],
    ),
    "aliases": (
        "teams:\n  a: &a {cost_center: x}\n  b: *a\n  c: *a\n",
        [
            f"3:6: `*a` is a YAML alias, and none is followed; {IN_QUOTES}",
            f"4:6: `*a` is a YAML alias, and none is followed; {IN_QUOTES}",
        ],
    ),
    "a glob without quotes": (
        service("team: search\nmatch: {line_item: *PTU*}"),
        [f"4:28: this is not YAML: did not find expected alphabetic or numeric character; {IN_QUOTES}"],
    ),
    "deep nesting": ("[" * 100_000, ["1:20: this is nested 20 levels deep; nothing in the map needs that"]),
    "control character": (
        "teams:\n  é: \x07",
        ["2:6: the character U+0007 is not allowed in YAML; remove it"],
    ),
}


@pytest.mark.parametrize(("owners", "told"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(tmp_path: Path, owners: str, told: list[str]) -> None:
    assert mistakes(tmp_path, owners) == told


def test_every_mistake_of_every_file_is_told_at_once(tmp_path: Path) -> None:
    told = mistakes(
        tmp_path,
        """\
        services:
          bot: {team: serach}
          bat: {team: search, match: {gateway_key: "?ot-1*"}, environment: qa}
        """,
        more="services: {bot: {split: {search: 0.5}, match: {gateway_key: bot-*}}}",
    )
    assert told == [
        "map/more.yaml:1:25: the shares sum to 0.5, not to exactly 1 (0.5); correct one of them",
        "2:3: service `bot` is declared already at map/more.yaml:1:12; make them one",
        "2:15: team `serach` is not declared; did you mean `search`?",
        "3:30: {gateway_key: ?ot-1*} of service `bat` and {gateway_key: bot-*} of service `bot` at "
        "map/more.yaml:1:47 are equally specific and can match the same identity; "
        "add a key to one of them or narrow it",
        "3:68: environment `qa` is not declared; declare it under `environments:`",
    ]


def test_what_an_unreadable_file_may_declare_is_not_missed(tmp_path: Path) -> None:
    told = mistakes(tmp_path, "services: {bot: {team: growth, taem: x}}", teams="teams: {growth: [}")
    assert told == [
        "1:32: unknown key `taem`; did you mean `team`?",
        "map/teams.yaml:1:18: this is not YAML: did not find expected node content",
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (
            b"teams: {a: }\n# \xff",
            "map/a.yaml:2:3: the byte 0xff is not UTF-8; save the file in that encoding",
        ),
        (
            "teams:".encode("utf-16"),
            "map/a.yaml:1:1: the byte 0xff is not UTF-8; save the file in that encoding",
        ),
        (
            b"#" * 5_000_001,
            "map/a.yaml:1:1: the file is larger than 5,000,000 bytes; split it",
        ),
    ],
    ids=["latin", "utf-16", "large"],
)
def test_files_that_cannot_be_read(tmp_path: Path, content: bytes, told: str) -> None:
    folder = write(tmp_path, {"b.yaml": DECLARED})
    (folder / "a.yaml").write_bytes(content)
    with pytest.raises(OwnershipError) as error:
        ownership.load(folder)
    assert [str(mistake) for mistake in error.value.mistakes] == [told]


def test_a_broken_link_is_not_an_absent_file(tmp_path: Path) -> None:
    folder = write(tmp_path, {"b.yaml": DECLARED})
    (folder / "a.yaml").symlink_to("nowhere.yaml")
    with pytest.raises(OwnershipError, match=r"map/a\.yaml:1:1: the file cannot be read: No such file"):
        ownership.load(folder)


def test_a_missing_folder_is_not_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(OwnershipError, match="there is no such folder; set CHARGEBACK_OWNERSHIP"):
        ownership.load(tmp_path / "nowhere")


@pytest.mark.parametrize("key", ["api_key", "gateway_key"])
def test_a_secret_is_refused_and_not_repeated(tmp_path: Path, key: str) -> None:
    secret = "sk-proj-" + "aB3" * 12
    told = mistakes(tmp_path, service(f"team: search\nmatch: {{{key}: {secret}}}"))
    (line,) = told
    assert line.endswith(f"this `{key}` looks like the secret itself; revoke it and write its id or name")
    assert secret not in line


# --- Who wins -----------------------------------------------------------------------------------

PRECEDENCE = [
    # selector, level, keys, exact keys; and as it is shown, with its tags last
    ("{gateway_key: bot-*}", 10, 1, 0),
    ("{gateway_user: ana, gateway_key: bot, provider: openai}", 10, 3, 3),
    ("{gateway_team: a, gateway_user: 'a*'}", 11, 2, 1),
    ("{gateway_team: 'null', api_key: 007}", 12, 2, 2),
    ("{api_key: key_?, account: acme}", 20, 2, 1),
    ("{principal: ana, provider_project: p}", 21, 2, 2),
    ("{provider_project: default, account: acme}", 30, 2, 2),
    ("{account: acme, model: gpt-4.1}", 40, 2, 2),
    ("{gateway: litellm}", 50, 1, 1),
    ("{provider: azure, line_item: '*PTU*', model: gpt-5}", 50, 3, 2),
    ("{tag: {feature: search}}", 60, 1, 1),
    ("{tag: {feature: search, customer: 'a*'}, gateway_key: bot}", 60, 3, 2),
]


@pytest.mark.parametrize(("selector", "level", "keys", "exact"), PRECEDENCE)
def test_precedence_of_a_selector(tmp_path: Path, selector: str, level: int, keys: int, exact: int) -> None:
    tables = load(tmp_path, service(f"team: search\nmatch: {selector}")).tables()
    (row, *_) = tables["ownership_selectors"].rows(named=True)
    shown = selector.replace("'", "")
    if shown.startswith("{tag") and "}, " in shown:
        shown = "{gateway_key: bot, tag: {feature: search, customer: a*}}"
    assert row == {
        "selector_id": "map/owners.yaml:4:12",
        "rule": "bot",
        "place": "map/owners.yaml:4",
        "level": level,
        "keys": keys,
        "exact_keys": exact,
        "conditions": keys,
        "selector": shown,
        "is_implied": False,
    }
    conditions = tables["ownership_conditions"].rows(named=True)
    assert sum(row["selector_id"] == "map/owners.yaml:4:12" for row in conditions) == keys


TIES = [
    # two selectors, and whether they tie
    ("{api_key: key_1}", "{api_key: key_1}", True),
    ("{api_key: key_1}", "{api_key: key_2}", False),
    ("{api_key: key_1}", "{api_key: KEY_1}", False),
    ("{api_key: key_1}", "{api_key: key_*}", False),  # an exact value beats a glob
    ("{api_key: key_1}", "{api_key: key_1, provider: openai}", False),  # more keys
    ("{api_key: key_1}", "{principal: ana}", False),  # another level
    ("{api_key: key_1, provider: openai}", "{api_key: key_1, gateway: litellm}", True),
    ("{api_key: key_1, provider: openai}", "{api_key: key_1, provider: azure}", False),
    ("{api_key: key_1, provider: 'o*'}", "{api_key: 'k*', provider: openai}", True),
    ("{api_key: 'key_1*', provider: openai}", "{api_key: key_1, provider: 'o*'}", True),
    ("{api_key: key_1, provider: 'a*'}", "{api_key: 'k*', provider: openai}", False),
    ("{gateway_key: support-*}", "{gateway_key: search-*}", False),
    ("{gateway_key: support-*}", "{gateway_key: '*-bot'}", True),
    ("{gateway_key: 'a?c'}", "{gateway_key: '?bc'}", True),
    ("{gateway_key: 'a?c'}", "{gateway_key: '?bcd'}", False),
    ("{provider: openai}", "{model: gpt-5}", True),
    ("{provider: openai, model: gpt-5}", "{provider: azure, line_item: PTU}", False),
    ("{tag: {feature: Search}}", "{tag: {feature: search}}", True),
    ("{tag: {feature: search}}", "{tag: {customer: acme}}", True),
    ("{tag: {feature: search}}", "{tag: {feature: chat}}", False),
    ("{tag: {env: prod}}", "{tag: {Environment: prod}}", True),
    ("{tag: {X-Feature-Name: a}}", "{tag: {x-prismo-feature: a}}", True),
    ("{tag: {x-prismo-team: a}}", "{tag: {team: b}}", False),
    ("{tag: {service: a}}", "{tag: {service: b}}", False),
]


@pytest.mark.parametrize(("one", "other", "is_tie"), TIES)
def test_ties_between_services(tmp_path: Path, one: str, other: str, is_tie: bool) -> None:
    files = {"more": f"services: {{b: {{team: support, match: {other}}}}}"}
    owners = f"services: {{a: {{team: search, match: {one}}}}}"
    if not is_tie:
        load(tmp_path, owners, **files)
        return
    (told,) = mistakes(tmp_path, owners, **files)
    assert told.startswith("1:37: ")
    assert "of service `a`" in told
    assert "of service `b` at map/more.yaml:1:38 are equally specific" in told


def test_selectors_of_one_service_may_overlap(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        service("team: search\nmatch: [{api_key: key_*}, {api_key: '*_1'}, {provider: a}, {model: b}]"),
    )
    assert len(found.services["bot"].selectors) == 4


def test_globs_overlap_where_some_text_matches_both() -> None:
    def words(letters: str, longest: int) -> set[str]:
        return {"".join(word) for n in range(longest + 1) for word in product(letters, repeat=n)}

    # A shortest text that matches two globs is not longer than both together.
    texts = words("ab", 3 + 5) | {"a" * 9, "a" * 10}
    matched = {
        glob: {text for text in texts if fnmatchcase(text, glob)}
        for glob in words("ab?*", 3) | words("a?*", 5)
    }
    wrong = [
        (one, other)
        for one, other in product(matched, repeat=2)
        if globs_overlap(one, other) == matched[one].isdisjoint(matched[other])
    ]
    assert wrong == []


conditions = st.builds(
    Condition,
    st.just("tag"),
    st.sampled_from(["x", "y", "z"]),
    st.text("ab?*", min_size=1, max_size=2),
)


@given(
    st.lists(
        st.tuples(
            st.sampled_from("ABC"),
            st.lists(conditions, min_size=1, max_size=3, unique_by=lambda condition: condition.tag_key),
        ),
        max_size=8,
    )
)
@settings(max_examples=300, deadline=None)
def test_ties_are_those_that_comparing_every_pair_finds(drawn: list[tuple[str, list[Condition]]]) -> None:
    selectors = [
        Selector(str(line), rule, Place("f", line, 1), 60, tuple(said))
        for line, (rule, said) in enumerate(drawn)
    ]

    def is_tie(one: Selector, other: Selector) -> bool:
        pairs = [(a, b) for a in one.conditions for b in other.conditions if a.tag_key == b.tag_key]
        return (
            one.rule != other.rule
            and one.rank == other.rank
            and all(globs_overlap(a.value, b.value) for a, b in pairs)
        )

    told = list(ties(selectors))
    assert all(is_tie(later, earlier) and later.place > earlier.place for later, earlier in told)
    assert sorted(later.place for later, _ in told) == [
        later.place for n, later in enumerate(selectors) if any(is_tie(later, s) for s in selectors[:n])
    ]


# --- What it means ------------------------------------------------------------------------------

EVERYTHING = """\
services:
  support-bot:
    team: support
    project: customer-support
    environment: PROD
    match:
      - gateway_key: support_bot-*
      - {provider: openai, api_key: 007}
    history:
      - {until: 2026-03-01, team: search}
      - {until: 2026-07-01, split: {search: 0.25, support: 0.75}, environment: staging}
  shared-gateway:
    shared: yes
    match: {provider: openai, provider_project: proj_gw}
    otherwise: platform
    history:
      - {until: 2026-02-01, project: before}
      - {until: 2026-03-01, otherwise: search}
      - {until: 2026-04-01, shared: true, environment: prod}
      - {until: 2026-05-01, team: support}
  Vector Store:
    split: {search: 0.6, support: 0.400, platform: 0}
    match: {tag: {Feature-Name: " 50%_Off\\\\* "}}
"""
EVERYTHING = EVERYTHING.replace('" 50', '"50').replace('\\* "', '\\*"')


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """The tables of EVERYTHING as DuckDB reads them from Parquet."""
    with duckdb.connect() as connection:
        for name, frame in load(tmp_path, EVERYTHING).tables().items():
            frame.write_parquet(tmp_path / f"{name}.parquet")
            connection.execute(f"create view {name} as from '{tmp_path / name}.parquet'")
        yield connection


OWNERS = [
    # rule, day, team, environment, is_shared, is_split, line that says so
    ("support-bot", "0001-01-01", "search", "production", False, False, 10),
    ("support-bot", "2026-02-28", "search", "production", False, False, 10),
    ("support-bot", "2026-03-01", None, "staging", False, True, 11),
    ("support-bot", "2026-06-30", None, "staging", False, True, 11),
    ("support-bot", "2026-07-01", "support", "production", False, False, 2),
    ("support-bot", "9999-12-30", "support", "production", False, False, 2),
    ("shared-gateway", "2026-01-31", "platform", None, True, False, 17),
    ("shared-gateway", "2026-02-01", "search", None, True, False, 18),
    ("shared-gateway", "2026-03-31", "platform", "production", True, False, 19),
    ("shared-gateway", "2026-04-30", "support", None, False, False, 20),
    ("shared-gateway", "2026-05-01", "platform", None, True, False, 12),
    ("Vector Store", "2026-01-01", None, None, False, True, 21),
]


@pytest.mark.parametrize(("rule", "day", "team", "environment", "shared", "split", "line"), OWNERS)
def test_whose_it_is_on_both_sides_of_every_boundary(
    warehouse: duckdb.DuckDBPyConnection,
    rule: str,
    day: str,
    team: str | None,
    environment: str | None,
    shared: bool,
    split: bool,
    line: int,
) -> None:
    found = warehouse.execute(
        "select service, team, environment, is_shared, is_split, place from ownership_owners "
        "where rule = ? and valid_from <= ?::date and ?::date < valid_to",
        [rule, day, day],
    ).fetchall()
    assert found == [(rule, team, environment, shared, split, f"map/owners.yaml:{line}")]


BY_USAGE = """\
services:
  reserved:
    split: by_usage
    among: [support, search]
    otherwise: platform
    history:
      - {until: 2026-02-01, team: search}
      - {until: 2026-03-01, driver: tokens}
      - {until: 2026-04-01, among: [search], period: day, otherwise: support}
      - {until: 2026-05-01, split: {search: 1}}
      - {until: 2026-06-01, split: by_usage, driver: requests}
  fixed:
    split: {search: 1}
    history:
      - {until: 2026-02-01, split: by_usage, among: [search, platform], project: x}
"""


def test_splits_by_usage(tmp_path: Path) -> None:
    tables = load(tmp_path, BY_USAGE).tables()
    owners = tables["ownership_owners"].filter(pl.col("is_split") | (pl.col("rule") == "reserved"))
    columns = ["rule", "valid_to", "team", "is_shared", "split_driver", "split_period"]
    assert [(row[0], str(row[1]), *row[2:]) for row in owners.select(columns).rows()] == [
        ("reserved", "2026-02-01", "search", False, None, None),
        ("reserved", "2026-03-01", "platform", False, "tokens", "month"),
        ("reserved", "2026-04-01", "support", False, "cost", "day"),
        ("reserved", "2026-05-01", None, False, None, None),
        ("reserved", "2026-06-01", "platform", False, "requests", "month"),
        ("reserved", "9999-12-31", "platform", False, "cost", "month"),
        ("fixed", "2026-02-01", None, False, "cost", "month"),
        ("fixed", "9999-12-31", None, False, None, None),
    ]
    splits = tables["ownership_splits"].select("rule", "valid_to", "team", "share").rows()
    assert [(row[0], str(row[1]), *row[2:]) for row in splits] == [
        ("reserved", "2026-03-01", "search", None),
        ("reserved", "2026-03-01", "support", None),
        ("reserved", "2026-04-01", "search", None),
        ("reserved", "2026-05-01", "search", Decimal(1)),
        ("reserved", "2026-06-01", "search", None),
        ("reserved", "2026-06-01", "support", None),
        ("reserved", "9999-12-31", "search", None),
        ("reserved", "9999-12-31", "support", None),
        ("fixed", "2026-02-01", "platform", None),
        ("fixed", "2026-02-01", "search", None),
        ("fixed", "9999-12-31", "search", Decimal(1)),
    ]


def test_services_are_as_they_are_now(warehouse: duckdb.DuckDBPyConnection) -> None:
    assert warehouse.execute("from ownership_services").fetchall() == [
        ("support-bot", "support", "customer-support", "production", None, "map/owners.yaml:2"),
        ("shared-gateway", None, None, None, None, "map/owners.yaml:12"),
        ("Vector Store", None, None, None, None, "map/owners.yaml:21"),
    ]


def test_what_a_history_line_does_not_say_is_as_it_is_now(warehouse: duckdb.DuckDBPyConnection) -> None:
    found = warehouse.execute("select rule, project from ownership_owners order by rule, valid_from")
    assert [row for row in found.fetchall() if row[1]] == [
        ("shared-gateway", "before"),
        *[("support-bot", "customer-support")] * 3,
    ]


def test_shares_are_exact(warehouse: duckdb.DuckDBPyConnection) -> None:
    found = warehouse.execute("select rule, valid_to, team, share from ownership_splits order by all")
    assert found.fetchall() == [
        ("Vector Store", date.max, "platform", Decimal(0)),
        ("Vector Store", date.max, "search", Decimal("0.6")),
        ("Vector Store", date.max, "support", Decimal("0.4")),
        ("support-bot", date(2026, 7, 1), "search", Decimal("0.25")),
        ("support-bot", date(2026, 7, 1), "support", Decimal("0.75")),
    ]


def test_conditions(warehouse: duckdb.DuckDBPyConnection) -> None:
    found = warehouse.execute(
        "select rule, level, dimension, tag_key, value, like_pattern "
        "from ownership_selectors join ownership_conditions using (selector_id) order by all"
    )
    assert found.fetchall() == [
        ("Vector Store", 60, "tag", "feature", None, r"50\%\_off\\%"),
        ("Vector Store", 61, "tag", "service", "vector store", None),
        ("shared-gateway", 30, "provider", None, "openai", None),
        ("shared-gateway", 30, "provider_project", None, "proj_gw", None),
        ("shared-gateway", 61, "tag", "service", "shared-gateway", None),
        ("support-bot", 10, "gateway_key", None, None, r"support\_bot-%"),
        ("support-bot", 20, "api_key", None, "007", None),
        ("support-bot", 20, "provider", None, "openai", None),
        ("support-bot", 61, "tag", "service", "support-bot", None),
        ("team:platform", 62, "tag", "team", "platform", None),
        ("team:search", 62, "tag", "team", "search", None),
        ("team:support", 62, "tag", "team", "support", None),
    ]


def test_every_selector_is_there_once_and_has_an_owner(warehouse: duckdb.DuckDBPyConnection) -> None:
    (counts,) = warehouse.execute(
        "select count(*), count(distinct selector_id), "
        "count(*) filter (rule in (select rule from ownership_owners)) from ownership_selectors"
    ).fetchall()
    # 4 are written, 3 services and 3 teams have one by their name
    assert counts == (10, 10, 10)


def test_teams_and_environments(warehouse: duckdb.DuckDBPyConnection) -> None:
    assert warehouse.execute("from ownership_teams").fetchall() == [
        ("support", "CC-2041", "ana@acme.example", "#support-ai", "map/declared.yaml:2"),
        ("search", "0917", None, None, "map/declared.yaml:3"),
        ("platform", None, None, None, "map/declared.yaml:4"),
    ]
    assert warehouse.execute("from ownership_environments").fetchall() == [
        ("production", "production"),
        ("prod", "production"),
        ("prd", "production"),
        ("staging", "staging"),
    ]


@given(glob=st.text("ab%_\\*?", max_size=6), text=st.text("ab%_\\", max_size=6))
@settings(max_examples=300, deadline=None)
def test_a_glob_means_in_sql_what_it_means_here(glob: str, text: str) -> None:
    pattern = Condition("model", None, glob).like_pattern
    if pattern is None:
        assert not set("*?") & set(glob)
        return
    ((found,),) = duckdb.execute(r"select ? like ? escape '\'", [text, pattern]).fetchall()
    assert found == globs_overlap(glob, text) == fnmatchcase(text, glob)


# --- Files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("files", [{}, {"README.md": "teams: ["}, {"owners.yaml": "# nothing yet\n"}])
def test_an_empty_map_owns_nothing_and_has_all_columns(tmp_path: Path, files: dict[str, str]) -> None:
    (tmp_path / "map").mkdir()
    tables = ownership.load(write(tmp_path, files)).tables()
    assert {name: frame.height for name, frame in tables.items()} == {
        "ownership_selectors": 0,
        "ownership_conditions": 0,
        "ownership_owners": 0,
        "ownership_splits": 0,
        "ownership_services": 0,
        "ownership_environments": 0,
        "ownership_teams": 0,
        "ownership_policies": 0,
    }
    filled = load(tmp_path / "filled", EVERYTHING).tables()
    assert {name: frame.schema for name, frame in tables.items()} == {
        name: frame.schema for name, frame in filled.items()
    }


def test_files_are_read_together(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        {
            "a.yml": "services: {bot: {team: search}}",
            "teams/search.YAML": "\N{ZERO WIDTH NO-BREAK SPACE}teams:\r\n  search: {owner: Zoë}\r\n",
            "notes.txt": "teams: [",
            # a mounted config map has each file a second time
            "..data/a.yml": "services: {bot: {team: search}}",
        },
    )
    found = ownership.load(folder)
    assert list(found.services) == ["bot"]
    assert found.teams["search"].place == ("map/teams/search.YAML", 2, 3)
    assert found.teams["search"].owner == "Zoë"


def test_the_shipped_map_owns_nothing_and_its_examples_are_valid(tmp_path: Path) -> None:
    shipped = ownership.load(SHIPPED)
    assert not shipped.teams
    assert not shipped.services
    assert shipped.environments["prod"] == "production"

    text = (SHIPPED / "owners.yaml").read_text(encoding="utf-8")
    uncommented = re.sub(r"(?m)^#(?! \S)", "", text)
    found = ownership.load(write(tmp_path, {"owners.yaml": uncommented}))
    assert list(found.services) == ["support-bot", "shared-gateway", "vector-store", "gpu-reservation"]
    assert list(found.teams) == ["support", "search", "platform"]
    assert [policy.terms[-1].policy for policy in found.policies] == [
        "proportional",
        "proportional",
        "central",
    ]


# --- Whatever is written ------------------------------------------------------------------------

WORDS = (
    *("teams", "environments", "services", "team", "split", "shared", "otherwise", "project", "match"),
    *("history", "until", "environment", "tag", "api_key", "gateway_key", "model", "search", "support"),
    *("driver", "period", "tokens", "day", "apiVersion", "kind", "metadata", "Component", "backstage.io/v1"),
    *("policy", "central", "proportional", "over", "everything", "category", "tax", "line_item", "account"),
    *("a", "a*", "*", "?", "true", "0.5", "1", "2026-07-01", "by_usage", "among", "", "prod"),
)
words = st.sampled_from(WORDS) | st.text(max_size=3)
values = st.recursive(
    words | st.none() | st.booleans() | st.integers() | st.floats() | st.dates() | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=4),
    max_leaves=12,
)
fields = st.dictionaries(
    st.sampled_from(SERVICE_KEYS),
    values,
    max_size=4,
)
matches = st.dictionaries(st.sampled_from([*POLICY_LEVELS]), words, max_size=3)
maps = st.fixed_dictionaries(
    {},
    optional={
        "teams": st.dictionaries(words, values, max_size=3),
        "environments": st.dictionaries(words, values, max_size=3),
        "services": st.dictionaries(words, fields, max_size=3),
        "policies": st.lists(
            st.dictionaries(st.sampled_from(POLICY_KEYS), values | matches, max_size=4), max_size=3
        ),
    },
)
contents = st.one_of(
    st.binary(),
    st.text().map(str.encode),
    st.lists(
        st.sampled_from([*WORDS, ": ", "\n", "- ", "{", "}", "[", "]", "&x ", "*x", "!t ", "---\n", "  "])
    )
    .map("".join)
    .map(str.encode),
    (maps | values).map(lambda value: yaml.safe_dump(value, allow_unicode=True).encode()),
)


@given(contents)
@settings(max_examples=200, deadline=2000, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_is_written_it_is_a_map_or_told_line_by_line(content: bytes) -> None:
    with TemporaryDirectory() as folder:
        (Path(folder) / "owners.yaml").write_bytes(content)
        try:
            tables = ownership.load(Path(folder)).tables()
        except OwnershipError as error:
            lines = str(error).split("\n")[1:]
        else:
            lines = None
            shares = tables["ownership_splits"].rows(named=True)
            rules = {(row["rule"], row["valid_from"]) for row in shares}
            by_usage = {(row["rule"], row["valid_from"]) for row in shares if row["share"] is None}
            assert sum(row["share"] or 0 for row in shares) == len(rules - by_usage)
    place = rf"{Path(folder).name}/owners\.yaml:[1-9]\d*:[1-9]\d*: \S.*"
    assert lines is None or (lines and all(re.fullmatch(place, line) for line in lines))
