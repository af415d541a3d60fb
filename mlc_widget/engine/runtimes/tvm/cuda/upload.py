"""Copies weights to a GPU, in pieces that several threads bring into pinned memory.

The driver reads and sends other memory in turn, on one thread, at a fraction of the bus's speed.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, Final

import numpy as np

from mlc_widget.engine.runtimes.tvm.cuda import cudart
from mlc_widget.engine.runtimes.tvm.memory import Array

_THREADS: Final = 6
"""From three on, copies in memory keep up with the bus where each reaches 10 GB/s."""
_PIECE: Final = 8 << 20
"""The number of bytes that are copied at a time."""


def upload(
    arrays: list[Array],
    index: int,
    empty: Callable[[tuple[int, ...], str], Any],
    piece: int = _PIECE,
) -> list[Any]:
    """Copy arrays to a GPU, and empty the list meanwhile, so that each can be freed early.

    Args:
        arrays: Contiguous arrays.
        index: The number of the GPU.
        empty: Allocates a tensor there, from its shape and dtype.
        piece: The number of bytes to copy at a time.

    Returns:
        The tensors, in the order of the arrays.

    Raises:
        InternalEngineError: CUDA reports an error.
    """
    rooms: SimpleQueue[cudart.Pinned] = SimpleQueue()
    for _ in range(_THREADS):
        rooms.put(cudart.Pinned((piece,), np.uint8))

    def send(part: Array, to: int) -> None:
        room = rooms.get()
        try:
            np.copyto(room.array[: part.nbytes], part)
            cudart.copy(to, room.array.ctypes.data, part.nbytes, cudart.TO_DEVICE)
            cudart.synchronize()
        finally:
            rooms.put(room)

    tensors, sent = [], list[Future[None]]()
    with ThreadPoolExecutor(
        _THREADS, "mlc_widget-upload", initializer=cudart.use, initargs=(index,)
    ) as threads:
        while arrays:
            array = arrays.pop(0)
            tensor = empty(array.shape, str(array.dtype))
            tensors.append(tensor)
            content = array.reshape(-1).view(np.uint8)
            for at in range(0, content.nbytes, piece):
                part = content[at : at + piece]
                sent.append(threads.submit(send, part, tensor.data_ptr() + at))
    for each in sent:
        each.result()
    return tensors
