"""Finds the merges of a vocabulary that has scores instead, such as SentencePiece's.

A token may be joined from any two tokens whose concatenation it is. In a large vocabulary there are
millions of places at which tokens can be cut, so the halves are looked up by hash, in numpy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_CHARACTERS: Final = 1 << 19
"""The approximate number of characters that are processed together."""
_BASE: Final = 0x9E3779B97F4A7C15
_BITS: Final = 22
"""The number of leading bits by which a table finds the candidate for a hash."""


def pairs_of(tokens: Sequence[str]) -> tuple[Array, Array, Array]:
    """Find all pairs of tokens whose concatenation is a token.

    Args:
        tokens: The vocabulary; if a text occurs twice, the first counts.

    Returns:
        Three arrays of indices into `tokens`: wholes, lefts and rights.
    """
    lengths = np.array([len(token) for token in tokens], np.int64)
    hashes = np.concatenate([part.tokens for part in _parts(tokens, lengths)])
    known = _Known(hashes)
    found: list[tuple[Array, Array, Array]] = []
    for part in _parts(tokens, lengths):
        token, left, right = part.cuts()
        rights = known.find(right)
        token, left, rights = token[rights >= 0], left[rights >= 0], rights[rights >= 0]
        lefts = known.find(left)
        there = lefts >= 0
        found.append((token[there], lefts[there], rights[there]))
    wholes, lefts, rights = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    # Two texts may have the same hash, at least if an attacker has designed them.
    same = lengths[wholes] == lengths[lefts] + lengths[rights]
    first = known.find(hashes[wholes]) == wholes
    kept = same & first
    return wholes[kept], lefts[kept], rights[kept]


class _Part:
    """Some tokens, with the hashes of all their prefixes and suffixes.

    The hash of the characters c from a to b is Σ (c[i] + 1) · base^(i - a), modulo 2**64.
    """

    def __init__(self, tokens: Sequence[str], lengths: Array, first: int) -> None:
        text = np.frombuffer("".join(tokens).encode("utf-32-le"), "<u4").astype(np.uint64)
        size = len(text)
        powers, inverses = _powers(_BASE, size), _powers(pow(_BASE, -1, 1 << 64), size)
        self._sums = np.zeros(size + 1, np.uint64)
        np.cumsum((text + np.uint64(1)) * powers[:size], out=self._sums[1:])
        self._inverses, self._lengths, self._first = inverses, lengths, first
        self._ends = np.cumsum(lengths)
        self.tokens = self._hash(self._ends - lengths, self._ends)

    def _hash(self, start: Array, end: Array) -> Array:
        hashes: Array = (self._sums[end] - self._sums[start]) * self._inverses[start]
        return hashes

    def cuts(self) -> tuple[Array, Array, Array]:
        """For each place at which a token can be cut: the token, and the hashes of its halves."""
        token = np.repeat(np.arange(len(self._lengths)), np.maximum(self._lengths - 1, 0))
        starts = self._ends - self._lengths
        before = np.cumsum(np.maximum(self._lengths - 1, 0)) - np.maximum(self._lengths - 1, 0)
        at = np.arange(len(token)) - before[token] + 1 + starts[token]
        left, right = self._hash(starts[token], at), self._hash(at, self._ends[token])
        return token + self._first, left, right


def _powers(base: int, size: int) -> Array:
    """The powers 0 to `size` of a number, modulo 2**64."""
    factors = np.full(size + 1, base, np.uint64)
    factors[0] = 1
    return np.cumprod(factors)


def _parts(tokens: Sequence[str], lengths: Array) -> Iterator[_Part]:
    """Split the vocabulary into parts of bounded size."""
    part = np.cumsum(lengths) // _CHARACTERS
    edges = [0, *(np.flatnonzero(np.diff(part)) + 1).tolist(), len(tokens)]
    for first, last in pairwise(edges):
        yield _Part(tokens[first:last], lengths[first:last], first)


class _Known:
    """Finds the token of a hash."""

    def __init__(self, hashes: Array) -> None:
        self._order = np.argsort(hashes, kind="stable")
        self._sorted = hashes[self._order]
        self._shift = np.uint64(64 - _BITS)
        self._table = np.full(1 << _BITS, -1, np.int32)
        self._table[self._sorted[::-1] >> self._shift] = np.arange(len(hashes))[::-1]

    def find(self, hashes: Array) -> Array:
        """The first token with each hash, or -1."""
        found = np.full(len(hashes), -1, np.int64)
        at = self._table[hashes >> self._shift]
        likely = np.flatnonzero(at >= 0)
        at, wanted = at[likely], hashes[likely]
        there = self._sorted[at] == wanted
        found[likely[there]] = self._order[at[there]]
        # Look for other tokens with the same leading bits.
        likely, wanted = likely[~there], wanted[~there]
        at = np.minimum(np.searchsorted(self._sorted, wanted), len(self._sorted) - 1)
        there = self._sorted[at] == wanted
        found[likely[there]] = self._order[at[there]]
        return found
