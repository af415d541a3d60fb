# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""LayerNorm."""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.kernels.isa import F32, Isa, in_registers, pad, splat


@T.inline
def sum_of_lanes(sums, out):
    """Set ``out[0]`` to the sum of the 16 lanes, ascending."""
    out[0] = T.float32(0)
    for k in T.unroll(16):
        out[0] = out[0] + sums[k]


def make_layer_norm(H: int, eps: float, isa: Isa, *, terms: int = 1, rows: bool = False) -> Any:
    """LayerNorm of a sum: y = (x - mean) · rsqrt(var + eps) · w + b, x = x0 (+ x1 + x2).

    Shapes: x0, x1, x2 (n, HP) float32 with HP = pad(H), the first `terms` (1 or 3) of them; w, b
    (HP,) float32; y (n, HP) float32. Padding of x, w and b is zero, and so is that of y. Order:
    (x0 + x1) + x2; lane l sums x[l], x[16 + l], … ascending, then lanes 0 … 15 ascending, for the
    mean; then the squares of the differences likewise for the variance. With `rows`, of one tensor
    x0, the result is of the rows whose indices are in ids (m,) int32: y (m, HP).
    """
    HP = pad(H)

    def kept(value: Any, k: Any) -> Any:
        """The value, but zero in the padding, where x - mean would not be zero."""
        if HP == H:
            return value
        at = T.ramp(T.Cast("int32", k) * 16, T.int32(1), 16)
        return T.Select(at < T.broadcast(T.int32(H), 16), value, splat(0.0))

    @T.inline
    def row(X0, X1, X2, W, B, Y, source, i):
        with T.sblock("row"):
            T.reads()
            T.writes()
            sums = in_registers((16,))
            mean = in_registers((1,))
            inv = in_registers((1,))
            sums.vstore([0], splat(0.0))
            for k in T.serial(HP // 16):
                x: T.let = X0.vload([source, k * 16], F32)
                if terms == 3:
                    y: T.let = (x + X1.vload([i, k * 16], F32)) + X2.vload([i, k * 16], F32)
                    Y.vstore([i, k * 16], y)
                    sums.vstore([0], sums.vload([0], F32) + y)
                else:
                    Y.vstore([i, k * 16], x)
                    sums.vstore([0], sums.vload([0], F32) + x)
            sum_of_lanes(sums, mean)
            mean[0] = mean[0] / T.float32(H)
            sums.vstore([0], splat(0.0))
            for k in T.serial(HP // 16):
                d: T.let = kept(Y.vload([i, k * 16], F32) - splat(mean[0]), k)
                sums.vstore([0], isa.mul_add(d, d, sums.vload([0], F32)))
            sum_of_lanes(sums, inv)
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
                row(X0, X1, X2, W, B, Y, i, i)

    elif rows:

        @T.prim_func(s_tir=True)
        def layer_norm(x0: T.handle, ids: T.handle, w: T.handle, b: T.handle, y: T.handle):
            T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
            n = T.int64()
            m = T.int64()
            X0 = T.match_buffer(x0, (n, HP), "float32")
            IDS = T.match_buffer(ids, (m,), "int32")
            W = T.match_buffer(w, (HP,), "float32")
            B = T.match_buffer(b, (HP,), "float32")
            Y = T.match_buffer(y, (m, HP), "float32")
            for i in T.serial(m):
                row(X0, None, None, W, B, Y, IDS[i], i)

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
                row(X0, None, None, W, B, Y, i, i)

    return layer_norm.with_attr("global_symbol", f"layer_norm_{'rows' if rows else terms}_{H}")


def make_head_layer_norm(HQ: int, HKV: int, D: int, eps: float, isa: Isa) -> Any:
    """LayerNorm of every query head and key head, in place, with weights for each and no biases.

    Shapes: x (n, pad((HQ + 2 HKV) D)) float32: queries, keys, values; wq (pad(HQ D),), wk
    (pad(HKV D),) float32. D is a multiple of 16. Sums have the order of `make_layer_norm`.
    """

    @T.inline
    def head(X, W, m, start, at):
        with T.sblock("head"):
            T.reads()
            T.writes()
            sums = in_registers((16,))
            mean = in_registers((1,))
            inv = in_registers((1,))
            sums.vstore([0], splat(0.0))
            for k in T.serial(D // 16):
                sums.vstore([0], sums.vload([0], F32) + X.vload([m, start + k * 16], F32))
            sum_of_lanes(sums, mean)
            mean[0] = mean[0] / T.float32(D)
            sums.vstore([0], splat(0.0))
            for k in T.serial(D // 16):
                d: T.let = X.vload([m, start + k * 16], F32) - splat(mean[0])
                sums.vstore([0], isa.mul_add(d, d, sums.vload([0], F32)))
            sum_of_lanes(sums, inv)
            inv[0] = T.float32(1) / T.sqrt(inv[0] / T.float32(D) + T.float32(eps))
            for k in T.serial(D // 16):
                d: T.let = X.vload([m, start + k * 16], F32) - splat(mean[0])
                X.vstore([m, start + k * 16], d * splat(inv[0]) * W.vload([at + k * 16], F32))

    @T.prim_func(s_tir=True)
    def head_layer_norm(x: T.handle, wq: T.handle, wk: T.handle):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        n = T.int64()
        X = T.match_buffer(x, (n, pad((HQ + 2 * HKV) * D)), "float32")
        WQ = T.match_buffer(wq, (pad(HQ * D),), "float32")
        WK = T.match_buffer(wk, (pad(HKV * D),), "float32")
        for m in T.serial(n):
            for h in T.serial(HQ):
                head(X, WQ, m, h * D, h * D)
            for h in T.serial(HKV):
                head(X, WK, m, (HQ + h) * D, h * D)

    return head_layer_norm.with_attr("global_symbol", f"head_layer_norm_{HQ}_{HKV}_{D}")
