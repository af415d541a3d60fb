"""Writes the grammar of all JSON texts that match a checked schema, in llguidance's Lark.

A node of the grammar stands for a set of schemas that one value must match at once: a property
that appears in `properties` and in an `allOf` must match both. So `allOf`, `$ref` and the keywords
beside them mean what the specification says, and recursion ends, since the number of such sets is
finite. Nodes that no finite value matches are left out.

Numbers and structure are written here; only strings are left to llguidance's JSON compiler.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from mlc_widget.api.errors import BadRequestError
from mlc_widget.engine.schema.array_text import array_text
from mlc_widget.engine.schema.conjunction import Wanted, path_of
from mlc_widget.engine.schema.emptiness import Emptiness
from mlc_widget.engine.schema.exclusive import exclusive
from mlc_widget.engine.schema.free_keys import FreeKeys
from mlc_widget.engine.schema.keys import KeyPatterns
from mlc_widget.engine.schema.lark import Checker, LarkText, TooCostlyError, too_costly
from mlc_widget.engine.schema.layout import ArrayShape, Node, ObjectShape, has_value
from mlc_widget.engine.schema.located import LocatedSchema
from mlc_widget.engine.schema.members import Members
from mlc_widget.engine.schema.object_text import object_text
from mlc_widget.engine.schema.scalars import ScalarFinder
from mlc_widget.engine.schema.sets import Group, Ids, SchemaSets
from mlc_widget.engine.schema.shapes import FREE_ITEMS, Shapes
from mlc_widget.engine.schema.strings import Strings
from mlc_widget.engine.schema.texts import Texts
from mlc_widget.engine.schema.values import Values
from mlc_widget.engine.schema.writer import Writer

FREE_DEPTH: Final = 12
"""The maximum depth of a value without a schema."""
_NODES: Final = 20_000


@dataclass(frozen=True, slots=True)
class _Key:
    """A set of schemas that one value must match, and the choices that were already made."""

    ids: Ids
    done: frozenset[Group] = frozenset()


@dataclass(frozen=True, slots=True)
class JSONGrammar:
    """A grammar.

    Attributes:
        lark: The text, whose first rule is ``start``.
        distinct: The items that the runtime keeps apart, by the mark before them; see
            `LarkText.mark`.
    """

    lark: str
    distinct: Mapping[str, Any]


def json_grammar(schema: Any, at: str, *, checker: Checker) -> JSONGrammar:
    """Write the grammar of all JSON texts that match a schema.

    Args:
        schema: From `json_schema.check_schema`.
        at: The request's field that it comes from, for errors.
        checker: Compiles parts of the grammar, to see whether anything matches them.

    Raises:
        BadRequestError: No value matches the schema, or it is too large or takes too long.
        UnsupportedFieldError: A part of the schema cannot be enforced.
    """
    compiler = _Compiler(schema, at, checker)
    try:
        return compiler.compile()
    except (TooCostlyError, RecursionError) as error:
        raise too_costly(compiler.path, error) from None


class _Compiler:
    def __init__(self, root: Any, at: str, checker: Checker) -> None:
        self._root = root
        self._at = at
        self._tick = checker.tick
        self.path = at
        self._names: dict[_Key, str] = {}
        self._nodes: dict[str, Node] = {}
        self._pending: list[_Key] = []
        self._lark = LarkText()
        self._sets = SchemaSets(root, at)
        self._patterns = KeyPatterns(checker.is_satisfiable)
        members = Members(self._sets, self._patterns)
        values = Values(self._sets, members, self._patterns, checker.is_satisfiable)
        free_keys = FreeKeys(self._sets, members, self._patterns, at)
        self._strings = Strings(self._lark, values, checker, at)
        self._emptiness = Emptiness(
            self._sets,
            members,
            values,
            self._strings,
            free_keys,
            self._patterns,
            checker.tick,
        )
        self._texts = Texts(self._lark, values, self._patterns, checker.is_satisfiable, at)
        self._shapes = Shapes(
            self._sets,
            members,
            values,
            self._emptiness,
            self._texts,
            ScalarFinder(self._sets, values, self._strings, self._emptiness, self._patterns),
            free_keys,
            lambda ids: self._node(_Key(ids)),
            at,
        )

    def compile(self) -> JSONGrammar:
        root = self._node(_Key(self._sets.ids([self._root])))
        while self._pending:
            key = self._pending.pop()
            self._nodes[self._names[key]] = self._expand(key)
        alive = self._productive()
        if root not in alive:
            if problem := self._sets.problem():
                raise problem
            raise BadRequestError(
                f"{self._at}: no value can meet this schema; it contradicts itself, or requires "
                "itself within itself.",
                param=self._at,
            )
        self._write(root, alive)
        return JSONGrammar(self._lark.text(root), self._lark.distinct)

    def _node(self, key: _Key) -> str:
        """The name of a node, which is expanded later."""
        name = self._names.get(key)
        if name is None:
            if len(self._names) >= _NODES:
                raise BadRequestError(
                    f"{self.path}: the schema is too large, or has too many choices within each "
                    "other; make it smaller.",
                    param=self.path,
                )
            name = self._names[key] = f"n{len(self._names)}"
            self._pending.append(key)
        return name

    def _expand(self, key: _Key) -> Node:
        gathered = self._sets.gather(key.ids)
        if gathered is None:
            return Node()
        bases, groups = gathered
        self._tick()
        self.path = next((b.at for b in bases if isinstance(b, LocatedSchema)), self.path)
        left = [g for g in groups if g not in key.done]
        if left:
            return self._choose(key, left, bases)
        if not bases:
            return Node(nodes=[self._any(FREE_DEPTH)])
        return self._of_kinds(bases)

    def _choose(self, key: _Key, left: list[Group], bases: list[Any]) -> Node:
        """One node for each branch of the first choice that is left."""
        group = left[0]
        branches = self._emptiness.branches(group, bases)
        alone = not bases and len(left) == 1 and not key.done
        done = frozenset() if alone else key.done | {group}
        rest = () if alone else key.ids
        chosen = [(*rest, *self._sets.ids([b])) for b in branches]
        if group[1] == "oneOf" and len(branches) > 1:
            at = f"{path_of(self._sets.schema(group), self._at)}.oneOf"
            chosen = exclusive(self._sets, self._emptiness, at, branches, chosen, done)
        elif len(left) > 1:  # otherwise contradictions would multiply with the other choices
            chosen = [c for c in chosen if not self._emptiness.is_empty(c, done, choices=False)]
        return Node(nodes=[self._node(_Key(tuple(dict.fromkeys(c)), done)) for c in chosen])

    def _of_kinds(self, bases: list[Any]) -> Node:
        """The values that are possible once all choices are made."""
        wanted = Wanted(bases)
        if wanted.values is not None:
            return Node(texts=self._texts.listed(bases, wanted))
        node = Node()
        for kind in wanted.kinds:
            if kind == "object":
                node.objects.append(self._shapes.object(bases, wanted))
            elif kind == "array":
                node.arrays.append(self._shapes.array(bases, wanted))
            elif kind == "string":
                node.texts += self._strings.options(bases)
            elif kind == "number":
                node.texts += self._texts.number(wanted.numbers, bases)
            else:
                node.texts += self._texts.boolean() if kind == "boolean" else self._texts.null()
        return node

    def _any(self, depth: int) -> str:
        """The name of the node for any value with at most so many levels."""
        name = f"any{depth}"
        if name not in self._nodes:
            node = self._nodes[name] = Node(texts=self._texts.any())
            if depth:
                inner = self._any(depth - 1)
                keys = self._patterns.keys((), (), ())
                assert keys is not None
                node.arrays.append(ArrayShape([], inner, 0, FREE_ITEMS))
                node.objects.append(ObjectShape([], [(keys, inner)], 0, None))
        return name

    def _productive(self) -> set[str]:
        """The nodes that some finite value matches."""
        alive: set[str] = set()
        left = list(reversed(self._nodes.items()))
        while True:
            found = [name for name, node in left if has_value(node, alive)]
            if not found:
                return alive
            alive.update(found)
            left = [(name, node) for name, node in left if name not in alive]

    def _write(self, root: str, alive: set[str]) -> None:
        written, left = {root}, [root]
        while left:
            name = left.pop()
            self._tick()
            node = self._nodes[name]
            writer = Writer(self._lark, self._patterns, alive)
            options = [*node.texts, *(n for n in dict.fromkeys(node.nodes) if n in alive)]
            options += [object_text(o, writer) for o in node.objects if o.is_alive(alive)]
            options += [array_text(a, writer) for a in node.arrays if a.is_alive(alive)]
            self._lark.rule(" | ".join(options), name)
            new = {*node.nodes, *writer.used} & alive - written
            written |= new
            left += sorted(new)
