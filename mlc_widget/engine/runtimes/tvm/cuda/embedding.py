# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""Gathers rows of the embedding, which has the layout of the output layer that is tied to it."""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.cuda.fragments import STEP, steps_of
from mlc_widget.engine.runtimes.tvm.cuda.intrinsics import WARP, f32
from mlc_widget.engine.runtimes.tvm.quantization import zero_code

THREADS = 256


def make_embedding_codes(H: int, V: int, bits: int, dtype: str) -> Any:
    """Like the CPU's `make_embedding_codes`, with a block per row."""
    P = 32 // bits

    @T.prim_func(s_tir=True)
    def embedding(ids: T.handle, w: T.handle, s: T.handle, y: T.handle):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        n = T.int64()
        IDS = T.match_buffer(ids, (n,), "int32")
        W = T.match_buffer(w, (V // 16, H // P, 16), "uint32")
        S = T.match_buffer(s, (V // 16, H // 32, 16), dtype)
        Y = T.match_buffer(y, (n, H), "float32")
        for i in T.thread_binding(n, thread="blockIdx.x"):
            for tx in T.thread_binding(THREADS, thread="threadIdx.x"):
                with T.sblock("row"):
                    T.reads()
                    T.writes()
                    block: T.let = IDS[i] // 16
                    lane: T.let = IDS[i] % 16
                    for j in T.serial(-(-H // THREADS)):
                        k: T.let = j * THREADS + tx
                        if k < H:
                            code: T.let = T.bitwise_and(
                                T.shift_right(
                                    W[block, k // P, lane], T.Cast("uint32", k % P * bits)
                                ),
                                T.uint32((1 << bits) - 1),
                            )
                            Y[i, k] = (f32(code) - T.float32(zero_code(bits))) * f32(
                                S[block, k // 32, lane]
                            )

    return embedding.with_attr("global_symbol", f"embedding_q{bits}_{dtype}_{H}_{V}")


def make_embedding_floats(H: int, V: int, dtype: str) -> Any:
    """Like the CPU's `make_embedding_floats`, without `s`, with a block per row."""

    @T.prim_func(s_tir=True)
    def embedding(ids: T.handle, w: T.handle, y: T.handle):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        n = T.int64()
        IDS = T.match_buffer(ids, (n,), "int32")
        W = T.match_buffer(w, (V // 16, H, 16), dtype)
        Y = T.match_buffer(y, (n, H), "float32")
        for i in T.thread_binding(n, thread="blockIdx.x"):
            for tx in T.thread_binding(THREADS, thread="threadIdx.x"):
                with T.sblock("row"):
                    T.reads()
                    T.writes()
                    for j in T.serial(-(-H // THREADS)):
                        if j * THREADS + tx < H:
                            Y[i, j * THREADS + tx] = f32(
                                W[IDS[i] // 16, j * THREADS + tx, IDS[i] % 16]
                            )

    return embedding.with_attr("global_symbol", f"embedding_{dtype}_{H}_{V}")


def make_tensor_embedding(H: int, V: int, bits: int) -> Any:
    """Like `make_embedding_codes`, for `fragments` layouts of 4, 8 or (without `s`) 16 bits."""
    STEPS = steps_of(H)
    LOADS = bits // 4

    def place(lane: Any, k: Any) -> Any:
        """The index of the 16-byte part of a step that holds input k, times 32, plus the lane."""
        part = {4: 0, 8: k // 32, 16: k // 32 * 2 + k // 4 % 2}[bits]
        return part * WARP + lane * 4 + k // 8 % 4

    @T.inline
    def decode(W, S, tile, row, k, Y, i):
        g: T.let = row % 8
        at: T.let = place(g, k % STEP)
        word: T.let = W[
            tile,
            k // STEP,
            at // WARP,
            at % WARP,
            k // 32 % 2 * 2 + k // 4 % 2 if bits == 4 else k // 4 % 2 * 2 + row // 8,
        ]
        shift: T.let = row // 8 * 4 + k % 4 // 2 * 8 + k % 2 * 16 if bits == 4 else k % 4 * 8
        code: T.let = T.bitwise_and(
            T.shift_right(word, T.Cast("uint32", shift)), T.uint32((1 << bits) - 1)
        )
        Y[i, k] = (f32(code) - T.float32(zero_code(bits))) * f32(
            S[tile, k // STEP, g, k // 32 % 2 * 2 + row // 8]
        )

    if bits == 16:

        @T.prim_func(s_tir=True)
        def embedding(ids: T.handle, w: T.handle, y: T.handle):
            T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
            n = T.int64()
            IDS = T.match_buffer(ids, (n,), "int32")
            W = T.match_buffer(w, (V // 16, STEPS, LOADS, WARP, 8), "float16")
            Y = T.match_buffer(y, (n, H), "float32")
            for i in T.thread_binding(n, thread="blockIdx.x"):
                for tx in T.thread_binding(THREADS, thread="threadIdx.x"):
                    with T.sblock("row"):
                        T.reads()
                        T.writes()
                        row: T.let = IDS[i] % 16
                        for e in T.serial(-(-H // THREADS)):
                            k: T.let = e * THREADS + tx
                            if k < H:
                                at: T.let = place(row % 8, k % STEP)
                                Y[i, k] = f32(
                                    W[
                                        IDS[i] // 16,
                                        k // STEP,
                                        at // WARP,
                                        at % WARP,
                                        k % 4 // 2 * 4 + row // 8 * 2 + k % 2,
                                    ]
                                )

        return embedding.with_attr("global_symbol", f"tensor_embedding_{bits}_{H}_{V}")

    @T.prim_func(s_tir=True)
    def embedding(ids: T.handle, w: T.handle, s: T.handle, y: T.handle):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        n = T.int64()
        IDS = T.match_buffer(ids, (n,), "int32")
        W = T.match_buffer(w, (V // 16, STEPS, LOADS, WARP, 4), "uint32")
        S = T.match_buffer(s, (V // 16, STEPS, 8, 4), "float16")
        Y = T.match_buffer(y, (n, H), "float32")
        for i in T.thread_binding(n, thread="blockIdx.x"):
            for tx in T.thread_binding(THREADS, thread="threadIdx.x"):
                with T.sblock("row"):
                    T.reads()
                    T.writes()
                    for e in T.serial(-(-H // THREADS)):
                        if e * THREADS + tx < H:
                            decode(W, S, IDS[i] // 16, IDS[i] % 16, e * THREADS + tx, Y, i)

    return embedding.with_attr("global_symbol", f"tensor_embedding_{bits}_{H}_{V}")
