"""Policies: who pays the lines of a bill that nobody used (fees, taxes, credits, purchases).

    - match: {category: tax}
      policy: proportional
      history:
        - {until: 2026-07-01, policy: user}

    user            whoever is printed on the line, else those who used the account that day; this
                    is how lines are allocated that no policy matches
    central         the `team`'s, whole
    proportional    divided as the month's other costs `over` the account are (or provider, or everything);
                    `otherwise` says whose it is where nobody has any

`match` has the keys of a line: line_item, category, account, provider. What bills usage is matched only
where `line_item` is said. Of several policies that match a line that with the strongest key decides, in
this order; then that with more keys, then that with more exact values. Two that could both decide are
refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from dagster_project.ownership._form import (
    POLICY_HISTORY_KEYS,
    POLICY_KEYS,
    POLICY_TERM_KEYS,
    Field,
    Form,
)
from dagster_project.ownership._ties import TooManyComparisonsError, ties
from dagster_project.ownership._yaml import Map, Node, shown
from dagster_project.ownership.model import (
    OPEN_FROM,
    OPEN_TO,
    POLICY_LEVELS,
    Condition,
    Mistake,
    Policy,
    PolicyTerms,
    Selector,
)

EXAMPLE = "policies such as {match: {category: tax}, policy: proportional}"
CATEGORIES = ("usage", "credit", "tax", "fee", "adjustment", "purchase")
BILLING_USAGE = ("usage", "adjustment")
TERMS_OF = {"user": (), "central": ("team",), "proportional": ("over", "otherwise")}
"""The policies, and what may be said of each."""
SCOPES = ("account", "provider", "everything")


class Policies(Form):
    """Reads policies; they wait until all teams are known."""

    def __init__(self, mistakes: list[Mistake], team: Callable[[Node], str | None]) -> None:
        super().__init__(mistakes)
        self.read: tuple[Policy, ...] = ()
        self._team = team
        self._written: list[Node] = []

    def add(self, nodes: Iterable[Node]) -> None:
        self._written += nodes

    def finish(self) -> None:
        self.read = tuple(map(self._policy, self._written))
        self._refuse_ties()

    def _policy(self, node: Node) -> Policy:
        mistakes_before = len(self.mistakes)
        fields = self._fields(node, POLICY_KEYS, "a policy")
        if len(self.mistakes) == mistakes_before:
            for key, example in (("match", "match: {category: tax}"), ("policy", "policy: proportional")):
                if key not in fields:
                    self._mistake(node.place, f"a policy says `{key}`; write e.g. {example}")
        before = PolicyTerms(node.place, OPEN_FROM, OPEN_TO, "user", None, None)
        current = self._terms(fields, before)
        terms = [
            self._terms(said, replace(current, place=line.place, valid_from=begins, valid_to=until))
            for line, begins, until, said in self._history(
                fields, POLICY_HISTORY_KEYS, "policy: user", node.place
            )
        ]
        current = replace(current, valid_from=terms[-1].valid_to if terms else OPEN_FROM)
        return Policy(tuple(self._selectors(node, fields)), (*terms, current))

    def _terms(self, fields: Mapping[str, Field], before: PolicyTerms) -> PolicyTerms:
        """`before`, with everything that `fields` say instead."""
        policy, team, over = before.policy, before.team, before.over
        if "policy" in fields:
            policy = self._one_of(TERMS_OF, fields["policy"])
            team, over = None, SCOPES[0] if policy == "proportional" else None
        for key in POLICY_TERM_KEYS[1:]:
            if key in fields and policy is not None and key not in TERMS_OF[policy]:
                remedy = " or ".join(name for name, keys in TERMS_OF.items() if key in keys)
                self._mistake(
                    fields[key].key.place,
                    f"`{key}` is of the policy `{remedy}`, and this is `{policy}`; leave it out",
                )
            elif key == "over" and key in fields:
                over = self._one_of(SCOPES, fields[key])
            elif key in fields:
                team = self._team(fields[key].value)
        if policy == "central" and "policy" in fields and "team" not in fields:
            self._mistake(
                fields["policy"].key.place, "what is kept central is a team's; write `team: NAME` beside it"
            )
        return replace(before, policy=policy or before.policy, team=team, over=over)

    def _one_of(self, known: Iterable[str], field: Field) -> str | None:
        text = self._text(field.value, f"`{field.key.text}`")
        if text is None or text in known:
            return text
        instead = self._nearest(text, list(known)) or f"write one of {', '.join(known)}"
        self._mistake(field.value.place, f"`{field.key.text}` is never {shown(text)}; {instead}")
        return None

    def _selectors(self, policy: Node, fields: Mapping[str, Field]) -> Iterable[Selector]:
        if "match" not in fields:
            return
        match = fields["match"].value
        nodes = (
            [match] if isinstance(match, Map) else self._items(fields, "match", "lines: [{category: tax}]")
        )
        written: dict[frozenset[Condition | None], Selector] = {}
        for node in nodes:
            mistakes_before = len(self.mistakes)
            said = self._fields(node, tuple(POLICY_LEVELS), "what a policy is for")
            conditions = tuple(self._condition(field) for field in said.values())
            category = next((c.value for c in conditions if c and c.dimension == "category"), None)
            if category in BILLING_USAGE and "line_item" not in said:
                self._mistake(
                    said["category"].value.place,
                    f"what bills usage ({category}) is its users'; say which lines are not, by `line_item`",
                )
            if not said and len(self.mistakes) == mistakes_before:
                self._mistake(node.place, "this would match every line; write e.g. {category: tax}")
            if len(self.mistakes) == mistakes_before:
                # Selectors of one policy do not contradict each other, so they are of one rule.
                level = min(POLICY_LEVELS[key] for key in said)
                selector = Selector(str(node.place), str(policy.place), node.place, level, conditions)
                first = written.setdefault(frozenset(conditions), selector)
                if first is selector:
                    yield selector
                else:
                    self._mistake(node.place, f"{selector} is already at {first.place}; keep one of the two")

    def _condition(self, field: Field) -> Condition | None:
        if field.key.text == "category":
            text = self._one_of(CATEGORIES, field)
        else:
            text = self._text(field.value, f"`{field.key.text}`")
        return None if text is None else Condition(field.key.text, None, text)

    def _refuse_ties(self) -> None:
        try:
            for later, earlier in ties(s for policy in self.read for s in policy.selectors):
                self._mistake(
                    later.place,
                    f"{later} and {earlier} at {earlier.place} are equally specific and can match the same "
                    "line; add a key to one of them or narrow it",
                )
        except TooManyComparisonsError as error:
            self._mistake(
                error.selector.place,
                f"{error.selector} is one of too many patterns that may match the same; let patterns begin "
                "with letters that tell them apart",
            )
