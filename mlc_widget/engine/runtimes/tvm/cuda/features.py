# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""Operations on each feature of float32 rows by itself, with a thread per feature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.builder import Activation
from mlc_widget.engine.runtimes.tvm.cuda.intrinsics import (
    activated,
    await_inputs,
    capped,
    fetch4,
    named,
    saturated,
    start_next,
)

THREADS = 256


def make_gate(IP: int, kind: Activation) -> Any:
    """Like the CPU's `make_gate`."""

    @T.prim_func(s_tir=True)
    def gate_mul(x: T.handle, y: T.handle):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        M = T.int64()
        X = T.match_buffer(x, (M, 2 * IP), "float32")
        Y = T.match_buffer(y, (M, IP), "float32")
        for m in T.thread_binding(M, thread="blockIdx.y"):
            for bx in T.thread_binding(-(-IP // THREADS), thread="blockIdx.x"):
                for tx in T.thread_binding(THREADS, thread="threadIdx.x"):
                    with T.sblock("feature"):
                        T.reads()
                        T.writes()
                        k: T.let = bx * THREADS + tx
                        if k < IP:
                            Y[m, k] = activated(X[m, k], kind) * X[m, IP + k]

    return gate_mul.with_attr("global_symbol", f"{kind}_mul_{IP}")


def make_activation(
    H: int, kind: Activation, *, dtype: str = "float32", overlapped: bool = False
) -> Any:
    """Like the CPU's `make_activation`, with a result of some dtype."""
    return _make_map(
        lambda value: activated(value, kind), H, dtype, f"{kind}_{H}_{dtype}", overlapped=overlapped
    )


def make_rounding(H: int, *, overlapped: bool = False) -> Any:
    """Convert to float16: x (M, H) float32, y (M, H) float16."""
    return _make_map(lambda value: value, H, "float16", f"rounding_{H}", overlapped=overlapped)


def _make_map(
    change: Callable[[Any], Any], H: int, dtype: str, name: str, *, overlapped: bool
) -> Any:
    """Shapes: x (M, H) float32, y (M, H) of some dtype."""

    @T.prim_func(s_tir=True)
    def changed(x: T.handle, y: T.handle):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        M = T.int64()
        X = T.match_buffer(x, (M, H), "float32")
        Y = T.match_buffer(y, (M, H), dtype)
        for m in T.thread_binding(M, thread="blockIdx.y"):
            for bx in T.thread_binding(-(-H // THREADS), thread="blockIdx.x"):
                for tx in T.thread_binding(THREADS, thread="threadIdx.x"):
                    with T.sblock("feature"):
                        T.reads()
                        T.writes()
                        T.evaluate(start_next())
                        T.evaluate(await_inputs())
                        k: T.let = bx * THREADS + tx
                        if k < H:
                            v: T.let = fetch4(T.address_of(X[m, k]))
                            Y[m, k] = saturated(change(v), dtype)

    return named(changed, name, overlapped=overlapped)


def make_scale(H: int, factor: float, *, added: bool, overlapped: bool = False) -> Any:
    """Like the CPU's `make_scale`."""

    @T.inline
    def feature(X, R, Y, m, bx, tx):
        with T.sblock("feature"):
            T.reads()
            T.writes()
            T.evaluate(start_next())
            T.evaluate(await_inputs())
            k: T.let = bx * THREADS + tx
            if k < H:
                v: T.let = fetch4(T.address_of(X[m, k])) * T.float32(factor)
                if added:
                    Y[m, k] = v + fetch4(T.address_of(R[m, k]))
                else:
                    Y[m, k] = v

    if added:

        @T.prim_func(s_tir=True)
        def scale(x: T.handle, r: T.handle, y: T.handle):
            T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
            M = T.int64()
            X = T.match_buffer(x, (M, H), "float32")
            R = T.match_buffer(r, (M, H), "float32")
            Y = T.match_buffer(y, (M, H), "float32")
            for m in T.thread_binding(M, thread="blockIdx.y"):
                for bx in T.thread_binding(-(-H // THREADS), thread="blockIdx.x"):
                    for tx in T.thread_binding(THREADS, thread="threadIdx.x"):
                        feature(X, R, Y, m, bx, tx)

        return named(scale, f"scale_{H}_add", overlapped=overlapped)

    @T.prim_func(s_tir=True)
    def scale(x: T.handle, y: T.handle):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        M = T.int64()
        X = T.match_buffer(x, (M, H), "float32")
        Y = T.match_buffer(y, (M, H), "float32")
        for m in T.thread_binding(M, thread="blockIdx.y"):
            for bx in T.thread_binding(-(-H // THREADS), thread="blockIdx.x"):
                for tx in T.thread_binding(THREADS, thread="threadIdx.x"):
                    feature(X, None, Y, m, bx, tx)

    return named(scale, f"scale_{H}", overlapped=overlapped)


def make_finish_logits(V: int, factor: float, cap: float | None) -> Any:
    """Like the CPU's `make_finish_logits`."""

    @T.prim_func(s_tir=True)
    def finish_logits(y: T.handle):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        M = T.int64()
        Y = T.match_buffer(y, (M, V), "float32")
        for m in T.thread_binding(M, thread="blockIdx.y"):
            for bx in T.thread_binding(-(-V // THREADS), thread="blockIdx.x"):
                for tx in T.thread_binding(THREADS, thread="threadIdx.x"):
                    with T.sblock("logit"):
                        T.reads()
                        T.writes()
                        k: T.let = bx * THREADS + tx
                        if k < V:
                            v: T.let = Y[m, k] * T.float32(factor)
                            Y[m, k] = v if cap is None else capped(v, cap)

    return finish_logits.with_attr("global_symbol", f"finish_logits_{V}")
