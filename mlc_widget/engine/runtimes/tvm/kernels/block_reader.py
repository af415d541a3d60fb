"""How kernels load parts of weights in ggml's blocks (`tvm.blocks`)."""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.blocks import BlockFormat
from mlc_widget.engine.runtimes.tvm.kernels.isa import F32, U32, Isa


class BlockReader:
    """Loads scales, minima, high bits of codes, and floats of `lanes` outputs of a matrix."""

    def __init__(self, kind: BlockFormat, K: int, isa: Isa, lanes: int = 16) -> None:
        self.kind, self.isa, self.lanes = kind, isa, lanes
        self.at = kind.sections(K)

    def scale(self, W: Any, nb: Any, part: Any, group: Any) -> Any:
        """``scale · factor`` of a group of weights."""
        return self._product(W, nb, part, group, self.at.scales, self.at.factors, self.kind.signed)

    def minimum(self, W: Any, nb: Any, part: Any, group: Any) -> Any:
        """``minimum · its factor`` of a group of weights."""
        return self._product(W, nb, part, group, self.at.minima, self.at.minimum_factors, False)

    def high(self, W: Any, nb: Any, part: Any, g: Any, h: Any) -> Any:
        """The word with the high bits of the codes of half h of the 32 inputs g, or of all."""
        at = self.at.high + (g * self.kind.high + h) * 16 + part * self.lanes
        return W.vload([nb, at if self.kind.high else 0], f"uint32x{self.lanes}")

    def above(self, high: Any, at: Any) -> Any:
        """The high bits of the four codes that meet word `at` of the activations, in place.

        The word is rotated so that they lie above the codes' lowest four; the rest is masked.
        """
        L, bits = self.lanes, self.kind.high
        by = T.Cast("uint32", (at % (8 // bits) * bits + 28) % 32)
        turned = T.call_llvm_pure_intrin(
            f"uint32x{L}", f"llvm.fshr.v{L}i32", high, high, T.broadcast(by, L)
        )
        return T.bitwise_and(turned, T.broadcast(T.uint32(0x10101010 * ((1 << bits) - 1)), L))

    def _product(
        self, W: Any, nb: Any, part: Any, group: Any, scales: int, factors: int, signed: bool
    ) -> Any:
        kind, L = self.kind, self.lanes
        of_block = self._float(W, nb, part, scales, group * kind.group // kind.block)
        if not kind.factors:
            return of_block
        words = W.vload([nb, factors + group * 4 + part * (L // 4)], f"uint32x{L // 4}")
        bytes_ = T.reinterpret(f"{'int8' if signed else 'uint8'}x{L}", words)
        return of_block * T.Cast(f"float32x{L}", bytes_)

    def float(self, W: Any, nb: Any, k: Any) -> Any:
        """Sixteen float weights of input `k`, as float32."""
        if self.kind.name != "BF16":
            return self._float(W, nb, 0, 0, k)
        halves = T.reinterpret("uint16x16", W.vload([nb, k * 8], "uint32x8"))
        words = T.shift_left(T.Cast(U32, halves), T.broadcast(T.uint32(16), 16))
        return T.reinterpret(F32, words)

    def _float(self, W: Any, nb: Any, part: Any, start: int, i: Any) -> Any:
        L = self.lanes
        if self.kind.dtype == "float32" or self.kind.bits == 32:
            return T.reinterpret(
                f"float32x{L}", W.vload([nb, start + i * 16 + part * L], f"uint32x{L}")
            )
        words = W.vload([nb, start + i * 8 + part * (L // 2)], f"uint32x{L // 2}")
        if self.isa.f16c:
            return T.Cast(f"float32x{L}", T.reinterpret(f"float16x{L}", words))
        return self.isa.widen(T.reinterpret(f"uint16x{L}", words), L)
