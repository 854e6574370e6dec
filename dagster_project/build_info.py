"""What makes two builds of the same records differ: the code, and the price catalogue that it brings."""

from __future__ import annotations

import shutil
import subprocess
from importlib.metadata import version

import polars as pl

from dagster_project import rates
from dagster_project.settings import CHECKOUT


def versions() -> pl.DataFrame:
    """One row: `code_version` and `price_catalogue`, as the mart `build_info` describes them."""
    return pl.DataFrame({"code_version": [code_version()], "price_catalogue": [rates.catalogue_version()]})


def code_version() -> str:
    """The package's version; from a git checkout also its commit, and `-dirty` after edits."""
    released = version("llm-chargeback")
    if not (CHECKOUT / ".git").exists() or shutil.which("git") is None:
        return released
    described = subprocess.run(
        ["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty", "--exclude", "*"],
        capture_output=True,
        text=True,
        check=False,
    )
    # A checkout of somebody else's is not git's to describe.
    return f"{released}+{described.stdout.strip()}" if described.returncode == 0 else released
