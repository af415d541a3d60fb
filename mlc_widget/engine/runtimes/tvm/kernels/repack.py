# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""Writes rows of weights in ggml's blocks, as they are in a file, to the layout of `tvm.blocks`.

One kernel serves all matrices of a type. It moves bits and computes nothing, at some gigabytes per
second on one core, which is the time that a load mostly takes.

The codes of 16 neighbouring inputs are unpacked to bytes, in eight 16-bit lanes (``uint16x8``) that
have the even inputs in their lower halves. So two codes of 4 bits are joined within a lane, and 8
codes of even or odd inputs are the lower halves of lanes, or their upper ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.blocks import BlockFormat, repack_name
from mlc_widget.engine.store.formats.ggml_types import E2M1, NF4, TYPES_BY_NAME

_V: Final = "uint16x8"

Number: TypeAlias = Any
"""An int, or an expression."""


class _Block:
    """Reads one block of a row: bytes from an offset, which is given relative to the block."""

    def __init__(self, X: Any, row: Any, start: Any) -> None:
        self._x, self._row, self._start = X, row, start

    def bytes(self, at: Number, count: int) -> Any:
        """A vector of bytes."""
        return self._x.vload([self._row, self._start + at], f"uint8x{count}")

    def byte(self, at: Number) -> Any:
        """One byte, ``uint8``."""
        return self._x[self._row, self._start + at]

    def half(self, at: Number) -> Any:
        """Two bytes, ``uint16``."""
        return T.reinterpret("uint16", self.bytes(at, 2))

    def bits(self, at: Number, shift: Number, mask: int, left: int = 0) -> Any:
        """Some bits of each of 16 bytes: ``((byte >> shift) & mask) << left``."""
        found = _right(T.reinterpret(_V, self.bytes(at, 16)), shift)
        return _left(T.bitwise_and(found, _each(mask)), left)

    def single_bits(self, at: Number) -> Any:
        """Each of the 16 bits of two bytes as 0 or 16."""
        pairs = T.shift_right(T.broadcast(self.half(at), 8), T.ramp(T.uint16(0), T.uint16(2), 8))
        even = T.bitwise_and(pairs, T.broadcast(T.uint16(1), 8))
        odd = T.bitwise_and(pairs, T.broadcast(T.uint16(2), 8))
        return T.bitwise_or(_left(even, 4), _left(odd, 11))


@dataclass(frozen=True, slots=True)
class _Reader:
    """How the parts of a block are found.

    Attributes:
        codes: Gives half h of the codes of the 32 inputs g of a block.
        scale: Gives a block's scale in its stored form.
        factor: Gives the factor of group j, ``uint8``, if the format has factors.
        minimum: Likewise the block's minimum.
        minimum_factor: Likewise the factor of the minimum of group j.
    """

    codes: Callable[[_Block, Number, Number], Any]
    scale: Callable[[_Block], Any]
    factor: Callable[[_Block, Number], Any] | None = None
    minimum: Callable[[_Block], Any] | None = None
    minimum_factor: Callable[[_Block, Number], Any] | None = None


def _each(byte: int, lanes: int = 8) -> Any:
    return T.broadcast(T.uint16(byte * 0x0101), lanes)


def _right(vector: Any, by: Number, lanes: int = 8) -> Any:
    return T.shift_right(vector, T.broadcast(_number(by, "uint16"), lanes))


def _left(vector: Any, by: Number) -> Any:
    return T.shift_left(vector, T.broadcast(_number(by, "uint16"), 8)) if by else vector


def _number(value: Number, dtype: str) -> Any:
    return getattr(T, dtype)(value) if isinstance(value, int) else T.Cast(dtype, value)


def _nibbles(at: int) -> Callable[[_Block, Number, Number], Any]:
    """4-bit codes of 32 inputs: those of the first half are the low bits of 16 bytes."""
    return lambda b, g, h: b.bits(at, h * 4, 15)


def _in_table(table: Any, zero: int, codes: Callable[[_Block, Number, Number], Any]) -> Any:
    """Codes that stand for the values of a table, to which `zero` is added."""

    def found(b: _Block, g: Number, h: Number) -> Any:
        code = T.reinterpret("uint8x16", codes(b, g, h))
        value = T.broadcast(T.uint8(int(table[0]) + zero), 16)
        for i in range(1, 16):
            same = code == T.broadcast(T.uint8(i), 16)
            value = T.Select(same, T.broadcast(T.uint8(int(table[i]) + zero), 16), value)
        return T.reinterpret(_V, value)

    return found


def _or(
    low: Callable[[_Block, Number, Number], Any], high: Callable[[_Block, Number, Number], Any]
) -> Callable[[_Block, Number, Number], Any]:
    return lambda b, g, h: T.bitwise_or(low(b, g, h), high(b, g, h))


def _byte_and(value: Any, mask: int) -> Any:
    return T.bitwise_and(value, T.uint8(mask))


def _byte_right(value: Any, by: Number) -> Any:
    return T.shift_right(value, _number(by, "uint8"))


def _negative(half: Any) -> Any:
    return T.bitwise_xor(half, T.uint16(0x8000))


def _q3_k_factor(b: _Block, j: Number) -> Any:
    low = _byte_and(_byte_right(b.byte(96 + j % 8), j // 8 * 4), 15)
    high = _byte_and(_byte_right(b.byte(104 + j % 4), j // 4 * 2), 3)
    return T.bitwise_or(low, T.shift_left(high, T.uint8(4))) - T.uint8(32)


def _iq4_xs_factor(b: _Block, j: Number) -> Any:
    low = _byte_and(_byte_right(b.byte(4 + j // 2), j % 2 * 4), 15)
    high = _byte_and(_byte_right(b.byte(2 + j // 4), j % 4 * 2), 3)
    return T.bitwise_or(low, T.shift_left(high, T.uint8(4))) - T.uint8(32)


def _six_bits(first: int, nibble: int) -> Callable[[_Block, Number], Any]:
    """Factors of 6 bits of Q4_K and Q5_K.

    Of the first four, each is in a byte from `first` on. Of the others, the lowest 4 bits are from
    bit `nibble` on of a byte from 12 on, and the highest 2 above a factor of the first four.
    """

    def found(b: _Block, j: Number) -> Any:
        byte = b.byte(first + j % 4)
        low = _byte_and(_byte_right(b.byte(12 + j % 4), nibble), 15)
        joined = T.bitwise_or(low, _byte_and(_byte_right(byte, 2), 48))
        return T.if_then_else(j < 4, _byte_and(byte, 63), joined)

    return found


def _mxfp4_scale(b: _Block) -> Any:
    # A power of two, with its exponent in a byte; it is halved, as codes are doubled.
    exponent = T.Cast("uint32", b.byte(0))
    small = T.shift_left(T.uint32(0x00200000), exponent)
    return T.if_then_else(
        exponent < T.uint32(2), small, T.shift_left(exponent - T.uint32(1), T.uint32(23))
    )


_READERS: Final[Mapping[str, _Reader]] = {
    "Q4_0": _Reader(_nibbles(2), lambda b: b.half(0)),
    "Q4_1": _Reader(_nibbles(4), lambda b: b.half(0), minimum=lambda b: _negative(b.half(2))),
    "Q5_0": _Reader(
        _or(_nibbles(6), lambda b, g, h: b.single_bits(2 + h * 2)), lambda b: b.half(0)
    ),
    "Q5_1": _Reader(
        _or(_nibbles(8), lambda b, g, h: b.single_bits(4 + h * 2)),
        lambda b: b.half(0),
        minimum=lambda b: _negative(b.half(2)),
    ),
    "Q8_0": _Reader(
        lambda b, g, h: T.bitwise_xor(b.bits(2 + h * 16, 0, 255), _each(128)),
        lambda b: b.half(0),
    ),
    "Q2_K": _Reader(
        lambda b, g, h: b.bits(16 + g // 4 * 32 + h * 16, g % 4 * 2, 3),
        lambda b: b.half(80),
        lambda b, j: _byte_and(b.byte(j), 15),
        lambda b: b.half(82),
        lambda b, j: _byte_right(b.byte(j), 4),
    ),
    "Q3_K": _Reader(
        _or(
            lambda b, g, h: b.bits(32 + g // 4 * 32 + h * 16, g % 4 * 2, 3),
            lambda b, g, h: b.bits(h * 16, g, 1, 2),
        ),
        lambda b: b.half(108),
        _q3_k_factor,
    ),
    "Q4_K": _Reader(
        lambda b, g, h: b.bits(16 + g // 2 * 32 + h * 16, g % 2 * 4, 15),
        lambda b: b.half(0),
        _six_bits(4, 0),
        lambda b: b.half(2),
        _six_bits(8, 4),
    ),
    "Q5_K": _Reader(
        _or(
            lambda b, g, h: b.bits(48 + g // 2 * 32 + h * 16, g % 2 * 4, 15),
            lambda b, g, h: b.bits(16 + h * 16, g, 1, 4),
        ),
        lambda b: b.half(0),
        _six_bits(4, 0),
        lambda b: b.half(2),
        _six_bits(8, 4),
    ),
    "Q6_K": _Reader(
        _or(
            lambda b, g, h: b.bits(g // 4 * 64 + g % 2 * 32 + h * 16, g % 4 // 2 * 4, 15),
            lambda b, g, h: b.bits(128 + g // 4 * 32 + h * 16, g % 4 * 2, 3, 4),
        ),
        lambda b: b.half(208),
        lambda b, j: b.byte(192 + j),
    ),
    "IQ4_NL": _Reader(_in_table(NF4, 127, _nibbles(2)), lambda b: b.half(0)),
    "IQ4_XS": _Reader(
        _in_table(NF4, 127, lambda b, g, h: b.bits(8 + g * 16, h * 4, 15)),
        lambda b: b.half(0),
        _iq4_xs_factor,
    ),
    "MXFP4": _Reader(_in_table(E2M1, 12, _nibbles(1)), _mxfp4_scale),
}


def make_repack(kind: BlockFormat) -> Any:
    """Write rows of a matrix of codes, beginning with a block of 16 outputs.

    Shapes: x (rows, bytes of a row) uint8, as in the file; y (blocks, bytes of a block) uint8, with
    room for all rows. Then follow, as int64, the first words of the `blocks.Sections` of y's rows:
    high, factors, scales, minimum_factors and minima. What is between the rows' parts stays as it
    is, so y is zero before.
    """
    read, ggml = _READERS[kind.name], TYPES_BY_NAME[kind.name]
    BYTES, GROUPS, BITS = ggml.nbytes, ggml.block // 32, kind.high
    SCALE = 2 if kind.dtype == "float16" else 4  # bytes
    PARTS = ggml.block // kind.group

    def joined(codes: Any) -> Any:
        """The words of 2 · 8 codes of 4 bits, as uint64."""
        low = T.bitwise_and(codes, _each(15))
        return _words(T.bitwise_or(low, _right(low, 4)))

    def above(codes: Any) -> Any:
        """What is above the lowest 4 bits of 2 · 8 codes, in the bytes of two words, as uint64."""
        high = T.bitwise_and(_right(codes, 4), _each((1 << BITS) - 1))
        return _words(T.bitwise_or(high, _right(high, 8 - BITS)))

    def folded(words: Any, by: int) -> Any:
        """The second word moved to the left, and both joined, as uint32."""
        return T.Cast("uint32", T.bitwise_or(words, T.shift_right(words, T.uint64(32 - by))))

    def put_block(X: Any, Y: Any, nb: Any, lane: Any, b: Any, begins: Sequence[Any]) -> None:
        """Write block b of the row that is a lane of Y's row nb."""
        source = _Block(X, nb * 16 + lane, b * BYTES)
        high, factors, scales, minimum_factors, minima = begins

        def put(at: Any, value: Any, size: int = 4) -> None:
            T.buffer_store(Y, T.reinterpret(f"uint8x{size}", value), [nb, T.ramp(at, 1, size)])

        def word(section: Any, index: Any, value: Any) -> None:
            put((section + index * 16 + lane) * 4, T.Cast("uint32", value))

        def pair(index: Any, apart: int, words: Any) -> None:
            word(0, index, words)
            word(0, index + apart, T.shift_right(words, T.uint64(32)))

        with T.serial(GROUPS) as g:
            halves = [read.codes(source, g, h) for h in (0, 1)]
            at = b * GROUPS + g
            for h, codes in enumerate(halves):
                if kind.bits == 8:
                    pair(at * 8 + h * 4, 2, _words(codes))
                    pair(at * 8 + h * 4 + 1, 2, _words(_right(codes, 8)))
                else:
                    pair(at * 4 + h * 2, 1, joined(codes))
            if BITS == 2:
                for h, codes in enumerate(halves):
                    word(high, at * 2 + h, folded(above(codes), 4))
            if BITS == 1:
                low, up = (folded(above(codes), 2) for codes in halves)
                word(high, at, T.bitwise_or(low, T.shift_left(up, T.uint32(4))))
        for section, value in ((scales, read.scale), (minima, read.minimum)):
            if value is not None:
                put(section * 4 + (b * 16 + lane) * SCALE, value(source), SCALE)
        for section, factor in ((factors, read.factor), (minimum_factors, read.minimum_factor)):
            if factor is not None:
                with T.serial(PARTS) as j:
                    at = section * 4 + (b * PARTS + j) * 16 + lane
                    T.buffer_store(Y, factor(source, j), [nb, at])

    @T.prim_func(s_tir=True)
    def repack(
        x: T.handle,
        y: T.handle,
        high: T.int64,
        factors: T.int64,
        scales: T.int64,
        minimum_factors: T.int64,
        minima: T.int64,
    ):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        ROWS = T.int64()
        WIDTH = T.int64()
        NB = T.int64()
        SIZE = T.int64()
        X = T.match_buffer(x, (ROWS, WIDTH), "uint8", align=1)
        Y = T.match_buffer(y, (NB, SIZE), "uint8")
        for nb in T.serial(NB):
            for b in T.serial(WIDTH // BYTES):
                for lane in T.serial(T.min(T.int64(16), ROWS - nb * 16)):
                    with T.sblock("block"):
                        T.reads()
                        T.writes()
                        put_block(
                            X, Y, nb, lane, b, (high, factors, scales, minimum_factors, minima)
                        )

    return repack.with_attr("global_symbol", repack_name(kind))


def _words(lanes: Any) -> Any:
    """The lower halves of eight lanes, as uint64."""
    return T.reinterpret("uint64", T.Cast("uint8x8", lanes))
