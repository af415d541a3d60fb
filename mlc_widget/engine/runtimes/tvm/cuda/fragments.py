"""Matrices in the order in which tensor cores take them.

A matrix is cut into tiles of 16 rows (outputs) and steps of 64 columns (inputs), padded with zeros
to whole ones. Of a tile and a step, lane 4 g + j of a warp holds rows g and g + 8 and, of each half
h of 32 inputs, inputs 32 h + 8 j … 8 j + 7: four successive ones to each of two products q, see
`intrinsics.mma`. What a lane holds lies together, so that a warp reads whole lines:

    float16   (tiles, steps, 4 = h, q, 32 lanes, 8 = pair of inputs, row, input of the pair)
    4 bits    (tiles, steps, 1,        32 lanes, 4 words = h, q), a word's codes, from the lowest:
              row g's inputs 0, row g + 8's 0, then inputs 2, 2, 1, 1, 3, 3 of the four
    8 bits    (tiles, steps, 2 = h,    32 lanes, 4 words = q, row), four inputs to a word
    scales    (tiles, steps, 8 = g, 4 = h, row) float16
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np

from mlc_widget.engine.runtimes.tvm.layouts import BLOCK, GROUP, Array, Layout, pad

STEP = 64
_EVEN = np.uint32(0x0F0F0F0F)
_AT_ONCE = 32  # tiles, to stay in the caches


def steps_of(inputs: int) -> int:
    """Steps of this many inputs."""
    return -(-inputs // STEP)


class _Fragments(Layout):
    """A matrix whose rows are parts that are padded one by one.

    `stored` inputs make one column of the folder's tensor, which lies inputs first if `transposed`.
    """

    stored: int
    unit: tuple[int, ...]

    def __init__(self, inputs: int, outputs: tuple[int, ...], *, transposed: bool = False) -> None:
        self.inputs, self.outputs, self.transposed = inputs, outputs, transposed
        # MLC stores whole groups.
        columns = inputs if self.stored == 1 else pad(inputs) // self.stored
        shape = (sum(outputs), columns)
        self.source_shape = shape[::-1] if transposed else shape
        self.shape = (sum(map(pad, outputs)) // BLOCK, steps_of(inputs), *self.unit)

    def pack(self, source: Array, out: Array) -> None:
        """Part by part."""
        if self.transposed:
            source = source.T
        start = at = 0
        width = self.shape[1] * STEP // self.stored
        for rows in self.outputs:
            part = source[start : start + rows].astype(self._stored_dtype, copy=False)
            tiles = pad(rows) // BLOCK
            if part.shape != (tiles * BLOCK, width):
                whole = np.zeros((tiles * BLOCK, width), part.dtype)
                whole[:rows, : part.shape[1]] = part
                part = whole
            self._arrange(np.ascontiguousarray(part), out[at : at + tiles])
            start += rows
            at += tiles

    @property
    def _stored_dtype(self) -> Any:
        return np.dtype(self.dtype)

    @abstractmethod
    def _arrange(self, part: Array, out: Array) -> None:
        """Write whole tiles and steps of `stored` inputs to a column."""

    def record(self) -> list[Any]:
        """As `Layout.record`."""
        return [type(self).__name__, self.inputs, list(self.outputs), self.transposed]


class Floats(_Fragments):
    """(N, K) float16."""

    source_dtypes = ("float32", "float16")
    dtype = "float16"
    stored = 1
    unit = (4, 32, 8)

    def _arrange(self, part: Array, out: Array) -> None:
        tiles, steps = out.shape[:2]
        pairs = part.view(np.uint32).reshape(tiles, 2, 8, steps, 2, 4, 2, 2)
        words = out.view(np.uint32).reshape(tiles, steps, 2, 2, 8, 4, 2, 2)
        words[...] = pairs.transpose(0, 3, 4, 6, 2, 5, 7, 1)


class Codes4(_Fragments):
    """(N, K/8) uint32, eight codes of successive inputs to a word."""

    source_dtypes = ("uint32",)
    dtype = "uint32"
    stored = 8
    unit = (1, 32, 4)

    def _arrange(self, part: Array, out: Array) -> None:
        tiles, steps = out.shape[:2]
        rows = part.reshape(tiles, 2, 8, steps, 2, 4).transpose(1, 0, 3, 2, 5, 4)
        words = out.reshape(tiles, steps, 8, 4, 2, 2)
        for first in range(0, tiles, _AT_ONCE):
            some = slice(first, first + _AT_ONCE)
            upper, lower = np.ascontiguousarray(rows[:, some])
            even = upper & _EVEN | (lower & _EVEN) << np.uint32(4)
            odd = upper >> np.uint32(4) & _EVEN | lower & ~_EVEN
            words[some, ..., 0] = even & np.uint32(0xFFFF) | odd << np.uint32(16)
            words[some, ..., 1] = even >> np.uint32(16) | odd & np.uint32(0xFFFF0000)


class Codes8(_Fragments):
    """(N, K/4) uint32, four codes of successive inputs to a word."""

    source_dtypes = ("uint32",)
    dtype = "uint32"
    stored = 4
    unit = (2, 32, 4)

    def _arrange(self, part: Array, out: Array) -> None:
        tiles, steps = out.shape[:2]
        rows = part.reshape(tiles, 2, 8, steps, 2, 4, 2)
        out.reshape(tiles, steps, 2, 8, 4, 2, 2)[...] = rows.transpose(0, 3, 4, 2, 5, 6, 1)


class Scales(_Fragments):
    """(N, K/32) float16."""

    source_dtypes = ("float32", "float16")
    dtype = "float16"
    stored = GROUP
    unit = (8, 4)

    def _arrange(self, part: Array, out: Array) -> None:
        tiles, steps = out.shape[:2]
        rows = part.reshape(tiles, 2, 8, steps, 2)
        out.reshape(tiles, steps, 8, 2, 2)[...] = rows.transpose(0, 3, 2, 4, 1)
