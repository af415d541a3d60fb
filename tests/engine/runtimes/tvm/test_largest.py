from __future__ import annotations

import numpy as np
import pytest

from mlc_widget.engine.runtimes.tvm.largest import largest


@pytest.mark.parametrize("size", [1, 7, 300, 6000, 20001])
def test_the_largest_are_those_that_sorting_finds(size):
    rng = np.random.default_rng(size)
    rows = [
        rng.standard_normal(size),
        rng.integers(0, 5, size),
        np.zeros(size),
        np.arange(size),
        np.where(rng.random(size) < 0.01, rng.random(size), -np.inf),
    ]
    for row in rows:
        values = row.astype(np.float32)
        order = np.argsort(-values, kind="stable")
        for count in (1, 2, 20, 46, 47, 400, size, 2 * size):
            assert largest(values, count).tolist() == sorted(order[:count])
