# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""Norms of queries and keys in float32, in place.

As in `rows`, the result of a row depends only on that row, bit for bit.
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.cuda.intrinsics import WARP
from mlc_widget.engine.runtimes.tvm.cuda.rows import THREADS, WARPS, sum_up, sum_up_lanes
from mlc_widget.engine.runtimes.tvm.kernels.isa import pad


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
                        sum_up_lanes(part)
                        inv: T.let = T.float32(1) / T.sqrt(part[0] / T.float32(D) + T.float32(eps))
                        for j in T.unroll(-(-D // WARP)):
                            if j * WARP + tx < D:
                                X[m, h * D + j * WARP + tx] = (
                                    X[m, h * D + j * WARP + tx]
                                    * inv
                                    * T.if_then_else(h < HQ, WQ[j * WARP + tx], WK[j * WARP + tx])
                                )

    return head_norm.with_attr("global_symbol", f"head_norm_{HQ}_{HKV}_{D}")


def make_joint_norm(HQ: int, HKV: int, D: int, eps: float) -> Any:
    """Like the CPU's `make_head_norm` of all heads together, with a block for queries or keys.

    Order of the sum of squares: thread t sums features t, t + 256, … ascending, then `sum_up`.
    """

    @T.inline
    def normalize(X, W, m, start, tx, WIDTH):
        with T.sblock("heads"):
            T.reads()
            T.writes()
            part = T.sblock_alloc_buffer((1,), "float32", scope="local")
            sums = T.sblock_alloc_buffer((1, WARPS), "float32", scope="shared")
            part[0] = T.float32(0)
            for j in T.serial(-(-WIDTH // THREADS)):
                if j * THREADS + tx < WIDTH:
                    v: T.let = X[m, start + j * THREADS + tx]
                    part[0] = part[0] + v * v
            sum_up(part, sums, 0, tx)
            inv: T.let = T.float32(1) / T.sqrt(part[0] / T.float32(WIDTH) + T.float32(eps))
            for j in T.serial(-(-WIDTH // THREADS)):
                if j * THREADS + tx < WIDTH:
                    X[m, start + j * THREADS + tx] = (
                        X[m, start + j * THREADS + tx] * inv * W[j * THREADS + tx]
                    )

    @T.prim_func(s_tir=True)
    def joint_norm(x: T.handle, wq: T.handle, wk: T.handle):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        M = T.int64()
        X = T.match_buffer(x, (M, pad((HQ + 2 * HKV) * D)), "float32")
        WQ = T.match_buffer(wq, (pad(HQ * D),), "float32")
        WK = T.match_buffer(wk, (pad(HKV * D),), "float32")
        for m in T.thread_binding(M, thread="blockIdx.x"):
            for part in T.thread_binding(2, thread="blockIdx.y"):
                for tx in T.thread_binding(THREADS, thread="threadIdx.x"):
                    if part == 0:
                        normalize(X, WQ, m, 0, tx, HQ * D)
                    else:
                        normalize(X, WK, m, HQ * D, tx, HKV * D)

    return joint_norm.with_attr("global_symbol", f"joint_norm_{HQ}_{HKV}_{D}")


def make_head_layer_norm(HQ: int, HKV: int, D: int, eps: float) -> Any:
    """Like the CPU's `make_head_layer_norm`, with a warp per head.

    Order of both sums: lane l sums l, l + 32, … ascending, then a tree over the lanes.
    """

    @T.prim_func(s_tir=True)
    def head_layer_norm(x: T.handle, wq: T.handle, wk: T.handle):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        M = T.int64()
        X = T.match_buffer(x, (M, pad((HQ + 2 * HKV) * D)), "float32")
        WQ = T.match_buffer(wq, (pad(HQ * D),), "float32")
        WK = T.match_buffer(wk, (pad(HKV * D),), "float32")
        for m in T.thread_binding(M, thread="blockIdx.x"):
            for h in T.thread_binding(HQ + HKV, thread="blockIdx.y"):
                for tx in T.thread_binding(WARP, thread="threadIdx.x"):
                    with T.sblock("head"):
                        T.reads()
                        T.writes()
                        part = T.sblock_alloc_buffer((1,), "float32", scope="local")
                        mean = T.sblock_alloc_buffer((1,), "float32", scope="local")
                        part[0] = T.float32(0)
                        for j in T.unroll(-(-D // WARP)):
                            if j * WARP + tx < D:
                                part[0] = part[0] + X[m, h * D + j * WARP + tx]
                        sum_up_lanes(part)
                        mean[0] = part[0] / T.float32(D)
                        part[0] = T.float32(0)
                        for j in T.unroll(-(-D // WARP)):
                            if j * WARP + tx < D:
                                d: T.let = X[m, h * D + j * WARP + tx] - mean[0]
                                part[0] = part[0] + d * d
                        sum_up_lanes(part)
                        inv: T.let = T.float32(1) / T.sqrt(part[0] / T.float32(D) + T.float32(eps))
                        for j in T.unroll(-(-D // WARP)):
                            if j * WARP + tx < D:
                                at: T.let = h * D + j * WARP + tx
                                if h < HQ:
                                    X[m, at] = (X[m, at] - mean[0]) * inv * WQ[at]
                                else:
                                    X[m, at] = (X[m, at] - mean[0]) * inv * WK[at - HQ * D]

    return head_layer_norm.with_attr("global_symbol", f"head_layer_norm_{HQ}_{HKV}_{D}")
