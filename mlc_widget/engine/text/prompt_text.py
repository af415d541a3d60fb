"""A prompt's text in which markup and content are told apart.

Markup is what a conversation template and its tools' format write around a conversation: there, the
text of a control token such as ``<|im_end|>`` means that token. Content is what came from somebody
else: system prompts, messages, data, tools' descriptions and results, a model's earlier answers.
There the same characters are only characters (see `Tokenizer.encode_prompt`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, TypeAlias


class Piece(NamedTuple):
    """A part of a prompt.

    Attributes:
        text: What it says.
        is_markup: Whether it is the template's own.
    """

    text: str
    is_markup: bool


class PromptText:
    """Pieces of markup and content, in order. Immutable; ``+`` joins two."""

    __slots__ = ("pieces",)

    def __init__(self, pieces: Iterable[Piece] = ()) -> None:
        """Take pieces; empty ones are left out, and neighbours of one kind become one."""
        joined: list[Piece] = []
        for kind, texts in _runs(pieces):
            joined.append(Piece("".join(texts), kind))
        self.pieces: tuple[Piece, ...] = tuple(joined)

    @classmethod
    def between(cls, text: str, begin: str, end: str) -> PromptText:
        """The pieces of a text in which content is whatever stands between two marks.

        For templates that write markup and content into one string: give them each content with a
        mark before and after it, which must be in no content.
        """
        first, *rest = text.split(begin)
        pieces = [Piece(first, is_markup=True)]
        for part in rest:
            inside, _, outside = part.partition(end)
            pieces += [Piece(inside, is_markup=False), Piece(outside, is_markup=True)]
        return cls(pieces)

    @property
    def text(self) -> str:
        """All of it as one string."""
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
"""A message's content: a plain string is content all through."""


def markup(text: str) -> PromptText:
    """All of `text` as markup."""
    return PromptText((Piece(text, is_markup=True),))


def content(text: Content) -> PromptText:
    """A string as content; what has its pieces already stays as it is."""
    return text if isinstance(text, PromptText) else PromptText((Piece(text, is_markup=False),))


def join(parts: Iterable[PromptText]) -> PromptText:
    """All `parts`, one after the other."""
    return PromptText(piece for part in parts for piece in part.pieces)


def fill(template: str, placeholder: str, value: Content) -> PromptText:
    """`template` as markup, with `value` wherever `placeholder` stands."""
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
