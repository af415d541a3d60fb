"""Moves weights to huge pages after a model was loaded, while there are no requests.

With huge pages, a step of a large model takes 2 to 6 % less time. Loading directly into them does
not pay: the system may have to compact memory first, or a virtual machine may have to get it from
its host, which takes up to four times as long as the rest of the load.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from mlc_widget.engine.runtimes.tvm.memory import ALIGNMENT, HUGE_PAGE, Array

_COLLAPSE: Final = 25
"""MADV_COLLAPSE of Linux 6.1 (include/uapi/asm-generic/mman-common.h), which `mmap` lacks."""
_SETTING: Final = Path("/sys/kernel/mm/transparent_hugepage/enabled")


class HugePages:
    """Moves arrays that are in use to huge pages, one page at a time.

    If the system has no huge pages, or none left, nothing happens. A kernel that cannot do it on
    request (Linux before 6.1) may still do it by itself later.
    """

    def __init__(self, arrays: Sequence[Array]) -> None:
        """Take arrays, which the caller keeps alive; parts that fill no huge page are not moved."""
        spans = _whole_pages(arrays) if _wanted() else []
        for span in spans:
            madvise(span, mmap.MADV_HUGEPAGE)
        self._pages = iter([page for span in spans for page in _each(span)])

    def move(self) -> bool:
        """Move the next page, which takes some milliseconds; return False if none is left."""
        page = next(self._pages, None)
        if page is None:
            return False
        if not madvise(page, _COLLAPSE):
            self._pages = iter(())
            return False
        return True


def _wanted() -> bool:
    try:
        return sys.platform == "linux" and "[never]" not in _SETTING.read_text()
    except OSError:  # a kernel without huge pages
        return False


def madvise(addresses: range, advice: int) -> bool:
    """Advise the kernel about memory; return whether it took the advice.

    Python's own `mmap.madvise` would hold the GIL meanwhile. After a failure, `ctypes.get_errno`
    has the reason.
    """
    call = ctypes.CDLL(None, use_errno=True).madvise
    call.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return bool(call(addresses.start, len(addresses), advice) == 0)


def _whole_pages(arrays: Sequence[Array]) -> list[range]:
    """The addresses of the huge pages that arrays fill, where adjacent arrays count as one."""
    runs: list[range] = []
    for start, stop in sorted((a.ctypes.data, a.ctypes.data + a.nbytes) for a in arrays):
        if runs and start <= runs[-1].stop + ALIGNMENT:
            runs[-1] = range(runs[-1].start, stop)
        else:
            runs.append(range(start, stop))
    whole = [
        range(-(-r.start // HUGE_PAGE) * HUGE_PAGE, r.stop // HUGE_PAGE * HUGE_PAGE) for r in runs
    ]
    return [r for r in whole if r]


def _each(span: range) -> list[range]:
    """The huge pages of a range of addresses."""
    return [range(at, at + HUGE_PAGE) for at in span[::HUGE_PAGE]]
