"""The logits that a step leaves in a GPU's memory, and what the host gets of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from mlc_widget.engine.runtimes.tvm.candidates import Best
from mlc_widget.engine.runtimes.tvm.cuda import cudart, tensors
from mlc_widget.engine.runtimes.tvm.cuda.decode import MOST_ROWS
from mlc_widget.engine.runtimes.tvm.cuda.records import BINS, WORDS, best_of, candidates_of
from mlc_widget.engine.runtimes.tvm.executor import Logits, Row


class StepLogits:
    """Up to `MOST_ROWS` rows of logits, and memory to choose tokens by them or to copy them.

    Args:
        width: The number of logits of a row in memory.
        vocab: The number of these that count, from the first.
        device: The `tvm_ffi.Device`.

    Attributes:
        choose: The kernels of `shortlist.make_choose_tokens`; to be set before `rows` is called.
        find_best: That of `make_best_tokens`; likewise.
    """

    def __init__(self, width: int, vocab: int, device: Any) -> None:
        self._vocab = vocab
        self.choose: Any = None
        self.find_best: Any = None
        self._there = tensors.empty((MOST_ROWS, width), "float32", device)
        self._pinned = cudart.Pinned((MOST_ROWS, width), np.float32)
        self._choosing = [
            tensors.empty((MOST_ROWS,), "float32", device),
            tensors.empty((MOST_ROWS, WORDS), "int64", device),
            tensors.empty((MOST_ROWS, BINS), "int32", device),
        ]
        self._keys = tensors.empty((MOST_ROWS, 1), "int64", device)
        self._keys_pinned = cudart.Pinned((MOST_ROWS,), np.uint64)
        self._scales_pinned = cudart.Pinned((MOST_ROWS,), np.float32)
        self._records_pinned = cudart.Pinned((MOST_ROWS, WORDS), np.uint64)

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
        if _greedy(temperatures):
            cudart.clear(self._keys.data_ptr(), self._keys_pinned.array[:count].nbytes)
            return
        scales, (there, records, bins) = self._scales_pinned.array[:count], self._choosing
        scales[:] = [1 / t if t else 0 for t in temperatures]
        cudart.copy(there.data_ptr(), scales.ctypes.data, scales.nbytes, cudart.TO_DEVICE)
        cudart.clear(records.data_ptr(), self._records_pinned.array[:count].nbytes)
        cudart.clear(bins.data_ptr(), 4 * count * BINS)

    def rows(self, temperatures: Sequence[float | None]) -> list[Row]:
        """Find what suffices for each row, and wait for it and the logits of other rows.

        Args:
            temperatures: As they were given to `clear`.
        """
        count = len(temperatures)
        if _greedy(temperatures):
            return list(self._best(count))
        scales, records = self._scales_pinned.array[:count], self._records_pinned.array[:count]
        memory = [tensors.view(a, (count, *a.shape[1:])) for a in self._choosing]
        self.choose(self.tensor(count), self._vocab, *memory)
        there = memory[1].data_ptr()
        cudart.copy(records.ctypes.data, there, records.nbytes, cudart.TO_HOST)
        self._copy([row for row, t in enumerate(temperatures) if t is None])
        cudart.synchronize()
        rows: list[Row] = []
        for i, (temperature, best) in enumerate(
            zip(temperatures, best_of(records[:, 0]), strict=True)
        ):
            if temperature is None:
                rows.append(self._pinned.array[i, : self._vocab])
            elif temperature == 0:
                rows.append(best)
            else:
                row = partial(self._row, i)
                rows.append(candidates_of(records[i], best, float(scales[i]), self._vocab, row))
        return rows

    def _best(self, count: int) -> list[Best]:
        keys = self._keys_pinned.array[:count]
        self.find_best(self.tensor(count), self._vocab, tensors.view(self._keys, (count, 1)))
        cudart.copy(keys.ctypes.data, self._keys.data_ptr(), keys.nbytes, cudart.TO_HOST)
        cudart.synchronize()
        return best_of(keys)

    def _row(self, row: int) -> Logits:
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


def _greedy(temperatures: Sequence[float | None]) -> bool:
    return all(temperature == 0 for temperature in temperatures)
