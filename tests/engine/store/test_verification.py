"""Weights are compared with their MD5 sums, and verified files are recorded."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlc_widget.api.errors import ModelFormatError
from mlc_widget.engine.store import verification
from mlc_widget.engine.store.tensor_cache import TensorCache

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))
import mlc_format

PARAMS = {name: np.arange(60, dtype=np.uint32) for name in "abcde"}
SHARDS = 5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of five shards of 240 bytes."""
    (tmp_path / "model").mkdir()
    mlc_format.write_params(tmp_path / "model", PARAMS, shard_bytes=240)
    assert len(list((tmp_path / "model").glob("*.bin"))) == SHARDS
    return tmp_path / "model"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def verify(folder: Path, root: Path, policy: Any = "once") -> int:
    """Check a model, and read all of it; the bytes that were compared with their sums."""
    read = 0

    def progress(done: int, total: int) -> None:
        nonlocal read
        read = done

    cache = TensorCache.from_folder(folder)
    cache.verify(progress, policy, root)
    for record in cache.records.values():
        cache.read(record)
    return read


def shard(folder: Path, number: int) -> Path:
    return folder / f"params_shard_{number}.bin"


def edit(folder: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    file = folder / "tensor-cache.json"
    content = json.loads(file.read_text())
    change(content["records"])
    file.write_text(json.dumps(content))


def flip(path: Path, at: int = 100, *, keep_time: bool = False) -> None:
    info = path.stat()
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    if keep_time:
        os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def test_each_file_is_read_once(folder, root):
    assert verify(folder, root) == SHARDS * 240
    assert verify(folder, root) == 0
    assert verify(folder, root, "always") == SHARDS * 240
    assert verify(folder, root, "never") == 0


@pytest.mark.parametrize("number", [0, 2, 4])
@pytest.mark.parametrize("at", [0, 100, 239])
def test_a_flipped_bit_is_found(folder, root, number, at):
    flip(shard(folder, number), at)
    for _ in range(2):
        with pytest.raises(ModelFormatError, match=r"damaged.*Download the file again") as caught:
            verify(folder, root)
        assert caught.value.param == str(shard(folder, number))
    verify(folder, root, "never")


def test_a_wrong_sum_in_the_list_is_found(folder, root):
    edit(folder, lambda records: records[1].update(md5sum="0" * 32))
    with pytest.raises(ModelFormatError, match=rf"{shard(folder, 1)} is damaged"):
        verify(folder, root)


def test_a_sum_that_is_changed_later_is_found(folder, root):
    verify(folder, root)
    edit(folder, lambda records: records[1].update(md5sum="0" * 32))
    with pytest.raises(ModelFormatError, match=rf"{shard(folder, 1)} is damaged"):
        verify(folder, root)


def _exchange(path: Path) -> None:
    """Another file of the same size and time."""
    other = path.with_name("other")
    shutil.copy2(path, other)
    flip(other, keep_time=True)
    other.replace(path)


def _in_place(path: Path) -> None:
    flip(path, keep_time=True)


@pytest.mark.parametrize("change", [flip, _exchange, _in_place])
def test_a_file_that_changes_after_it_was_verified_is_read_again(folder, root, change):
    verify(folder, root)
    change(shard(folder, 3))
    with pytest.raises(ModelFormatError, match="damaged") as caught:
        verify(folder, root)
    assert caught.value.param == str(shard(folder, 3))


def test_only_what_changed_is_read_again(folder, root):
    verify(folder, root)
    shard(folder, 3).touch()
    assert verify(folder, root) == 240
    assert verify(folder, root) == 0


def test_a_file_that_has_just_changed_is_remembered_only_if_a_change_would_show(
    folder, root, monkeypatch
):
    now = time.time
    monkeypatch.setattr(verification.time, "time", lambda: now() - 3600)  # its clock is ahead
    assert verify(folder, root) == SHARDS * 240
    assert verify(folder, root) == SHARDS * 240


@pytest.mark.parametrize("missing", [None, "", "absent"])
def test_files_without_a_sum_are_used_and_named(folder, root, caplog, missing):
    def change(records):
        for record in records[1:3]:
            record.pop("md5sum")
            if missing != "absent":
                record["md5sum"] = missing

    edit(folder, change)
    flip(shard(folder, 1))
    assert verify(folder, root) == 3 * 240
    assert "2 of 5 weight files (params_shard_1.bin" in caplog.text
    assert verify(folder, root) == 0


@pytest.mark.parametrize("md5", [5, [], True, "abc", "g" * 32, "é" * 32])
def test_a_sum_that_is_none_is_refused(folder, root, md5):
    edit(folder, lambda records: records[0].update(md5sum=md5))
    with pytest.raises(ModelFormatError, match=r"md5sum of params_shard_0.bin"):
        verify(folder, root)


def test_a_sum_in_capitals(folder, root):
    edit(folder, lambda records: records[0].update(md5sum=records[0]["md5sum"].upper()))
    assert verify(folder, root) == SHARDS * 240


@pytest.mark.parametrize(
    "text", ["", "x", "[]", "[" * 100_000, '{"params_shard_0.bin": 5}', '{"a": {}}', "\xff"]
)
def test_a_record_that_is_damaged_is_made_anew(folder, root, text):
    verify(folder, root)
    [record] = (root / "verified").iterdir()
    record.write_text(text, encoding="latin-1")
    assert verify(folder, root) == SHARDS * 240
    assert verify(folder, root) == 0


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
@pytest.mark.parametrize("which", ["record", "folder", "root"])
def test_a_record_that_others_may_write_is_not_trusted(folder, root, which):
    verify(folder, root)
    [record] = (root / "verified").iterdir()
    {"record": record, "folder": record.parent, "root": root}[which].chmod(0o775)
    assert verify(folder, root) == SHARDS * 240
    assert verify(folder, root) == (0 if which == "record" else SHARDS * 240)


def test_a_cache_that_cannot_be_written_costs_time_only(folder, root):
    root.write_text("a file in the way")
    for _ in range(2):
        assert verify(folder, root) == SHARDS * 240


def test_nothing_is_written_to_the_models_folder(folder, root):
    before = sorted(folder.iterdir())
    folder.chmod(0o555)
    verify(folder, root)
    assert verify(folder, root) == 0
    assert sorted(folder.iterdir()) == before


def test_what_was_done_before_a_cancellation_is_remembered(folder, root, monkeypatch):
    monkeypatch.setattr(verification, "_THREADS", 1)

    class Cancelled(Exception):
        pass

    def progress(done: int, total: int) -> None:
        if done >= 2 * 240:
            raise Cancelled

    with pytest.raises(Cancelled):
        TensorCache.from_folder(folder).verify(progress, "once", root)
    assert verify(folder, root) < SHARDS * 240
    assert verify(folder, root) == 0


def test_a_cancellation_ends_a_read_of_a_large_file(folder, root, monkeypatch):
    """Between two blocks: the rest of the file is not read."""
    monkeypatch.setattr(verification, "_BLOCK", 16)
    blocks = 0

    class Slow:
        """A digest that lets its reader wait until the load was cancelled."""

        def update(self, block: memoryview) -> None:
            nonlocal blocks
            blocks += 1
            if blocks > 2:
                assert stop.wait(60)

        def hexdigest(self) -> str:
            return ""

    check = verification._Check(folder / "tensor-cache.json", None, {}, None)  # type: ignore[arg-type]
    stop = check._stop
    monkeypatch.setattr(verification.hashlib, "md5", lambda **_: Slow())

    def progress(done: int, total: int) -> None:
        raise InterruptedError

    check._progress = progress
    file = verification.PublishedFile(shard(folder, 0), 240, "0" * 32)
    with pytest.raises(InterruptedError):
        check.run([file])
    assert blocks < 240 // 16


@pytest.mark.parametrize("change", [flip, _exchange, lambda p: p.write_bytes(bytes(100))])
def test_a_file_that_changes_between_the_check_and_the_use_is_not_used(folder, root, change):
    for _ in range(2):  # with sums that were compared now, and before
        cache = TensorCache.from_folder(folder)
        cache.verify(None, "once", root)
        cache.read(cache.records["b"])
        good = shard(folder, 1).read_bytes()
        change(shard(folder, 1))
        with pytest.raises(ModelFormatError, match=r"changed while it was being loaded.*Wait"):
            cache.read(cache.records["b"])
        shard(folder, 1).write_bytes(good)


def test_a_file_that_changes_while_its_parameter_is_read_is_not_used(folder, root):
    cache = TensorCache.from_folder(folder)
    cache.verify(None, "once", root)
    pieces = cache.read_rows(cache.records["b"], [(0, 30), (30, 60)])
    next(pieces)
    flip(shard(folder, 1), 200)
    with pytest.raises(ModelFormatError, match="changed while"):
        list(pieces)


@pytest.mark.parametrize("how", ["gone", "folder", "unreadable"])
def test_a_file_that_cannot_be_read(folder, root, how, monkeypatch):
    cache = TensorCache.from_folder(folder)
    path = shard(folder, 2)
    if how == "unreadable":  # root may read everything
        monkeypatch.setattr("mlc_widget.engine.store.verification.open_regular", _denied)
    else:
        path.unlink()
        if how == "folder":
            path.mkdir()
    with pytest.raises(ModelFormatError, match="cannot be read"):
        cache.verify(None, "once", root)


def _denied(self: Path, *args: Any, **kwargs: Any) -> Any:
    raise PermissionError(13, "Permission denied", str(self))


def test_processes_that_verify_at_once(folder, root):
    code = f"""
from pathlib import Path
from mlc_widget.engine.store.tensor_cache import TensorCache
for _ in range(20):
    TensorCache.from_folder({str(folder)!r}).verify(None, "always", Path({str(root)!r}))
"""
    cwd = Path(__file__).parents[3]
    children = [subprocess.Popen([sys.executable, "-c", code], cwd=cwd) for _ in range(3)]
    assert [child.wait(120) for child in children] == [0, 0, 0]
    assert verify(folder, root) == 0
    assert len(list((root / "verified").iterdir())) == 1
