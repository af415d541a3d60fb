# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""Linear layers on tensor cores for many rows: a warp makes 64 outputs of 32 rows.

So each value that it reads is used many times. Either 2 × 2 warps share a block, each all slices;
or, where there are few outputs, 2 by rows and `GROUPS` by slices: group z makes slice GROUPS r + z
in round r, and then adds up 8 of the 32 rows for all groups, in the slices' order.
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.cuda.fragments import STEP
from mlc_widget.engine.runtimes.tvm.cuda.intrinsics import (
    WARP,
    await_inputs,
    load8,
    load16,
    mma,
    start_next,
)
from mlc_widget.engine.runtimes.tvm.cuda.tensor_matmul_shape import (
    SLICES,
    MatmulShape,
    make_rows_of,
    make_write,
)

GROUPS = 4
WIDE = 8192
"""With this many rows of W or more, there are enough blocks without dividing the inputs."""
_TILES, _COLUMNS = 4, 4  # of a warp: 16 outputs, 8 rows
_VALUES = _TILES * _COLUMNS * 4
"""Sums that a thread has."""


def groups(shape: MatmulShape) -> int:
    """Groups of warps of a block, each of which makes other slices."""
    return GROUPS if shape.N < WIDE else 1


def across(shape: MatmulShape) -> int:
    """Warps of a block side by side, each of which makes other outputs."""
    return 1 if shape.N < WIDE else 2


def threads(shape: MatmulShape) -> int:
    """Threads of a block."""
    return 2 * across(shape) * groups(shape) * WARP


def make_many(shape: MatmulShape) -> Any:
    """``many(X, W, S, B, RES, Y, M, bx, by, tx)``: 64 rows, of 64 outputs times `across`."""
    STEPS, PER, TILES = shape.steps, shape.per_slice, shape.tiles
    VALUES, Z, ACROSS = _VALUES, groups(shape), across(shape)
    OWN = VALUES // Z
    multiply, add, write = _make_multiply(shape), _make_add(shape), make_write(shape)

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
                add(acc, total, z, tx)
            for t in T.unroll(_TILES // TILES):
                for c in T.unroll(OWN // _TILES // 4):
                    for v in T.unroll(4):
                        m: T.let = row + (c + z) * 8 + 2 * j + v % 2
                        n: T.let = (first * (_TILES // TILES) + t) * 16 + g + v // 2 * 8
                        at: T.let = (t * (OWN // _TILES // 4) + c) * 4 + v
                        write(Y, B, RES, M, total, at, OWN // 2, m, n)

    return many


def _make_multiply(shape: MatmulShape) -> Any:
    LOADS, CODED, N = shape.loads, shape.coded, shape.N
    weight, rows_of = shape.weight, make_rows_of(shape)

    def tile_of_warp(first: Any, t: Any) -> Any:
        """The t-th tile of a warp; with `gated`, two of gates and two of ups."""
        if shape.gated:
            return T.min(first * 2 + t % 2, N // 32 - 1) + t // 2 * (N // 32)
        return T.min(first * _TILES + t, N // 16 - 1)

    @T.inline
    def multiply(X, W, S, M, first, row, step, g, j, lane, acc):
        """A step of a warp."""
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

    return multiply


def _make_add(shape: MatmulShape) -> Any:
    VALUES, Z, GROUPED = _VALUES, groups(shape), groups(shape) > 1

    @T.inline
    def add(acc, total, z, tx):
        """Add a round's slices, ascending, to the sums that the thread will write."""
        if GROUPED:
            shared = T.sblock_alloc_buffer((Z, VALUES, 2 * WARP), "float32", scope="shared.dyn")
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

    return add
