# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""SiLU · mul: y = a / (1 + exp(-a)) · b."""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.kernels.isa import F32, LOG2E, Isa, splat


def make_silu_mul(IP: int, isa: Isa) -> Any:
    """Gate and multiply, lane by lane.

    Shapes: x (M, 2 IP) float32, of which the first IP features are the gate; y (M, IP) float32. IP
    is a padded size. The argument of exp is clamped to the range of float32, which does not change
    a result that differs from 0 and from a · b in float32.
    """

    @T.inline
    def row(X, Y, m):
        with T.sblock("row"):
            T.reads()
            T.writes()
            for k in T.serial(IP // 16):
                a: T.let = X.vload([m, k * 16], F32)
                power: T.let = T.min(T.max(a * splat(-LOG2E), splat(-126.0)), splat(126.0))
                gate: T.let = a / (splat(1.0) + isa.exp2(power))
                Y.vstore([m, k * 16], gate * X.vload([m, IP + k * 16], F32))

    @T.prim_func(s_tir=True)
    def silu_mul(x: T.handle, y: T.handle):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        M = T.int64()
        X = T.match_buffer(x, (M, 2 * IP), "float32")
        Y = T.match_buffer(y, (M, IP), "float32")
        if M > 8:
            for m in T.parallel(M):
                row(X, Y, m)
        else:
            for m in T.serial(M):
                row(X, Y, m)

    return silu_mul.with_attr("global_symbol", f"silu_mul_{IP}")
