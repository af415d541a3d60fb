"""Keeps the items of an array distinct while they are generated, for `uniqueItems`.

This is for strings and numbers. A grammar cannot express that an item differs from all earlier
ones. So within such an array, the text must also match a second, small grammar, which allows the
items that are left and is made anew after each item. The two never reach a dead end: the second
allows a part of what the first allows, and always something, since the first allows no more items
than there are different ones.

Such an array has begun if the first grammar would accept the array's mark after a bracket
(`engine.schema.lark.LarkText.mark`). That is tested only after tokens that end with a bracket, so
tokens in which an item follows the bracket are not allowed. A value that may be an array with
`uniqueItems` or one without becomes one with it.
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
"""Tokens in which no item follows the bracket."""


class ItemTokens:
    """A vocabulary's tokens.

    Attributes:
        tokens: Their bytes.
        beyond: The ids of those in which an item follows a bracket.
    """

    def __init__(self, tokens: Sequence[bytes]) -> None:
        self.tokens = tokens
        beyond = [i for i, t in enumerate(tokens) if b"[" in t and not _PLAIN.fullmatch(t)]
        self.beyond = np.array(beyond, np.int64)
        self._of_bytes = {t: i for i, t in reversed(list(enumerate(tokens))) if len(t) == 1}

    def of(self, text: str) -> list[int]:
        """The tokens of an ASCII text, one for each character.

        Raises:
            UnsupportedFieldError: Some character has none.
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
    """The arrays that are open at the end of one answer."""

    def __init__(
        self, wanted: Mapping[str, Any], tokens: ItemTokens, compile_lark: Callable[[str], Any]
    ) -> None:
        """Set up the state of an empty answer.

        Args:
            wanted: The description of each array's items, by the array's mark.
            tokens: The vocabulary.
            compile_lark: Makes a matcher of a Lark text.

        Raises:
            UnsupportedFieldError: The vocabulary lacks tokens for single characters.
        """
        self._wanted = wanted
        self._tokens = tokens
        self._compile = compile_lark
        self._marks = {mark: tokens.of(mark) for mark in wanted}
        self._no_mark = tokens.of(f"{MARK}.")
        self._arrays: list[_Array] = []

    def narrow(self, mask: Mask) -> None:
        """Clear the tokens that would repeat an item in a mask of allowed tokens."""
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
        """Whether the grammar accepts any text here, so that accepting a mark means nothing."""
        return bool(matcher.validate_tokens(self._no_mark) == len(self._no_mark))


class _Array:
    """One array, which begins after its bracket."""

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
        """Read a part of the text; return whether the array goes on."""
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
        """A matcher of the next item and what follows; the item's quote may be there already."""
        quoted = bool(self._item)
        terminals: dict[str, str] = {}
        if inside := _without(self._wanted["strings"], self._strings):
            terminals["TEXT"] = ("" if quoted else r'"\"" ') + f'({inside}) "\\""'
        if not quoted and (others := _without(self._wanted["others"], self._others)):
            terminals["OTHER"] = others
        ahead = r'"\""?' if self._wanted["quote_after_comma"] and "TEXT" in terminals else ""
        for kinds in (list(terminals), *([kind] for kind in terminals)):  # one may have none left
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
    """A terminal that matches these expressions but none of some texts; "" without any."""
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
