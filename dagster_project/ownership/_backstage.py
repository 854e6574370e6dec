"""Backstage's catalogue in the words of the map: Groups are teams, Components services, Systems projects.

What the catalogue does not know is said in annotations `llm-chargeback/<key>`, with the keys of a team or a
service. Those of one text hold it as it is; `split`, `among`, `match` and `history` hold YAML.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from dagster_project.ownership._form import OWNER_KEYS, SERVICE_KEYS, TEAM_KEYS, Field, Form
from dagster_project.ownership._yaml import Map, Node, Scalar, kind_of, positions_of, read, shown
from dagster_project.ownership.model import Mistake

PREFIX = "llm-chargeback/"

_ANNOTATIONS: Mapping[str, Sequence[str]] = {"Group": TEAM_KEYS, "Component": SERVICE_KEYS, "System": ()}
_YAML_KEYS = ("split", "among", "match", "history")

_REFERENCE = re.compile(r"(?:(?P<kind>[^:/]+):)?(?:(?P<namespace>[^:/]+)/)?(?P<name>[^:/]+)")


class Component(NamedTuple):
    """A Component; its `annotated` keys and values stand by turns, as in `Map.items`."""

    name: Scalar
    namespace: str
    owner: Field | None
    system: Field | None
    lifecycle: str | None
    annotated: list[Node]


def is_entity(node: Node) -> bool:
    return _value(node, "apiVersion") is not None and _value(node, "kind") is not None


class Catalogue(Form):
    """Reads entities; Components wait until all Groups and Systems are known."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        super().__init__(mistakes)
        self.components: list[Component] = []
        self.values = 0
        """How many keys and values are kept of what was read."""
        self._systems: dict[str, str] = {}

    def read(self, entity: Map, text: str) -> Field | None:
        """The team that a Group is. `text` is that of its file. Kinds that own nothing are passed over."""
        kind = self._kind(entity)
        if kind is None:
            return None
        top = self._fields(entity, None, f"a {kind}")
        metadata = self._fields(top["metadata"].value, None, "`metadata`") if "metadata" in top else {}
        spec = self._fields(top["spec"].value, None, "`spec`") if "spec" in top else {}
        naming = [metadata.get("name"), metadata.get("namespace"), spec.get("owner"), spec.get("system")]
        if any(field and isinstance(field.value, Scalar) and "{{" in field.value.text for field in naming):
            # The skeleton of a template, from which entities are made: `name: ${{ values.name }}`.
            return None
        namespace = self._optional_text(metadata, "namespace") or "default"
        key = self._name(entity, kind, metadata, namespace)
        annotated = self._annotated(kind, metadata, text)
        if key is None:
            return None
        self.values += 8 + len(annotated)
        if kind == "Group":
            return Field(key, Map(entity.source, entity.start, annotated))
        if kind == "System":
            self._systems[key.text.lower()] = key.text
        else:
            said = (namespace, spec.get("owner"), spec.get("system"))
            lifecycle = self._optional_text(spec, "lifecycle")
            self.components.append(Component(key, *said, lifecycle, annotated))
        return None

    def service(self, component: Component, teams: Mapping[str, str], is_complete: bool) -> Field:
        """A Component as an entry of `services`. `teams` are names by their lower case, all if `is_complete`.

        Its owner pays, unless annotations say who does; its System is the project.
        """
        items = list(component.annotated)
        said = {key.text: value for key, value in zip(items[::2], items[1::2], strict=True)}
        if not said.keys() & set(OWNER_KEYS):
            team = self._payer(component, teams, is_complete)
            if team is not None:
                items += [Scalar(team.source, team.start, "team", ""), team]
        elif "team" in said:
            self._compare(component, said["team"])
        if component.system is not None and "project" not in said:
            node = component.system.value
            reference = self._reference(node, component.namespace, "system")
            if reference is not None:
                project = self._systems.get(reference.lower(), reference)
                items += [
                    Scalar(node.source, node.start, "project", ""),
                    Scalar(node.source, node.start, project, '"'),
                ]
        return Field(component.name, Map(component.name.source, component.name.start, items))

    def _kind(self, entity: Map) -> str | None:
        """Its kind, if it is one of those that own something."""
        version, kind = _value(entity, "apiVersion"), _value(entity, "kind")
        if not (isinstance(version, Scalar) and version.text.startswith("backstage.io/")):
            return None
        if isinstance(kind, Scalar) and kind.text in _ANNOTATIONS:
            return kind.text
        annotations = _value(_value(entity, "metadata"), "annotations")
        for key in annotations.items[::2] if isinstance(annotations, Map) else []:
            if isinstance(key, Scalar) and key.text.startswith(PREFIX):
                self._refuse_annotation(key, f"the kind {kind_of(kind)}")
        return None

    def _name(self, entity: Map, kind: str, metadata: Mapping[str, Field], namespace: str) -> Scalar | None:
        if "name" not in metadata:
            self._mistake(entity.place, f"a {kind} has a name; write it as `name` in its `metadata`")
            return None
        node = metadata["name"].value
        name = self._text(node, "`metadata.name`")
        if name is None:
            return None
        return Scalar(node.source, node.start, _qualified(namespace, name), '"')

    def _payer(self, component: Component, teams: Mapping[str, str], is_complete: bool) -> Scalar | None:
        if component.owner is None:
            self._mistake(
                component.name.place,
                f"component {shown(component.name.text)} has no owner; write `owner: group:NAME` in its "
                f"`spec`, or an annotation such as `{PREFIX}split`",
            )
            return None
        node = component.owner.value
        reference = self._reference(node, component.namespace, "group")
        if reference is None:
            return None
        if reference.lower() not in teams:
            if is_complete:
                instead = self._nearest(reference, teams.values(), _as_reference)
                self._mistake(
                    node.place,
                    f"no Group or team {shown(reference)} is declared; "
                    f"{instead or 'add the file of the Group, or declare it under `teams:`'}",
                )
            return None
        return Scalar(node.source, node.start, teams[reference.lower()], '"')

    def _compare(self, component: Component, team: Node) -> None:
        """Refuses an annotated team that is not the group that the spec names. A person may own it, too."""
        owner = component.owner.value if component.owner is not None else None
        if not (isinstance(owner, Scalar) and isinstance(team, Scalar)):
            return
        found = _REFERENCE.fullmatch(owner.text)
        if found is None or (found["kind"] or "group").lower() != "group":
            return
        group = _qualified(found["namespace"] or component.namespace, found["name"])
        if group.lower() != team.text.lower():
            self._mistake(
                team.place,
                f"{shown(team.text)} contradicts {shown(owner.text)}, the owner in `spec` at {owner.place}; "
                "make them one",
            )

    def _reference(self, node: Node, namespace: str, kind: str) -> str | None:
        """What an entity reference names; `kind` and `namespace` are those that it may leave out."""
        text = self._text(node, f"a reference to a {kind}")
        if text is None:
            return None
        found = _REFERENCE.fullmatch(text)
        if found is None:
            self._mistake(
                node.place, f"{shown(text)} is no entity reference; write it like {kind}:default/NAME"
            )
            return None
        named = (found["kind"] or kind).lower()
        if named != kind:
            remedy = f", or the team that pays as the annotation `{PREFIX}team`" if kind == "group" else ""
            self._mistake(
                node.place, f"{shown(text)} is a {named}, not a {kind}; write it like {kind}:NAME{remedy}"
            )
            return None
        return _qualified(found["namespace"] or namespace, found["name"])

    def _annotated(self, kind: str, metadata: Mapping[str, Field], text: str) -> list[Node]:
        if "annotations" not in metadata:
            return []
        items: list[Node] = []
        known = _ANNOTATIONS[kind]
        for key, value in self._fields(metadata["annotations"].value, None, "`annotations`").values():
            if not key.text.startswith(PREFIX):
                continue
            if not known:
                self._refuse_annotation(key, f"a {kind}")
                continue
            word = key.text.removeprefix(PREFIX)
            if word not in known:
                instead = self._nearest(word, known, PREFIX.__add__)
                names = ", ".join(PREFIX + key for key in known)
                self._mistake(
                    key.place,
                    f"unknown annotation {shown(key.text)}; {instead or f'those of a {kind} are {names}'}",
                )
                continue
            node = self._annotation(value, text) if word in _YAML_KEYS else value
            if node is not None:
                items += [Scalar(key.source, key.start, word, ""), node]
        return items

    def _annotation(self, value: Node, text: str) -> Node | None:
        """What the text of an annotation says, with its places in the file."""
        if not isinstance(value, Scalar):
            self._mistake(
                value.place,
                f"an annotation is text, not {kind_of(value)}; put `|` before it, on the line above",
            )
            return None
        documents = read(value.text, value.source, positions=positions_of(value, text))
        if isinstance(documents, Mistake):
            self._mistake(*documents)
            return None
        for document in documents:
            self.values += document.values
            for mistake in document.mistakes:
                self._mistake(*mistake)
        if len(documents) > 1:
            self._mistake(documents[1].node.place, "a second document begins here; remove the `---`")
        return documents[0].node if documents else Scalar(value.source, value.start, "", "")

    def _refuse_annotation(self, key: Scalar, kind: str) -> None:
        self._mistake(
            key.place,
            f"{shown(key.text)} says nothing about {kind}; write it to a Component or a Group",
        )


def _value(node: Node | None, key: str) -> Node | None:
    if not isinstance(node, Map):
        return None
    pairs = zip(node.items[::2], node.items[1::2], strict=True)
    return next((value for said, value in pairs if isinstance(said, Scalar) and said.text == key), None)


def _qualified(namespace: str, name: str) -> str:
    """The name of a team or service: Backstage's, with the namespace unless it is the one of everybody."""
    return name if namespace.lower() == "default" else f"{namespace}/{name}"


def _as_reference(name: str) -> str:
    return f"group:{name}" if "/" in name else f"group:default/{name}"
