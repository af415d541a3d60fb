"""When to ask a server again: after how long, and how often."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Final

ATTEMPTS: Final = 6
"""In a row without a byte."""
LONGEST_WAIT_S: Final = 120.0
"""That a server may ask for; a person would rather try again later."""
TEMPORARY: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses that may be others soon."""
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 8.0
_RESET: Final = re.compile(r"(?:^|;)\s*t=(\d+)")


class TemporaryError(Exception):
    """A server, or the way to it, has failed, and may not fail again. The text is for the user.

    Args:
        text: What happened.
        wait_s: After how many seconds the server wants to be asked again, if it says.
    """

    def __init__(self, text: str, wait_s: float | None = None) -> None:
        super().__init__(text)
        self.wait_s = wait_s


class GaveUp(Exception):
    """It has failed too often, or the server asks for a long pause. The text is for the user."""


@dataclass(slots=True)
class Patience:
    """Counts failures in a row and waits between them.

    Attributes:
        attempts: How often to try without a success.
        on_wait: Called with the seconds and the reason before a wait.
        sleep: Waits.
    """

    attempts: int = ATTEMPTS
    on_wait: Callable[[float, str], object] = lambda seconds, reason: None
    sleep: Callable[[float], object] = time.sleep
    _failures: int = field(default=0, init=False)

    def succeeded(self) -> None:
        """Forget the failures so far."""
        self._failures = 0

    def wait(self, error: TemporaryError) -> None:
        """Wait before the next attempt.

        Raises:
            GaveUp: There is no next attempt.
        """
        self._failures += 1
        if error.wait_s is not None and error.wait_s > LONGEST_WAIT_S:
            raise GaveUp(f"{error}: it asks for a pause of {error.wait_s:.0f} s. Try again then.")
        if self._failures >= self.attempts:
            times = "" if self.attempts == 1 else f", {self.attempts} times in a row"
            raise GaveUp(f"{error}{times}.")
        pause = min(_FIRST_PAUSE_S * 2 ** (self._failures - 1), _LONGEST_PAUSE_S)
        seconds = pause if error.wait_s is None else error.wait_s
        self.on_wait(seconds, str(error))
        # Readers who were turned away together should not come back together.
        self.sleep(seconds + random.uniform(0, pause / 4))


def wanted_pause(headers: Mapping[str, str], now: Callable[[], float] = time.time) -> float | None:
    """The seconds that a response asks to wait: ``Retry-After``, or the Hub's ``RateLimit``.

    Args:
        headers: Of the response, with names in lower case or found in any.
        now: The time in seconds since 1970.
    """
    value = (headers.get("retry-after") or "").strip()
    if re.fullmatch(r"\d{1,9}", value):
        return float(value)
    if value:
        try:
            return max(parsedate_to_datetime(value).timestamp() - now(), 0.0)
        except (TypeError, ValueError, OverflowError):
            return None
    limit = headers.get("ratelimit") or ""
    if re.search(r"(?:^|;)\s*r=0(?:;|$)", limit) and (reset := _RESET.search(limit)):
        return float(reset[1][:9])
    return None
