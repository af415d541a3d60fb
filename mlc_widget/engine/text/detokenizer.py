"""Incremental detokenization: whole characters only, and never a part of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from mlc_widget.engine.text.tokenizer import Tokenizer


class StopStrings:
    """Ends a text before the first stop string that appears in it.

    Only text that may still become a stop string is held back. The first stop string to be
    complete ends the text; if two are complete at the same character, the longer one does. So the
    result does not depend on how the text was cut into pieces.

    Attributes:
        stopped: The stop string that ended the text; None until then.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        """Watch for the strings of `stop`, none of them empty."""
        if not all(stop):
            raise ValueError("An empty stop string would end every text.")
        self.stopped: str | None = None
        self._stop = tuple(stop)
        self._longest = max(map(len, stop), default=0)
        self._held = ""

    def push(self, text: str) -> str:
        """Take more text; return what is certain, and nothing after the end."""
        if self.stopped is not None:
            return ""
        held = self._held + text
        if not self._stop:
            return held
        ends = [(at + len(s), at, s) for s in self._stop if (at := held.find(s)) >= 0]
        if ends:
            _, at, self.stopped = min(ends)
            self._held = ""
            return held[:at]
        keep = self._undecided(held)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def flush(self) -> str:
        """Return the text that was held back; no more text will come."""
        held, self._held = self._held, ""
        return held

    def _undecided(self, text: str) -> int:
        """The length of the longest end of `text` that is the beginning of a stop string."""
        for n in range(min(self._longest - 1, len(text)), 0, -1):
            if any(s.startswith(text[-n:]) for s in self._stop):
                return n
        return 0


class Detokenizer:
    """Turns the tokens of one generation into text as they arrive.

    However the tokens cut the text's bytes, the joined pieces equal `Tokenizer.decode` of all
    tokens (up to a stop string): a character is given once its last byte is there, invalid bytes
    become U+FFFD as with Python's decoder, and an incomplete character at the end is left out.
    Special tokens have no text.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        """Begin a text that ends before the first of `stop`."""
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._strip = tokenizer.strips_leading_space
        self._stop = StopStrings(stop)

    @property
    def stopped(self) -> bool:
        """Whether a stop string ended the text."""
        return self._stop.stopped is not None

    def push(self, token_id: int) -> str:
        """Take a token; return the text that is now certain, possibly empty."""
        if self._tokenizer.is_special(token_id):
            return ""
        text = self._decoder.decode(self._tokenizer.token_bytes(token_id))
        if text and self._strip:
            self._strip = False
            text = text.removeprefix(" ")
        return self._stop.push(text)

    def flush(self) -> str:
        """Return the rest of the text; no more tokens will come."""
        return self._stop.flush()
