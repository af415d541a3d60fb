"""Texts that can be encoded."""

from __future__ import annotations


def well_formed(text: str) -> str:
    """The text with U+FFFD for lone surrogates, which JSON can escape but UTF-8 cannot encode."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def is_well_formed(text: str) -> bool:
    """Whether a text has no lone surrogates, which JSON can escape but UTF-8 cannot encode."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
