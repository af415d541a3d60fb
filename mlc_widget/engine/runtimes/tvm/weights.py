"""Reads parameters into the layouts of the kernels."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Final

import numpy as np

from mlc_widget.api.errors import ModelFormatError
from mlc_widget.engine.runtimes.tvm.layouts import Layout
from mlc_widget.engine.runtimes.tvm.memory import Array, large_zeros
from mlc_widget.engine.store.fields import MOST_LAYERS, Fields
from mlc_widget.engine.store.weight_source import WeightRecord, WeightSource

Parameters = Sequence[tuple[str, Layout]]

_THREADS: Final = 4
"""The number of reading threads, enough to be limited by the speed of memory."""
_PIECE: Final = 1 << 18
"""The number of bytes read at a time, few enough to stay in the CPU's caches while repacked."""


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
    parameters: Parameters, source: WeightSource, progress: Callable[[int, int], None]
) -> list[Array]:
    """Read and repack all parameters, several at a time, as numpy releases the GIL.

    Args:
        parameters: The model's parameters, already checked.
        source: The model's weights.
        progress: Called with the bytes done and the total; an exception from it ends the work.

    Returns:
        One array for each of `parameters`, in their order.
    """
    index = {name: i for i, (name, _) in enumerate(parameters)}
    records = [r for name in index if (r := source.find(name)) is not None]
    total, done = sum(r.nbytes for r in records), 0
    loaded = _arrays([layout for _, layout in parameters])

    def pack(record: WeightRecord) -> int:
        i = index[record.name]
        layout = parameters[i][1]
        rows = max(1, record.shape[0])
        pieces = layout.pieces(_PIECE // max(1, record.nbytes // rows))
        for (start, _), piece in zip(pieces, source.read_rows(record, pieces), strict=True):
            layout.pack_piece(piece, start, loaded[i])
        return record.nbytes

    pool = ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1), "mlc_widget-weights")
    try:
        tasks = [pool.submit(pack, record) for record in records]
        for task in as_completed(tasks):
            done += task.result()
            progress(done, total)
    finally:
        pool.shutdown(cancel_futures=True)
    return loaded


def _arrays(layouts: Sequence[Layout]) -> list[Array]:
    """Zeroed arrays for all layouts, one after the other at 64-byte boundaries."""
    sizes = [-(-layout.nbytes // 64) * 64 for layout in layouts]
    memory, at, arrays = large_zeros((sum(sizes),), np.uint8), 0, []
    for layout, size in zip(layouts, sizes, strict=True):
        part = memory[at : at + layout.nbytes]
        arrays.append(part.view(layout.dtype).reshape(layout.shape))
        at += size
    return arrays
