# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""Activations, alone and multiplied with a second tensor: y = f(a) · b.

silu(a) = a / (1 + exp(-a)); gelu(a) = a/2 · (1 + erf(a / √2)); gelu_tanh is its approximation
a / (1 + exp(-2 √(2/π) (a + 0.044715 a³))). The arguments of exp are clamped to the range of
float32, which does not change a result that differs from 0 and from a · b in float32.
"""

from __future__ import annotations

import math
from typing import Any

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.kernels.isa import F32, LOG2E, Isa, splat

# erf(z) = 1 - t (a1 + t (a2 + …)) e^(-z²), t = 1 / (1 + p z), z ≥ 0; error below 1.5e-7.
# Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26.
_P = 0.3275911
_A = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)
_TANH = -2 * LOG2E * math.sqrt(2 / math.pi)


def activated(a: Any, kind: str, isa: Isa) -> Any:
    """``kind(a)`` of 16 lanes, for kind silu, gelu or gelu_tanh."""
    if kind == "gelu":
        return _gelu(a, isa)
    power = a * splat(-LOG2E)
    if kind == "gelu_tanh":
        power = isa.mul_add(a * a * splat(0.044715), a, a) * splat(_TANH)
    power = T.min(T.max(power, splat(-126.0)), splat(126.0))
    return a / (splat(1.0) + isa.exp2(power))


def _gelu(x: Any, isa: Isa) -> Any:
    z = T.min(T.max(x, splat(0.0) - x) * splat(math.sqrt(0.5)), splat(9.0))
    t = splat(1.0) / isa.mul_add(splat(_P), z, splat(1.0))
    poly = splat(_A[0])
    for a in _A[1:]:
        poly = isa.mul_add(poly, t, splat(a))
    tail = poly * t * isa.exp2(z * z * splat(-LOG2E))
    # 1 + erf(x/√2) is 2 - tail for x ≥ 0 and tail below.
    both = T.Select(x < splat(0.0), tail, splat(2.0) - tail)
    return x * splat(0.5) * both


def make_activation(HP: int, kind: str, isa: Isa) -> Any:
    """Activate, lane by lane: y = kind(x).

    Shapes: x, y (n, HP) float32, HP a padded size; zero stays zero.
    """

    @T.inline
    def row(X, Y, i):
        with T.sblock("row"):
            T.reads()
            T.writes()
            for k in T.serial(HP // 16):
                x: T.let = X.vload([i, k * 16], F32)
                Y.vstore([i, k * 16], activated(x, kind, isa))

    @T.prim_func(s_tir=True)
    def activation(x: T.handle, y: T.handle):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        n = T.int64()
        X = T.match_buffer(x, (n, HP), "float32")
        Y = T.match_buffer(y, (n, HP), "float32")
        for i in T.parallel(n):
            row(X, Y, i)

    return activation.with_attr("global_symbol", f"{kind}_{HP}")


def make_gate(IP: int, kind: str, isa: Isa) -> Any:
    """Activate the gate and multiply, lane by lane: y = kind(a) · b.

    Shapes: x (M, 2 IP) float32, of which the first IP features are the gate; y (M, IP) float32. IP
    is a padded size.
    """

    @T.inline
    def row(X, Y, m):
        with T.sblock("row"):
            T.reads()
            T.writes()
            for k in T.serial(IP // 16):
                a: T.let = X.vload([m, k * 16], F32)
                gate: T.let = activated(a, kind, isa)
                Y.vstore([m, k * 16], gate * X.vload([m, IP + k * 16], F32))

    @T.prim_func(s_tir=True)
    def gate_mul(x: T.handle, y: T.handle):
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

    return gate_mul.with_attr("global_symbol", f"{kind}_mul_{IP}")
