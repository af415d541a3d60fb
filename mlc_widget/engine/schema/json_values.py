"""Checks the constants of a schema: whether they can be written as JSON, and how long they are."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

_DIGITS: Final = 300
"""The maximum number of digits of a number."""
_DEPTH: Final = 100
"""The maximum depth of a value."""


def problem_of_value(value: Any, depth: int = 0) -> str:
    """Say why a value cannot be written as JSON; "" if it can."""
    if value is None or isinstance(value, bool):
        return ""
    if isinstance(value, str):
        return "" if not any(0xD800 <= ord(c) < 0xE000 for c in value) else "not Unicode text"
    if isinstance(value, int):
        return "" if abs(value) < 10**_DIGITS else f"give at most {_DIGITS} digits"
    if isinstance(value, float):
        return "" if math.isfinite(value) else "give a number; JSON has no other"
    if depth > _DEPTH:
        return f"give at most {_DEPTH} levels"
    if isinstance(value, Mapping):
        found = (problem_of_value(v, depth + 1) for pair in value.items() for v in pair)
        return next((p for p in found if p), "")
    if isinstance(value, Sequence):
        return next((p for v in value if (p := problem_of_value(v, depth + 1))), "")
    return "give a value of JSON"


def size_of(value: Any) -> int:
    """The bytes of a value's JSON text."""
    return len(json.dumps(value, ensure_ascii=False).encode())


def shown(value: Any) -> str:
    """A value for an error message, shortened if it is long or deep."""
    try:
        return f"{value!r:.120}"
    except (RecursionError, ValueError):
        return f"<{type(value).__name__}>"
