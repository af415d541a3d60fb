"""The memory for weights and pages."""

from __future__ import annotations

import contextlib
import functools
import mmap
import re
from pathlib import Path

import numpy as np
import pytest

from mlc_widget.api.errors import InsufficientMemoryError
from mlc_widget.engine.runtimes.tvm import huge_pages, memory
from mlc_widget.engine.runtimes.tvm.huge_pages import HugePages
from mlc_widget.engine.runtimes.tvm.memory import HUGE_PAGE, aligned_zeros, large_zeros

SMAPS = Path("/proc/self/smaps")


huge_zeros = functools.partial(large_zeros, huge=True)

needs_huge_pages = pytest.mark.skipif(
    not (SMAPS.exists() and hasattr(mmap, "MADV_HUGEPAGE")), reason="Linux's huge pages"
)


def map_of(address: int) -> str:
    """What /proc/self/smaps says of the map that an address lies in."""
    for part in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", SMAPS.read_text()):
        low, high = (int(x, 16) for x in part.split(maxsplit=1)[0].split("-"))
        if low <= address < high:
            return part
    raise AssertionError("it is in no map")


def flags(address: int) -> list[str]:
    found = re.search(r"^VmFlags:(.*)$", map_of(address), re.MULTILINE)
    assert found is not None
    return found[1].split()


def on_huge_pages(address: int) -> int:
    """Bytes of an address's map that lie on huge pages."""
    found = re.search(r"^AnonHugePages: +(\d+) kB$", map_of(address), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


@pytest.mark.parametrize("zeros", [aligned_zeros, large_zeros, huge_zeros])
@pytest.mark.parametrize("shape", [(1,), (3, 5), (1 << 20, 5)])
def test_zeroed_aligned_and_writable(zeros, shape):
    array = zeros(shape, np.float16)
    assert array.shape == shape
    assert array.dtype == np.float16
    assert array.ctypes.data % 64 == 0
    assert not array.any()
    array.fill(1)
    assert array.all()


@needs_huge_pages
def test_large_arrays_may_have_huge_pages():
    array = huge_zeros((9 << 20,), np.uint8)
    start = array.ctypes.data
    assert start % HUGE_PAGE == 0
    assert "hg" in flags(start)  # asked for
    assert "sh" not in flags(start)  # a shared map has none, whatever is asked for
    assert "hg" not in flags(start + (8 << 20))  # the rest, which fills none


@needs_huge_pages
def test_small_pages_unless_asked_for():
    assert "hg" not in flags(large_zeros((9 << 20,), np.uint8).ctypes.data)


@needs_huge_pages
def test_what_is_in_use_moves_to_huge_pages_and_stays_what_it_was():
    memory = large_zeros((9 << 20,), np.uint8)
    memory[:] = np.random.default_rng(0).integers(0, 256, memory.size)
    before = memory.copy()
    # Three arrays, one behind the other: the middle ones of the huge pages belong to two of them.
    parts = [memory[: 3 << 20], memory[3 << 20 : (5 << 20) - 64], memory[5 << 20 :]]
    moving = HugePages(parts)
    moves = sum(1 for _ in iter(moving.move, False))
    if moves == 0:
        pytest.skip("this system has no huge pages, or no MADV_COLLAPSE")
    assert moves == 4
    assert on_huge_pages(memory.ctypes.data) == 4 * HUGE_PAGE
    assert "hg" not in flags(memory.ctypes.data + 4 * HUGE_PAGE)
    assert not moving.move()
    np.testing.assert_array_equal(memory, before)


@needs_huge_pages
def test_what_others_have_between_arrays_is_left_alone():
    memory = large_zeros((8 << 20,), np.uint8)
    memory.fill(1)
    moving = HugePages([memory[: 3 << 20], memory[5 << 20 :]])
    while moving.move():
        pass
    assert "hg" in flags(memory.ctypes.data)
    assert "hg" not in flags(memory.ctypes.data + HUGE_PAGE)
    assert on_huge_pages(memory.ctypes.data + HUGE_PAGE) == 0
    assert "hg" in flags(memory.ctypes.data + 3 * HUGE_PAGE)


@needs_huge_pages
def test_a_kernel_that_refuses_is_not_asked_again(monkeypatch):
    asked = []
    monkeypatch.setattr(huge_pages, "madvise", lambda *args: asked.append(args) or False)
    memory = large_zeros((9 << 20,), np.uint8)
    moving = HugePages([memory])
    assert not moving.move()
    assert not moving.move()
    start = memory.ctypes.data
    assert asked == [
        (range(start, start + 4 * HUGE_PAGE), mmap.MADV_HUGEPAGE),  # for its own time
        (range(start, start + HUGE_PAGE), huge_pages._COLLAPSE),
    ]


def test_a_system_whose_owner_wants_none_has_none(monkeypatch, tmp_path):
    setting = tmp_path / "enabled"
    setting.write_text("always madvise [never]\n")
    monkeypatch.setattr(huge_pages, "_SETTING", setting)
    assert not HugePages([large_zeros((9 << 20,), np.uint8)]).move()
    monkeypatch.setattr(huge_pages, "_SETTING", tmp_path / "none")
    assert not HugePages([large_zeros((9 << 20,), np.uint8)]).move()


class Replaced:
    """Models that take some memory of one device, until they are unloaded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, free: int, taken: int) -> None:
        self.free, self.taken, self.unloads = free, taken, 0
        monkeypatch.setattr(memory, "available_bytes", lambda: self.free)

    def nbytes(self, device: str) -> int:
        return self.taken if device == "cpu" else 0

    def unload(self) -> None:
        self.unloads += 1
        self.free, self.taken = self.free + self.taken, 0


@pytest.mark.parametrize(
    ("free", "taken", "unloads", "refused"),
    [(100, 50, 0, False), (60, 50, 1, False), (60, 30, 0, True), (100, 0, 0, False)],
    ids=["beside", "in-place", "neither", "alone"],
)
def test_a_model_takes_the_place_of_another_only_if_it_must_and_can(
    monkeypatch: pytest.MonkeyPatch, free: int, taken: int, unloads: int, refused: bool
) -> None:
    replaced = Replaced(monkeypatch, free, taken)
    needs = memory.MemoryNeeds(70, 20, 10, replaces=replaced)
    for step in (needs.check, needs.make_room):
        with (
            pytest.raises(InsufficientMemoryError, match=r"needs 100 bytes .* only 90 are free")
            if refused
            else contextlib.nullcontext()
        ):
            step()
    assert replaced.unloads == unloads


def test_memory_that_was_promised_and_is_not_there_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replaced = Replaced(monkeypatch, 60, 50)
    needs = memory.MemoryNeeds(70, 20, 10, replaces=replaced)
    needs.check()
    monkeypatch.setattr(memory, "available_bytes", lambda: 60)
    with pytest.raises(InsufficientMemoryError, match="only 60 are free"):
        needs.make_room()
    assert replaced.unloads == 1
