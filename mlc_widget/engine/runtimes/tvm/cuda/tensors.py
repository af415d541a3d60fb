"""Tensors in a GPU's memory, as ``tvm.runtime`` has them, by TVM's runtime alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlc_widget.engine.runtimes.tvm.memory import Array, as_tensor


def empty(shape: Sequence[int], dtype: str, device: Any) -> Any:
    """Memory for a tensor on a `tvm_ffi.Device`."""
    import tvm_ffi

    make = tvm_ffi.get_global_func("runtime.TVMTensorAllocWithScope")
    return make(tvm_ffi.Shape(tuple(map(int, shape))), tvm_ffi.dtype(dtype), device, None)


def view(tensor: Any, shape: Sequence[int], offset: int = 0) -> Any:
    """Part of a tensor's memory, from a number of bytes on, as a tensor."""
    import tvm_ffi

    make = tvm_ffi.get_global_func("runtime.TVMTensorCreateView")
    return make(tensor, tvm_ffi.Shape(tuple(map(int, shape))), tensor.dtype, offset)


def copy(source: Any, target: Any) -> None:
    """Copy a tensor into another of the same size; either may be in the host's memory."""
    import tvm_ffi

    tvm_ffi.get_global_func("runtime.TVMTensorCopyFromTo")(source, target)


def copy_of(array: Array, device: Any) -> Any:
    """A tensor with the content of an array."""
    tensor = empty(array.shape, str(array.dtype), device)
    copy(as_tensor(array), tensor)
    return tensor
