"""Loads TVM's runtime without its compiler; compiled code needs 3 MB of libraries, not 260."""

from __future__ import annotations

import functools
import importlib.util
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mlc_widget.api.errors import RuntimeUnavailableError
from mlc_widget.engine.system.imports import import_error

TVM = "0.27"
"""The version of apache-tvm (major and minor) whose interfaces we use."""

_CPU, _POOLED = 1, 2
INSTALL = 'pip install "mlc-widget[tvm]"'
_PURPOSE = "The tvm runtime needs apache-tvm"


def start() -> None:
    """Load the runtime's libraries into this process.

    `import tvm` loads them too, beside the compiler; either may come first.

    Raises:
        RuntimeUnavailableError: They are not installed, or of another version.
    """
    try:
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


def virtual_machine(executable: Any) -> Any:
    """Initialize a `relax.VMExecutable` module on the CPU and this thread; its functions by name.

    `tvm.relax.VirtualMachine` does the same, but needs the compiler.
    """
    machine = executable["vm_load_executable"]()
    machine["vm_initialization"](_CPU, 0, _POOLED)
    return machine


def function(executable: Any, name: str) -> Any:
    """A kernel of a `relax.VMExecutable` module, which needs no virtual machine."""
    return executable.get_function(name, query_imports=True)


@functools.cache
def _load() -> Any:
    from tvm_ffi.libinfo import load_lib_ctypes

    spec = importlib.util.find_spec("tvm")
    if spec is None or spec.origin is None:
        raise ImportError("there is no package tvm")
    if "tvm" in sys.modules:
        return None
    folder = Path(spec.origin).parent / "lib"
    return load_lib_ctypes("tvm", "tvm_runtime", "RTLD_GLOBAL", extra_lib_paths=[folder])
