"""Detects GPUs without loading mlc_llm or TVM.

mlc_llm's own detection takes 4 to 13 seconds: it starts a Python process with TVM for each kind of
device.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path
from typing import Final

PACKAGE: Final = "mlc_llm"
INSTALL: Final = (
    "python -m pip install --pre -U -f https://mlc.ai/wheels mlc-llm-nightly-cu128 "
    "mlc-ai-nightly-cu128"
)
INSTALL_HINT: Final = (
    f"Install MLC's wheels, such as `{INSTALL}`, in an environment of their own, and name its "
    "interpreter with python=."
)


def installed() -> bool:
    """Whether mlc_llm is installed here; found out without importing it."""
    try:
        spec = importlib.util.find_spec(PACKAGE)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None  # a bare folder has no origin


def built_for_cpu_only() -> bool:
    """Whether the installed mlc_llm is one of MLC's wheels without GPU support."""
    names = importlib.metadata.packages_distributions().get(PACKAGE, [])
    return bool(names) and all(name.lower().endswith("-cpu") for name in names)


def find_gpu() -> str | None:
    """The kind of the first GPU that mlc_llm supports (``cuda``, ``rocm`` or ``metal``), or None.

    Vulkan and OpenCL are used only if the user names them, as their drivers may be software
    renderers.
    """
    if _cuda_devices() > 0:
        return "cuda"
    if _has_rocm():
        return "rocm"
    return "metal" if sys.platform == "darwin" else None


def _cuda_devices() -> int:
    """The number of devices that the CUDA driver reports; CUDA_VISIBLE_DEVICES applies."""
    if sys.platform == "linux" and not any(map(os.path.exists, ("/dev/nvidiactl", "/dev/dxg"))):
        return 0
    if sys.platform == "darwin":
        return 0
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def _has_rocm() -> bool:
    if not os.path.exists("/dev/kfd"):
        return False
    for node in Path("/sys/class/kfd/kfd/topology/nodes").glob("*/gpu_id"):
        try:
            if int(node.read_text()) != 0:  # 0 is a CPU
                return True
        except (OSError, ValueError):
            continue
    return False
