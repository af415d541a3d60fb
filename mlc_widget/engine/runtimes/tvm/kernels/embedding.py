# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""Gathers rows of the embedding table, which has the layout for the output layer's matmul."""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.kernels.isa import Isa, in_registers
from mlc_widget.engine.runtimes.tvm.quantization import zero_code


def make_embedding_codes(H: int, V: int, bits: int, dtype: str, isa: Isa) -> Any:
    """Gather and dequantize.

    Shapes: ids (n,) int32 below V; w (V/16, H/P, 16) uint32 and s (V/16, H/32, 16) of `dtype` as in
    `make_matmul_codes`; y (n, H) float32. H and V are padded sizes. Exact: (code - zero) · s.
    """
    P = 32 // bits

    @T.prim_func(s_tir=True)
    def embedding(ids: T.handle, w: T.handle, s: T.handle, y: T.handle):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        n = T.int64()
        IDS = T.match_buffer(ids, (n,), "int32")
        W = T.match_buffer(w, (V // 16, H // P, 16), "uint32")
        S = T.match_buffer(s, (V // 16, H // 32, 16), dtype)
        Y = T.match_buffer(y, (n, H), "float32")
        for i in T.serial(n):
            with T.sblock("row"):
                T.reads()
                T.writes()
                scale = in_registers((16,))
                block: T.let = IDS[i] // 16
                lane: T.let = IDS[i] % 16
                for g in T.serial(H // 32):
                    scale.vstore([0], isa.load(S, [block, g, 0], dtype))
                    for k in T.serial(32):
                        code: T.let = T.bitwise_and(
                            T.shift_right(
                                W[block, g * (32 // P) + k // P, lane],
                                T.Cast("uint32", k % P * bits),
                            ),
                            T.uint32((1 << bits) - 1),
                        )
                        Y[i, g * 32 + k] = (
                            T.Cast("float32", code) - T.float32(zero_code(bits))
                        ) * scale[lane]

    return embedding.with_attr("global_symbol", f"embedding_q{bits}_{dtype}_{H}_{V}")


def make_embedding_floats(H: int, V: int, dtype: str, isa: Isa) -> Any:
    """Gather.

    Shapes: ids (n,) int32 below V; w (V/16, H, 16) of `dtype` as in `make_matmul_floats`; s is not
    read, and callers pass w for it; y (n, H) float32. H and V are padded sizes.
    """

    @T.prim_func(s_tir=True)
    def embedding(ids: T.handle, w: T.handle, s: T.handle, y: T.handle):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        n = T.int64()
        IDS = T.match_buffer(ids, (n,), "int32")
        W = T.match_buffer(w, (V // 16, H, 16), dtype)
        S = T.match_buffer(s, (V // 16, H, 16), dtype)  # noqa: F841
        Y = T.match_buffer(y, (n, H), "float32")
        for i in T.serial(n):
            with T.sblock("row"):
                T.reads()
                T.writes()
                lanes = in_registers((16,))
                block: T.let = IDS[i] // 16
                for j in T.serial(H):
                    lanes.vstore([0], isa.load(W, [block, j, 0], dtype))
                    Y[i, j] = lanes[IDS[i] % 16]

    return embedding.with_attr("global_symbol", f"embedding_{dtype}_{H}_{V}")
