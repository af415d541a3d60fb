"""Detects this machine's GPU, and what must be installed besides apache-tvm to use it."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlc_widget.api.errors import RuntimeUnavailableError

INSTALL = 'pip install "mlc-widget[cuda]"'


@dataclass(frozen=True, slots=True)
class CudaTarget:
    """A GPU for which code is compiled.

    Attributes:
        arch: NVIDIA's name of the GPU's architecture, such as ``sm_90``.
        triple: LLVM's target triple for the host code, which starts the kernels.
        cpu: LLVM's name of the CPU that runs the host code.
    """

    arch: str
    triple: str
    cpu: str

    @property
    def capability(self) -> int:
        """The architecture as a number: 90 for ``sm_90``."""
        return int(self.arch.removeprefix("sm_").rstrip("af"))

    def tvm_target(self) -> Any:
        """The `tvm.target.Target`."""
        import tvm

        host = {"kind": "llvm", "mtriple": self.triple, "mcpu": self.cpu}
        return tvm.target.Target({"kind": "cuda", "arch": self.arch}, host=host)


def is_there() -> bool:
    """Whether this machine has an NVIDIA driver. This is fast, and imports nothing."""
    return _driver() is not None


def prepare() -> None:
    """Find what TVM needs for CUDA. To be called before TVM is first imported.

    TVM's library for CUDA is linked to libcudart 13, which pip installs where the system's loader
    does not look, and its compiler finds headers by ``CUDA_PATH``.

    Raises:
        RuntimeUnavailableError: Something is missing; the message has the command that installs it.
    """
    if _driver() is None:
        raise RuntimeUnavailableError(
            "device='cuda' needs an NVIDIA GPU and its driver, and libcuda was not found. "
            "Install the driver (580 or later), or choose device='cpu'."
        )
    if cudart() is None:
        raise _missing("the CUDA 13 runtime, libcudart.so.13")
    if not _has("cuda.bindings.nvrtc"):
        raise _missing("NVIDIA's run-time compiler for Python, cuda.bindings.nvrtc")
    if not _headers():
        raise _missing("CUDA's headers, cuda_fp16.h and cccl, under CUDA_PATH")


def local_target() -> CudaTarget:
    """The target of this machine's first GPU.

    Raises:
        RuntimeUnavailableError: TVM cannot use it.
    """
    import tvm
    from tvm.target import codegen

    device = tvm.cuda(0)
    if not device.exist:
        # If TVM was imported before `prepare`, it did not load its library for CUDA.
        raise RuntimeUnavailableError(
            "TVM finds no CUDA device: the driver is older than CUDA 13 needs (580), no GPU is "
            "visible (CUDA_VISIBLE_DEVICES), or TVM was imported before CUDA 13's libcudart could "
            "be found. Start a new process, or choose device='cpu'."
        )
    arch = "sm_" + str(device.compute_version).replace(".", "")
    return CudaTarget(
        arch, str(codegen.llvm_get_system_triple()), str(codegen.llvm_get_system_cpu())
    )


def _missing(what: str) -> RuntimeUnavailableError:
    return RuntimeUnavailableError(
        f"device='cuda' needs {what}, which is missing. Install it with `{INSTALL}`."
    )


def _driver() -> ctypes.CDLL | None:
    return _load("libcuda.so.1")


def cudart() -> ctypes.CDLL | None:
    """Load CUDA 13's runtime, from the system or NVIDIA's packages; None if it is not found."""
    return _load("libcudart.so.13", _toolkit() / "lib" / "libcudart.so.13")


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


def _has(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


def _toolkit() -> Path:
    """The folder in which NVIDIA's packages install CUDA 13."""
    spec = importlib.util.find_spec("nvidia")
    roots = list(spec.submodule_search_locations or ()) if spec is not None else []
    found = [Path(root) / "cu13" for root in roots if (Path(root) / "cu13").is_dir()]
    return found[0] if found else Path("/usr/local/cuda")


def _headers() -> bool:
    """Whether the headers are found; ``CUDA_PATH`` is then set to their place."""
    given = [Path(os.environ[k]) for k in ("CUDA_PATH", "CUDA_HOME") if os.environ.get(k)]
    for root in (*given, _toolkit(), Path("/usr/local/cuda")):
        include = root / "include"
        # cccl is in the toolkit's include/cccl or, with some installers, targets/*/include/cccl.
        places = (include, include / "cccl", *root.glob("targets/*/include/cccl"))
        if (include / "cuda_fp16.h").is_file() and any(
            (place / "cuda" / "std" / "cstdint").is_file() for place in places
        ):
            os.environ["CUDA_PATH"] = str(root)
            return True
    return False
