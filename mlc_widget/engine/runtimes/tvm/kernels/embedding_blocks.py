# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""Rows of an embedding whose weights lie in ggml's blocks (`tvm.blocks`)."""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.blocks import BlockFormat
from mlc_widget.engine.runtimes.tvm.kernels.block_reader import BlockReader
from mlc_widget.engine.runtimes.tvm.kernels.isa import Isa, in_registers, splat


def make_embedding_blocks(H: int, kind: BlockFormat, isa: Isa) -> Any:
    """Gather rows of weights in blocks.

    Shapes: ids (n,) int32 below V; w as `blocks.matrix_words` for V outputs of H inputs; y (n, H)
    float32. H is a padded size. Each weight is rounded once, as in the file's definition.
    """
    read = BlockReader(kind, H, isa)
    per_word = 32 // kind.bits if kind.coded else 1

    def word_and_place(k: Any) -> tuple[Any, Any]:
        """The word of a lane that has input k, and the place in the word."""
        if kind.bits == 8:  # pairs of words: 0 2 4 6 and 1 3 5 7 of eight
            return k // 8 * 2 + k % 2, k % 8 // 2
        return k // per_word, k % per_word

    def code_of(W: Any, nb: Any, lane: Any, k: Any) -> Any:
        word, place = word_and_place(k)
        shifted = T.shift_right(W[nb, word * 16 + lane], T.Cast("uint32", place * kind.bits))
        low = T.bitwise_and(shifted, T.uint32((1 << kind.bits) - 1))
        if not kind.high:
            return low
        per = 8 // kind.high
        meets = k % 32 // 8 * 2 + k % 2  # which word of the group's activations
        bits = W[nb, read.at.high + (k // 32 * kind.high + meets // per) * 16 + lane]
        bits = T.shift_right(bits, T.Cast("uint32", k % 8 // 2 * 8 + meets % per * kind.high))
        above = T.bitwise_and(bits, T.uint32((1 << kind.high) - 1))
        return T.bitwise_or(low, T.shift_left(above, T.uint32(4)))

    @T.inline
    def coded_row(W, Y, i, nb, lane):
        scale = in_registers((16,))
        least = in_registers((16,))
        least.vstore([0], splat(0.0))
        for g in T.serial(H // kind.group):
            scale.vstore([0], read.scale(W, nb, 0, g))
            if kind.minima:
                least.vstore([0], read.minimum(W, nb, 0, g))
            for k in T.serial(kind.group):
                number: T.let = T.Cast("float32", code_of(W, nb, lane, g * kind.group + k))
                Y[i, g * kind.group + k] = (number - T.float32(kind.zero)) * scale[lane] - least[
                    lane
                ]

    @T.inline
    def float_row(W, Y, i, nb, lane):
        lanes = in_registers((16,))
        for k in T.serial(H):
            lanes.vstore([0], read.float(W, nb, k))
            Y[i, k] = lanes[lane]

    @T.prim_func(s_tir=True)
    def embedding(ids: T.handle, w: T.handle, y: T.handle):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        n = T.int64()
        NB = T.int64()
        IDS = T.match_buffer(ids, (n,), "int32")
        W = T.match_buffer(w, (NB, read.at.words), "uint32")
        Y = T.match_buffer(y, (n, H), "float32")
        for i in T.serial(n):
            with T.sblock("row"):
                T.reads()
                T.writes()
                nb: T.let = IDS[i] // 16
                lane: T.let = IDS[i] % 16
                if kind.coded:
                    coded_row(W, Y, i, nb, lane)
                else:
                    float_row(W, Y, i, nb, lane)

    return embedding.with_attr("global_symbol", f"embedding_{kind.name}_{H}")
