"""Copies of packed weights: which are used, which are kept, and how they make room for others."""

from __future__ import annotations

import os
import shutil
import stat
import threading
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from mlc_widget.api.errors import BadRequestError
from mlc_widget.engine.store import packed_weights
from mlc_widget.engine.store.packed_weights import (
    LIMIT_VARIABLE,
    CopyTask,
    PackedWeights,
    Stopped,
    copies,
    is_worthwhile,
    remove_copies_of,
)
from mlc_widget.engine.store.verification import FileIdentity

WEIGHTS = bytes(range(256)) * 700
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"weights")
    return file


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def copy_of(model: Path, root: Path, *, layout: Any = None, versions: Any = None) -> PackedWeights:
    made_from = {model: FileIdentity.of(model)}
    return PackedWeights(made_from, layout or {"k": 1}, versions or {"v": 1}, len(WEIGHTS), root)


def keep(copy: PackedWeights, content: bytes = WEIGHTS) -> bool:
    return copy.write(memoryview(content), lambda: None)


def content(copy: PackedWeights) -> bytes | None:
    mapped = copy.open()
    return None if mapped is None else mapped[:]


def files(root: Path) -> list[Path]:
    return sorted((root / "weights").iterdir())


def test_a_copy_is_found_by_the_next_load(model, root):
    assert copy_of(model, root).open() is None
    assert keep(copy_of(model, root))
    assert content(copy_of(model, root)) == WEIGHTS
    [file] = files(root)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(copies(root)) == [(file, file.stat().st_size, (Path(os.path.realpath(model)),))]


def test_weights_of_many_pieces(model, root, monkeypatch):
    monkeypatch.setattr(packed_weights, "_PIECE", 1000)
    monkeypatch.setattr(packed_weights, "_SYNCED", 3000)
    pauses: list[int] = []
    assert copy_of(model, root).write(memoryview(WEIGHTS), lambda: pauses.append(1))
    assert len(pauses) > len(WEIGHTS) // 1000
    assert content(copy_of(model, root)) == WEIGHTS


def test_what_is_written_to_a_map_does_not_reach_the_file(model, root):
    keep(copy_of(model, root))
    mapped = copy_of(model, root).open()
    assert mapped is not None
    mapped[:4] = b"\xff" * 4
    assert content(copy_of(model, root)) == WEIGHTS


def _cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def _cut_in_half(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def _lengthen(file: Path) -> None:
    with file.open("ab") as opened:
        opened.write(b"\n")


def _flip(at: int) -> Any:
    def damage(file: Path) -> None:
        data = bytearray(file.read_bytes())
        data[at] ^= 1
        file.write_bytes(data)

    return damage


def _empty(file: Path) -> None:
    file.write_bytes(b"")


def _foreign(file: Path) -> None:
    file.write_bytes(os.urandom(file.stat().st_size))


def _link(file: Path) -> None:
    file.rename(file.with_suffix(".else"))
    file.symlink_to(file.with_suffix(".else"))


def _fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def _folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _writable(file: Path) -> None:
    file.chmod(0o622)


@pytest.mark.skipif(os.name != "posix", reason="POSIX files")
@pytest.mark.parametrize(
    "damage",
    [_cut, _cut_in_half, _lengthen, _flip(-1), _flip(-40), _flip(len(WEIGHTS)), _empty, _foreign,
     _link, _fifo, _folder, _writable],
    ids=["cut", "half", "longer", "magic", "length", "footer", "empty", "foreign",
         "link", "fifo", "folder", "writable"],
)  # fmt: skip
def test_a_damaged_or_foreign_file_is_not_used_and_replaced(model, root, damage):
    keep(copy_of(model, root))
    [file] = files(root)
    damage(file)
    assert copy_of(model, root).open() is None
    assert remove_copies_of(set(), root) == 0  # it does not break the list
    assert keep(copy_of(model, root))
    assert content(copy_of(model, root)) == WEIGHTS


def _touch(model: Path) -> None:
    os.utime(model, ns=(0, model.stat().st_mtime_ns + 1))


def _rewrite(model: Path) -> None:
    before = model.stat()
    model.write_bytes(b"WEIGHTS")
    os.utime(model, ns=(0, before.st_mtime_ns + 1))


def _exchange(model: Path) -> None:
    other = model.with_name("other")
    other.write_bytes(b"weights")
    os.utime(other, ns=(0, model.stat().st_mtime_ns))
    other.rename(model)


def _grow(model: Path) -> None:
    model.write_bytes(b"weights and more")


@pytest.mark.parametrize("change", [_touch, _rewrite, _exchange, _grow])
def test_the_copy_of_a_changed_model_is_not_used_and_gives_way(model, root, change):
    keep(copy_of(model, root))
    change(model)
    assert copy_of(model, root).open() is None
    new = WEIGHTS[::-1]
    assert keep(copy_of(model, root), new)
    assert content(copy_of(model, root)) == new
    assert len(files(root)) == 1


@pytest.mark.parametrize("other", [{"versions": {"v": 2}}, {"layout": {"k": 2}}])
def test_code_or_layout_that_differs_has_another_copy(model, root, other):
    keep(copy_of(model, root))
    assert copy_of(model, root, **other).open() is None
    assert keep(copy_of(model, root, **other))
    # Another version takes the place of the old one, but there may be several layouts.
    assert len(files(root)) == (1 if "versions" in other else 2)


@pytest.mark.parametrize("how", ["replaced", "removed", "evicted"])
def test_what_is_mapped_stays(model, root, how):
    keep(copy_of(model, root))
    mapped = copy_of(model, root).open()
    assert mapped is not None
    if how == "replaced":
        keep(copy_of(model, root, versions={"v": 2}), WEIGHTS[::-1])
    elif how == "removed":
        assert remove_copies_of({model}, root) > len(WEIGHTS)
    else:
        shutil.rmtree(root)
    assert mapped[:] == WEIGHTS


def others(tmp_path: Path, root: Path, count: int) -> list[PackedWeights]:
    """Copies of some models, of which the first was used last."""
    found = []
    for i in range(count):
        model = tmp_path / f"{i}.gguf"
        model.write_bytes(b"weights")
        found.append(copy_of(model, root))
        assert keep(found[-1])
        os.utime(root / "weights" / found[-1].name, (i + 1, i + 1))
    found[0].open()
    return found


def test_the_copies_that_were_not_used_for_longest_make_room(tmp_path, model, root, monkeypatch):
    kept = others(tmp_path, root, 4)
    monkeypatch.setenv(LIMIT_VARIABLE, str(3 * len(WEIGHTS) + 3000))
    assert keep(copy_of(model, root))
    assert [copy.open() is not None for copy in kept] == [True, False, False, True]


def test_copies_take_a_part_of_the_free_space(tmp_path, model, root, monkeypatch):
    kept = others(tmp_path, root, 3)
    free = [4 * len(WEIGHTS)]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1 << 40, 0, free[0]))
    assert keep(copy_of(model, root))
    assert [copy.open() is not None for copy in kept] == [False, False, False]
    free[0] = 2 * len(WEIGHTS)
    other = tmp_path / "another.gguf"
    other.write_bytes(b"weights")
    assert not keep(copy_of(other, root))
    assert content(copy_of(model, root)) == WEIGHTS  # what is there is not given up for nothing


@pytest.mark.parametrize("text", ["0", "1000", f" {16 << 20} "])
def test_a_limit_in_the_environment(text, monkeypatch):
    monkeypatch.setenv(LIMIT_VARIABLE, text)
    assert is_worthwhile(16 << 20) == (int(text) >= 16 << 20)
    assert not is_worthwhile((16 << 20) - 1)


@pytest.mark.parametrize("text", ["8GB", "-1", "1e9", "off", "٣", "9" * 30])
def test_a_limit_that_is_no_number_is_named(text, monkeypatch):
    monkeypatch.setenv(LIMIT_VARIABLE, text)
    with pytest.raises(BadRequestError, match=f"{LIMIT_VARIABLE} is .*number of bytes"):
        is_worthwhile(1 << 30)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), Stopped()])
def test_what_was_not_finished_is_removed(model, root, monkeypatch, error):
    monkeypatch.setattr(packed_weights, "_PIECE", 10_000)
    calls: list[int] = []

    def pause() -> None:
        calls.append(1)
        if len(calls) == 5:
            raise error

    assert not copy_of(model, root).write(memoryview(WEIGHTS), pause)
    assert files(root) == []


def test_a_model_that_changes_while_its_copy_is_written_has_none(model, root):
    assert not copy_of(model, root).write(memoryview(WEIGHTS), lambda: _touch(model))
    assert files(root) == []


def test_what_the_dead_have_left_and_copies_without_a_model_are_removed(tmp_path, model, root):
    [gone] = others(tmp_path, root, 1)
    (tmp_path / "0.gguf").unlink()
    left, new = root / "weights" / ".1.new", root / "weights" / ".2.new"
    left.write_bytes(b"x")
    new.write_bytes(b"x")
    os.utime(left, (time.time() - 3600,) * 2)
    assert keep(copy_of(model, root))
    assert {file.name for file in files(root)} == {".2.new", copy_of(model, root).name}
    assert gone.open() is None


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can give files away")
def test_an_unsafe_cache_is_neither_read_nor_written(model, root):
    keep(copy_of(model, root))
    root.chmod(0o777)
    assert copy_of(model, root).open() is None
    assert not keep(copy_of(model, root))


def test_a_task_waits_while_there_is_work_and_can_be_stopped(model, root):
    busy = threading.Event()
    asked = threading.Event()

    def is_busy() -> bool:
        asked.set()
        return busy.is_set()

    busy.set()
    waiting = CopyTask(copy_of(model, root), memoryview(WEIGHTS), is_busy)
    waiting.thread.start()
    assert asked.wait(60)
    assert copy_of(model, root).open() is None
    waiting.stop()
    waiting.join(60)
    assert not waiting.thread.is_alive()
    assert files(root) == []
    busy.clear()
    task = CopyTask(copy_of(model, root), memoryview(WEIGHTS), is_busy)
    task.thread.start()
    task.join(60)
    assert content(copy_of(model, root)) == WEIGHTS
