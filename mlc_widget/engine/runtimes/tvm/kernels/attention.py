# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""Attention of rows over the paged cache of `rope`.

Every row, of a prompt or of an answer, reads all its keys and values from the pages, in the order
of their positions. So how a prompt was cut into chunks cannot be seen.
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.kernels.isa import F32, LOG2E, Isa, hmax, pad, prefetch, splat
from mlc_widget.engine.runtimes.tvm.layouts import PAGE


def make_attention(
    HQ: int, HKV: int, D: int, isa: Isa, dtype: str = "float32", window: int | None = None
) -> Any:
    """Causal attention, over all positions before a row or the last `window` of them.

    Shapes: q (n, HQ D) float32; k_pages (pages, layers, HKV, D, PAGE) and v_pages (pages, layers,
    HKV, PAGE, D) of `dtype`, float32 or float16; position (n,) int32; page_table (sequences,
    max_pages) int32; tile (tiles, 3) int32, each (first row, rows, sequence), its rows at
    successive positions of one sequence; y (n, pad(HQ D)) float32, its padding zero. The rows of
    all tiles are the rows of q, and a tile has at most `isa.attention_rows(HQ / HKV)`.

    For one row, head, and the keys t = first … position that it sees, with c = D^-1/2 log2(e):

        score[t] = c · (fma chain over d ascending, from 0)
        m        = max score
        e[t]     = 2 ^ max(score[t] - m, -126)
        sum      = lane t % 16 sums its e[t], t ascending; then lanes 0 … 15 ascending
        y        = (fma chain of e[t] · v[t] over t ascending, from 0) / sum

    The rows and heads of a full tile share the loads of keys and values. Keys that only some of
    them see come last (and first, under a window), and are kept from the others. A single row
    takes several pages of keys at once. None of this touches the order above.
    """
    G = HQ // HKV
    R = isa.attention_rows(G)
    scale = D**-0.5 * LOG2E

    windowed = window is not None

    def masked(value: Any, at: Any, start: Any, end: Any) -> Any:
        """Scores of positions `at`, and -1e30 outside start … end - 1."""
        value = T.Select(at < T.broadcast(end, 16), value, splat(-1e30))
        if windowed:
            value = T.Select(T.broadcast(start, 16) <= at, value, splat(-1e30))
        return value

    def at_once(count: int, most: int, of: int) -> int:
        """How many vectors of `of` to sum for `count` rows and heads at once; divides `of`."""
        room = max(1, min(most, isa.sums // count))
        return max(k for k in range(1, of + 1) if of % k == 0 and k <= room)

    def pages_at_once(count: int) -> int:
        return at_once(count, 4, 4)

    def dims_at_once(count: int) -> int:
        return at_once(count, 4, D // 16)

    @T.inline
    def scores(Q, KP, PT, score, top, layer, row, seq, h, p, pages, start, end, COUNT, PAGES):
        """The scores of pages p … p + PAGES - 1. Row i sees positions start + i … end + i - 1."""
        with T.sblock("scores"):
            T.reads()
            T.writes()
            dot = T.sblock_alloc_buffer((PAGES * COUNT, 16), "float32", scope="local")
            for i in T.unroll(PAGES * COUNT):
                dot.vstore([i, 0], splat(0.0))
            for d in T.serial(D):
                if COUNT == G:  # a single row waits for memory
                    for k in T.unroll(PAGES):
                        prefetch(KP, [PT[seq, T.min(p + PAGES + k, pages - 1)], layer, h, d, 0])
                for k in T.unroll(PAGES):
                    key: T.let = isa.load(KP, [PT[seq, p + k], layer, h, d, 0], dtype)
                    for i in T.unroll(COUNT):
                        query: T.let = splat(Q[row + i // G, (h * G + i % G) * D + d])
                        dot.vstore(
                            [k * COUNT + i, 0],
                            isa.mul_add(query, key, dot.vload([k * COUNT + i, 0], F32)),
                        )
            for k in T.unroll(PAGES):
                for i in T.unroll(COUNT):
                    at: T.let = T.ramp((p + k) * PAGE - i // G, T.int64(1), 16)
                    value: T.let = masked(
                        dot.vload([k * COUNT + i, 0], F32) * splat(scale), at, start, end
                    )
                    score.vstore([p + k, i, 0], value)
                    top.vstore([i, 0], T.max(top.vload([i, 0], F32), value))

    @T.inline
    def softmax(score, top, norm, first, pages, COUNT):
        """Scores → e, and norm = sum."""
        with T.sblock("softmax"):
            T.reads()
            T.writes()
            total = T.sblock_alloc_buffer((16,), "float32", scope="local")
            for i in T.serial(COUNT):
                most: T.let = hmax(top.vload([i, 0], F32))
                total.vstore([0], splat(0.0))
                for p in T.serial(pages - first):
                    value: T.let = score.vload([first + p, i, 0], F32)
                    below: T.let = T.max(value - splat(most), splat(-126.0))
                    e: T.let = T.Select(value > splat(-1e29), isa.exp2(below), splat(0.0))
                    score.vstore([first + p, i, 0], e)
                    total.vstore([0], total.vload([0], F32) + e)
                norm[i] = T.float32(0)
                for t in T.unroll(16):
                    norm[i] = norm[i] + total[t]

    @T.inline
    def add(out, score, VP, page, p, t, layer, h, d, COUNT, DIMS):
        """Add e · v of position t of page p to all rows."""
        for j in T.unroll(DIMS):
            value: T.let = isa.load(VP, [page, layer, h, t, d + j * 16], dtype)
            for i in T.unroll(COUNT):
                out.vstore(
                    [j * COUNT + i, 0],
                    isa.mul_add(splat(score[p, i, t]), value, out.vload([j * COUNT + i, 0], F32)),
                )

    @T.inline
    def add_some(out, score, VP, PT, at, layer, seq, h, d, low, high, ROWS, DIMS):
        """Add e · v of position `at` to the rows i with low ≤ i < high."""
        for j in T.unroll(DIMS):
            value: T.let = isa.load(
                VP, [PT[seq, at // PAGE], layer, h, at % PAGE, d + j * 16], dtype
            )
            for r in T.unroll(ROWS):
                if low <= T.Cast("int64", r):  # noqa: SIM102 - TIR has no chained conditions
                    if T.Cast("int64", r) < high:
                        for g in T.unroll(G):
                            i: T.let = r * G + g
                            e: T.let = splat(score[at // PAGE, i, at % PAGE])
                            out.vstore(
                                [j * ROWS * G + i, 0],
                                isa.mul_add(e, value, out.vload([j * ROWS * G + i, 0], F32)),
                            )

    @T.inline
    def values(score, norm, VP, PT, Y, layer, row, seq, h, start, end, d, ROWS, DIMS):
        """The output of dimensions d … d + 16 DIMS - 1. Row i sees start + i … end + i - 1."""
        with T.sblock("values"):
            T.reads()
            T.writes()
            out = T.sblock_alloc_buffer((DIMS * ROWS * G, 16), "float32", scope="local")
            first: T.let = T.max(start, T.int64(0))
            # The first position that all rows see.
            shared: T.let = T.min(T.max(start + (ROWS - 1), T.int64(0)), end)
            for i in T.unroll(DIMS * ROWS * G):
                out.vstore([i, 0], splat(0.0))
            if windowed:
                for k in T.serial(shared - first):
                    at: T.let = first + k
                    add_some(
                        out, score, VP, PT, at, layer, seq, h, d, T.int64(0),
                        at - start + 1, ROWS, DIMS,
                    )  # fmt: skip
            for p in T.serial((end + PAGE - 1) // PAGE - shared // PAGE):
                page: T.let = PT[seq, shared // PAGE + p]
                low: T.let = T.max(shared - (shared // PAGE + p) * PAGE, T.int64(0))
                high: T.let = T.min(end - (shared // PAGE + p) * PAGE, T.int64(PAGE))
                after: T.let = PT[seq, T.min(shared // PAGE + p + 2, (end + PAGE - 1) // PAGE - 1)]
                for t in T.serial(high - low):
                    if ROWS == 1:
                        for j in T.unroll((DIMS + 1) // 2):
                            prefetch(VP, [after, layer, h, low + t, d + j * 32])
                    add(
                        out, score, VP, page, shared // PAGE + p, low + t, layer, h, d,
                        ROWS * G, DIMS,
                    )  # fmt: skip
            for k in T.serial(ROWS - 1):
                at: T.let = end + k
                add_some(
                    out, score, VP, PT, at, layer, seq, h, d, T.Cast("int64", k) + 1,
                    at - start + 1 if windowed else T.int64(ROWS), ROWS, DIMS,
                )  # fmt: skip
            for j in T.unroll(DIMS):
                for i in T.unroll(ROWS * G):
                    Y.vstore(
                        [row + i // G, (h * G + i % G) * D + d + j * 16],
                        out.vload([j * ROWS * G + i, 0], F32) / splat(norm[i]),
                    )

    @T.inline
    def rows(Q, KP, VP, POS, PT, Y, layer, row, seq, h, max_pages, ROWS):
        """Rows row … row + ROWS - 1 against kv head h."""
        with T.sblock("attention"):
            T.reads()
            T.writes()
            score = T.sblock_alloc_buffer((max_pages, ROWS * G, 16), "float32")
            top = T.sblock_alloc_buffer((ROWS * G, 16), "float32", scope="local")
            norm = T.sblock_alloc_buffer((ROWS * G,), "float32", scope="local")
            end: T.let = T.Cast("int64", POS[row]) + 1
            start: T.let = end - T.int64(window or (1 << 40))
            first: T.let = T.max(start, T.int64(0)) // PAGE
            pages: T.let = (end + (ROWS - 1 + PAGE - 1)) // PAGE
            for i in T.unroll(ROWS * G):
                top.vstore([i, 0], splat(-1e30))
            whole: T.let = (pages - first) // pages_at_once(ROWS * G)
            for p in T.serial(whole):
                scores(
                    Q, KP, PT, score, top, layer, row, seq, h,
                    first + p * pages_at_once(ROWS * G), pages, start, end,
                    ROWS * G, pages_at_once(ROWS * G),
                )  # fmt: skip
            if pages_at_once(ROWS * G) > 1:
                for p in T.serial((pages - first) % pages_at_once(ROWS * G)):
                    scores(
                        Q, KP, PT, score, top, layer, row, seq, h,
                        first + whole * pages_at_once(ROWS * G) + p, pages, start, end, ROWS * G, 1,
                    )  # fmt: skip
            softmax(score, top, norm, first, pages, ROWS * G)
            for d in T.serial(D // 16 // dims_at_once(ROWS * G)):
                values(
                    score, norm, VP, PT, Y, layer, row, seq, h, start, end,
                    d * (16 * dims_at_once(ROWS * G)), ROWS, dims_at_once(ROWS * G),
                )  # fmt: skip

    @T.prim_func(s_tir=True)
    def attention(
        q: T.handle,
        k_pages: T.handle,
        v_pages: T.handle,
        position: T.handle,
        page_table: T.handle,
        tile: T.handle,
        layer: T.int64,
        y: T.handle,
    ):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        n = T.int64()
        LAYERS = T.int64()
        P = T.int64()
        S = T.int64()
        max_pages = T.int64()
        tiles = T.int64()
        Q = T.match_buffer(q, (n, HQ * D), "float32")
        KP = T.match_buffer(k_pages, (P, LAYERS, HKV, D, PAGE), dtype)
        VP = T.match_buffer(v_pages, (P, LAYERS, HKV, PAGE, D), dtype)
        POS = T.match_buffer(position, (n,), "int32")
        PT = T.match_buffer(page_table, (S, max_pages), "int32")
        TILE = T.match_buffer(tile, (tiles, 3), "int32")
        Y = T.match_buffer(y, (n, pad(HQ * D)), "float32")
        for th in T.parallel(tiles * HKV):
            if TILE[th // HKV, 1] == R:
                rows(
                    Q, KP, VP, POS, PT, Y, layer, TILE[th // HKV, 0], TILE[th // HKV, 2],
                    th % HKV, max_pages, R,
                )  # fmt: skip
            else:
                for r in T.serial(TILE[th // HKV, 1]):
                    rows(
                        Q, KP, VP, POS, PT, Y, layer, TILE[th // HKV, 0] + r,
                        TILE[th // HKV, 2], th % HKV, max_pages, 1,
                    )  # fmt: skip
        if pad(HQ * D) > HQ * D:
            for i in T.serial(n):
                Y.vstore([i, HQ * D], splat(0.0))

    name = f"attention_{HQ}_{HKV}_{D}_{dtype}" + (f"_window_{window}" if window else "")
    return attention.with_attr("global_symbol", name)
