# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""Attention of new rows on tensor cores: rotary embedding, the pages, and attention over them.

Where each row is of a sequence of its own and its keys are not cut into parts, as in decode steps
of short contexts, a block of attention makes the queries, the key and the value of its heads
itself, so that it need not wait for another kernel. Otherwise `tensor_rope` does so for all rows
first. Both round in the same way. The CUDA source is in ``append.cuh``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.cuda.intrinsics import ROTATE, fetch_int, named, namespaced
from mlc_widget.engine.runtimes.tvm.cuda.parts import FEW_ROWS, heads_of
from mlc_widget.engine.runtimes.tvm.cuda.tensor_attention import (
    blocks_of,
    make_tile,
    threads_of,
)
from mlc_widget.engine.runtimes.tvm.cuda.tensor_attention_many import make_tiles, serves
from mlc_widget.engine.runtimes.tvm.cuda.tensor_rope import (
    THREADS,
    factor_of,
    make_rope_append,
)
from mlc_widget.engine.runtimes.tvm.kernels.isa import pad
from mlc_widget.engine.runtimes.tvm.kernels.rope import Rotation
from mlc_widget.engine.runtimes.tvm.layouts import PAGE

_SOURCE = namespaced("append.cuh", "append", ROTATE)


@dataclass(frozen=True, slots=True)
class OwnRow:
    """What `tensor_attention.make_tile` has its blocks make of a row.

    Attributes:
        HQ: Query heads.
        HKV: Key heads.
        D: The dimension of a head.
        rotation: How queries and keys are rotated.
        scale: The factor of the scores; None for ``D ** -0.5``.
    """

    HQ: int
    HKV: int
    D: int
    rotation: Rotation
    scale: float | None

    def append(
        self, own: Any, QKV: Any, COS: Any, SIN: Any, SLOT: Any, KP: Any, VP: Any, layer: Any,
        C: Any, row: Any, position: Any, head: Any, part: Any,
    ) -> Any:  # fmt: skip
        """Make the queries from number `part` on of key head `head` of a row, its key and value.

        Where several blocks share a key head, each of them writes the same key and value, as it
        reads them.
        """
        group = self.HQ // self.HKV
        numbers = (self.HQ, self.HKV, self.D, self.rotation.dims, heads_of(group))
        slot = fetch_int(T.address_of(SLOT[row]))
        angle = self.rotation.row(position, C)
        return T.cuda.func_call(
            f"append::append_row<{', '.join(map(str, numbers))}, {threads_of(self.D)}>",
            T.address_of(own[0]),
            T.address_of(QKV[row, 0]),
            T.address_of(COS[angle, 0]),
            T.address_of(SIN[angle, 0]),
            T.address_of(KP[slot // PAGE, layer, head, 0, 0]),
            T.address_of(VP[slot // PAGE, layer, head, 0, 0]),
            T.Cast("int32", head * group + part),
            T.Cast("int32", head),
            slot % PAGE,
            T.float32(factor_of(self.D, self.scale)),
            source_code=_SOURCE,
        )


def make_append_attention(
    HQ: int,
    HKV: int,
    D: int,
    rotation: Rotation,
    window: int | None,
    *,
    scale: float | None = None,
    cap: float | None = None,
    overlapped: bool = False,
    many: bool = False,
) -> Any:
    """A PrimFunc (qkv, cos, sin, …, y, q, ended, partial).

    Shapes as those of `attention.make_rope_append` and `tensor_attention.make_tensor_attention`.
    It uses q, `ended` and `partial` for what one kernel leaves for another. With `many`, for
    Hopper, a tile has up to `tensor_attention_many.most_rows` in steps of more than `FEW_ROWS`.
    """
    BLOCKS, ATTENDING, WIDTH = (
        blocks_of(HQ, HKV),
        threads_of(D),
        rotation.width or rotation.dims // 2,
    )
    append, ROPE_BLOCKS = make_rope_append(HQ, HKV, D, rotation, scale)
    tile_of = make_tile(HQ, HKV, D, window, cap)
    many_of = make_tiles(HQ, HKV, D, window, cap) if many and serves(D) else tile_of
    row_of = make_tile(HQ, HKV, D, window, cap, OwnRow(HQ, HKV, D, rotation, scale).append)

    def launch(tile: Any, *, last_first: bool = False) -> Any:
        @T.inline
        def blocks(Q, KP, VP, POS, PT, TILE, ENDED, Y, PARTIAL, layer, tiles):
            for bt in T.thread_binding(tiles, thread="blockIdx.x"):
                for by in T.thread_binding(BLOCKS, thread="blockIdx.y"):
                    for tx in T.thread_binding(ATTENDING, thread="threadIdx.x"):
                        at: T.let = tiles - 1 - bt if last_first else bt
                        tile(Q, KP, VP, POS, PT, TILE, ENDED, Y, PARTIAL, layer, at, by, tx)

        return blocks

    # A prompt's last rows have the most keys.
    few, more = launch(tile_of), launch(many_of, last_first=True)

    @T.inline
    def by_rows(Q, KP, VP, POS, PT, TILE, ENDED, Y, PARTIAL, layer, tiles, n):
        if n <= FEW_ROWS:
            few(Q, KP, VP, POS, PT, TILE, ENDED, Y, PARTIAL, layer, tiles)
        else:
            more(Q, KP, VP, POS, PT, TILE, ENDED, Y, PARTIAL, layer, tiles)

    @T.inline
    def all_rows(Q, KP, VP, POS, PT, TILE, ENDED, Y, PARTIAL, layer, tiles, n):
        few(Q, KP, VP, POS, PT, TILE, ENDED, Y, PARTIAL, layer, tiles)

    attend = all_rows if many_of is tile_of else by_rows

    @T.prim_func(s_tir=True)
    def attention(
        qkv: T.handle,
        cos: T.handle,
        sin: T.handle,
        position: T.handle,
        slot: T.handle,
        k_pages: T.handle,
        v_pages: T.handle,
        page_table: T.handle,
        tile: T.handle,
        layer: T.int64,
        y: T.handle,
        q: T.handle,
        ended: T.handle,
        partial: T.handle,
    ):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        n = T.int64()
        C = T.int64()
        LAYERS = T.int64()
        PAGES = T.int64()
        SEQUENCES = T.int64()
        max_pages = T.int64()
        tiles = T.int64()
        QKV = T.match_buffer(qkv, (n, pad((HQ + 2 * HKV) * D)), "float32")
        COS = T.match_buffer(cos, (C, WIDTH), "float32")
        SIN = T.match_buffer(sin, (C, WIDTH), "float32")
        POS = T.match_buffer(position, (n,), "int32")
        SLOT = T.match_buffer(slot, (n,), "int32")
        KP = T.match_buffer(k_pages, (PAGES, LAYERS, HKV, D, PAGE), "float16")
        VP = T.match_buffer(v_pages, (PAGES, LAYERS, HKV, PAGE, D), "float16")
        PT = T.match_buffer(page_table, (SEQUENCES, max_pages), "int32")
        TILE = T.match_buffer(tile, (tiles, 3), "int32")
        Y = T.match_buffer(y, (n, pad(HQ * D)), "float16")
        Q = T.match_buffer(q, (n, HQ * D), "float16")
        ENDED = T.match_buffer(ended, (n, BLOCKS), "int32")
        PARTIAL = T.match_buffer(partial, (tiles, HQ, D + 2), "float32")
        if T.And(n == SEQUENCES, n == tiles):
            for bt in T.thread_binding(tiles, thread="blockIdx.x"):
                for by in T.thread_binding(BLOCKS, thread="blockIdx.y"):
                    for tx in T.thread_binding(ATTENDING, thread="threadIdx.x"):
                        row_of(
                            QKV, COS, SIN, SLOT, C, KP, VP, POS, PT, TILE, ENDED, Y, PARTIAL,
                            layer, bt, by, tx,
                        )  # fmt: skip
        else:
            for i in T.thread_binding(n, thread="blockIdx.y"):
                for bx in T.thread_binding(ROPE_BLOCKS, thread="blockIdx.x"):
                    for tx in T.thread_binding(THREADS, thread="threadIdx.x"):
                        append(QKV, COS, SIN, POS, SLOT, KP, VP, Q, ENDED, C, layer, i, bx, tx)
            attend(Q, KP, VP, POS, PT, TILE, ENDED, Y, PARTIAL, layer, tiles, n)

    name = f"tensor_attention_{HQ}_{HKV}_{D}_{window or 0}{rotation.suffix(D)}"
    return named(attention, name + ("" if cap is None else "_capped"), overlapped=overlapped)
