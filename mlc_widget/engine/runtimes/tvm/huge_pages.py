"""Weights move to huge pages after they are loaded, while nobody asks for anything.

From huge pages a step of a large model reads its weights some 2 to 6 % faster. Loading onto them
does not pay: the system may have to put them together first, or a virtual machine to fetch them
from its host, which takes up to four times as long as the rest of the load.
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
    """Moves arrays that are in use to huge pages, a page at a time.

    Where the system has none, or none left, nothing happens. A kernel that cannot be told to do it
    now is left to do it in its own time.
    """

    def __init__(self, arrays: Sequence[Array]) -> None:
        """Take arrays, to be kept alive by others; what fills no huge page stays where it is."""
        spans = _whole_pages(arrays) if _wanted() else []
        for span in spans:
            _madvise(span, mmap.MADV_HUGEPAGE)
        self._pages = iter([page for span in spans for page in _each(span)])

    def move(self) -> bool:
        """Move the next page, which takes some milliseconds; False if there was nothing to do."""
        page = next(self._pages, None)
        if page is None:
            return False
        if not _madvise(page, _COLLAPSE):
            self._pages = iter(())
            return False
        return True


def _wanted() -> bool:
    try:
        return sys.platform == "linux" and "[never]" not in _SETTING.read_text()
    except OSError:  # a kernel without them
        return False


def _madvise(addresses: range, advice: int) -> bool:
    """Advise the kernel about memory; whether it took the advice.

    Python's own `mmap.madvise` would hold the interpreter's lock meanwhile.
    """
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return bool(madvise(addresses.start, len(addresses), advice) == 0)


def _whole_pages(arrays: Sequence[Array]) -> list[range]:
    """Addresses of the huge pages that arrays fill, alone or one behind the other."""
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
    """The huge pages of a span."""
    return [range(at, at + HUGE_PAGE) for at in span[::HUGE_PAGE]]
