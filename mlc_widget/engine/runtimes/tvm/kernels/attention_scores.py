# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""The first pass of attention of several rows: scores of a block's keys, and their maxima."""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.kernels.attention_shape import (
    BLOCK,
    HALF,
    STRIP,
    TileShape,
    next_page,
)
from mlc_widget.engine.runtimes.tvm.kernels.isa import F32, in_registers, prefetch, splat
from mlc_widget.engine.runtimes.tvm.layouts import PAGE


def make_convert_keys(shape: TileShape) -> Any:
    """``convert_keys(KP, PT, keys, layer, seq, h, p, pages)``, for use in a kernel.

    It writes the keys of the block at page p, as float32, to keys (D, BLOCK PAGE).
    """
    D, isa, dtype = shape.head_dim, shape.isa, shape.dtype

    @T.inline
    def convert_keys(KP, PT, keys, layer, seq, h, p, pages):
        for k in T.serial(BLOCK):
            page: T.let = PT[seq, T.min(p + k, pages - 1)]
            for d in T.serial(D):
                keys.vstore([d, k * PAGE], isa.load(KP, [page, layer, h, d, 0], dtype))

    return convert_keys


def make_score_strip(shape: TileShape) -> Any:
    """``score_strip(…)``, for use in a kernel: the first pass of a strip over a block.

    It writes scores to score (pages, pairs, 16), -1e30 for keys that a row does not see, and the
    maxima of each lane to top (pairs, 16). A block that no row of the strip sees is skipped.
    """
    scores, mask, maxima = _make_scores(shape), _make_mask(shape), _make_maxima()
    G, KV, KEY_TURNS = shape.group, shape.key_vectors, shape.key_turns
    windowed = shape.window is not None

    @T.inline
    def score_strip(query, keys, score, top, KP, PT, layer, seq, h, p, pages, c, start, end, last):
        """The first pass of a strip over a block. Row r sees positions start + r … end + r - 1."""
        upper: T.let = T.min((c + STRIP - 1) // G, last)
        if p * PAGE < end + upper:
            for k in T.serial(KEY_TURNS):
                scores(query, keys, score, KP, PT, layer, seq, h, p, pages, c, k * KV)
            # The number of keys that the first row does not see yet, or the last no longer sees.
            ragged: T.let = (p + BLOCK) * PAGE - (end + c // G)
            if (T.max(ragged, start + upper - p * PAGE) if windowed else ragged) > 0:
                mask(score, p, c, start, end, last)
            maxima(score, top, p, c)

    return score_strip


def _make_scores(shape: TileShape) -> Any:
    D, isa, KV, KEY_TURNS = shape.head_dim, shape.isa, shape.key_vectors, shape.key_turns

    @T.inline
    def multiply_keys(dot, query, keys, c, d, k):
        for i in T.unroll(HALF):
            for j in T.unroll(KV):
                dot.vstore(
                    [i * KV + j, 0],
                    isa.mul_add(
                        splat(query[c + i, d]),
                        keys.vload([d, (k + j) * PAGE], F32),
                        dot.vload([i * KV + j, 0], F32),
                    ),
                )

    @T.inline
    def scores(query, keys, score, KP, PT, layer, seq, h, p, pages, c, k):
        """The scores of pairs c … c + STRIP - 1 in pages k … k + KV - 1 of the block at page p."""
        with T.sblock("scores"):
            T.reads()
            T.writes()
            # In halves, as TVM puts buffers of 1 KiB or more on the heap.
            upper = in_registers((HALF * KV, 16))
            lower = in_registers((HALF * KV, 16))
            for i in T.unroll(HALF * KV):
                upper.vstore([i, 0], splat(0.0))
                lower.vstore([i, 0], splat(0.0))
            turn: T.let = c // STRIP * KEY_TURNS + k // KV
            near: T.let = next_page(PT, seq, p, pages, turn)
            far: T.let = next_page(PT, seq, p, pages, turn + 2)
            for d in T.serial(D):
                prefetch(KP, [near, layer, h, d, 0])
                if KEY_TURNS == 1:
                    prefetch(KP, [far, layer, h, d, 0])
                multiply_keys(upper, query, keys, c, d, k)
                multiply_keys(lower, query, keys, c + HALF, d, k)
            for i in T.unroll(HALF):
                for j in T.unroll(KV):
                    score.vstore(
                        [p + k + j, c + i, 0], shape.score(upper.vload([i * KV + j, 0], F32))
                    )
                    score.vstore(
                        [p + k + j, c + HALF + i, 0],
                        shape.score(lower.vload([i * KV + j, 0], F32)),
                    )

    return scores


def _make_mask(shape: TileShape) -> Any:
    G, windowed = shape.group, shape.window is not None
    lanes = T.ramp(T.int32(0), T.int32(1), 16)

    def spread(value: Any) -> Any:
        return T.broadcast(T.Cast("int32", value), 16)

    @T.inline
    def mask(score, p, c, start, end, last):
        """Set the score to -1e30 where a pair of the strip does not see a key of the block."""
        for k in T.serial(BLOCK):
            for i in T.serial(STRIP):
                row: T.let = T.min((c + i) // G, last)
                high: T.let = end + row - (p + k) * PAGE
                low: T.let = T.max(start + row - (p + k) * PAGE, T.int64(0))
                kept: T.let = T.Select(
                    lanes < spread(high), score.vload([p + k, c + i, 0], F32), splat(-1e30)
                )
                score.vstore(
                    [p + k, c + i, 0],
                    T.Select(spread(low) <= lanes, kept, splat(-1e30)) if windowed else kept,
                )

    return mask


def _make_maxima() -> Any:
    @T.inline
    def maxima(score, top, p, c):
        with T.sblock("maxima"):
            T.reads()
            T.writes()
            for i in T.unroll(STRIP):
                for k in T.unroll(BLOCK):
                    value: T.let = score.vload([p + k, c + i, 0], F32)
                    top.vstore([c + i, 0], T.max(top.vload([c + i, 0], F32), value))

    return maxima
