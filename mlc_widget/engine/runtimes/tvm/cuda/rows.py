# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""Norms of float32 rows.

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
    inverse_root,
    multiplied_added,
    named,
    saturated,
    shuffle_xor,
    start_next,
)
from mlc_widget.engine.runtimes.tvm.kernels.isa import pad

THREADS = 256
WARPS = THREADS // WARP


@T.inline
def sum_up_lanes(part):
    """Make ``part[0]`` the sum of a warp's values, in a tree (distances 16 … 1)."""
    part[0] = part[0] + shuffle_xor(part[0], 16)
    part[0] = part[0] + shuffle_xor(part[0], 8)
    part[0] = part[0] + shuffle_xor(part[0], 4)
    part[0] = part[0] + shuffle_xor(part[0], 2)
    part[0] = part[0] + shuffle_xor(part[0], 1)


@T.inline
def sum_up(part, sums, which, tx):
    """Make ``part[0]`` the sum of all threads' values.

    The lanes of a warp are summed by `sum_up_lanes`, then warps ascending; ``sums`` has a row in
    shared memory for each such sum of a kernel.
    """
    sum_up_lanes(part)
    if tx % WARP == 0:
        sums[which, tx // WARP] = part[0]
    T.evaluate(T.tvm_storage_sync("shared"))
    part[0] = T.float32(0)
    for j in T.unroll(WARPS):
        part[0] = part[0] + sums[which, j]


def _make_ahead(HP: int) -> Any:
    """``ahead(W, weight, tx)``: a thread's weights, which come while the previous kernel runs."""

    @T.inline
    def ahead(W, weight, tx):
        for j in T.unroll(-(-HP // THREADS)):
            if j * THREADS + tx < HP:
                weight[j] = fetch4(T.address_of(W[j * THREADS + tx]))

    return ahead


def make_rms_norm_row(H: int, eps: float, dtype: str) -> Any:
    """``row(X, W, Y, source, m, tx)`` of `make_rms_norm`."""
    HP = pad(H)
    HELD = -(-HP // THREADS)
    ahead = _make_ahead(HP)

    @T.inline
    def row(X, W, Y, source, m, tx):
        with T.sblock("row"):
            T.reads()
            T.writes()
            part = T.sblock_alloc_buffer((1,), "float32", scope="local")
            sums = T.sblock_alloc_buffer((1, WARPS), "float32", scope="shared")
            held = T.sblock_alloc_buffer((HELD,), "float32", scope="local")
            weight = T.sblock_alloc_buffer((HELD,), "float32", scope="local")
            T.evaluate(start_next())
            ahead(W, weight, tx)
            T.evaluate(await_inputs())
            for j in T.unroll(HELD):
                if j * THREADS + tx < HP:
                    held[j] = fetch4(T.address_of(X[source, j * THREADS + tx]))
            part[0] = T.float32(0)
            for j in T.unroll(HELD):
                if j * THREADS + tx < HP:
                    part[0] = multiplied_added(held[j], held[j], part[0])
            sum_up(part, sums, 0, tx)
            inv: T.let = inverse_root(part[0], H, eps)
            for j in T.unroll(HELD):
                if j * THREADS + tx < HP:
                    Y[m, j * THREADS + tx] = saturated(held[j] * inv * weight[j], dtype)

    return row


def make_rms_norm(
    H: int, eps: float, *, rows: bool, dtype: str = "float32", overlapped: bool = False
) -> Any:
    """Like the CPU's `make_rms_norm`, with a result of some dtype and a block per row.

    Order of the sum of squares: thread t sums features t, t + 256, … ascending, then `sum_up`.
    """
    HP = pad(H)
    row = make_rms_norm_row(H, eps, dtype)

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


def make_rms_norm_add(H: int, eps: float, *, overlapped: bool = False) -> Any:
    """Like the CPU's `make_rms_norm_add`, with a block per row; sums as in `make_rms_norm`."""
    HP = pad(H)
    HELD = -(-HP // THREADS)
    ahead = _make_ahead(HP)

    @T.prim_func(s_tir=True)
    def rms_norm_add(x: T.handle, w: T.handle, r: T.handle, y: T.handle):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        M = T.int64()
        X = T.match_buffer(x, (M, HP), "float32")
        W = T.match_buffer(w, (HP,), "float32")
        R = T.match_buffer(r, (M, HP), "float32")
        Y = T.match_buffer(y, (M, HP), "float32")
        for m in T.thread_binding(M, thread="blockIdx.x"):
            for tx in T.thread_binding(THREADS, thread="threadIdx.x"):
                with T.sblock("row"):
                    T.reads()
                    T.writes()
                    part = T.sblock_alloc_buffer((1,), "float32", scope="local")
                    sums = T.sblock_alloc_buffer((1, WARPS), "float32", scope="shared")
                    held = T.sblock_alloc_buffer((HELD,), "float32", scope="local")
                    weight = T.sblock_alloc_buffer((HELD,), "float32", scope="local")
                    T.evaluate(start_next())
                    ahead(W, weight, tx)
                    T.evaluate(await_inputs())
                    part[0] = T.float32(0)
                    for j in T.unroll(HELD):
                        if j * THREADS + tx < HP:
                            held[j] = fetch4(T.address_of(X[m, j * THREADS + tx]))
                            part[0] = part[0] + held[j] * held[j]
                    sum_up(part, sums, 0, tx)
                    inv: T.let = T.float32(1) / T.sqrt(part[0] / T.float32(H) + T.float32(eps))
                    for j in T.unroll(HELD):
                        if j * THREADS + tx < HP:
                            k: T.let = j * THREADS + tx
                            Y[m, k] = held[j] * inv * weight[j] + fetch4(T.address_of(R[m, k]))

    return named(rms_norm_add, f"rms_norm_add_{H}", overlapped=overlapped)


def make_layer_norm(
    H: int, eps: float, *, rows: bool, dtype: str = "float32", overlapped: bool = False
) -> Any:
    """Like the CPU's `make_layer_norm` of one tensor, with a block per row.

    Order of both sums, that of the features and that of the squares of their differences from the
    mean: thread t sums features t, t + 256, … ascending, then `sum_up`.
    """
    HP = pad(H)
    HELD = -(-HP // THREADS)

    @T.inline
    def row(X, W, B, Y, source, m, tx):
        with T.sblock("row"):
            T.reads()
            T.writes()
            part = T.sblock_alloc_buffer((1,), "float32", scope="local")
            mean = T.sblock_alloc_buffer((1,), "float32", scope="local")
            sums = T.sblock_alloc_buffer((2, WARPS), "float32", scope="shared")
            held = T.sblock_alloc_buffer((HELD,), "float32", scope="local")
            T.evaluate(start_next())
            T.evaluate(await_inputs())
            part[0] = T.float32(0)
            for j in T.unroll(HELD):
                held[j] = T.float32(0)
                if j * THREADS + tx < H:
                    held[j] = fetch4(T.address_of(X[source, j * THREADS + tx]))
                part[0] = part[0] + held[j]
            sum_up(part, sums, 0, tx)
            mean[0] = part[0] / T.float32(H)
            part[0] = T.float32(0)
            for j in T.unroll(HELD):
                if j * THREADS + tx < H:
                    held[j] = held[j] - mean[0]
                    part[0] = part[0] + held[j] * held[j]
            sum_up(part, sums, 1, tx)
            inv: T.let = T.float32(1) / T.sqrt(part[0] / T.float32(H) + T.float32(eps))
            for j in T.unroll(HELD):
                if j * THREADS + tx < HP:
                    k: T.let = j * THREADS + tx
                    Y[m, k] = saturated(held[j] * inv * W[k] + B[k], dtype)

    if rows:

        @T.prim_func(s_tir=True)
        def layer_norm(x: T.handle, ids: T.handle, w: T.handle, b: T.handle, y: T.handle):
            T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
            N = T.int64()
            M = T.int64()
            X = T.match_buffer(x, (N, HP), "float32")
            IDS = T.match_buffer(ids, (M,), "int32")
            W = T.match_buffer(w, (HP,), "float32")
            B = T.match_buffer(b, (HP,), "float32")
            Y = T.match_buffer(y, (M, HP), dtype)
            for m in T.thread_binding(M, thread="blockIdx.x"):
                for tx in T.thread_binding(THREADS, thread="threadIdx.x"):
                    row(X, W, B, Y, IDS[m], m, tx)

        return named(layer_norm, f"layer_norm_rows_{H}_{dtype}", overlapped=overlapped)

    @T.prim_func(s_tir=True)
    def layer_norm(x: T.handle, w: T.handle, b: T.handle, y: T.handle):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        M = T.int64()
        X = T.match_buffer(x, (M, HP), "float32")
        W = T.match_buffer(w, (HP,), "float32")
        B = T.match_buffer(b, (HP,), "float32")
        Y = T.match_buffer(y, (M, HP), dtype)
        for m in T.thread_binding(M, thread="blockIdx.x"):
            for tx in T.thread_binding(THREADS, thread="threadIdx.x"):
                row(X, W, B, Y, m, m, tx)

    return named(layer_norm, f"layer_norm_{H}_{dtype}", overlapped=overlapped)
