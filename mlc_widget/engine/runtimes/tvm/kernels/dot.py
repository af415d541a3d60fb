"""Integer dot products of unsigned codes and signed 8-bit activations, for CPUs that have them.

All are exact, so all CPUs compute the same bits. The largest sum of a group is 32 · 255 · 128.

`Dot` "avx2" has products in 16 bits, each the sum of two. As activations lie within ±127, as many
of these as `_together` tells can be added in 16 bits. Codes above 127, of which that is none, are
multiplied as signed numbers, code - 128.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from tvm.script import tirx as T

_NIBBLES: Final = 0x0F0F0F0F
_GROUP: Final = 8
"""The number of words of four codes in a group of 32."""


@dataclass(frozen=True)
class Dot:
    """A sum over one group of 32 inputs, or a part of one, for `lanes` outputs at once.

    Attributes:
        name: ``avx512vnni``, ``avxvnni`` or ``avx2``.
        lanes: The number of outputs in a vector, 16 or 8, each with a word of four codes.
        whole: Whether the products of a group are in one piece of a kernel's code. LLVM moves loads
            up within such a piece; where registers are few, it then keeps most of them in memory,
            which takes longer than a loop over the words.
    """

    name: str
    lanes: int
    whole: bool = False

    def sum_type(self, most: int) -> tuple[str, int]:
        """The dtype and the number of lanes of the running sum, for codes up to `most`."""
        return ("int16", 2 * self.lanes) if self._short(most) else ("int32", self.lanes)

    def zero(self, most: int) -> int:
        """What is subtracted from codes before they are multiplied."""
        return 128 if self.name == "avx2" and most > 127 else 0

    def start(self, offset: Any, most: int) -> Any:
        """The sum before the first product, for `finish` with the same int32 `offset`."""
        dtype, lanes = self.sum_type(most)
        return T.broadcast(offset if self.whole else getattr(T, dtype)(0), lanes)

    def add(self, total: Any, words: Sequence[tuple[Any, Any]], most: int) -> Any:
        """Total + the products of some words, of a group in all.

        Args:
            total: The sum.
            words: Pairs of a vector of uint32 words with four codes each, and of an int32 word with
                four int8 for all lanes.
            most: The largest code.
        """
        if self.name == "avx2":
            return self._add_pairs(total, words, most)
        u8, s8, bits = f"uint8x{4 * self.lanes}", f"int8x{4 * self.lanes}", 32 * self.lanes
        for codes, x in words:
            total = T.call_llvm_pure_intrin(
                f"int32x{self.lanes}", f"llvm.x86.avx512.vpdpbusd.{bits}",
                total, T.reinterpret(u8, codes), T.reinterpret(s8, T.broadcast(x, self.lanes)),
            )  # fmt: skip
        return total

    def finish(self, total: Any, offset: Any, most: int) -> Any:
        """The sum, `offset` included, as int32 lanes."""
        if self.whole:
            return total
        total = _widened(total) if self._short(most) else total
        return total + T.broadcast(offset, self.lanes)

    def _short(self, most: int) -> bool:
        """Whether a whole group is summed in 16 bits."""
        return self.name == "avx2" and _together(most) >= _GROUP

    def _add_pairs(self, total: Any, words: Sequence[tuple[Any, Any]], most: int) -> Any:
        pairs = [_pairs(codes, T.broadcast(x, self.lanes), most) for codes, x in words]
        if self._short(most):
            return _sum([total, *pairs])
        step = max(1, _together(most))
        for i in range(0, len(pairs), step):
            total = total + _widened(_sum(pairs[i : i + step]))
        return total


def low_codes(words: Any, lanes: int) -> Any:
    """The four codes of 4 bits in the lower halves of each word's bytes, for `Dot.add`."""
    return T.bitwise_and(words, T.broadcast(T.uint32(_NIBBLES), lanes))


def high_codes(words: Any, lanes: int) -> Any:
    """The four codes of 4 bits in the upper halves of each word's bytes, for `Dot.add`."""
    shifted = T.shift_right(words, T.broadcast(T.uint32(4), lanes))
    return T.bitwise_and(shifted, T.broadcast(T.uint32(_NIBBLES), lanes))


def _together(most: int) -> int:
    """How many pairs of products of codes up to `most` can be added in 16 bits."""
    return 32767 // (2 * 127 * most)


def _sum(vectors: Sequence[Any]) -> Any:
    total = vectors[0]
    for vector in vectors[1:]:
        total = total + vector
    return total


def _pairs(codes: Any, x: Any, most: int) -> Any:
    """The sums of two products each, 16 of int16, of eight lanes of codes and of activations."""
    codes, x = T.reinterpret("uint8x32", codes), T.reinterpret("int8x32", x)
    if most > 127:
        signed = T.bitwise_xor(codes, T.broadcast(T.uint8(128), 32))
        codes, x = _signed(signed, signed), _signed(x, signed)
    return T.call_llvm_pure_intrin("int16x16", "llvm.x86.avx2.pmadd.ub.sw", codes, x)


def _signed(value: Any, sign: Any) -> Any:
    """`value` times the sign of `sign`, which may be 0, byte by byte."""
    return T.call_llvm_pure_intrin("int8x32", "llvm.x86.avx2.psign.b", value, sign)


def _widened(pairs: Any) -> Any:
    """The sums of two neighbouring int16 each, as int32."""
    return T.call_llvm_pure_intrin(
        "int32x8", "llvm.x86.avx2.pmadd.wd", pairs, T.broadcast(T.int16(1), 16)
    )


DOTS = {d.name: d for d in (Dot("avx512vnni", 16, whole=True), Dot("avxvnni", 8), Dot("avx2", 8))}
