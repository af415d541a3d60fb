from __future__ import annotations

from typing import Any


class TextStreamer:
    """Text of tokens as they come; a character that is not whole yet is held back."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self.given = ""

    def put(self, token_id: int) -> str:
        self._ids.append(token_id)
        return self._new(self._decode().rstrip("\ufffd"))

    def finish(self) -> str:
        return self._new(self._decode())

    def _decode(self) -> str:
        return str(self._tokenizer.decode(self._ids, skip_special_tokens=False))

    def _new(self, text: str) -> str:
        if len(text) <= len(self.given):
            return ""
        new, self.given = text[len(self.given) :], text
        return new
