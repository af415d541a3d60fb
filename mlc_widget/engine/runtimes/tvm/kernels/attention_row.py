# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""Attention of a single row, as in decode steps; it is limited by memory bandwidth."""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.kernels.attention_shape import TileShape
from mlc_widget.engine.runtimes.tvm.kernels.isa import (
    F32,
    hmax,
    in_registers,
    prefetch,
    splat,
)
from mlc_widget.engine.runtimes.tvm.layouts import PAGE

SMALL = 15
"""The number of vectors of 16 floats that TVM keeps on the stack, and LLVM then in registers."""


def make_row(shape: TileShape) -> Any:
    """``row(Q, KP, VP, POS, PT, Y, layer, row, seq, h, max_pages)`` for use in a kernel.

    It writes the outputs of those G = HQ / HKV heads of a row that read head h of keys and values.
    See `attention.make_attention` for the buffers and the result. The G heads share each load of
    keys and values. Several pages of keys, and several vectors of values, are summed concurrently,
    so that no sum has to wait for the one before; two pages ahead are prefetched.
    """
    G, D, isa, dtype, window = shape.group, shape.head_dim, shape.isa, shape.dtype, shape.window
    windowed = window is not None

    def at_once(of: int) -> int:
        """How many of `of` vectors to sum concurrently for all heads; a divisor of `of`."""
        room = max(1, min(4, isa.sums // G, SMALL // G))
        return max(k for k in range(1, of + 1) if of % k == 0 and k <= room)

    PAGES, DIMS = at_once(4), at_once(D // 16)

    def masked(value: Any, at: Any, start: Any, end: Any) -> Any:
        """The scores of positions `at`, with -1e30 outside start … end - 1."""
        value = T.Select(at < T.broadcast(end, 16), value, splat(-1e30))
        if windowed:
            value = T.Select(T.broadcast(start, 16) <= at, value, splat(-1e30))
        return value

    @T.inline
    def scores(Q, KP, PT, score, top, layer, row, seq, h, p, pages, start, end, COUNT):
        """The scores of pages p … p + COUNT - 1."""
        with T.sblock("scores"):
            T.reads()
            T.writes()
            dot = in_registers((COUNT * G, 16))
            for i in T.unroll(COUNT * G):
                dot.vstore([i, 0], splat(0.0))
            for d in T.serial(D):
                for k in T.unroll(COUNT):
                    prefetch(KP, [PT[seq, T.min(p + COUNT + k, pages - 1)], layer, h, d, 0])
                for k in T.unroll(COUNT):
                    key: T.let = isa.load(KP, [PT[seq, p + k], layer, h, d, 0], dtype)
                    for g in T.unroll(G):
                        query: T.let = splat(Q[row, (h * G + g) * D + d])
                        dot.vstore(
                            [k * G + g, 0], isa.mul_add(query, key, dot.vload([k * G + g, 0], F32))
                        )
            for k in T.unroll(COUNT):
                for g in T.unroll(G):
                    at: T.let = T.ramp((p + k) * PAGE, T.int64(1), 16)
                    value: T.let = masked(
                        shape.score(dot.vload([k * G + g, 0], F32)), at, start, end
                    )
                    score.vstore([p + k, g, 0], value)
                    top.vstore([g, 0], T.max(top.vload([g, 0], F32), value))

    @T.inline
    def softmax(score, top, norm, first, pages):
        """Replace scores by e, and set norm to their sum."""
        with T.sblock("softmax"):
            T.reads()
            T.writes()
            total = in_registers((16,))
            for g in T.serial(G):
                most: T.let = hmax(top.vload([g, 0], F32))
                total.vstore([0], splat(0.0))
                for p in T.serial(pages - first):
                    value: T.let = score.vload([first + p, g, 0], F32)
                    below: T.let = T.max(value - splat(most), splat(-126.0))
                    e: T.let = T.Select(value > splat(-1e29), isa.exp2(below), splat(0.0))
                    score.vstore([first + p, g, 0], e)
                    total.vstore([0], total.vload([0], F32) + e)
                norm[g] = T.float32(0)
                for t in T.unroll(16):
                    norm[g] = norm[g] + total[t]

    @T.inline
    def values(score, norm, VP, PT, Y, layer, row, seq, h, first, end, d):
        """The output of dimensions d … d + 16 DIMS - 1, over positions first … end - 1."""
        with T.sblock("values"):
            T.reads()
            T.writes()
            out = in_registers((DIMS * G, 16))
            last: T.let = (end - 1) // PAGE
            for i in T.unroll(DIMS * G):
                out.vstore([i, 0], splat(0.0))
            for k in T.serial(last + 1 - first // PAGE):
                p: T.let = first // PAGE + k
                low: T.let = T.max(first - p * PAGE, T.int64(0))
                high: T.let = T.min(end - p * PAGE, T.int64(PAGE))
                for t in T.serial(high - low):
                    for j in T.unroll((DIMS + 1) // 2):
                        prefetch(VP, [PT[seq, T.min(p + 2, last)], layer, h, low + t, d + j * 32])
                    for j in T.unroll(DIMS):
                        value: T.let = isa.load(
                            VP, [PT[seq, p], layer, h, low + t, d + j * 16], dtype
                        )
                        for g in T.unroll(G):
                            e: T.let = splat(score[p, g, low + t])
                            out.vstore(
                                [j * G + g, 0],
                                isa.mul_add(e, value, out.vload([j * G + g, 0], F32)),
                            )
            for j in T.unroll(DIMS):
                for g in T.unroll(G):
                    Y.vstore(
                        [row, (h * G + g) * D + d + j * 16],
                        out.vload([j * G + g, 0], F32) / splat(norm[g]),
                    )

    @T.inline
    def one_row(Q, KP, VP, POS, PT, Y, layer, row, seq, h, max_pages):
        with T.sblock("attention"):
            T.reads()
            T.writes()
            score = T.sblock_alloc_buffer((max_pages, G, 16), "float32")
            top = in_registers((G, 16))
            norm = in_registers((G,))
            end: T.let = T.Cast("int64", POS[row]) + 1
            start: T.let = end - T.int64(window or (1 << 40))
            first: T.let = T.max(start, T.int64(0))
            pages: T.let = (end + PAGE - 1) // PAGE
            whole: T.let = (pages - first // PAGE) // PAGES
            for g in T.unroll(G):
                top.vstore([g, 0], splat(-1e30))
            for k in T.serial(whole):
                scores(
                    Q, KP, PT, score, top, layer, row, seq, h, first // PAGE + k * PAGES, pages,
                    start, end, PAGES,
                )  # fmt: skip
            if PAGES > 1:
                for k in T.serial((pages - first // PAGE) % PAGES):
                    scores(
                        Q, KP, PT, score, top, layer, row, seq, h,
                        first // PAGE + whole * PAGES + k, pages, start, end, 1,
                    )  # fmt: skip
            softmax(score, top, norm, first // PAGE, pages)
            for d in T.serial(D // 16 // DIMS):
                values(
                    score, norm, VP, PT, Y, layer, row, seq, h, first, end, d * (16 * DIMS)
                )  # fmt: skip

    return one_row
