"""Folders that are broken, hostile or enormous: told or read, in little time and memory, in a process of its own."""

# ruff: noqa: E501 - what is told is on one line
from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dagster_project.ownership import OwnershipError, load

LOAD = """
import json, re, resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
from dagster_project.ownership import OwnershipError, load
try:
    tables = load(Path(sys.argv[1])).tables()
    told = []
except OwnershipError as error:
    told = [str(mistake) for mistake in error.mistakes]
# Not getrusage: its figure begins with what the process that started this one used.
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
print(json.dumps({"told": told, "megabytes": int(peak[1]) / 1024}))
"""
MEGABYTES = 200
SECONDS = 120

FULL = 4_900_000


def filled(folder: Path, content: bytes | str, name: str = "owners.yaml") -> None:
    raw = content.encode() if isinstance(content, str) else content
    assert len(raw) <= 5_000_000
    (folder / name).write_bytes(raw)


def loaded(folder: Path) -> list[str]:
    """What is told of the folder by a process that has to end, and to be small."""
    run = subprocess.run(
        [sys.executable, "-c", LOAD, str(folder)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    said = json.loads(run.stdout)
    assert said["megabytes"] < MEGABYTES
    assert all("\n" not in line and len(line) < 3_000 for line in said["told"])
    return said["told"]


def repeated(text: str, size: int = FULL) -> str:
    return text * (size // len(text.encode()))


def numbered(before: str, line: str, size: int = FULL) -> str:
    """Many different lines."""
    return before + "".join(
        line.format(n=n) for n in range((size - len(before)) // len(line.format(n=10**6)))
    )


HOSTILE: dict[str, tuple[Callable[[], bytes | str], str]] = {
    # content of owners.yaml, and what the first mistake says
    "a billion laughs": (
        lambda: (
            "a: &a [x, x]\n"
            + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True))
        ),
        "is a YAML alias, and none is followed",
    ),
    "a million aliases": (
        lambda: "x: &a 1\nteams: [" + repeated("*a,", FULL - 30) + "]",
        "values up to here",
    ),
    "a million anchors": (lambda: "teams: [" + repeated("&a x,") + "]", "values up to here"),
    "one line, one text": (
        lambda: "teams: {a: {owner: " + repeated("x") + "}}",
        "is longer than 1,000 characters",
    ),
    "one key": (lambda: "teamz" + repeated("x") + ": 1", "this is not YAML"),
    "one key that is meant": (lambda: "? teamz" + repeated("x") + "\n: 1", "unknown key `teamzxxx"),
    "one text of four bytes": (
        lambda: 'teams: {a: {owner: "' + repeated("\N{PARTY POPPER}") + '"}}',
        "longer than",
    ),
    "one line, many values": (lambda: "teams: [" + repeated("a,") + "]", "values up to here"),
    "many lines": (lambda: "teams:\n" + repeated("- a\n"), "values up to here"),
    "many teams": (lambda: numbered("teams:\n", " a{n}:\n"), "values up to here"),
    "more teams than names": (
        lambda: numbered("teams:\n", " a{n}:\n", 800_000),
        "selectors up to here",
    ),
    "as many small services as may be": (
        lambda: numbered("teams: {t: }\nservices:\n", " a{n}: {{team: t}}\n", 1_000_000),
        "",
    ),
    "as many words as may be": (
        lambda: "environments: {a: [" + "".join(f"x{n}," for n in range(490_000)) + "]}",
        "selectors up to here",
    ),
    "as many mistakes as may be": (lambda: numbered("services:\n", " a{n}: x\n", 2_500_000), "not `x`"),
    "as many conditions as may be": (
        lambda: (
            "teams: {t: }\nservices: {a: {team: t, match: ["
            + "".join(f"{{model: x{n}}}," for n in range(160_000))
            + "]}}"
        ),
        "selectors up to here",
    ),
    "patterns that begin with ?": (
        lambda: numbered(
            "teams: {t: }\nservices:\n", " a{n}: {{team: t, match: {{model: '?{n:06}*'}}}}\n", 900_000
        ),
        "one of too many patterns",
    ),
    "patterns of a thousand stars": (
        lambda: numbered(
            "teams: {t: }\nservices:\n",
            " a{n}: {{team: t, match: {{model: '" + "a*" * 400 + "{n}'}}}}\n",
            4_000_000,
        ),
        "",
    ),
    "deep nesting": (lambda: repeated("["), "nested 20 levels deep"),
    "deep nesting of blocks": (lambda: repeated("- "), "nested 20 levels deep"),
    "deep nesting of keys": (lambda: repeated("? "), "nested 20 levels deep"),
    "indentation": (lambda: "".join(" " * n + f"a{n}:\n" for n in range(3_000)), "nested 20 levels deep"),
    "line breaks": (lambda: repeated("\n"), ""),
    "documents": (lambda: repeated("---\n"), ""),
    "comments": (lambda: repeated("#\n"), ""),
    "escapes": (lambda: 'teams: {a: {owner: "' + repeated(r"\x41") + '"}}', "longer than"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("content", "first"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_yaml(tmp_path: Path, content: Callable[[], bytes | str], first: str) -> None:
    filled(tmp_path, content())
    told = loaded(tmp_path)
    assert first in (told[0] if told else "")
    assert bool(told) or not first


BROKEN: dict[str, tuple[bytes | str, str]] = {
    "surrogates": (r'teams: {"a\ud800": }', "this is not YAML"),
    "surrogates in bytes": (b"teams: {a\xed\xa0\x80: }", "the byte 0xed is not UTF-8"),
    "NUL": ("teams: {a\0: }", "the character U+0000 is not allowed"),
    "UTF-32": ("teams:".encode("utf-32"), "the byte 0xff is not UTF-8"),
    "two byte order marks": ("\ufeff\ufeffteams:", "the character U+FEFF is not allowed"),
    "huge integers": ("teams: {a: {cost_center: " + "9" * 100_000 + "}}", "longer than 1,000"),
    "dates and numbers as keys": ("teams: {2026-01-01: , 1.5: , true: , 0x10: , .inf: }", ""),
    "a key that is a mapping": ("teams: {{a: b}: }", "a key is a word, not a mapping"),
    "merge keys": ("teams: {a: {<<: {owner: x}}}", "unknown key `<<`"),
    "a type that runs": ("!!python/object/apply:os.system [exit]", "is not used here"),
    "directives": ("%YAML 9.9\n---\nteams:", "this is not YAML"),
}


@pytest.mark.parametrize(("content", "first"), BROKEN.values(), ids=BROKEN)
def test_broken_yaml(tmp_path: Path, content: bytes | str, first: str) -> None:
    filled(tmp_path, content)
    try:
        told = []
        load(tmp_path)
    except OwnershipError as error:
        told = [str(mistake) for mistake in error.mistakes]
    assert first in (told[0] if told else "")
    assert bool(told) == bool(first)


ENTITY = "apiVersion: backstage.io/v1alpha1\nkind: Component\nmetadata:\n  name: a{n}\n"

HOSTILE_FILES: dict[str, tuple[str, Callable[[], str], str]] = {
    "a list of many teams": (
        "a.csv",
        lambda: numbered("team,cost_center\n", "a{n},1\n"),
        "selectors up to here",
    ),
    "a list of one team": ("a.csv", lambda: "team,cost_center\n" + repeated("a,b\n"), ""),
    "a list of columns": ("a.csv", lambda: "team,cost_center" + repeated(","), "1,000 columns"),
    "a list of quotes": ("a.csv", lambda: 'team,cost_center\n"' + repeated('""') + '",x', "longer than"),
    "a list of one quote": ("a.csv", lambda: 'team,cost_center\n"' + repeated("x"), "this is not CSV"),
    "a list of NUL": ("a.csv", lambda: repeated("\0"), "no column"),
    "entities": ("a.yaml", lambda: numbered("", ENTITY + "---\n"), "values up to here"),
    "an annotation": (
        "a.yaml",
        lambda: (
            ENTITY.format(n=1)
            + "  annotations:\n    llm-chargeback/match: |\n"
            + repeated("      - a\n", 4_000_000)
        ),
        "a selector is written as `key: value` lines, not `a`",
    ),
    "an annotation of one text": (
        "a.yaml",
        lambda: ENTITY.format(n=1) + "  annotations:\n    llm-chargeback/match: " + repeated("x"),
        "`match` is `xxx",
    ),
    "an annotation of escapes": (
        "a.yaml",
        lambda: (
            ENTITY.format(n=1)
            + '  annotations:\n    llm-chargeback/match: "'
            + repeated(r"\x20", 4_000_000)
            + '"'
        ),
        "`match` is empty",
    ),
    "entities that nobody owns": (
        "a.yaml",
        lambda: numbered(
            "", "---\napiVersion: backstage.io/v1\nkind: Component\nmetadata: {{name: a{n}}}\n", 3_000_000
        ),
        "has no owner",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "content", "first"), HOSTILE_FILES.values(), ids=HOSTILE_FILES)
def test_hostile_catalogues(tmp_path: Path, name: str, content: Callable[[], str], first: str) -> None:
    filled(tmp_path, content(), name)
    told = loaded(tmp_path)
    assert first in "\n".join(told)
    assert bool(told) or not first


# --- Folders --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_hundred_thousand_files_are_not_read(tmp_path: Path) -> None:
    for n in range(100):
        (tmp_path / str(n)).mkdir()
        for m in range(1_000):
            os.close(os.open(tmp_path / str(n) / f"{m}.yaml", os.O_CREAT | os.O_WRONLY))
    (line,) = loaded(tmp_path)
    assert line.endswith("there are more than 20,000 files; keep only those of the ownership map here")


@pytest.mark.slow
def test_twenty_thousand_links_to_a_large_file_are_not_read(tmp_path: Path) -> None:
    filled(tmp_path, repeated("#"), "large.yml")
    for n in range(15_000):
        (tmp_path / f"{n:05}.yaml").symlink_to("large.yml")
    (line,) = loaded(tmp_path)
    assert "00004.yaml:1:1: the map has more than 20,000,000 characters up to here" in line


def test_what_is_no_file_is_told_and_not_opened(tmp_path: Path) -> None:
    folder = tmp_path / "map"
    (folder / "folder.yaml").mkdir(parents=True)
    os.mkfifo(folder / "fifo.yaml")
    (folder / "device.yaml").symlink_to("/dev/zero")
    (folder / "loop.csv").symlink_to("loop.csv")
    (folder / "up").symlink_to("..", target_is_directory=True)
    (folder / "no link").symlink_to("nowhere", target_is_directory=True)
    (folder / ".hidden").symlink_to("..", target_is_directory=True)
    (folder / "process.yaml").symlink_to("/proc/self/environ")
    told = loaded(folder)
    assert told[:2] == [
        "map/device.yaml:1:1: this is no regular file; remove it or rename it",
        "map/fifo.yaml:1:1: this is no regular file; remove it or rename it",
    ]
    assert told[2].startswith("map/loop.csv:1:1: the file cannot be read: Too many levels of symbolic links")
    assert told[3].startswith("map/process.yaml:1:")
    assert told[4:] == ["map/up:1:1: links to folders are not followed; link each file, or copy them"]


@pytest.mark.parametrize("name", [b"a\xff.yaml", b"a\nb.yaml", "a\N{ZERO WIDTH SPACE}.csv".encode()])
def test_names_that_cannot_be_shown(tmp_path: Path, name: bytes) -> None:
    (tmp_path / "map").mkdir()
    (tmp_path / "map" / os.fsdecode(name)).write_text("teams: {a: }")
    (line,) = loaded(tmp_path / "map")
    assert line.endswith(":1:1: the name of the file has characters that do not show; rename it")
    assert line.isprintable()


def test_what_may_not_be_read_is_told(tmp_path: Path) -> None:
    """As a user to whom a closed file is closed: root would read it."""
    folder = tmp_path / "map"
    (folder / "closed").mkdir(parents=True)
    (folder / "closed.yaml").write_text("teams: {a: }")
    (folder / "closed.yaml").chmod(0)
    (folder / "closed").chmod(0)
    child = os.fork()
    if child == 0:
        if os.geteuid() == 0:
            for parent in [folder, *folder.parents[:-2]]:
                parent.chmod(0o755)
            os.seteuid(65534)
        try:
            load(folder)
            os._exit(1)
        except OwnershipError as error:
            lines = [str(mistake) for mistake in error.mistakes]
        os._exit(
            lines
            != [
                "map/closed:1:1: the folder cannot be read: Permission denied",
                "map/closed.yaml:1:1: the file cannot be read: Permission denied",
            ]
        )
    assert os.waitpid(child, 0)[1] == 0
    (folder / "closed").chmod(0o755)
