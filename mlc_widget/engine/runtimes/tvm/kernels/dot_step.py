# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""A step of `Dot`'s sums over a tile of rows, which the kernels of 8-bit activations share."""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.kernels.dot import Dot


def adder(dot: Dot, parts: int, most: int) -> Any:
    """``add(Q, codes, total, row, at, ROWS)``: add the products of one word of each weight.

    Q: (rows, …) int32 words of four activations. codes: (vectors of outputs × parts, lanes) uint32.
    total: (ROWS × vectors of outputs, …), the sums of rows from `row` on. at: which word.

    Args:
        dot: The integer dot product.
        parts: The number of words of four codes in a word of weights: 1 for 8 bits, 2 for 4.
        most: The largest code.
    """
    VECTORS, U = 16 // dot.lanes, f"uint32x{dot.lanes}"
    dtype, lanes = dot.sum_type(most)
    SUMS = f"{dtype}x{lanes}"

    def products(Q: Any, codes: Any, m: Any, at: Any, v: Any) -> list[tuple[Any, Any]]:
        """Of word `at`, codes of four inputs each, and the activations that they meet."""
        return [(codes.vload([v * parts + p, 0], U), Q[m, at * parts + p]) for p in range(parts)]

    def plus_products(Q: Any, codes: Any, total: Any, i: Any, m: Any, at: Any, v: Any) -> Any:
        return dot.add(total.vload([i, 0], SUMS), products(Q, codes, m, at, v), most)

    @T.inline
    def add(Q, codes, total, row, at, ROWS):
        # An activation is read once for all outputs, so that it need not stay in a register.
        for r in T.unroll(ROWS):
            for v in T.unroll(VECTORS):
                i: T.let = r * VECTORS + v
                total.vstore([i, 0], plus_products(Q, codes, total, i, row + r, at, v))

    return add
