"""Notices that a text has begun to repeat itself, as answers of small models do."""

from __future__ import annotations

from typing import Final

MIN_LENGTH: Final = 400
"""The least length of a text's repeated end, in characters."""
MIN_TIMES: Final = 4
"""How often the unit must occur in a row."""
LONGEST: Final = 1024
"""The longest unit that is detected, in characters."""

_PROBE: Final = 32
_WINDOW: Final = LONGEST * MIN_TIMES
_STEP: Final = 128


class RepetitionDetector:
    """Follows a growing text; its work and memory per character are bounded.

    Attributes:
        repeats: Whether the text's end repeats itself, as of the last check.
    """

    def __init__(self) -> None:
        self.repeats = False
        self._tail = ""
        self._new: list[str] = []
        self._new_length = 0

    def append(self, text: str) -> None:
        """Add text."""
        self._new.append(text)
        self._new_length += len(text)
        if self._new_length >= _STEP:
            self.look()

    def look(self) -> None:
        """Check the text so far; `append` does so at intervals."""
        self._tail = (self._tail + "".join(self._new))[-_WINDOW:]
        self._new, self._new_length = [], 0
        self.repeats = repeated_unit(self._tail) is not None


def repeated_unit(text: str) -> str | None:
    """The unit that a text's end repeats word for word; None if it repeats nothing.

    The end counts if it has `MIN_LENGTH` characters and repeats the unit `MIN_TIMES` in a row.
    Blanks and rules, as in tables, do not count.
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
