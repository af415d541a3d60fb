# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""Rotary embedding, the paged key/value cache, and attention over it.

A page holds PAGE tokens of one sequence. Keys lie dimension-major within a page, values
token-major, so that both passes of attention read whole vectors. All layers of a page lie together,
so that memory is touched as pages are used:

    k_pages (pages, layers, kv heads, D, PAGE)      v_pages (pages, layers, kv heads, PAGE, D)

New rows are appended first; then every row, of a prompt or of an answer, reads all its keys and
values from the pages, position 0 first. So how a prompt was cut into chunks cannot be seen.
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.kernels.isa import F32, LOG2E, Isa, hmax, pad, splat
from mlc_widget.engine.runtimes.tvm.layouts import PAGE


def make_rope_append(HQ: int, HKV: int, D: int, isa: Isa) -> Any:
    """Rotate queries and keys by their positions, store keys and values into their pages.

    Shapes: qkv (n, pad((HQ + 2 HKV) D)) float32; cos, sin (positions, D/2) float32;
    position (n,) int32; slot (n,) int32, page · PAGE + offset; pages as above; q (n, HQ D).
    Rotation (halves a, b of a head): a' = fma(a, cos, -(b sin)), b' = fma(b, cos, a sin).
    """
    HALF = D // 2
    L = 16 if HALF % 16 == 0 else 8
    VEC = f"float32x{L}"

    def mul_add(a: Any, b: Any, c: Any) -> Any:
        if isa.fma:
            return T.call_llvm_pure_intrin(VEC, f"llvm.fma.v{L}f32", a, b, c)
        return a * b + c

    @T.inline
    def row(QKV, COS, SIN, POS, SLOT, Q, KP, VP, layer, i):
        with T.sblock("row"):
            T.reads()
            T.writes()
            page: T.let = SLOT[i] // PAGE
            offset: T.let = SLOT[i] % PAGE
            for h in T.serial(HQ):
                for d in T.unroll(HALF // L):
                    a: T.let = QKV.vload([i, h * D + d * L], VEC)
                    b: T.let = QKV.vload([i, h * D + HALF + d * L], VEC)
                    c: T.let = COS.vload([POS[i], d * L], VEC)
                    s: T.let = SIN.vload([POS[i], d * L], VEC)
                    Q.vstore([i, h * D + d * L], mul_add(a, c, T.float32(0) - b * s))
                    Q.vstore([i, h * D + HALF + d * L], mul_add(b, c, a * s))
            for h in T.serial(HKV):
                key = T.sblock_alloc_buffer((D,), "float32", scope="local")
                for d in T.unroll(HALF // L):
                    a: T.let = QKV.vload([i, (HQ + h) * D + d * L], VEC)
                    b: T.let = QKV.vload([i, (HQ + h) * D + HALF + d * L], VEC)
                    c: T.let = COS.vload([POS[i], d * L], VEC)
                    s: T.let = SIN.vload([POS[i], d * L], VEC)
                    key.vstore([d * L], mul_add(a, c, T.float32(0) - b * s))
                    key.vstore([HALF + d * L], mul_add(b, c, a * s))
                for d in T.serial(D):
                    KP[page, layer, h, d, offset] = key[d]
                for d in T.unroll(D // 16):
                    VP.vstore(
                        [page, layer, h, offset, d * 16],
                        QKV.vload([i, (HQ + HKV + h) * D + d * 16], F32),
                    )

    @T.prim_func(s_tir=True)
    def rope_append(
        qkv: T.handle,
        cos: T.handle,
        sin: T.handle,
        position: T.handle,
        slot: T.handle,
        k_pages: T.handle,
        v_pages: T.handle,
        layer: T.int64,
        q: T.handle,
    ):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        n = T.int64()
        C = T.int64()
        LAYERS = T.int64()
        P = T.int64()
        QKV = T.match_buffer(qkv, (n, pad((HQ + 2 * HKV) * D)), "float32")
        COS = T.match_buffer(cos, (C, HALF), "float32")
        SIN = T.match_buffer(sin, (C, HALF), "float32")
        POS = T.match_buffer(position, (n,), "int32")
        SLOT = T.match_buffer(slot, (n,), "int32")
        KP = T.match_buffer(k_pages, (P, LAYERS, HKV, D, PAGE), "float32")
        VP = T.match_buffer(v_pages, (P, LAYERS, HKV, PAGE, D), "float32")
        Q = T.match_buffer(q, (n, HQ * D), "float32")
        for i in T.serial(n):
            row(QKV, COS, SIN, POS, SLOT, Q, KP, VP, layer, i)

    return rope_append.with_attr("global_symbol", f"rope_append_{HQ}_{HKV}_{D}")


def make_attention(HQ: int, HKV: int, D: int, isa: Isa) -> Any:
    """Causal attention of rows over the pages of their sequences.

    Shapes: q (n, HQ D) float32; pages as above; position (n,) int32; page_table (sequences,
    max_pages) int32; tile (tiles, 3) int32, each (first row, rows, sequence), its rows at
    successive positions of one sequence; y (n, pad(HQ D)) float32, its padding zero. The rows of
    all tiles are the rows of q.

    For one row, head, and the keys t = 0 … position, with c = D^-1/2 log2(e):

        score[t] = c · ((p0 + p1) + (p2 + p3)),  p_j = fma chain over d = j, j+4, … ascending
        m        = max score
        e[t]     = 2 ^ max(score[t] - m, -126)
        sum      = lanes summed over pages ascending, then lanes 0 … 15 ascending
        y        = (fma chain of e[t] · v[t], t ascending) / sum

    A full tile of `isa.attention_rows(HQ / HKV)` rows shares the loads of keys and values; each
    row's sums have that same order.
    """
    G = HQ // HKV
    R = isa.attention_rows(G)
    scale = D**-0.5 * LOG2E

    @T.inline
    def rows(Q, KP, VP, POS, PT, Y, layer, row, seq, h, max_pages, ROWS):
        """Rows row … row + ROWS - 1 against kv head h."""
        with T.sblock("attention"):
            T.reads()
            T.writes()
            score = T.sblock_alloc_buffer((ROWS * G, max_pages * PAGE), "float32")
            dot = T.sblock_alloc_buffer((ROWS * G, 4, 16), "float32", scope="local")
            top = T.sblock_alloc_buffer((ROWS * G, 16), "float32", scope="local")
            total = T.sblock_alloc_buffer((ROWS * G, 16), "float32", scope="local")
            norm = T.sblock_alloc_buffer((ROWS * G,), "float32", scope="local")
            out = T.sblock_alloc_buffer((ROWS * G, 16), "float32", scope="local")
            length: T.let = T.Cast("int64", POS[row]) + T.int64(1)
            for i in T.unroll(ROWS * G):
                top.vstore([i, 0], splat(-1e30))
            for p in T.serial((length + (ROWS - 1 + PAGE - 1)) // PAGE):
                page: T.let = PT[seq, p]
                for i in T.unroll(ROWS * G):
                    for j in T.unroll(4):
                        dot.vstore([i, j, 0], splat(0.0))
                for d in T.serial(D // 4):
                    for j in T.unroll(4):
                        key: T.let = KP.vload([page, layer, h, d * 4 + j, 0], F32)
                        for i in T.unroll(ROWS * G):
                            query: T.let = splat(Q[row + i // G, (h * G + i % G) * D + d * 4 + j])
                            dot.vstore(
                                [i, j, 0], isa.mul_add(query, key, dot.vload([i, j, 0], F32))
                            )
                for i in T.unroll(ROWS * G):
                    left: T.let = dot.vload([i, 0, 0], F32) + dot.vload([i, 1, 0], F32)
                    right: T.let = dot.vload([i, 2, 0], F32) + dot.vload([i, 3, 0], F32)
                    seen: T.let = T.Select(
                        T.ramp(p * PAGE, T.int64(1), 16)
                        < T.broadcast(length + T.Cast("int64", i // G), 16),
                        (left + right) * splat(scale),
                        splat(-1e30),
                    )
                    score.vstore([i, p * PAGE], seen)
                    top.vstore([i, 0], T.max(top.vload([i, 0], F32), seen))
            for i in T.unroll(ROWS * G):
                norm[i] = hmax(top.vload([i, 0], F32))
                total.vstore([i, 0], splat(0.0))
                for p in T.serial((length + T.Cast("int64", i // G) + (PAGE - 1)) // PAGE):
                    seen: T.let = score.vload([i, p * PAGE], F32)
                    below: T.let = T.max(seen - splat(norm[i]), splat(-126.0))
                    power: T.let = T.Select(seen > splat(-1e29), isa.exp2(below), splat(0.0))
                    score.vstore([i, p * PAGE], power)
                    total.vstore([i, 0], total.vload([i, 0], F32) + power)
                norm[i] = T.float32(0)
                for t in T.unroll(16):
                    norm[i] = norm[i] + total[i, t]
            for d in T.serial(D // 16):
                for i in T.unroll(ROWS * G):
                    out.vstore([i, 0], splat(0.0))
                for t in T.serial(length):
                    value: T.let = VP.vload([PT[seq, t // PAGE], layer, h, t % PAGE, d * 16], F32)
                    for i in T.unroll(ROWS * G):
                        out.vstore(
                            [i, 0], isa.mul_add(splat(score[i, t]), value, out.vload([i, 0], F32))
                        )
                # Row k sees k keys more than the first.
                for j in T.unroll(ROWS - 1):
                    more: T.let = length + T.Cast("int64", j)
                    value: T.let = VP.vload(
                        [PT[seq, more // PAGE], layer, h, more % PAGE, d * 16], F32
                    )
                    for i in T.unroll(ROWS * G):
                        if i // G > j:
                            out.vstore(
                                [i, 0],
                                isa.mul_add(splat(score[i, more]), value, out.vload([i, 0], F32)),
                            )
                for i in T.unroll(ROWS * G):
                    Y.vstore(
                        [row + i // G, (h * G + i % G) * D + d * 16],
                        out.vload([i, 0], F32) / splat(norm[i]),
                    )

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
        KP = T.match_buffer(k_pages, (P, LAYERS, HKV, D, PAGE), "float32")
        VP = T.match_buffer(v_pages, (P, LAYERS, HKV, PAGE, D), "float32")
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

    return attention.with_attr("global_symbol", f"attention_{HQ}_{HKV}_{D}")
