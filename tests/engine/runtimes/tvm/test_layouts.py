"""Layouts, compared with their definition element by element."""

from __future__ import annotations

import numpy as np
import pytest

from mlc_widget.engine.runtimes.tvm.layouts import Codes, FloatBlocks, Scales, Vector, pad


def packed(layout, source):
    out = np.zeros(layout.shape, layout.dtype)
    assert source.shape == layout.source_shape
    assert out.nbytes == layout.nbytes
    layout.pack(source, out)
    for rows in (1, 20, 1000):
        piecewise = np.zeros(layout.shape, layout.dtype)
        pieces = layout.pieces(rows)
        assert [start for start, _ in pieces[1:]] == [stop for _, stop in pieces[:-1]]
        assert (pieces[0][0], pieces[-1][1]) == (0, len(source))
        for start, stop in pieces:
            layout.pack_piece(source[start:stop], start, piecewise)
        assert np.array_equal(piecewise, out)
    return out


@pytest.mark.parametrize("outputs", [(64,), (37,), (48, 48), (40, 72), (5, 5, 5)])
@pytest.mark.parametrize("inputs", [32, 64, 40])
def test_blocks(outputs, inputs):
    for make, per, dtype in [(FloatBlocks, 1, "f4"), (Codes, 8, "u4"), (Scales, 32, "f4")]:
        layout = make(inputs, outputs)
        columns = inputs if per == 1 else pad(inputs) // per
        source = np.arange(1, sum(outputs) * columns + 1).reshape(-1, columns).astype(dtype)
        got = packed(layout, source)
        assert got.shape == (sum(map(pad, outputs)) // 16, pad(inputs) // per, 16)
        flat = got.transpose(0, 2, 1).reshape(-1, got.shape[1])
        expected = np.zeros_like(flat)
        row = at = 0
        for n in outputs:
            expected[at : at + n, :columns] = source[row : row + n]
            row, at = row + n, at + pad(n)
        assert np.array_equal(flat, expected)


def test_vector():
    assert packed(Vector(5), np.arange(1, 6, dtype="f4")).tolist() == [1, 2, 3, 4, 5, *[0] * 27]
