"""A decode step of a given number of rows as one CUDA graph: starting 100 kernels costs one call.

All shapes of such a step are fixed but the page table's, which is as wide as the context here. What
differs from step to step lies in pinned memory, from where the graph begins by copying it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mlc_widget.engine.runtimes.tvm.cuda.cudart import TO_DEVICE, Graph, Pinned, copy
from mlc_widget.engine.runtimes.tvm.executor import Span

MOST_ROWS = 16
"""Steps of more rows are started kernel by kernel."""


def is_decode(spans: Sequence[Span]) -> bool:
    """Whether this is a step of one token for each sequence, all of whose logits are wanted."""
    return len(spans) <= MOST_ROWS and all(
        len(span.tokens) == 1 and len(span.logits) == 1 for span in spans
    )


class DecodeStep:
    """The decode step of `rows` rows.

    The graph holds addresses of activations that TVM gave back to its `pool`.
    """

    def __init__(
        self,
        rows: int,
        page_size: int,
        max_pages: int,
        device: Any,
        forward: Callable[[tuple[Any, ...]], None],
    ) -> None:
        """Make room for its inputs.

        Args:
            rows: How many.
            page_size: Tokens to a page.
            max_pages: Pages of the longest context.
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
        """Start it; the spans' order is that of the rows."""
        for i, span in enumerate(spans):
            self._ids[i] = span.tokens[0]
            self._position[i] = span.start
            page, offset = divmod(span.start, self._page_size)
            self._slot[i] = span.pages[page] * self._page_size + offset
            self._table[i, : page + 1] = span.pages[: page + 1]
        if self._graph is not None:
            self._graph.start()
            return
        # What runs for the first time loads code and allocates, which cannot be recorded.
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
