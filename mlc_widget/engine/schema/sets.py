"""Sets of schemas that one value must match at once, by number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from mlc_widget.api.errors import BadRequestError
from mlc_widget.engine.schema.complement import Complements, NoComplementError, definition_of
from mlc_widget.engine.schema.conjunction import HAS_PROPERTY, path_of
from mlc_widget.engine.schema.equal_schemas import EqualSchemas
from mlc_widget.engine.schema.located import LocatedSchema

Ids: TypeAlias = tuple[int, ...]
"""The numbers of schemas; ``false`` has -1."""
Group: TypeAlias = tuple[int, str]
"""A choice: the number of a schema, and its keyword."""

NOTHING: Final[Ids] = (-1,)
"""The set of schemas that no value matches."""
_CHOICES: Final = ("anyOf", "oneOf", HAS_PROPERTY)
_LINKS: Final = frozenset({"$ref", "allOf", "$defs", "anyOf", "oneOf"})


class SchemaSets:
    """Numbers the parts of one checked schema, and follows its references."""

    def __init__(self, root: Any, at: str) -> None:
        self._at = at
        self._definitions = dict(root.get("$defs", {})) if isinstance(root, Mapping) else {}
        self._schemas: list[Any] = []
        self._numbered: dict[int, int] = {}
        self._complements = Complements()
        self._equal = EqualSchemas()

    def ids(self, schemas: Iterable[Any]) -> Ids:
        """The set of these schemas, without those that allow everything."""
        ids = []
        for schema in schemas:
            if schema is True or schema == {}:
                continue
            known = self._numbered.get(id(schema))
            if known is None or schema is False:
                known = -1 if schema is False else len(self._schemas)
                if schema is not False:
                    self._numbered[id(schema)] = known
                    self._schemas.append(schema)
            ids.append(known)
        return NOTHING if -1 in ids else tuple(dict.fromkeys(ids))

    @staticmethod
    def joined(one: Ids, other: Ids) -> Ids:
        """The union of two sets."""
        return NOTHING if -1 in one or -1 in other else tuple(dict.fromkeys((*one, *other)))

    def gather(self, ids: Ids) -> tuple[list[Any], list[Group]] | None:
        """The schemas and choices behind references and allOf; None if one of them is false.

        The choices that depend on what the others bring come last.
        """
        bases: list[Any] = []
        groups: list[Group] = []
        seen: set[int] = set()
        left = list(reversed(ids))
        while left:
            i = left.pop()
            if i in seen:
                continue
            if i == -1:
                return None
            seen.add(i)
            schema = self._schemas[i]
            if schema.keys() - _LINKS:
                bases.append(schema)
            links = list(schema.get("allOf", ()))
            if "$ref" in schema:
                links.insert(0, self._definition(schema["$ref"]))
            groups += [(i, kind) for kind in _CHOICES if kind in schema]
            left += reversed(self.ids(links))
        return bases, sorted(groups, key=lambda g: g[1] == HAS_PROPERTY)

    def problem(self) -> BadRequestError | None:
        """Why no value matches one of the schemas, if that is obvious."""
        found = (s.problem for s in self._schemas if isinstance(s, LocatedSchema) and s.problem)
        return next(found, None)

    def schema(self, group: Group) -> Any:
        """The schema with a choice."""
        return self._schemas[group[0]]

    def branches(self, group: Group) -> Sequence[Any]:
        """The branches of an anyOf or a oneOf."""
        branches: Sequence[Any] = self._schemas[group[0]][group[1]]
        return branches

    def resolved(self, schema: Any) -> Any:
        """The target of a schema that is only a reference; any other schema itself."""
        for _ in range(100):
            if not isinstance(schema, Mapping) or set(schema) != {"$ref"}:
                break
            schema = self._definition(schema["$ref"])
        return schema

    def _definition(self, name: str) -> Any:
        if name not in self._definitions:  # a complement, which is made on demand
            of, lenient = definition_of(name)
            schema = self._definitions[of]
            try:
                self._definitions[name] = self.complement(schema, lenient=lenient)
            except NoComplementError as error:
                raise error.at(path_of(schema, self._at)) from None
        return self._definitions[name]

    def complement(self, schema: Any, *, lenient: bool = False) -> Any:
        """The schema of all values that do not match another; see `Complements.of`."""
        return self._complements.of(schema, lenient=lenient)

    def same(self, schema: Any) -> Any:
        """The same object for the same schema, since schemas are known by identity."""
        return self._equal.same(schema)

    def cost(self, schema: Any) -> int:
        """How costly a schema is, by the length of its text; references cost most."""
        return self._equal.cost(schema)
