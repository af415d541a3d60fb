"""Numbers of JSON schemas as regular expressions of their digits, computed exactly.

A bound is the number that its JSON text says, an integer as long as it may be. A number with a
fraction is read as a double by whoever parses the answer, so its bounds are drawn between doubles:
no text that is allowed is rounded onto a number that is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final, TypeAlias

Number: TypeAlias = int | float

_WHOLE: Final = 30
"""Digits of an integer without a bound; where it has one, ten more than that."""
_PLACES: Final = 16
"""Digits after the point; more where the bounds have more."""
INTEGER: Final = rf"-?(0|[1-9][0-9]{{0,{_WHOLE - 1}}})"
FRACTION: Final = r"-?(0|[1-9][0-9]{0,8})\.[0-9]{0,5}[1-9]"
"""Numbers that are no integers, also when they are read as doubles."""
NUMBER: Final = rf"{INTEGER}(\.[0-9]{{1,{_PLACES}}})?([eE][+-]?[0-9]{{1,2}})?"
_LISTED: Final = 10_001
"""Multiples within bounds that are listed one by one."""
_DIVISOR: Final = 4096
"""The largest divisor whose multiples llguidance follows digit by digit."""
_FAR: Final = 10**15
"""Multiples beyond it are not written where they cannot be listed."""


class CannotBeWrittenError(Exception):
    """No regular expression of a bearable size describes these numbers."""


@dataclass(frozen=True, slots=True)
class Range:
    """What a number may be.

    Attributes:
        low: It is at least this.
        high: It is at most this.
        above: It is more than this.
        below: It is less than this.
        multiples_of: Each of these divides it.
        integer: It is an integer.
        fractional: It is none.
    """

    low: Number | None = None
    high: Number | None = None
    above: Number | None = None
    below: Number | None = None
    multiples_of: tuple[Number, ...] = ()
    integer: bool = False
    fractional: bool = False

    def within(self, other: Range) -> Range:
        """What both allow."""
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
        """Whether a number is one of these."""
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
        """A regular expression of their texts; None if there are none.

        Where they are `fractional` it has integers with a point, too: only those are meant that
        `FRACTION` matches as well.

        Raises:
            CannotBeWrittenError: They are multiples, and too many to be listed; see `multiples`.
        """
        if self == Range():
            return NUMBER
        if self.integer and self.fractional:
            return None
        if self.multiples_of:
            return self._listed()
        found = [] if self.fractional else [_integers(*self._integer_bounds())]
        if not self.integer:
            low, high = self._decimal_bounds()
            if high is None or high >= 0:
                found.append(_decimals(max(low or Decimal(0), Decimal(0)), high))
            if low is None or low < 0:
                least = Decimal(0) if high is None else max(-high, Decimal(0))
                inner = _decimals(least, None if low is None else -low)
                found.append(f"-({inner})" if inner else None)
        return _either(found)

    def multiples(self) -> dict[str, Any]:
        """A schema of multiples that are too many to be listed.

        Its numbers are small and round enough for any reader: the range is cut where they end.

        Raises:
            CannotBeWrittenError: The divisor is no such number, or none of its multiples is.
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
        """At least so many they are: inf if there is no end of them, 0 if that is not known."""
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
            return _either(_followed_by_zeros(first, last, zeros))
        values = [step * k for k in range(first, last + 1)]
        return _either([_literal(_plain(v)) for v in values if self.has(_read(v))])

    def _multiple_bounds(self) -> tuple[int | None, int | None]:
        """How often the step goes into the least and the greatest of the multiples."""
        step = self._step()
        low, high = self._fraction_bounds()
        first = None if low is None else math.ceil(low / step)
        return first, None if high is None else math.floor(high / step)

    def _step(self) -> Fraction:
        """Between one multiple and the next."""
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
        """Between which every text with a fraction is read as a double that is allowed."""
        low, high = _double(self.low, 1, False), _double(self.high, -1, False)
        above, below = _double(self.above, 1, True), _double(self.below, -1, True)
        least, most = _pick(max, low, above), _pick(min, high, below)
        # Rounder where there is room: what is more than 0 is 1e-15 or more, not 5e-324 or more.
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
    """A regular expression of the texts of one number."""
    texts = dict.fromkeys([_json(value), _plain(exact(value)), repr(value)])
    return "|".join(_literal(t) for t in texts if len(t) < 400)


def decimal_text(value: Number) -> str:
    """A number's digits without an exponent; as Python has it if they are too many."""
    text = _plain(exact(value))
    return text if len(text) < 400 else repr(value)


def _json(value: Number) -> str:
    text = repr(value)
    return text.replace("e-0", "e-").replace("e+0", "e+")


def exact(value: Number) -> Fraction:
    """The number that its JSON text says."""
    return Fraction(value) if isinstance(value, int) else Fraction(repr(value))


def _decimal(value: Number) -> Decimal:
    return Decimal(value) if isinstance(value, int) else Decimal(repr(value))


def _read(value: Fraction) -> Number:
    """As a JSON reader has it that is given its text."""
    return value.numerator if value.denominator == 1 else float(_plain(value))


def _plain(value: Fraction) -> str:
    """As decimal digits without an exponent. The value has finitely many."""
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
    # Validators divide doubles; what they would refuse is not written.
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
    """So much that a double still tells a bound from what is this far away."""
    value = _decimal(bound)
    return Decimal(1).scaleb(max(value.adjusted() if value else 0, 0) - 14)


# --- regular expressions --------------------------------------------------------------------------


def _literal(text: str) -> str:
    return text.replace(".", r"\.").replace("+", r"\+")


def _either(options: Iterable[str | None]) -> str | None:
    found = [o for o in dict.fromkeys(options) if o is not None]
    return "|".join(found) if found else None


def _digit(low: int, high: int) -> str:
    return str(low) if low == high else f"[{low}-{high}]"


def _integers(low: int | None, high: int | None) -> str | None:
    if low is not None and high is not None and low > high:
        return None
    found: list[str | None] = []
    if low is None or low < 0:
        nearest = 1 if high is None or high >= 0 else -high
        found.append(f"-({_naturals(nearest, None if low is None else -low)})")
    if high is None or high >= 0:
        found.append(_naturals(max(low or 0, 0), high))
    return _either(found)


def _followed_by_zeros(low: int | None, high: int | None, zeros: int) -> list[str | None]:
    """Integers in a range, each with zeros after it; 0 stays 0."""
    below, above = _pick(min, high, -1), _pick(max, low, 1)
    negative = _integers(low, below)
    positive = _integers(above, high)
    found = [f"({p}){'0' * zeros}" for p in (negative, positive) if p is not None]
    between = (low is None or low <= 0) and (high is None or high >= 0)
    return [*found, "0" if between else None]


def _naturals(low: int, high: int | None) -> str:
    """From `low` to `high`, or to so many digits."""
    first = str(low)
    last = str(high) if high is not None else "9" * max(_WHOLE, len(first) + 10)
    if len(first) == len(last):
        return _same_length(first, last)
    found = [_same_length(first, "9" * len(first))]
    shortest, longest = len(first) + 1, len(last) - 1
    if shortest <= longest:
        found.append(rf"[1-9][0-9]{{{shortest - 1},{longest - 1}}}")
    found.append(_same_length("1" + "0" * (len(last) - 1), last))
    return "|".join(found)


def _same_length(low: str, high: str) -> str:
    """Digits from `low` to `high`, which have as many."""
    n = len(low)
    common = next((i for i in range(n) if low[i] != high[i]), n)
    if common == n:
        return low

    def any_after(digits: int) -> str:
        return f"[0-9]{{{n - digits}}}" if n > digits else ""

    # What begins as the low bound does, up to its zeros; then as the high one, up to its nines.
    first, last = int(low[common]), int(high[common])
    found = []
    begins = max(len(low.rstrip("0")), common + 1)
    if begins > common + 1:
        found.append(low[:begins] + any_after(begins))
        found += [
            low[:i] + _digit(int(low[i]) + 1, 9) + any_after(i + 1)
            for i in range(begins - 1, common, -1)
            if low[i] != "9"
        ]
        first += 1
    ends = max(len(high.rstrip("9")), common + 1)
    if ends > common + 1:
        last -= 1
    if first <= last:
        found.append(low[:common] + _digit(first, last) + any_after(common + 1))
    if ends > common + 1:
        found += [
            high[:i] + _digit(0, int(high[i]) - 1) + any_after(i + 1)
            for i in range(common + 1, ends)
            if high[i] != "0"
        ]
        found.append(high[:ends] + any_after(ends))
    return "|".join(found)


def _decimals(low: Decimal, high: Decimal | None) -> str | None:
    """Texts with a point, from `low`, which is not negative, to `high`."""
    if not low.is_finite() or (high is not None and (not high.is_finite() or low > high)):
        return None
    whole, after = _split(low)
    if high is None:
        places = max(_PLACES, len(after))
        more = f"({_naturals(whole + 1, None)})" + rf"\.[0-9]{{1,{places}}}"
        return _either([_point(whole, _fractions(after, None, places)), more])
    last, before = _split(high)
    places = max(_PLACES, len(after), len(before))
    if whole == last:
        return _point(whole, _fractions(after, before, places))
    found = [_point(whole, _fractions(after, None, places))]
    if whole + 1 <= last - 1:
        found.append(f"({_naturals(whole + 1, last - 1)})" + rf"\.[0-9]{{1,{places}}}")
    found.append(_point(last, _fractions("", before, places)))
    return _either(found)


def _point(whole: int, fractions: str | None) -> str | None:
    return fractions and rf"{whole}\.({fractions})"


def _split(value: Decimal) -> tuple[int, str]:
    """The integer part, and the digits after the point without zeros at the end."""
    whole, _, after = f"{value:f}".partition(".")
    return int(whole), after.rstrip("0")


def _fractions(low: str, high: str | None, places: int) -> str | None:
    """Digits after a point, at least one, from `low` to `high`; without bound, to all nines."""
    if high is None:
        if not low:
            return rf"[0-9]{{1,{places}}}"
        return _either([low + _any(places - len(low)), *_greater(low, 0, places)])
    if low == high:
        return low + f"0{{0,{places - len(low)}}}" if low else f"0{{1,{places}}}"
    wide = low.ljust(len(high), "0")
    common = next(i for i in range(len(high)) if wide[i] != high[i])
    if wide[common] > high[common]:
        return None
    found: list[str | None] = []
    # Equal to the low bound and longer; parting from it upwards; between; up to the high bound.
    if len(low) > common:
        found.append(low + _any(places - len(low)))
        found += _greater(low, common + 1, places)
        least = int(low[common]) + 1
    else:  # it has ended: whatever follows is not less
        found += [high[:i] for i in range(max(len(low), 1), common + 1)]
        least = 0
    if least <= int(high[common]) - 1:
        between = _digit(least, int(high[common]) - 1)
        found.append(high[:common] + between + _any(places - common - 1))
    for i in range(common + 1, len(high)):
        found.append(high[:i])
        if high[i] != "0":
            found.append(high[:i] + _digit(0, int(high[i]) - 1) + _any(places - i - 1))
    found.append(high + f"0{{0,{places - len(high)}}}")
    return _either([f for f in found if f])


def _any(digits: int) -> str:
    return f"[0-9]{{0,{digits}}}" if digits else ""


def _greater(low: str, start: int, places: int) -> list[str]:
    """What has a greater digit than `low` at one place from `start`, and the same before it."""
    return [
        low[:i] + _digit(int(low[i]) + 1, 9) + _any(places - i - 1)
        for i in range(start, len(low))
        if low[i] != "9"
    ]
