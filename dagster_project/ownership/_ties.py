"""Selectors between which the map does not decide."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from dagster_project.ownership.model import Condition, Selector

MOST_COMPARISONS = 2_000_000
"""Some ten seconds. Ten thousand services with four patterns each need 30,000."""


class TooManyComparisonsError(Exception):
    """`selector` is one of too many whose patterns have no fixed beginning or end to tell them apart by."""

    def __init__(self, selector: Selector) -> None:
        super().__init__(str(selector))
        self.selector = selector


def globs_overlap(one: str, other: str) -> bool:
    """Whether some text matches both; `*` is any text, also none, and `?` is any one character."""
    if "*" not in one:
        one, other = other, one
    if "*" not in one:
        return len(one) == len(other) and _agree(one, other)
    head, *middle, tail = one.split("*")
    if "*" in other:
        # Whatever is between their outermost stars can be put one after the other.
        other_head, *_, other_tail = other.split("*")
        return _agree(head, other_head) and _agree(tail[::-1], other_tail[::-1])
    start, end = len(head), len(other) - len(tail)
    if start > end or not (_agree(head, other) and _agree(tail, other[end:])):
        return False
    for part in middle:
        starts = range(start, end - len(part) + 1)
        found = next((at for at in starts if _agree(part, other[at : at + len(part)])), None)
        if found is None:
            return False
        start = found + len(part)
    return True


def _agree(one: str, other: str) -> bool:
    """Whether the characters that both have can be the same."""
    return all(a == b or "?" in (a, b) for a, b in zip(one, other, strict=False))


def ties(selectors: Iterable[Selector]) -> Iterator[tuple[Selector, Selector]]:
    """Equally specific selectors of two services that can match one identity.

    Each selector that ties with earlier ones is told once, as (it, one of them). What cannot be seen here
    is that one selector has a key's id and another its name. Raises TooManyComparisonsError.
    """
    comparisons = 0
    by_rank: defaultdict[tuple[int, int, int], list[Selector]] = defaultdict(list)
    for selector in selectors:
        by_rank[selector.rank].append(selector)
    for ranked in by_rank.values():
        equals = _Equals(ranked)
        for selector in ranked:
            for other in equals.candidates(selector):
                comparisons += 1
                if comparisons > MOST_COMPARISONS:
                    raise TooManyComparisonsError(selector)
                if other is not None and _is_earlier_rival(other, selector):
                    yield selector, other
                    break


def _is_earlier_rival(other: Selector, selector: Selector) -> bool:
    """Whether it is another service's, earlier in the files, and can match what `selector` matches."""
    return (
        other.rule != selector.rule
        and other.place < selector.place
        and all(
            globs_overlap(one.value, another.value)
            for one in selector.conditions
            for another in other.conditions
            if _key(one) == _key(another)
        )
    )


_Key = tuple[str, str | None]


def _key(condition: Condition) -> _Key:
    return condition.dimension, condition.tag_key


class _Equals:
    """Equally specific selectors, indexed so that not every pair has to be compared.

    Ten thousand services have fifty million pairs; but a selector can only overlap with those that have
    a near value for its rarest key, or that lack this key.
    """

    def __init__(self, selectors: Sequence[Selector]) -> None:
        self._by_shape: defaultdict[frozenset[_Key], list[Selector]] = defaultdict(list)
        by_key: defaultdict[_Key, list[tuple[Condition, Selector]]] = defaultdict(list)
        for selector in selectors:
            self._by_shape[frozenset(map(_key, selector.conditions))].append(selector)
            for condition in selector.conditions:
                by_key[_key(condition)].append((condition, selector))
        self._near = {key: _Near(entries) for key, entries in by_key.items()}
        self._lacking = {key: len(selectors) - len(entries) for key, entries in by_key.items()}

    def candidates(self, selector: Selector) -> Iterator[Selector | None]:
        """All that may match what `selector` matches, and more; None where looking for them took a step."""
        options = {}
        for condition in selector.conditions:
            near = self._near[_key(condition)].lists(condition)
            options[_key(condition)] = near
            yield from [None] * len(near)
        rarest = min(options, key=lambda key: self._lacking[key] + sum(map(len, options[key])))
        for near in options[rarest]:
            yield from near
        if self._lacking[rarest]:
            for shape, members in self._by_shape.items():
                if rarest in shape:
                    yield None
                else:
                    yield from members


class _Near:
    """Selectors by their value of one key: by the whole of it, or by what is before its first wildcard.

    Two values can only overlap if one's fixed beginning begins the other's. Where most globs begin with
    a star, all are read from their end instead.
    """

    def __init__(self, entries: Sequence[tuple[Condition, Selector]]) -> None:
        globs = [condition.value for condition, _ in entries if condition.is_glob]
        self._backwards = sum(glob[0] in "*?" for glob in globs) * 2 > len(globs)
        self._exact: defaultdict[str, list[Selector]] = defaultdict(list)
        self._heads: defaultdict[str, list[Selector]] = defaultdict(list)
        for condition, selector in entries:
            (self._heads if condition.is_glob else self._exact)[self._fixed(condition)].append(selector)
        self._head_lengths = sorted({len(head) for head in self._heads})
        self._texts = sorted({*self._exact, *self._heads})

    def _fixed(self, condition: Condition) -> str:
        value = condition.value[::-1] if self._backwards else condition.value
        return re.split(r"[*?]", value, maxsplit=1)[0]

    def lists(self, condition: Condition) -> list[list[Selector]]:
        """Everything that may overlap with the condition, and some that does not."""
        text = self._fixed(condition)
        shorter = (text[:length] for length in self._head_lengths if length < len(text))
        found = [self._heads[head] for head in shorter if head in self._heads]
        if not condition.is_glob:
            return [*found, self._exact.get(text, []), self._heads.get(text, [])]
        first = bisect_left(self._texts, text)
        last = bisect_right(self._texts, text, key=lambda longer: longer[: len(text)])
        for longer in self._texts[first:last]:
            found += [self._exact.get(longer, []), self._heads.get(longer, [])]
        return found
