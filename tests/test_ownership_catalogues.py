"""Backstage's catalogue and lists of cost centres in the folder of the ownership map.

A case of a mistake is the text of one file beside GROUPS, and what is told as `line:column: ...`.
"""

# ruff: noqa: E501 - what is told is on one line
from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dagster_project import ownership
from dagster_project.ownership import OwnershipError, OwnershipMap
from dagster_project.ownership._files import Source
from dagster_project.ownership._yaml import Scalar, positions_of, read

GROUPS = """\
apiVersion: backstage.io/v1alpha1
kind: Group
metadata:
  name: support
  annotations:
    backstage.io/managed-by-location: url:https://git.example/org.yaml
    llm-chargeback/cost_center: "0917"
    llm-chargeback/channel: "#support-ai"
spec: {type: team, profile: {displayName: Support}, children: []}
---
apiVersion: backstage.io/v1alpha1
kind: Group
metadata: {name: Search}
spec: {type: team, children: []}
---
apiVersion: backstage.io/v1alpha1
kind: Group
metadata: {name: support, namespace: eu}
spec: {type: team, children: []}
---
apiVersion: backstage.io/v1alpha1
kind: System
metadata: {name: Customer-Care}
spec: {owner: group:default/support}
---
"""


def write(folder: Path, files: Mapping[str, str]) -> Path:
    """A folder named `map`, so that places read map/<file>:<line>:<column>."""
    for name, text in files.items():
        path = folder / "map" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    return folder / "map"


def load(folder: Path, **files: str) -> OwnershipMap:
    named = {
        f"{name.removesuffix('_csv')}.{'csv' if name.endswith('_csv') else 'yaml'}": text
        for name, text in files.items()
    }
    return ownership.load(write(folder, {"groups.yaml": GROUPS, **named}))


def mistakes(folder: Path, **files: str) -> list[str]:
    with pytest.raises(OwnershipError) as told:
        load(folder, **files)
    return [str(mistake).removeprefix("map/") for mistake in told.value.mistakes]


def component(spec: str = "owner: support", annotations: str = "", metadata: str = "name: bot") -> str:
    """The text of a Component: the spec's line 5, the metadata's line 3, annotations from line 7, column 5."""
    indented = "".join(f"    {line}\n" for line in dedent(annotations).strip("\n").splitlines())
    return (
        "apiVersion: backstage.io/v1alpha1\nkind: Component\n"
        f"spec: {{kind: service, {spec}}}\nmetadata:\n  {metadata}\n  annotations:\n{indented}"
    )


# --- What a catalogue means ---------------------------------------------------------------------


def test_groups_are_teams(tmp_path: Path) -> None:
    teams = load(tmp_path).tables()["ownership_teams"]
    assert teams.rows() == [
        ("support", "0917", None, "#support-ai", "map/groups.yaml:4"),
        ("Search", None, None, None, "map/groups.yaml:13"),
        ("eu/support", None, None, None, "map/groups.yaml:18"),
    ]


REFERENCES = [
    # spec.owner, metadata, the team; a reference without a namespace is to the entity's own
    ("group:default/support", "name: bot", "support"),
    ("default/support", "name: bot", "support"),
    ("support", "name: bot", "support"),
    ("GROUP:Default/SUPPORT", "name: bot", "support"),
    ("search", "name: bot", "Search"),
    ("group:eu/support", "name: bot", "eu/support"),
    ("support", "{name: bot, namespace: eu}", "eu/support"),
    ("Group:support", "{name: bot, namespace: EU}", "eu/support"),
    ("group:default/support", "{name: bot, namespace: eu}", "support"),
    ("support", "{name: bot, namespace: default}", "support"),
    ("support", "{name: bot, namespace: Default}", "support"),
]


@pytest.mark.parametrize(("owner", "metadata", "team"), REFERENCES)
def test_owners_of_components(tmp_path: Path, owner: str, metadata: str, team: str) -> None:
    text = f"apiVersion: backstage.io/v1alpha1\nkind: Component\nmetadata: {{{metadata.strip('{}')}}}\n"
    (row,) = load(tmp_path, bot=text + f"spec: {{owner: '{owner}'}}").tables()["ownership_services"].rows()
    assert row[1] == team
    assert row[0] == ("bot" if "default" in metadata.lower() or "namespace" not in metadata else row[0])


ANNOTATED = """\
llm-chargeback/match: |
  # how it is recognised
  - gateway_key: support-bot-*
  - {provider: openai, api_key: key_9f2}
llm-chargeback/environment: prod
llm-chargeback/history: "[{until: 2026-07-01, team: Search}]"
example.com/match: "[{gateway_key: '*'}]"
"""
ENVIRONMENTS = "environments: {production: [prod]}"


def test_components_are_services(tmp_path: Path) -> None:
    tables = load(
        tmp_path,
        bot=component("owner: support, system: customer-care, lifecycle: experimental", ANNOTATED),
        environments=ENVIRONMENTS,
    ).tables()
    assert tables["ownership_services"].rows() == [
        ("bot", "support", "Customer-Care", "production", "experimental", "map/bot.yaml:5")
    ]
    selectors = [row for row in tables["ownership_selectors"].rows(named=True) if row["rule"] == "bot"]
    assert [(row["place"], row["selector"], row["is_implied"]) for row in selectors] == [
        ("map/bot.yaml:9", "{gateway_key: support-bot-*}", False),
        ("map/bot.yaml:10", "{provider: openai, api_key: key_9f2}", False),
        ("map/bot.yaml:5", "{tag: {service: bot}}", True),
    ]
    owners = [row for row in tables["ownership_owners"].rows(named=True) if row["rule"] == "bot"]
    assert [(row["team"], str(row["valid_to"]), row["place"]) for row in owners] == [
        ("Search", "2026-07-01", "map/bot.yaml:12"),
        ("support", "9999-12-31", "map/bot.yaml:5"),
    ]


WHO_PAYS = [
    # spec, annotations, team of the service, team of its rest, shares, is it shared
    ("owner: support", "", "support", "support", [], False),
    ("owner: user:ana", "llm-chargeback/team: Search", "Search", "Search", [], False),
    ("owner: group:search", "llm-chargeback/team: Search", "Search", "Search", [], False),
    ("x: y", "llm-chargeback/team: Search", "Search", "Search", [], False),
    ("owner: support", 'llm-chargeback/shared: "true"', None, None, [], True),
    (
        "owner: user:ana",
        "llm-chargeback/shared: yes\nllm-chargeback/otherwise: Search",
        None,
        "Search",
        [],
        True,
    ),
    (
        "owner: support",
        'llm-chargeback/split: "{support: 0.4, Search: 0.6}"',
        *(None, None, ["Search 0.6", "support 0.4"], False),
    ),
    (
        "owner: support",
        "llm-chargeback/split: by_usage\nllm-chargeback/among: '[support, Search]'\nllm-chargeback/period: day",
        *(None, None, ["Search None", "support None"], False),
    ),
]


@pytest.mark.parametrize(("spec", "annotations", "team", "rest", "shares", "is_shared"), WHO_PAYS)
def test_annotations_say_who_pays_else_the_owner_does(
    tmp_path: Path,
    spec: str,
    annotations: str,
    team: str | None,
    rest: str | None,
    shares: list[str],
    is_shared: bool,
) -> None:
    tables = load(tmp_path, bot=component(spec, annotations)).tables()
    assert tables["ownership_services"].rows()[0][1] == team
    (owner,) = [row for row in tables["ownership_owners"].rows(named=True) if row["rule"] == "bot"]
    assert (owner["team"], owner["is_shared"], owner["is_split"]) == (rest, is_shared, bool(shares))
    assert (
        sorted(f"{row[3]} {row[4] and row[4].normalize()}" for row in tables["ownership_splits"].rows())
        == shares
    )


def test_an_annotated_project_wins_and_systems_need_no_file(tmp_path: Path) -> None:
    said = {
        "annotated": component(
            "owner: support, system: customer-care", "llm-chargeback/project: care", "name: a"
        ),
        "elsewhere": component("owner: support, system: system:default/Elsewhere", "", "name: b"),
        "foreign": component("owner: support, system: eu/care", "", "name: c"),
    }
    services = load(tmp_path, **said).tables()["ownership_services"].rows()
    assert [row[2] for row in services] == ["care", "Elsewhere", "eu/care"]


PASSED_OVER = {
    "other kinds": "apiVersion: backstage.io/v1alpha1\nkind: API\nmetadata: {name: bot}\nspec: {owner: nobody, x: {y: [z]}}",
    "kinds of our own": "apiVersion: acme.example/v1\nkind: Gadget\nmetadata: [1, 2]\nspec: 3\nspec: 4",
    "another's Group": "apiVersion: user.openshift.io/v1\nkind: Group\nmetadata: {name: support}\nusers: [ana]",
    "another's Component": "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\nresources: [x.yaml]",
    "a skeleton": component(
        "owner: '${{ values.owner }}'", "llm-chargeback/x: y", "name: ${{ values.name }}"
    ),
    "a skeleton of a namespace": component("owner: nobody", "", "name: bot\n  namespace: ${{ values.name }}"),
    "a skeleton with our owner": component("owner: support", "", 'name: "{{cookiecutter.name}}"'),
    "aliases and types where nobody looks": component(
        "owner: &o support, lead: *o, dependsOn: [!ref x, *o]", "example.com/x: *o"
    ).replace("name: bot", "name: &n bot")
    + "  labels: {a: *n}\n",
    "a second document of nothing": "---\n" + component() + "---\n---\n# end\n",
    "fields of tomorrow": component("owner: support, tomorrow: {x: [1]}", "", "tomorrow: 7\n  name: bot"),
    "a Group that owns nothing": "apiVersion: backstage.io/v1alpha1\nkind: Group\nmetadata: {name: idle}",
}


@pytest.mark.parametrize("text", PASSED_OVER.values(), ids=PASSED_OVER)
def test_what_is_passed_over(tmp_path: Path, text: str) -> None:
    assert list(load(tmp_path, bot=text).services) in ([], ["bot"])


def test_skeletons_are_no_services(tmp_path: Path) -> None:
    for name in ("a skeleton", "a skeleton of a namespace", "a skeleton with our owner"):
        assert not load(tmp_path, bot=PASSED_OVER[name]).services


# --- What is refused of a catalogue --------------------------------------------------------------

REFUSED: dict[str, tuple[str, list[str]]] = {
    "a person": (
        component("owner: user:default/ana"),
        [
            "bot.yaml:3:30: `user:default/ana` is a user, not a group; write it like group:NAME, or the team "
            "that pays as the annotation `llm-chargeback/team`"
        ],
    ),
    "no owner": (
        component("x: y"),
        [
            "bot.yaml:5:9: component `bot` has no owner; write `owner: group:NAME` in its `spec`, or an annotation "
            "such as `llm-chargeback/split`"
        ],
    ),
    "unknown group": (
        component("owner: suport"),
        ["bot.yaml:3:30: no Group or team `suport` is declared; did you mean `group:default/support`?"],
    ),
    "group of another namespace": (
        component("owner: search", "", "name: bot\n  namespace: eu"),
        ["bot.yaml:3:30: no Group or team `eu/search` is declared; did you mean `group:default/Search`?"],
    ),
    "group like no other": (
        component("owner: zzz"),
        [
            "bot.yaml:3:30: no Group or team `zzz` is declared; add the file of the Group, or declare it under "
            "`teams:`"
        ],
    ),
    "no reference": (
        component("owner: 'group:a/b/c', system: 'component:x'"),
        [
            "bot.yaml:3:30: `group:a/b/c` is no entity reference; write it like group:default/NAME",
            "bot.yaml:3:53: `component:x` is a component, not a system; write it like system:NAME",
        ],
    ),
    "owner that is an alias": (
        component("x: &x support, owner: *x"),
        ["bot.yaml:3:45: a reference to a group is one text, not the YAML alias `*x`"],
    ),
    "two owners": (
        component("owner: support", "llm-chargeback/team: Search"),
        [
            "bot.yaml:7:26: `Search` contradicts `support`, the owner in `spec` at map/bot.yaml:3:30; make them one"
        ],
    ),
    "a service of two files": (
        component("owner: support", "", "name: twice"),
        ["bot.yaml:5:9: service `twice` is declared already at map/own.yaml:1:12; make them one"],
    ),
    "a team of two files": (
        "apiVersion: backstage.io/v1alpha1\nkind: Group\nmetadata: {name: support}",
        ["groups.yaml:4:9: team `support` is declared already at map/bot.yaml:3:18; make them one"],
    ),
    "no name": (
        "apiVersion: backstage.io/v1alpha1\nkind: Component\nspec: {owner: support}",
        ["bot.yaml:1:1: a Component has a name; write it as `name` in its `metadata`"],
    ),
    "duplicate keys": (
        component("owner: support, owner: search", "llm-chargeback/team: a\nllm-chargeback/team: b"),
        [
            "bot.yaml:3:39: the key `owner` is already at map/bot.yaml:3:23; keep one of the two",
            "bot.yaml:7:26: `a` contradicts `support`, the owner in `spec` at map/bot.yaml:3:30; make them one",
            "bot.yaml:7:26: team `a` is not declared; declare it under `teams:`",
            "bot.yaml:8:5: the key `llm-chargeback/team` is already at map/bot.yaml:7:5; keep one of the two",
        ],
    ),
    "unknown annotations": (
        component("owner: support", "llm-chargeback/mach: x\nllm-chargeback/budget: y"),
        [
            "bot.yaml:7:5: unknown annotation `llm-chargeback/mach`; did you mean `llm-chargeback/match`?",
            "bot.yaml:8:5: unknown annotation `llm-chargeback/budget`; those of a Component are "
            "llm-chargeback/team, llm-chargeback/split, llm-chargeback/shared, llm-chargeback/among, "
            "llm-chargeback/driver, llm-chargeback/period, llm-chargeback/otherwise, llm-chargeback/project, "
            "llm-chargeback/environment, llm-chargeback/match, llm-chargeback/history",
        ],
    ),
    "annotation of a Group": (
        "apiVersion: backstage.io/v1alpha1\nkind: Group\nmetadata: {name: a, annotations: {llm-chargeback/cost_centre: 1}}",
        [
            "bot.yaml:3:35: unknown annotation `llm-chargeback/cost_centre`; did you mean "
            "`llm-chargeback/cost_center`?"
        ],
    ),
    "annotations of kinds that own nothing": (
        "apiVersion: backstage.io/v1alpha1\nkind: System\nmetadata: {name: a, annotations: {llm-chargeback/team: b}}\n"
        "---\napiVersion: backstage.io/v1alpha1\nkind: API\nmetadata: {name: a, annotations: {llm-chargeback/team: b}}\n",
        [
            "bot.yaml:3:35: `llm-chargeback/team` says nothing about a System; write it to a Component or a Group",
            "bot.yaml:7:35: `llm-chargeback/team` says nothing about the kind `API`; write it to a Component or a "
            "Group",
        ],
    ),
    "a mapping instead of text": (
        component("owner: support", "llm-chargeback/match:\n  gateway_key: x"),
        ["bot.yaml:8:7: an annotation is text, not a mapping; put `|` before it, on the line above"],
    ),
    "a document that is no entity": (
        component() + "---\nservices: {}\n",
        [
            "bot.yaml:8:1: this document is no entity, and another one is; give it `apiVersion` and `kind`, "
            "or a file of its own"
        ],
    ),
    "two documents in an annotation, and nothing in another": (
        component(
            "owner: support",
            "llm-chargeback/match: |\n  model: a\n  ---\n  model: b\nllm-chargeback/history: ''",
        ),
        [
            "bot.yaml:10:7: a second document begins here; remove the `---`",
            "bot.yaml:11:29: `history` is empty; it is a list of lines such as {until: 2026-07-01, team: NAME}",
        ],
    ),
    "an alias in an annotation": (
        component("owner: support", "llm-chargeback/match: '[{line_item: &x a}, *x, {model: !!str b}]'"),
        [
            "bot.yaml:7:48: `*x` is a YAML alias, and none is followed; put a glob that begins with a star in "
            'quotes, e.g. "*-prod"',
            "bot.yaml:7:48: a selector is written as `key: value` lines, not the YAML alias `*x`",
            "bot.yaml:7:60: the YAML type `tag:yaml.org,2002:str` is not used here; leave it out",
        ],
    ),
}


@pytest.mark.parametrize(("text", "told"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(tmp_path: Path, text: str, told: list[str]) -> None:
    assert mistakes(tmp_path, bot=text, own="services: {twice: {team: support}}") == told


# --- Places inside an annotation ------------------------------------------------------------------

UNKNOWN = "unknown key `apikey`; did you mean `api_key`?"
PLACES = {
    # how `[..., {apikey: x}]` is written, and where the key is
    "plain": ("llm-chargeback/match: apikey", "7:27: `match` is `apikey`; it is a list"),
    "single": ("llm-chargeback/match: '[{line_item: \"it''s\"}, {apikey: x}]'", f"7:52: {UNKNOWN}"),
    "double": (
        r'llm-chargeback/match: "[{line_item: \"\u00e9\x41\", model: a}, {apikey: x}]"',
        f"7:69: {UNKNOWN}",
    ),
    "double, folded": (
        'llm-chargeback/match: "[{model: a},\n\n    \\  {apikey: \\\n      x}]"',
        f"9:13: {UNKNOWN}",
    ),
    "double, lines": (r'llm-chargeback/match: "- model: a\n- apikey: x"', f"7:42: {UNKNOWN}"),
    "literal": (
        "llm-chargeback/match: |\n  - model: a\n\n  - provider: b\n    apikey: x",
        f"11:9: {UNKNOWN}",
    ),
    "literal, commented": (
        "llm-chargeback/match: |-  # why\n    - model: a\n    - apikey: x",
        f"9:11: {UNKNOWN}",
    ),
    "literal, indented by itself": ("llm-chargeback/match: |2\n    - apikey: x", f"8:11: {UNKNOWN}"),
    "literal, anchored": ("llm-chargeback/match: &m |+\n  - apikey: x\n", f"8:9: {UNKNOWN}"),
    "folded": (
        "llm-chargeback/match: >\n  [{model: a},\n  {model: b},\n\n   {apikey: x}]",
        f"11:9: {UNKNOWN}",
    ),
    "plain, folded": ("llm-chargeback/match: '\n  - apikey: x'", f"8:9: {UNKNOWN}"),
    "not YAML": ("llm-chargeback/match: |\n  - {model: a\n  - b", "9:10: this is not YAML: "),
    "not YAML to its end": ("llm-chargeback/match: |\n  [{model: a}\n\n\n", "8:18: this is not YAML: "),
    "a tab": ("llm-chargeback/match: |\n  model: a\n  \tprovider: b", "9:7: this is not YAML: "),
    "not allowed": (
        r'llm-chargeback/match: "model: a\a"',
        "7:36: the character U+0007 is not allowed in YAML",
    ),
}


@pytest.mark.parametrize(("annotation", "told"), PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("line_break", ["\n", "\r\n"])
def test_mistakes_in_annotations_have_the_place_in_the_file(
    tmp_path: Path, annotation: str, told: str, line_break: str
) -> None:
    text = component("owner: support", annotation).replace("\n", line_break)
    (found,) = mistakes(tmp_path, bot="\N{ZERO WIDTH NO-BREAK SPACE}" + text)
    assert found.startswith(f"bot.yaml:{told}")


@given(
    text=st.text("ab'\"\\#:- \n\té\u2028\N{PARTY POPPER}\x85", min_size=1, max_size=30),
    style=st.sampled_from(["'", '"', "|", ">", None]),
    width=st.integers(10, 40),
)
@settings(max_examples=300, deadline=None)
def test_every_character_is_found_where_it_is_written(text: str, style: str | None, width: int) -> None:
    whole = yaml.dump({"a": [text, 1]}, default_style=style, width=width, allow_unicode=True)
    (document,) = read(whole, Source("f", whole))
    scalar = document.node.items[1].items[0]
    assert isinstance(scalar, Scalar)
    positions = positions_of(scalar, whole)
    assert len(positions) == len(scalar.text) + 1
    assert list(positions) == sorted(positions)
    for character, position in zip(scalar.text, positions, strict=False):
        if not re.match(r"\s", character):
            assert whole[position] == character or (scalar.style == '"' and whole[position] == "\\")


# --- Lists of cost centres -------------------------------------------------------------------------


def test_a_list_completes_teams_and_declares_them(tmp_path: Path) -> None:
    tables = load(
        tmp_path,
        centers_csv="\N{ZERO WIDTH NO-BREAK SPACE}Team,Manager,Cost Centre,Owner\r\n"
        'SEARCH,"Doe, ""Jo""\r\nthe first",CC-1, zoe@acme.example \r\n'
        ",,,\r\n\r\n"
        "support,,0917,\r\n"
        "growth,,,x@acme.example",
        more_csv="COST_CENTER,team,channel\nCC-1,search,#s\n",
    ).tables()
    assert tables["ownership_teams"].rows() == [
        ("support", "0917", None, "#support-ai", "map/groups.yaml:4"),
        ("Search", "CC-1", "zoe@acme.example", "#s", "map/groups.yaml:13"),
        ("eu/support", None, None, None, "map/groups.yaml:18"),
        ("growth", None, "x@acme.example", None, "map/centers.csv:7"),
    ]


def test_a_team_of_a_list_owns_services(tmp_path: Path) -> None:
    found = load(tmp_path, teams_csv="team,costCenter\ngrowth,CC-3\n", own="services: {a: {team: growth}}")
    assert found.services["a"].owners[0].team == "growth"
    load(tmp_path, teams_csv="team,costCenter\ngrowth,CC-3\n", own=component("owner: Growth"))


NO_COLUMN = "its first line names the columns, with commas between them: team,cost_center"
LISTS: dict[str, tuple[str, list[str]]] = {
    "two cost centres of one team": (
        "team,cost_center\nsearch,CC-1\nSupport,CC-2\nsearch, CC-3\n",
        [
            "list.csv:3:9: the cost center of team `support` is `CC-2` here and `0917` at map/groups.yaml:7:33; "
            "make them one",
            "list.csv:4:9: the cost center of team `Search` is `CC-3` here and `CC-1` at map/list.csv:2:8; "
            "make them one",
        ],
    ),
    "no header": (
        "search,CC-1\n",
        [
            f"list.csv:1:1: no column of this list of cost centres is `cost_center`; {NO_COLUMN}",
            f"list.csv:1:1: no column of this list of cost centres is `team`; {NO_COLUMN}",
        ],
    ),
    "semicolons": (
        "\nteam;cost_center\nsearch;CC-1\n",
        [
            f"list.csv:2:1: no column of this list of cost centres is `cost_center`; {NO_COLUMN}",
            f"list.csv:2:1: no column of this list of cost centres is `team`; {NO_COLUMN}",
        ],
    ),
    "one column twice": (
        "Team,Cost Center,cost_centre\n",
        [
            "list.csv:1:18: the column `cost_centre` is the same as `Cost Center` at map/list.csv:1:6; keep one"
        ],
    ),
    "a comma without quotes": (
        "team,cost_center,note\nsearch,CC-1,one, two\nsupport,0917\n",
        [
            "list.csv:2:1: this row has 4 values, and the header 3; put a value with a comma in quotes",
            "list.csv:3:1: this row has 2 values, and the header 3; put a value with a comma in quotes",
        ],
    ),
    "names that are none": (
        'team,cost_center\n,CC-1\nunallocated,CC-1\n"a\nb",CC-1\nsearch,"C\x00"\n',
        [
            "list.csv:2:1: the name of a team is empty; write it or leave the line out",
            "list.csv:3:1: `unallocated` has a meaning of its own; choose another team name",
            "list.csv:4:1: the name of a team `a�b` has blanks around it or characters that do not show; remove them",
            "list.csv:6:8: `cost_center` `C�` has blanks around it or characters that do not show; remove them",
        ],
    ),
    "quotes": (
        'team,cost_center\nsearch,5" disks\n',
        [
            "list.csv:2:9: this is not CSV: a quote is inside a value; write it twice, and the value in quotes: "
            '"a ""b"""'
        ],
    ),
    "a quote that does not end": (
        'team,cost_center\nsearch,"CC-1\nsupport,x\n',
        [
            "list.csv:2:8: this is not CSV: a quote is inside a value; write it twice, and the value in quotes: "
            '"a ""b"""'
        ],
    ),
}


@pytest.mark.parametrize(("text", "told"), LISTS.values(), ids=LISTS)
def test_what_is_refused_of_a_list(tmp_path: Path, text: str, told: list[str]) -> None:
    assert mistakes(tmp_path, list_csv=text) == told


@pytest.mark.parametrize("text", ["", "\n,,\n", "team,cost_center\n", "team,cost_center"])
def test_an_empty_list(tmp_path: Path, text: str) -> None:
    assert len(load(tmp_path, list_csv=text).teams) == 3
