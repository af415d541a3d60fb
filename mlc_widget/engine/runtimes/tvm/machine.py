"""Loads TVM's runtime without its compiler; compiled code needs 3 MB of libraries, not 260."""

from __future__ import annotations

import functools
import importlib.util
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mlc_widget.api.errors import RuntimeUnavailableError
from mlc_widget.engine.system.imports import import_error

TVM = "0.27"
"""The version of apache-tvm (major and minor) whose interfaces we use."""

_CPU, _CUDA, _POOLED = 1, 2, 2
INSTALL = 'pip install "mlc-widget[tvm]"'
_PURPOSE = "The tvm runtime needs apache-tvm"


def start() -> None:
    """Load the runtime's libraries into this process.

    `import tvm` loads them too, beside the compiler; either may come first.

    Raises:
        RuntimeUnavailableError: They are not installed, or of another version.
    """
    try:
        with without_torch():
            import tvm_ffi_orcjit  # noqa: F401

        _load()
        found = version("apache-tvm")
    except PackageNotFoundError as e:
        raise RuntimeUnavailableError(
            f"{_PURPOSE}, which is not installed. Install it with `{INSTALL}`."
        ) from e
    except Exception as e:  # a file that shadows a package may raise anything
        raise import_error(e, purpose=_PURPOSE, install=INSTALL, package="tvm") from e
    if not found.startswith(f"{TVM}."):
        raise RuntimeUnavailableError(
            f"{_PURPOSE} {TVM}, but {found} is installed. Install it with `{INSTALL}`."
        )


@contextmanager
def without_torch() -> Iterator[None]:
    """Have this thread import TVM without torch, whose import takes seconds where it is installed.

    tvm_ffi imports it first because of a conflict of their symbols on Windows, and tvm for
    functions that we do not use.
    """
    if sys.platform == "win32" or "torch" in sys.modules:
        yield
        return
    finder = _NoTorch(threading.get_ident())
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _NoTorch:
    """Finds that there is no torch when one thread imports it."""

    def __init__(self, thread: int) -> None:
        self._thread = thread

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        """As `importlib.abc.MetaPathFinder.find_spec`."""
        if name == "torch" and threading.get_ident() == self._thread:
            raise ModuleNotFoundError("torch is not needed here", name=name)


@functools.cache
def load_cuda() -> None:
    """Load the part of TVM's runtime for CUDA, if that can be: otherwise it finds no GPU.

    `cuda.target.prepare` must come first, which finds the libraries to which it is linked.
    """
    _load()
    if "tvm" in sys.modules:
        return
    from tvm_ffi.libinfo import load_lib_ctypes

    with suppress(OSError, RuntimeError):
        load_lib_ctypes("tvm", "tvm_runtime_cuda", "RTLD_LOCAL", extra_lib_paths=[_folder()])


def virtual_machine(executable: Any, gpu: int | None = None) -> Any:
    """Initialize a `relax.VMExecutable` module on this thread; its functions by name.

    `tvm.relax.VirtualMachine` does the same, but needs the compiler.

    Args:
        executable: The module.
        gpu: The number of the GPU that runs its kernels, if it is not the CPU.
    """
    machine = executable["vm_load_executable"]()
    first = () if gpu is None else (_CUDA, gpu, _POOLED)
    machine["vm_initialization"](*first, _CPU, 0, _POOLED)
    return machine


def function(executable: Any, name: str) -> Any:
    """A kernel of a `relax.VMExecutable` module, which needs no virtual machine."""
    return executable.get_function(name, query_imports=True)


@functools.cache
def _load() -> Any:
    from tvm_ffi.libinfo import load_lib_ctypes

    folder = _folder()
    if "tvm" in sys.modules:
        return None
    return load_lib_ctypes("tvm", "tvm_runtime", "RTLD_GLOBAL", extra_lib_paths=[folder])


def _folder() -> Path:
    """The folder of TVM's libraries."""
    spec = importlib.util.find_spec("tvm")
    if spec is None or spec.origin is None:
        raise ImportError("there is no package tvm")
    return Path(spec.origin).parent / "lib"
