"""Decode steps as CUDA graphs, one for each number of rows: one call starts 100 kernels.

All shapes of such a step are fixed; the page table is as wide as the context window. Inputs that
differ from step to step are in pinned memory, from which the graph copies them first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mlc_widget.engine.runtimes.tvm.cuda.cudart import TO_DEVICE, Graph, Pinned, copy
from mlc_widget.engine.runtimes.tvm.executor import Span

MOST_ROWS = 32
"""The maximum number of rows; larger steps are started kernel by kernel."""


def is_decode(spans: Sequence[Span]) -> bool:
    """Whether a step has one token of each sequence, and the logits of all are needed."""
    return len(spans) <= MOST_ROWS and all(
        len(span.tokens) == 1 and len(span.logits) == 1 for span in spans
    )


class DecodeStep:
    """The decode step of `rows` rows.

    The graph uses addresses of activations that TVM has returned to its `pool`.
    """

    def __init__(
        self,
        rows: int,
        page_size: int,
        max_pages: int,
        device: Any,
        forward: Callable[[tuple[Any, ...]], None],
    ) -> None:
        """Allocate memory for the inputs.

        Args:
            rows: The number of rows.
            page_size: The number of tokens in a page.
            max_pages: The number of pages of the longest context.
            device: The `tvm_ffi.Device`.
            forward: Starts the step on the tensors ids … logit_rows in the GPU's memory.
        """
        import tvm

        self._rows, self._page_size, self._device, self._forward = rows, page_size, device, forward
        self._graph: Graph | None = None
        self._varying = [Pinned((rows,), np.int32) for _ in range(3)]
        self._varying.append(Pinned((rows, max_pages), np.int32))
        self._ids, self._position, self._slot, self._table = (p.array for p in self._varying)
        there = [tvm.runtime.empty(p.array.shape, "int32", device) for p in self._varying]
        row = np.arange(rows, dtype=np.int32)
        tile = np.stack([row, np.ones_like(row), row], axis=1)
        constant = [tvm.runtime.tensor(array, device) for array in (tile, row)]
        self._there, self._inputs = there, (*there, *constant)

    def start(self, spans: Sequence[Span]) -> None:
        """Start the step; the rows are in the order of the spans."""
        for i, span in enumerate(spans):
            self._ids[i] = span.tokens[0]
            self._position[i] = span.start
            page, offset = divmod(span.start, self._page_size)
            self._slot[i] = span.pages[page] * self._page_size + offset
            self._table[i, : page + 1] = span.pages[: page + 1]
        if self._graph is not None:
            self._graph.start()
            return
        # The first run loads code and allocates memory, which cannot be recorded.
        self._run(0)
        self._graph = Graph(self._record)

    def _record(self, stream: int) -> None:
        import tvm_ffi

        with tvm_ffi.use_raw_stream(self._device, stream):
            self._run(stream)

    def _run(self, stream: int) -> None:
        for here, there in zip(self._varying, self._there, strict=True):
            array = here.array
            copy(there.data_ptr(), array.ctypes.data, array.nbytes, TO_DEVICE, stream)
        self._forward(self._inputs)
