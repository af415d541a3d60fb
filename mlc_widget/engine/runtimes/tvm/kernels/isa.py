"""The kernels' operations on vectors of 16 lanes, and the CPU's features on which they depend."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.layouts import pad

__all__ = [
    "F16",
    "F32",
    "I32",
    "LANES",
    "LOG2E",
    "U32",
    "Isa",
    "hmax",
    "in_registers",
    "pad",
    "prefetch",
    "splat",
    "usplat",
]

LANES = 16
F16 = "float16x16"
F32 = "float32x16"
I32 = "int32x16"
U32 = "uint32x16"

LOG2E = math.log2(math.e)

# Minimax polynomial of 2^f on [0, 1], highest power first; relative error below 2e-7.
_EXP2 = (
    1.535336188319500e-4,
    1.339887440266574e-3,
    9.618437357674640e-3,
    5.550332471162809e-2,
    2.402264791363012e-1,
    6.931472028550421e-1,
    1.0,
)


def floats(lanes: int) -> str:
    """The dtype of a vector of this many float32 lanes."""
    return "float32" if lanes == 1 else f"float32x{lanes}"


def in_registers(shape: tuple[int, ...], dtype: str = "float32") -> Any:
    """A small local buffer of a kernel, on the stack.

    LLVM keeps it in registers if all its indices are constants after loops have been unrolled. A
    buffer of scope "local", or of 1 KiB or more, would be put on the heap by TVM instead, and every
    access would go to memory.
    """
    return T.alloc_buffer(shape, dtype, annotations={"disable_lower_builtin": True})


def splat(value: Any) -> Any:
    """A float32 scalar (expression or number) in all lanes."""
    return T.broadcast(T.float32(value) if isinstance(value, int | float) else value, LANES)


def usplat(value: Any) -> Any:
    """A uint32 scalar (expression or number) in all lanes."""
    return T.broadcast(T.uint32(value) if isinstance(value, int) else value, LANES)


def prefetch(buffer: Any, index: list[Any]) -> Any:
    """A statement that prefetches the cache line of an element, which may be out of bounds."""
    where = T.address_of(buffer[tuple(index)])
    return T.evaluate(T.call_intrin("void", "tirx.prefetch", where, 0, 3, 1))


def hmax(v: Any) -> Any:
    """The largest lane.

    A maximum is exact, so the order of comparisons does not matter. The lanes are compared as
    integers in the order of the floats, with -0 below 0: LLVM makes a tree of comparisons for
    integers, but a chain of sixteen for floats.
    """
    largest = T.call_llvm_pure_intrin(
        "int32", "llvm.vector.reduce.smax.v16i32", _ordered(T.reinterpret(I32, v), LANES)
    )
    return T.reinterpret("float32", _ordered(largest, 1))


def _ordered(bits: Any, lanes: int) -> Any:
    """Map a float's bits to an integer in the order of floats, or back, by flipping negatives."""

    def constant(value: int) -> Any:
        return T.broadcast(T.int32(value), lanes) if lanes > 1 else T.int32(value)

    turned = T.bitwise_and(T.shift_right(bits, constant(31)), constant(0x7FFFFFFF))
    return T.bitwise_xor(bits, turned)


@dataclass(frozen=True)
class Isa:
    """The CPU's features on which kernels depend. The compiled code's cache key includes them.

    Attributes:
        fma: Whether the CPU has fused multiply-add.
        matmul_rows: The number of rows of a matmul's tile: 1, 2, 4, 8 or 16, which is the number of
            accumulators of 16 floats that fit into the CPU's registers besides the operands.
        registers: The number of vectors of 16 floats that fit into the CPU's registers.
        f16c: Whether the CPU converts float16.
        dot: The CPU's integer dot product (a name in `dot.DOTS`), or "".
        int8_rows: The number of rows of the tile of a matmul with 8-bit activations.
    """

    fma: bool
    matmul_rows: int
    registers: int
    f16c: bool = True
    dot: str = ""
    int8_rows: int = 8

    @property
    def chains(self) -> int:
        """The number of independent sums for a row's products of one group."""
        return 2 if self.registers >= 32 else 1

    @property
    def tile_rows(self) -> int:
        """The number of rows that most linear layers compute in one pass over their weights."""
        return self.int8_rows if self.dot else self.matmul_rows

    @property
    def sums(self) -> int:
        """The number of vectors of 16 floats into which a kernel should sum concurrently."""
        return self.registers * 3 // 4

    def attention_rows(self, group: int) -> int:
        """The number of query rows of an attention tile, for `group` heads each.

        Their queries and one block of keys fit into the first-level cache.
        """
        return max(1, 60 // group)

    def mul_add(self, a: Any, b: Any, c: Any, lanes: int = LANES) -> Any:
        """``a * b + c``, rounded once if the CPU has fused multiply-add."""
        if self.fma:
            fma = "llvm.fma.f32" if lanes == 1 else f"llvm.fma.v{lanes}f32"
            return T.call_llvm_pure_intrin(floats(lanes), fma, a, b, c)
        return a * b + c

    def load(self, buffer: Any, index: list[Any], dtype: str) -> Any:
        """Load 16 lanes of a float32 or float16 buffer as float32, exactly."""
        if dtype == "float32":
            return buffer.vload(index, F32)
        if self.f16c:
            return T.Cast(F32, buffer.vload(index, F16))
        return self.widen(T.reinterpret("uint16x16", buffer.vload(index, F16)))

    def widen(self, bits: Any, lanes: int = LANES) -> Any:
        """Convert the bits of float16 to float32, exactly, without instructions for it.

        The bits are put into a float32, whose exponent is then too small by 112. This is also right
        for subnormal numbers.
        """

        def all_lanes(value: int) -> Any:
            return T.broadcast(T.uint32(value), lanes)

        half = T.Cast(f"uint32x{lanes}", bits)
        sign = T.shift_left(T.bitwise_and(half, all_lanes(0x8000)), all_lanes(16))
        rest = T.shift_left(T.bitwise_and(half, all_lanes(0x7FFF)), all_lanes(13))
        scaled = T.reinterpret(f"float32x{lanes}", rest) * T.broadcast(T.float32(2.0**112), lanes)
        both = T.bitwise_or(T.reinterpret(f"uint32x{lanes}", scaled), sign)
        return T.reinterpret(f"float32x{lanes}", both)

    def store(self, buffer: Any, index: list[Any], value: Any, dtype: str) -> Any:
        """A statement that stores 16 float32 lanes in a float32 or float16 buffer, rounded."""
        return buffer.vstore(index, T.Cast(F16, value) if dtype == "float16" else value)

    def exp2(self, x: Any) -> Any:
        """``2 ** x`` lane by lane, for x in [-126, 127]."""
        floor = T.call_llvm_pure_intrin(F32, "llvm.floor.v16f32", x)
        fraction = x - floor
        power = splat(_EXP2[0])
        for c in _EXP2[1:]:
            power = self.mul_add(power, fraction, splat(c))
        exponent = T.Cast(I32, floor) + T.broadcast(T.int32(127), LANES)
        return power * T.reinterpret(F32, T.shift_left(exponent, T.broadcast(T.int32(23), LANES)))
