"""Maps: which columns of somebody's table mean which columns of our schema.

A map is data: written in sources.yaml for the source `mapped`, or by the module of a gateway whose log needs
nothing else. `_mapped_rows` makes records of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from dagster_project.records import COLUMNS, METERS
from dagster_project.settings import Strict

DEPLOYMENT = "deployment"
"""What a map may name beside columns of the schema: the deployment, which routes tell providers' keys by."""

OF_THE_LAKE = ("record_kind", "source", "usage_date", "tags", "context_tokens", "other_meters")
"""Columns that follow from the others, or that `tags` says."""

INPUT_PARTS = tuple(
    meter.column
    for meter in METERS
    if meter.unit == "tokens"
    and meter.column not in ("input_tokens", "output_tokens")
    and "output" not in meter.name
)
OUTPUT_PARTS = ("output_audio_tokens", "output_image_tokens")

OPERATIONS = (
    "chat",
    "embedding",
    "image",
    "speech",
    "transcription",
    "moderation",
    "rerank",
    "search",
    "storage",
    "other",
)

YES_OR_NO: Mapping[str, str] = {
    **dict.fromkeys(("true", "t", "yes", "1", "hit"), "true"),
    **dict.fromkeys(("false", "f", "no", "0", "miss", "none"), "false"),
}

WORDS: Mapping[str, Mapping[str, str]] = {
    "status": {
        **dict.fromkeys(("ok", "success", "succeeded", "successful", "completed", "complete", "done"), "ok"),
        **dict.fromkeys(("error", "failed", "failure", "fail", "timeout", "rejected"), "error"),
        **dict.fromkeys(("cancelled", "canceled", "aborted"), "cancelled"),
    },
    "operation": {
        **{operation: operation for operation in OPERATIONS},
        **dict.fromkeys(("completion", "completions", "chat.completions", "messages", "responses"), "chat"),
        **dict.fromkeys(("embeddings",), "embedding"),
        **dict.fromkeys(("images", "image_generation"), "image"),
    },
    "charge_category": {name: name for name in ("usage", "credit", "tax", "fee", "adjustment", "purchase")},
    "is_cache_hit": YES_OR_NO,
    "is_streaming": YES_OR_NO,
}
"""What words mean, by column; a map's own `words` come first. Of these columns no word may mean nothing."""


MICROSECONDS: Mapping[str, str] = {"s": "1000000", "ms": "1000", "us": "1", "ns": "0.001"}
"""Microseconds of a unit of time."""


def _names(said: Any) -> Any:
    return (said,) if isinstance(said, str) else said


Names = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_names), Field(min_length=1)
]
"""A column, or several of which the first that says something counts. `usage.input` is a column of that name,
else `input` in the JSON of the column `usage`."""


class Column(Strict):
    """Where the values of a column of the schema come from."""

    column: Names | None = None
    value: str | None = None
    """The same for every row."""
    words: Mapping[str, str] = {}
    """What the table's words mean, whatever their case."""
    times: Decimal = Field(default=Decimal(1), gt=0, max_digits=11)
    """What a number is multiplied by, exactly: 1000 for thousands of tokens, 0.01 for cents."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, said: Any) -> Any:
        return {"column": said} if isinstance(said, (str, list, tuple)) else said

    @model_validator(mode="after")
    def _one_of_both(self) -> Column:
        if (self.column is None) == (self.value is None):
            raise ValueError("say either `column` or `value`")
        return self


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        raise ValueError(f"`{name}` is no time zone; write one like Europe/Paris") from None
    return name


class Time(Strict):
    """How the table writes instants."""

    format: str = "iso"
    """`iso`; `s`, `ms`, `us` or `ns` since 1970; or a pattern such as `%d/%m/%Y %H:%M:%S`."""
    zone: Annotated[str, AfterValidator(_zone)] = "UTC"
    """Of instants that do not say theirs."""

    @field_validator("format")
    @classmethod
    def _known(cls, format_: str) -> str:
        if format_ not in ("iso", *MICROSECONDS) and "%" not in format_:
            raise ValueError("this is neither iso, s, ms, us, ns nor a pattern such as %d/%m/%Y %H:%M:%S")
        return format_


class Tags(Strict):
    """Where claims stand."""

    columns: Mapping[str, Names] = {}
    """The column of each tag key."""
    maps: tuple[str, ...] = ()
    """Columns that hold several: an object, a list of `key:value` texts, or one text of them with commas."""
    headers: tuple[str, ...] = ()
    """Columns that hold an object of HTTP headers, of which only well-known keys are taken: any other may be
    a secret."""


class Map(Strict):
    """A table's columns, by the names that the schema has for them."""

    columns: Mapping[str, Column] = {}
    tags: Tags = Tags()
    time: Time = Time()
    parts: Literal["inside", "beside"] | None = None
    """Whether cached, audio and image tokens are counted in `input_tokens` (`output_tokens`), too."""
    reasoning: Literal["inside", "beside"] = "inside"
    """Whether `output_tokens` counts reasoning tokens, too."""

    @field_validator("columns")
    @classmethod
    def _known(cls, columns: Mapping[str, Column]) -> Mapping[str, Column]:
        if any(name == "file" for column in columns.values() for name in column.column or ()):
            raise ValueError("a column of the name `file` cannot be read; give it another one")
        free = [column.name for column in COLUMNS if column.name not in OF_THE_LAKE]
        if unknown := sorted(columns.keys() - {*free, DEPLOYMENT}):
            raise ValueError(f"there is no column {', '.join(unknown)} to map; those are {', '.join(free)}")
        for name, column in columns.items():
            meanings = sorted(set(WORDS.get(name, {}).values()))
            if meanings and (wrong := sorted(set(column.words.values()) - set(meanings))):
                raise ValueError(f"{name}: no word means {', '.join(wrong)}; they mean {', '.join(meanings)}")
        return columns

    @model_validator(mode="after")
    def _parts_are_said(self) -> Map:
        whole = {"input_tokens": INPUT_PARTS, "output_tokens": OUTPUT_PARTS}
        for name, parts in whole.items():
            mapped = [part for part in parts if part in self.columns]
            if self.parts is None and mapped and name in self.columns:
                raise ValueError(
                    f"say `parts: inside` if {name} counts {', '.join(mapped)}, too, or `parts: beside`"
                )
        return self

    def over(self, other: Map) -> Map:
        """This map where it says something, else the `other` one."""
        return Map(
            columns={**other.columns, **self.columns},
            tags=Tags(
                columns={**other.tags.columns, **self.tags.columns},
                maps=(*self.tags.maps, *other.tags.maps),
                headers=(*self.tags.headers, *other.tags.headers),
            ),
            time=self.time if "time" in self.model_fields_set else other.time,
            parts=self.parts or other.parts,
            reasoning=self.reasoning if "reasoning" in self.model_fields_set else other.reasoning,
        )
