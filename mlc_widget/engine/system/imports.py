"""Errors for packages that cannot be imported, and for memory that ran out.

A message names a remedy only for a cause that was established: install a missing package, rename a
file of the user's that shadows a package, allow the process more memory.
"""

from __future__ import annotations

import errno
import importlib
import importlib.util
import os
import site
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

from mlc_widget.api.errors import (
    InsufficientMemoryError,
    MLCEngineError,
    RuntimeUnavailableError,
)

_NO_MEMORY = ("cannot allocate memory", "failed to map segment", "out of memory")
"""How the dynamic loader and C++ libraries report it, in the text of other errors."""
_NUMPY_BYTES = 100 * 10**6
_NUMPY_BYTES_PER_THREAD = 40 * 10**6
"""Address space that an import of numpy takes: its libraries, and OpenBLAS' buffers and stacks."""


def import_package(name: str, *attributes: str, purpose: str, install: str) -> ModuleType:
    """Import a package, and check that it is the right one.

    Args:
        name: The package.
        attributes: Names that it must have.
        purpose: The beginning of a message, such as ``Structured output needs llguidance``.
        install: The command that installs it.

    Raises:
        RuntimeUnavailableError: It is not installed, is another module, or does not work.
        InsufficientMemoryError: Memory ran out.
    """
    try:
        module = importlib.import_module(name)
        for attribute in attributes:
            getattr(module, attribute)
    except Exception as error:
        raise import_error(error, purpose=purpose, install=install, package=name) from error
    return module


def import_llguidance() -> ModuleType:
    """Import the package llguidance.

    Raises:
        RuntimeUnavailableError: It is not installed, is another module, or does not work.
        InsufficientMemoryError: Memory ran out.
    """
    return import_package(
        "llguidance",
        "LLMatcher",
        "LLTokenizer",
        purpose="Structured output needs llguidance",
        install='pip install "mlc-widget[tvm]"',
    )


def check_room_for_numpy(purpose: str) -> None:
    """Refuse to import numpy where its OpenBLAS would end the process for want of memory.

    It exits, or raises SIGINT, where it cannot reserve its buffers; an error cannot be caught.

    Args:
        purpose: The beginning of the message, such as ``The tvm runtime needs numpy``.

    Raises:
        InsufficientMemoryError: RLIMIT_AS leaves too little.
    """
    limit = _address_space_limit()
    if limit is None or "numpy" in sys.modules:
        return
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:  # not Linux: the limit has no effect there
        return
    room = limit - pages * os.sysconf("SC_PAGE_SIZE")
    needed = _NUMPY_BYTES + (os.cpu_count() or 1) * _NUMPY_BYTES_PER_THREAD
    if room < needed:
        error = MemoryError(f"numpy needs {needed:,} bytes, and {max(room, 0):,} are left")
        raise memory_error(purpose, error)


def import_error(
    error: BaseException, *, purpose: str, install: str, package: str | None = None
) -> MLCEngineError:
    """The error to raise for an exception of an import.

    Args:
        error: The exception.
        purpose: The beginning of the message, which says what needs the package.
        install: The command that installs it.
        package: The package, for exceptions that do not name it.
    """
    if ran_out_of_memory(error):
        return memory_error(f"{purpose}, and memory ran out while it was imported", error)
    name = (getattr(error, "name", None) or package or "").partition(".")[0]
    for suspect in dict.fromkeys(filter(None, [package, name])):
        file = _file_of(suspect)
        if file is not None and _is_foreign(file):
            return RuntimeUnavailableError(
                f"{purpose}, but `import {suspect}` finds {file} instead of the package "
                f"({type(error).__name__}: {error}). Rename that file, or remove its folder from "
                "PYTHONPATH."
            )
    if isinstance(error, ImportError) and name and _file_of(name) is None:
        return RuntimeUnavailableError(f"{purpose}: {error}. Install it with `{install}`.")
    file = _file_of(package or name)
    where = "" if file is None else f" It was imported from {file}."
    return RuntimeUnavailableError(
        f"{purpose}, which cannot be imported ({type(error).__name__}: {error}).{where}"
    )


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, by its class or its text."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        return _address_space_limit() is not None  # otherwise there may be too many threads
    may_say_so = isinstance(error, OSError | ImportError | RuntimeError)
    return may_say_so and any(words in str(error).lower() for words in _NO_MEMORY)


def memory_error(what: str, error: BaseException) -> InsufficientMemoryError:
    """The error for memory that ran out, with the limit of this process if it has one."""
    detail = _line_about_memory(str(error)) or type(error).__name__
    limit = _address_space_limit()
    if limit is None:
        return InsufficientMemoryError(f"{what} ({detail}). Free memory or choose a smaller model.")
    return InsufficientMemoryError(
        f"{what} ({detail}). This process may use {limit:,} bytes of address space (RLIMIT_AS, "
        f"`ulimit -v {limit // 1024}`): raise the limit or choose a smaller model."
    )


def _line_about_memory(text: str) -> str:
    """The line that names the cause: numpy, for one, surrounds it with advice about others."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    about = (line for line in lines if any(words in line.lower() for words in _NO_MEMORY))
    return next(about, lines[0] if lines else "")


def _address_space_limit() -> int | None:
    if sys.platform == "win32":
        return None
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def _file_of(package: str) -> str | None:
    """The file that an import of the package finds; None if there is none."""
    module = sys.modules.get(package)
    if module is not None and getattr(module, "__file__", None):
        return str(module.__file__)
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError, AttributeError):
        return None
    return None if spec is None else spec.origin


def _is_foreign(file: str) -> bool:
    """Whether a file is outside the folders in which packages are installed."""
    folders = {*site.getsitepackages(), *sysconfig.get_paths().values()}
    if site.ENABLE_USER_SITE:
        folders.add(site.getusersitepackages())
    path = Path(file).resolve()
    return not any(path.is_relative_to(Path(folder).resolve()) for folder in folders)
