"""Finds the few largest of many numbers without sorting them all."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

_ROWS: Final = 64


def largest(values: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.int64]:
    """The indices of the `count` largest values, ascending; of equal ones, the first.

    Args:
        values: (n,), none of which is NaN.
        count: At least 1; all are found if there are no more.
    """
    if count >= len(values):
        return np.arange(len(values))
    ids = np.arange(0) if len(values) < 2 * _ROWS * count else _likely(values, count)
    own = values[ids] if len(ids) else values
    least = np.partition(own, len(own) - count)[len(own) - count]
    kept = own > least
    kept[np.flatnonzero(own == least)[: count - np.count_nonzero(kept)]] = True
    found = np.flatnonzero(kept)
    return ids[found] if len(ids) else found


def _likely(values: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.int64]:
    """The indices of all values that may be among the `count` largest, and of few others.

    They are no less than the `count` largest maxima of parts of the values.
    """
    columns = len(values) // _ROWS
    maxima = values[: _ROWS * columns].reshape(_ROWS, columns).max(axis=0)
    return np.flatnonzero(values >= np.partition(maxima, columns - count)[columns - count])
