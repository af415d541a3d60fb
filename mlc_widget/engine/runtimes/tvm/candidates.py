"""The most probable tokens of a row of logits, which mostly suffice to draw one.

An executor can return them instead of the row, so that this stays on the device, or is not looked
at again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Best:
    """The most probable token of a row.

    Attributes:
        token: The first of those with the largest logit, or with one that is not a number.
        finite: Whether its logit is finite.
    """

    token: int
    finite: bool


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """The most probable tokens of a row, at one temperature.

    Their mass is e ^ ((logit - largest logit) / temperature).

    Attributes:
        best: The most probable token.
        ids: (n,) int64 tokens, ascending; none, if there were too many to choose from.
        logits: (n,) float32 logits of these.
        rest: No other token has a larger mass.
        total: The least and the largest mass that all tokens together may have, as numpy sums it.
        count: The number of all tokens, whether they may be chosen or not.
        row: Returns the logits of all, (count,) float32, with the draw's changes; to be called
            before the next step.
    """

    best: Best
    ids: npt.NDArray[np.int64]
    logits: npt.NDArray[np.float32]
    rest: float
    total: tuple[float, float]
    count: int
    row: Callable[[], npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """The block of tokens in which a draw without filters falls.

    Attributes:
        best: The most probable token of the row.
        peak: Its logit.
        start: The first token of the block.
        logits: (n,) float32 logits of the block's tokens.
        sure: Whether the choice from all logits is sure to fall into this block.
        row: See `Candidates`.
    """

    best: Best
    peak: np.float32
    start: int
    logits: npt.NDArray[np.float32]
    sure: bool
    row: Callable[[], npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """What suffices to choose a token, with the logits of all, to give log-probabilities.

    Attributes:
        found: What suffices.
        logits: (count,) float32, with the draw's changes.
    """

    found: Best | Candidates | Block
    logits: npt.NDArray[np.float32]
