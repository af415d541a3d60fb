# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""Quantizes activations to 8-bit integers, alone or fused with the operation before.

A group of 32 features of a row becomes 32 int8 and a scale:

    scale = max |x| / 127,   q = round_half_even(x · (127 / max |x|)),   all 0 where max |x| is 0

The integers are in the order in which `matmul_int8` multiplies them with MLC's codes. Of the eight
4-bit codes in a word, masks select the even or the odd ones, so eight features are two int32 words,
whose bytes are features 0 2 4 6 and 1 3 5 7. A word of 8-bit codes has four in their order, and so
have activations that are made for these. At the end of a row are the values of its groups: the
bits of their scales, their offsets -zero · Σ q (where sums of products with MLC's codes begin), Σ q
for each of their halves, and the bits of Σ q as float32:

    q (M, `quantized_words(K)`) int32:
        K/4 words | K/32 scales | K/32 offsets | K/16 sums | K/32 float sums
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.kernels.activation import activated
from mlc_widget.engine.runtimes.tvm.kernels.isa import (
    F32,
    I32,
    Isa,
    hmax,
    in_registers,
    pad,
    splat,
)
from mlc_widget.engine.runtimes.tvm.kernels.norm import inverse_rms
from mlc_widget.engine.runtimes.tvm.quantization import zero_code

_EVEN_ODD = [8 * word + 2 * i + odd for word in range(4) for odd in range(2) for i in range(4)]


def quantized_words(K: int) -> int:
    """The number of words of a quantized row of K features."""
    return K // 4 + K // 32 + K // 32 + K // 16 + K // 32


def _abs(v: Any) -> Any:
    return T.call_llvm_pure_intrin(F32, "llvm.fabs.v16f32", v)


def _round(v: Any) -> Any:
    return T.Cast(I32, T.call_llvm_pure_intrin(F32, "llvm.rint.v16f32", v))


def _words(a: Any, b: Any, bits: int) -> Any:
    """32 integers (two vectors of 16) as eight words of int8, in the order above."""
    both = [T.Cast("int8x16", a), T.Cast("int8x16", b)]
    order = _EVEN_ODD if bits == 4 else list(range(32))
    return T.reinterpret("int32x8", tirx.Shuffle(both, order))


def _ending(bits: int) -> str:
    """The end of a kernel's name."""
    return "" if bits == 4 else f"_for_q{bits}"


def _sum(v: Any) -> Any:
    return T.call_llvm_pure_intrin("int32", "llvm.vector.reduce.add.v16i32", v)


@T.inline
def _group(a, b, Q, K, m, g, bits):
    """Quantize group g of row m, given as two vectors."""
    most: T.let = hmax(T.max(_abs(a), _abs(b)))
    inverse: T.let = T.Select(most > T.float32(0), T.float32(127) / most, T.float32(0))
    qa: T.let = _round(a * splat(inverse))
    qb: T.let = _round(b * splat(inverse))
    Q.vstore([m, g * 8], _words(qa, qb, bits))
    Q[m, K // 4 + g] = T.reinterpret("int32", most / T.float32(127))
    first: T.let = _sum(qa)
    second: T.let = _sum(qb)
    Q[m, K // 4 + K // 32 + g] = T.int32(-zero_code(bits)) * (first + second)
    Q[m, K // 4 + K // 16 + g * 2] = first
    Q[m, K // 4 + K // 16 + g * 2 + 1] = second
    Q[m, K // 4 + K // 8 + g] = T.reinterpret("int32", T.Cast("float32", first + second))


def make_quantize(K: int, isa: Isa, *, bits: int = 4) -> Any:
    """Quantize rows, for weights with codes of 4 or 8 bits, here and below.

    Shapes: x (M, K) float32; q as above. K is a padded size.
    """

    @T.inline
    def row(X, Q, m):
        with T.sblock("row"):
            T.reads()
            T.writes()
            for g in T.serial(K // 32):
                a: T.let = X.vload([m, g * 32], F32)
                b: T.let = X.vload([m, g * 32 + 16], F32)
                _group(a, b, Q, K, m, g, bits)

    @T.prim_func(s_tir=True)
    def quantize(x: T.handle, q: T.handle):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        M = T.int64()
        X = T.match_buffer(x, (M, K), "float32")
        Q = T.match_buffer(q, (M, quantized_words(K)), "int32")
        if M > 8:
            for m in T.parallel(M):
                row(X, Q, m)
        else:
            for m in T.serial(M):
                row(X, Q, m)

    return quantize.with_attr("global_symbol", f"quantize_{K}{_ending(bits)}")


def make_gate_quantize(IP: int, kind: str, isa: Isa, *, bits: int = 4) -> Any:
    """`activation.make_gate` with a quantized result.

    Shapes: x (M, 2 IP) float32, of which the first IP features are the gate; q as above for K = IP.
    IP is a padded size.
    """

    def gated(X: Any, m: Any, k: Any) -> Any:
        return activated(X.vload([m, k], F32), kind, isa) * X.vload([m, IP + k], F32)

    @T.inline
    def row(X, Q, m):
        with T.sblock("row"):
            T.reads()
            T.writes()
            for g in T.serial(IP // 32):
                a: T.let = gated(X, m, g * 32)
                b: T.let = gated(X, m, g * 32 + 16)
                _group(a, b, Q, IP, m, g, bits)

    @T.prim_func(s_tir=True)
    def gate_mul_quantize(x: T.handle, q: T.handle):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        M = T.int64()
        X = T.match_buffer(x, (M, 2 * IP), "float32")
        Q = T.match_buffer(q, (M, quantized_words(IP)), "int32")
        if M > 8:
            for m in T.parallel(M):
                row(X, Q, m)
        else:
            for m in T.serial(M):
                row(X, Q, m)

    name = f"{kind}_mul_quantize_{IP}{_ending(bits)}"
    return gate_mul_quantize.with_attr("global_symbol", name)


def make_rms_norm_quantize(H: int, eps: float, isa: Isa, *, rows: bool, bits: int = 4) -> Any:
    """`norm.make_rms_norm` with a quantized result.

    Shapes: x (n, HP) float32 with HP = pad(H); ids (m,) int32 if `rows`; w (HP,) float32;
    q as above for K = HP and m rows.
    """
    HP = pad(H)

    @T.inline
    def row(X, W, Q, source, m):
        with T.sblock("row"):
            T.reads()
            T.writes()
            inv = in_registers((1,))
            inverse_rms(X, source, 0, H, eps, isa, inv)
            for g in T.serial(HP // 32):
                left: T.let = X.vload([source, g * 32], F32) * splat(inv[0])
                right: T.let = X.vload([source, g * 32 + 16], F32) * splat(inv[0])
                a: T.let = left * W.vload([g * 32], F32)
                b: T.let = right * W.vload([g * 32 + 16], F32)
                _group(a, b, Q, HP, m, g, bits)

    if rows:

        @T.prim_func(s_tir=True)
        def rms_norm_quantize(
            x: T.handle,
            ids: T.handle,
            w: T.handle,
            q: T.handle,
        ):
            T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
            N = T.int64()
            M = T.int64()
            X = T.match_buffer(x, (N, HP), "float32")
            IDS = T.match_buffer(ids, (M,), "int32")
            W = T.match_buffer(w, (HP,), "float32")
            Q = T.match_buffer(q, (M, quantized_words(HP)), "int32")
            for m in T.serial(M):
                row(X, W, Q, IDS[m], m)

        return rms_norm_quantize.with_attr(
            "global_symbol", f"rms_norm_quantize_rows_{H}{_ending(bits)}"
        )

    @T.prim_func(s_tir=True)
    def rms_norm_quantize(x: T.handle, w: T.handle, q: T.handle):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        M = T.int64()
        X = T.match_buffer(x, (M, HP), "float32")
        W = T.match_buffer(w, (HP,), "float32")
        Q = T.match_buffer(q, (M, quantized_words(HP)), "int32")
        if M > 8:
            for m in T.parallel(M):
                row(X, W, Q, m, m)
        else:
            for m in T.serial(M):
                row(X, W, Q, m, m)

    return rms_norm_quantize.with_attr("global_symbol", f"rms_norm_quantize_{H}{_ending(bits)}")
