"""Reads parameters into the layouts of the kernels."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from mlc_widget.api.errors import ModelFormatError
from mlc_widget.engine.runtimes.tvm.layouts import Layout, Packer
from mlc_widget.engine.runtimes.tvm.memory import ALIGNMENT, Array, large_zeros
from mlc_widget.engine.store.fields import MOST_LAYERS, Fields
from mlc_widget.engine.store.weight_source import WeightRecord, WeightSource

Parameters = Sequence[tuple[str, Layout]]

_THREADS: Final = 4
"""The number of reading threads, enough to be limited by the speed of memory."""
_PIECE: Final = 1 << 18
"""The number of bytes read at a time, few enough to stay in the CPU's caches while repacked."""
_TASK: Final = 1 << 22
"""The approximate number of bytes after which a thread takes another task, so that all threads are
done at about the same time, and progress is reported often."""


def weight_bytes(parameters: Parameters) -> int:
    """The number of bytes that `load_weights` will allocate."""
    return sum(layout.nbytes for _, layout in parameters)


def check_weights(parameters: Parameters, source: WeightSource) -> None:
    """Compare the folder's parameters with those of the model.

    Raises:
        ModelFormatError: A parameter is missing, or has another shape or dtype.
    """
    for name, layout in parameters:
        record = source.find(name)
        if record is None:
            raise ModelFormatError(
                f"{source.where} has no parameter {name}, which the model needs. The weights "
                "belong to another model or quantization than mlc-chat-config.json says; download "
                "both again.",
                param=source.where,
            )
        if record.shape != layout.source_shape or record.dtype not in layout.source_dtypes:
            raise ModelFormatError(
                f"{source.where}: parameter {name} is {record.dtype}{list(record.shape)}, but the "
                f"model needs {' or '.join(layout.source_dtypes)}{list(layout.source_shape)}. The "
                "weights belong to another model than mlc-chat-config.json says; download both "
                "again.",
                param=source.where,
            )


def check_layers(config: Any, source: WeightSource) -> None:
    """Refuse a model whose weights have another number of layers than its configuration says.

    This is done first, before any work for each layer.

    Args:
        config: The model's `model_config`.
        source: The model's weights.

    Raises:
        ModelFormatError: The numbers differ, or the configuration has none.
    """
    fields = Fields(config, "model_config")
    layers = fields.positive_int("num_hidden_layers", most=MOST_LAYERS)
    there = source.layers()
    if there and layers != there:
        where = Path(source.where).name
        raise fields.wrong("num_hidden_layers", f"must be {there}, as in {where}")


def load_weights(
    parameters: Parameters,
    source: WeightSource,
    compiled: Callable[[str], Any],
    progress: Callable[[int, int], None],
    memory: Array | None = None,
) -> list[Array]:
    """Read and repack all parameters on several threads, as this is mostly done without the GIL.

    Args:
        parameters: The model's parameters, already checked.
        source: The model's weights.
        compiled: Finds a function in the model's compiled code, by its name.
        progress: Called with the bytes done and the total; an exception from it ends the work.
        memory: Where to put them, from `weight_memory`, if not in new memory.

    Returns:
        One array for each of `parameters`, in their order.
    """
    arrays = arrays_in(weight_memory(parameters) if memory is None else memory, parameters)
    parts: list[_Part] = []
    for (name, layout), array in zip(parameters, arrays, strict=True):
        if (record := source.find(name)) is not None:
            parts += _parts(record, layout, layout.packer(compiled), array)
    total, done = sum(part.nbytes for part in parts), 0

    def run(task: Sequence[_Part]) -> int:
        for part in task:
            pieces = source.read_rows(part.record, part.pieces)
            for (start, _), piece in zip(part.pieces, pieces, strict=True):
                part.pack(piece, start, part.out)
        return sum(part.nbytes for part in task)

    pool = ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1), "mlc_widget-weights")
    try:
        for finished in as_completed([pool.submit(run, task) for task in _tasks(parts)]):
            done += finished.result()
            progress(done, total)
    finally:
        pool.shutdown(cancel_futures=True)
    return arrays


@dataclass(frozen=True, slots=True)
class _Part:
    """Some pieces of a parameter, to be read and packed one after the other.

    Attributes:
        record: The parameter.
        pieces: The first row of each piece, and the end of the piece.
        pack: Packs a piece into `out`.
        out: The whole parameter in the kernels' memory.
        nbytes: The number of bytes to read.
    """

    record: WeightRecord
    pieces: Sequence[tuple[int, int]]
    pack: Packer
    out: Array
    nbytes: int


def _parts(record: WeightRecord, layout: Layout, pack: Packer, out: Array) -> list[_Part]:
    """Cut a parameter into parts of at most about `_TASK` bytes."""
    rows = max(1, record.shape[0])
    pieces = layout.pieces(_PIECE // max(1, record.nbytes // rows))
    parts, first = [], 0
    for i, (_, stop) in enumerate(pieces):
        nbytes = (stop - pieces[first][0]) * record.nbytes // rows
        if nbytes >= _TASK or i == len(pieces) - 1:
            parts.append(_Part(record, pieces[first : i + 1], pack, out, nbytes))
            first = i + 1
    return parts


def _tasks(parts: Sequence[_Part]) -> list[list[_Part]]:
    """Join parts to tasks of about `_TASK` bytes, as each costs some switches between threads."""
    tasks: list[list[_Part]] = [[]]
    nbytes = 0
    for part in parts:
        if nbytes >= _TASK:
            tasks.append([])
            nbytes = 0
        tasks[-1].append(part)
        nbytes += part.nbytes
    return tasks


def packed_bytes(parameters: Parameters) -> int:
    """The size in bytes of `weight_memory`."""
    return sum(_room(layout) for _, layout in parameters)


def weight_memory(parameters: Parameters) -> Array:
    """Zeroed memory for all parameters, as an array of bytes."""
    return large_zeros((packed_bytes(parameters),), np.uint8)


def arrays_in(memory: Array, parameters: Parameters) -> list[Array]:
    """The arrays of all parameters, one after the other at 64-byte boundaries of `memory`."""
    at, arrays = 0, []
    for _, layout in parameters:
        part = memory[at : at + layout.nbytes]
        arrays.append(part.view(layout.dtype).reshape(layout.shape))
        at += _room(layout)
    return arrays


def _room(layout: Layout) -> int:
    return -(-layout.nbytes // ALIGNMENT) * ALIGNMENT
