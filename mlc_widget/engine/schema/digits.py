"""Regular expressions of the digits of integers and decimal fractions in a range."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Final

_WHOLE: Final = 30
"""The maximum number of digits of an unbounded integer; with one bound, ten more than it has."""
_PLACES: Final = 16
"""The maximum number of digits after the point; more if the bounds have more."""
INTEGER: Final = rf"-?(0|[1-9][0-9]{{0,{_WHOLE - 1}}})"
FRACTION: Final = r"-?(0|[1-9][0-9]{0,8})\.[0-9]{0,5}[1-9]"
"""Numbers that are not integers, even after they are rounded to doubles."""
NUMBER: Final = rf"{INTEGER}(\.[0-9]{{1,{_PLACES}}})?([eE][+-]?[0-9]{{1,2}})?"


def literal(text: str) -> str:
    """An expression for one text."""
    return text.replace(".", r"\.").replace("+", r"\+")


def either(options: Iterable[str | None]) -> str | None:
    """An expression for what any of several expressions matches; None matches nothing."""
    found = [o for o in dict.fromkeys(options) if o is not None]
    return "|".join(found) if found else None


def _digit(low: int, high: int) -> str:
    return str(low) if low == high else f"[{low}-{high}]"


def integers(low: int | None, high: int | None) -> str | None:
    """Integers in a range; None if there are none."""
    if low is not None and high is not None and low > high:
        return None
    found: list[str | None] = []
    if low is None or low < 0:
        nearest = 1 if high is None or high >= 0 else -high
        found.append(f"-({_naturals(nearest, None if low is None else -low)})")
    if high is None or high >= 0:
        found.append(_naturals(max(low or 0, 0), high))
    return either(found)


def followed_by_zeros(low: int | None, high: int | None, zeros: int) -> list[str | None]:
    """Integers in a range, each followed by zeros; 0 stays 0."""
    below = -1 if high is None else min(high, -1)
    above = 1 if low is None else max(low, 1)
    negative = integers(low, below)
    positive = integers(above, high)
    found = [f"({p}){'0' * zeros}" for p in (negative, positive) if p is not None]
    between = (low is None or low <= 0) and (high is None or high >= 0)
    return [*found, "0" if between else None]


def _naturals(low: int, high: int | None) -> str:
    """From `low` to `high`, or up to a maximum number of digits."""
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
    """Integers from `low` to `high`, which have the same number of digits."""
    n = len(low)
    common = next((i for i in range(n) if low[i] != high[i]), n)
    if common == n:
        return low

    def any_after(digits: int) -> str:
        return f"[0-9]{{{n - digits}}}" if n > digits else ""

    # What begins like the lower bound, up to its zeros; then like the upper one, up to its nines.
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


def decimals(low: Decimal, high: Decimal | None) -> str | None:
    """Decimal fractions from `low`, which is not negative, to `high`; None if there are none."""
    if not low.is_finite() or (high is not None and (not high.is_finite() or low > high)):
        return None
    whole, after = _split(low)
    if high is None:
        places = max(_PLACES, len(after))
        more = f"({_naturals(whole + 1, None)})" + rf"\.[0-9]{{1,{places}}}"
        return either([_point(whole, _fractions(after, None, places)), more])
    last, before = _split(high)
    places = max(_PLACES, len(after), len(before))
    if whole == last:
        return _point(whole, _fractions(after, before, places))
    found = [_point(whole, _fractions(after, None, places))]
    if whole + 1 <= last - 1:
        found.append(f"({_naturals(whole + 1, last - 1)})" + rf"\.[0-9]{{1,{places}}}")
    found.append(_point(last, _fractions("", before, places)))
    return either(found)


def _point(whole: int, fractions: str | None) -> str | None:
    return fractions and rf"{whole}\.({fractions})"


def _split(value: Decimal) -> tuple[int, str]:
    """The integer part, and the digits after the point without trailing zeros."""
    whole, _, after = f"{value:f}".partition(".")
    return int(whole), after.rstrip("0")


def _fractions(low: str, high: str | None, places: int) -> str | None:
    """One or more digits after the point, from `low` to `high`, or to all nines."""
    if high is None:
        if not low:
            return rf"[0-9]{{1,{places}}}"
        return either([low + _any(places - len(low)), *_greater(low, 0, places)])
    if low == high:
        return low + f"0{{0,{places - len(low)}}}" if low else f"0{{1,{places}}}"
    wide = low.ljust(len(high), "0")
    common = next(i for i in range(len(high)) if wide[i] != high[i])
    if wide[common] > high[common]:
        return None
    found: list[str | None] = []
    # Equal to the lower bound or longer; greater than it; between the bounds; up to the upper one.
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
    return either([f for f in found if f])


def _any(digits: int) -> str:
    return f"[0-9]{{0,{digits}}}" if digits else ""


def _greater(low: str, start: int, places: int) -> list[str]:
    """Digits that are equal to `low` up to some place from `start` on, and greater there."""
    return [
        low[:i] + _digit(int(low[i]) + 1, 9) + _any(places - i - 1)
        for i in range(start, len(low))
        if low[i] != "9"
    ]
