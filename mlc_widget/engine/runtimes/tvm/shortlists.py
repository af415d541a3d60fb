"""Finds, on the CPU, the most probable tokens of rows of logits.

A comparison with each logit finds them, while the mass of all tokens takes an exponential of each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from mlc_widget.engine.runtimes.tvm.candidates import Best, Candidates

Logits = npt.NDArray[np.float32]

_LEAST: Final = 16.0
"""Other tokens have masses of at most about e ^ -16 of that of the best."""
_MOST: Final = 4096
"""With more candidates than this, it is faster to take all tokens."""


def shortlists(
    logits: Logits, temperatures: Sequence[float | None]
) -> list[Logits | Best | Candidates]:
    """What suffices to choose a token from each row; its logits, where these are needed.

    Args:
        logits: (rows, n) those of all tokens.
        temperatures: That of each row, 0 for its best token; None if its logits are needed.
    """
    found = list[Logits | Best | Candidates](logits)
    best = logits.argmax(axis=1).tolist()  # of all rows at once, as a call costs as much as a row
    for i, temperature in enumerate(temperatures):
        if temperature is None:
            continue
        if temperature == 0 or not math.isfinite(logits[i, best[i]]):
            found[i] = Best(best[i], math.isfinite(logits[i, best[i]]))
        else:
            found[i] = _shortlist(logits[i], best[i], temperature) or logits[i]
    return found


def _shortlist(logits: Logits, best: int, temperature: float) -> Candidates | None:
    """The candidates among the tokens of a row, or None if there are too many.

    Args:
        logits: (n,) those of all tokens.
        best: The index of the largest one, which is finite.
        temperature: Above 0.
    """
    top, scale = logits[best], np.float32(1 / temperature)
    least = top - np.float32(_LEAST * temperature)
    [ids] = (logits >= least).nonzero()
    if len(ids) > _MOST:
        return None
    found = logits[ids]
    mass = float(np.exp((found - top) * scale).sum(dtype=np.float64))
    # By the difference as it was rounded, which matters at a temperature near 0.
    rest = 1.001 * math.exp(float((least - top) * scale))
    total = mass * (1 - 1e-9), (mass + len(logits) * rest) * (1 + 1e-9)
    return Candidates(Best(best, True), ids, found, rest, total, len(logits), lambda: logits)
