"""How the kernels hold matrices whose weights are in ggml's blocks, with numpy alone.

A matrix (N, K) becomes (N/16, words) uint32: one row for each 16 outputs, one output to a lane, in
sections that each begin at a multiple of 16 words:

    codes     K · 16 codes of 4 or 8 bits; word i of a lane has its next 8 or 4 inputs
    factors   one byte for each group and lane, where the format has them
    scales    a float16 for each block of groups and lane
    the same two again for minima, where the format has them

In a word of 4-bit codes the lowest bits are the first input. 8-bit codes lie in pairs of words: the
bytes of the first are inputs 0 2 4 6 of eight, those of the second 1 3 5 7, which is the order of
8-bit activations (`kernels.quantize`).

A weight is ``scale · factor · (code − zero) − minimum · minimum factor``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mlc_widget.engine.runtimes.tvm.layouts import BLOCK, pad
from mlc_widget.engine.store.formats.ggml_types import Unpacked

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class BlockFormat:
    """One way of holding weights.

    Attributes:
        name: ggml's name of the type that it holds.
        bits: Of a code as the kernels hold it: 4 or 8.
        zero: The code of weight 0, before the minimum is taken off.
        group: Inputs that share a factor (or, without factors, a scale): 16 or 32.
        block: Inputs that share a scale.
        factors: Whether groups have factors.
        signed: Whether these are signed.
        minima: Whether groups have minima.
        dtype: Of scales and minima.
    """

    name: str
    bits: int
    zero: int
    group: int = 32
    block: int = 32
    factors: bool = False
    signed: bool = False
    minima: bool = False
    dtype: str = "float16"

    def sections(self, inputs: int) -> Sections:
        """Where a matrix of so many inputs (a padded number) has what."""
        codes = inputs * BLOCK * self.bits // 32
        factors = inputs // self.group * BLOCK // 4 if self.factors else 0
        scales = -(-inputs // self.block) * BLOCK * np.dtype(self.dtype).itemsize // 4
        ends, at = [], 0
        for size in (codes, factors, scales, *((factors, scales) if self.minima else ())):
            ends.append(at)
            at += -(-size // BLOCK) * BLOCK
        minima = (ends[3], ends[4]) if self.minima else (0, 0)
        return Sections(ends[1], ends[2], *minima, at)


@dataclass(frozen=True, slots=True)
class Sections:
    """The first word of each section in a row; codes begin at 0.

    Attributes:
        factors: Of the factors.
        scales: Of the scales.
        minimum_factors: Of the minima's factors.
        minima: Of the minima.
        words: Of a whole row.
    """

    factors: int
    scales: int
    minimum_factors: int
    minima: int
    words: int


_K: Final[dict[str, Any]] = {"block": 256, "factors": True}

FORMATS: Final = {
    f.name: f
    for f in (
        BlockFormat("Q4_0", 4, 8),
        BlockFormat("Q4_1", 4, 0, minima=True),
        BlockFormat("Q5_0", 8, 16),
        BlockFormat("Q5_1", 8, 0, minima=True),
        BlockFormat("Q8_0", 8, 128),
        BlockFormat("Q2_K", 4, 0, 16, minima=True, **_K),
        BlockFormat("Q3_K", 4, 4, 16, signed=True, **_K),
        BlockFormat("Q4_K", 4, 0, minima=True, **_K),
        BlockFormat("Q5_K", 8, 0, minima=True, **_K),
        BlockFormat("Q6_K", 8, 32, 16, signed=True, **_K),
        BlockFormat("IQ4_NL", 8, 127),
        BlockFormat("IQ4_XS", 8, 127, signed=True, **_K),
        BlockFormat("MXFP4", 8, 12, dtype="float32"),
    )
}
"""The formats by ggml's names. Types of 5 and 6 bits, and those with tables, are held in 8."""

_PAIRED: Final = [0, 2, 4, 6, 1, 3, 5, 7]


def pack_rows(kind: BlockFormat, rows: Unpacked, out: Array) -> None:
    """Write rows of a matrix, at most a block's 16 a time being filled from the first lane on.

    Args:
        kind: How they are held.
        rows: The rows, as they lie in the file.
        out: (at least rows/16, words) uint32, zeros.
    """
    count, inputs = rows.codes.shape
    padded = pad(inputs)
    at = kind.sections(padded)
    blocks = -(-count // BLOCK)

    def lanes(values: Array, dtype: str, columns: int) -> Array:
        """(count, columns) → (blocks, columns, 16), with zeros where there is nothing."""
        whole = np.zeros((blocks * BLOCK, columns), dtype)
        whole[:count, : values.shape[1]] = values
        return np.ascontiguousarray(whole.reshape(blocks, BLOCK, columns).transpose(0, 2, 1))

    def put(start: int, values: Array) -> None:
        words = values.reshape(blocks, -1).view(np.uint32)
        out[:blocks, start : start + words.shape[1]] = words

    codes: Array = (rows.codes.astype(np.int16) + kind.zero).astype(np.uint8)
    if padded != inputs:  # what is not there is a weight of 0: its activations are 0, too
        codes = np.pad(codes, ((0, 0), (0, padded - inputs)))
    packed: Array
    if kind.bits == 4:
        packed = codes[:, 0::2] | (codes[:, 1::2] << 4)
    else:
        packed = codes.reshape(count, padded // 8, 8)[:, :, _PAIRED].reshape(count, padded)
    put(0, lanes(np.ascontiguousarray(packed).view(np.uint32), "uint32", packed.shape[1] // 4))
    groups, many = padded // kind.group, -(-padded // kind.block)
    if rows.factor is not None:
        put(at.factors, lanes(rows.factor, rows.factor.dtype.name, groups))
    put(at.scales, lanes(rows.scale, kind.dtype, many))
    if rows.minimum is not None:
        if rows.minimum_factor is not None:
            put(at.minimum_factors, lanes(rows.minimum_factor, "uint8", groups))
        put(at.minima, lanes(rows.minimum, kind.dtype, many))


def matrix_words(kind: BlockFormat, outputs: Sequence[int], inputs: int) -> tuple[int, int]:
    """The shape of a matrix in the kernels' memory, its parts of rows padded one by one."""
    return sum(map(pad, outputs)) // BLOCK, kind.sections(pad(inputs)).words
