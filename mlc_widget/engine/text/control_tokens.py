"""A tokenizer's control tokens, and how to find them in a prompt's markup."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from mlc_widget.engine.text.prompt_text import PromptText


class ControlTokens:
    """The added tokens that must not come from content, such as ``<|im_end|>``.

    Added tokens that are not special and consist only of letters, digits and white space are not
    among them: runs of spaces, and words that were added to the vocabulary, are ordinary text.

    Attributes:
        ids: Their ids.
        names: Their texts, by id.
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
        """Find control tokens in pieces of markup, as (start, end, token id) in order.

        They are found as the `tokenizers` package does in a text that is all markup: leftmost
        first, then longest. White space that a token absorbs on either side may be content.
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
    """Whether a token has characters other than letters, digits and white space."""
    return not all(c.isalnum() or c.isspace() or c == "\u2581" for c in content)


def _in_a_word(text: str, start: int, end: int) -> bool:
    return bool(re.search(r"\w\Z", text[:start][-1:]) or re.match(r"\w", text[end : end + 1]))
