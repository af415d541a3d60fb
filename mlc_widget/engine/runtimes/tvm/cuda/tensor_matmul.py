# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""Linear layers on tensor cores: y = x · Wᵀ (+ bias) (+ residual), or silu(gate) · up of both.

x is (M, K) float16. W has a layout of `fragments` and is converted to float16 (for codes, (code -
zero) · scale is rounded). Products are added in float32, and y is float32 (silu(gate) · up is
float16). The rows of W are those of A in `intrinsics.mma`; eight rows of x are the columns of B.

There are two kernels, for few and for many rows; both compute the same bits for a row, whatever the
other rows are. The inputs are divided into `SLICES` runs of whole steps:

    slice        from 0, step by step, 16 inputs at a time ascending, one mma after the other
    output       from 0, slices ascending; then + bias, + residual

`few`, for up to `FEW` rows: a block computes 16 outputs (or 16 gates and their ups) of 8 rows, each
of its warps a slice. The weights of a step are read once, directly into registers; the first ones
are read before the rows are available, if the previous kernel is still running (`overlapped`).

`many`: a warp computes 64 outputs of 32 rows, so that data is reused often. A block has either
2 × 2 warps, each of which computes all slices; or, if there are few outputs, 2 warps by rows and
`GROUPS` by slices: group z computes slice GROUPS r + z in round r, and then adds up 8 of the 32
rows of all groups, in the order of the slices.
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.cuda.fragments import STEP, steps_of
from mlc_widget.engine.runtimes.tvm.cuda.intrinsics import (
    WARP,
    await_inputs,
    decode4,
    decode8,
    fetch16,
    load8,
    load16,
    mma,
    named,
    opaque,
    saturated,
    silu,
    start_next,
    stream16,
)

SLICES = 16
FEW = 32
GROUPS = 4
WIDE = 8192
"""With at least so many outputs, `many` has enough blocks without dividing the inputs."""
THOUSANDS = 2048
_TILES, _COLUMNS = 4, 4  # of a warp of `many`: 16 outputs, 8 rows


def make_tensor_matmul(
    K: int,
    N: int,
    bits: int,
    *,
    residual: bool,
    bias: bool,
    gated: bool = False,
    overlapped: bool = False,
) -> Any:
    """A PrimFunc (x, w, s, b, r, y) for weights of 4, 8 or 16 bits.

    Args:
        K: The number of inputs, a multiple of 32.
        N: The number of outputs, a multiple of 32; with `gated`, gates, then ups, each padded.
        bits: The size of a weight; 16 is float16.
        residual: Whether r, (M, N) float32, is added; if not, x is passed for r and not read.
        bias: Whether b, (N,) float32, is added; if not, x is passed for b and not read.
        gated: Whether y is silu(gate) · up, (M, N / 2) float16; if not, it is (M, N) float32.
        overlapped: Whether `few` reads its first weights while the previous kernel is running.
    """
    STEPS = steps_of(K)
    PER = -(-STEPS // SLICES)
    LOADS = bits // 4
    CODED = bits < 16
    TILES = 2 if gated else 1
    AHEAD = min(4 if CODED else 2, PER * TILES) // TILES
    RAGGED = K % STEP != 0
    OUT = N // 2 if gated else N
    GROUPED = N < WIDE
    Z = GROUPS if GROUPED else 1
    ACROSS = 1 if GROUPED else 2
    BLOCK = 2 * ACROSS * Z * WARP
    VALUES = _TILES * _COLUMNS * 4
    OWN = VALUES // Z
    w_shape = (N // 16, STEPS, LOADS, WARP, 8 if bits == 16 else 4)
    w_dtype = "uint32" if CODED else "float16"

    def tile_of(first: Any, t: Any) -> Any:
        """The t-th tile of `few`'s block."""
        return first + t * (N // 32) if gated else first

    def tile_of_warp(first: Any, t: Any) -> Any:
        """The t-th tile of a warp of `many`; with `gated`, two of gates and two of ups."""
        if gated:
            return T.min(first * 2 + t % 2, N // 32 - 1) + t // 2 * (N // 32)
        return T.min(first * _TILES + t, N // 16 - 1)

    def known(value: Any) -> Any:
        """The bound of a loop of `few`, hidden from the compiler unless there are many blocks.

        If the compiler knew the bound, it would delay loads until their words are needed. With
        thousands of blocks that is better, as more of them then share a multiprocessor.
        """
        return value if OUT >= THOUSANDS * 16 else opaque(value)

    def weight(f: Any, w: Any, at: Any, s: Any, scale: Any, h: Any, q: Any) -> Any:
        """Put A's words for product q of half h into f, from the step's words at ``w[at]``."""
        if bits == 4:
            return decode4(f, w[at + 2 * h + q], s[scale + h])
        return decode8(f, w[at + 4 * h + 2 * q], w[at + 4 * h + 2 * q + 1], s[scale + h])

    @T.inline
    def rows_of(X, b, at, row, k):
        """Load eight inputs of a row from k on as four words; 0 after the last row."""
        if RAGGED:
            for v in T.unroll(4):
                b[at + v] = T.uint32(0)
        if k < K:
            T.evaluate(fetch16(b, at, T.address_of(X[row, k])))

    @T.inline
    def inputs(X, b, row, M, start, last, lane):
        """Load the rows of `few` for the steps from `start` on."""
        if row + lane // 4 < M:
            for u in T.unroll(AHEAD):
                if start + u < last:
                    for h in T.unroll(2):
                        k: T.let = (start + u) * STEP + h * 32 + lane % 4 * 8
                        rows_of(X, b, (u * 2 + h) * 4, row + lane // 4, k)

    @T.inline
    def fetch(W, S, w, s, bx, start, last, lane):
        """Load the weights for these steps."""
        for u in T.unroll(AHEAD):
            if start + u < last:
                for t in T.unroll(TILES):
                    for part in T.unroll(LOADS):
                        T.evaluate(
                            stream16(
                                w,
                                ((u * TILES + t) * LOADS + part) * 4,
                                T.address_of(W[tile_of(bx, t), start + u, part, lane, 0]),
                            )
                        )
                    if CODED:
                        T.evaluate(
                            load8(
                                s,
                                (u * TILES + t) * 2,
                                T.address_of(S[tile_of(bx, t), start + u, lane // 4, 0]),
                            )
                        )

    @T.inline
    def use(w, s, f, b, acc, start, last):
        """Multiply them."""
        for u in T.unroll(AHEAD):
            if start + u < last:
                for h in T.unroll(2):
                    for t in T.unroll(TILES):
                        for q in T.unroll(2):
                            at: T.let = (u * TILES + t) * LOADS * 4
                            if CODED:
                                T.evaluate(weight(f, w, at, s, (u * TILES + t) * 2, h, q))
                                T.evaluate(mma(acc, t * 4, f, 0, b, u * 8 + h * 4 + 2 * q))
                            else:
                                T.evaluate(
                                    mma(acc, t * 4, w, at + 8 * h + 4 * q, b, u * 8 + h * 4 + 2 * q)
                                )

    @T.inline
    def few(X, W, S, B, RES, Y, M, bx, row, tx):
        with T.sblock("few"):
            T.reads()
            T.writes()
            acc = T.sblock_alloc_buffer((TILES * 4,), "float32", scope="local")
            w = T.sblock_alloc_buffer((AHEAD * TILES * LOADS * 4,), "uint32", scope="local")
            s = T.sblock_alloc_buffer((AHEAD * TILES * 2,), "uint32", scope="local")
            f = T.sblock_alloc_buffer((4,), "uint32", scope="local")
            b = T.sblock_alloc_buffer((AHEAD * 8,), "uint32", scope="local")
            sums = T.sblock_alloc_buffer((SLICES, TILES * 16, 9), "float32", scope="shared")
            total = T.sblock_alloc_buffer((TILES,), "float32", scope="local")
            lane: T.let = tx % WARP
            warp: T.let = tx // WARP
            g: T.let = lane // 4
            j: T.let = lane % 4
            for i in T.unroll(TILES * 4):
                acc[i] = T.float32(0)
            for i in T.unroll(AHEAD * 8):
                b[i] = T.uint32(0)
            start: T.let = T.Cast("int32", warp) * PER
            last: T.let = known(T.min(start + PER, STEPS))
            for i in T.serial(known(1)):
                fetch(W, S, w, s, bx, start + i * AHEAD, last, lane)
            T.evaluate(await_inputs())
            if not gated:  # after gated layers, waiting blocks of a large kernel spread unevenly
                T.evaluate(start_next())
            inputs(X, b, row, M, start, last, lane)
            use(w, s, f, b, acc, start, last)
            if PER > AHEAD:
                for i in T.serial(opaque(-(-PER // AHEAD) - 1)):
                    next_: T.let = start + (i + 1) * AHEAD
                    fetch(W, S, w, s, bx, next_, last, lane)
                    inputs(X, b, row, M, next_, last, lane)
                    use(w, s, f, b, acc, next_, last)
            for t in T.unroll(TILES):
                for v in T.unroll(4):
                    sums[warp, t * 16 + g + v // 2 * 8, 2 * j + v % 2] = acc[t * 4 + v]
            T.evaluate(T.tvm_storage_sync("shared"))
            if tx < 128:  # noqa: SIM102 - TIR has no short-circuit
                if row + tx // 16 < M:
                    m: T.let = row + tx // 16
                    n: T.let = bx * 16 + tx % 16
                    for t in T.unroll(TILES):
                        total[t] = T.float32(0)
                        for i in T.unroll(SLICES):
                            total[t] = total[t] + sums[i, t * 16 + tx % 16, tx // 16]
                        if bias:
                            total[t] = total[t] + B[n + t * OUT]
                    if residual:
                        total[0] = total[0] + RES[m, n]
                    if gated:
                        Y[m, n] = saturated(silu(total[0]) * total[TILES - 1])
                    else:
                        Y[m, n] = total[0]

    @T.inline
    def multiply(X, W, S, M, first, row, step, g, j, lane, acc):
        """Compute a step of a warp of `many`."""
        w = T.sblock_alloc_buffer((_TILES * 4 * max(1, LOADS % 4),), "uint32", scope="local")
        s = T.sblock_alloc_buffer((_TILES * 2,), "uint32", scope="local")
        f = T.sblock_alloc_buffer((4,), "uint32", scope="local")
        b = T.sblock_alloc_buffer((_COLUMNS * 4,), "uint32", scope="local")
        if CODED:
            for t in T.unroll(_TILES):
                for part in T.unroll(LOADS):
                    T.evaluate(
                        load16(
                            w,
                            (t * LOADS + part) * 4,
                            T.address_of(W[tile_of_warp(first, t), step, part, lane, 0]),
                        )
                    )
                T.evaluate(load8(s, t * 2, T.address_of(S[tile_of_warp(first, t), step, g, 0])))
        for h in T.unroll(2):
            for c in T.unroll(_COLUMNS):
                near: T.let = T.min(row + c * 8 + g, M - 1)
                rows_of(X, b, c * 4, near, step * STEP + h * 32 + j * 8)
            for t in T.unroll(_TILES):
                for q in T.unroll(2):
                    if CODED:
                        T.evaluate(weight(f, w, t * LOADS * 4, s, t * 2, h, q))
                    else:
                        T.evaluate(
                            load16(
                                f,
                                0,
                                T.address_of(W[tile_of_warp(first, t), step, 2 * h + q, lane, 0]),
                            )
                        )
                    for c in T.unroll(_COLUMNS):
                        T.evaluate(mma(acc, (t * _COLUMNS + c) * 4, f, 0, b, c * 4 + 2 * q))

    @T.inline
    def write(Y, B, RES, M, total, t, v, up, m, n):
        """Write value v of tile t; with `gated`, the up of a gate is `up` values after it."""
        if m < M and n < OUT:
            if bias:
                total[v] = total[v] + B[n]
                if gated:
                    total[v + up] = total[v + up] + B[OUT + n]
            if residual:
                total[v] = total[v] + RES[m, n]
            if gated:
                Y[m, n] = saturated(silu(total[v]) * total[v + up])
            else:
                Y[m, n] = total[v]

    @T.inline
    def many(X, W, S, B, RES, Y, M, bx, by, tx):
        with T.sblock("many"):
            T.reads()
            T.writes()
            acc = T.sblock_alloc_buffer((VALUES,), "float32", scope="local")
            total = T.sblock_alloc_buffer((OWN,), "float32", scope="local")
            lane: T.let = tx % WARP
            g: T.let = lane // 4
            j: T.let = lane % 4
            pair: T.let = tx // WARP % 2
            z: T.let = tx // WARP // 2 % Z
            first: T.let = bx * ACROSS + tx // WARP // 2 // Z
            row: T.let = by * 64 + pair * 32
            for i in T.unroll(OWN):
                total[i] = T.float32(0)
            T.evaluate(await_inputs())
            T.evaluate(start_next())
            for r in T.serial(SLICES // Z):
                for i in T.unroll(VALUES):
                    acc[i] = T.float32(0)
                for i in T.serial(PER):
                    step: T.let = (r * Z + z) * PER + i
                    if step < STEPS:
                        multiply(X, W, S, M, first, row, step, g, j, lane, acc)
                if GROUPED:
                    shared = T.sblock_alloc_buffer(
                        (Z, VALUES, 2 * WARP), "float32", scope="shared.dyn"
                    )
                    T.evaluate(T.tvm_storage_sync("shared.dyn"))
                    for i in T.unroll(VALUES):
                        shared[z, i, tx % (2 * WARP)] = acc[i]
                    T.evaluate(T.tvm_storage_sync("shared.dyn"))
                    for t in T.unroll(_TILES):
                        for v in T.unroll(4):
                            for i in T.unroll(Z):
                                total[t * 4 + v] = (
                                    total[t * 4 + v]
                                    + shared[i, (t * _COLUMNS + z) * 4 + v, tx % (2 * WARP)]
                                )
                else:
                    for i in T.unroll(VALUES):
                        total[i] = total[i] + acc[i]
            for t in T.unroll(_TILES // TILES):
                for c in T.unroll(OWN // _TILES // 4):
                    for v in T.unroll(4):
                        m: T.let = row + (c + z) * 8 + 2 * j + v % 2
                        n: T.let = (first * (_TILES // TILES) + t) * 16 + g + v // 2 * 8
                        at: T.let = (t * (OWN // _TILES // 4) + c) * 4 + v
                        write(Y, B, RES, M, total, t, at, OWN // 2, m, n)

    @T.prim_func(s_tir=True)
    def matmul(x: T.handle, w: T.handle, s: T.handle, b: T.handle, r: T.handle, y: T.handle):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        M = T.int64()
        b0 = T.int64()
        b1 = T.int64()
        r1 = T.int64()
        X = T.match_buffer(x, (M, K), "float16")
        W = T.match_buffer(w, w_shape, w_dtype)
        S = T.match_buffer(s, (N // 16, STEPS, 8, 4) if CODED else w_shape, "float16")
        B = T.match_buffer(b, (N,) if bias else (b0, b1), "float32" if bias else "float16")
        RES = T.match_buffer(
            r, (M, N) if residual else (M, r1), "float32" if residual else "float16"
        )
        Y = T.match_buffer(y, (M, OUT), "float16" if gated else "float32")
        if M <= FEW:
            for by in T.thread_binding((M + 7) // 8, thread="blockIdx.y"):
                for bx in T.thread_binding(OUT // 16, thread="blockIdx.x"):
                    for tx in T.thread_binding(SLICES * WARP, thread="threadIdx.x"):
                        few(X, W, S, B, RES, Y, M, bx, by * 8, tx)
        else:
            for by in T.thread_binding((M + 63) // 64, thread="blockIdx.y"):
                for bx in T.thread_binding(-(-OUT // (64 // TILES * ACROSS)), thread="blockIdx.x"):
                    for tx in T.thread_binding(BLOCK, thread="threadIdx.x"):
                        many(X, W, S, B, RES, Y, M, bx, by, tx)

    name = f"tensor_matmul_{bits}_{K}_{N}" + ("_gated" if gated else "")
    name += ("_bias" if bias else "") + ("_residual" if residual else "")
    return named(matmul, name, overlapped=overlapped)
