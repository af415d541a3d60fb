# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""The second pass of attention of several rows: exponentials, their sums, and out += e · v."""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.kernels.attention_shape import (
    BLOCK,
    HALF,
    KEYS,
    STRIP,
    TileShape,
    next_page,
)
from mlc_widget.engine.runtimes.tvm.kernels.isa import F32, in_registers, prefetch, splat
from mlc_widget.engine.runtimes.tvm.layouts import PAGE


def make_convert_values(shape: TileShape) -> Any:
    """``convert_values(VP, PT, value, layer, seq, h, p, pages)``, for use in a kernel.

    It writes the values of the block at page p, as float32, to value (BLOCK PAGE, D).
    """
    D, isa, dtype = shape.head_dim, shape.isa, shape.dtype

    @T.inline
    def convert_values(VP, PT, value, layer, seq, h, p, pages):
        for k in T.serial(BLOCK):
            page: T.let = PT[seq, T.min(p + k, pages - 1)]
            for t in T.serial(PAGE):
                for j in T.unroll(D // 16):
                    value.vstore(
                        [k * PAGE + t, j * 16], isa.load(VP, [page, layer, h, t, j * 16], dtype)
                    )

    return convert_values


def make_value_strip(shape: TileShape) -> Any:
    """``value_strip(…)``, for use in a kernel: the second pass of a strip over a block.

    It turns scores into exponentials, and adds them to total (pairs, 16) and, times the values, to
    out (pairs, D). Keys that only some rows of the strip see are added pair by pair.
    """
    exponentials = _make_exponentials(shape)
    values, some_values = _make_values(shape), _make_some_values(shape)
    G, DV, VALUE_TURNS = shape.group, shape.value_vectors, shape.value_turns
    windowed = shape.window is not None

    @T.inline
    def value_strip(
        value, score, out, top, total, VP, PT, layer, seq, h, p, pages, c, start, end, last
    ):
        """The second pass of a strip over a block."""
        first: T.let = T.min(c // G, last)
        upper: T.let = T.min((c + STRIP - 1) // G, last)
        seen: T.let = T.min(end + upper - p * PAGE, T.int64(KEYS))
        if seen > 0:
            exponentials(score, top, total, p, c, (seen + PAGE - 1) // PAGE)
            # All rows see keys low … high - 1 of the block.
            high: T.let = T.max(T.min(end + first - p * PAGE, T.int64(KEYS)), T.int64(0))
            low: T.let = T.min(T.max(start + upper - p * PAGE, T.int64(0)), high)
            if windowed:
                some_values(
                    score, value, out, p, c, T.max(start + first - p * PAGE, T.int64(0)), low,
                    start, end, last,
                )  # fmt: skip
            for d in T.serial(VALUE_TURNS):
                values(
                    score, value, out, VP, PT, layer, seq, h, p, pages, c, d * DV, low, high
                )  # fmt: skip
            some_values(score, value, out, p, c, high, seen, start, end, last)

    return value_strip


def _make_exponentials(shape: TileShape) -> Any:
    isa = shape.isa

    @T.inline
    def exponentials(score, top, total, p, c, count):
        """Replace the scores of pages p … p + count - 1 by e, and add them to the lanes' sums."""
        with T.sblock("exponentials"):
            T.reads()
            T.writes()
            for k in T.serial(count):
                for i in T.unroll(STRIP):
                    value: T.let = score.vload([p + k, c + i, 0], F32)
                    below: T.let = T.max(value - splat(top[c + i, 0]), splat(-126.0))
                    e: T.let = T.Select(value > splat(-1e29), isa.exp2(below), splat(0.0))
                    score.vstore([p + k, c + i, 0], e)
                    total.vstore([c + i, 0], total.vload([c + i, 0], F32) + e)

    return exponentials


def _make_values(shape: TileShape) -> Any:
    D, isa, DV, VALUE_TURNS = shape.head_dim, shape.isa, shape.value_vectors, shape.value_turns

    @T.inline
    def multiply_values(part, score, value, p, c, d, t):
        for i in T.unroll(HALF):
            for j in T.unroll(DV):
                part.vstore(
                    [i * DV + j, 0],
                    isa.mul_add(
                        splat(score[p + t // PAGE, c + i, t % PAGE]),
                        value.vload([t, d * 16 + j * 16], F32),
                        part.vload([i * DV + j, 0], F32),
                    ),
                )

    @T.inline
    def values(score, value, out, VP, PT, layer, seq, h, p, pages, c, d, low, high):
        """Add keys low … high - 1 of the block to dimensions 16 d … 16 (d + DV) - 1."""
        with T.sblock("values"):
            T.reads()
            T.writes()
            upper = in_registers((HALF * DV, 16))
            lower = in_registers((HALF * DV, 16))
            for i in T.unroll(HALF):
                for j in T.unroll(DV):
                    upper.vstore([i * DV + j, 0], out.vload([c + i, d * 16 + j * 16], F32))
                    lower.vstore([i * DV + j, 0], out.vload([c + HALF + i, d * 16 + j * 16], F32))
            turn: T.let = c // STRIP * VALUE_TURNS + d // DV
            near: T.let = next_page(PT, seq, p, pages, turn)
            far: T.let = next_page(PT, seq, p, pages, turn + 2)
            for t in T.serial(high - low):
                prefetch(VP, [near, layer, h, 0, (low + t) * (D // BLOCK)])
                if VALUE_TURNS == 1:
                    prefetch(VP, [far, layer, h, 0, (low + t) * (D // BLOCK)])
                multiply_values(upper, score, value, p, c, d, low + t)
                multiply_values(lower, score, value, p, c + HALF, d, low + t)
            for i in T.unroll(HALF):
                for j in T.unroll(DV):
                    out.vstore([c + i, d * 16 + j * 16], upper.vload([i * DV + j, 0], F32))
                    out.vstore([c + HALF + i, d * 16 + j * 16], lower.vload([i * DV + j, 0], F32))

    return values


def _make_some_values(shape: TileShape) -> Any:
    D, G, isa = shape.head_dim, shape.group, shape.isa

    @T.inline
    def some_values(score, value, out, p, c, low, high, start, end, last):
        """Add keys low … high - 1 of the block to those pairs of the strip that see them."""
        for t in T.serial(T.max(high - low, T.int64(0))):
            at: T.let = low + t
            for i in T.serial(STRIP):
                row: T.let = T.min((c + i) // G, last)
                if p * PAGE + at < end + row:  # noqa: SIM102 - TIR has no chained conditions
                    if start + row <= p * PAGE + at:
                        for j in T.unroll(D // 16):
                            out.vstore(
                                [c + i, j * 16],
                                isa.mul_add(
                                    splat(score[p + at // PAGE, c + i, at % PAGE]),
                                    value.vload([at, j * 16], F32),
                                    out.vload([c + i, j * 16], F32),
                                ),
                            )

    return some_values
