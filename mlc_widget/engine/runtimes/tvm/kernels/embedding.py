# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""Rows of the embedding table, from the layout that the output layer's matmul reads."""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T


def make_embedding_q4(H: int, V: int) -> Any:
    """Gather and dequantise.

    Shapes: ids (n,) int32 below V; w (V/16, H/8, 16) uint32 and s (V/16, H/32, 16) float32 as in
    `make_matmul_q4`; y (n, H) float32. H and V are padded sizes. Exact: (code - 7) · s.
    """

    @T.prim_func(s_tir=True)
    def embedding(ids: T.handle, w: T.handle, s: T.handle, y: T.handle):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        n = T.int64()
        IDS = T.match_buffer(ids, (n,), "int32")
        W = T.match_buffer(w, (V // 16, H // 8, 16), "uint32")
        S = T.match_buffer(s, (V // 16, H // 32, 16), "float32")
        Y = T.match_buffer(y, (n, H), "float32")
        for i in T.serial(n):
            with T.sblock("row"):
                T.reads()
                T.writes()
                block: T.let = IDS[i] // 16
                lane: T.let = IDS[i] % 16
                for j in T.serial(H // 8):
                    for k in T.unroll(8):
                        code: T.let = T.bitwise_and(
                            T.shift_right(W[block, j, lane], T.uint32(4) * T.Cast("uint32", k)),
                            T.uint32(15),
                        )
                        Y[i, j * 8 + k] = (T.Cast("float32", code) - T.float32(7)) * S[
                            block, j // 4, lane
                        ]

    return embedding.with_attr("global_symbol", f"embedding_q4_{H}_{V}")


def make_embedding_f32(H: int, V: int) -> Any:
    """Gather.

    Shapes: ids (n,) int32 below V; w (V/16, H, 16) float32 as in `make_matmul_f32`, and again as s;
    y (n, H) float32. H and V are padded sizes.
    """

    @T.prim_func(s_tir=True)
    def embedding(ids: T.handle, w: T.handle, s: T.handle, y: T.handle):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        n = T.int64()
        IDS = T.match_buffer(ids, (n,), "int32")
        W = T.match_buffer(w, (V // 16, H, 16), "float32")
        S = T.match_buffer(s, (V // 16, H, 16), "float32")  # noqa: F841
        Y = T.match_buffer(y, (n, H), "float32")
        for i in T.serial(n):
            with T.sblock("row"):
                T.reads()
                T.writes()
                for j in T.serial(H):
                    Y[i, j] = W[IDS[i] // 16, j, IDS[i] % 16]

    return embedding.with_attr("global_symbol", f"embedding_f32_{H}_{V}")
