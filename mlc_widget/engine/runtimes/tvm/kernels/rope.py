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

from typing import Any

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.kernels.isa import F32, Isa, in_registers, pad
from mlc_widget.engine.runtimes.tvm.layouts import PAGE


def make_rope_append(HQ: int, HKV: int, D: int, isa: Isa, dtype: str = "float32") -> Any:
    """Rotate queries and keys by their positions, and store keys and values in their pages.

    Shapes: qkv (n, pad((HQ + 2 HKV) D)) float32; cos, sin (positions, D/2) float32;
    position (n,) int32; slot (n,) int32, page · PAGE + offset; pages as above, of
    `dtype`; q (n, HQ D).
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
                key = in_registers((D,))
                for d in T.unroll(HALF // L):
                    a: T.let = QKV.vload([i, (HQ + h) * D + d * L], VEC)
                    b: T.let = QKV.vload([i, (HQ + h) * D + HALF + d * L], VEC)
                    c: T.let = COS.vload([POS[i], d * L], VEC)
                    s: T.let = SIN.vload([POS[i], d * L], VEC)
                    key.vstore([d * L], mul_add(a, c, T.float32(0) - b * s))
                    key.vstore([HALF + d * L], mul_add(b, c, a * s))
                for d in T.serial(D):
                    KP[page, layer, h, d, offset] = T.Cast(dtype, key[d])
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
        COS = T.match_buffer(cos, (C, HALF), "float32")
        SIN = T.match_buffer(sin, (C, HALF), "float32")
        POS = T.match_buffer(position, (n,), "int32")
        SLOT = T.match_buffer(slot, (n,), "int32")
        KP = T.match_buffer(k_pages, (P, LAYERS, HKV, D, PAGE), dtype)
        VP = T.match_buffer(v_pages, (P, LAYERS, HKV, PAGE, D), dtype)
        Q = T.match_buffer(q, (n, HQ * D), "float32")
        if n > 8:
            for i in T.parallel(n):
                row(QKV, COS, SIN, POS, SLOT, Q, KP, VP, layer, i)
        else:
            for i in T.serial(n):
                row(QKV, COS, SIN, POS, SLOT, Q, KP, VP, layer, i)

    return rope_append.with_attr("global_symbol", f"rope_append_{HQ}_{HKV}_{D}_{dtype}")
