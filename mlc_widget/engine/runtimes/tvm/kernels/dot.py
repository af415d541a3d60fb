"""Integer dot products of unsigned codes and signed 8-bit activations, for CPUs that have them.

All are exact. The largest sum of a group is 32 · 255 · 128, and the largest sum of 16 bits (in
`Dot` "avx2", with codes below 16) is 8 · 2 · 15 · 127 = 30480. So all CPUs compute the same bits.
Codes of up to 8 bits need `wide`, for which "avx2" multiplies 16-bit integers instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from tvm.script import tirx as T

_NIBBLES: Final = 0x0F0F0F0F


@dataclass(frozen=True)
class Dot:
    """A sum over one group of 32 inputs, for `lanes` outputs at once.

    Attributes:
        name: ``avx512vnni``, ``avxvnni`` or ``avx2``.
        lanes: The number of outputs in a vector, 16 or 8, each with a word of four codes.
        partial: The dtype of the running sum.
        partial_lanes: The number of lanes of the running sum.
    """

    name: str
    lanes: int
    partial: str
    partial_lanes: int

    def sum_type(self, wide: bool) -> tuple[str, int]:
        """The dtype and the number of lanes of the running sum."""
        return ("int32", self.lanes) if wide else (self.partial, self.partial_lanes)

    def start(self, offset: Any, wide: bool = False) -> Any:
        """The sum before the first product; all lanes begin with the int32 `offset`."""
        if self.name == "avx2" and not wide:
            return T.broadcast(T.int16(0), 16)
        return T.broadcast(offset, self.lanes)

    def add(self, total: Any, codes: Any, x: Any, wide: bool = False) -> Any:
        """Total + the four products of each lane.

        `codes` is a vector of uint32 words with four codes each, below 16 unless `wide`; `x` is an
        int32 word with four int8.
        """
        words = T.broadcast(x, self.lanes)
        if self.name == "avx2" and wide:
            return total + _products16(codes, words, False) + _products16(codes, words, True)
        u8, s8 = f"uint8x{4 * self.lanes}", f"int8x{4 * self.lanes}"
        if self.name == "avx2":
            pairs = T.call_llvm_pure_intrin(
                "int16x16", "llvm.x86.avx2.pmadd.ub.sw",
                T.reinterpret(u8, codes), T.reinterpret(s8, words),
            )  # fmt: skip
            return total + pairs
        bits = 32 * self.lanes
        return T.call_llvm_pure_intrin(
            f"int32x{self.lanes}", f"llvm.x86.avx512.vpdpbusd.{bits}",
            total, T.reinterpret(u8, codes), T.reinterpret(s8, words),
        )  # fmt: skip

    def finish(self, total: Any, offset: Any, wide: bool = False) -> Any:
        """The sum, `offset` included, as int32 lanes."""
        if self.name == "avx2" and not wide:
            pairs = T.call_llvm_pure_intrin(
                "int32x8", "llvm.x86.avx2.pmadd.wd", total, T.broadcast(T.int16(1), 16)
            )
            return pairs + T.broadcast(offset, self.lanes)
        return total


def low_codes(words: Any, lanes: int) -> Any:
    """The four codes of 4 bits in the lower halves of each word's bytes, for `Dot.add`."""
    return T.bitwise_and(words, T.broadcast(T.uint32(_NIBBLES), lanes))


def high_codes(words: Any, lanes: int) -> Any:
    """The four codes of 4 bits in the upper halves of each word's bytes, for `Dot.add`."""
    shifted = T.shift_right(words, T.broadcast(T.uint32(4), lanes))
    return T.bitwise_and(shifted, T.broadcast(T.uint32(_NIBBLES), lanes))


def _products16(codes: Any, x: Any, odd: bool) -> Any:
    """The two products of each lane's even bytes, or of its odd ones, as 16-bit integers."""
    if odd:
        weights = T.bitwise_and(
            T.shift_right(codes, T.broadcast(T.uint32(8), 8)), T.broadcast(T.uint32(0x00FF00FF), 8)
        )
        halves = T.reinterpret("int16x16", x)
    else:
        weights = T.bitwise_and(codes, T.broadcast(T.uint32(0x00FF00FF), 8))
        halves = T.shift_left(T.reinterpret("int16x16", x), T.broadcast(T.int16(8), 16))
    return T.call_llvm_pure_intrin(
        "int32x8", "llvm.x86.avx2.pmadd.wd",
        T.reinterpret("int16x16", weights),
        T.shift_right(halves, T.broadcast(T.int16(8), 16)),
    )  # fmt: skip


DOTS = {
    d.name: d
    for d in (
        Dot("avx512vnni", 16, "int32", 16),
        Dot("avxvnni", 8, "int32", 8),
        Dot("avx2", 8, "int16", 16),
    )
}
