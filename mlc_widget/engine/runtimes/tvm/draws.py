"""What an executor needs to know to choose a token where the logits are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]
Values = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

BLOCK: Final = 256
"""A draw without filters first chooses one of the blocks of this many tokens, then one of these."""
MOST_CHANGES: Final = 8192
"""The largest number of changes of a row that an executor makes."""


@dataclass(frozen=True, slots=True, eq=False)
class Changes:
    """Changes of some logits, each rounded to float32, in this order.

    Attributes:
        penalty: Positive logits of `repeated` are divided by it, others are multiplied.
        repeated: (n,) distinct tokens.
        less: Tokens, distinct in each pair, and what is subtracted from their logits.
    """

    penalty: float = 1.0
    repeated: Ids | Sequence[int] = ()
    less: Sequence[tuple[Ids, Values]] = ()

    @property
    def count(self) -> int:
        """The number of changes; a token may have several."""
        return len(self.repeated) + sum(len(ids) for ids, _ in self.less)

    def apply(self, logits: Values) -> None:
        """Make the changes in (vocab_size,) logits."""
        if len(self.repeated):
            ids, p = np.asarray(self.repeated), np.float32(self.penalty)
            old = logits[ids]
            logits[ids] = np.where(old > 0, old / p, old * p)
        for ids, amount in self.less:
            logits[ids] -= amount


@dataclass(frozen=True, slots=True, eq=False)
class Draw:
    """How to choose a token from a row of logits.

    Attributes:
        temperature: The temperature; 0 for the most probable token.
        at: Which block of tokens to choose, as a fraction of the mass of all, in [0, 1); None if
            filters follow, which need the most probable tokens.
        changes: The changes of logits that come first.
        allowed: (vocab_size,) which tokens may be chosen; None for all.
        scored: Whether the logits are needed, too; only if all tokens are allowed.
    """

    temperature: float
    at: float | None = None
    changes: Changes | None = None
    allowed: Mask | None = None
    scored: bool = False
