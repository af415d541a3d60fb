"""The logits that a step leaves in a GPU's memory, and what the host gets of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from mlc_widget.engine.runtimes.tvm.candidates import Best, Block, Candidates, Scored
from mlc_widget.engine.runtimes.tvm.cuda import cudart, tensors
from mlc_widget.engine.runtimes.tvm.cuda.decode import MOST_ROWS
from mlc_widget.engine.runtimes.tvm.cuda.records import (
    BEST_TOKENS,
    BINS,
    CHOOSE_TOKENS,
    WORDS,
    best_of,
    block_of,
    blocks_of,
    candidates_of,
)
from mlc_widget.engine.runtimes.tvm.cuda.row_changes import RowChanges
from mlc_widget.engine.runtimes.tvm.draws import Draw
from mlc_widget.engine.runtimes.tvm.executor import Logits, Row
from mlc_widget.engine.runtimes.tvm.memory import Array


class StepLogits:
    """Up to `MOST_ROWS` rows of logits, and memory to choose tokens by them or to copy them.

    Args:
        width: The number of logits of a row in memory.
        vocab: The number of these that count, from the first.
        device: The `tvm_ffi.Device`.
    """

    def __init__(self, width: int, vocab: int, device: Any) -> None:
        self._vocab = vocab
        self._choose: Any = None
        self._find_best: Any = None
        self._there = tensors.empty((MOST_ROWS, width), "float32", device)
        self._pinned = cudart.Pinned((MOST_ROWS, width), np.float32)
        self._changes = RowChanges(width, vocab, device)
        self._choosing = [
            tensors.empty((MOST_ROWS, WORDS), "int64", device),
            tensors.empty((MOST_ROWS, BINS), "int32", device),
            tensors.empty((MOST_ROWS, blocks_of(width)), "float64", device),
        ]
        self._keys = tensors.empty((MOST_ROWS, 1), "int64", device)
        self._keys_pinned = cudart.Pinned((MOST_ROWS,), np.uint64)
        self._records_pinned = cudart.Pinned((MOST_ROWS, WORDS), np.uint64)
        self._greedy = False

    def prepare(self, function: Callable[[str], Any]) -> None:
        """Take the kernels that choose tokens, by their names; called before `rows`."""
        self._choose, self._find_best = function(CHOOSE_TOKENS), function(BEST_TOKENS)
        self._changes.prepare(function)

    def tensor(self, rows: int) -> Any:
        """The memory of the first rows, (rows, width) float32, for a step to write to."""
        return tensors.view(self._there, (rows, *self._there.shape[1:]))

    def all(self, count: int) -> Logits:
        """Wait for the step, and copy the first rows, (count, vocab) float32."""
        self._copy(range(count))
        cudart.synchronize()
        return self._pinned.array[:count, : self._vocab]

    def clear(self, temperatures: Sequence[float | None]) -> None:
        """Ready the memory for `rows`; called before the step, while the GPU has nothing to do.

        Args:
            temperatures: That of each row; see `Span`.
        """
        count = len(temperatures)
        self._greedy = all(temperature == 0 for temperature in temperatures)
        if self._greedy:
            cudart.clear(self._keys.data_ptr(), self._keys_pinned.array[:count].nbytes)
            return
        records, bins, _ = self._choosing
        cudart.clear(records.data_ptr(), self._records_pinned.array[:count].nbytes)
        cudart.clear(bins.data_ptr(), 4 * count * BINS)

    def rows(self, draws: Sequence[Draw | None]) -> list[Row]:
        """Find what suffices for each row, and wait for it and the logits of other rows.

        Args:
            draws: How to draw from each row, at the temperature that was given to `clear`, if any.
                None where all logits are needed.
        """
        count = len(draws)
        logits = self.tensor(count)
        wanted = self._changes.apply(logits, draws, needed=not self._greedy)
        records = self._records_pinned.array[:count]
        if self._greedy:
            keys = self._keys_pinned.array[:count]
            self._find_best(logits, self._vocab, tensors.view(self._keys, (count, 1)))
            cudart.copy(keys.ctypes.data, self._keys.data_ptr(), keys.nbytes, cudart.TO_HOST)
        else:
            keys = records[:, 0]
            there = [tensors.view(a, (count, *a.shape[1:])) for a in self._choosing]
            self._choose(logits, self._vocab, wanted, *there)
            at = self._choosing[0].data_ptr()
            cudart.copy(records.ctypes.data, at, records.nbytes, cudart.TO_HOST)
        self._copy([row for row, draw in enumerate(draws) if draw is None or draw.scored])
        cudart.synchronize()
        rows: list[Row] = []
        for i, (draw, best) in enumerate(zip(draws, best_of(keys), strict=True)):
            all_logits = self._pinned.array[i, : self._vocab]
            if draw is None:
                rows.append(all_logits)
                continue
            found = self._found(i, draw, best, records[i])
            rows.append(Scored(found, all_logits) if draw.scored else found)
        return rows

    def _found(self, i: int, draw: Draw, best: Best, record: Array) -> Best | Candidates | Block:
        """What was found of a row."""
        if draw.temperature == 0:
            return best
        row = partial(self.row, i)
        if draw.at is not None:
            return block_of(record, best, draw.at, self._vocab, row)
        allowed = None if draw.allowed is None else int(np.count_nonzero(draw.allowed))
        scale = float(self._changes.scales[i])
        return candidates_of(record, best, scale, self._vocab, row, allowed)

    def row(self, row: int) -> Logits:
        """Copy the logits of one row of the last step."""
        self._copy([row])
        cudart.synchronize()
        return self._pinned.array[row, : self._vocab]

    def _copy(self, rows: Sequence[int]) -> None:
        """Start copying some rows to the host, ascending."""
        here = self._pinned.array
        for i, row in enumerate(rows):
            if i == 0 or row != rows[i - 1] + 1:
                first = row
            if i + 1 == len(rows) or row + 1 != rows[i + 1]:  # the end of adjacent rows
                part = here[first : row + 1]
                there = self._there.data_ptr() + first * here[0].nbytes
                cudart.copy(part.ctypes.data, there, part.nbytes, cudart.TO_HOST)
