"""References between the parts of one JSON schema: pointers, anchors and identifiers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import unquote, urldefrag, urljoin

from mlc_widget.api.errors import BadRequestError

_PARTS: Final = 100_000
"""Values of a schema that are searched for identifiers."""


class References:
    """Finds what references lead to, and gives each target a name."""

    def __init__(self, root: Any, at: str) -> None:
        """Know a schema.

        Args:
            root: The schema.
            at: The request's field that it comes from, for errors.
        """
        self._root = root
        self._at = at
        self._named: dict[int, str] = {}
        self._targets: list[tuple[str, str, Any]] = []
        self._identified: dict[str, Any] | None = None

    def follow(self, at: str, reference: str) -> str:
        """The name of what a reference leads to.

        Raises:
            BadRequestError: It leads out of the schema, or to no schema.
        """
        target = self._target(at, reference)
        if not isinstance(target, Mapping | bool):
            raise _wrong(at, reference, "the schema has none there; refer to an entry of $defs")
        name = self._named.get(id(target))
        if name is None or isinstance(target, bool):
            name = str(len(self._targets))
            self._named[id(target)] = name
            where = f"{self._at}.{'.'.join(_parts(urldefrag(reference).fragment))}".rstrip(".")
            self._targets.append((name, where, target))
        return name

    def target(self, name: str) -> Any:
        """What has a name that `follow` gave, as it is in the schema."""
        return self._targets[int(name)][2]

    def followed(self) -> Iterator[tuple[str, str, Any]]:
        """Every target: name, path and schema; also those that are added meanwhile."""
        for i in range(2**31):  # pragma: no branch
            if i == len(self._targets):
                return
            yield self._targets[i]

    def _target(self, at: str, reference: str) -> Any:
        base, fragment = urldefrag(reference)
        node = self._root
        if base:
            known = self._identifiers()
            node = known.get(base, known.get(urljoin(self._root_id(), base)))
            if node is None:
                raise _wrong(at, reference, "only references within the schema can be followed")
        if fragment and not fragment.startswith("/"):
            return self._identifiers().get(f"#{unquote(fragment)}")
        for part in _parts(fragment):
            if isinstance(node, Mapping) and part in node:
                node = node[part]
            elif isinstance(node, list) and part.isdecimal() and int(part) < len(node):
                node = node[int(part)]
            else:
                return None
        return node

    def _root_id(self) -> str:
        if not isinstance(self._root, Mapping):
            return ""
        found = self._root.get("$id", self._root.get("id"))
        return found if isinstance(found, str) else ""

    def _identifiers(self) -> dict[str, Any]:
        """Schemas by ``$id``, and by ``$anchor`` with a # before it."""
        if self._identified is None:
            known: dict[str, Any] = {}
            left = [(self._root, "")]
            for _ in range(_PARTS):
                if not left:
                    break
                node, base = left.pop()
                if isinstance(node, Mapping):
                    identifier = node.get("$id", node.get("id"))
                    if isinstance(identifier, str) and identifier:
                        base = urljoin(base, identifier)
                        for name in (identifier, base, base.rstrip("#")):
                            known.setdefault(name, node)
                    for keyword in ("$anchor", "$dynamicAnchor"):
                        if isinstance(node.get(keyword), str):
                            known.setdefault(f"#{node[keyword]}", node)
                    left += [(v, base) for k, v in node.items() if k not in ("const", "enum")]
                elif isinstance(node, list):
                    left += [(v, base) for v in node]
            self._identified = known
        return self._identified


def leads_back(name: str, definitions: Mapping[str, Any]) -> bool:
    """Whether what a checked schema wants of a value depends on whether it fits that schema.

    Args:
        name: The schema's, in `definitions`; those of complements have a mark before them.
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


def _parts(fragment: str) -> list[str]:
    pointer = unquote(fragment)
    return [p.replace("~1", "/").replace("~0", "~") for p in pointer.split("/")[1:]]


def _wrong(at: str, value: Any, remedy: str) -> BadRequestError:
    return BadRequestError(f"{at} = {value!r:.120}: {remedy}.", param=at)
