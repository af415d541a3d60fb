"""Thinking models: separates the text between ``<think>`` and ``</think>`` from the answer."""

from __future__ import annotations

import re
from typing import Final

OPEN: Final = "<think>"
CLOSE: Final = "</think>"
NO_THOUGHT: Final = f"{OPEN}\n\n{CLOSE}\n\n"
"""The end of a prompt that makes the model answer without thinking, as in Qwen3's template."""

RULES: Final = rf'''thought[lazy]: "{OPEN}" /(.|\n)*/ "{CLOSE}"
gap: /[ \n]{{0,4}}/'''
"""Lark rules for ``(thought gap)?`` before an answer that must match a grammar."""

INSIDE_RULES: Final = rf'''thought[lazy]: /(.|\n)*/ "{CLOSE}"
gap: /[ \n]{{0,4}}/'''
"""The same for a prompt that has already opened the thought, which is then required."""


def without_thoughts(text: str) -> str:
    """An earlier answer without its thoughts, which are left out of the history."""
    return text.rpartition(CLOSE)[2].lstrip("\n") if CLOSE in text else text


class ReasoningParser:
    """Splits a text, as it arrives, into thoughts and answer, without the tags between them.

    Only a thought at the beginning counts: later tags are text.
    """

    def __init__(self, *, inside: bool = False) -> None:
        """Start; `inside` says that the prompt ends inside a thought."""
        self._state = "thought" if inside else "start"
        self._held = ""
        self._fresh = True  # no text of this thought or answer has been returned yet

    def push(self, text: str) -> tuple[str, str]:
        """Add text; return what is now certain, as (thought, answer)."""
        self._held += text
        thought = ""
        if self._state == "start":
            self._begin()
        if self._state == "thought":
            thought = self._think()
        return thought, self._answer() if self._state == "answer" else ""

    def flush(self) -> tuple[str, str]:
        """Return the rest at the end of the text."""
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
        # Hold back line breaks and a beginning of the mark: both may end the thought.
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
