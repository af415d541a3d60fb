# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""Linear layers on tensor cores for few rows: a block makes 16 outputs of 8 rows, a warp a slice.

The weights of a step are read once, straight into the registers that the tensor cores use. If the
previous kernel is still computing the rows, the first weights are read meanwhile (`overlapped`).
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.cuda.fragments import STEP
from mlc_widget.engine.runtimes.tvm.cuda.intrinsics import (
    WARP,
    await_inputs,
    load8,
    mma,
    opaque,
    start_next,
    stream16,
)
from mlc_widget.engine.runtimes.tvm.cuda.tensor_matmul_shape import (
    SLICES,
    MatmulShape,
    make_rows_of,
)

THOUSANDS = 2048


def make_few(shape: MatmulShape) -> Any:
    """``few(X, W, S, B, RES, Y, M, bx, row, tx)``: 16 outputs of rows row … row + 7."""
    STEPS, PER, LOADS, TILES = shape.steps, shape.per_slice, shape.loads, shape.tiles
    AHEAD = steps_ahead(shape)
    fetch, inputs, use = _make_fetch(shape), _make_inputs(shape), _make_use(shape)
    sum_up = _make_sum_up(shape)

    def known(value: Any) -> Any:
        """A bound of a loop.

        If the compiler knew the bound, it would delay loads until their words are needed. With
        thousands of blocks that is better, as more of them then share a multiprocessor.
        """
        return value if shape.outputs >= THOUSANDS * 16 else opaque(value)

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
            if not shape.gated:  # the next may be large, and blocks that wait would lie unevenly
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
            sum_up(B, RES, Y, sums, total, M, bx, row, tx)

    return few


def steps_ahead(shape: MatmulShape) -> int:
    """Steps whose weights and rows are read before the first of them is used."""
    most = 4 if shape.coded else 2
    return min(most, shape.per_slice * shape.tiles) // shape.tiles


def _make_inputs(shape: MatmulShape) -> Any:
    AHEAD, rows_of = steps_ahead(shape), make_rows_of(shape)

    @T.inline
    def inputs(X, b, row, M, start, last, lane):
        """The rows of the steps from `start` on."""
        if row + lane // 4 < M:
            for u in T.unroll(AHEAD):
                if start + u < last:
                    for h in T.unroll(2):
                        k: T.let = (start + u) * STEP + h * 32 + lane % 4 * 8
                        rows_of(X, b, (u * 2 + h) * 4, row + lane // 4, k)

    return inputs


def _make_fetch(shape: MatmulShape) -> Any:
    AHEAD, TILES, LOADS, CODED = steps_ahead(shape), shape.tiles, shape.loads, shape.coded

    def tile_of(first: Any, t: Any) -> Any:
        """The block's t-th tile."""
        return first + t * (shape.N // 32) if shape.gated else first

    @T.inline
    def fetch(W, S, w, s, bx, start, last, lane):
        """The weights of the steps from `start` on."""
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

    return fetch


def _make_use(shape: MatmulShape) -> Any:
    AHEAD, TILES, LOADS, CODED = steps_ahead(shape), shape.tiles, shape.loads, shape.coded
    weight = shape.weight

    @T.inline
    def use(w, s, f, b, acc, start, last):
        """Multiply the weights and rows of these steps."""
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

    return use


def _make_sum_up(shape: MatmulShape) -> Any:
    TILES, OUT = shape.tiles, shape.outputs
    bias, residual, gated, gate = shape.bias, shape.residual, shape.gated, shape.gate

    @T.inline
    def sum_up(B, RES, Y, sums, total, M, bx, row, tx):
        """Add up the slices, ascending; then bias, residual and gate."""
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
                    Y[m, n] = gate(total[0], total[TILES - 1])
                else:
                    Y[m, n] = total[0]

    return sum_up
