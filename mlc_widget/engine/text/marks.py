"""Marks that survive a chat template, to find the content in the single string that it makes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from mlc_widget.api.errors import BadRequestError

_MARK: Final = "\ufdd0"
"""A code point that is not a character (one of Unicode's noncharacters): no text has it."""

END_MARK: Final = "\ufdd1"
"""Another noncharacter, which marks the end of a text that the model is to continue."""


@lru_cache(maxsize=32)
def _any_of(names: frozenset[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))) or r"(?!)")


def protect(value: Any, control: frozenset[str]) -> Any:
    """Return `value` with a mark inside each control token's text, which is then ordinary text.

    Args:
        value: JSON values that are content and go into a template.
        control: The texts of the control tokens.

    Raises:
        BadRequestError: A text contains the mark itself.
    """
    pattern = _any_of(control)

    def protected(text: str) -> str:
        for mark in (_MARK, END_MARK):
            if mark in text:
                raise BadRequestError(
                    f"messages: a text contains U+{ord(mark):04X}, which is not a Unicode "
                    "character: remove it.",
                    param="messages",
                )
        return pattern.sub(lambda m: m[0][0] + _MARK + m[0][1:], text)

    def walked(item: Any) -> Any:
        if isinstance(item, str):
            return protected(item)
        if isinstance(item, Mapping):
            return {protected(str(k)): walked(v) for k, v in item.items()}
        if isinstance(item, list | tuple):
            return [walked(v) for v in item]
        return item

    return walked(value)


def parts_of(text: str) -> list[tuple[str, bool]]:
    """Split a rendered text into (text, is markup), with one character at each mark as content."""
    found: list[tuple[str, bool]] = []
    *marked, last = text.split(_MARK)
    for part in marked:
        found += [(part[:-1], True), (part[-1:], False)]
    return [*found, (last, True)]
