"""The text of a growing reply, and the deltas that bring it to the page."""

from __future__ import annotations

import time
from collections.abc import Callable

from mlc_widget.api.requests import JSONDict
from mlc_widget.api.unicode_text import well_formed
from mlc_widget.widget.repetition import RepetitionDetector
from mlc_widget.widget.throttle import Throttle

FLUSH_INTERVAL_S = 1 / 30
"""Deltas are joined to about this pace: a browser takes some 400 messages per second in all."""

MIRROR_INTERVAL_S = 2.0
MIRROR_GROWTH = 2.0
"""The whole text so far is synced when it has doubled, so that its copies cost no more than twice
the text."""


def utf16_length(text: str) -> int:
    """The length as JavaScript counts it, in UTF-16 code units."""
    return len(text) + sum(character > "\uffff" for character in text)


class _Part:
    """One text that only grows: the answer, or the thoughts before it."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.sent_pieces = 0
        self.sent_units = 0
        self.repetition = RepetitionDetector()

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class ReplyBuffer:
    """Collects the text of one reply and emits it as deltas, in order and without gaps.

    `append` and `call` belong to the I/O thread; the rest may be read on any.

    Args:
        reply: The reply's id.
        on_delta: Gets ``{"type": "delta", "reply", "part", "offset", "text", "repeats"}`` at most
            30 times per second; `part` is ``text`` or ``reasoning``, `offset` counts UTF-16 code
            units.
        on_mirror: Called when the whole text should be synced.
    """

    def __init__(
        self,
        reply: str,
        *,
        on_delta: Callable[[JSONDict], object],
        on_mirror: Callable[[], object],
    ) -> None:
        self.reply = reply
        self.begun_at = time.monotonic()
        self.first_at: float | None = None
        self._parts = {"reasoning": _Part(), "text": _Part()}
        self._growing = self._parts["text"]
        self._calls: list[JSONDict] = []
        self.tokens: list[JSONDict] = []
        """The tokens so far, in OpenAI's shape, if the request asked for their probabilities."""
        self._on_delta = on_delta
        self._on_mirror = on_mirror
        self._mirrored_units = 0
        self._mirrored_at = self.begun_at
        self._throttle = Throttle(self._flush, FLUSH_INTERVAL_S)

    @property
    def text(self) -> str:
        """All text so far."""
        return self._parts["text"].text

    @property
    def reasoning(self) -> str:
        """All thoughts so far."""
        return self._parts["reasoning"].text

    @property
    def tool_calls(self) -> tuple[JSONDict, ...]:
        """The calls so far, in OpenAI's shape of a message."""
        return tuple({**call, "function": dict(call["function"])} for call in self._calls)

    @property
    def repeats(self) -> bool:
        """Whether the end of the text, or of the thoughts, repeats itself."""
        return self._growing.repetition.repeats

    def fields(self) -> JSONDict:
        """All this by the names of `Message`'s fields."""
        return {
            "text": self.text,
            "reasoning": self.reasoning,
            "tool_calls": self.tool_calls,
            "repeats": self.repeats,
        }

    @property
    def ttft_s(self) -> float | None:
        """Seconds until the first text, as seen from here."""
        return None if self.first_at is None else self.first_at - self.begun_at

    def append(self, text: str, part: str = "text") -> None:
        """Add text from the engine."""
        if not text:
            return
        if self.first_at is None:
            self.first_at = time.monotonic()
        text = well_formed(text)
        self._growing = self._parts[part]
        self._growing.pieces.append(text)
        self._growing.repetition.append(text)
        self._throttle.poke()

    def call(self, piece: JSONDict) -> None:
        """Add a piece of a tool call, in OpenAI's shape of a stream."""
        if self.first_at is None:
            self.first_at = time.monotonic()
        function = piece.get("function") or {}
        index = piece["index"]
        while len(self._calls) <= index:
            blank = {"name": "", "arguments": ""}
            self._calls.append({"id": "", "type": "function", "function": blank})
        known = self._calls[index]
        known["id"] = piece.get("id") or known["id"]
        known["function"]["name"] += well_formed(function.get("name") or "")
        known["function"]["arguments"] += well_formed(function.get("arguments") or "")

    def close(self) -> None:
        """Emit the rest."""
        self._growing.repetition.look()
        self._throttle.flush()

    def _flush(self) -> None:
        for name, part in self._parts.items():
            if len(part.pieces) == part.sent_pieces:
                continue
            text = "".join(part.pieces[part.sent_pieces :])
            offset = part.sent_units
            part.sent_pieces = len(part.pieces)
            part.sent_units += utf16_length(text)
            self._on_delta(
                {
                    "type": "delta",
                    "reply": self.reply,
                    "part": name,
                    "offset": offset,
                    "text": text,
                    "repeats": self.repeats,
                }
            )
        now = time.monotonic()
        units = sum(part.sent_units for part in self._parts.values())
        due = units >= MIRROR_GROWTH * self._mirrored_units
        if due and now - self._mirrored_at >= MIRROR_INTERVAL_S:
            self._mirrored_units, self._mirrored_at = units, now
            self._on_mirror()
