"""Turns MLC's tensors into the layouts that the kernels read, with numpy alone.

Kernels read matrices in blocks of 16 rows (outputs), one row per lane: (rows/16, columns, 16).
Every dimension is padded with zeros to a multiple of 32.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Packer: TypeAlias = Callable[[Array, int, Array], None]
"""Called like `Layout.pack_piece`."""

GROUP = 32
BLOCK = 16
PAGE = 16
"""The number of tokens in a page of the KV cache."""
MAX_ROWS = 256
"""The maximum number of rows of a step, for which memory for activations is planned,"""
MAX_ROWS_WITH_WARPGROUPS = 1024
"""and on a GPU that needs more of them to be busy."""
USUAL_ROWS = 128
"""The maximum unless a user chooses another, on other devices."""


def pad(features: int) -> int:
    """The padded length of a feature dimension."""
    return -(-features // GROUP) * GROUP


class Layout(ABC):
    """How one parameter is converted from MLC's tensor to the kernel's.

    Attributes:
        source_shape: The tensor's shape in the model folder.
        source_dtypes: Its possible dtypes there.
        shape: The kernel's shape.
        dtype: The kernel's dtype.
    """

    source_shape: tuple[int, ...]
    source_dtypes: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str

    @property
    def width(self) -> int:
        """The number of output features of the parameter's layer."""
        return self.shape[0] * (BLOCK if len(self.shape) > 1 else 1)

    @property
    def nbytes(self) -> int:
        """The size of the kernel's tensor in bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @abstractmethod
    def pack(self, source: Array, out: Array) -> None:
        """Write a tensor of `source_shape` to `out`, which has `shape` and `dtype` and is zero."""

    def pieces(self, rows: int) -> list[tuple[int, int]]:
        """How to cut the source for `pack_piece`, as pairs of a first row and an end.

        Args:
            rows: The approximate number of rows of a piece. (A layout that needs the whole tensor
                returns one piece.)
        """
        return [(0, self.source_shape[0])]

    def pack_piece(self, piece: Array, start: int, out: Array) -> None:
        """Like `pack`, but write only the piece of the source that begins at row `start`."""
        self.pack(piece, out)

    def packer(self, compiled: Callable[[str], Any]) -> Packer:
        """The fastest way to write pieces, which does the same as `pack_piece`.

        Args:
            compiled: Finds a function in the model's compiled code, by its name.
        """
        return self.pack_piece

    @abstractmethod
    def record(self) -> list[Any]:
        """The name and arguments of its class as JSON values, for `layout_of`."""


class Vector(Layout):
    """A vector of features, such as a norm's weight; each of its parts is padded."""

    def __init__(self, *parts: int) -> None:
        self.parts = parts
        self.source_shape = (sum(parts),)
        self.source_dtypes = ("float32", "float16")
        self.shape = (sum(map(pad, parts)),)
        self.dtype = "float32"

    def pack(self, source: Array, out: Array) -> None:
        """Copy."""
        start = at = 0
        for n in self.parts:
            out[at : at + n] = source[start : start + n]
            start += n
            at += pad(n)

    def record(self) -> list[Any]:
        """As `Layout.record`."""
        return ["Vector", *self.parts]


class _Blocks(Layout):
    """A matrix with `packed` inputs per column; each part of its rows is padded.

    With `transposed`, inputs come first in the folder's tensor.
    """

    def __init__(
        self, inputs: int, outputs: tuple[int, ...], packed: int, *, transposed: bool = False
    ) -> None:
        self.inputs, self.outputs, self.transposed = inputs, outputs, transposed
        rows = sum(map(pad, outputs))
        # MLC stores whole groups.
        columns = pad(inputs) // packed if packed > 1 else inputs
        stored = (sum(outputs), columns)
        self.source_shape = stored[::-1] if transposed else stored
        self.shape = (rows // BLOCK, pad(inputs) // packed, BLOCK)

    def pack(self, source: Array, out: Array) -> None:
        """Transpose block by block."""
        if self.transposed:
            source = source.T
        start = 0
        for rows in self.outputs:
            self._pack_rows(source[start : start + rows], start, out)
            start += rows

    def pieces(self, rows: int) -> list[tuple[int, int]]:
        """As `Layout.pieces`; a piece is a number of whole blocks of one part."""
        if self.transposed:
            return super().pieces(rows)
        step = max(BLOCK, rows // BLOCK * BLOCK)
        cuts, start = [], 0
        for part in self.outputs:
            end = start + part
            cuts += [(at, min(at + step, end)) for at in range(start, end, step)]
            start = end
        return cuts

    def pack_piece(self, piece: Array, start: int, out: Array) -> None:
        """As `Layout.pack_piece`."""
        if self.transposed:
            self.pack(piece, out)
        else:
            self._pack_rows(piece, start, out)

    def _pack_rows(self, rows: Array, start: int, out: Array) -> None:
        """Write rows of one part; the first, `start`, begins a block."""
        to, (count, columns) = self._block(start), rows.shape
        whole = count // BLOCK * BLOCK
        blocks = rows[:whole].reshape(-1, BLOCK, columns).transpose(0, 2, 1)
        out[to : to + whole // BLOCK, :columns] = blocks
        if count > whole:
            out[to + whole // BLOCK, :columns, : count - whole] = rows[whole:].T

    def _block(self, row: int) -> int:
        """The index of the block that begins with a row of the source."""
        start = at = 0
        for rows in self.outputs:
            if row < start + rows:
                break
            start += rows
            at += pad(rows)
        return (at + row - start) // BLOCK


class FloatBlocks(_Blocks):
    """A float matrix, (N, K) → (N/16, K, 16)."""

    source_dtypes = ("float32", "float16")

    def __init__(self, inputs: int, outputs: tuple[int, ...], dtype: str = "float32") -> None:
        super().__init__(inputs, outputs, 1)
        self.dtype = dtype

    def record(self) -> list[Any]:
        """As `Layout.record`."""
        return ["FloatBlocks", self.inputs, list(self.outputs), self.dtype]


class Codes(_Blocks):
    """MLC's 4- or 8-bit codes, (N, K/P) uint32 → (N/16, K/P, 16), with P = 32 / bits.

    Rows of padding have the scale 0.
    """

    source_dtypes = ("uint32",)
    dtype = "uint32"

    def __init__(
        self, inputs: int, outputs: tuple[int, ...], bits: int = 4, *, transposed: bool = False
    ) -> None:
        super().__init__(inputs, outputs, 32 // bits, transposed=transposed)
        self.bits = bits

    def record(self) -> list[Any]:
        """As `Layout.record`."""
        return ["Codes", self.inputs, list(self.outputs), self.bits, self.transposed]


class Scales(_Blocks):
    """The scales of codes, (N, K/32) → (N/16, K/32, 16)."""

    source_dtypes = ("float32", "float16")

    def __init__(
        self,
        inputs: int,
        outputs: tuple[int, ...],
        dtype: str = "float32",
        *,
        transposed: bool = False,
    ) -> None:
        super().__init__(inputs, outputs, GROUP, transposed=transposed)
        self.dtype = dtype

    def record(self) -> list[Any]:
        """As `Layout.record`."""
        return ["Scales", self.inputs, list(self.outputs), self.dtype, self.transposed]
