"""What the GPU is told and leaves of a row of logits, and what the host makes of that.

For each row there is a record of 64-bit words, which must be 0 before the kernels run:

    0           the largest logit and the first token that has it, as a key (`best_of`)
    1           float64: the sum of e ^ ((logit - largest) / temperature), nearly

where filters follow (`candidates_of`):

    2           int32: the number of tokens in the list; int32: `cut`
    3 …         the list of `MOST` at most, unordered: float32 logit, int32 token

and where none do (`block_of`):

    2           int32: 0; int32: the number of the block of `BLOCK` tokens to draw from
    3, 4        float64: the sums over the blocks before it, and over it, nearly
    5 …         float32 logits of this block

The list has all tokens whose logits are less than (cut + 1) / `PER_UNIT` below the largest, where
`cut` is as large as the list allows. Rows with a temperature of 0 have the first word only; where
all have, there are only these words (`BEST_TOKENS`). Where no row has filters, records end with the
logits of the block (`DRAW_TOKENS`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np

from mlc_widget.engine.runtimes.tvm.candidates import Best, Block, Candidates
from mlc_widget.engine.runtimes.tvm.draws import BLOCK
from mlc_widget.engine.runtimes.tvm.executor import Logits
from mlc_widget.engine.runtimes.tvm.memory import Array

CHOOSE_TOKENS: Final = "choose_tokens"
BEST_TOKENS: Final = "best_tokens"
DRAW_TOKENS: Final = "draw_tokens"
"""The functions that make records."""
NEXT_STEP: Final = "next_step"
"""The function that makes the inputs of the next step from the first words of records."""
CHANGE_LOGITS: Final = "change_logits"
FORBID_TOKENS: Final = "forbid_tokens"
"""The functions that change rows before."""
WANTED: Final = np.dtype(
    [
        ("scale", np.float32),  # 1 / temperature, or 0
        ("mask", np.int32),  # 1 + the index of the row's mask, or 0
        ("at", np.float64),  # see `Draw`; less than 0 if filters follow
        ("within", np.float64),  # which token of its block, for `DRAW_TOKENS`
        ("start", np.int32),  # the index of the row's first change
        ("repeated", np.int32),  # the number of its changes by `penalty`, which come first
        ("parts", np.int32, 3),  # the numbers of its changes that subtract something, in order
        ("penalty", np.float32),
    ]
)
"""What to do with a row."""
WANTED_WORDS: Final = WANTED.itemsize // 4
MOST: Final = 1024
"""The largest number of tokens in a row's list."""
BINS: Final = 512
PER_UNIT: Final = 8
"""Bins of logits, by their distance from the largest, per unit."""
WORDS: Final = 3 + MOST
DRAWN_WORDS: Final = 5 + BLOCK // 2
"""The number of words of records without a list."""
ERROR: Final = 1e-6
"""A bound of the relative difference of a row's sum from that of numpy's float32 powers."""

_MARGIN: Final = 1e-4
"""A bound of the relative error of numpy's float32 powers, and of what is rounded before them."""
_NAN, _INFINITY, _MINUS_INFINITY = 0xFFFFFFFF, 0xFF800000, 0x007FFFFF
"""The upper halves of keys of logits that are not finite."""
_LOW: Final = 0xFFFFFFFF


def blocks_of(count: int) -> int:
    """The number of blocks of `BLOCK` tokens."""
    return -(-count // BLOCK)


def words_of(count: int) -> int:
    """The number of 32-bit words with a bit for each token."""
    return -(-count // 32)


def best_of(keys: Array) -> list[Best]:
    """The most probable tokens, from keys (m,) uint64."""
    tokens = _LOW - (keys & np.uint64(_LOW)).astype(np.int64)
    bits = (keys >> np.uint64(32)).astype(np.int64)
    finite = (bits != _NAN) & (bits != _INFINITY) & (bits != _MINUS_INFINITY)
    return [Best(int(t), bool(f)) for t, f in zip(tokens, finite, strict=True)]


def candidates_of(
    record: Array,
    best: Best,
    scale: float,
    count: int,
    row: Callable[[], Logits],
    allowed: int | None = None,
) -> Candidates:
    """A row's candidates.

    Args:
        record: (WORDS,) uint64.
        best: Its most probable token.
        scale: 1 / temperature, as the kernel got it.
        count: The number of all tokens.
        row: See `Candidates`.
        allowed: The number of tokens that may be chosen, if not all.
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
        0.0 if listed == allowed else rest,
        (total * (1 - ERROR), total * (1 + ERROR)),
        count,
        row,
    )


def block_of(record: Array, best: Best, at: float, count: int, row: Callable[[], Logits]) -> Block:
    """The block from which to draw.

    Args:
        record: (WORDS,) uint64.
        best: The most probable token.
        at: See `Draw`.
        count: The number of all tokens.
        row: See `Block`.
    """
    _, block = record[2:3].view(np.int32).tolist()
    total, _, before, within = record[1:5].view(np.float64).tolist()
    # As numpy sums, each of the sums, and so the border, may be off by `ERROR` of the total.
    target, margin = at * total, 3 * ERROR * total
    start = block * BLOCK
    sure = (block == 0 or target - before > margin) and (
        start + BLOCK >= count or before + within - target > margin
    )
    logits = record[5 : 5 + BLOCK // 2].view(np.float32)[: count - start]
    return Block(best, peak_of(record[0]), start, logits, sure, row)


def peak_of(key: np.uint64) -> np.float32:
    """The largest logit of a row, from its key."""
    bits = int(key) >> 32
    bits = bits ^ 0x80000000 if bits >> 31 else bits ^ _LOW
    return np.uint32(bits).view(np.float32)
