# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""Attention of rows over the paged cache of `rope`.

Every row, of a prompt or of an answer, reads all its keys and values from the pages, in the order
of their positions. So the result does not depend on how a prompt was cut into chunks.
`attention_row` is for the single row of a decode step, which is limited by memory bandwidth;
`attention_tile` is for several rows, which are limited by arithmetic. Both compute the sums below,
bit for bit.
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.kernels.attention_row import make_row
from mlc_widget.engine.runtimes.tvm.kernels.attention_shape import TileShape
from mlc_widget.engine.runtimes.tvm.kernels.attention_tile import make_tile
from mlc_widget.engine.runtimes.tvm.kernels.isa import Isa, pad, splat
from mlc_widget.engine.runtimes.tvm.layouts import PAGE


def make_attention(
    HQ: int,
    HKV: int,
    D: int,
    isa: Isa,
    dtype: str = "float32",
    window: int | None = None,
    *,
    scale: float | None = None,
    cap: float | None = None,
) -> Any:
    """Causal attention over all positions up to a row's own, or over the last `window` of them.

    Shapes: q (n, HQ D) float32; k_pages (pages, layers, HKV, D, PAGE) and v_pages (pages, layers,
    HKV, PAGE, D) of `dtype`, float32 or float16; position (n,) int32; page_table (sequences,
    max_pages) int32; tile (tiles, 3) int32, each (first row, number of rows, sequence), where the
    rows have successive positions in one sequence; y (n, pad(HQ D)) float32, padded with zeros. The
    tiles together have all rows of q, and each has at most `isa.attention_rows(HQ / HKV)`.

    For one row and head, with the visible keys t = first … position and c = scale · log2(e), where
    scale is D^-1/2 by default:

        score[t] = c · (fma chain over d ascending, from 0), and its soft cap, if there is one
        m        = max score
        e[t]     = 2 ^ max(score[t] - m, -126)
        sum      = lane t % 16 sums its e[t], t ascending; then lanes 0 … 15 ascending
        y        = (fma chain of e[t] · v[t] over t ascending, from 0) / sum

    Each thread computes some pairs of a tile and a key head, with the tiles of a head next to each
    other, so that a sequence's next tile finds keys and values in the CPU's cache.
    """
    shape = TileShape(HQ, HKV, D, isa, dtype, window, scale, cap)
    row, several = make_row(shape), make_tile(shape)

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
        if n > tiles:
            for th in T.parallel(tiles * HKV):
                if TILE[th % tiles, 1] > 1:
                    several(
                        Q, KP, VP, POS, PT, Y, layer, TILE[th % tiles, 0], TILE[th % tiles, 1],
                        TILE[th % tiles, 2], th // tiles, max_pages,
                    )  # fmt: skip
        # A separate loop becomes a separate function; one for both would run out of registers.
        for th in T.parallel(tiles * HKV):
            if TILE[th % tiles, 1] == 1:
                row(
                    Q, KP, VP, POS, PT, Y, layer, TILE[th % tiles, 0], TILE[th % tiles, 2],
                    th // tiles, max_pages,
                )  # fmt: skip
        if pad(HQ * D) > HQ * D:
            for i in T.serial(n):
                Y.vstore([i, HQ * D], splat(0.0))

    name = f"attention_{HQ}_{HKV}_{D}_{dtype}" + (f"_window_{window}" if window else "")
    name += ("_scaled" if scale else "") + ("_capped" if cap else "")
    return attention.with_attr("global_symbol", name)
