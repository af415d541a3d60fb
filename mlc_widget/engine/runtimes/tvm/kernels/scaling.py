# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""Multiplication with a constant, and soft caps: cap · tanh(x / cap)."""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.kernels.isa import F32, LOG2E, Isa, splat


def capped(x: Any, cap: float, isa: Isa) -> Any:
    """``cap * tanh(x / cap)`` of 16 lanes, with an absolute error of about 1e-7 cap."""
    power = T.min(T.max(x * splat(2 * LOG2E / cap), splat(-126.0)), splat(126.0))
    return splat(cap) - splat(2 * cap) / (splat(1.0) + isa.exp2(power))


def make_scale(H: int, factor: float, isa: Isa, *, added: bool) -> Any:
    """Scale: y = factor · x, or y = r + factor · x if `added`.

    Shapes: x, r, y (n, H) float32, H a padded size.
    """

    @T.inline
    def row(X, R, Y, i):
        with T.sblock("row"):
            T.reads()
            T.writes()
            for k in T.serial(H // 16):
                x: T.let = X.vload([i, k * 16], F32)
                if added:
                    Y.vstore([i, k * 16], isa.mul_add(x, splat(factor), R.vload([i, k * 16], F32)))
                else:
                    Y.vstore([i, k * 16], x * splat(factor))

    if added:

        @T.prim_func(s_tir=True)
        def scale(x: T.handle, r: T.handle, y: T.handle):
            T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
            n = T.int64()
            X = T.match_buffer(x, (n, H), "float32")
            R = T.match_buffer(r, (n, H), "float32")
            Y = T.match_buffer(y, (n, H), "float32")
            for i in T.serial(n):
                row(X, R, Y, i)

    else:

        @T.prim_func(s_tir=True)
        def scale(x: T.handle, y: T.handle):
            T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
            n = T.int64()
            X = T.match_buffer(x, (n, H), "float32")
            Y = T.match_buffer(y, (n, H), "float32")
            for i in T.serial(n):
                row(X, None, Y, i)

    return scale.with_attr("global_symbol", f"scale_{H}" + ("_add" if added else ""))


def make_finish_logits(V: int, factor: float, cap: float | None, isa: Isa) -> Any:
    """Scale in place, y = factor · y, and then the soft cap, if there is one.

    Shapes: y (m, V) float32, V a padded size.
    """

    @T.prim_func(s_tir=True)
    def finish_logits(y: T.handle):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        m = T.int64()
        Y = T.match_buffer(y, (m, V), "float32")
        for i in T.serial(m):
            for k in T.parallel(V // 16):
                with T.sblock("lanes"):
                    T.reads()
                    T.writes()
                    x: T.let = Y.vload([i, k * 16], F32) * splat(factor)
                    Y.vstore([i, k * 16], x if cap is None else capped(x, cap, isa))

    return finish_logits.with_attr("global_symbol", f"finish_logits_{V}")
