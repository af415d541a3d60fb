"""Loading TVM's runtime."""

from __future__ import annotations

import importlib
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from mlc_widget.engine.runtimes.tvm.machine import without_torch


@pytest.fixture
def a_torch(tmp_path, monkeypatch):
    """A package of that name, which is not imported yet."""
    (tmp_path / "torch.py").write_text("there = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    yield
    sys.modules.pop("torch", None)


def there() -> bool:
    return bool(importlib.import_module("torch").there)


@pytest.mark.skipif(sys.platform == "win32", reason="there, tvm_ffi needs torch first")
def test_tvm_is_imported_without_torch(a_torch):
    with without_torch(), pytest.raises(ImportError):
        there()
    assert there()


def test_other_threads_import_it_meanwhile(a_torch):
    with without_torch(), ThreadPoolExecutor(1) as other:
        assert other.submit(there).result()


def test_what_is_imported_already_stays(a_torch):
    assert there()
    with without_torch():
        assert there()


def test_nothing_is_left_behind_by_an_error(a_torch):
    before = list(sys.meta_path)
    with pytest.raises(KeyError), without_torch():
        raise KeyError
    assert sys.meta_path == before
