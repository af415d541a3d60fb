"""Layouts of matrices in the order in which tensor cores need them.

A matrix is cut into tiles of 16 rows (outputs) and steps of 64 columns (inputs), and padded with
zeros. Of a tile and a step, lane 4 g + j of a warp has rows g and g + 8 and, from each half h of 32
inputs, inputs 32 h + 8 j … 32 h + 8 j + 7, four consecutive ones for each of two products q (see
`intrinsics.mma`). The values of a lane are adjacent, so that a warp reads whole cache lines:

    float16   (tiles, steps, 4 = h, q, 32 lanes, 8 = pair of inputs, row, input of the pair)
    4 bits    (tiles, steps, 1,        32 lanes, 4 words = h, q), the codes of a word, lowest first:
              input 0 of row g, input 0 of row g + 8, then of both rows inputs 2, 1 and 3
    8 bits    (tiles, steps, 2 = h,    32 lanes, 4 words = q, row), four inputs per word
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
    """The number of steps for this many inputs."""
    return -(-inputs // STEP)


class _Fragments(Layout):
    """A matrix, each of whose parts of rows is padded.

    A column of the folder's tensor has `stored` inputs; inputs come first if it is `transposed`.
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
        """Write the matrix part by part."""
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
        """Write whole tiles and steps of a part."""

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
    """(N, K/8) uint32; each word has the codes of eight successive inputs."""

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
    """(N, K/4) uint32; each word has the codes of four successive inputs."""

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
