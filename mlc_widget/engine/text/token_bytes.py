"""The bytes of tokens: how vocabularies write them, and how they become text again."""

from __future__ import annotations

import codecs
import re
from array import array
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any, Final, Literal, TypeAlias

TokenKind: TypeAlias = Literal["byte_level", "byte_fallback", "word_piece", "plain"]

UNASSIGNED = "\U0010fffd"
"""A character that is in no vocabulary."""
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_level_alphabet() -> dict[str, int]:
    """Map GPT-2's printable characters to the bytes for which they stand."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(b): b for b in printable}
    missing = (b for b in range(256) if b not in set(printable))
    alphabet.update({chr(0x100 + i): b for i, b in enumerate(missing)})
    return alphabet


_CHARMAP: Final = codecs.charmap_build(
    "".join(sorted(_byte_level_alphabet(), key=_byte_level_alphabet().__getitem__))
)
"""The alphabet for `codecs.charmap_encode`, which works in C."""


def kind_of(decoder: dict[str, Any]) -> tuple[TokenKind, bool]:
    """The kind of a tokenizer.json's decoder, and whether it drops a leading space."""
    steps: list[dict[str, Any]] = decoder.get("decoders", [decoder])
    types = {step.get("type"): step for step in steps}
    if "ByteLevel" in types:
        return "byte_level", False
    if "WordPiece" in types:
        return "word_piece", True
    if metaspace := types.get("Metaspace"):
        prepends = metaspace.get("prepend_scheme", "always") != "never"
        return "byte_fallback", prepends and metaspace.get("add_prefix_space", True)
    if "ByteFallback" in types or "Replace" in types:
        strip = types.get("Strip", {})
        return "byte_fallback", strip.get("content") == " " and strip.get("start", 0) > 0
    return "plain", False


class TokenBytes:
    """The bytes of all tokens, one after the other.

    Objects of their own would take six times the memory, which is 10 MB of a large vocabulary.

    Args:
        tokens: The bytes of each token.
    """

    def __init__(self, tokens: Sequence[bytes]) -> None:
        self._joined = b"".join(tokens)
        self._ends = array("I", accumulate(map(len, tokens), initial=0))
        self.longest = max(map(len, tokens), default=1)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __iter__(self) -> Iterator[bytes]:
        return (self._joined[start:end] for start, end in pairwise(self._ends))

    def of(self, token_id: int) -> bytes:
        """The bytes of a token; those of an id outside the vocabulary are ``b""``."""
        if not 0 <= token_id < len(self):
            return b""
        return self._joined[self._ends[token_id] : self._ends[token_id + 1]]


def bytes_of(names: Sequence[str | None], kind: TokenKind) -> list[bytes]:
    """The bytes of tokens, given their names in the vocabulary."""
    match kind:
        case "byte_level":
            try:  # nearly all vocabularies have a name of this alphabet for each id
                return [codecs.charmap_encode(name, "strict", _CHARMAP)[0] for name in names]  # type: ignore[arg-type]
            except (UnicodeEncodeError, TypeError):
                return [b"" if name is None else _byte_level(name) for name in names]
        case "byte_fallback":
            return [
                b""
                if name is None
                else bytes([int(byte[1], 16)])
                if name.startswith("<0x") and (byte := _BYTE_TOKEN.fullmatch(name))
                else name.replace("\u2581", " ").encode()
                for name in names
            ]
        case "word_piece":
            return [
                b""
                if name is None
                else name[2:].encode()
                if name.startswith("##")
                else f" {name}".encode()
                for name in names
            ]
        case "plain":
            return [b"" if name is None else name.encode() for name in names]


def _byte_level(name: str) -> bytes:
    try:
        return codecs.charmap_encode(name, "strict", _CHARMAP)[0]
    except UnicodeEncodeError:  # it has characters that do not stand for bytes
        return name.encode()


def decode_bytes(data: bytes, *, strip_leading_space: bool) -> str:
    """Decode as a `Detokenizer` does that gets `data` in any pieces and is then flushed."""
    text = codecs.getincrementaldecoder("utf-8")("replace").decode(data)
    return text.removeprefix(" ") if strip_leading_space else text
