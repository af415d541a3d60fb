"""Ranges of numbers as regular expressions of their digits, computed exactly.

A bound is the exact number in its JSON text, however long. Whoever parses the answer reads a number
with a fraction as a double, so bounds of fractions are computed in doubles: no allowed text is
rounded to a number outside of the range.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final, TypeAlias

from mlc_widget.engine.schema.digits import (
    NUMBER,
    decimals,
    either,
    followed_by_zeros,
    integers,
    literal,
)

Number: TypeAlias = int | float

_LISTED: Final = 10_001
"""If there are fewer multiples within the bounds, they are listed one by one."""
_DIVISOR: Final = 4096
"""The largest divisor whose multiples llguidance follows digit by digit."""
_FAR: Final = 10**15
"""The greatest multiple that is written if they cannot be listed."""


class CannotBeWrittenError(Exception):
    """No regular expression of a reasonable size describes these numbers."""


@dataclass(frozen=True, slots=True)
class Range:
    """A set of numbers.

    Attributes:
        low: It is at least this.
        high: It is at most this.
        above: It is more than this.
        below: It is less than this.
        multiples_of: It is a multiple of each of these.
        integer: It is an integer.
        fractional: It is not an integer.
    """

    low: Number | None = None
    high: Number | None = None
    above: Number | None = None
    below: Number | None = None
    multiples_of: tuple[Number, ...] = ()
    integer: bool = False
    fractional: bool = False

    def within(self, other: Range) -> Range:
        """The intersection with another range."""
        return Range(
            _pick(max, self.low, other.low),
            _pick(min, self.high, other.high),
            _pick(max, self.above, other.above),
            _pick(min, self.below, other.below),
            tuple(dict.fromkeys(self.multiples_of + other.multiples_of)),
            self.integer or other.integer,
            self.fractional or other.fractional,
        )

    def has(self, value: Number) -> bool:
        """Whether a number is in the set."""
        whole = not isinstance(value, float) or value.is_integer()
        if (self.integer and not whole) or (self.fractional and whole):
            return False
        return (
            (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
            and all(_divides(m, value) for m in self.multiples_of)
        )

    def pattern(self) -> str | None:
        """A regular expression for the numbers; None if there are none.

        If they are `fractional`, it also matches integers such as 1.0: only texts that match
        `FRACTION`, too, are in the set.

        Raises:
            CannotBeWrittenError: There are too many multiples to list; see `multiples`.
        """
        if self == Range():
            return NUMBER
        if self.integer and self.fractional:
            return None
        if self.multiples_of:
            return self._listed()
        found = [] if self.fractional else [integers(*self._integer_bounds())]
        if not self.integer:
            low, high = self._decimal_bounds()
            if high is None or high >= 0:
                found.append(decimals(max(low or Decimal(0), Decimal(0)), high))
            if low is None or low < 0:
                least = Decimal(0) if high is None else max(-high, Decimal(0))
                inner = decimals(least, None if low is None else -low)
                found.append(f"-({inner})" if inner else None)
        return either(found)

    def multiples(self) -> dict[str, Any]:
        """A schema for multiples that are too many to list.

        The range is cut so that any reader represents its numbers exactly.

        Raises:
            CannotBeWrittenError: The divisor, or every multiple, is outside of that range.
        """
        if self.fractional:
            raise CannotBeWrittenError
        step = self._step()
        divisor = step.numerator if step.denominator == 1 else float(step)
        if step.numerator > _DIVISOR or Fraction(str(divisor)) != step:
            raise CannotBeWrittenError
        far = Fraction(_FAR, step.denominator)
        low, high = self._fraction_bounds()
        first = math.ceil(max(-far, low if low is not None else -far) / step)
        last = math.floor(min(far, high if high is not None else far) / step)
        if first > last:
            raise CannotBeWrittenError
        bounds = [v.numerator if v.denominator == 1 else float(v)
                  for v in (first * step, last * step)]  # fmt: skip
        kind = "integer" if step.denominator == 1 else "number"
        return {"type": kind, "multipleOf": divisor, "minimum": bounds[0], "maximum": bounds[1]}

    def count(self) -> float:
        """A lower bound of how many there are; inf if unlimited, 0 if it is not known."""
        if not all(isinstance(m, int) for m in self.multiples_of):
            return 0
        if self.multiples_of:
            first, last = self._multiple_bounds()
            return 0 if first is None or last is None else max(0, last - first - 1)
        low, high = self._integer_bounds()
        if low is None or high is None:
            return math.inf
        if self.integer:
            return max(0, high - low + 1)
        return math.inf if high > low else 0

    def _listed(self) -> str | None:
        step = self._step()
        first, last = self._multiple_bounds()
        if first is None or last is None or last - first >= _LISTED:
            zeros = len(str(step)) - 1
            if step != 10**zeros or not zeros or self.fractional:
                raise CannotBeWrittenError
            return either(followed_by_zeros(first, last, zeros))
        values = [step * k for k in range(first, last + 1)]
        return either([literal(_plain(v)) for v in values if self.has(_read(v))])

    def _multiple_bounds(self) -> tuple[int | None, int | None]:
        """The smallest and the largest multiple, divided by the step; None without a bound."""
        step = self._step()
        low, high = self._fraction_bounds()
        first = None if low is None else math.ceil(low / step)
        return first, None if high is None else math.floor(high / step)

    def _step(self) -> Fraction:
        """The difference between successive multiples."""
        fractions = [exact(m) for m in self.multiples_of]
        step = Fraction(
            math.lcm(*(f.numerator for f in fractions)),
            math.gcd(*(f.denominator for f in fractions)),
        )
        return Fraction(step.numerator) if self.integer else step

    def _fraction_bounds(self) -> tuple[Fraction | None, Fraction | None]:
        tiny = Fraction(1, 10**400)
        lows = [None if self.low is None else exact(self.low),
                None if self.above is None else exact(self.above) + tiny]  # fmt: skip
        highs = [None if self.high is None else exact(self.high),
                 None if self.below is None else exact(self.below) - tiny]  # fmt: skip
        return _pick(max, *lows), _pick(min, *highs)

    def _integer_bounds(self) -> tuple[int | None, int | None]:
        low = None if self.low is None else math.ceil(self.low)
        above = None if self.above is None else math.floor(self.above) + 1
        high = None if self.high is None else math.floor(self.high)
        below = None if self.below is None else math.ceil(self.below) - 1
        return _pick(max, low, above), _pick(min, high, below)

    def _decimal_bounds(self) -> tuple[Decimal | None, Decimal | None]:
        """Bounds between which every decimal fraction is read as a double in the range."""
        low, high = _double(self.low, 1, False), _double(self.high, -1, False)
        above, below = _double(self.above, 1, True), _double(self.below, -1, True)
        least, most = _pick(max, low, above), _pick(min, high, below)
        # Rounder bounds if there is room: more than 0 means at least 1e-15, not at least 5e-324.
        if self.above is not None and above == least:
            rounder = _decimal(self.above) + _grain(self.above)
            if above is not None and above < rounder and (most is None or rounder < most):
                least = rounder
        if self.below is not None and below == most:
            rounder = _decimal(self.below) - _grain(self.below)
            if below is not None and below > rounder and (least is None or rounder > least):
                most = rounder
        return least, most


def constant_pattern(value: Number) -> str:
    """A regular expression for the spellings of one number."""
    texts = dict.fromkeys([_json(value), _plain(exact(value)), repr(value)])
    return "|".join(literal(t) for t in texts if len(t) < 400)


def decimal_text(value: Number) -> str:
    """A number in decimal digits without an exponent; its `repr` if they are too many."""
    text = _plain(exact(value))
    return text if len(text) < 400 else repr(value)


def _json(value: Number) -> str:
    text = repr(value)
    return text.replace("e-0", "e-").replace("e+0", "e+")


def exact(value: Number) -> Fraction:
    """The exact number in a number's JSON text."""
    return Fraction(value) if isinstance(value, int) else Fraction(repr(value))


def _decimal(value: Number) -> Decimal:
    return Decimal(value) if isinstance(value, int) else Decimal(repr(value))


def _read(value: Fraction) -> Number:
    """The value that a JSON reader has after reading the number's text."""
    return value.numerator if value.denominator == 1 else float(_plain(value))


def _plain(value: Fraction) -> str:
    """Decimal digits without an exponent, of which the value must have finitely many."""
    places = 0
    denominator = value.denominator
    while denominator != 1:
        places += 1
        denominator //= math.gcd(denominator, 10)
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    sign = "-" if value < 0 else ""
    return sign + (f"{digits[:-places]}.{digits[-places:]}" if places else digits)


def _divides(divisor: Number, value: Number) -> bool:
    if exact(value) % exact(divisor):
        return False
    # Validators divide doubles; what they would reject is left out.
    return not isinstance(divisor, float) or (value / divisor) == int(value / divisor)


def _pick(choose: Callable[[Iterable[Any]], Any], *values: Any) -> Any:
    known = [v for v in values if v is not None]
    return choose(known) if known else None


def _double(bound: Number | None, up: int, exclusive: bool) -> Decimal | None:
    """The first double on the right side of a bound, as its shortest text."""
    if bound is None:
        return None
    near = float(bound)
    wrong = near < bound if up > 0 else near > bound
    if wrong or (exclusive and near == bound):
        near = math.nextafter(near, math.inf * up)
    return Decimal(repr(near))


def _grain(bound: Number) -> Decimal:
    """A difference from the bound that doubles can still represent."""
    value = _decimal(bound)
    return Decimal(1).scaleb(max(value.adjusted() if value else 0, 0) - 14)
