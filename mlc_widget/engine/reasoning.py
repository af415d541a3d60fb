"""Thinking models: what is between ``<think>`` and ``</think>``, parted from the answer."""

from __future__ import annotations

import re
from typing import Final

OPEN: Final = "<think>"
CLOSE: Final = "</think>"
NO_THOUGHT: Final = f"{OPEN}\n\n{CLOSE}\n\n"
"""What a prompt ends with so that the model answers at once, as Qwen3's own template does."""

RULES: Final = rf'''thought[lazy]: "{OPEN}" /(.|\n)*/ "{CLOSE}"
gap: /[ \n]{{0,4}}/'''
"""Lark rules for ``(thought gap)?`` before an answer that must match a grammar."""

INSIDE_RULES: Final = rf'''thought[lazy]: /(.|\n)*/ "{CLOSE}"
gap: /[ \n]{{0,4}}/'''
"""The same where the prompt has opened the thought; there it is required."""


def without_thoughts(text: str) -> str:
    """An earlier answer as a template takes it: its thoughts are not part of the history."""
    return text.rpartition(CLOSE)[2].lstrip("\n") if CLOSE in text else text


class ReasoningParser:
    """Parts a text, as it comes, into thought and answer. The marks and the breaks around them go.

    Only a thought at the beginning is one: later marks are text.
    """

    def __init__(self, *, inside: bool = False) -> None:
        """Begin; `inside` if the prompt has opened the thought."""
        self._state = "thought" if inside else "start"
        self._held = ""
        self._fresh = True  # nothing of this thought or answer was given yet

    def push(self, text: str) -> tuple[str, str]:
        """Take more text, give what is certain: (thought, answer)."""
        self._held += text
        thought = ""
        if self._state == "start":
            self._begin()
        if self._state == "thought":
            thought = self._think()
        return thought, self._answer() if self._state == "answer" else ""

    def flush(self) -> tuple[str, str]:
        """The rest, now that no more text comes."""
        held, self._held = self._held, ""
        if self._state == "thought":
            return held.rstrip("\n"), ""
        return "", held

    def _begin(self) -> None:
        bare = self._held.lstrip()
        if bare.startswith(OPEN):
            self._state, self._held = "thought", bare.removeprefix(OPEN)
        elif not OPEN.startswith(bare):
            self._state, self._fresh = "answer", False

    def _think(self) -> str:
        if self._fresh:
            self._held = self._held.lstrip("\n")
        before, mark, after = self._held.partition(CLOSE)
        if mark:
            self._state, self._held, self._fresh = "answer", after, True
            return before.rstrip("\n")
        # Breaks and the beginning of the mark may belong to the end of the thought.
        undecided = re.search(r"\n*(?:<(?:/(?:t(?:h(?:i(?:n(?:k)?)?)?)?)?)?)?$", self._held)
        assert undecided is not None
        certain = self._held[: undecided.start()]
        self._held = self._held[undecided.start() :]
        self._fresh = self._fresh and not certain
        return certain

    def _answer(self) -> str:
        held, self._held = self._held, ""
        if self._fresh:
            held = held.lstrip("\n")
            self._fresh = not held
        return held
