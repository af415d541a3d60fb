"""The block formats of GGUF tensors: their sizes, and how to unpack their blocks.

ggml's ``ggml-common.h`` and ``ggml-quants.c`` describe the blocks; ``gguf.quants`` of the package
`gguf` is the reference with which the tests compare.

A quantized weight is ``scale · code − minimum`` in float32, with one scale (and one minimum) for
each group of 16 or 32 neighbouring inputs. The product of scale and code is exact in float32, so
only the subtraction is rounded, as in the reference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class GGMLType:
    """One type of tensor.

    Attributes:
        id: Its number in the file.
        name: Its name in ggml, such as ``Q4_K``.
        block: The number of weights in a block.
        nbytes: The size of a block in bytes.
        readable: Whether this module can unpack its blocks.
    """

    id: int
    name: str
    block: int
    nbytes: int
    readable: bool = True


@dataclass(frozen=True, slots=True)
class Unpacked:
    """Rows of quantized weights, unpacked.

    The scale of a group is the ``scale`` of its block times the group's ``factor``, and its minimum
    likewise; both products are exact in float32. Types without factors have one group per block.

    Attributes:
        codes: (rows, inputs) uint8 or int8.
        scale: (rows, blocks) float32.
        factor: (rows, groups) int8 or uint8, or None for 1.
        minimum: (rows, blocks) float32, or None if the type has no minima.
        minimum_factor: (rows, groups) uint8, or None for 1.
        group: The number of inputs that share a scale: 16 or 32.
    """

    codes: Array
    scale: Array
    factor: Array | None
    minimum: Array | None
    minimum_factor: Array | None
    group: int

    def weights(self) -> Array:
        """The weights, ``scale · code − minimum``, (rows, inputs) float32."""
        rows, inputs = self.codes.shape
        grouped = self.codes.reshape(rows, inputs // self.group, self.group).astype(np.float32)
        grouped *= _of_groups(self.scale, self.factor)[:, :, None]
        if self.minimum is not None:
            grouped -= _of_groups(self.minimum, self.minimum_factor)[:, :, None]
        return grouped.reshape(rows, inputs)


def _of_groups(values: Array, factors: Array | None) -> Array:
    """The values of the groups: those of their blocks times the groups' factors."""
    if factors is None:
        return values
    return np.repeat(values, factors.shape[1] // values.shape[1], axis=1) * factors.astype(
        np.float32
    )


NF4: Final = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8
)
"""ggml's ``kvalues_iq4nl``: the values of the 16 codes of IQ4_NL and IQ4_XS."""
E2M1: Final = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int8)
"""ggml's ``kvalues_mxfp4``: twice the values of the 4-bit floats of MXFP4."""


def _half(blocks: Array, at: int) -> Array:
    """(n, 1) float32 from the float16 at byte `at` of each block."""
    return blocks[:, at : at + 2].copy().view(np.float16).astype(np.float32)


def _nibbles(packed: Array, width: int) -> Array:
    """Split bytes into 4-bit codes: of each `width` bytes, the low halves, then the high halves."""
    parts = packed.reshape(-1, width)
    return np.stack([parts & 15, parts >> 4], axis=1).reshape(packed.shape[0], -1)


def _fifth_bits(blocks: Array, at: int) -> Array:
    """(n, 32) uint8: the bits of the 32-bit word at byte `at`, each as 0 or 16."""
    return np.unpackbits(blocks[:, at : at + 4], axis=1, bitorder="little") << 4


def _plain(codes: Array, scale: Array, minimum: Array | None = None) -> Unpacked:
    """Make `Unpacked` from blocks with one group each."""
    return Unpacked(codes, scale, None, minimum, None, 32)


def _q4_0(blocks: Array) -> Unpacked:
    codes = _nibbles(blocks[:, 2:], 16).view(np.int8) - np.int8(8)
    return _plain(codes, _half(blocks, 0))


def _q4_1(blocks: Array) -> Unpacked:
    return _plain(_nibbles(blocks[:, 4:], 16), _half(blocks, 0), -_half(blocks, 2))


def _q5_0(blocks: Array) -> Unpacked:
    codes = (_nibbles(blocks[:, 6:], 16) | _fifth_bits(blocks, 2)).view(np.int8) - np.int8(16)
    return _plain(codes, _half(blocks, 0))


def _q5_1(blocks: Array) -> Unpacked:
    codes = _nibbles(blocks[:, 8:], 16) | _fifth_bits(blocks, 4)
    return _plain(codes, _half(blocks, 0), -_half(blocks, 2))


def _q8_0(blocks: Array) -> Unpacked:
    return _plain(blocks[:, 2:].view(np.int8), _half(blocks, 0))


def _q2_k(blocks: Array) -> Unpacked:
    packed, rows = blocks[:, :16], blocks.shape[0]
    shifts = np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)
    codes = (blocks[:, 16:80].reshape(rows, 2, 1, 32) >> shifts) & 3
    codes = codes.reshape(rows, 256)
    return Unpacked(codes, _half(blocks, 80), packed & 15, _half(blocks, 82), packed >> 4, 16)


def _q3_k(blocks: Array) -> Unpacked:
    rows = blocks.shape[0]
    high = blocks[:, :32].reshape(rows, 1, 1, 32)
    low = blocks[:, 32:96].reshape(rows, 2, 1, 32)
    packed = blocks[:, 96:108]
    shifts = np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)
    codes = (low >> shifts) & 3
    at = np.arange(8, dtype=np.uint8).reshape(1, 2, 4, 1)
    # If the bit is not set, the code is smaller by 4.
    missing = (((high >> at) & 1) ^ 1) << 2
    codes = codes.reshape(rows, 256).view(np.int8) - missing.reshape(rows, 256).view(np.int8)
    lowest = _nibbles(packed[:, :8], 8)
    highest = (packed[:, 8:].reshape(rows, 1, 4) >> np.array([0, 2, 4, 6], np.uint8)[:, None]) & 3
    scales = lowest | (highest.reshape(rows, 16) << 4)
    factor = scales.view(np.int8) - np.int8(32)
    return Unpacked(codes, _half(blocks, 108), factor, None, None, 16)


def _six_bit_pairs(packed: Array) -> tuple[Array, Array]:
    """Eight 6-bit scales and minima from 12 bytes, as Q4_K and Q5_K pack them; (n, 8) uint8."""
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:12]
    scale = np.concatenate([first & 63, (third & 15) | ((first >> 2) & 48)], axis=1)
    minimum = np.concatenate([second & 63, (third >> 4) | ((second >> 2) & 48)], axis=1)
    return scale, minimum


def _q4_k(blocks: Array) -> Unpacked:
    scale, minimum = _six_bit_pairs(blocks[:, 4:16])
    codes = _nibbles(blocks[:, 16:144], 32)
    return Unpacked(codes, _half(blocks, 0), scale, _half(blocks, 2), minimum, 32)


def _q5_k(blocks: Array) -> Unpacked:
    rows = blocks.shape[0]
    scale, minimum = _six_bit_pairs(blocks[:, 4:16])
    fifth = (blocks[:, 16:48].reshape(rows, 1, 32) >> np.arange(8, dtype=np.uint8)[:, None]) & 1
    codes = _nibbles(blocks[:, 48:176], 32) | (fifth.reshape(rows, 256) << 4)
    return Unpacked(codes, _half(blocks, 0), scale, _half(blocks, 2), minimum, 32)


def _q6_k(blocks: Array) -> Unpacked:
    rows = blocks.shape[0]
    low, high = blocks[:, :128].reshape(rows, 2, 1, 64), blocks[:, 128:192].reshape(rows, 2, 1, 32)
    low = (low >> np.array([0, 4], np.uint8).reshape(1, 1, 2, 1)) & 15
    high = (high >> np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)) & 3
    codes = low.reshape(rows, 256) | (high.reshape(rows, 256) << 4)
    codes, factor = codes.view(np.int8) - np.int8(32), blocks[:, 192:208].view(np.int8)
    return Unpacked(codes, _half(blocks, 208), factor, None, None, 16)


def _iq4_nl(blocks: Array) -> Unpacked:
    return _plain(NF4[_nibbles(blocks[:, 2:], 16)], _half(blocks, 0))


def _iq4_xs(blocks: Array) -> Unpacked:
    rows = blocks.shape[0]
    high = blocks[:, 2:4].copy().view("<u2")
    high = ((high >> np.arange(0, 16, 2, dtype=np.uint16)) & 3).astype(np.uint8)
    low = np.stack([blocks[:, 4:8] & 15, blocks[:, 4:8] >> 4], axis=2).reshape(rows, 8)
    factor = (low | (high << 4)).view(np.int8) - np.int8(32)
    codes = NF4[_nibbles(blocks[:, 8:136], 16)]
    return Unpacked(codes, _half(blocks, 0), factor, None, None, 32)


def _mxfp4(blocks: Array) -> Unpacked:
    # The scale is a power of two, with its exponent in a byte; it is halved, as codes are doubled.
    exponent = blocks[:, :1].astype(np.uint32)
    bits = np.where(exponent < 2, np.uint32(0x00200000) << exponent, (exponent - 1) << 23)
    scale = bits.astype(np.uint32).view(np.float32)
    return _plain(E2M1[_nibbles(blocks[:, 1:], 16)], scale)


_UNPACK: Final[dict[str, Callable[[Array], Unpacked]]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "IQ4_NL": _iq4_nl,
    "IQ4_XS": _iq4_xs,
    "MXFP4": _mxfp4,
}

GGML_TYPES: Final = {
    t.id: t
    for t in (
        GGMLType(0, "F32", 1, 4),
        GGMLType(1, "F16", 1, 2),
        GGMLType(2, "Q4_0", 32, 18),
        GGMLType(3, "Q4_1", 32, 20),
        GGMLType(6, "Q5_0", 32, 22),
        GGMLType(7, "Q5_1", 32, 24),
        GGMLType(8, "Q8_0", 32, 34),
        GGMLType(10, "Q2_K", 256, 84),
        GGMLType(11, "Q3_K", 256, 110),
        GGMLType(12, "Q4_K", 256, 144),
        GGMLType(13, "Q5_K", 256, 176),
        GGMLType(14, "Q6_K", 256, 210),
        GGMLType(16, "IQ2_XXS", 256, 66, readable=False),
        GGMLType(17, "IQ2_XS", 256, 74, readable=False),
        GGMLType(18, "IQ3_XXS", 256, 98, readable=False),
        GGMLType(19, "IQ1_S", 256, 50, readable=False),
        GGMLType(20, "IQ4_NL", 32, 18),
        GGMLType(21, "IQ3_S", 256, 110, readable=False),
        GGMLType(22, "IQ2_S", 256, 82, readable=False),
        GGMLType(23, "IQ4_XS", 256, 136),
        GGMLType(29, "IQ1_M", 256, 56, readable=False),
        GGMLType(30, "BF16", 1, 2),
        GGMLType(34, "TQ1_0", 256, 54, readable=False),
        GGMLType(35, "TQ2_0", 256, 66, readable=False),
        GGMLType(39, "MXFP4", 32, 17),
    )
}
"""The types by their numbers; of those that are not `readable`, only name and size are known."""
TYPES_BY_NAME: Final = {t.name: t for t in GGML_TYPES.values()}


def unpack(kind: GGMLType, data: Array, inputs: int) -> Unpacked:
    """Unpack rows of a quantized type.

    Args:
        kind: Their type, which is quantized and readable.
        data: (rows, bytes of a row) uint8.
        inputs: The number of weights in a row, a multiple of the type's block.

    Returns:
        The rows' codes, scales and minima.
    """
    rows = data.shape[0]
    found = _UNPACK[kind.name](data.reshape(-1, kind.nbytes))

    def by_row(values: Array | None) -> Array | None:
        return None if values is None else values.reshape(rows, -1)

    return Unpacked(
        found.codes.reshape(rows, inputs),
        found.scale.reshape(rows, -1),
        by_row(found.factor),
        by_row(found.minimum),
        by_row(found.minimum_factor),
        found.group,
    )


def floats(kind: GGMLType, data: Array) -> Array:
    """Convert rows of a float type to float32 (F32, BF16) or float16 (F16), exactly.

    Args:
        kind: F32, F16 or BF16.
        data: (rows, bytes of a row) uint8.
    """
    if kind.name == "BF16":
        return (data.view("<u2").astype(np.uint32) << 16).view(np.float32)
    return data.view("<f2" if kind.name == "F16" else "<f4")


def dequantize(kind: GGMLType, data: Array, inputs: int) -> Array:
    """Convert any readable type to (rows, inputs) float32, just as ``gguf.quants.dequantize``."""
    if kind.name in _UNPACK:
        return unpack(kind, data, inputs).weights()
    return floats(kind, data).astype(np.float32)
