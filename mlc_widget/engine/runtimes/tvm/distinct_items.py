"""Keeps the items of arrays apart while they are written: `uniqueItems` of strings and numbers.

A grammar cannot say that an item is none of those before it. So in such an array a second, small
grammar is followed, too. It allows the items that are left, and is made again after each of them.
Both together never reach a dead end: what is left is a part of what the first grammar allows, and
is never empty, since the first grammar allows no more items than there are.

Such an array is known to have begun if the first grammar would accept its mark after a bracket
(`engine.schema.lark.LarkText.mark`). That is asked only after tokens that end with a bracket, so
tokens in which an item follows are not used. Where a value may be an array of either kind, with
`uniqueItems` or without, it becomes one with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mlc_widget.api.errors import BadRequestError, UnsupportedFieldError
from mlc_widget.engine.schema.lark import MARK

Mask = npt.NDArray[np.bool_]

_SPACE: Final = b" \t\r\n"
_PLAIN: Final = re.compile(rb"[^\[]*\[\s*(\][^\[]*)?", re.DOTALL)
"""Tokens after whose bracket there is nothing, or no item."""


class ItemTokens:
    """A vocabulary's tokens.

    Attributes:
        tokens: Their bytes.
        beyond: The ids of those after whose bracket an item may begin.
    """

    def __init__(self, tokens: Sequence[bytes]) -> None:
        self.tokens = tokens
        beyond = [i for i, t in enumerate(tokens) if b"[" in t and not _PLAIN.fullmatch(t)]
        self.beyond = np.array(beyond, np.int64)
        self._of_bytes = {t: i for i, t in reversed(list(enumerate(tokens))) if len(t) == 1}

    def of(self, text: str) -> list[int]:
        """The tokens of an ASCII text, one for each character.

        Raises:
            UnsupportedFieldError: There are none for some.
        """
        try:
            return [self._of_bytes[bytes([byte])] for byte in text.encode()]
        except KeyError:
            raise UnsupportedFieldError(
                "response_format: uniqueItems of strings or numbers needs a vocabulary with "
                "tokens for single characters, which this model does not have; leave it out.",
                param="response_format",
            ) from None


class DistinctItems:
    """The arrays in which one answer is."""

    def __init__(
        self, wanted: Mapping[str, Any], tokens: ItemTokens, compile_lark: Callable[[str], Any]
    ) -> None:
        """Begin with an answer.

        Args:
            wanted: What the items of arrays are, by their marks.
            tokens: The vocabulary.
            compile_lark: Makes a matcher of a Lark text.

        Raises:
            UnsupportedFieldError: The vocabulary is not fit for it.
        """
        self._wanted = wanted
        self._tokens = tokens
        self._compile = compile_lark
        self._marks = {mark: tokens.of(mark) for mark in wanted}
        self._no_mark = tokens.of(f"{MARK}.")
        self._arrays: list[_Array] = []

    def narrow(self, mask: Mask) -> None:
        """Take out of a mask of tokens, in place, those that would repeat an item."""
        mask[self._tokens.beyond] = False
        if self._arrays:
            mask &= np.logical_or.reduce([a.allowed(len(mask)) for a in self._arrays])

    def follow(self, token_id: int, matcher: Any) -> None:
        """Follow the text by one token that the grammar's matcher has consumed."""
        token = self._tokens.tokens[token_id]
        self._arrays = [a for a in self._arrays if a.follow(token_id, token)]
        if not token.rstrip(_SPACE).endswith(b"["):
            return
        for mark, ids in self._marks.items():
            if matcher.validate_tokens(ids) == len(ids) and not self._is_free(matcher):
                self._arrays.append(_Array(self._wanted[mark], self._compile))

    def _is_free(self, matcher: Any) -> bool:
        """Whether the grammar accepts any text here, so that a mark says nothing."""
        return bool(matcher.validate_tokens(self._no_mark) == len(self._no_mark))


class _Array:
    """One array, from its bracket on."""

    def __init__(self, wanted: Mapping[str, Any], compile_lark: Callable[[str], Any]) -> None:
        self._wanted = wanted
        self._compile = compile_lark
        self._strings: list[str] = []
        self._others: list[str] = []
        self._item = bytearray()
        self._in_string = self._escaped = False
        self._matcher = self._next()

    def allowed(self, n: int) -> Mask:
        """Which of `n` tokens may come next."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        if self._matcher.is_error():
            raise _too_complex()
        return np.unpackbits(bits, count=n, bitorder="little").view(np.bool_)

    def follow(self, token_id: int, token: bytes) -> bool:
        """Follow the text by one token; return whether it is still in this array."""
        if not self._matcher.consume_token(token_id):
            return False  # it is one of two arrays that the answer might have been in
        before = len(self._strings) + len(self._others)
        if not self._read(token):
            return False
        if len(self._strings) + len(self._others) > before:
            self._matcher = self._next()
        return True

    def _read(self, text: bytes) -> bool:
        """Read on; return whether the array goes on."""
        for byte in text:
            if self._in_string:
                self._item.append(byte)
                if self._escaped:
                    self._escaped = False
                elif byte == 0x5C:
                    self._escaped = True
                elif byte == 0x22:
                    self._in_string = False
            elif byte == 0x5D:  # ]
                return False
            elif byte == 0x2C:  # a comma
                self._end_item()
            elif byte not in _SPACE:
                self._in_string = byte == 0x22
                self._item.append(byte)
        return True

    def _end_item(self) -> None:
        item = self._item.decode()
        self._item.clear()
        if item.startswith('"'):
            self._strings.append(item[1:-1])
        else:
            self._others.append(item)

    def _next(self) -> Any:
        """A matcher of the next item, after whose quote the text may be, and of what follows."""
        quoted = bool(self._item)
        terminals: dict[str, str] = {}
        if inside := _without(self._wanted["strings"], self._strings):
            terminals["TEXT"] = ("" if quoted else r'"\"" ') + f'({inside}) "\\""'
        if not quoted and (others := _without(self._wanted["others"], self._others)):
            terminals["OTHER"] = others
        ahead = r'"\""?' if self._wanted["quote_after_comma"] and "TEXT" in terminals else ""
        for kinds in (list(terminals), *([kind] for kind in terminals)):  # of one none may be left
            matcher = self._compile(
                "\n".join([
                    f"start: GAP? ({' | '.join(kinds)}) GAP? (\",\" GAP? {ahead} | \"]\" REST)",
                    *(f"{kind}: {terminals[kind]}" for kind in kinds),
                    r"GAP: /[ \t\r\n]+/",
                    "REST: /(?s:.)*/",
                ])
            )  # fmt: skip
            if not matcher.is_error():
                return matcher
        raise _too_complex()


def _without(expressions: Sequence[str], texts: Sequence[str]) -> str:
    """A terminal of what expressions have, without some texts; "" for no expression."""
    if not expressions:
        return ""
    found = f"({' | '.join(f'({e})' for e in expressions)})"
    if listed := [json.dumps(t, ensure_ascii=False) for t in texts if t]:
        found += f" & ~({' | '.join(listed)})"
    return f"{found} & /(?s:.)+/" if "" in texts else found


def _too_complex() -> BadRequestError:
    return BadRequestError(
        "response_format: the items of an array can no longer be kept distinct at this point of "
        "the answer; leave uniqueItems out.",
        param="response_format",
    )
