"""What the GPU leaves of a row of logits, and the candidates that the host makes of it.

For each row there is a record of 64-bit words, which must be 0 before the kernels run:

    0           the largest logit and the first token that has it, as a key (`best_of`)
    1           float64: the sum of e ^ ((logit - largest) / temperature), nearly
    2           int32: the number of tokens in the list; int32: `cut`
    3 …         the list of `MOST` at most, unordered: float32 logit, int32 token

The list has all tokens whose logits are less than (cut + 1) / `PER_UNIT` below the largest, where
`cut` is as large as the list allows. Rows with a temperature of 0 have the first word only; where
all have, there are only these words (`BEST_TOKENS`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np

from mlc_widget.engine.runtimes.tvm.candidates import Best, Candidates
from mlc_widget.engine.runtimes.tvm.executor import Logits
from mlc_widget.engine.runtimes.tvm.memory import Array

CHOOSE_TOKENS: Final = "choose_tokens"
BEST_TOKENS: Final = "best_tokens"
"""The functions that make records."""
NEXT_STEP: Final = "next_step"
"""The function that makes the inputs of the next step from the first words of records."""
MOST: Final = 1024
"""The largest number of tokens in a row's list."""
BINS: Final = 512
PER_UNIT: Final = 8
"""Bins of logits, by their distance from the largest, per unit."""
WORDS: Final = 3 + MOST
ERROR: Final = 1e-6
"""A bound of the relative difference of a row's sum from that of numpy's float32 powers."""

_MARGIN: Final = 1e-4
"""A bound of the relative error of numpy's float32 powers, and of what is rounded before them."""
_NAN, _INFINITY, _MINUS_INFINITY = 0xFFFFFFFF, 0xFF800000, 0x007FFFFF
"""The upper halves of keys of logits that are not finite."""
_LOW: Final = 0xFFFFFFFF


def best_of(keys: Array) -> list[Best]:
    """The most probable tokens, from keys (m,) uint64."""
    tokens = _LOW - (keys & np.uint64(_LOW)).astype(np.int64)
    bits = (keys >> np.uint64(32)).astype(np.int64)
    finite = (bits != _NAN) & (bits != _INFINITY) & (bits != _MINUS_INFINITY)
    return [Best(int(t), bool(f)) for t, f in zip(tokens, finite, strict=True)]


def candidates_of(
    record: Array, best: Best, scale: float, count: int, row: Callable[[], Logits]
) -> Candidates:
    """A row's candidates.

    Args:
        record: (WORDS,) uint64.
        best: Its most probable token.
        scale: 1 / temperature, as the kernel got it.
        count: The number of all tokens.
        row: See `Candidates`.
    """
    listed, cut = record[2:3].view(np.int32).tolist()
    words = np.sort(record[3 : 3 + listed])  # by token
    total = float(record[1:2].view(np.float64)[0])
    # `_MARGIN`, as powers are less exact, the larger the exponent is.
    rest = math.exp(-(cut + 1) / PER_UNIT * scale) * (1 + _MARGIN)
    return Candidates(
        best,
        (words >> np.uint64(32)).astype(np.int64),
        words.astype(np.uint32).view(np.float32),
        rest,
        (total * (1 - ERROR), total * (1 + ERROR)),
        count,
        row,
    )
