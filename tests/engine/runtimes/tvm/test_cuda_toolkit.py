"""CUDA's parts are found wherever NVIDIA's packages lie, also in several folders."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import pytest

from mlc_widget.engine.runtimes.tvm.cuda import toolkit

FP16 = "include/cuda_fp16.h"
CCCL = "include/cccl/cuda/std/cstdint"
TARGET_CCCL = "targets/x86_64-linux/include/cccl/cuda/std/cstdint"


@pytest.fixture
def place(monkeypatch, tmp_path):
    """Makes files of CUDA in folders of their own on `sys.path`, and nowhere else."""
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    monkeypatch.setattr(toolkit, "_SYSTEM", tmp_path / "none")
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setenv("CUDA_PATH", "")  # put back after the test, as the code sets it

    def make(name: str, *files: str, package: bool = False) -> Path:
        folder = tmp_path / name
        for file in files:
            made = folder / "nvidia" / "cu13" / file
            made.parent.mkdir(parents=True, exist_ok=True)
            made.touch()
        if package:
            (folder / "nvidia" / "__init__.py").touch()
        sys.path.append(str(folder))
        return folder / "nvidia" / "cu13"

    return make


@pytest.fixture
def loaded(monkeypatch):
    """The paths of libraries that exist are loaded; returns them."""
    found: list[str] = []

    def load(name: str, mode: int) -> object:
        if not Path(name).is_file():
            raise OSError(name)
        found.append(name)
        return object()

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr(sys, "platform", "linux")
    return found


@pytest.mark.parametrize("lib", ["lib", "lib64"])
@pytest.mark.parametrize("package", [False, True])
def test_the_runtime_is_found_in_any_folder(place, loaded, lib, package):
    place("user", FP16, package=package)
    place("empty")
    there = place("environment", f"{lib}/libcudart.so.13")
    assert toolkit.cudart() is not None
    assert loaded == [str(there / lib / "libcudart.so.13")]


def test_without_it_there_is_none(place, loaded):
    place("user", FP16)
    assert toolkit.cudart() is None
    assert not loaded


@pytest.mark.parametrize("cccl", [CCCL, TARGET_CCCL, "include/cuda/std/cstdint"])
def test_headers_are_found_in_a_later_folder(place, cccl):
    place("user", "lib/libcudart.so.13")
    place("half", FP16)
    there = place("environment", FP16, cccl)
    assert toolkit.find_headers()
    assert os.environ["CUDA_PATH"] == str(there)
    assert (toolkit.cccl() / "cuda/std/cstdint").is_file()


def test_headers_may_be_in_two_folders(place):
    there = place("user", FP16)
    other = place("environment", CCCL)
    assert toolkit.find_headers()
    assert os.environ["CUDA_PATH"] == str(there)
    assert toolkit.cccl() == other / "include" / "cccl"


@pytest.mark.parametrize("files", [(), (FP16,), (CCCL,)])
def test_without_all_headers_there_are_none(place, files):
    place("user", *files)
    assert not toolkit.find_headers()
    assert os.environ["CUDA_PATH"] == ""


def test_what_the_user_says_goes_first(place, monkeypatch):
    said = place("said", FP16, CCCL)
    sys.path.clear()
    place("environment", FP16, CCCL)
    monkeypatch.setenv("CUDA_HOME", str(said))
    assert toolkit.find_headers()
    assert os.environ["CUDA_PATH"] == str(said)


def test_what_the_user_says_may_be_wrong(place, monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "gone"))
    there = place("environment", FP16, CCCL)
    assert toolkit.find_headers()
    assert os.environ["CUDA_PATH"] == str(there)
