# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""Attention of several rows of a sequence, which is limited by arithmetic."""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.kernels.isa import (
    F32,
    LOG2E,
    Isa,
    hmax,
    in_registers,
    prefetch,
    splat,
)
from mlc_widget.engine.runtimes.tvm.layouts import PAGE

STRIP = 6
"""The number of pairs of a row and a head that are summed concurrently, in two halves."""

BLOCK = 4
"""The number of pages that are processed together."""


def make_tile(HQ: int, HKV: int, D: int, isa: Isa, dtype: str, window: int | None) -> Any:
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
    G = HQ // HKV
    PAIRS = -(-isa.attention_rows(G) * G // STRIP) * STRIP
    HALF = STRIP // 2
    SUMS = max(1, isa.sums // STRIP)
    KEYS = BLOCK * PAGE
    scale = D**-0.5 * LOG2E
    windowed = window is not None
    # The numbers of vectors of keys, and of dimensions of values, that a strip sums concurrently.
    KV = max(k for k in range(1, BLOCK + 1) if BLOCK % k == 0 and k <= SUMS)
    DV = max(k for k in range(1, D // 16 + 1) if (D // 16) % k == 0 and k <= SUMS)
    # How often a strip passes over a block's keys and values; each time it prefetches some pages.
    KEY_TURNS, VALUE_TURNS = BLOCK // KV, D // 16 // DV
    lanes = T.ramp(T.int32(0), T.int32(1), 16)

    def spread(value: Any) -> Any:
        return T.broadcast(T.Cast("int32", value), 16)

    def next_page(PT: Any, seq: Any, p: Any, pages: Any, turn: Any) -> Any:
        """The page of the next block, after that of page p, to prefetch in pass `turn`."""
        return PT[seq, T.min(p + BLOCK + turn % BLOCK, pages - 1)]

    @T.inline
    def convert_keys(KP, PT, keys, layer, seq, h, p, pages):
        for k in T.serial(BLOCK):
            page: T.let = PT[seq, T.min(p + k, pages - 1)]
            for d in T.serial(D):
                keys.vstore([d, k * PAGE], isa.load(KP, [page, layer, h, d, 0], dtype))

    @T.inline
    def convert_values(VP, PT, value, layer, seq, h, p, pages):
        for k in T.serial(BLOCK):
            page: T.let = PT[seq, T.min(p + k, pages - 1)]
            for t in T.serial(PAGE):
                for j in T.unroll(D // 16):
                    value.vstore(
                        [k * PAGE + t, j * 16], isa.load(VP, [page, layer, h, t, j * 16], dtype)
                    )

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
                        [p + k + j, c + i, 0], upper.vload([i * KV + j, 0], F32) * splat(scale)
                    )
                    score.vstore(
                        [p + k + j, c + HALF + i, 0],
                        lower.vload([i * KV + j, 0], F32) * splat(scale),
                    )

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

    @T.inline
    def maxima(score, top, p, c):
        with T.sblock("maxima"):
            T.reads()
            T.writes()
            for i in T.unroll(STRIP):
                for k in T.unroll(BLOCK):
                    value: T.let = score.vload([p + k, c + i, 0], F32)
                    top.vstore([c + i, 0], T.max(top.vload([c + i, 0], F32), value))

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
            for c in T.serial(strips * STRIP):
                r: T.let = row + T.min(c // G, last)
                for j in T.unroll(D // 16):
                    query.vstore(
                        [c, j * 16], Q.vload([r, (h * G + c % G) * D + j * 16], F32)
                    )  # fmt: skip
                    out.vstore([c, j * 16], splat(0.0))
                top.vstore([c, 0], splat(-1e30))
                total.vstore([c, 0], splat(0.0))
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
            for c in T.serial((last + 1) * G):
                norm[0] = T.float32(0)
                for t in T.unroll(16):
                    norm[0] = norm[0] + total[c, t]
                for j in T.unroll(D // 16):
                    Y.vstore(
                        [row + c // G, (h * G + c % G) * D + j * 16],
                        out.vload([c, j * 16], F32) / splat(norm[0]),
                    )

    return several
