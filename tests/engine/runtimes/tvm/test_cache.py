"""The compile cache: what it uses, and what it does not trust."""

from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path

import pytest

from mlc_widget.engine.runtimes.tvm.cache import CompileCache, default_root

KEY = {"model": "one kernel"}


@pytest.fixture(scope="module")
def executable():
    """The smallest program there is."""
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
    assert sorted(p.name for p in cache.path.iterdir()) == ["entry.json", "model.o", "model.ro"]


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_only_we_can_read_it(cache, tmp_path):
    for folder in (tmp_path / "tvm", cache.path):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("file", ["model.o", "model.ro", "entry.json"])
@pytest.mark.parametrize("damage", ["truncate", "change", "remove", "empty"])
def test_a_damaged_entry_is_replaced(cache, executable, file, damage, tmp_path):
    path = cache.path / file
    data = path.read_bytes()
    match damage:
        case "truncate":
            path.write_bytes(data[: len(data) // 2])
        case "change":
            path.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
        case "remove":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
    assert cache.load() is None
    cache.store(executable)
    assert works(cache.load())
    assert list((tmp_path / "tvm").iterdir()) == [cache.path]


@pytest.mark.parametrize("field", ["tvm", "tvm_ffi", "orcjit", "sources", "model"])
def test_an_entry_made_for_something_else_is_not_used(cache, executable, field):
    file = cache.path / "entry.json"
    content = json.loads(file.read_text())
    content["key"][field] = "other"
    file.write_text(json.dumps(content))
    assert cache.load() is None
    cache.store(executable)
    assert works(cache.load())


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
@pytest.mark.parametrize("mode", [0o777, 0o720, 0o702])
def test_an_entry_that_others_may_write_is_not_used(cache, executable, mode):
    cache.path.chmod(mode)
    assert cache.load() is None
    cache.store(executable)
    assert works(cache.load())


@pytest.mark.skipif(os.name != "posix", reason="symbolic links")
def test_a_link_in_its_place_is_not_followed(cache, executable, tmp_path):
    cache.path.rename(tmp_path / "elsewhere")
    cache.path.symlink_to(tmp_path / "elsewhere")
    assert cache.load() is None
    cache.store(executable)
    assert works(cache.load())
    assert not cache.path.is_symlink()


def test_a_file_in_its_place_is_replaced(cache, executable, tmp_path):
    cache.path.rename(tmp_path / "elsewhere")
    cache.path.write_text("?")
    assert cache.load() is None
    cache.store(executable)
    assert works(cache.load())


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


def test_where_it_lies(monkeypatch, tmp_path):
    monkeypatch.setenv("MLC_WIDGET_HOME", str(tmp_path))
    assert default_root() == tmp_path
    monkeypatch.delenv("MLC_WIDGET_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_root() == tmp_path / "mlc_widget"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_root() == Path.home() / ".cache" / "mlc_widget"
