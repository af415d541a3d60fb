"""Divides steps of many rows among two cores.

A machine of two cores runs a model on one thread, as the other core is the notebook's. One row is
limited by the memory's bandwidth, of which one core can use most; many rows are limited by
arithmetic. So where a step takes the kernels several passes over their tiles of rows, and the
other core has time, some of its sequences are computed there. As a row's result does not depend on
the rows beside it, it is the same, bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Final

from mlc_widget.engine.runtimes.tvm.threads import ComputeThread

_WORTHWHILE: Final = 0.75
"""A step is divided if it then takes this part of its time, or less."""
_MEMORY: Final = 0.7
"""The part of what steps have saved that still counts after one more."""
_SHORTEST: Final = 16
_LONGEST: Final = 256
"""For how many steps a core is left alone that something else was using."""


def divide(rows: Sequence[int], tile: int) -> int:
    """Where to divide a step.

    Args:
        rows: The number of rows of each sequence.
        tile: The number of rows that kernels compute in one pass over the weights.

    Returns:
        The number of sequences in the first part, which takes at least as long as the other; all
        of them if it is not worthwhile to divide the step.
    """
    total, before = sum(rows), 0
    whole = best = _time(total, tile)
    at = len(rows)
    for i, count in enumerate(rows[:-1]):
        before += count
        first, second = _time(before, tile), _time(total - before, tile)
        if second <= first <= best:
            best, at = first, i + 1
    return at if best <= whole * _WORTHWHILE else len(rows)


def _time(rows: int, tile: int) -> int:
    """The time that rows take, in that of one row beside others.

    A pass over the weights takes about as long as one more row, as they are taken apart, and fewer
    rows than a tile take as long as a tile, as they wait for the memory. The last rows are computed
    in tiles of half as many, and so on (`kernels.linear.halved_tiles`).
    """
    passes = rows // tile + (rows % tile).bit_count()
    return max(rows + passes, tile + 1)


class Savings:
    """What dividing steps has saved lately. While it costs time, steps are not divided."""

    def __init__(self) -> None:
        self._saved_s = 0.0
        self._left, self._pause = 0, _SHORTEST

    def worthwhile(self) -> bool:
        """Whether to divide the next step; asked once for each step that could be divided."""
        self._left = max(0, self._left - 1)
        return self._left == 0

    def count(self, saved_s: float) -> None:
        """Count the seconds that a divided step has saved, or cost if negative."""
        self._saved_s = self._saved_s * _MEMORY + saved_s
        if self._saved_s >= 0:
            self._pause = _SHORTEST
            return
        self._saved_s = 0.0
        self._left, self._pause = self._pause, min(2 * self._pause, _LONGEST)


class SecondThread:
    """A thread for the second parts of steps.

    Attributes:
        savings: Whether to give it any.
    """

    def __init__(self) -> None:
        self.savings = Savings()
        self._work: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._done: SimpleQueue[BaseException | None] = SimpleQueue()
        self._ended = ComputeThread.take(1).run(self._run)

    def run_both(self, first: Callable[[], object], second: Callable[[], object]) -> None:
        """Call `first` here and `second` there, where it takes as long; return when both are done.

        Raises:
            BaseException: What one of them raised.
        """
        began = time.perf_counter()
        self._work.put(second)
        try:
            first()
        finally:
            done = time.perf_counter()
            error = self._done.get()
        if error is not None:
            raise error
        waited_s = time.perf_counter() - done
        self.savings.count(done - began - waited_s)

    def end(self) -> None:
        """End it, and wait until it has released what it held."""
        self._work.put(None)
        self._ended.result()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            error: BaseException | None = None
            try:
                work()
            except BaseException as e:  # raised where the step was divided
                error = e
            del work  # it holds the model
            self._done.put(error)
            del error
