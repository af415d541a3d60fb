# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""What the kernels of linear layers share: their arguments, and how rows are divided into tiles.

A kernel makes y = x · Wᵀ (+ b) (+ r). W's rows lie in blocks of 16 outputs.
Each thread computes some blocks of outputs. A block's weights stay in the cache for all tiles of
rows; during the first tile, the next block is prefetched. A single row is limited by memory
bandwidth: it reads the weights as one stream, which is prefetched 12 KiB ahead, across the ends of
blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.kernels.isa import prefetch

AHEAD: Final = 192
"""The number of cache lines of weights that are prefetched for a single row."""

Array: TypeAlias = tuple[tuple[int, ...], str]
"""The shape and dtype of an argument."""


@dataclass(frozen=True, slots=True)
class Addends:
    """What is added to x · Wᵀ.

    Attributes:
        bias: Whether b, (columns of y,) float32, is; else x is given as b and not read.
        residual: Whether r, of y's shape, is; else x is given as r and not read.
    """

    bias: bool
    residual: bool

    @property
    def suffix(self) -> str:
        """The suffix of a kernel's name."""
        return ("_bias" if self.bias else "") + ("_residual" if self.residual else "")

    def plus(self, value: Any, b: Any, r: Any, m: Any, n: Any, lanes: int = 16) -> Any:
        """The sums of row m's outputs from n on, plus bias and residual."""
        dtype = f"float32x{lanes}"
        if self.bias:
            value = value + b.vload([n], dtype)
        return value + r.vload([m, n], dtype) if self.residual else value


def make_linear(
    name: str, x: tuple[int, str], N: int, w: Array, s: Array, added: Addends, all_rows: Any
) -> Any:
    """The PrimFunc ``(x, w, s, b, r, y)`` for one number of outputs.

    Args:
        name: Its name, up to what is added.
        x: How many numbers a row of x has, and their dtype.
        N: Outputs, a multiple of 16; y is (M, N) float32.
        w: Weights.
        s: Scales; a kernel that has none is given w again, and does not read it.
        added: What is added.
        all_rows: `halved_tiles`.
    """
    bias, residual = added.bias, added.residual
    K, x_dtype = x
    w_shape, w_dtype = w
    s_shape, s_dtype = s

    @T.prim_func(s_tir=True)
    def matmul(x: T.handle, w: T.handle, s: T.handle, b: T.handle, r: T.handle, y: T.handle):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        M = T.int64()
        b0 = T.int64()
        b1 = T.int64()
        r0 = T.int64()
        r1 = T.int64()
        X = T.match_buffer(x, (M, K), x_dtype)
        W = T.match_buffer(w, w_shape, w_dtype)
        S = T.match_buffer(s, s_shape, s_dtype)
        B = T.match_buffer(b, (N,) if bias else (b0, b1), "float32" if bias else x_dtype)
        RES = T.match_buffer(
            r, (M, N) if residual else (r0, r1), "float32" if residual else x_dtype
        )
        Y = T.match_buffer(y, (M, N), "float32")
        for nb in T.parallel(N // 16):
            all_rows(X, W, S, B, RES, Y, 0, nb, M)

    return matmul.with_attr("global_symbol", name + added.suffix)


def make_linear_part(
    name: str, x: tuple[int, str], words: int, added: Addends, all_rows: Any
) -> Any:
    """The PrimFunc ``(x, w, b, r, first, y)`` that writes the columns of y from `first` on.

    How many it writes, and how many y has, is known when it is called.

    Args:
        name: Its name, up to what is added.
        x: How many numbers a row of x has, and their dtype.
        words: Of a block of 16 outputs, which w, (N / 16, words) uint32, has.
        added: What is added.
        all_rows: `halved_tiles`, for tiles that are given w as scales, too.
    """
    bias, residual = added.bias, added.residual
    K, x_dtype = x

    @T.prim_func(s_tir=True)
    def matmul(x: T.handle, w: T.handle, b: T.handle, r: T.handle, first: T.int64, y: T.handle):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        M = T.int64()
        NB = T.int64()
        C = T.int64()
        b0 = T.int64()
        b1 = T.int64()
        r0 = T.int64()
        r1 = T.int64()
        X = T.match_buffer(x, (M, K), x_dtype)
        W = T.match_buffer(w, (NB, words), "uint32")
        B = T.match_buffer(b, (C,) if bias else (b0, b1), "float32" if bias else x_dtype)
        RES = T.match_buffer(
            r, (M, C) if residual else (r0, r1), "float32" if residual else x_dtype
        )
        Y = T.match_buffer(y, (M, C), "float32")
        for nb in T.parallel(NB):
            all_rows(X, W, W, B, RES, Y, first, nb, M)

    return matmul.with_attr("global_symbol", name + added.suffix)


def halved_tiles(tile: Any, most: int) -> Any:
    """All rows, in tiles of `most`; the rest in tiles of half as many, and so on down to one.

    Args:
        tile: ``tile(X, W, S, B, RES, Y, first, nb, row, rows)``, for rows from `row` on.
        most: The number of rows of the largest tile, at most 16.
    """

    @T.inline
    def leftover(X, W, S, B, RES, Y, first, nb, M, rows):
        # At most one tile of `rows` is left after all tiles of twice as many rows.
        if rows < most:  # noqa: SIM102 - known when the kernel is made
            if M % (2 * rows) >= rows:
                tile(X, W, S, B, RES, Y, first, nb, M // (2 * rows) * (2 * rows), rows)

    @T.inline
    def all_rows(X, W, S, B, RES, Y, first, nb, M):
        for t in T.serial(M // most):
            tile(X, W, S, B, RES, Y, first, nb, t * most, most)
        leftover(X, W, S, B, RES, Y, first, nb, M, 8)
        leftover(X, W, S, B, RES, Y, first, nb, M, 4)
        leftover(X, W, S, B, RES, Y, first, nb, M, 2)
        leftover(X, W, S, B, RES, Y, first, nb, M, 1)

    return all_rows


def prefetcher(
    lines: int,
    at: Callable[[Any, Any], list[Any]],
    scales: Callable[[Any, Any], list[Any]] | None = None,
) -> Any:
    """``ask(W, S, nb, n, row, rows)``, which prefetches weights while those of step n are used.

    Args:
        lines: The number of cache lines of a step's weights.
        at: Returns the index of a block's line.
        scales: Returns the index of a block's scales for a step, if these are prefetched, too.
    """

    @T.inline
    def ask(W, S, nb, n, row, rows):
        if rows == 1:
            for j in T.unroll(lines):
                prefetch(W, at(nb, n * lines + j + AHEAD))
        elif row == 0:
            for j in T.unroll(lines):
                prefetch(W, at(nb + 1, n * lines + j))
            if scales is not None:
                prefetch(S, scales(nb + 1, n))

    return ask
