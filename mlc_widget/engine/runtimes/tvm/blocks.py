"""The memory layout of matrices in ggml's block formats.

`pack_rows` defines it with numpy. A load writes it with a compiled kernel, `kernels.repack`, which
is 50 times as fast and writes the same bits.

A matrix (N, K) becomes (N/16, words) uint32: one row for each 16 outputs, one output per lane, in
sections that each begin at a multiple of 16 words:

    codes     K · 16 codes of 4 or 8 bits; each word of a lane has its next 8 or 4 inputs
    high      the further bits of codes of 5 or 6 bits, whose lowest 4 are above
    factors   one byte per group and lane, if the format has factors
    scales    one float16 per block of groups and lane
    minima    their factors and the minima themselves in the same way, if the format has minima

In a word of 4-bit codes, the lowest bits are the first input. 8-bit codes come in pairs of words:
of eight inputs, the bytes of the first word are 0 2 4 6, those of the second 1 3 5 7. That is the
order of 8-bit activations (`kernels.quantize`).

A weight is ``scale · factor · (code − zero) − minimum · minimum factor``. Floats are stored
unchanged, 16 lanes for each input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mlc_widget.engine.runtimes.tvm.layouts import BLOCK, Layout, Packer, pad
from mlc_widget.engine.runtimes.tvm.memory import as_tensor
from mlc_widget.engine.store.formats.ggml_types import TYPES_BY_NAME, Unpacked, unpack

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class BlockFormat:
    """The format of one of ggml's types in the kernels' memory.

    Attributes:
        name: ggml's name of the type.
        bits: The size of a code in bits, 4 or 8; of a float, 16 or 32.
        zero: The code of weight 0, before the minimum is subtracted.
        group: The number of inputs that share a factor (or a scale, without factors): 16 or 32.
        block: The number of inputs that share a scale.
        factors: Whether groups have factors.
        signed: Whether the factors are signed.
        minima: Whether groups have minima.
        dtype: The dtype of scales and minima.
        high: The number of further bits of a code, which are stored apart from its lowest 4.
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
    high: int = 0

    @property
    def coded(self) -> bool:
        """Whether weights are codes with scales, rather than floats."""
        return self.bits < 16

    def sections(self, inputs: int) -> Sections:
        """Where the sections of a row begin, for a padded number of inputs."""
        codes = inputs * BLOCK * self.bits // 32
        if not self.coded:
            return Sections(0, 0, 0, 0, 0, codes)
        high = inputs * BLOCK * self.high // 32
        factors = inputs // self.group * BLOCK // 4 if self.factors else 0
        scales = -(-inputs // self.block) * BLOCK * np.dtype(self.dtype).itemsize // 4
        ends, at = [], 0
        for size in (codes, high, factors, scales, *((factors, scales) if self.minima else ())):
            ends.append(at)
            at += -(-size // BLOCK) * BLOCK
        minima = (ends[4], ends[5]) if self.minima else (0, 0)
        return Sections(ends[1], ends[2], ends[3], *minima, at)


@dataclass(frozen=True, slots=True)
class Sections:
    """The first word of each section of a row; the codes begin at 0.

    Attributes:
        high: The first word of the codes' further bits.
        factors: The first word of the factors.
        scales: The first word of the scales.
        minimum_factors: The first word of the minima's factors.
        minima: The first word of the minima.
        words: The number of words of the whole row.
    """

    high: int
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
        BlockFormat("Q5_0", 4, 16, high=1),
        BlockFormat("Q5_1", 4, 0, minima=True, high=1),
        BlockFormat("Q8_0", 8, 128),
        BlockFormat("Q2_K", 4, 0, 16, minima=True, **_K),
        BlockFormat("Q3_K", 4, 4, 16, signed=True, **_K),
        BlockFormat("Q4_K", 4, 0, minima=True, **_K),
        BlockFormat("Q5_K", 4, 0, minima=True, high=1, **_K),
        BlockFormat("Q6_K", 4, 32, 16, signed=True, high=2, **_K),
        BlockFormat("IQ4_NL", 8, 127),
        BlockFormat("IQ4_XS", 8, 127, signed=True, **_K),
        BlockFormat("MXFP4", 8, 12, dtype="float32"),
        BlockFormat("F16", 16, 0),
        BlockFormat("BF16", 16, 0),
        BlockFormat("F32", 32, 0),
    )
}
"""The formats by ggml's names. Those with tables have 8-bit codes."""

_PAIRED: Final = [0, 2, 4, 6, 1, 3, 5, 7]


def pack_rows(kind: BlockFormat, rows: Unpacked, out: Array) -> None:
    """Write rows of a matrix, beginning with the first lane of the first block of `out`.

    Args:
        kind: The format.
        rows: The rows, unpacked from the file.
        out: (at least rows/16, words) uint32, zeros.
    """
    count, inputs = rows.codes.shape
    padded = pad(inputs)
    at = kind.sections(padded)
    blocks = -(-count // BLOCK)

    def lanes(values: Array, dtype: str, columns: int) -> Array:
        """(count, columns) → (blocks, columns, 16), padded with zeros."""
        whole = np.zeros((blocks * BLOCK, columns), dtype)
        whole[:count, : values.shape[1]] = values
        return np.ascontiguousarray(whole.reshape(blocks, BLOCK, columns).transpose(0, 2, 1))

    def put(start: int, values: Array) -> None:
        words = values.reshape(blocks, -1).view(np.uint32)
        out[:blocks, start : start + words.shape[1]] = words

    codes: Array = np.ascontiguousarray(rows.codes.view(np.uint8) + np.uint8(kind.zero))
    if padded != inputs:  # padding may have any code: its activations are 0
        codes = np.pad(codes, ((0, 0), (0, padded - inputs)))
    packed: Array
    if kind.bits == 4:
        pairs = codes.view("<u2")
        packed = ((pairs & 0x0F) | (pairs >> 4 & 0xF0)).astype(np.uint8)
    else:
        packed = codes.reshape(count, padded // 8, 8)[:, :, _PAIRED].reshape(count, padded)
    put(0, lanes(np.ascontiguousarray(packed).view(np.uint32), "uint32", packed.shape[1] // 4))
    if kind.high:
        put(at.high, lanes(_high_words(codes, kind.high), "uint32", padded * kind.high // 32))
    groups, many = padded // kind.group, -(-padded // kind.block)
    if rows.factor is not None:
        put(at.factors, lanes(rows.factor, rows.factor.dtype.name, groups))
    put(at.scales, lanes(rows.scale, kind.dtype, many))
    if rows.minimum is not None:
        if rows.minimum_factor is not None:
            put(at.minimum_factors, lanes(rows.minimum_factor, "uint8", groups))
        put(at.minima, lanes(rows.minimum, kind.dtype, many))


def _high_words(codes: Array, bits: int) -> Array:
    """Bits 4 and on of (rows, inputs) uint8 codes, as (rows, inputs · bits / 32) uint32.

    A group of 32 inputs meets 8 words of 4 activations each. Byte b of a word has the bits of the
    inputs that are byte b of these, those of the first one lowest.
    """
    rows, inputs = codes.shape
    mask = np.uint64(0x0101010101010101 * ((1 << bits) - 1))
    eights = (codes.view("<u8") >> np.uint64(4)) & mask
    eights = eights.reshape(rows, inputs // 32 * bits, 4 // bits)
    joined = eights[:, :, 0].copy()
    for i in range(1, 4 // bits):
        joined |= eights[:, :, i] << np.uint64(2 * bits * i)
    # Even inputs are in the lower byte of each pair, odd ones in the upper.
    pairs = joined.view("<u2")
    made: Array = (pairs | pairs >> (8 - bits)).astype(np.uint8).view(np.uint32)
    return made


def repack_name(kind: BlockFormat) -> str:
    """The name of the compiled kernel that writes rows of this format; see `kernels.repack`."""
    return f"repack_{kind.name}"


def _pack_floats(rows: Array, size: int, out: Array) -> None:
    """Write rows of floats of `size` bytes block by block, without interpreting them."""
    dtype = np.dtype(f"u{size}")
    values = rows.view(dtype)
    lanes = out.view(dtype).reshape(len(out), -1, BLOCK)
    for block in range(-(-len(values) // BLOCK)):
        part = values[block * BLOCK : (block + 1) * BLOCK]
        lanes[block, : part.shape[1], : len(part)] = part.T


def matrix_words(kind: BlockFormat, outputs: Sequence[int], inputs: int) -> tuple[int, int]:
    """The shape of a matrix in the kernels' memory; each of its parts of rows is padded."""
    return sum(map(pad, outputs)) // BLOCK, kind.sections(pad(inputs)).words


class BlockMatrix(Layout):
    """Rows of a matrix in ggml's blocks, as bytes → `matrix_words`.

    Args:
        kind: ggml's name of their type.
        inputs: The number of weights in a row.
        outputs: The number of rows in the file.
        rows: The number of rows in the kernels' memory, a multiple of 16; additional rows are 0.
        width: The number of output features of the whole layer, of which this may be a part.
    """

    source_dtypes = ("uint8",)
    dtype = "uint32"

    def __init__(
        self, kind: str, inputs: int, outputs: int, rows: int, width: int | None = None
    ) -> None:
        self.kind, self._ggml = FORMATS[kind], TYPES_BY_NAME[kind]
        self.inputs, self.outputs, self.rows = inputs, outputs, rows
        self._width = width or rows
        self.source_shape = (outputs, inputs // self._ggml.block * self._ggml.nbytes)
        self.shape = (rows // BLOCK, self.kind.sections(pad(inputs)).words)

    @property
    def width(self) -> int:
        """The number of output features of its layer."""
        return self._width

    @property
    def weights(self) -> int:
        """The number of its weights."""
        return self.inputs * self.outputs

    def pack(self, source: Array, out: Array) -> None:
        """Write all rows at once."""
        self.pack_piece(source, 0, out)

    def pieces(self, rows: int) -> list[tuple[int, int]]:
        """As `Layout.pieces`; a piece is a number of whole blocks."""
        step = max(BLOCK, rows // BLOCK * BLOCK)
        return [(at, min(at + step, self.outputs)) for at in range(0, self.outputs, step)]

    def pack_piece(self, piece: Array, start: int, out: Array) -> None:
        """As `Layout.pack_piece`."""
        part = _rows_of(out, start, len(piece))
        if self.kind.coded:
            pack_rows(self.kind, unpack(self._ggml, piece, self.inputs), part)
        else:
            _pack_floats(piece, self.kind.bits // 8, part)

    def packer(self, compiled: Callable[[str], Any]) -> Packer:
        """As `Layout.packer`."""
        if not self.kind.coded:
            return self.pack_piece
        repack, at = compiled(repack_name(self.kind)), self.kind.sections(pad(self.inputs))
        firsts = at.high, at.factors, at.scales, at.minimum_factors, at.minima

        def pack(piece: Array, start: int, out: Array) -> None:
            part = _rows_of(out, start, len(piece))
            repack(as_tensor(piece), as_tensor(part.view(np.uint8)), *firsts)

        return pack

    def record(self) -> list[Any]:
        """As `Layout.record`."""
        return ["BlockMatrix", self.kind.name, self.inputs, self.outputs, self.rows, self._width]


def _rows_of(out: Array, start: int, count: int) -> Array:
    """The rows of the kernels' matrix that have some rows of the file; `start` begins one."""
    return out[start // BLOCK : -(-(start + count) // BLOCK)]
