# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""Norms and activations on float32 rows.

As on the CPU, the result of a row depends only on that row, bit for bit: the threads of a block
always divide a row's reduction in the same way, whatever the number of rows.
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.cuda.intrinsics import (
    WARP,
    await_inputs,
    fetch4,
    named,
    shuffle_xor,
    silu,
    start_next,
)
from mlc_widget.engine.runtimes.tvm.kernels.isa import pad

THREADS = 256
WARPS = THREADS // WARP


def make_silu_mul(IP: int) -> Any:
    """Like the CPU's `make_silu_mul`, with a thread per feature."""

    @T.prim_func(s_tir=True)
    def silu_mul(x: T.handle, y: T.handle):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        M = T.int64()
        X = T.match_buffer(x, (M, 2 * IP), "float32")
        Y = T.match_buffer(y, (M, IP), "float32")
        for m in T.thread_binding(M, thread="blockIdx.y"):
            for bx in T.thread_binding(-(-IP // THREADS), thread="blockIdx.x"):
                for tx in T.thread_binding(THREADS, thread="threadIdx.x"):
                    with T.sblock("feature"):
                        T.reads()
                        T.writes()
                        k: T.let = bx * THREADS + tx
                        if k < IP:
                            Y[m, k] = silu(X[m, k]) * X[m, IP + k]

    return silu_mul.with_attr("global_symbol", f"silu_mul_{IP}")


def make_rms_norm(
    H: int, eps: float, *, rows: bool, dtype: str = "float32", overlapped: bool = False
) -> Any:
    """Like the CPU's `make_rms_norm`, with a result of some dtype and a block per row.

    Order of the sum of squares: thread t sums features t, t + 256, … ascending; the lanes of a warp
    are summed in a tree (distances 16 … 1), then warps ascending.
    """
    HP = pad(H)
    HELD = -(-HP // THREADS)

    @T.inline
    def row(X, W, Y, source, m, tx):
        with T.sblock("row"):
            T.reads()
            T.writes()
            part = T.sblock_alloc_buffer((1,), "float32", scope="local")
            sums = T.sblock_alloc_buffer((WARPS,), "float32", scope="shared")
            held = T.sblock_alloc_buffer((HELD,), "float32", scope="local")
            T.evaluate(await_inputs())
            T.evaluate(start_next())
            for j in T.unroll(HELD):
                if j * THREADS + tx < HP:
                    held[j] = fetch4(T.address_of(X[source, j * THREADS + tx]))
            part[0] = T.float32(0)
            for j in T.unroll(HELD):
                if j * THREADS + tx < HP:
                    part[0] = part[0] + held[j] * held[j]
            part[0] = part[0] + shuffle_xor(part[0], 16)
            part[0] = part[0] + shuffle_xor(part[0], 8)
            part[0] = part[0] + shuffle_xor(part[0], 4)
            part[0] = part[0] + shuffle_xor(part[0], 2)
            part[0] = part[0] + shuffle_xor(part[0], 1)
            if tx % WARP == 0:
                sums[tx // WARP] = part[0]
            T.evaluate(T.tvm_storage_sync("shared"))
            part[0] = T.float32(0)
            for j in T.unroll(WARPS):
                part[0] = part[0] + sums[j]
            inv: T.let = T.float32(1) / T.sqrt(part[0] / T.float32(H) + T.float32(eps))
            for j in T.unroll(HELD):
                if j * THREADS + tx < HP:
                    Y[m, j * THREADS + tx] = T.Cast(dtype, held[j] * inv * W[j * THREADS + tx])

    if rows:

        @T.prim_func(s_tir=True)
        def rms_norm(x: T.handle, ids: T.handle, w: T.handle, y: T.handle):
            T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
            N = T.int64()
            M = T.int64()
            X = T.match_buffer(x, (N, HP), "float32")
            IDS = T.match_buffer(ids, (M,), "int32")
            W = T.match_buffer(w, (HP,), "float32")
            Y = T.match_buffer(y, (M, HP), dtype)
            for m in T.thread_binding(M, thread="blockIdx.x"):
                for tx in T.thread_binding(THREADS, thread="threadIdx.x"):
                    row(X, W, Y, IDS[m], m, tx)

        return named(rms_norm, f"rms_norm_rows_{H}_{dtype}", overlapped=overlapped)

    @T.prim_func(s_tir=True)
    def rms_norm(x: T.handle, w: T.handle, y: T.handle):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        M = T.int64()
        X = T.match_buffer(x, (M, HP), "float32")
        W = T.match_buffer(w, (HP,), "float32")
        Y = T.match_buffer(y, (M, HP), dtype)
        for m in T.thread_binding(M, thread="blockIdx.x"):
            for tx in T.thread_binding(THREADS, thread="threadIdx.x"):
                row(X, W, Y, m, m, tx)

    return named(rms_norm, f"rms_norm_{H}_{dtype}", overlapped=overlapped)


def make_head_norm(HQ: int, HKV: int, D: int, eps: float) -> Any:
    """Like the CPU's `make_head_norm`, with a warp per head.

    Order of the sum of squares: lane l sums l, l + 32, … ascending, then a tree over the lanes.
    """

    @T.prim_func(s_tir=True)
    def head_norm(x: T.handle, wq: T.handle, wk: T.handle):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        M = T.int64()
        X = T.match_buffer(x, (M, pad((HQ + 2 * HKV) * D)), "float32")
        WQ = T.match_buffer(wq, (pad(D),), "float32")
        WK = T.match_buffer(wk, (pad(D),), "float32")
        for m in T.thread_binding(M, thread="blockIdx.x"):
            for h in T.thread_binding(HQ + HKV, thread="blockIdx.y"):
                for tx in T.thread_binding(WARP, thread="threadIdx.x"):
                    with T.sblock("head"):
                        T.reads()
                        T.writes()
                        part = T.sblock_alloc_buffer((1,), "float32", scope="local")
                        part[0] = T.float32(0)
                        for j in T.unroll(-(-D // WARP)):
                            if j * WARP + tx < D:
                                v: T.let = X[m, h * D + j * WARP + tx]
                                part[0] = part[0] + v * v
                        part[0] = part[0] + shuffle_xor(part[0], 16)
                        part[0] = part[0] + shuffle_xor(part[0], 8)
                        part[0] = part[0] + shuffle_xor(part[0], 4)
                        part[0] = part[0] + shuffle_xor(part[0], 2)
                        part[0] = part[0] + shuffle_xor(part[0], 1)
                        inv: T.let = T.float32(1) / T.sqrt(part[0] / T.float32(D) + T.float32(eps))
                        for j in T.unroll(-(-D // WARP)):
                            if j * WARP + tx < D:
                                X[m, h * D + j * WARP + tx] = (
                                    X[m, h * D + j * WARP + tx]
                                    * inv
                                    * T.if_then_else(h < HQ, WQ[j * WARP + tx], WK[j * WARP + tx])
                                )

    return head_norm.with_attr("global_symbol", f"head_norm_{HQ}_{HKV}_{D}")
