"""Codes and scales of the quantizer, read back by `mlc_format`, which is written from mlc_llm."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from mlc_widget.engine.store.quantizer import FORMATS, NotRepresentableError, quantize

sys.path.append(str(Path(__file__).parents[3] / "tools"))
import mlc_format


def restored(rows, bits, **options):
    codes, scales = quantize(rows, bits, **options)
    groups = -(-rows.shape[1] // 32)
    assert codes.shape == (len(rows), groups * bits)
    assert codes.dtype == np.uint32
    assert scales.shape == (len(rows), groups)
    floats = mlc_format.dequantize_group(codes, scales.astype(np.float32), bits=bits)
    return floats[:, : rows.shape[1]]


def squared(rows, other):
    return float(((rows - other) ** 2).sum())


def cost(rows, other):
    """The error of each group, in which large weights count more."""
    groups = rows.reshape(-1, 32)
    weights = ((groups**2).mean(axis=1, keepdims=True) + groups**2) ** 0.75
    return (weights * (other.reshape(-1, 32) - groups) ** 2).sum(axis=1)


def largest_weight(rows, bits):
    codes, scales = mlc_format.quantize_group(rows, scale_dtype=np.float16, bits=bits)
    return mlc_format.dequantize_group(codes, scales.astype(np.float32), bits=bits)


SHAPES = {
    "normal": lambda r: r.standard_normal((64, 256)),
    "heavy tails": lambda r: r.standard_t(3, (64, 256)),
    "uniform": lambda r: r.uniform(-1, 1, (64, 256)),
    "one side": lambda r: r.uniform(0, 1, (64, 256)),
    "tiny": lambda r: 1e-4 * r.standard_normal((64, 256)),
    "large": lambda r: 1e4 * r.standard_normal((64, 256)),
}


@pytest.mark.parametrize("make", SHAPES.values(), ids=SHAPES)
def test_the_searched_scale_beats_the_largest_weight_in_every_group(make):
    rows = make(np.random.default_rng(0)).astype(np.float32)
    searched, plain = cost(rows, restored(rows, 4)), cost(rows, largest_weight(rows, 4))
    assert searched.sum() < 0.85 * plain.sum()
    assert np.mean(searched <= plain * 1.01) > 0.97


def test_no_scale_on_a_fine_grid_is_much_better():
    rows = np.random.default_rng(1).standard_normal((8, 64)).astype(np.float32)
    groups = rows.reshape(-1, 32)
    found = cost(rows, restored(rows, 4))
    most = np.abs(groups).max(axis=1)
    best = np.full(len(groups), np.inf)
    for sign in (1, -1):
        for part in np.linspace(0.05, 0.25, 2000):
            scale = (sign * part * most)[:, None]
            codes = np.clip(np.rint(groups / scale), -7, 8)
            best = np.minimum(best, cost(rows, codes * scale))
    assert found.sum() < 1.05 * best.sum()
    assert (found < 1.35 * best).all()


def test_importance_moves_the_error_to_where_it_matters_less():
    random = np.random.default_rng(2)
    rows = random.standard_normal((64, 64)).astype(np.float32)
    importance = np.where(np.arange(64) % 8 == 0, 100.0, 1.0).astype(np.float32)
    alike, weighted = restored(rows, 4), restored(rows, 4, importance=importance)

    def important(other):
        return float((importance * (other - rows) ** 2).sum())

    assert important(weighted) < 0.9 * important(alike)
    assert squared(rows, weighted) >= squared(rows, alike)


@pytest.mark.parametrize("inputs", [32, 31, 33, 1, 100])
@pytest.mark.parametrize("bits", [4, 8])
def test_any_width_and_both_sizes_of_codes(inputs, bits):
    rows = np.random.default_rng(inputs).standard_normal((5, inputs)).astype(np.float32)
    error = np.abs(restored(rows, bits) - rows).max() / np.abs(rows).max()
    assert error < (0.09 if bits == 4 else 0.006)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    "rows",
    [
        np.zeros((3, 64), np.float32),
        np.full((3, 64), 1e-30, np.float32),
        np.full((3, 64), -2.0, np.float32),
        np.eye(64, dtype=np.float32) * 3,
        np.full((3, 64), 65000.0, np.float32),
    ],
    ids=["zeros", "below float16", "all alike", "one in a group", "near the limit"],
)
def test_groups_of_odd_values(rows, bits):
    assert np.abs(restored(rows, bits) - rows).max() <= 1e-3 * max(1e-3, np.abs(rows).max())


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    ("value", "match"),
    [(np.nan, "NaN"), (np.inf, "infinite"), (-np.inf, "infinite"), (3e38, "too large")],
)
def test_what_cannot_be_stored_is_told(value, match, bits):
    rows = np.ones((4, 64), np.float32)
    rows[2, 5] = value
    with pytest.raises(NotRepresentableError, match=match):
        quantize(rows, bits)


def test_pieces_of_a_matrix_are_the_matrix():
    rows = np.random.default_rng(3).standard_normal((700, 96)).astype(np.float32)
    codes, scales = quantize(rows, 4)
    for start in (0, 1, 333):
        part, of_part = quantize(rows[start : start + 50], 4)
        assert np.array_equal(part, codes[start : start + 50])
        assert np.array_equal(of_part, scales[start : start + 50])


@pytest.mark.parametrize("shape", [(10, 32), (10, 40), (7,), (1, 1)])
@pytest.mark.parametrize("name", FORMATS)
def test_sizes_are_known_before(name, shape):
    kind = FORMATS[name]
    if kind.coded and len(shape) == 2:
        codes, scales = quantize(np.ones(shape, np.float32), kind.bits, kind.dtype)
        assert kind.nbytes(shape) == codes.nbytes + scales.nbytes
    else:
        assert kind.nbytes(shape) == np.ones(shape, kind.dtype).nbytes
