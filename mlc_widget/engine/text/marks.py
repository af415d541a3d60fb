"""Marks in texts that go through a chat template, which makes one string of markup and content."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from mlc_widget.api.errors import BadRequestError

_MARK: Final = "\ufdd0"
"""A code point that is no character (Unicode's noncharacters), and so is in no text."""

END_MARK: Final = "\ufdd1"
"""Another, which marks where a text ends that is to be gone on with."""


@lru_cache(maxsize=32)
def _any_of(names: frozenset[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))) or r"(?!)")


def protect(value: Any, control: frozenset[str]) -> Any:
    """`value` with a mark inside each text of a control token, so that it is none any more.

    Args:
        value: JSON values: what came from somebody else and goes into a template.
        control: Texts of the control tokens.

    Raises:
        BadRequestError: a text has the mark itself.
    """
    pattern = _any_of(control)

    def protected(text: str) -> str:
        for mark in (_MARK, END_MARK):
            if mark in text:
                raise BadRequestError(
                    f"messages: a text has U+{ord(mark):04X}, which Unicode reserves as no "
                    "character.",
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
    """A rendered text as (text, is markup): one character of what `protect` marked is content."""
    found: list[tuple[str, bool]] = []
    *marked, last = text.split(_MARK)
    for part in marked:
        found += [(part[:-1], True), (part[-1:], False)]
    return [*found, (last, True)]
