"""Why a package could not be imported, or memory ran out, told by what was found out.

A remedy is named only for the cause that was checked: a package that is not there is installed, a
file of the user's that stands in a package's place is renamed, and what needs more memory than the
process may have gets more.
"""

from __future__ import annotations

import errno
import importlib
import importlib.util
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
"""What the system's loader and C++ libraries say, in the text of other errors."""


def import_package(name: str, *attributes: str, purpose: str, install: str) -> ModuleType:
    """Import a package, and see that it is the one of that name.

    Args:
        name: The package.
        attributes: Some that it has.
        purpose: What needs it, as a sentence begins: ``Structured output needs llguidance``.
        install: The command that installs it.

    Raises:
        RuntimeUnavailableError: It is not there, is another one, or does not work.
        InsufficientMemoryError: Memory ran out.
    """
    try:
        module = importlib.import_module(name)
        for attribute in attributes:
            getattr(module, attribute)
    except Exception as error:
        raise import_error(error, purpose=purpose, install=install, package=name) from error
    return module


def import_error(
    error: BaseException, *, purpose: str, install: str, package: str | None = None
) -> MLCEngineError:
    """The error to raise for one that an import ended with.

    Args:
        error: That one.
        purpose: What needs the package, as a sentence begins.
        install: The command that installs it.
        package: The package, where the error does not tell.
    """
    if ran_out_of_memory(error):
        return memory_error(f"{purpose}, and memory ran out while it was imported", error)
    name = (getattr(error, "name", None) or package or "").partition(".")[0]
    for suspect in dict.fromkeys(filter(None, [package, name])):
        file = _file_of(suspect)
        if file is not None and _is_foreign(file):
            return RuntimeUnavailableError(
                f"{purpose}, but `import {suspect}` finds {file}, which stands in the package's "
                f"place ({type(error).__name__}: {error}). Rename that file, or take its folder "
                "out of PYTHONPATH."
            )
    if isinstance(error, ImportError) and name and _file_of(name) is None:
        return RuntimeUnavailableError(f"{purpose}: {error}. Install it with `{install}`.")
    file = _file_of(package or name)
    where = "" if file is None else f" It was imported from {file}."
    return RuntimeUnavailableError(
        f"{purpose}, which cannot be imported ({type(error).__name__}: {error}).{where}"
    )


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, be it in its text."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        return _address_space_limit() is not None  # else there may be too many threads
    told = isinstance(error, OSError | ImportError | RuntimeError)
    return told and any(words in str(error).lower() for words in _NO_MEMORY)


def memory_error(what: str, error: BaseException) -> InsufficientMemoryError:
    """The error for memory that ran out, with the limit of this process if it has one."""
    detail = str(error) or type(error).__name__
    limit = _address_space_limit()
    if limit is None:
        return InsufficientMemoryError(f"{what} ({detail}). Free some, or choose a smaller model.")
    return InsufficientMemoryError(
        f"{what} ({detail}). This process may have {limit:,} bytes of address space (RLIMIT_AS, "
        f"`ulimit -v {limit // 1024}`): allow it more, or choose a smaller model."
    )


def _address_space_limit() -> int | None:
    if sys.platform == "win32":
        return None
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def _file_of(package: str) -> str | None:
    """Where an import of a package finds it, if anywhere."""
    module = sys.modules.get(package)
    if module is not None and getattr(module, "__file__", None):
        return str(module.__file__)
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError, AttributeError):
        return None
    return None if spec is None else spec.origin


def _is_foreign(file: str) -> bool:
    """Whether a file is in none of the folders where packages are installed."""
    folders = {*site.getsitepackages(), *sysconfig.get_paths().values()}
    if site.ENABLE_USER_SITE:
        folders.add(site.getusersitepackages())
    path = Path(file).resolve()
    return not any(path.is_relative_to(Path(folder).resolve()) for folder in folders)
