"""The compile cache: which entries it uses, and which it does not trust."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Callable
from typing import Any

import pytest

from mlc_widget.engine.runtimes.tvm.cache import CompileCache

from .conftest import ROOT

KEY = {"model": "one kernel"}


def smallest() -> Any:
    """The smallest possible program."""
    import tvm
    from tvm import relax
    from tvm.script import relax as R  # noqa: N812
    from tvm.script import tirx as T  # noqa: N812

    from mlc_widget.engine.runtimes.tvm.compile import _pipeline
    from mlc_widget.engine.runtimes.tvm.target import host_target

    @T.prim_func(s_tir=True)
    def double(x: T.handle, y: T.handle):
        T.func_attr({"tirx.is_scheduled": True, "global_symbol": "double"})
        n = T.int64()
        xs = T.match_buffer(x, (n,), "float32")
        ys = T.match_buffer(y, (n,), "float32")
        for i in T.serial(n):
            ys[i] = xs[i] + xs[i]

    builder = relax.BlockBuilder()
    n = tvm.tirx.Var("n", "int64")
    x = relax.Var("x", R.Tensor((n,), "float32"))
    with builder.function("forward", [x]):
        kernel = builder.add_func(double, "double")
        y = builder.emit(relax.call_tir(kernel, [x], R.Tensor((n,), "float32")))
        builder.emit_func_output(y)
    return tvm.compile(builder.get(), host_target().tvm_target(), relax_pipeline=_pipeline())


@pytest.fixture(scope="module")
def executable():
    return smallest()


def works(loaded) -> bool:
    import numpy as np
    import tvm
    from tvm import relax

    forward = relax.VirtualMachine(loaded, tvm.cpu())["forward"]
    return forward(tvm.runtime.tensor(np.full(3, 2, np.float32))).numpy().tolist() == [4, 4, 4]


@pytest.fixture
def cache(tmp_path, executable):
    cache = CompileCache(KEY, tmp_path)
    assert cache.load() is None
    cache.store(executable)
    assert works(cache.load())
    return cache


def test_nothing_lies_about(cache, tmp_path):
    assert list((tmp_path / "tvm").iterdir()) == [cache.path]


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_only_we_can_read_it(cache, tmp_path):
    assert stat.S_IMODE((tmp_path / "tvm").stat().st_mode) == 0o700
    assert stat.S_IMODE(cache.path.stat().st_mode) == 0o600


def deep(content: bytes) -> bytes:
    return b"[" * 1_000_000 + content


def other_key(field: str) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        head, _, payload = content.partition(b"\n")
        entry = json.loads(head)
        entry["key"][field] = "other"
        return json.dumps(entry).encode() + b"\n" + payload

    return change


@pytest.mark.parametrize(
    "damage",
    [
        lambda c: b"",
        lambda c: c[: len(c) // 2],
        lambda c: c[:-1],
        lambda c: c[:100] + bytes([c[100] ^ 1]) + c[101:],
        lambda c: c[:-100] + bytes([c[-100] ^ 1]) + c[-99:],
        lambda c: c + b"x",
        lambda c: b"[1]\n" + c,
        lambda c: c.replace(b'"sizes"', b'"size"'),
        lambda c: c.replace(b'"sizes": [', b'"sizes": [1, '),
        lambda c: c.replace(b'"device": []', b'"device": ["cuda"]'),
        deep,
        *map(other_key, ["tvm", "tvm_ffi", "orcjit", "sources", "model"]),
    ],
)
def test_an_entry_that_is_not_good_is_replaced(cache, executable, damage, tmp_path):
    cache.path.write_bytes(damage(cache.path.read_bytes()))
    assert cache.load() is None
    assert works(cache.store(executable))
    assert works(cache.load())
    assert list((tmp_path / "tvm").iterdir()) == [cache.path]


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
@pytest.mark.parametrize("which", ["entry", "folder", "parent"])
def test_what_others_may_write_is_not_used(cache, executable, tmp_path, which, caplog):
    path = {"entry": cache.path, "folder": tmp_path / "tvm", "parent": tmp_path}[which]
    path.chmod(0o775)
    assert cache.load() is None
    assert works(cache.store(executable))  # cached or not
    if which == "entry":
        assert works(cache.load())
    else:
        assert cache.load() is None
        assert caplog.text.count(f"chmod go-w {path}`") == 1


def child(code: str, **kwargs: Any) -> str:
    """What another process prints, and logs, that runs some code beside these tests."""
    names = "from pathlib import Path\nfrom tests.engine.runtimes.tvm.test_cache import *\n"
    done = subprocess.run(
        [sys.executable, "-c", names + textwrap.dedent(code)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        **kwargs,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.skipif(os.name != "posix", reason="POSIX limits")
@pytest.mark.parametrize(
    "limit", [*(pytest.param(n, marks=pytest.mark.soak) for n in (0, 100)), 20_000]
)
def test_a_process_that_may_write_no_large_files_still_compiles(tmp_path, limit):
    said = child(
        f"""
        import resource
        made = smallest()
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
        cache = CompileCache(KEY, Path({str(tmp_path)!r}))
        assert works(cache.store(made))
        assert works(cache.store(made))
        assert cache.load() is None
        """
    )
    assert said.count("cannot be used as a cache") == 1
    assert "ulimit -f" in said
    assert not list(tmp_path.rglob("*.code"))


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="files in memory")
@pytest.mark.parametrize("size", ["16k", pytest.param("1m", marks=pytest.mark.soak)])
def test_full_disks_cost_time_only(tmp_path, size):
    """The cache's and /tmp."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user cannot mount a file system")
    try:
        (folder / "fill").write_bytes(bytes((1 << 20) - (1 << 14) if size == "1m" else 4096))
        said = child(
            f"""
            made = smallest()
            cache = CompileCache(KEY, Path({str(folder)!r}))
            assert works(cache.store(made))
            """,
            env=dict(os.environ, TMPDIR=str(folder)),
        )
        assert said.count("No space left") == 1
        assert not list((folder / "tvm").iterdir())
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("room", [True, False])
def test_without_files_in_memory_room_is_made_sure_of(executable, tmp_path, monkeypatch, room):
    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()

    def fsync(_: int) -> None:
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    cache = CompileCache(KEY, tmp_path)
    monkeypatch.setattr(os, "fsync", fsync)
    assert works(cache.store(executable))
    assert (cache.load() is not None) == room
    assert not list((tmp_path / "scratch").iterdir())


def test_another_key_is_another_entry(cache, tmp_path):
    assert CompileCache({"model": "two kernels"}, tmp_path).load() is None


def test_many_writers_and_readers(executable, tmp_path):
    failures: list[BaseException] = []

    def work() -> None:
        try:
            cache = CompileCache(KEY, tmp_path)
            for _ in range(3):
                cache.store(executable)
                assert works(cache.load())
        except BaseException as e:
            failures.append(e)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures
    assert len(list((tmp_path / "tvm").iterdir())) == 1
