"""The calls of CUDA's runtime that TVM does not offer: pinned memory and graphs.

They go to the libcudart to which TVM's library for CUDA is linked, on the default stream.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mlc_widget.api.errors import InternalEngineError
from mlc_widget.engine.runtimes.tvm.memory import Array

TO_DEVICE: Final = 1
TO_HOST: Final = 2
_NON_BLOCKING: Final = 1
_NOT_TIMED: Final = 2
_RELAXED: Final = 2


@functools.cache
def _library() -> ctypes.CDLL:
    from mlc_widget.engine.runtimes.tvm.cuda.toolkit import cudart

    library = cudart()
    if library is None:
        raise InternalEngineError(
            "libcudart.so.13 was found when the model was loaded, but not now"
        )
    library.cudaGetErrorString.restype = ctypes.c_char_p
    return library


def _call(name: str, *args: Any) -> None:
    error = getattr(_library(), name)(*args)
    if error:
        text = _library().cudaGetErrorString(error).decode(errors="replace")
        raise InternalEngineError(f"CUDA's {name} failed: {text}")


def use(index: int) -> None:
    """Have this thread's later calls go to a GPU, by its number."""
    _call("cudaSetDevice", index)


def start_context(index: int) -> None:
    """Make a GPU's context in this process, which takes a third of a second, if there is none.

    What is missing, or goes wrong, is left for a load to find and to tell.
    """
    from mlc_widget.engine.runtimes.tvm.cuda import toolkit

    if toolkit.driver() is None or toolkit.cudart() is None:
        return
    with suppress(InternalEngineError):
        use(index)
        _call("cudaFree", ctypes.c_void_p(0))


class Pinned:
    """Pinned memory of the host, from and to which the GPU can copy; freed when dropped.

    Attributes:
        array: A view of the memory, which does not keep it alive.
    """

    def __init__(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        self._pointer = ctypes.c_void_p()
        _call("cudaMallocHost", ctypes.byref(self._pointer), ctypes.c_size_t(max(1, nbytes)))
        memory = (ctypes.c_uint8 * nbytes).from_address(self._pointer.value or 0)
        self.array: Array = np.ctypeslib.as_array(memory).view(dtype).reshape(shape)
        self.array.fill(0)

    def __del__(self) -> None:
        if self._pointer.value:
            _library().cudaFreeHost(self._pointer)


def copy(to: int, source: int, nbytes: int, kind: int, stream: int = 0) -> None:
    """Start copying between addresses; `kind` is `TO_DEVICE` or `TO_HOST`."""
    _call(
        "cudaMemcpyAsync",
        ctypes.c_void_p(to),
        ctypes.c_void_p(source),
        ctypes.c_size_t(nbytes),
        kind,
        ctypes.c_void_p(stream),
    )


def clear(at: int, nbytes: int) -> None:
    """Start setting memory of the GPU to 0."""
    _call("cudaMemsetAsync", ctypes.c_void_p(at), 0, ctypes.c_size_t(nbytes), ctypes.c_void_p(0))


def synchronize() -> None:
    """Wait until all started work is done."""
    _call("cudaStreamSynchronize", ctypes.c_void_p(0))


class Event:
    """A point in the order of started work, for which the host can wait."""

    def __init__(self) -> None:
        self._pointer = ctypes.c_void_p()
        _call("cudaEventCreateWithFlags", ctypes.byref(self._pointer), _NOT_TIMED)

    def record(self) -> None:
        """Have it come after all work that was started before."""
        _call("cudaEventRecord", self._pointer, ctypes.c_void_p(0))

    def synchronize(self) -> None:
        """Wait until the work before it is done."""
        _call("cudaEventSynchronize", self._pointer)

    def __del__(self) -> None:
        if self._pointer.value:
            _library().cudaEventDestroy(self._pointer)


class Graph:
    """A CUDA graph: work of the GPU that is recorded once and then started as a whole."""

    def __init__(self, record: Callable[[int], None]) -> None:
        """Record the work that `record` starts on the stream that it gets; none of it runs yet.

        That stream does not block the default one, so others may use the GPU meanwhile.
        """
        self._executable = ctypes.c_void_p()
        stream, graph = ctypes.c_void_p(), ctypes.c_void_p()
        _call("cudaStreamCreateWithFlags", ctypes.byref(stream), _NON_BLOCKING)
        try:
            _call("cudaStreamBeginCapture", stream, _RELAXED)
            try:
                record(stream.value or 0)
            finally:
                _call("cudaStreamEndCapture", stream, ctypes.byref(graph))
            _call(
                "cudaGraphInstantiate",
                ctypes.byref(self._executable),
                graph,
                ctypes.c_ulonglong(0),
            )
        finally:
            if graph.value:
                _library().cudaGraphDestroy(graph)
            _library().cudaStreamDestroy(stream)

    def start(self) -> None:
        """Start the graph, after all work that was started before."""
        _call("cudaGraphLaunch", self._executable, ctypes.c_void_p(0))

    def __del__(self) -> None:
        if self._executable.value:
            _library().cudaGraphExecDestroy(self._executable)
