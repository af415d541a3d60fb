"""Changes rows of logits in a GPU's memory, and says there how to draw from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from mlc_widget.engine.runtimes.tvm.cuda import cudart, tensors
from mlc_widget.engine.runtimes.tvm.cuda.decode import MOST_ROWS
from mlc_widget.engine.runtimes.tvm.cuda.records import (
    CHANGE_LOGITS,
    FORBID_TOKENS,
    WANTED,
    WANTED_WORDS,
    words_of,
)
from mlc_widget.engine.runtimes.tvm.draws import Changes, Draw
from mlc_widget.engine.runtimes.tvm.memory import Array

_FIRST: Final = 1024
"""The number of changes for which there is room at first."""


class RowChanges:
    """Memory for what to do with up to `MOST_ROWS` rows of logits.

    Args:
        width: The number of logits of a row in memory.
        vocab: The number of these that count, from the first.
        device: The `tvm_ffi.Device`.
    """

    def __init__(self, width: int, vocab: int, device: Any) -> None:
        self._vocab = vocab
        self._change: Any = None
        self._forbid: Any = None
        self._wanted = _Sent((MOST_ROWS, WANTED_WORDS), device)
        self._rows = self._wanted.here.view(WANTED)[:, 0]
        self._changes = _Sent((_FIRST, 2), device)
        self._masks = _Sent((1, words_of(width)), device)

    def prepare(self, function: Callable[[str], Any]) -> None:
        """Take the kernels of `change_logits`, by their names."""
        self._change, self._forbid = function(CHANGE_LOGITS), function(FORBID_TOKENS)

    @property
    def scales(self) -> Array:
        """For each row, 1 / temperature, or 0."""
        scales: Array = self._rows["scale"]
        return scales

    def apply(self, logits: Any, draws: Sequence[Draw | None], *, needed: bool) -> Any:
        """Start to change rows.

        Args:
            logits: (m, width), there.
            draws: How to draw from each; None for those to be left as they are.
            needed: Whether what is returned is needed in any case.

        Returns:
            (m, WANTED_WORDS) int32, there: what to do with each row (see `records.WANTED`).
        """
        rows = self._rows[: len(draws)]
        rows.fill(0)
        changes = [(row, d.changes) for row, d in zip(rows, draws, strict=True) if d and d.changes]
        count = self._gather(changes)
        masks = self._gather_masks(rows, draws)
        for row, draw in zip(rows, draws, strict=True):
            if draw is not None and draw.temperature:
                row["scale"] = 1 / draw.temperature
                row["at"] = -1 if draw.at is None else draw.at
        if not (needed or count or masks):
            return None
        wanted = self._wanted.send(len(draws))
        if count:
            self._change(logits, self._vocab, wanted, self._changes.send(count))
        if masks:
            self._forbid(logits, self._vocab, wanted, self._masks.send(masks))
        return wanted

    def _gather(self, changes: Sequence[tuple[Any, Changes]]) -> int:
        """Write the changes of all rows one after another; return their number."""
        self._changes.make_room(sum(each.count for _, each in changes))
        tokens = self._changes.here[:, 0]
        amounts = self._changes.here[:, 1].view(np.float32)
        at = 0
        for row, each in changes:
            row["start"], row["repeated"], row["penalty"] = at, len(each.repeated), each.penalty
            tokens[at : at + len(each.repeated)] = each.repeated
            at += len(each.repeated)
            for part, (ids, amount) in enumerate(each.less):
                row["parts"][part] = len(ids)
                tokens[at : at + len(ids)] = ids
                amounts[at : at + len(ids)] = amount
                at += len(ids)
        return at

    def _gather_masks(self, rows: Array, draws: Sequence[Draw | None]) -> int:
        """Write the masks of rows that have one; return their number."""
        masked = [
            i for i, draw in enumerate(draws) if draw is not None and draw.allowed is not None
        ]
        self._masks.make_room(len(masked))
        for number, i in enumerate(masked):
            draw = draws[i]
            assert draw is not None
            assert draw.allowed is not None
            bits = np.packbits(draw.allowed, bitorder="little")
            self._masks.here[number].view(np.uint8)[: len(bits)] = bits
            rows["mask"][i] = number + 1
        return len(masked)


class _Sent:
    """Rows of int32 in pinned memory, which are sent to the GPU; there may be more, if needed.

    Attributes:
        here: The rows.
    """

    def __init__(self, shape: tuple[int, int], device: Any) -> None:
        self._device = device
        self._allocate(*shape)

    def _allocate(self, rows: int, words: int) -> None:
        self._pinned = cudart.Pinned((rows, words), np.int32)
        self.here = self._pinned.array
        self._there = tensors.empty((rows, words), "int32", self._device)

    def make_room(self, rows: int) -> None:
        """Have room for some rows; only when nothing is being sent, as all are lost."""
        room, words = self.here.shape
        if rows > room:
            self._allocate(max(rows, 2 * room), words)

    def send(self, rows: int) -> Any:
        """Start to send the first rows, and return them there."""
        part = self.here[:rows]
        cudart.copy(self._there.data_ptr(), part.ctypes.data, part.nbytes, cudart.TO_DEVICE)
        return tensors.view(self._there, (rows, *self._there.shape[1:]))
