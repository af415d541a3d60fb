# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""Paged attention in float32 with one row per tile, on pages in the CPU's layout."""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.cuda.intrinsics import (
    WARP,
    capped,
    f32,
    shuffle,
    shuffle_xor,
)
from mlc_widget.engine.runtimes.tvm.kernels.isa import LOG2E, pad
from mlc_widget.engine.runtimes.tvm.kernels.rope import Rotation
from mlc_widget.engine.runtimes.tvm.layouts import PAGE

THREADS = 256
WARPS = THREADS // WARP


def make_rope_append(HQ: int, HKV: int, D: int, dtype: str, rotation: Rotation) -> Any:
    """Like the CPU's `make_rope_append`, with a block per row and a thread per pair or value."""
    R, HALF, REST = rotation.dims, rotation.dims // 2, D - rotation.dims
    WIDTH = rotation.width or HALF
    PAIRS = (HQ + HKV) * HALF
    KEPT = PAIRS + (HQ + HKV) * REST  # those that are not rotated
    TOTAL = KEPT + HKV * D

    @T.inline
    def pair(QKV, COS, SIN, POS, Q, KP, C, layer, i, page, offset, at):
        """Rotate a pair of a head's dimensions."""
        h: T.let = at // HALF
        d: T.let = at % HALF
        angle: T.let = rotation.row(POS[i], C)
        a: T.let = QKV[i, h * D + d]
        b: T.let = QKV[i, h * D + HALF + d]
        c: T.let = COS[angle, d]
        s: T.let = SIN[angle, d]
        if h < HQ:
            Q[i, h * D + d] = a * c - b * s
            Q[i, h * D + HALF + d] = b * c + a * s
        else:
            KP[page, layer, h - HQ, d, offset] = T.Cast(dtype, a * c - b * s)
            KP[page, layer, h - HQ, HALF + d, offset] = T.Cast(dtype, b * c + a * s)

    @T.inline
    def kept(QKV, Q, KP, layer, i, page, offset, at):
        """Copy a dimension that is not rotated."""
        h: T.let = at // REST
        d: T.let = R + at % REST
        if h < HQ:
            Q[i, h * D + d] = QKV[i, h * D + d]
        else:
            KP[page, layer, h - HQ, d, offset] = T.Cast(dtype, QKV[i, h * D + d])

    @T.inline
    def value(QKV, VP, layer, i, page, offset, at):
        VP[page, layer, at // D, offset, at % D] = T.Cast(dtype, QKV[i, (HQ + HKV) * D + at])

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
        PAGES = T.int64()
        QKV = T.match_buffer(qkv, (n, pad((HQ + 2 * HKV) * D)), "float32")
        COS = T.match_buffer(cos, (C, WIDTH), "float32")
        SIN = T.match_buffer(sin, (C, WIDTH), "float32")
        POS = T.match_buffer(position, (n,), "int32")
        SLOT = T.match_buffer(slot, (n,), "int32")
        KP = T.match_buffer(k_pages, (PAGES, LAYERS, HKV, D, PAGE), dtype)
        VP = T.match_buffer(v_pages, (PAGES, LAYERS, HKV, PAGE, D), dtype)
        Q = T.match_buffer(q, (n, HQ * D), "float32")
        for i in T.thread_binding(n, thread="blockIdx.y"):
            for bx in T.thread_binding(-(-TOTAL // THREADS), thread="blockIdx.x"):
                for tx in T.thread_binding(THREADS, thread="threadIdx.x"):
                    with T.sblock("pair"):
                        T.reads()
                        T.writes()
                        at: T.let = bx * THREADS + tx
                        page: T.let = SLOT[i] // PAGE
                        offset: T.let = SLOT[i] % PAGE
                        if HALF > 0 and at < PAIRS:
                            pair(QKV, COS, SIN, POS, Q, KP, C, layer, i, page, offset, at)
                        if REST > 0 and at >= PAIRS and at < KEPT:
                            kept(QKV, Q, KP, layer, i, page, offset, at - PAIRS)
                        if at >= KEPT and at < TOTAL:
                            value(QKV, VP, layer, i, page, offset, at - KEPT)

    name = f"rope_append_{HQ}_{HKV}_{D}{rotation.suffix(D)}"
    return rope_append.with_attr("global_symbol", name)


def make_attention(
    HQ: int,
    HKV: int,
    D: int,
    dtype: str,
    window: int | None,
    *,
    scale: float | None = None,
    cap: float | None = None,
) -> Any:
    """Like the CPU's `make_attention` with one row per tile, and a block per row and query head.

    Warp w takes pages w, w + 8, … of those that the row sees, ascending, and keeps for them the
    running maximum m, the sum l of 2 ^ (score - m) lane by lane, and the output. Finally the lanes'
    sums are added in a tree, and the warps' results in ascending order. In a page, lanes t and
    t + 16 each compute the dot product of key t over half of the dimensions.
    """
    G, HALF, DV = HQ // HKV, D // 2, -(-D // WARP)
    PADDING = pad(HQ * D) - HQ * D
    factor = float((scale or D**-0.5) * LOG2E)

    def scored(product: Any) -> Any:
        return product if cap is None else capped(product, cap * LOG2E)

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
        PAGES = T.int64()
        SEQUENCES = T.int64()
        max_pages = T.int64()
        tiles = T.int64()
        Q = T.match_buffer(q, (n, HQ * D), "float32")
        KP = T.match_buffer(k_pages, (PAGES, LAYERS, HKV, D, PAGE), dtype)
        VP = T.match_buffer(v_pages, (PAGES, LAYERS, HKV, PAGE, D), dtype)
        POS = T.match_buffer(position, (n,), "int32")
        PT = T.match_buffer(page_table, (SEQUENCES, max_pages), "int32")
        TILE = T.match_buffer(tile, (tiles, 3), "int32")
        Y = T.match_buffer(y, (n, pad(HQ * D)), "float32")
        for bt in T.thread_binding(tiles, thread="blockIdx.x"):
            for h in T.thread_binding(HQ, thread="blockIdx.y"):
                for tx in T.thread_binding(THREADS, thread="threadIdx.x"):
                    with T.sblock("attention"):
                        T.reads()
                        T.writes()
                        query = T.sblock_alloc_buffer((D,), "float32", scope="shared")
                        outs = T.sblock_alloc_buffer((WARPS, D), "float32", scope="shared")
                        tops = T.sblock_alloc_buffer((WARPS,), "float32", scope="shared")
                        sums = T.sblock_alloc_buffer((WARPS,), "float32", scope="shared")
                        out = T.sblock_alloc_buffer((DV,), "float32", scope="local")
                        score = T.sblock_alloc_buffer((1,), "float32", scope="local")
                        most = T.sblock_alloc_buffer((1,), "float32", scope="local")
                        top = T.sblock_alloc_buffer((1,), "float32", scope="local")
                        total = T.sblock_alloc_buffer((1,), "float32", scope="local")
                        row: T.let = TILE[bt, 0]
                        seq: T.let = TILE[bt, 2]
                        pos: T.let = POS[row]
                        first: T.let = (
                            T.max(pos + 1 - window, 0) if window is not None else T.int32(0)
                        )
                        lane: T.let = tx % WARP
                        warp: T.let = tx // WARP
                        key: T.let = lane % PAGE
                        half: T.let = lane // PAGE
                        pages: T.let = pos // PAGE + 1
                        begin: T.let = first // PAGE
                        for j in T.unroll(-(-D // THREADS)):
                            if j * THREADS + tx < D:
                                query[j * THREADS + tx] = Q[
                                    row, h * D + j * THREADS + tx
                                ] * T.float32(factor)
                        T.evaluate(T.tvm_storage_sync("shared"))
                        top[0] = T.float32(-1e30)
                        total[0] = T.float32(0)
                        for j in T.unroll(DV):
                            out[j] = T.float32(0)
                        for i in T.serial((pages - begin + (WARPS - 1)) // WARPS):
                            p: T.let = begin + i * WARPS + T.Cast("int32", warp)
                            if p < pages:
                                page: T.let = PT[seq, p]
                                at: T.let = p * PAGE + T.Cast("int32", key)
                                score[0] = T.float32(0)
                                for d in T.unroll(HALF):
                                    score[0] = score[0] + query[half * HALF + d] * f32(
                                        KP[page, layer, h // G, half * HALF + d, key]
                                    )
                                score[0] = scored(score[0] + shuffle_xor(score[0], 16))
                                if at > pos or at < first:
                                    score[0] = T.float32(-1e30)
                                most[0] = T.max(score[0], shuffle_xor(score[0], 8))
                                most[0] = T.max(most[0], shuffle_xor(most[0], 4))
                                most[0] = T.max(most[0], shuffle_xor(most[0], 2))
                                most[0] = T.max(most[0], shuffle_xor(most[0], 1))
                                most[0] = T.max(most[0], top[0])
                                shrink: T.let = T.exp2(top[0] - most[0])
                                top[0] = most[0]
                                score[0] = T.exp2(score[0] - most[0])
                                total[0] = total[0] * shrink + score[0]
                                for j in T.unroll(DV):
                                    out[j] = out[j] * shrink
                                for t in T.unroll(PAGE):
                                    share: T.let = shuffle(score[0], t)
                                    for j in T.unroll(DV):
                                        if j * WARP + lane < D and p * PAGE + t <= pos:
                                            out[j] = out[j] + share * f32(
                                                VP[page, layer, h // G, t, j * WARP + lane]
                                            )
                        total[0] = total[0] + shuffle_xor(total[0], 8)
                        total[0] = total[0] + shuffle_xor(total[0], 4)
                        total[0] = total[0] + shuffle_xor(total[0], 2)
                        total[0] = total[0] + shuffle_xor(total[0], 1)
                        if lane == 0:
                            tops[warp] = top[0]
                            sums[warp] = total[0]
                        for j in T.unroll(DV):
                            if j * WARP + lane < D:
                                outs[warp, j * WARP + lane] = out[j]
                        T.evaluate(T.tvm_storage_sync("shared"))
                        most[0] = tops[0]
                        for w in T.unroll(WARPS - 1):
                            most[0] = T.max(most[0], tops[w + 1])
                        for j in T.unroll(-(-D // THREADS)):
                            if j * THREADS + tx < D:
                                score[0] = T.float32(0)
                                total[0] = T.float32(0)
                                for w in T.unroll(WARPS):
                                    weight: T.let = T.exp2(tops[w] - most[0])
                                    total[0] = total[0] + sums[w] * weight
                                    score[0] = score[0] + outs[w, j * THREADS + tx] * weight
                                Y[row, h * D + j * THREADS + tx] = score[0] / total[0]
                        if h == HQ - 1 and tx < PADDING:
                            Y[row, HQ * D + tx] = T.float32(0)

    name = f"attention_{HQ}_{HKV}_{D}_{window or 0}"
    return attention.with_attr("global_symbol", name + ("" if cap is None else "_capped"))
