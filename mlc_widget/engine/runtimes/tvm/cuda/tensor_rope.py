# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""Rotary embedding for tensor cores, and pages of float16 keys and values to which it appends.

A page holds 16 tokens of each head in the order in which tensor cores need them (B of
`intrinsics.mma`; lane 4 g + j). So of the shape on the CPU, (heads, D, 16) or (heads, 16, D), only
the size applies:

    keys      (D / 16, 32 lanes, 2, 4): of 16 dimensions, 4 j … 4 j + 3 of tokens g and g + 8
    values    (D / 16, 32 lanes, 2, 2, 2): of 8 and 8 dimensions, the g-th of tokens 2 j, 2 j + 1,
              2 j + 8 and 2 j + 9

Queries are scaled by log2(e) times the layer's factor of scores, and rounded to float16.
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.cuda.intrinsics import (
    WARP,
    await_inputs,
    fetch4,
    fetch_int,
    rotate,
    start_next,
)
from mlc_widget.engine.runtimes.tvm.cuda.tensor_attention import blocks_of
from mlc_widget.engine.runtimes.tvm.kernels.isa import LOG2E
from mlc_widget.engine.runtimes.tvm.kernels.rope import Rotation
from mlc_widget.engine.runtimes.tvm.layouts import PAGE

THREADS = 256


def factor_of(D: int, scale: float | None) -> float:
    """The factor of queries."""
    return float((scale or D**-0.5) * LOG2E)


def make_rope_append(
    HQ: int, HKV: int, D: int, rotation: Rotation, scale: float | None = None
) -> tuple[Any, int]:
    """``append(QKV, COS, SIN, POS, SLOT, KP, VP, Q, ENDED, C, layer, i, bx, tx)`` for row i.

    Like `attention.make_rope_append`, with pages and queries for `tensor_attention`. It also sets
    the counters of that, `ended`, to 0.

    Returns:
        It and the number of blocks of a row.
    """
    R, HALF, REST = rotation.dims, rotation.dims // 2, D - rotation.dims
    PAIRS = (HQ + HKV) * HALF
    KEPT = PAIRS + (HQ + HKV) * REST  # those that are not rotated
    TOTAL = KEPT + HKV * D
    BLOCKS = blocks_of(HQ, HKV)
    factor = factor_of(D, scale)

    def key_at(token: Any, d: Any) -> Any:
        lane = token % 8 * 4 + d % 16 // 4
        return (d // 16 * WARP + lane) * 8 + token // 8 * 4 + d % 4

    def value_at(token: Any, d: Any) -> Any:
        lane = d % 8 * 4 + token % 8 // 2
        return (d // 16 * WARP + lane) * 8 + d % 16 // 8 * 4 + token // 8 * 2 + token % 2

    @T.inline
    def put(Q, KP, layer, i, page, token, h, d, value):
        """Store a dimension of a query or key."""
        if h < HQ:
            Q[i, h * D + d] = T.Cast("float16", value * T.float32(factor))
        else:
            to: T.let = key_at(token, d)
            KP[page, layer, h - HQ, to // PAGE, to % PAGE] = T.Cast("float16", value)

    @T.inline
    def angle_of(COS, SIN, POS, C, angle, i, at):
        """The cosine and the sine for a pair."""
        row: T.let = rotation.row(fetch_int(T.address_of(POS[i])), C)
        angle[0] = fetch4(T.address_of(COS[row, at % HALF]))
        angle[1] = fetch4(T.address_of(SIN[row, at % HALF]))

    @T.inline
    def pair(QKV, Q, KP, angle, layer, i, page, token, at):
        """Rotate a pair of a head's dimensions."""
        h: T.let = at // HALF
        d: T.let = at % HALF
        a: T.let = fetch4(T.address_of(QKV[i, h * D + d]))
        b: T.let = fetch4(T.address_of(QKV[i, h * D + HALF + d]))
        T.evaluate(rotate(angle, a, b))
        put(Q, KP, layer, i, page, token, h, d, angle[0])
        put(Q, KP, layer, i, page, token, h, HALF + d, angle[1])

    @T.inline
    def kept(QKV, Q, KP, layer, i, page, token, at):
        """Copy a dimension that is not rotated."""
        h: T.let = at // REST
        d: T.let = R + at % REST
        a: T.let = fetch4(T.address_of(QKV[i, h * D + d]))
        put(Q, KP, layer, i, page, token, h, d, a)

    @T.inline
    def value(QKV, VP, layer, i, page, token, at):
        to: T.let = value_at(token, at % D)
        VP[page, layer, at // D, to // D, to % D] = T.Cast(
            "float16", fetch4(T.address_of(QKV[i, (HQ + HKV) * D + at]))
        )

    @T.inline
    def append(QKV, COS, SIN, POS, SLOT, KP, VP, Q, ENDED, C, layer, i, bx, tx):
        with T.sblock("pair"):
            T.reads()
            T.writes()
            angle = T.sblock_alloc_buffer((2,), "float32", scope="local")
            at: T.let = bx * THREADS + tx
            # What the kernel before does not make comes while it runs.
            T.evaluate(start_next())
            slot: T.let = fetch_int(T.address_of(SLOT[i]))
            page: T.let = slot // PAGE
            token: T.let = slot % PAGE
            if HALF > 0 and at < PAIRS:
                angle_of(COS, SIN, POS, C, angle, i, at)
            T.evaluate(await_inputs())
            if at < BLOCKS:
                ENDED[i, at] = T.int32(0)
            if HALF > 0 and at < PAIRS:
                pair(QKV, Q, KP, angle, layer, i, page, token, at)
            if REST > 0 and at >= PAIRS and at < KEPT:
                kept(QKV, Q, KP, layer, i, page, token, at - PAIRS)
            if at >= KEPT and at < TOTAL:
                value(QKV, VP, layer, i, page, token, at - KEPT)

    return append, -(-TOTAL // THREADS)
