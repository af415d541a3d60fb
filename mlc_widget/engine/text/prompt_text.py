"""The text of a prompt as pieces of markup and content.

Markup is written by the conversation template and the format of tool calls. In it, the text of a
control token such as ``<|im_end|>`` stands for that token. Content comes from elsewhere: system
prompts, messages, data, descriptions and results of tools, earlier answers of a model. In it, the
same characters are ordinary text (see `Tokenizer.encode_prompt`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, TypeAlias


class Piece(NamedTuple):
    """A part of a prompt.

    Attributes:
        text: The text.
        is_markup: Whether it is markup.
    """

    text: str
    is_markup: bool


class PromptText:
    """Pieces of markup and content, in order. Immutable; ``+`` joins two."""

    __slots__ = ("pieces",)

    def __init__(self, pieces: Iterable[Piece] = ()) -> None:
        """Join the pieces; empty ones are left out, and adjacent ones of one kind are merged."""
        joined: list[Piece] = []
        for kind, texts in _runs(pieces):
            joined.append(Piece("".join(texts), kind))
        self.pieces: tuple[Piece, ...] = tuple(joined)

    @classmethod
    def between(cls, text: str, begin: str, end: str) -> PromptText:
        """Split a text in which all content is between two marks.

        This is for templates that write markup and content into one string: give them each content
        with `begin` before and `end` after it. No content may contain these marks.
        """
        first, *rest = text.split(begin)
        pieces = [Piece(first, is_markup=True)]
        for part in rest:
            inside, _, outside = part.partition(end)
            pieces += [Piece(inside, is_markup=False), Piece(outside, is_markup=True)]
        return cls(pieces)

    @property
    def text(self) -> str:
        """The whole prompt as one string."""
        return "".join(piece.text for piece in self.pieces)

    def __add__(self, other: PromptText) -> PromptText:
        return PromptText((*self.pieces, *other.pieces))

    def __len__(self) -> int:
        return sum(len(piece.text) for piece in self.pieces)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PromptText) and self.pieces == other.pieces

    def __hash__(self) -> int:
        return hash(self.pieces)

    def __repr__(self) -> str:
        return f"PromptText({list(self.pieces)!r})"


Content: TypeAlias = str | PromptText
"""The content of a message; a plain string is content as a whole."""


def markup(text: str) -> PromptText:
    """All of `text` as markup."""
    return PromptText((Piece(text, is_markup=True),))


def content(text: Content) -> PromptText:
    """A string as content; a `PromptText` is returned unchanged."""
    return text if isinstance(text, PromptText) else PromptText((Piece(text, is_markup=False),))


def join(parts: Iterable[PromptText]) -> PromptText:
    """The concatenation of `parts`."""
    return PromptText(piece for part in parts for piece in part.pieces)


def fill(template: str, placeholder: str, value: Content) -> PromptText:
    """`template` as markup, with `value` in place of each `placeholder`."""
    first, *rest = template.split(placeholder)
    filled, inside = [markup(first)], content(value)
    for part in rest:
        filled += [inside, markup(part)]
    return join(filled)


def _runs(pieces: Iterable[Piece]) -> Iterable[tuple[bool, list[str]]]:
    kind, texts = True, list[str]()
    for piece in pieces:
        if not piece.text:
            continue
        if texts and piece.is_markup != kind:
            yield kind, texts
            texts = []
        kind = piece.is_markup
        texts.append(piece.text)
    if texts:
        yield kind, texts
