"""Titles of chats: one line of text, given by the user or made from the first question."""

from __future__ import annotations

import unicodedata
from typing import Any, Final

from mlc_widget.api.errors import BadRequestError

MAX_TITLE: Final = 200
"""Characters of a title."""
_FIRST_WORDS: Final = 48
"""Characters of a title that is made from a question."""
_DIRECTIONS: Final = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Characters that change the direction of what follows, also beyond the title."""


def check_title(value: Any) -> str:
    """A title on one line, without anything that is not drawn; None gives "".

    Raises:
        BadRequestError: it is not a string, or too long.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRequestError(f"title = {value!r}: must be a string.", param="title")
    title = _one_line(value)
    if len(title) > MAX_TITLE:
        raise BadRequestError(
            f"title: {len(title)} characters; at most {MAX_TITLE} are kept.", param="title"
        )
    return title


def first_words(question: str) -> str:
    """The beginning of a question's first line that has any text, as a title."""
    lines = (_one_line(line) for line in question[: 100 * _FIRST_WORDS].splitlines())
    line = next(filter(None, lines), "")
    if len(line) <= _FIRST_WORDS:
        return line
    words = line[: _FIRST_WORDS + 1].rpartition(" ")[0]
    return f"{words or line[:_FIRST_WORDS]}…"


def _one_line(text: str) -> str:
    spaced = " ".join(text.split())
    return "".join(
        character
        for character in spaced
        if character not in _DIRECTIONS and unicodedata.category(character) not in ("Cc", "Cs")
    ).strip()
