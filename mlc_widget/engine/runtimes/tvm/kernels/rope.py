# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""Rotary embedding, and the paged cache of keys and values.

A page holds PAGE tokens of one sequence. Within a page, keys are dimension-major and values
token-major, so that attention reads whole vectors of both. All layers of a page are adjacent, so
that memory is used only as pages are:

    k_pages (pages, layers, kv heads, D, PAGE)      v_pages (pages, layers, kv heads, PAGE, D)

The dtype is float32 or float16, which takes half the memory and bandwidth, and rounds each key and
value to 11 bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.kernels.isa import F32, LANES, Isa, floats, in_registers, pad
from mlc_widget.engine.runtimes.tvm.layouts import PAGE


@dataclass(frozen=True, slots=True)
class Rotation:
    """How a layer rotates queries and keys.

    Attributes:
        dims: The number of dimensions of a head that are rotated, its first; 0 for none. It is
            even.
        table: The number of the table to use.
        tables: The number of tables, which lie one after the other.
        width: The number of columns of the tables; 0 for ``dims / 2``.
    """

    dims: int
    table: int = 0
    tables: int = 1
    width: int = 0

    def row(self, position: Any, rows: Any) -> Any:
        """The row of a position in this layer's table, of all tables' `rows`."""
        position = T.Cast("int64", position)
        if self.tables == 1:
            return position
        return rows // self.tables * self.table + position

    def suffix(self, head_dim: int) -> str:
        """The end of a kernel's name."""
        if (self.dims, self.tables) == (head_dim, 1):
            return ""
        return f"_rotate_{self.dims}_{self.table}_of_{self.tables}"


def make_rope_append(
    HQ: int,
    HKV: int,
    D: int,
    isa: Isa,
    dtype: str = "float32",
    rotation: Rotation | None = None,
) -> Any:
    """Rotate queries and keys by their positions, and store keys and values in their pages.

    Shapes: qkv (n, pad((HQ + 2 HKV) D)) float32; cos, sin (tables · positions, R/2) float32;
    position (n,) int32; slot (n,) int32, page · PAGE + offset; pages as above, of
    `dtype`; q (n, HQ D). The first R dimensions of a head are rotated, by default all D.
    Rotation (halves a, b of them): a' = fma(a, cos, -(b sin)), b' = fma(b, cos, a sin).
    """
    rotation = rotation or Rotation(D)
    R, HALF, REST = rotation.dims, rotation.dims // 2, D - rotation.dims
    WIDTH = rotation.width or HALF
    L, KEPT = math.gcd(HALF, LANES), math.gcd(REST, LANES)  # the lanes of their vectors
    VEC, AS_IS = floats(L), floats(KEPT)

    @T.inline
    def row(QKV, COS, SIN, POS, SLOT, Q, KP, VP, layer, C, i):
        with T.sblock("row"):
            T.reads()
            T.writes()
            page: T.let = SLOT[i] // PAGE
            offset: T.let = SLOT[i] % PAGE
            angle: T.let = rotation.row(POS[i], C)
            for h in T.serial(HQ):
                for d in T.unroll(HALF // L):
                    a: T.let = QKV.vload([i, h * D + d * L], VEC)
                    b: T.let = QKV.vload([i, h * D + HALF + d * L], VEC)
                    c: T.let = COS.vload([angle, d * L], VEC)
                    s: T.let = SIN.vload([angle, d * L], VEC)
                    Q.vstore([i, h * D + d * L], isa.mul_add(a, c, T.float32(0) - b * s, L))
                    Q.vstore([i, h * D + HALF + d * L], isa.mul_add(b, c, a * s, L))
                for d in T.unroll(REST // KEPT):
                    at: T.let = h * D + R + d * KEPT
                    Q.vstore([i, at], QKV.vload([i, at], AS_IS))
            for h in T.serial(HKV):
                # In two buffers, as TVM puts one of 1 KiB on the heap.
                low = in_registers((max(HALF, 1),))
                high = in_registers((max(HALF, 1),))
                for d in T.unroll(HALF // L):
                    a: T.let = QKV.vload([i, (HQ + h) * D + d * L], VEC)
                    b: T.let = QKV.vload([i, (HQ + h) * D + HALF + d * L], VEC)
                    c: T.let = COS.vload([angle, d * L], VEC)
                    s: T.let = SIN.vload([angle, d * L], VEC)
                    low.vstore([d * L], isa.mul_add(a, c, T.float32(0) - b * s, L))
                    high.vstore([d * L], isa.mul_add(b, c, a * s, L))
                for d in T.serial(HALF):
                    KP[page, layer, h, d, offset] = T.Cast(dtype, low[d])
                    KP[page, layer, h, HALF + d, offset] = T.Cast(dtype, high[d])
                for d in T.serial(REST):
                    KP[page, layer, h, R + d, offset] = T.Cast(dtype, QKV[i, (HQ + h) * D + R + d])
                for d in T.unroll(D // 16):
                    isa.store(
                        VP,
                        [page, layer, h, offset, d * 16],
                        QKV.vload([i, (HQ + HKV + h) * D + d * 16], F32),
                        dtype,
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
        COS = T.match_buffer(cos, (C, WIDTH), "float32")
        SIN = T.match_buffer(sin, (C, WIDTH), "float32")
        POS = T.match_buffer(position, (n,), "int32")
        SLOT = T.match_buffer(slot, (n,), "int32")
        KP = T.match_buffer(k_pages, (P, LAYERS, HKV, D, PAGE), dtype)
        VP = T.match_buffer(v_pages, (P, LAYERS, HKV, PAGE, D), dtype)
        Q = T.match_buffer(q, (n, HQ * D), "float32")
        if n > 8:
            for i in T.parallel(n):
                row(QKV, COS, SIN, POS, SLOT, Q, KP, VP, layer, C, i)
        else:
            for i in T.serial(n):
                row(QKV, COS, SIN, POS, SLOT, Q, KP, VP, layer, C, i)

    name = f"rope_append_{HQ}_{HKV}_{D}_{dtype}{rotation.suffix(D)}"
    return rope_append.with_attr("global_symbol", name)
