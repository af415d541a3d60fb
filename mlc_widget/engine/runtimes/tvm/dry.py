"""DRY ("don't repeat yourself"): a penalty for tokens that would continue a repetition.

If the last tokens of prompt and answer also occurred before, the token that followed them there is
penalised, the more, the longer the repetition is. No repetition is counted across a sequence
breaker.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from mlc_widget.engine.runtimes.base import Sampling

_MOST_PENALISED: Final = 128
"""Longer repetitions, beyond the allowed length, are not penalised more."""
_LARGEST: Final = 1e4
"""The largest penalty: such a token is never drawn, and its logit stays finite."""


class Vocabulary(Protocol):
    """What sampling needs of a tokenizer."""

    def token_bytes(self, token_id: int) -> bytes:
        """The exact bytes of a token."""

    def is_special(self, token_id: int) -> bool:
        """Whether the token is a special one, such as an end of turn, and not text."""


class DryPenalty:
    """The penalty of one generation, which must see each token."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int], vocabulary: Vocabulary) -> None:
        self._s = sampling
        self._cap = sampling.dry_allowed_length + _MOST_PENALISED
        self._breakers = _Breakers(sampling.dry_sequence_breakers, vocabulary)
        count = len(prompt)
        size = max(64, 2 * count)
        self._count = count
        self._tokens = np.zeros(size, np.int32)
        self._tokens[:count] = prompt
        self._breaks = np.zeros(size, np.bool_)
        self._breaks[:count] = self._breakers.find(prompt)
        # For each token but the last: how many tokens that end there also end the whole text.
        self._common = np.zeros(size, np.int16)
        self._compare()

    def _compare(self) -> None:
        """Compare the end of the tokens with all places before it."""
        last = self._count - 1
        at = np.arange(max(0, last))
        for back in range(min(self._cap, self._count)):
            at = at[at >= back]
            if not len(at) or self._breaks[last - back]:
                return
            same = self._tokens[at - back] == self._tokens[last - back]
            at = at[same & ~self._breaks[at - back]]
            self._common[at] = back + 1

    def append(self, token: int) -> None:
        """Take note of a token of the answer."""
        if self._count == len(self._tokens):
            self._tokens = np.concatenate((self._tokens, np.zeros_like(self._tokens)))
            self._breaks = np.concatenate((self._breaks, np.zeros_like(self._breaks)))
            self._common = np.concatenate((self._common, np.zeros_like(self._common)))
        last = self._count
        self._count += 1
        self._tokens[last] = token
        self._breaks[last] = broken = self._breakers.push(token)
        common = self._common[:last]
        common[1:] = 0 if broken else np.minimum(common[:-1] + 1, self._cap)
        common[:1] = not broken
        if not broken:
            common[(self._tokens[:last] != token) | self._breaks[:last]] = 0

    def penalties(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """The penalised tokens, distinct, and what their logits lose."""
        s = self._s
        at = np.flatnonzero(self._common[: max(0, self._count - 1)] >= s.dry_allowed_length)
        at = at[~self._breaks[at + 1]]
        ids, of = np.unique(self._tokens[at + 1], return_inverse=True)
        lengths = np.zeros(len(ids), np.int16)
        np.maximum.at(lengths, of, self._common[at])
        excess = (lengths - s.dry_allowed_length).astype(np.float64)
        penalty = np.minimum(s.dry_multiplier * s.dry_base**excess, _LARGEST)
        return ids, penalty.astype(np.float32)


class _Breakers:
    """Finds the tokens with which a sequence breaker ends; special tokens are breakers, too."""

    def __init__(self, texts: Iterable[str], vocabulary: Vocabulary) -> None:
        self._texts = [text.encode() for text in texts]
        self._vocabulary = vocabulary
        self._kept = max(map(len, self._texts), default=1) - 1
        self._tail = b""

    def find(self, tokens: Sequence[int]) -> npt.NDArray[np.bool_]:
        """Whether each of the first tokens is a breaker."""
        pieces = [self._vocabulary.token_bytes(token) for token in tokens]
        data = b"".join(pieces)
        ends = np.cumsum([len(piece) for piece in pieces])
        found = np.fromiter(map(self._vocabulary.is_special, tokens), np.bool_, len(tokens))
        for text in self._texts:
            every = re.finditer(b"(?=%b)" % re.escape(text), data)  # also those that overlap
            last_bytes = [match.start() + len(text) - 1 for match in every]
            found[np.searchsorted(ends, last_bytes, side="right")] = True
        self._keep(data)
        return found

    def _keep(self, data: bytes) -> None:
        """Keep as much of the text's end as a breaker may begin in."""
        self._tail = data[max(0, len(data) - self._kept) :]

    def push(self, token: int) -> bool:
        """Whether the next token is a breaker."""
        piece = self._vocabulary.token_bytes(token)
        data, old = self._tail + piece, len(self._tail)
        self._keep(data)
        return self._vocabulary.is_special(token) or any(
            text in data[max(0, old - len(text) + 1) :] for text in self._texts
        )
