"""What can go wrong, each with the place where it did and what to do about it.

    ChargebackError           one readable paragraph; the console command prints it, exit code 1
    ├── ConfigError           sources.yaml or the environment is wrong; nothing was started (exit code 2)
    ├── SourceError           a source could not be pulled or understood; the old data stays
    └── ContractError         records that break the cross-provider schema; the old data stays

No message ever holds a secret, a prompt or a response.
"""

from __future__ import annotations

from collections.abc import Sequence


class ChargebackError(Exception):
    """Base of every error that a user is meant to read."""

    exit_code = 1


class ConfigError(ChargebackError):
    """The configuration is wrong. `place` is file, or file and entry; `problems` are all of them."""

    exit_code = 2

    def __init__(self, place: str, problems: Sequence[str]) -> None:
        self.place = place
        self.problems = list(problems)
        super().__init__(f"{place}: " + "; ".join(self.problems))


class SourceError(ChargebackError):
    """`source` could not be pulled or understood: what happened, where, and what to do."""

    def __init__(self, source: str, what: str, *, where: str, remedy: str) -> None:
        self.source = source
        self.what = what
        self.where = where
        self.remedy = remedy
        super().__init__(f"source `{source}`, {where}: {what}. {remedy}")


class ContractError(ChargebackError):
    """Records of `source` break the cross-provider schema (`records.py`)."""

    def __init__(self, source: str, kind: str, problems: Sequence[str]) -> None:
        self.source = source
        self.problems = list(problems)
        super().__init__(
            f"source `{source}`: {kind} records break the schema: {'; '.join(self.problems)}. "
            "Nothing was replaced; the module in dagster_project/sources has to be corrected."
        )
