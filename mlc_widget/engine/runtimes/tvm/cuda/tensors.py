"""Tensors in a GPU's memory, as ``tvm.runtime`` has them, by TVM's runtime alone."""

from __future__ import annotations

import ctypes
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


class _Tensor(ctypes.Structure):
    """DLPack's `DLTensor`, which is the first field of a `DLManagedTensor`."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", ctypes.c_int32 * 2),
        ("ndim", ctypes.c_int32),
        ("dtype", ctypes.c_uint8 * 4),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("byte_offset", ctypes.c_uint64),
    )


_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


def argument(tensor: Any, shape: Sequence[int], offset: int) -> Any:
    """Like `view`, for compiled code, which refuses tensors that have an offset.

    So this one has an address of its own.
    """
    return moved(view(tensor, shape, offset), tensor.data_ptr() + offset)


def moved(tensor: Any, address: int) -> Any:
    """A tensor like another, whose content is at an address that the device can use."""
    import tvm_ffi

    capsule = tensor._to_dlpack()
    found = _Tensor.from_address(_pointer(capsule, b"dltensor") or 0)
    found.data, found.byte_offset = address, 0
    return tvm_ffi.from_dlpack(capsule)


def copy(source: Any, target: Any) -> None:
    """Copy a tensor into another of the same size; either may be in the host's memory."""
    import tvm_ffi

    tvm_ffi.get_global_func("runtime.TVMTensorCopyFromTo")(source, target)


def copy_of(array: Array, device: Any) -> Any:
    """A tensor with the content of an array."""
    tensor = empty(array.shape, str(array.dtype), device)
    copy(as_tensor(array), tensor)
    return tensor
