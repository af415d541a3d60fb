# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""Linear layers on tensor cores: y = x · Wᵀ (+ bias) (+ residual), or f(gate) · up of both.

x is (M, K) float16. W has a layout of `fragments` and is converted to float16 (for codes, (code -
zero) · scale is rounded). Products are added in float32, and y is float32 (f(gate) · up is
float16). The rows of W are those of A in `intrinsics.mma`; eight rows of x are the columns of B.

There are kernels for few and for many rows; all compute the same bits for a row, whatever the other
rows are. The inputs are divided into `SLICES` runs of whole steps:

    slice        from 0, step by step, 16 inputs at a time ascending, one mma after the other
    output       from 0, slices ascending; then + bias, + residual

`tensor_matmul_few` is for up to `FEW` rows, `tensor_matmul_many` for more. On Hopper,
`tensor_matmul_streams` is for up to 8 rows, `tensor_matmul_wide` for up to `FEW`, or
`tensor_matmul_few` where slices are not equal, and `tensor_matmul_warpgroups` for more, with blocks
of 64 or 128 rows, whichever keep the GPU busy.
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.builder import Activation
from mlc_widget.engine.runtimes.tvm.cuda.intrinsics import WARP, named
from mlc_widget.engine.runtimes.tvm.cuda.rows import THREADS as NORM_THREADS
from mlc_widget.engine.runtimes.tvm.cuda.rows import make_rms_norm_row
from mlc_widget.engine.runtimes.tvm.cuda.tensor_matmul_few import make_few
from mlc_widget.engine.runtimes.tvm.cuda.tensor_matmul_many import across, make_many, threads
from mlc_widget.engine.runtimes.tvm.cuda.tensor_matmul_shape import SLICES, MatmulShape
from mlc_widget.engine.runtimes.tvm.cuda.tensor_matmul_streams import ROWS, Streams, make_streams
from mlc_widget.engine.runtimes.tvm.cuda.tensor_matmul_warpgroups import (
    MANY_ROWS,
    PADDED,
    SOME_ROWS,
    arranged,
    make_arrange,
    make_warpgroups,
    most_rows,
    places,
)
from mlc_widget.engine.runtimes.tvm.cuda.tensor_matmul_wide import (
    MOST,
    SOME,
    Wide,
    make_wide,
    serves,
)

FEW = 32
"""The maximum number of rows for `tensor_matmul_few`."""
_ARRANGING = 256  # threads of a block


def make_tensor_matmul(
    K: int,
    N: int,
    bits: int,
    *,
    residual: bool,
    bias: bool,
    activation: Activation | None = None,
    overlapped: bool = False,
) -> Any:
    """A PrimFunc (x, w, s, b, r, y) for weights of 4, 8 or 16 bits.

    Args:
        K: The number of inputs, a multiple of 32.
        N: The number of outputs, a multiple of 32; with `activation`, gates, then ups, each padded.
        bits: The size of a weight; 16 is float16.
        residual: Whether r, (M, N) float32, is added; if not, x is passed for r and not read.
        bias: Whether b, (N,) float32, is added; if not, x is passed for b and not read.
        activation: The f of y = f(gate) · up, (M, N / 2) float16; without, y is (M, N) float32.
        overlapped: Whether `few` reads its first weights while the previous kernel is running.
    """
    shape = MatmulShape(K, N, bits, residual, bias, activation)
    few, many = make_few(shape), make_many(shape)
    OUT, THREADS = shape.outputs, threads(shape)
    BLOCKS = -(-OUT // (64 // shape.tiles * across(shape)))
    w_shape, w_dtype = shape.w
    s_shape, s_dtype = shape.s

    @T.prim_func(s_tir=True)
    def matmul(x: T.handle, w: T.handle, s: T.handle, b: T.handle, r: T.handle, y: T.handle):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        M = T.int64()
        b0 = T.int64()
        b1 = T.int64()
        r1 = T.int64()
        X = T.match_buffer(x, (M, K), "float16")
        W = T.match_buffer(w, w_shape, w_dtype)
        S = T.match_buffer(s, s_shape, s_dtype)
        B = T.match_buffer(b, (N,) if bias else (b0, b1), "float32" if bias else "float16")
        RES = T.match_buffer(
            r, (M, N) if residual else (M, r1), "float32" if residual else "float16"
        )
        Y = T.match_buffer(y, (M, OUT), "float16" if shape.gated else "float32")
        if M <= FEW:
            for by in T.thread_binding((M + 7) // 8, thread="blockIdx.y"):
                for bx in T.thread_binding(OUT // 16, thread="blockIdx.x"):
                    for tx in T.thread_binding(SLICES * WARP, thread="threadIdx.x"):
                        few(X, W, S, B, RES, Y, M, bx, by * 8, tx)
        else:
            for by in T.thread_binding((M + 63) // 64, thread="blockIdx.y"):
                for bx in T.thread_binding(BLOCKS, thread="blockIdx.x"):
                    for tx in T.thread_binding(THREADS, thread="threadIdx.x"):
                        many(X, W, S, B, RES, Y, M, bx, by, tx)

    return named(matmul, shape.name, overlapped=overlapped)


def serves_norm(K: int, N: int, bits: int, activation: Activation | None) -> bool:
    """Whether `make_warpgroup_matmul` can have a norm: a row must fit into shared memory."""
    return not Streams(MatmulShape(K, N, bits, False, False, activation), 1).far


def arranged_rows(rows: Any) -> Any:
    """Rows of x as `make_warpgroup_matmul` lays it out."""
    return (rows + PADDED - 1) // PADDED * PADDED


def make_warpgroup_matmul(
    K: int,
    N: int,
    bits: int,
    *,
    residual: bool,
    bias: bool,
    activation: Activation | None = None,
    multiprocessors: int = 132,
    beside: bool = False,
    norm: tuple[int, float] | None = None,
) -> Any:
    """A PrimFunc (x, w, s, b, r, y, a) for Hopper, like that of `make_tensor_matmul`.

    It uses a, (arranged_rows(M), K padded to whole steps) float16, for x as the tensor cores read
    it. With `norm`, (H, eps) of `rows.make_rms_norm`, it is (x, n, w, s, b, r, y, h, a), for the
    RMSNorm, with weight n, (K,) float32, of x in float32; it uses h, (M, K) float16, for that.
    """
    shape = MatmulShape(K, N, bits, residual, bias, activation, multiprocessors, beside)
    arrange, MOST_SOME, OUT = make_arrange(shape), most_rows(shape), shape.outputs
    w_shape, w_dtype = shape.w
    s_shape, s_dtype = shape.s

    def launch(blocks: Any) -> Any:
        multiply, ROWS = make_warpgroups(shape, blocks), blocks.rows
        COUNT, THREADS = blocks.count(shape), blocks.threads

        @T.inline
        def both(X, W, S, B, RES, Y, A, M):
            for bx in T.thread_binding(
                (places(shape, (M + ROWS - 1) // ROWS * ROWS) + _ARRANGING - 1) // _ARRANGING,
                thread="blockIdx.x",
            ):
                for tx in T.thread_binding(_ARRANGING, thread="threadIdx.x"):
                    arrange(X, A, M, (M + ROWS - 1) // ROWS * ROWS, bx * _ARRANGING + tx)
            for bx in T.thread_binding((M + ROWS - 1) // ROWS, thread="blockIdx.x"):
                for by in T.thread_binding(COUNT, thread="blockIdx.y"):
                    for tx in T.thread_binding(THREADS, thread="threadIdx.x"):
                        multiply(A, W, S, B, RES, Y, M, (M + ROWS - 1) // ROWS * ROWS, bx, by, tx)

        return both

    def launch_streams(streams: Any, norm: Any = None) -> Any:
        multiply, BLOCKS, THREADS = make_streams(streams, norm), streams.blocks, streams.threads
        EACH = streams.each  # threads may have only so many registers that these fit

        @T.inline
        def all_blocks(X, NW, W, S, B, RES, Y, M):
            for bx in T.thread_binding(BLOCKS, thread="blockIdx.x"):
                for tx in T.thread_binding(THREADS, thread="threadIdx.x"):
                    with T.attr(0, "tirx.launch_bounds_min_blocks_per_sm", EACH):
                        multiply(X, NW, W, S, B, RES, Y, M, bx, tx)

        return all_blocks

    one_row = launch_streams(Streams(shape, 1), norm)
    up_to_eight = launch_streams(Streams(shape, ROWS))
    many_rows = launch(MANY_ROWS)
    some_rows = launch(SOME_ROWS) if MOST_SOME else many_rows
    up_to_32 = _wide_launches(shape) if serves(shape) else _few_launch(shape)

    @T.inline
    def by_rows(X, W, S, B, RES, Y, A, M):
        if M <= MOST_SOME:
            some_rows(X, W, S, B, RES, Y, A, M)
        else:
            many_rows(X, W, S, B, RES, Y, A, M)

    with_warpgroups = by_rows if MOST_SOME else many_rows

    @T.inline
    def several_rows(X, W, S, B, RES, Y, A, M):
        if M <= ROWS:
            up_to_eight(X, X, W, S, B, RES, Y, M)
        elif M <= FEW:
            up_to_32(X, W, S, B, RES, Y, M)
        else:
            with_warpgroups(X, W, S, B, RES, Y, A, M)

    if norm is not None:
        row = make_rms_norm_row(*norm, "float16")

        @T.prim_func(s_tir=True)
        def normed(
            x: T.handle, n: T.handle, w: T.handle, s: T.handle, b: T.handle, r: T.handle,
            y: T.handle, h: T.handle, a: T.handle,
        ):  # fmt: skip
            T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
            M = T.int64()
            b0 = T.int64()
            b1 = T.int64()
            r1 = T.int64()
            a0 = T.int64()
            X = T.match_buffer(x, (M, K), "float32")
            NW = T.match_buffer(n, (K,), "float32")
            W = T.match_buffer(w, w_shape, w_dtype)
            S = T.match_buffer(s, s_shape, s_dtype)
            B = T.match_buffer(b, (N,) if bias else (b0, b1), "float32")
            RES = T.match_buffer(r, (M, N) if residual else (M, r1), "float32")
            Y = T.match_buffer(y, (M, OUT), "float16" if shape.gated else "float32")
            H = T.match_buffer(h, (M, K), "float16")
            A = T.match_buffer(a, arranged(shape, a0), "float16")
            if M <= 1:
                one_row(X, NW, W, S, B, RES, Y, M)
            else:
                for m in T.thread_binding(M, thread="blockIdx.x"):
                    for tx in T.thread_binding(NORM_THREADS, thread="threadIdx.x"):
                        row(X, NW, H, m, m, tx)
                several_rows(H, W, S, B, RES, Y, A, M)

        return named(normed, f"warpgroups_normed_{shape.name}", overlapped=True)

    @T.prim_func(s_tir=True)
    def matmul(
        x: T.handle, w: T.handle, s: T.handle, b: T.handle, r: T.handle, y: T.handle, a: T.handle
    ):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        M = T.int64()
        b0 = T.int64()
        b1 = T.int64()
        r1 = T.int64()
        a0 = T.int64()
        X = T.match_buffer(x, (M, K), "float16")
        W = T.match_buffer(w, w_shape, w_dtype)
        S = T.match_buffer(s, s_shape, s_dtype)
        B = T.match_buffer(b, (N,) if bias else (b0, b1), "float32" if bias else "float16")
        RES = T.match_buffer(
            r, (M, N) if residual else (M, r1), "float32" if residual else "float16"
        )
        Y = T.match_buffer(y, (M, OUT), "float16" if shape.gated else "float32")
        A = T.match_buffer(a, arranged(shape, a0), "float16")
        if M <= 1:
            one_row(X, X, W, S, B, RES, Y, M)
        else:
            several_rows(X, W, S, B, RES, Y, A, M)

    return named(matmul, f"warpgroups_{shape.name}", overlapped=True)


def _few_launch(shape: MatmulShape) -> Any:
    few, OUT = make_few(shape), shape.outputs

    @T.inline
    def by_eight(X, W, S, B, RES, Y, M):
        for by in T.thread_binding((M + 7) // 8, thread="blockIdx.y"):
            for bx in T.thread_binding(OUT // 16, thread="blockIdx.x"):
                for tx in T.thread_binding(SLICES * WARP, thread="threadIdx.x"):
                    few(X, W, S, B, RES, Y, M, bx, by * 8, tx)

    return by_eight


def _wide_launches(shape: MatmulShape) -> Any:
    def launch(wide: Wide) -> Any:
        multiply, BLOCKS, CLUSTER, THREADS = (
            make_wide(wide),
            wide.blocks,
            wide.cluster,
            wide.threads,
        )

        @T.inline
        def blocks(X, W, S, B, RES, Y, M):
            for bx in T.thread_binding(BLOCKS, thread="blockIdx.x"):
                for tx in T.thread_binding(THREADS, thread="threadIdx.x"):
                    multiply(X, W, S, B, RES, Y, M, bx, tx)

        @T.inline
        def clusters(X, W, S, B, RES, Y, M):
            for bx in T.thread_binding(BLOCKS, thread="blockIdx.x"):
                for _cx in T.thread_binding(CLUSTER, thread="clusterCtaIdx.x"):
                    for tx in T.thread_binding(THREADS, thread="threadIdx.x"):
                        multiply(X, W, S, B, RES, Y, M, bx, tx)

        return clusters if CLUSTER > 1 else blocks

    some, most = launch(Wide(shape, SOME)), launch(Wide(shape, MOST))

    @T.inline
    def by_rows(X, W, S, B, RES, Y, M):
        if M <= SOME:
            some(X, W, S, B, RES, Y, M)
        else:
            most(X, W, S, B, RES, Y, M)

    return by_rows
