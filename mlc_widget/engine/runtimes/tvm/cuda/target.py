"""Detects this machine's GPU, and what must be installed besides apache-tvm to use it."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

from mlc_widget.api.errors import RuntimeUnavailableError
from mlc_widget.engine.runtimes.tvm.cuda import toolkit
from mlc_widget.engine.runtimes.tvm.cuda.device import arch_of, multiprocessors_of

INSTALL = 'pip install "mlc-widget[cuda]"'


@dataclass(frozen=True, slots=True)
class CudaTarget:
    """A GPU for which code is compiled.

    Attributes:
        arch: NVIDIA's name of the GPU's architecture, such as ``sm_90``.
        triple: LLVM's target triple for the host code, which starts the kernels.
        cpu: LLVM's name of the CPU that runs the host code.
        index: Its number among the GPUs that this process sees.
        multiprocessors: The number of its multiprocessors; by default that of an H100 or H200.
    """

    arch: str
    triple: str
    cpu: str
    index: int = 0
    multiprocessors: int = 132

    @property
    def capability(self) -> int:
        """The architecture as a number: 90 for ``sm_90``."""
        return int(self.arch.removeprefix("sm_").rstrip("af"))

    @property
    def has_warpgroups(self) -> bool:
        """Whether it has products of warpgroups, which only Hopper has."""
        return self.capability == 90

    def tvm_target(self) -> Any:
        """The `tvm.target.Target`."""
        import tvm

        host = {"kind": "llvm", "mtriple": self.triple, "mcpu": self.cpu}
        return tvm.target.Target({"kind": "cuda", "arch": self.arch}, host=host)


def is_there() -> bool:
    """Whether this machine has an NVIDIA driver. This is fast, and imports nothing."""
    return toolkit.driver() is not None


def prepare() -> None:
    """Find what TVM needs for CUDA. To be called before TVM is first imported.

    TVM's library for CUDA is linked to libcudart 13, which pip installs where the system's loader
    does not look, and its compiler finds headers by ``CUDA_PATH``.

    Raises:
        RuntimeUnavailableError: Something is missing; the message has the command that installs it.
    """
    if toolkit.driver() is None:
        raise RuntimeUnavailableError(
            "device='cuda' needs an NVIDIA GPU and its driver, and libcuda was not found. "
            "Install the driver (580 or later), or choose device='cpu'."
        )
    if toolkit.cudart() is None:
        raise _missing("the CUDA 13 runtime, libcudart.so.13")
    if not _has("cuda.bindings.nvrtc"):
        raise _missing("NVIDIA's run-time compiler for Python, cuda.bindings.nvrtc")
    if not toolkit.find_headers():
        raise _missing("CUDA's headers, cuda_fp16.h and cccl")


def local_target(index: int = 0) -> CudaTarget:
    """The target of one of this machine's GPUs.

    Raises:
        RuntimeUnavailableError: TVM cannot use it.
    """
    arch = arch_of(index)
    from tvm.target import codegen

    return CudaTarget(
        arch,
        str(codegen.llvm_get_system_triple()),
        str(codegen.llvm_get_system_cpu()),
        index,
        multiprocessors_of(index),
    )


def _missing(what: str) -> RuntimeUnavailableError:
    return RuntimeUnavailableError(
        f"device='cuda' needs {what}, which is missing. Install it with `{INSTALL}`."
    )


def _has(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False
