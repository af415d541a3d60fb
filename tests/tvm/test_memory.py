"""The memory that weights and pages lie in."""

from __future__ import annotations

import mmap
import re
from pathlib import Path

import numpy as np
import pytest

from mlc_widget.engine.runtimes.tvm.memory import aligned_zeros, huge_zeros

SMAPS = Path("/proc/self/smaps")


@pytest.mark.parametrize("zeros", [aligned_zeros, huge_zeros])
@pytest.mark.parametrize("shape", [(1,), (3, 5), (1 << 20, 5)])
def test_zeroed_aligned_and_writable(zeros, shape):
    array = zeros(shape, np.float16)
    assert array.shape == shape
    assert array.dtype == np.float16
    assert array.ctypes.data % 64 == 0
    assert not array.any()
    array.fill(1)
    assert array.all()


@pytest.mark.skipif(
    not (SMAPS.exists() and hasattr(mmap, "MADV_HUGEPAGE")), reason="Linux's huge pages"
)
def test_large_arrays_may_have_huge_pages():
    array = huge_zeros((9 << 20,), np.uint8)
    start = array.ctypes.data
    assert start % (2 << 20) == 0
    for part in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", SMAPS.read_text()):
        low, high = (int(x, 16) for x in part.split(maxsplit=1)[0].split("-"))
        if low <= start < high:
            flags = re.search(r"^VmFlags:(.*)$", part, re.MULTILINE)
            assert flags is not None
            assert "hg" in flags[1].split()  # asked for
            assert "sh" not in flags[1].split()  # a shared map has none, whatever is asked for
            return
    raise AssertionError("the array is in no map")
