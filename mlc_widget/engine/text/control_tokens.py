"""A tokenizer's control tokens, and where a prompt's markup has them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from mlc_widget.engine.text.prompt_text import PromptText


class ControlTokens:
    """The added tokens that no content may become.

    These are all but the ones that are not special and consist of letters, digits and white space:
    runs of spaces, and words that a model's makers added to a vocabulary, are text.

    Attributes:
        ids: Theirs.
        names: Their text, by id.
    """

    def __init__(self, added: Mapping[int, Any]) -> None:
        """Take `tokenizers.Tokenizer.get_added_tokens_decoder()`."""
        found = {i: t for i, t in added.items() if t.content and (t.special or _is_mark(t.content))}
        self.ids = frozenset(found)
        self.names: Mapping[int, str] = {i: str(t.content) for i, t in found.items()}
        self._by_name = {str(t.content): (i, t) for i, t in found.items()}
        longest_first = sorted(self._by_name, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if found else None

    def find(self, prompt: PromptText) -> Iterator[tuple[int, int, int]]:
        """Where control tokens are, as (start, end, token id), in order: in pieces of markup alone.

        As the `tokenizers` package finds them in a text that is all markup: the first, of those the
        longest; white space that a token takes in at its sides may be content.
        """
        if self._pattern is None:
            return
        text, done, at = prompt.text, 0, 0
        for piece in prompt.pieces:
            if piece.is_markup:
                for match in self._pattern.finditer(text, at, at + len(piece.text)):
                    token_id, token = self._by_name[match[0]]
                    start, end = match.span()
                    if token.single_word and _in_a_word(text, start, end):
                        continue
                    if token.lstrip:
                        start = max(len(text[:start].rstrip()), done)
                    if token.rstrip:
                        end = len(text) - len(text[end:].lstrip())
                    yield start, end, token_id
                    done = end
            at += len(piece.text)


def _is_mark(content: str) -> bool:
    """Whether it has other characters than those of words and the spaces between them."""
    return not all(c.isalnum() or c.isspace() or c == "\u2581" for c in content)


def _in_a_word(text: str, start: int, end: int) -> bool:
    return bool(re.search(r"\w\Z", text[:start][-1:]) or re.match(r"\w", text[end : end + 1]))
