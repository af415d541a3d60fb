"""Values without parts as Lark: constants, numbers and strings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from mlc_widget.api.errors import UnsupportedFieldError
from mlc_widget.engine.schema.conjunction import (
    NOT_ONE_OF,
    Wanted,
    canonical,
    kind_of,
    path_of,
    string_of,
)
from mlc_widget.engine.schema.lark import (
    PLAIN_STRING,
    STRING,
    LarkText,
    json_text,
    quoted,
    regex,
)
from mlc_widget.engine.schema.numbers import (
    NUMBER,
    CannotBeWrittenError,
    Range,
    constant_pattern,
)
from mlc_widget.engine.schema.values import Values

_COMMA: Final = ' "," '


class Texts:
    """Writes values without parts; each answer lists the options."""

    def __init__(self, lark: LarkText, values: Values, at: str) -> None:
        self._lark = lark
        self._values = values
        self._at = at

    def any(self) -> list[str]:
        """Every value that has no parts."""
        return [*self.boolean(), *self.null(), self._lark.regex(NUMBER), self._lark.regex(STRING)]

    @staticmethod
    def boolean() -> list[str]:
        """Both truth values."""
        return ['"true" | "false"']

    @staticmethod
    def null() -> list[str]:
        """The null."""
        return ['"null"']

    def listed(self, bases: list[Any], wanted: Wanted) -> list[str]:
        """The values of an enum that fit everything else, too."""
        values = [v for v in wanted.values or () if not isinstance(v, str)]
        fitting = [v for v in values if self._values.fits_bases(bases, v, listed=True)]
        numbers = [v for v in fitting if kind_of(v) == "number"]
        found = [self.constant(v) for v in fitting if kind_of(v) != "number"]
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
            if self._values.some_string(both):
                found.append(self._lark.json({"allOf": both}))
        elif texts:
            found.append(self._lark.terminal(" | ".join(quoted(json_text(v)) for v in texts)))
        return found

    def number(self, numbers: Range, bases: Sequence[Any]) -> list[str]:
        """The numbers of a range.

        Raises:
            UnsupportedFieldError: They are multiples that cannot be written.
        """
        try:
            pattern = numbers.pattern()
        except CannotBeWrittenError:
            try:
                schema = numbers.multiples()
            except CannotBeWrittenError:
                at = next((path_of(b, self._at) for b in bases if "multipleOf" in b), self._at)
                at = f"{at}.multipleOf"
                raise UnsupportedFieldError(
                    f"{at} = {numbers.multiples_of[0]!r}: with these bounds its multiples cannot "
                    "be written; leave it out, or give smaller numbers.",
                    param=at,
                ) from None
            return [self._lark.json(schema)]
        return [] if pattern is None else [self._lark.regex(pattern)]

    def string(self, bases: Sequence[Any]) -> list[str]:
        """The strings that several schemas allow.

        Raises:
            UnsupportedFieldError: What is excluded of them cannot be told from the others.
        """
        strings: list[Mapping[str, Any]] = [s for b in bases if (s := string_of(b))]
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
        narrow = len(strings) > 1 or (words and len(strings[0]) > 1)
        if narrow and not self._values.some_string(strings):
            return []
        wanted = strings[0] if len(strings) == 1 else {"allOf": strings}
        return [self._lark.json({"type": "string", **wanted})]

    def constant(self, value: Any) -> str:
        """One value, its parts as far apart as everywhere."""
        if isinstance(value, Mapping):
            pairs = [f'{quoted(json_text(str(k)))} ":" {self.constant(v)}'
                     for k, v in value.items()]  # fmt: skip
            return f'"{{" {_COMMA.join(pairs)} "}}"'
        if isinstance(value, list | tuple):
            return f'"[" {_COMMA.join(map(self.constant, value))} "]"'
        if isinstance(value, int | float) and not isinstance(value, bool):
            return self._lark.regex(constant_pattern(value))
        return quoted(json_text(value))
