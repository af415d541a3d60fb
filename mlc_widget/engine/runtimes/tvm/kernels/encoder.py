# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""Kernels that only encoders (BERT) need: LayerNorm and GELU."""

from __future__ import annotations

import math
from typing import Any

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.kernels.isa import F32, LOG2E, Isa, in_registers, pad, splat

# erf(z) = 1 - t (a1 + t (a2 + …)) e^(-z²), t = 1 / (1 + p z), z ≥ 0; error below 1.5e-7.
# Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26.
_P = 0.3275911
_A = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)


def make_layer_norm(H: int, eps: float, isa: Isa, *, terms: int = 1) -> Any:
    """LayerNorm of a sum: y = (x - mean) · rsqrt(var + eps) · w + b, x = x0 (+ x1 + x2).

    Shapes: x0, x1, x2 (n, HP) float32 with HP = pad(H), the first `terms` (1 or 3) of them; w, b
    (HP,) float32; y (n, HP) float32. Padding of x, w and b is zero, and so is that of y. Order:
    (x0 + x1) + x2; lane l sums x[l], x[16 + l], … ascending, then lanes 0 … 15 ascending, for the
    mean; then the squares of the differences likewise for the variance.
    """
    HP = pad(H)

    def kept(value: Any, k: Any) -> Any:
        """The value, but zero in the padding, where x - mean would not be zero."""
        if HP == H:
            return value
        at = T.ramp(T.Cast("int32", k) * 16, T.int32(1), 16)
        return T.Select(at < T.broadcast(T.int32(H), 16), value, splat(0.0))

    @T.inline
    def lanes(sums, out):
        out[0] = T.float32(0)
        for k in T.unroll(16):
            out[0] = out[0] + sums[k]

    @T.inline
    def row(X0, X1, X2, W, B, Y, i):
        with T.sblock("row"):
            T.reads()
            T.writes()
            sums = in_registers((16,))
            mean = in_registers((1,))
            inv = in_registers((1,))
            sums.vstore([0], splat(0.0))
            for k in T.serial(HP // 16):
                x: T.let = X0.vload([i, k * 16], F32)
                if terms == 3:
                    y: T.let = (x + X1.vload([i, k * 16], F32)) + X2.vload([i, k * 16], F32)
                    Y.vstore([i, k * 16], y)
                    sums.vstore([0], sums.vload([0], F32) + y)
                else:
                    Y.vstore([i, k * 16], x)
                    sums.vstore([0], sums.vload([0], F32) + x)
            lanes(sums, mean)
            mean[0] = mean[0] / T.float32(H)
            sums.vstore([0], splat(0.0))
            for k in T.serial(HP // 16):
                d: T.let = kept(Y.vload([i, k * 16], F32) - splat(mean[0]), k)
                sums.vstore([0], isa.mul_add(d, d, sums.vload([0], F32)))
            lanes(sums, inv)
            inv[0] = T.float32(1) / T.sqrt(inv[0] / T.float32(H) + T.float32(eps))
            for k in T.serial(HP // 16):
                scaled: T.let = (Y.vload([i, k * 16], F32) - splat(mean[0])) * splat(inv[0])
                Y.vstore(
                    [i, k * 16],
                    isa.mul_add(scaled, W.vload([k * 16], F32), B.vload([k * 16], F32)),
                )

    if terms == 3:

        @T.prim_func(s_tir=True)
        def layer_norm(
            x0: T.handle, x1: T.handle, x2: T.handle, w: T.handle, b: T.handle, y: T.handle
        ):
            T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
            n = T.int64()
            X0 = T.match_buffer(x0, (n, HP), "float32")
            X1 = T.match_buffer(x1, (n, HP), "float32")
            X2 = T.match_buffer(x2, (n, HP), "float32")
            W = T.match_buffer(w, (HP,), "float32")
            B = T.match_buffer(b, (HP,), "float32")
            Y = T.match_buffer(y, (n, HP), "float32")
            for i in T.serial(n):
                row(X0, X1, X2, W, B, Y, i)

    else:

        @T.prim_func(s_tir=True)
        def layer_norm(x0: T.handle, w: T.handle, b: T.handle, y: T.handle):
            T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
            n = T.int64()
            X0 = T.match_buffer(x0, (n, HP), "float32")
            W = T.match_buffer(w, (HP,), "float32")
            B = T.match_buffer(b, (HP,), "float32")
            Y = T.match_buffer(y, (n, HP), "float32")
            for i in T.serial(n):
                row(X0, None, None, W, B, Y, i)

    return layer_norm.with_attr("global_symbol", f"layer_norm_{terms}_{H}")


def make_gelu(HP: int, isa: Isa) -> Any:
    """GELU: y = x/2 · (1 + erf(x / √2)), lane by lane.

    Shapes: x, y (n, HP) float32, HP a padded size; zero stays zero.
    """

    @T.inline
    def row(X, Y, i):
        with T.sblock("row"):
            T.reads()
            T.writes()
            for k in T.serial(HP // 16):
                x: T.let = X.vload([i, k * 16], F32)
                z: T.let = T.min(T.max(x, splat(0.0) - x) * splat(math.sqrt(0.5)), splat(9.0))
                t: T.let = splat(1.0) / isa.mul_add(splat(_P), z, splat(1.0))
                poly: T.let = _horner(t, isa)
                tail: T.let = poly * t * isa.exp2(z * z * splat(-LOG2E))
                # 1 + erf(x/√2) is 2 - tail for x ≥ 0 and tail below.
                both: T.let = T.Select(x < splat(0.0), tail, splat(2.0) - tail)
                Y.vstore([i, k * 16], x * splat(0.5) * both)

    @T.prim_func(s_tir=True)
    def gelu(x: T.handle, y: T.handle):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        n = T.int64()
        X = T.match_buffer(x, (n, HP), "float32")
        Y = T.match_buffer(y, (n, HP), "float32")
        for i in T.parallel(n):
            row(X, Y, i)

    return gelu.with_attr("global_symbol", f"gelu_{HP}")


def _horner(t: Any, isa: Isa) -> Any:
    total = splat(_A[0])
    for a in _A[1:]:
        total = isa.mul_add(total, t, splat(a))
    return total
