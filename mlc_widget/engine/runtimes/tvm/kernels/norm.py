# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""RMSNorm: y = x · rsqrt(mean(x²) + eps) · w."""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.kernels.isa import F32, Isa, in_registers, pad, splat


@T.inline
def inverse_rms(X, m, start, H, eps, isa, inv):
    """Set ``inv[0]`` to rsqrt(mean(x²) + eps) of row m's H features from `start` on.

    Order of the sum of squares: lane l sums x[l], x[16 + l], … ascending; then the lanes 0 … 15
    ascending. The padding of the features is zero.
    """
    squares = in_registers((16,))
    squares.vstore([0], splat(0.0))
    for k in T.serial(-(-H // 16)):
        v: T.let = X.vload([m, start + k * 16], F32)
        squares.vstore([0], isa.mul_add(v, v, squares.vload([0], F32)))
    inv[0] = T.float32(0)
    for k in T.unroll(16):
        inv[0] = inv[0] + squares[k]
    inv[0] = T.float32(1) / T.sqrt(inv[0] / T.float32(H) + T.float32(eps))


def make_rms_norm(H: int, eps: float, isa: Isa, *, rows: bool) -> Any:
    """RMSNorm of all rows or, with `rows`, of those whose indices are in `ids`, in that order.

    Shapes: x (n, HP) float32 with HP = pad(H); ids (m,) int32 if `rows`; w (HP,) float32;
    y (m, HP) float32. Padding of w and x is zero, and so is that of y.
    """
    HP = pad(H)

    @T.inline
    def row(X, W, Y, source, m):
        with T.sblock("row"):
            T.reads()
            T.writes()
            inv = in_registers((1,))
            inverse_rms(X, source, 0, H, eps, isa, inv)
            for k in T.serial(HP // 16):
                scaled: T.let = X.vload([source, k * 16], F32) * splat(inv[0])
                Y.vstore([m, k * 16], scaled * W.vload([k * 16], F32))

    if rows:

        @T.prim_func(s_tir=True)
        def rms_norm(x: T.handle, ids: T.handle, w: T.handle, y: T.handle):
            T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
            N = T.int64()
            M = T.int64()
            X = T.match_buffer(x, (N, HP), "float32")
            IDS = T.match_buffer(ids, (M,), "int32")
            W = T.match_buffer(w, (HP,), "float32")
            Y = T.match_buffer(y, (M, HP), "float32")
            for m in T.serial(M):
                row(X, W, Y, IDS[m], m)

        return rms_norm.with_attr("global_symbol", f"rms_norm_rows_{H}")

    @T.prim_func(s_tir=True)
    def rms_norm(x: T.handle, w: T.handle, y: T.handle):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        M = T.int64()
        X = T.match_buffer(x, (M, HP), "float32")
        W = T.match_buffer(w, (HP,), "float32")
        Y = T.match_buffer(y, (M, HP), "float32")
        for m in T.serial(M):
            row(X, W, Y, m, m)

    return rms_norm.with_attr("global_symbol", f"rms_norm_{H}")


def make_rms_norm_add(H: int, eps: float, isa: Isa) -> Any:
    """RMSNorm of all rows, added to a residual: y = r + rms_norm(x).

    Shapes: x, r, y (n, HP) float32 with HP = pad(H); w (HP,) float32. Padding is zero.
    """
    HP = pad(H)

    @T.inline
    def row(X, W, R, Y, m):
        with T.sblock("row"):
            T.reads()
            T.writes()
            inv = in_registers((1,))
            inverse_rms(X, m, 0, H, eps, isa, inv)
            for k in T.serial(HP // 16):
                scaled: T.let = X.vload([m, k * 16], F32) * splat(inv[0])
                Y.vstore(
                    [m, k * 16],
                    isa.mul_add(scaled, W.vload([k * 16], F32), R.vload([m, k * 16], F32)),
                )

    @T.prim_func(s_tir=True)
    def rms_norm_add(x: T.handle, w: T.handle, r: T.handle, y: T.handle):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        M = T.int64()
        X = T.match_buffer(x, (M, HP), "float32")
        W = T.match_buffer(w, (HP,), "float32")
        R = T.match_buffer(r, (M, HP), "float32")
        Y = T.match_buffer(y, (M, HP), "float32")
        for m in T.serial(M):
            row(X, W, R, Y, m)

    return rms_norm_add.with_attr("global_symbol", f"rms_norm_add_{H}")


def make_head_norm(
    HQ: int, HKV: int, D: int, eps: float, isa: Isa, *, together: bool = False
) -> Any:
    """RMSNorm of every query head and key head, in place.

    Shapes: x (n, pad((HQ + 2 HKV) D)) float32: queries, keys, values; wq, wk (pad(D),) float32. D
    is a multiple of 16. With `together`, all query heads are normalized as one vector, and so are
    all key heads; wq (pad(HQ D),), wk (pad(HKV D),).
    """
    (QS, QD), (KS, KD) = ((1, HQ * D), (1, HKV * D)) if together else ((HQ, D), (HKV, D))

    @T.inline
    def head(X, W, m, start, width):
        with T.sblock("head"):
            T.reads()
            T.writes()
            inv = in_registers((1,))
            inverse_rms(X, m, start, width, eps, isa, inv)
            for k in T.serial(width // 16):
                scaled: T.let = X.vload([m, start + k * 16], F32) * splat(inv[0])
                X.vstore([m, start + k * 16], scaled * W.vload([k * 16], F32))

    @T.prim_func(s_tir=True)
    def head_norm(x: T.handle, wq: T.handle, wk: T.handle):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        M = T.int64()
        X = T.match_buffer(x, (M, pad((HQ + 2 * HKV) * D)), "float32")
        WQ = T.match_buffer(wq, (pad(QD),), "float32")
        WK = T.match_buffer(wk, (pad(KD),), "float32")
        for m in T.serial(M):
            for h in T.serial(QS):
                head(X, WQ, m, h * QD, QD)
            for h in T.serial(KS):
                head(X, WK, m, HQ * D + h * KD, KD)

    return head_norm.with_attr(
        "global_symbol", f"head_norm_{HQ}_{HKV}_{D}" + ("_together" if together else "")
    )
