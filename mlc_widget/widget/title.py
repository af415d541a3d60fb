"""Titles of chats: one line of text, given by the user or made from the first question."""

from __future__ import annotations

import unicodedata
from typing import Any, Final

from mlc_widget.api.request_values import bad

MAX_TITLE: Final = 200
"""Characters of a title."""
_FIRST_WORDS: Final = 48
"""Characters of a title that is made from a question."""
_JOINERS: Final = "\u200c\u200d"
"""ZWNJ and ZWJ, which shape the letters or emoji on both sides of them."""
_BLANK: Final = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
"""Letters, marks and symbols that look like spaces, or like nothing."""


def check_title(value: Any) -> str:
    """A title on one line, without anything that is not drawn; None gives "".

    Raises:
        BadRequestError: it is not a string, or too long.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise bad("title", value, "must be a string.")
    title = value if len(value) > 10 * MAX_TITLE else one_line(value)
    if len(title) > MAX_TITLE:
        raise bad("title", value, f"{len(title):,} characters; at most {MAX_TITLE} are kept.")
    return title


def first_words(question: str) -> str:
    """The beginning of a question's first line that has any text, as a title."""
    lines = (one_line(line) for line in question[: 100 * _FIRST_WORDS].splitlines())
    line = next(filter(None, lines), "")
    if len(line) <= _FIRST_WORDS:
        return line
    words = line[: _FIRST_WORDS + 1].rpartition(" ")[0]
    return f"{one_line(words or line[:_FIRST_WORDS])}…"


def one_line(text: str) -> str:
    """A text on one line, without characters that are not drawn; "" if none is.

    Such characters include those that change the direction of what follows, also beyond the text.
    """
    spaced = "".join(" " if c.isspace() else c for c in text if c.isspace() or _may_stay(c))
    joined = (
        c
        for at, c in enumerate(spaced)
        if c not in _JOINERS or _join(spaced[at - 1 : at], spaced[at + 1 : at + 2])
    )
    line = " ".join("".join(joined).split())
    drawn = (c not in _JOINERS and unicodedata.category(c)[0] not in "MZ" for c in line)
    return line if any(drawn) else ""


def _may_stay(character: str) -> bool:
    undrawn = character in _BLANK or unicodedata.category(character) in ("Cc", "Cf", "Cs")
    return character in _JOINERS or not undrawn


def _join(*neighbours: str) -> bool:
    """Whether a joiner may be between these: letters, marks on them, or emoji."""
    return all(c and unicodedata.category(c)[0] in "LMS" for c in neighbours)
