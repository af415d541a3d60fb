"""The grammar of the JSON texts that fit a checked schema, in llguidance's Lark.

A node of the grammar is what several schemas want of one value at once: a property that both
`properties` and an `allOf` speak of is held to both. So `allOf`, `$ref` and the keywords beside
them mean what the specification says, and recursion ends, since there are only so many sets of
schemas.
Nodes that no finite value fits are found and left out.

Numbers and structure are written here; of llguidance's own JSON compiler only strings are asked.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from mlc_widget.api.errors import BadRequestError, UnsupportedFieldError
from mlc_widget.engine.schema.conjunction import (
    NOT_ONE_OF,
    Wanted,
    canonical,
    kind_of,
    negated,
    path_of,
    string_of,
    unlisted,
)
from mlc_widget.engine.schema.finite_patterns import matching_texts
from mlc_widget.engine.schema.keys import KeyPatterns
from mlc_widget.engine.schema.lark import (
    PLAIN_STRING,
    STRING,
    LarkText,
    json_text,
    quoted,
    regex,
)
from mlc_widget.engine.schema.layout import (
    FREE_KEYS,
    ArrayShape,
    Node,
    ObjectShape,
    Writer,
    has_value,
)
from mlc_widget.engine.schema.numbers import (
    NUMBER,
    CannotBeWrittenError,
    Range,
    constant_pattern,
)

DECLARED_KEYS: Final = 256
"""Properties that no schema names, where the schema says what they are."""
FREE_ITEMS: Final = 256
"""Items in an array without a schema."""
FREE_DEPTH: Final = 12
"""Levels of a value without a schema."""
_NOTHING: Final = (-1,)
"""The set of schemas that no value fits."""
_COMMA: Final = ' "," '
_NODES: Final = 20_000
_PROBES: Final = 200_000

_Ids: TypeAlias = tuple[int, ...]
_Group: TypeAlias = tuple[int, str]


@dataclass(frozen=True, slots=True)
class _Key:
    """A set of schemas that one value is to fit, and the choices among them that were made."""

    ids: _Ids
    done: frozenset[_Group] = frozenset()


def json_grammar(schema: Any, at: str, *, satisfiable: Callable[[str], bool]) -> str:
    """A Lark text, ``start`` its beginning.

    Args:
        schema: From `json_schema.check_schema`.
        at: The request's field that it comes from, for errors.
        satisfiable: Whether some text fits a grammar (a Lark text).

    Raises:
        BadRequestError: No value fits the schema, or it is too large.
        UnsupportedFieldError: It wants what cannot be enforced.
    """
    return _Compiler(schema, at, satisfiable).compile()


class _Compiler:
    def __init__(self, root: Any, at: str, satisfiable: Callable[[str], bool]) -> None:
        self._at = at
        self._satisfiable = satisfiable
        self._definitions = root.get("$defs", {}) if isinstance(root, Mapping) else {}
        self._schemas: list[Any] = []
        self._numbered: dict[int, int] = {}
        self._names: dict[_Key, str] = {}
        self._nodes: dict[str, Node] = {}
        self._pending: list[_Key] = []
        self._lark = LarkText()
        self._patterns = KeyPatterns(satisfiable)
        self._kept: dict[str, Any] = {}
        self._probes = 0
        self._root = root

    def compile(self) -> str:
        root = self._node(_Key(self._ids([self._root])))
        while self._pending:
            key = self._pending.pop()
            self._nodes[self._names[key]] = self._expand(key)
        alive = self._productive()
        if root not in alive:
            raise BadRequestError(
                f"{self._at}: no value can meet this schema; it contradicts itself, or requires "
                "itself within itself.",
                param=self._at,
            )
        self._write(root, alive)
        return self._lark.text(root)

    # --- sets of schemas --------------------------------------------------------------------------

    def _ids(self, schemas: Iterable[Any]) -> _Ids:
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
        return _NOTHING if -1 in ids else tuple(dict.fromkeys(ids))

    def _gather(self, ids: _Ids) -> tuple[list[Any], list[_Group]] | None:
        """The schemas and choices behind references and allOf; None if one of them is false."""
        bases: list[Any] = []
        groups: list[_Group] = []
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
            if schema.keys() - {"$ref", "allOf", "anyOf", "oneOf", "$defs"}:
                bases.append(schema)
            links = list(schema.get("allOf", ()))
            if "$ref" in schema:
                links.insert(0, self._definitions[schema["$ref"]])
            groups += [(i, kind) for kind in ("anyOf", "oneOf") if kind in schema]
            left += reversed(self._ids(links))
        return bases, groups

    def _node(self, key: _Key) -> str:
        """The name of a node, which is made later."""
        name = self._names.get(key)
        if name is None:
            if len(self._names) >= _NODES:
                raise self._too_large()
            name = self._names[key] = f"n{len(self._names)}"
            self._pending.append(key)
        return name

    def _too_large(self) -> BadRequestError:
        return BadRequestError(
            f"{self._at}: the schema is too large, or has too many choices within each other; "
            "make it smaller.",
            param=self._at,
        )

    def _expand(self, key: _Key) -> Node:
        gathered = self._gather(key.ids)
        if gathered is None:
            return Node()
        bases, groups = gathered
        left = [g for g in groups if g not in key.done]
        if left:
            return self._choose(key, bases, left)
        if not bases:
            return Node(nodes=[self._any(FREE_DEPTH)])
        return self._of_kinds(bases)

    def _choose(self, key: _Key, bases: list[Any], left: list[_Group]) -> Node:
        """One node for each branch of the first choice that is open."""
        group = left[0]
        schema = self._schemas[group[0]]
        branches = schema[group[1]]
        alone = not bases and len(left) == 1 and not key.done
        done = frozenset() if alone else key.done | {group}
        rest = () if alone else key.ids
        sets = [(*rest, *self._ids([b])) for b in branches]
        if group[1] == "oneOf" and len(branches) > 1:
            sets = self._exclusive(f"{path_of(schema, self._at)}.oneOf", branches, sets, done)
        return Node(nodes=[self._node(_Key(tuple(dict.fromkeys(s)), done)) for s in sets])

    def _exclusive(
        self, at: str, branches: Sequence[Any], sets: Sequence[_Ids], done: frozenset[_Group]
    ) -> list[_Ids]:
        """The branches of a oneOf, each without what fits another, too.

        Raises:
            UnsupportedFieldError: Two overlap in a way that cannot be told.
        """
        made = []
        for i, mine in enumerate(sets):
            if self._is_empty(mine, done):
                continue
            narrowed: _Ids | None = mine
            for j, other in enumerate(branches):
                if i == j or self._is_empty((*mine, *self._ids([other])), done):
                    continue
                opposite = negated(self._resolved(other))
                if opposite is None:
                    narrowed = None
                    break
                narrowed = (*(narrowed or ()), *self._ids([self._same(opposite)]))
            if narrowed is not None and not self._is_empty(narrowed, done):
                made.append(narrowed)
        if not made and any(not self._is_empty(s, done) for s in sets):
            raise UnsupportedFieldError(
                f"{at}: its schemas may fit one value together, which cannot be ruled out; use "
                "anyOf, or tell them apart by a required property with another constant in each.",
                param=at,
            )
        return made

    def _resolved(self, schema: Any) -> Any:
        for _ in range(100):
            if not isinstance(schema, Mapping) or set(schema) != {"$ref"}:
                break
            schema = self._definitions[schema["$ref"]]
        return schema

    def _same(self, schema: Any) -> Any:
        """The same object for the same schema, since schemas are known by identity."""
        return self._kept.setdefault(json.dumps(schema), schema)

    def _is_empty(self, ids: _Ids, done: frozenset[_Group], depth: int = 6) -> bool:
        """Whether no value fits all of these, as far as it is soon seen."""
        self._probes += 1
        if self._probes > _PROBES:
            raise self._too_large()
        gathered = self._gather(tuple(dict.fromkeys(ids)))
        if gathered is None:
            return True
        bases, groups = gathered
        left = [g for g in groups if g not in done]
        if left and depth:
            group = left[0]
            branches = self._schemas[group[0]][group[1]]
            return len(branches) <= 64 and all(
                self._is_empty((*ids, *self._ids([b])), done | {group}, depth - 1) for b in branches
            )
        if not bases:
            return False
        wanted = Wanted(bases)
        if wanted.values is not None:
            return not any(self._accepts(bases, v, listed=True) for v in wanted.values)
        return all(self._kind_is_empty(kind, bases, wanted, depth) for kind in wanted.kinds)

    def _kind_is_empty(self, kind: str, bases: list[Any], wanted: Wanted, depth: int) -> bool:
        if kind == "number":
            try:
                return wanted.numbers.pattern() is None
            except CannotBeWrittenError:
                return False
        if kind == "string":
            strings = [s for b in bases if (s := string_of(b))]
            return len(strings) > 1 and not self._fits_strings(strings)
        if kind == "array":
            low, high = wanted.counts("Items")
            if high is not None and low > high:
                return True
            return depth > 0 and any(
                self._is_empty(self._item(bases, i), frozenset(), depth - 1)
                for i in range(min(low, 8))
            )
        if kind == "object":
            return depth > 0 and any(
                self._is_empty(self._property(bases, name), frozenset(), depth - 1)
                for name in wanted.required
            )
        return False

    def _fits_strings(self, strings: Sequence[Mapping[str, Any]]) -> bool:
        wanted = strings[0] if len(strings) == 1 else {"allOf": strings}
        return self._satisfiable(f"start: %json {json.dumps({'type': 'string', **wanted})}")

    def _accepts_all(self, ids: _Ids, value: Any) -> bool:
        gathered = self._gather(ids)
        if gathered is None:
            return False
        bases, groups = gathered
        if not self._accepts(bases, value):
            return False
        for i, kind in groups:
            fitting = sum(self._accepts_all(self._ids([b]), value) for b in self._schemas[i][kind])
            if not fitting or (kind == "oneOf" and fitting > 1):
                return False
        return True

    def _accepts(self, bases: list[Any], value: Any, *, listed: bool = False) -> bool:
        """Whether a value fits what schemas say themselves, without their choices.

        Args:
            bases: The schemas.
            value: Of JSON.
            listed: It is known to be one of those that they list.
        """
        wanted = Wanted(unlisted(bases) if listed else bases)
        if wanted.values is not None and canonical(value) not in map(canonical, wanted.values):
            return False
        kind = kind_of(value)
        if kind not in wanted.kinds:
            return False
        if any(canonical(v) == canonical(value) for b in bases for v in b.get(NOT_ONE_OF, ())):
            return False
        if kind == "number":
            return wanted.numbers.has(value)
        if kind == "string":
            strings: list[Mapping[str, Any]] = [s for b in bases if (s := string_of(b))]
            return not strings or self._fits_strings([{"enum": [value]}, *strings])
        if kind in ("array", "object"):
            low, high = wanted.counts("Items" if kind == "array" else "Properties")
            if len(value) < low or (high is not None and len(value) > high):
                return False
        if kind == "array":
            return all(self._accepts_all(self._item(bases, i), v) for i, v in enumerate(value))
        if kind == "object":
            limits = [b["propertyNames"] for b in bases if "propertyNames" in b]
            if not all(self._is_key(limits, str(n)) for n in value):
                return False
            return set(wanted.required) <= set(value) and all(
                self._accepts_all(self._property(bases, n), v) for n, v in value.items()
            )
        return True

    # --- what values may be -----------------------------------------------------------------------

    def _of_kinds(self, bases: list[Any]) -> Node:
        wanted = Wanted(bases)
        node = Node()
        if wanted.values is not None:
            node.texts += self._listed(bases, wanted)
            return node
        for kind in wanted.kinds:
            if kind == "object":
                node.objects.append(self._object(bases, wanted))
            elif kind == "array":
                node.arrays.append(self._array(bases, wanted))
            elif kind == "string":
                node.texts += self._string(bases)
            elif kind == "number":
                at = next((path_of(b, self._at) for b in bases if "multipleOf" in b), self._at)
                node.texts += self._number(wanted.numbers, at)
            else:
                node.texts.append({"boolean": '"true" | "false"', "null": '"null"'}[kind])
        return node

    def _listed(self, bases: list[Any], wanted: Wanted) -> list[str]:
        """The values of an enum that fit everything else, too."""
        values = [v for v in wanted.values or () if not isinstance(v, str)]
        fitting = [v for v in values if self._accepts(bases, v, listed=True)]
        numbers = [v for v in fitting if kind_of(v) == "number"]
        found = [self._constant(v) for v in fitting if kind_of(v) != "number"]
        if numbers:
            found.append(self._lark.regex("|".join(constant_pattern(v) for v in numbers)))
        excluded = {canonical(v) for b in bases for v in b.get(NOT_ONE_OF, ())}
        low, high = wanted.counts("Length")
        texts = [v for v in wanted.values or () if isinstance(v, str) and "string" in wanted.kinds
                 and low <= len(v) and (high is None or len(v) <= high)
                 and not (excluded and canonical(v) in excluded)]  # fmt: skip
        strings = [{k: b[k] for k in ("pattern", "format") if k in b} for b in bases]
        strings = [s for s in strings if s]
        if texts and strings:
            both = [{"enum": texts}, *strings]
            return [*found, self._lark.json({"allOf": both})] if self._fits_strings(both) else found
        if texts:
            found.append(self._lark.terminal(" | ".join(quoted(json_text(v)) for v in texts)))
        return found

    def _number(self, numbers: Range, at: str) -> list[str]:
        try:
            pattern = numbers.pattern()
        except CannotBeWrittenError:
            try:
                schema = numbers.multiples()
            except CannotBeWrittenError:
                at = f"{at}.multipleOf"
                raise UnsupportedFieldError(
                    f"{at} = {numbers.multiples_of[0]!r}: with these bounds its multiples cannot "
                    "be written; leave it out, or give smaller numbers.",
                    param=at,
                ) from None
            return [self._lark.json(schema)]
        return [] if pattern is None else [self._lark.regex(pattern)]

    def _string(self, bases: list[Any]) -> list[str]:
        strings = [s for b in bases if (s := string_of(b))]
        if excluded := [v for b in bases for v in b.get(NOT_ONE_OF, ()) if isinstance(v, str)]:
            if strings:
                at = path_of(bases[0], self._at)
                raise UnsupportedFieldError(
                    f"{at}: what oneOf leaves out of strings with a pattern, format or length "
                    "cannot be enforced; use anyOf.",
                    param=at,
                )
            options = " | ".join(quoted(json_text(v)) for v in excluded)
            return [self._lark.terminal(f"{regex(PLAIN_STRING)} & ~({options})")]
        if not strings:
            return [self._lark.regex(STRING)]
        words = sum(len(s.keys() & {"pattern", "format"}) for s in strings)
        if (len(strings) > 1 or (words and len(strings[0]) > 1)) and not self._fits_strings(
            strings
        ):
            return []
        wanted = strings[0] if len(strings) == 1 else {"allOf": strings}
        return [self._lark.json({"type": "string", **wanted})]

    def _array(self, bases: list[Any], wanted: Wanted) -> ArrayShape:
        low, high = wanted.counts("Items")
        length = max((len(b.get("prefixItems", ())) for b in bases), default=0)
        prefix = [self._node(_Key(self._item(bases, i))) for i in range(length)]
        rest = self._item(bases, length)
        if not rest and high is None:
            high = max(FREE_ITEMS, length, low)
        return ArrayShape(prefix, self._node(_Key(rest)), low, high)

    def _item(self, bases: list[Any], index: int) -> _Ids:
        found = []
        for base in bases:
            prefix = base.get("prefixItems", ())
            found.append(prefix[index] if index < len(prefix) else base.get("items", True))
        return self._ids(found)

    def _object(self, bases: list[Any], wanted: Wanted) -> ObjectShape:
        low, high = wanted.counts("Properties")
        names = dict.fromkeys(n for b in bases for n in b.get("properties", ()))
        names.update(dict.fromkeys(wanted.required))
        patterns = list(dict.fromkeys(p for b in bases for p in b.get("patternProperties", ())))
        for pattern in patterns:  # few enough to be listed: they are names, too
            names.update(dict.fromkeys(matching_texts(pattern) or ()))
        limits = [b["propertyNames"] for b in bases if "propertyNames" in b]
        for limit in limits:
            if isinstance(limit, Mapping) and ("enum" in limit or "const" in limit):
                values = limit.get("enum", [limit.get("const")])
                names.update(dict.fromkeys(v for v in values if isinstance(v, str)))
        named = []
        for n in names:
            ids = self._property(bases, n) if self._is_key(limits, n) else _NOTHING
            named.append((n, self._node(_Key(ids)), n in wanted.required))
        endless = [p for p in patterns if matching_texts(p) is None]
        closed = any(limit is False or (isinstance(limit, Mapping) and "enum" in limit)
                     for limit in limits)  # fmt: skip
        free = []
        for matched in () if closed else self._patterns.combinations(endless):
            ids = self._free(bases, matched)
            if -1 in ids:
                continue
            keys = self._patterns.keys(matched, endless, list(names), limits)
            if keys is None:
                of = "patternProperties" if patterns else "propertyNames"
                path = next((f"{path_of(b, self._at)}.{of}" for b in bases if of in b), self._at)
                raise UnsupportedFieldError(
                    f"{path}: keys cannot be held to this pattern; write ^ only at its beginning "
                    "and $ only at its end.",
                    param=path,
                )
            if not (patterns or limits) or self._patterns.is_satisfiable(keys):
                free.append((keys, self._node(_Key(ids))))
        declared = patterns or any("additionalProperties" in b for b in bases)
        bound = DECLARED_KEYS if declared else FREE_KEYS
        at = next((path_of(b, self._at) for b in bases if "minProperties" in b), self._at)
        return ObjectShape(named, free, low, high, bound, at)

    def _is_key(self, limits: Sequence[Any], name: str) -> bool:
        """Whether propertyNames allow a name."""
        return all(
            limit is not False and (limit is True or self._accepts([limit], name))
            for limit in limits
        )

    def _free(self, bases: list[Any], matched: Sequence[str]) -> _Ids:
        """What the value of a key that no schema names must fit."""
        found: list[Any] = []
        for base in bases:
            own = base.get("patternProperties", {})
            mine = [own[p] for p in matched if p in own]
            found += mine or [base.get("additionalProperties", True)]
        return self._ids(found)

    def _property(self, bases: list[Any], name: str) -> _Ids:
        found: list[Any] = []
        for base in bases:
            mine = [base["properties"][name]] if name in base.get("properties", ()) else []
            mine += [
                schema
                for pattern, schema in base.get("patternProperties", {}).items()
                if self._patterns.matches(pattern, name)
            ]
            found += mine or [base.get("additionalProperties", True)]
        return self._ids(found)

    # --- texts ------------------------------------------------------------------------------------

    def _any(self, depth: int) -> str:
        """The name of the node of any value with so many levels at most."""
        name = f"any{depth}"
        if name not in self._nodes:
            node = self._nodes[name] = Node(texts=[
                '"true" | "false"', '"null"', self._lark.regex(NUMBER),
                self._lark.regex(STRING),
            ])  # fmt: skip
            if depth:
                inner = self._any(depth - 1)
                keys = self._patterns.keys((), (), ())
                assert keys is not None
                node.arrays.append(ArrayShape([], inner, 0, FREE_ITEMS))
                node.objects.append(ObjectShape([], [(keys, inner)], 0, None))
        return name

    def _constant(self, value: Any) -> str:
        """One value, its parts as far apart as everywhere."""
        if isinstance(value, Mapping):
            pairs = [f'{quoted(json_text(str(k)))} ":" {self._constant(v)}'
                     for k, v in value.items()]  # fmt: skip
            return f'"{{" {_COMMA.join(pairs)} "}}"'
        if isinstance(value, list | tuple):
            return f'"[" {_COMMA.join(map(self._constant, value))} "]"'
        if isinstance(value, int | float) and not isinstance(value, bool):
            return self._lark.regex(constant_pattern(value))
        return quoted(json_text(value))

    def _productive(self) -> set[str]:
        """The nodes that some finite value fits."""
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
            node = self._nodes[name]
            writer = Writer(self._lark, self._patterns, alive)
            options = [*node.texts, *(n for n in dict.fromkeys(node.nodes) if n in alive)]
            options += [writer.object(o) for o in node.objects if o.is_alive(alive)]
            options += [writer.array(a) for a in node.arrays if a.is_alive(alive)]
            self._lark.rule(" | ".join(options), name)
            new = {*node.nodes, *writer.used} & alive - written
            written |= new
            left += sorted(new)
