# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""Linear layers on a GPU, y = x · Wᵀ (+ bias) (+ residual), for few rows and for many.

A block of 256 threads computes 16 outputs, which are a block of the layout, for 1, 2, 4 or 8 rows.
A thread reads 16 bytes of weights at a time (for V outputs, one input or one word of codes), so
COLUMNS = 16 / V threads cover the outputs, and the inputs are divided among SPLIT = 256 / COLUMNS.
The order of an output's sum is the same for any number of rows:

    thread s     inputs (or words) s, s + SPLIT, … ascending; the codes of a word ascending from 0,
                 then fma(scale, sum of the word, sum so far)
    warp         a tree over the threads of a column, nearest first
    block        warps ascending; then + bias, + residual
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.cuda.intrinsics import WARP, f32, shuffle_xor
from mlc_widget.engine.runtimes.tvm.quantization import zero_code

THREADS = 256
WARPS = THREADS // WARP


def _code(word: Any, k: int, bits: int) -> Any:
    """``code - zero`` as float32, exactly, for code k of a word; see the CPU's `matmul.code`."""
    per_half = 16 // bits
    half = T.shift_right(word, T.uint32(16)) if k >= per_half else word
    at = k % per_half * bits
    one = (150 - at) << 23  # the bits of 2.0 ** (23 - at)
    biased = T.bitwise_or(T.bitwise_and(half, T.uint32(((1 << bits) - 1) << at)), T.uint32(one))
    return T.reinterpret("float32", biased) - T.float32(2.0 ** (23 - at) + zero_code(bits))


def make_matmul_codes(K: int, N: int, bits: int, dtype: str, *, residual: bool, bias: bool) -> Any:
    """4- or 8-bit weights × float32 activations; shapes as the CPU's `make_matmul_codes`."""
    P, V = 32 // bits, 4
    COLUMNS = 16 // V
    SPLIT, WORDS = THREADS // COLUMNS, K // P

    @T.inline
    def add(w, x, part, u, v, R, first, k):
        weight: T.let = _code(w[u, v], first + k, bits)
        for r in T.unroll(R):
            part[r, v] = part[r, v] + weight * x[r, k]

    @T.inline
    def add4(X, M, w, x, part, row, word, u, R, first):
        """Add codes first … first + 3 of a word."""
        for r in T.unroll(R):
            for k in T.vectorized(4):
                x[r, k] = X[T.min(row + r, M - 1), word * P + first + k]
        for v in T.unroll(V):
            add(w, x, part, u, v, R, first, 0)
            add(w, x, part, u, v, R, first, 1)
            add(w, x, part, u, v, R, first, 2)
            add(w, x, part, u, v, R, first, 3)

    @T.inline
    def multiply(X, W, S, M, bx, row, tx, R, U, acc):
        """Compute the thread's part of the sums of R rows, with U words in flight."""
        w = T.sblock_alloc_buffer((U, V), "uint32", scope="local")
        s = T.sblock_alloc_buffer((U, V), dtype, scope="local")
        x = T.sblock_alloc_buffer((R, 4), "float32", scope="local")
        part = T.sblock_alloc_buffer((R, V), "float32", scope="local")
        column: T.let = tx % COLUMNS * V
        for i in T.serial(-(-WORDS // (SPLIT * U))):
            for u in T.unroll(U):
                word: T.let = (i * U + u) * SPLIT + tx // COLUMNS
                if word < WORDS:
                    for v in T.vectorized(V):
                        w[u, v] = W[bx, word, column + v]
                    for v in T.vectorized(V):
                        s[u, v] = S[bx, word * P // 32, column + v]
            for u in T.unroll(U):
                word: T.let = (i * U + u) * SPLIT + tx // COLUMNS
                if word < WORDS:
                    for r in T.unroll(R):
                        for v in T.unroll(V):
                            part[r, v] = T.float32(0)
                    add4(X, M, w, x, part, row, word, u, R, 0)
                    if P == 8:
                        add4(X, M, w, x, part, row, word, u, R, 4)
                    for r in T.unroll(R):
                        for v in T.unroll(V):
                            acc[r * V + v] = acc[r * V + v] + f32(s[u, v]) * part[r, v]

    return _kernel(
        multiply, K, N, V, (N // 16, WORDS, 16), "uint32", (N // 16, K // 32, 16), dtype,
        residual, bias, f"matmul_q{bits}_{dtype}_{K}_{N}",
    )  # fmt: skip


def make_matmul_floats(K: int, N: int, dtype: str, *, residual: bool, bias: bool) -> Any:
    """Float weights × float32 activations; shapes as the CPU's `make_matmul_floats`."""
    V = 8 if dtype == "float16" else 4
    COLUMNS = 16 // V
    SPLIT = THREADS // COLUMNS

    @T.inline
    def multiply(X, W, S, M, bx, row, tx, R, U, acc):
        """Compute the thread's part of the sums of R rows, with U inputs in flight."""
        w = T.sblock_alloc_buffer((U, V), dtype, scope="local")
        column: T.let = tx % COLUMNS * V
        for i in T.serial(-(-K // (SPLIT * U))):
            for u in T.unroll(U):
                k: T.let = (i * U + u) * SPLIT + tx // COLUMNS
                if k < K:
                    for v in T.vectorized(V):
                        w[u, v] = W[bx, k, column + v]
            for u in T.unroll(U):
                k: T.let = (i * U + u) * SPLIT + tx // COLUMNS
                if k < K:
                    for r in T.unroll(R):
                        x: T.let = X[T.min(row + r, M - 1), k]
                        for v in T.unroll(V):
                            acc[r * V + v] = acc[r * V + v] + f32(w[u, v]) * x

    shape = (N // 16, K, 16)
    return _kernel(
        multiply, K, N, V, shape, dtype, shape, dtype, residual, bias, f"matmul_{dtype}_{K}_{N}"
    )


def _kernel(
    multiply: Any,
    K: int,
    N: int,
    V: int,
    w_shape: tuple[int, ...],
    w_dtype: str,
    s_shape: tuple[int, ...],
    s_dtype: str,
    residual: bool,
    bias: bool,
    name: str,
) -> Any:
    """A PrimFunc that launches blocks for 16 outputs and 1, 2, 4 or 8 rows.

    All variants take (x, w, s, b, r, y); x is passed for those that do not apply, and not read.
    """
    COLUMNS = 16 // V
    LEVELS = 4 if COLUMNS == 2 else 3

    def held(R: int, level: int) -> int:
        """The number of sums per lane after `level` levels of the tree."""
        return max(1, R * V >> level)

    def first_of(lane: Any, R: int) -> Any:
        """The first of a thread's R · V sums that its lane ends up with."""
        first: Any = T.int32(0)
        for level in range(LEVELS):
            if held(R, level) > 1:
                upper = T.bitwise_and(lane, COLUMNS << level) != 0
                first = first + T.Select(upper, T.int32(held(R, level) // 2), T.int32(0))
        return first

    @T.inline
    def fold(acc, lane, count, mask):
        """One level of the tree, which halves the number of sums per lane, `count`.

        Of a pair of lanes, one continues with the first half and the other with the second.
        """
        if count > 1:
            for j in T.unroll(count // 2):
                upper: T.let = T.bitwise_and(lane, mask) != 0
                mine: T.let = T.Select(upper, acc[j + count // 2], acc[j])
                other: T.let = T.Select(upper, acc[j], acc[j + count // 2])
                acc[j] = mine + shuffle_xor(other, mask)
        else:
            acc[0] = acc[0] + shuffle_xor(acc[0], mask)

    @T.inline
    def outputs(X, W, S, B, RES, Y, M, bx, row, tx, R, U):
        with T.sblock("outputs"):
            T.reads()
            T.writes()
            acc = T.sblock_alloc_buffer((R * V,), "float32", scope="local")
            sums = T.sblock_alloc_buffer((WARPS, R, 16), "float32", scope="shared")
            total = T.sblock_alloc_buffer((1,), "float32", scope="local")
            for j in T.unroll(R * V):
                acc[j] = T.float32(0)
            multiply(X, W, S, M, bx, row, tx, R, U, acc)
            lane: T.let = T.Cast("int32", tx % WARP)
            fold(acc, lane, held(R, 0), COLUMNS)
            fold(acc, lane, held(R, 1), COLUMNS * 2)
            fold(acc, lane, held(R, 2), COLUMNS * 4)
            if COLUMNS == 2:
                fold(acc, lane, held(R, 3), 16)
            first: T.let = first_of(lane, R)
            for j in T.unroll(held(R, LEVELS)):
                sums[tx // WARP, (first + j) // V, lane % COLUMNS * V + (first + j) % V] = acc[j]
            T.evaluate(T.tvm_storage_sync("shared"))
            if tx < R * 16:  # noqa: SIM102 - one index of the row more is not read
                if row + tx // 16 < M:
                    total[0] = T.float32(0)
                    for j in T.unroll(WARPS):
                        total[0] = total[0] + sums[j, tx // 16, tx % 16]
                    if bias:
                        total[0] = total[0] + B[bx * 16 + tx % 16]
                    if residual:
                        total[0] = total[0] + RES[row + tx // 16, bx * 16 + tx % 16]
                    Y[row + tx // 16, bx * 16 + tx % 16] = total[0]

    @T.inline
    def launch(X, W, S, B, RES, Y, M, R, U):
        for by in T.thread_binding((M + (R - 1)) // R, thread="blockIdx.y"):
            for bx in T.thread_binding(N // 16, thread="blockIdx.x"):
                for tx in T.thread_binding(THREADS, thread="threadIdx.x"):
                    outputs(X, W, S, B, RES, Y, M, bx, by * R, tx, R, U)

    @T.prim_func(s_tir=True)
    def matmul(x: T.handle, w: T.handle, s: T.handle, b: T.handle, r: T.handle, y: T.handle):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        M = T.int64()
        b0 = T.int64()
        b1 = T.int64()
        r1 = T.int64()
        X = T.match_buffer(x, (M, K), "float32")
        W = T.match_buffer(w, w_shape, w_dtype)
        S = T.match_buffer(s, s_shape, s_dtype)
        B = T.match_buffer(b, (N,) if bias else (b0, b1), "float32")
        RES = T.match_buffer(r, (M, N) if residual else (M, r1), "float32")
        Y = T.match_buffer(y, (M, N), "float32")
        if M <= 1:
            launch(X, W, S, B, RES, Y, M, 1, 8)
        elif M <= 2:
            launch(X, W, S, B, RES, Y, M, 2, 4)
        elif M <= 4:
            launch(X, W, S, B, RES, Y, M, 4, 2)
        else:
            launch(X, W, S, B, RES, Y, M, 8, 1)

    name += ("_bias" if bias else "") + ("_residual" if residual else "")
    return matmul.with_attr("global_symbol", name)
