"""Noticing that a text has begun to repeat itself, as small models' answers do."""

from __future__ import annotations

from typing import Final

MIN_LENGTH: Final = 400
"""Characters that the repeated end of a text must have,"""
MIN_TIMES: Final = 4
"""and how often it must say the same."""
LONGEST: Final = 1024
"""Characters of the longest unit that is looked for."""

_PROBE: Final = 32
_WINDOW: Final = LONGEST * MIN_TIMES
_STEP: Final = 128


class RepetitionDetector:
    """Follows a growing text; its work and memory per character are bounded.

    Attributes:
        repeats: Whether the text's end, as of the last look at it, says the same again and again.
    """

    def __init__(self) -> None:
        self.repeats = False
        self._tail = ""
        self._new: list[str] = []
        self._new_length = 0

    def append(self, text: str) -> None:
        """Take more of the text."""
        self._new.append(text)
        self._new_length += len(text)
        if self._new_length >= _STEP:
            self.look()

    def look(self) -> None:
        """Look at the text as far as it has come; `append` does so now and then."""
        self._tail = (self._tail + "".join(self._new))[-_WINDOW:]
        self._new, self._new_length = [], 0
        self.repeats = repeated_unit(self._tail) is not None


def repeated_unit(text: str) -> str | None:
    """What a text's end repeats, word for word; None if it does not.

    The end counts if it is long enough (`MIN_LENGTH`) and says the same `MIN_TIMES` in a row. Only
    blanks and rules, as in tables, are no repetition.
    """
    if len(text) < MIN_LENGTH:
        return None
    probe = text[-_PROBE:]
    at = len(text) - _PROBE
    while (at := text.rfind(probe, max(0, at - LONGEST), at + _PROBE - 1)) >= 0:
        period = len(text) - _PROBE - at
        if period > LONGEST:
            return None
        repeated = max(period * MIN_TIMES, MIN_LENGTH)
        if repeated <= len(text) and text.endswith(text[-repeated:-period]):
            unit = text[-period:]
            return unit if any(character.isalnum() for character in unit) else None
    return None
