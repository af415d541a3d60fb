"""Where CUDA 13's runtime, headers and driver are on this machine.

pip puts NVIDIA's packages into a folder ``nvidia/cu13`` of each place that packages are installed
in (the environment's, the user's, one of a path file), so that there may be several such folders,
each with a part of CUDA.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_SYSTEM: Final = Path("/usr/local/cuda")


def driver() -> ctypes.CDLL | None:
    """NVIDIA's driver; None without."""
    return _load("libcuda.so.1")


def cudart() -> ctypes.CDLL | None:
    """Load CUDA 13's runtime, from the system or NVIDIA's packages; None if it is not found."""
    name = "libcudart.so.13"
    return _load(name, *(root / lib / name for root in _toolkits() for lib in ("lib", "lib64")))


def find_headers() -> bool:
    """Look for CUDA's headers; where they are found, ``CUDA_PATH`` then says where.

    A folder that has C++'s standard headers (cccl) beside them is preferred; else those may be in
    another one (`cccl`).
    """
    found = [root for root in _roots() if (root / "include" / "cuda_fp16.h").is_file()]
    complete = [root for root in found if _cccl_of(root) is not None]
    if not found or cccl() is None:
        return False
    os.environ["CUDA_PATH"] = str((complete or found)[0])
    return True


def cccl() -> Path | None:
    """The folder of C++'s standard headers for CUDA (``cuda/std``), to include; None without."""
    return next((there for root in _roots() if (there := _cccl_of(root)) is not None), None)


def _cccl_of(root: Path) -> Path | None:
    # In include/cccl or, by some installers, in include itself or targets/*/include/cccl.
    include = root / "include"
    places = (include, include / "cccl", *root.glob("targets/*/include/cccl"))
    return next((p for p in places if (p / "cuda" / "std" / "cstdint").is_file()), None)


def _roots() -> list[Path]:
    """Where CUDA may be: what the user says goes first."""
    given = [Path(os.environ[k]) for k in ("CUDA_PATH", "CUDA_HOME") if os.environ.get(k)]
    return [*given, *_toolkits()]


def _toolkits() -> list[Path]:
    """Every folder into which NVIDIA's packages put CUDA 13, and the system's."""
    packages = (Path(root) / "cu13" for root in _nvidia_folders())
    return [*(root for root in dict.fromkeys(packages) if root.is_dir()), _SYSTEM]


def _nvidia_folders() -> Iterator[Path]:
    spec = importlib.util.find_spec("nvidia")
    if spec is not None:
        yield from map(Path, spec.submodule_search_locations or ())
    # A package with an __init__.py of its own hides the other folders from the import system.
    yield from (Path(entry) / "nvidia" for entry in sys.path if entry)


def _load(name: str, *others: Path) -> ctypes.CDLL | None:
    """Load a shared library, by the system's search or from one of `others`."""
    if not sys.platform.startswith("linux"):
        return None
    for candidate in (name, *map(str, others)):
        try:
            return ctypes.CDLL(candidate, ctypes.RTLD_GLOBAL)
        except OSError:
            continue
    return None
