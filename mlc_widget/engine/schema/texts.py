"""Constants, numbers, booleans and null as Lark."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from mlc_widget.api.errors import UnsupportedFieldError
from mlc_widget.engine.schema.conjunction import (
    NOT_MATCHING,
    NOT_ONE_OF,
    Wanted,
    kind_of,
    path_of,
)
from mlc_widget.engine.schema.digits import FRACTION, NUMBER
from mlc_widget.engine.schema.keys import KeyPatterns
from mlc_widget.engine.schema.lark import (
    STRING,
    LarkText,
    json_text,
    quoted,
    regex,
)
from mlc_widget.engine.schema.numbers import (
    CannotBeWrittenError,
    Range,
    constant_pattern,
)
from mlc_widget.engine.schema.values import Values

_COMMA: Final = ' "," '


class Texts:
    """Writes these values; every method returns a list of alternatives."""

    def __init__(
        self,
        lark: LarkText,
        values: Values,
        patterns: KeyPatterns,
        satisfiable: Callable[[str], bool],
        at: str,
    ) -> None:
        self._lark = lark
        self._values = values
        self._patterns = patterns
        self._satisfiable = satisfiable
        self._at = at

    def any(self) -> list[str]:
        """Every value that has no parts."""
        return [*self.boolean(), *self.null(), self._lark.regex(NUMBER), self._lark.regex(STRING)]

    @staticmethod
    def boolean() -> list[str]:
        """Both booleans."""
        return ['"true" | "false"']

    @staticmethod
    def null() -> list[str]:
        """Null."""
        return ['"null"']

    def listed(self, bases: list[Any], wanted: Wanted) -> list[str]:
        """The values of an enum that also match everything else."""
        values = [v for v in wanted.values or () if not isinstance(v, str)]
        fitting = [v for v in values if self._values.fits_bases(bases, v, listed=True)]
        numbers = [v for v in fitting if kind_of(v) == "number"]
        found = [self.constant(v) for v in fitting if kind_of(v) != "number"]
        if numbers:
            found.append(self._lark.regex("|".join(constant_pattern(v) for v in numbers)))
        texts = self._listed_strings(bases, wanted)
        strings = [{k: b[k] for k in ("pattern", "format") if k in b} for b in bases]
        strings = [s for s in strings if s]
        if texts and strings:
            both = [{"enum": texts}, *strings]
            if self._values.some_string(both):
                found.append(self._lark.json({"allOf": both}))
        elif texts:
            found.append(self._lark.terminal(" | ".join(quoted(json_text(v)) for v in texts)))
        return found

    def _listed_strings(self, bases: Sequence[Any], wanted: Wanted) -> list[str]:
        """The strings of an enum, before patterns and formats are checked for all at once."""
        if "string" not in wanted.kinds:
            return []
        low, high = wanted.counts("Length")
        excluded = {v for b in bases for v in b.get(NOT_ONE_OF, ())}
        unlike = [p for b in bases for p in b.get(NOT_MATCHING, ())]
        return [
            v for v in wanted.values or () if isinstance(v, str)
            and low <= len(v) and (high is None or len(v) <= high) and v not in excluded
            and not any(self._patterns.matches(p, v) for p in unlike)
        ]  # fmt: skip

    def number(self, numbers: Range, bases: Sequence[Any]) -> list[str]:
        """The numbers of a range.

        Raises:
            UnsupportedFieldError: Their `multipleOf` cannot be enforced.
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
                    f"{at} = {numbers.multiples_of[0]!r}: its multiples within these bounds "
                    "cannot be enforced; leave it out, or give smaller numbers.",
                    param=at,
                ) from None
            return [self._lark.json(schema)]
        if pattern is None:
            return []
        if numbers.fractional:
            text = f"{regex(pattern)} & {regex(FRACTION)}"
            return [self._lark.terminal(text)] if self._satisfiable(f"start: N\nN: {text}") else []
        return [self._lark.regex(pattern)]

    def constant(self, value: Any) -> str:
        """One value, with the same whitespace as everywhere."""
        if isinstance(value, Mapping):
            pairs = [f'{quoted(json_text(str(k)))} ":" {self.constant(v)}'
                     for k, v in value.items()]  # fmt: skip
            return f'"{{" {_COMMA.join(pairs)} "}}"'
        if isinstance(value, list | tuple):
            return f'"[" {_COMMA.join(map(self.constant, value))} "]"'
        if isinstance(value, int | float) and not isinstance(value, bool):
            return self._lark.regex(constant_pattern(value))
        return quoted(json_text(value))
