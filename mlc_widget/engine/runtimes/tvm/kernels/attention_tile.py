# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""Attention of several rows of a sequence, which is limited by arithmetic."""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.kernels.attention_scores import (
    make_convert_keys,
    make_score_strip,
)
from mlc_widget.engine.runtimes.tvm.kernels.attention_shape import BLOCK, KEYS, STRIP, TileShape
from mlc_widget.engine.runtimes.tvm.kernels.attention_values import (
    make_convert_values,
    make_value_strip,
)
from mlc_widget.engine.runtimes.tvm.kernels.isa import F32, hmax, in_registers, splat
from mlc_widget.engine.runtimes.tvm.layouts import PAGE


def make_tile(shape: TileShape) -> Any:
    """``several(Q, KP, VP, POS, PT, Y, layer, row, n, seq, h, max_pages)`` for use in a kernel.

    It writes the outputs of rows row … row + n - 1, for the G = HQ / HKV heads that read head h of
    keys and values. See `attention.make_attention` for the buffers and the result.

    Pair c = r G + g is row r of the tile and head g of the group, so heads are treated like rows.
    For a block of BLOCK pages, keys (and values) are converted to float32 once,

        keys (D, BLOCK PAGE), values (BLOCK PAGE, D)        in the first-level cache

    and are then used by all strips of STRIP pairs. A strip multiplies STRIP broadcast numbers with
    as many vectors of 16 keys (or of 16 dimensions of values) as there are registers for the sums,
    so that each loaded operand is used in several products. Meanwhile the next block is prefetched.
    There are two passes, so that e[t] is computed once, from the final maximum:

        1. score (pages, pairs, 16), and its maxima
        2. e, its sums, and out += e · v

    A strip skips keys that none of its rows sees: whole blocks and, in the second pass, single
    keys. Keys that only some of its rows see come last (with a window, also first). They are added
    pair by pair, so that the memory of unseen keys, which may hold NaN, has no effect. The last
    strip is filled up with unused pairs. None of this changes the order of a sum.
    """
    convert_keys, score_strip = make_convert_keys(shape), make_score_strip(shape)
    convert_values, value_strip = make_convert_values(shape), make_value_strip(shape)
    begin, finish = _make_begin(shape), _make_finish(shape)
    G, PAIRS, D, window = shape.group, shape.pairs, shape.head_dim, shape.window

    @T.inline
    def several(Q, KP, VP, POS, PT, Y, layer, row, n, seq, h, max_pages):
        with T.sblock("attention"):
            T.reads()
            T.writes()
            query = T.sblock_alloc_buffer((PAIRS, D), "float32")
            keys = T.sblock_alloc_buffer((D, KEYS), "float32")
            value = T.sblock_alloc_buffer((KEYS, D), "float32")
            out = T.sblock_alloc_buffer((PAIRS, D), "float32")
            top = T.sblock_alloc_buffer((PAIRS, 16), "float32")
            total = T.sblock_alloc_buffer((PAIRS, 16), "float32")
            score = T.sblock_alloc_buffer((max_pages + BLOCK, PAIRS, 16), "float32")
            norm = in_registers((1,))
            last: T.let = T.Cast("int64", n) - 1
            end: T.let = T.Cast("int64", POS[row]) + 1
            start: T.let = end - T.int64(window or (1 << 40))
            first: T.let = T.max(start, T.int64(0)) // PAGE
            pages: T.let = (end + last + PAGE - 1) // PAGE
            blocks: T.let = (pages - first + BLOCK - 1) // BLOCK
            strips: T.let = ((last + 1) * G + STRIP - 1) // STRIP
            begin(Q, query, out, top, total, row, h, last, strips)
            for b in T.serial(blocks):
                p: T.let = first + b * BLOCK
                convert_keys(KP, PT, keys, layer, seq, h, p, pages)
                for s in T.serial(strips):
                    score_strip(
                        query, keys, score, top, KP, PT, layer, seq, h, p, pages, s * STRIP,
                        start, end, last,
                    )  # fmt: skip
            for c in T.serial(strips * STRIP):
                top[c, 0] = hmax(top.vload([c, 0], F32))
            for b in T.serial(blocks):
                p: T.let = first + b * BLOCK
                convert_values(VP, PT, value, layer, seq, h, p, pages)
                for s in T.serial(strips):
                    value_strip(
                        value, score, out, top, total, VP, PT, layer, seq, h, p, pages, s * STRIP,
                        start, end, last,
                    )  # fmt: skip
            finish(Y, out, total, norm, row, h, last)

    return several


def _make_begin(shape: TileShape) -> Any:
    D, G = shape.head_dim, shape.group

    @T.inline
    def begin(Q, query, out, top, total, row, h, last, strips):
        """Gather the pairs' queries, and clear the sums; surplus pairs repeat the last one."""
        for c in T.serial(strips * STRIP):
            r: T.let = row + T.min(c // G, last)
            for j in T.unroll(D // 16):
                query.vstore(
                    [c, j * 16], Q.vload([r, (h * G + c % G) * D + j * 16], F32)
                )  # fmt: skip
                out.vstore([c, j * 16], splat(0.0))
            top.vstore([c, 0], splat(-1e30))
            total.vstore([c, 0], splat(0.0))

    return begin


def _make_finish(shape: TileShape) -> Any:
    D, G = shape.head_dim, shape.group

    @T.inline
    def finish(Y, out, total, norm, row, h, last):
        """Divide by the sums of the exponentials, lanes 0 … 15 ascending."""
        for c in T.serial((last + 1) * G):
            norm[0] = T.float32(0)
            for t in T.unroll(16):
                norm[0] = norm[0] + total[c, t]
            for j in T.unroll(D // 16):
                Y.vstore(
                    [row + c // G, (h * G + c % G) * D + j * 16],
                    out.vload([c, j * 16], F32) / splat(norm[0]),
                )

    return finish
