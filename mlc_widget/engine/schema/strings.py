"""Strings as Lark: what they match, how long they are, and what they are not."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from mlc_widget.api.errors import UnsupportedFieldError
from mlc_widget.engine.schema.conjunction import (
    NOT_MATCHING,
    NOT_ONE_OF,
    path_of,
    string_of,
)
from mlc_widget.engine.schema.formats import USUAL_TEXTS
from mlc_widget.engine.schema.keys import is_read_alike, whole_pattern
from mlc_widget.engine.schema.lark import (
    PLAIN_STRING,
    STRING,
    Checker,
    LarkText,
    json_text,
    quoted,
    regex,
)
from mlc_widget.engine.schema.located import LocatedSchema
from mlc_widget.engine.schema.values import Values

_TEXT: Final = r'/[^"\\\x00-\x1F\x7F]*/'
"""Text without characters that must be escaped, so that each string has one spelling."""
_ANY: Final = "/(?s:.)*/"
_ASCII: Final = r"/[\x20\x21\x23-\x5B\x5D-\x7E]*/"
"""ASCII only, for patterns whose meaning beyond ASCII depends on the reader."""


class Strings:
    """Writes strings; each answer lists the options."""

    def __init__(self, lark: LarkText, values: Values, checker: Checker, at: str) -> None:
        self._lark = lark
        self._values = values
        self._checker = checker
        self._at = at

    def options(self, bases: Sequence[Any]) -> list[str]:
        """The strings that several schemas allow.

        Raises:
            UnsupportedFieldError: Some of them are excluded in a way that cannot be enforced.
        """
        strings: list[Mapping[str, Any]] = [s for b in bases if (s := string_of(b))]
        unlike = self._unlike(bases, strings)
        excluded = self._excluded(bases, strings)
        if not (excluded or unlike):
            return self._plain(bases, strings)
        if not (strings or unlike):
            listed = " | ".join(quoted(json_text(v)) for v in excluded)
            return [self._lark.terminal(f"{regex(PLAIN_STRING)} & ~({listed})")]
        alphabet = _TEXT if all(map(is_read_alike, unlike)) else _ASCII
        text = self._expression(alphabet, bases, unlike, excluded)
        if not self._checker.is_satisfiable(f"start: S\nS: {text}"):
            return []
        inside = self._lark.terminal(text)
        return [self._lark.terminal(f'"\\"" {inside} "\\""')]

    def one_spelling(self, bases: Sequence[Any]) -> tuple[str, float] | None:
        """The same strings, or some of them, without their quotes and each in one spelling.

        Returns:
            An expression for use within a terminal, and a lower bound of the number of strings (inf
            if it is unlimited, 0 if it is not known). None if there are none.

        Raises:
            UnsupportedFieldError: They cannot be restricted to one spelling.
        """
        strings: list[Mapping[str, Any]] = [s for b in bases if (s := string_of(b))]
        unlike = self._unlike(bases, strings)
        excluded = self._excluded(bases, strings)
        if not (strings or unlike or excluded):
            return regex(PLAIN_STRING[1:-1]), math.inf
        patterns = sum("pattern" in s for s in strings)
        formats = sum("format" in s for s in strings)
        alphabet = _TEXT if all(map(is_read_alike, unlike)) else _ASCII
        text = self._expression(alphabet, bases, unlike, excluded, formats=USUAL_TEXTS)
        if not self._checker.is_satisfiable(f"start: S\nS: {text}"):
            return None
        if formats == 1 and len(bases) == 1 and set(strings[0]) == {"format"}:
            return text, math.inf  # there are so many
        if patterns or formats or unlike or excluded:
            return text, 0
        longest = min((s["maxLength"] for s in strings if "maxLength" in s), default=None)
        return text, (math.inf if longest is None else max(1, longest * 90))

    def is_empty(self, bases: Sequence[Any]) -> bool:
        """Whether no string matches several schemas; false if that is not known."""
        strings: list[Mapping[str, Any]] = [s for b in bases if (s := string_of(b))]
        if len(strings) > 1 and not self._values.some_string(strings):
            return True
        unlike = self._unlike(bases, strings)
        excluded = self._excluded(bases, strings)
        if not strings or not (unlike or excluded):
            return False
        try:
            text = self._expression(_ANY, bases, unlike, excluded)
        except UnsupportedFieldError:
            return False
        return not self._checker.is_satisfiable(f"start: S\nS: {text}")

    def _excluded(self, bases: Sequence[Any], strings: Sequence[Mapping[str, Any]]) -> list[str]:
        """The excluded strings that would match otherwise."""
        found = dict.fromkeys(v for b in bases for v in b.get(NOT_ONE_OF, ()))
        if not strings:
            return list(found)
        return [v for v in found if self._values.some_string([{"enum": [v]}, *strings])]

    def _unlike(self, bases: Sequence[Any], strings: Sequence[Mapping[str, Any]]) -> list[str]:
        """The patterns that must not match but could otherwise."""
        found = list(dict.fromkeys(p for b in bases for p in b.get(NOT_MATCHING, ())))
        if not strings:
            return found
        return [p for p in found if self._values.some_string([{"pattern": p}, *strings])]

    def _plain(self, bases: Sequence[Any], strings: Sequence[Mapping[str, Any]]) -> list[str]:
        if not strings:
            return [self._lark.regex(STRING)]
        words = sum(len(s.keys() & {"pattern", "format"}) for s in strings)
        wanted = strings[0] if len(strings) == 1 else {"allOf": strings}
        if len(strings) > 1 or (words and len(strings[0]) > 1):
            if not self._values.some_string(strings):
                return []
            if not self._checker.can_compile(f"start: %json {json.dumps(wanted)}"):
                # llguidance cannot tell whether such strings exist. Generated schemas (as for a
                # oneOf) are left out then; a schema of the request is refused.
                if not all(isinstance(b, LocatedSchema) for b in bases if string_of(b)):
                    return []
                at = path_of(next(b for b in bases if string_of(b)), self._at)
                raise UnsupportedFieldError(
                    f"{at}: {', '.join(wanted)} cannot be enforced together; leave one out.",
                    param=at,
                )
        return [self._lark.json({"type": "string", **wanted})]

    def _expression(
        self,
        alphabet: str,
        bases: Sequence[Any],
        unlike: Sequence[str],
        excluded: Sequence[str],
        formats: Mapping[str, str] = MappingProxyType({}),
    ) -> str:
        """Texts without quotes, as one expression of Lark."""
        parts = [alphabet]
        for base in bases:
            at = path_of(base, self._at)
            if "format" in base:
                if base["format"] not in formats:
                    raise self._not_told(f"{at}.format", base["format"])
                parts.append(regex(formats[base["format"]]))
            if "pattern" in base:
                whole = whole_pattern(base["pattern"])
                if whole is None:
                    raise self._not_told(f"{at}.pattern", base["pattern"])
                parts.append(whole)
            if base.keys() & {"minLength", "maxLength"}:
                low, high = base.get("minLength", 0), base.get("maxLength", "")
                parts.append(f"/(?s:.){{{low},{high}}}/")
        parts += [f"~{whole_pattern(p)}" for p in unlike]
        if texts := [quoted(v) for v in excluded if v]:
            parts.append(f"~({' | '.join(texts)})")
        if "" in excluded:
            parts.append("/(?s:.)+/")
        return " & ".join(parts)

    def _not_told(self, at: str, value: str) -> UnsupportedFieldError:
        return UnsupportedFieldError(
            f"{at} = {value!r:.120}: it cannot be enforced together with strings that not, if or "
            "oneOf exclude; leave it out there.",
            param=at,
        )
