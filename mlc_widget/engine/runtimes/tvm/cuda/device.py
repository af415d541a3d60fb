"""A GPU by its number, and what CUDA says of its architecture, name and memory.

It asks TVM's runtime, which `machine.load_cuda` loads, because importing ``tvm`` with its compiler
takes a second.
"""

from __future__ import annotations

from typing import Any, Final

from mlc_widget.api.errors import RuntimeUnavailableError
from mlc_widget.engine.runtimes.base import DeviceUsage
from mlc_widget.engine.runtimes.tvm import machine

CUDA: Final = 2
"""DLPack's number of CUDA's kind of devices."""
_EXISTS, _COMPUTE_VERSION, _NAME, _MULTIPROCESSORS, _MEMORY, _FREE = 0, 4, 5, 7, 14, 15
"""TVM's numbers of attributes (`tvm.runtime.Device`)."""


def index_of(device: str) -> int:
    """The number of a GPU in the option ``device``: 1 for ``cuda:1``, 0 without a number."""
    return int(device.partition(":")[2] or 0)


def arch_of(index: int) -> str:
    """NVIDIA's name of a GPU's architecture, such as ``sm_90``.

    Raises:
        RuntimeUnavailableError: TVM cannot use it.
    """
    machine.load_cuda()
    if not _attribute(0, _EXISTS):
        # If TVM was imported before `target.prepare`, it did not load its library for CUDA.
        raise RuntimeUnavailableError(
            "TVM finds no CUDA device: the driver is older than CUDA 13 needs (580), no GPU is "
            "visible (CUDA_VISIBLE_DEVICES), or TVM was imported before CUDA 13's libcudart could "
            "be found. Start a new process, or choose device='cpu'."
        )
    if not _attribute(index, _EXISTS):
        count = next(i for i in range(1, index + 1) if not _attribute(i, _EXISTS))
        raise RuntimeUnavailableError(
            f"device is 'cuda:{index}', but this process sees {count} "
            + ("GPU, cuda:0." if count == 1 else f"GPUs, cuda:0 to cuda:{count - 1}.")
        )
    return "sm_" + str(_attribute(index, _COMPUTE_VERSION)).replace(".", "")


def multiprocessors_of(index: int) -> int:
    """The number of a GPU's multiprocessors."""
    return int(_attribute(index, _MULTIPROCESSORS))


def usage(index: int, model: int | None = None) -> DeviceUsage:
    """A GPU with its memory now, of which a model takes `model` bytes."""
    return DeviceUsage(
        f"cuda:{index}",
        name=_attribute(index, _NAME),
        memory=_attribute(index, _MEMORY),
        free=_attribute(index, _FREE),
        model=model,
    )


def _attribute(index: int, number: int) -> Any:
    import tvm_ffi

    return tvm_ffi.get_global_func("runtime.GetDeviceAttr")(CUDA, index, number)
