"""References between the parts of one JSON schema: pointers, anchors and identifiers.

A part with an ``$id`` is a resource of its own: the references in it are relative to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias
from urllib.parse import unquote, urljoin

from mlc_widget.api.errors import BadRequestError, UnsupportedFieldError

_PARTS: Final = 100_000
"""The maximum number of a schema's values that are searched for identifiers."""
_VALUES: Final = frozenset({"const", "enum", "default", "examples", "example"})
"""Keywords whose values are not schemas."""

_Place: TypeAlias = tuple[Any, str]
"""A part of the schema, and its path."""


@dataclass(slots=True)
class _Resource:
    """A part of the schema with an identifier, or the whole schema."""

    node: Any
    path: str
    uri: str
    anchors: dict[str, _Place] = field(default_factory=dict)
    dynamic: dict[str, _Place] = field(default_factory=dict)


class References:
    """Finds the targets of references, and gives each a name."""

    def __init__(self, root: Any, at: str) -> None:
        """Set up for a schema.

        Args:
            root: The schema.
            at: The request's field that it comes from, for errors.
        """
        self._root = _Resource(root, at, _identifier(root))
        self._named: dict[int, str] = {}
        self._targets: list[tuple[str, str, Any]] = []
        self._resources: list[_Resource] = [self._root]
        self._by_uri: dict[str, _Resource] = {}
        self._holder: dict[int, _Resource] | None = None

    def follow(self, at: str, reference: str, schema: Any) -> str:
        """The name of the target of a ``$ref``.

        Args:
            at: The path of the keyword, for errors.
            reference: Its value.
            schema: The schema that has it.

        Raises:
            BadRequestError: It leads out of the schema, or to no schema.
        """
        return self._name(at, reference, self._place(at, reference, self._resource_of(schema)))

    def follow_dynamic(self, at: str, reference: str, schema: Any) -> str:
        """The name of the target of a ``$dynamicRef``, if it has only one.

        Raises:
            BadRequestError: It leads out of the schema, or to no schema.
            UnsupportedFieldError: It has several targets, depending on the dynamic scope.
        """
        here = self._resource_of(schema)
        place = self._place(at, reference, here)
        anchor = _split(reference)[1]
        named = [r.dynamic[anchor] for r in self._resources if anchor in r.dynamic]
        if place is not None and any(place[0] is node for node, _ in named):
            place = self._outermost(at, reference, self._root.dynamic.get(anchor), named)
        return self._name(at, reference, place)

    def follow_recursive(self, at: str, reference: str, schema: Any) -> str:
        """The same for a ``$recursiveRef`` of draft 2019-09."""
        here = self._resource_of(schema)
        place = self._place(at, reference, here)
        marked = [
            (r.node, r.path)
            for r in self._resources
            if isinstance(r.node, Mapping) and r.node.get("$recursiveAnchor") is True
        ]
        if place is not None and any(place[0] is node for node, _ in marked):
            root = next((p for p in marked if p[0] is self._root.node), None)
            place = self._outermost(at, reference, root, marked)
        return self._name(at, reference, place)

    def target(self, name: str) -> Any:
        """The target with a name that `follow` returned, as it is in the schema."""
        return self._targets[int(name)][2]

    def followed(self) -> Iterator[tuple[str, str, Any]]:
        """Every target: name, path and schema; also those that are added meanwhile."""
        for i in range(2**31):  # pragma: no branch
            if i == len(self._targets):
                return
            yield self._targets[i]

    @staticmethod
    def _outermost(at: str, reference: str, in_root: _Place | None, places: list[_Place]) -> _Place:
        """The target of a dynamic reference: the root is always the outermost scope."""
        if in_root is not None:
            return in_root
        if len(places) > 1:
            raise UnsupportedFieldError(
                f"{at} = {reference!r:.120}: it may refer to different schemas, depending on "
                "where it is used, which cannot be enforced; use $ref.",
                param=at,
            )
        return places[0]

    def _name(self, at: str, reference: str, place: _Place | None) -> str:
        target, path = place or (None, "")
        if not isinstance(target, Mapping | bool):
            raise _wrong(at, reference, "the schema has nothing there; refer to an entry of $defs")
        name = self._named.get(id(target))
        if name is None or isinstance(target, bool):
            name = str(len(self._targets))
            self._named[id(target)] = name
            self._targets.append((name, path, target))
        return name

    def _place(self, at: str, reference: str, here: _Resource) -> _Place | None:
        base, fragment = _split(reference)
        resource = here
        if base:
            uris = (_joined(here.uri, base), base, _joined(self._root.uri, base))
            found = next((self._by_uri[u] for u in uris if u in self._by_uri), None)
            if found is None:
                raise _wrong(at, reference, "only references within the schema can be followed")
            resource = found
        # A pointer that is not found in its resource may be meant for the whole schema.
        tried = [resource] if base else [resource, self._root]
        fragment = unquote(fragment)
        if fragment and not fragment.startswith("/"):
            tried += [r for r in self._resources if fragment in r.anchors]
            return next((r.anchors[fragment] for r in tried if fragment in r.anchors), None)
        places = (_pointed(r, fragment) for r in tried)
        return next((p for p in places if p is not None), None)

    def _resource_of(self, schema: Any) -> _Resource:
        if self._holder is None:
            self._holder = {}
            self._search(self._holder)
        return self._holder.get(id(schema), self._root)

    def _search(self, holder: dict[int, _Resource]) -> None:
        """Find all identifiers and anchors, and the resource that contains each part."""
        legacy = "draft-04" in _dialect(self._root.node) or "draft-03" in _dialect(self._root.node)
        left: list[tuple[Any, str, _Resource]] = [(self._root.node, self._root.path, self._root)]
        for _ in range(_PARTS):
            if not left:
                break
            node, path, resource = left.pop()
            if isinstance(node, list):
                left += [(part, f"{path}[{i}]", resource) for i, part in enumerate(node)]
            if not isinstance(node, Mapping):
                continue
            resource = self._identify(node, path, resource, legacy=legacy)
            holder[id(node)] = resource
            for keyword in ("$anchor", "$dynamicAnchor"):
                if isinstance(anchor := node.get(keyword), str):
                    resource.anchors.setdefault(anchor, (node, path))
            if isinstance(anchor := node.get("$dynamicAnchor"), str):
                resource.dynamic.setdefault(anchor, (node, path))
            left += [(v, f"{path}.{k}", resource) for k, v in node.items()
                     if k not in _VALUES and isinstance(v, Mapping | list)]  # fmt: skip

    def _identify(
        self, node: Mapping[str, Any], path: str, resource: _Resource, *, legacy: bool
    ) -> _Resource:
        """The resource that contains a part: the part itself if it has an identifier."""
        identifier = _identifier(node)
        if identifier.startswith("#"):  # up to draft 7, an anchor
            resource.anchors.setdefault(identifier[1:], (node, path))
            return resource
        if not identifier:
            return resource
        own = self._root
        if node is not self._root.node:
            own = _Resource(node, path, _joined(resource.uri, identifier))
            self._resources.append(own)
        for uri in (own.uri, identifier):
            self._by_uri.setdefault(uri, own)
            self._by_uri.setdefault(uri.rstrip("#"), own)
        return own if legacy or "$id" in node else resource


def leads_back(name: str, definitions: Mapping[str, Any]) -> bool:
    """Whether a checked schema refers to itself for the same value.

    Args:
        name: Its name in `definitions`.
        definitions: Checked schemas by name.
    """
    seen: set[str] = set()
    left: list[Any] = [definitions[name]]
    while left:
        schema = left.pop()
        if not isinstance(schema, Mapping):
            continue
        for keyword in ("allOf", "anyOf", "oneOf"):
            left += schema.get(keyword, ())
        if "$ref" in schema:
            target = schema["$ref"].lstrip("!?")
            if target == name:
                return True
            if target not in seen:
                seen.add(target)
                left.append(definitions[target])
    return False


def _split(reference: str) -> tuple[str, str]:
    """The part before the fragment, and the fragment."""
    base, _, fragment = reference.partition("#")
    return base, fragment


def _joined(base: str, reference: str) -> str:
    try:
        return urljoin(base, reference)
    except ValueError:  # no URL, such as http://[
        return reference


def _pointed(resource: _Resource, pointer: str) -> _Place | None:
    """The target of a JSON pointer; None if there is none."""
    node, path = resource.node, resource.path
    for part in pointer.split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        if isinstance(node, Mapping) and part in node:
            node, path = node[part], f"{path}.{part}"
        elif isinstance(node, list) and part.isdecimal() and int(part) < len(node):
            node, path = node[int(part)], f"{path}[{int(part)}]"
        else:
            return None
    return node, path


def _identifier(node: Any) -> str:
    found = node.get("$id", node.get("id")) if isinstance(node, Mapping) else ""
    return found if isinstance(found, str) else ""


def _dialect(node: Any) -> str:
    found = node.get("$schema") if isinstance(node, Mapping) else ""
    return found if isinstance(found, str) else ""


def _wrong(at: str, value: Any, remedy: str) -> BadRequestError:
    return BadRequestError(f"{at} = {value!r:.120}: {remedy}.", param=at)
