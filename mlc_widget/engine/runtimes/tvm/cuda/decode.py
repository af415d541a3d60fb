"""Decode steps as CUDA graphs, for each number of rows and tiles: one call starts all kernels.

All shapes of such a step are fixed; the page table is as wide as the context window. Inputs that
differ from step to step are in pinned memory, from which the graph copies them first, all at once.
Where the GPU also chooses the tokens (`lookahead`), they are copied before the graph starts, if the
step before has not made them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mlc_widget.engine.runtimes.tvm.cuda import tensors
from mlc_widget.engine.runtimes.tvm.cuda.cudart import TO_DEVICE, Graph, Pinned, copy
from mlc_widget.engine.runtimes.tvm.cuda.parts import NO_TILE, cut_tiles, sizes
from mlc_widget.engine.runtimes.tvm.step_inputs import Span

MOST_ROWS = 32
"""The maximum number of rows; larger steps are started kernel by kernel."""
_ALIGNED = 256
"""Each input begins at a multiple of this number of bytes."""


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
        part: int,
        most_tiles: int,
        device: Any,
        forward: Callable[[tuple[Any, ...]], None],
        choose: Callable[[tuple[Any, ...], bool], None],
    ) -> None:
        """Allocate memory for the inputs.

        Args:
            rows: The number of rows.
            page_size: The number of tokens in a page.
            max_pages: The number of pages of the longest context.
            part: The number of keys of a part into which tiles may be cut; 0 if they may not.
            most_tiles: The largest number of tiles, at least `rows`.
            device: The `tvm_ffi.Device`.
            forward: Starts the step on the tensors ids … logit_rows in the GPU's memory.
            choose: Has the GPU choose the tokens, and make the first four of these tensors anew
                for a step that goes on with them; the second argument is that of
                `start_choosing`.
        """
        self._page_size, self._device = page_size, device
        self._forward, self._choose = forward, choose
        self._part, self._most = part, most_tiles
        self._sizes = sizes(rows, most_tiles if part else rows)
        self._graphs: dict[tuple[int, bool | None], Graph] = {}
        self._size = rows  # the number of tiles of the last step
        shapes = [(rows,)] * 3 + [(rows, max_pages), (self._sizes[-1], 3)]
        starts, end = [], 0
        for shape in shapes:
            starts.append(end)
            end += -(-4 * math.prod(shape) // _ALIGNED) * _ALIGNED
        self._pinned = Pinned((end // 4,), np.int32)
        self._memory, self._tiles_start = tensors.empty((end // 4,), "int32", device), starts[-1]
        self._ids, self._position, self._slot, self._table, self._tile = (
            self._pinned.array[start // 4 :][: math.prod(shape)].reshape(shape)
            for shape, start in zip(shapes, starts, strict=True)
        )
        self._there = [
            tensors.argument(self._memory, shape, start)
            for shape, start in zip(shapes, starts, strict=True)
        ]
        row = np.arange(rows, dtype=np.int32)
        self._whole = np.stack([row, np.ones_like(row), row], axis=1)
        self._logit_rows = tensors.copy_of(row, device)

    def start(self, spans: Sequence[Span]) -> None:
        """Start the step; the rows are in the order of the spans."""
        self._fill(spans, ahead=0)
        self._run(self._size, None)

    def start_choosing(self, spans: Sequence[Span] | None, *, drawn: bool) -> None:
        """Start the step, and have the GPU choose its tokens.

        Args:
            spans: As for `start`, but no step may be under way that was started with others. None
                for a step that goes on with the tokens of the last one.
            drawn: Whether tokens are drawn; otherwise, they are the most probable ones.
        """
        if spans is not None:
            self._fill(spans, ahead=self._table.shape[1])
            self._upload(self._size, 0)
        self._run(self._size, drawn)

    def _fill(self, spans: Sequence[Span], *, ahead: int) -> None:
        """Make the inputs in pinned memory, with some pages ahead of the ones in use."""
        for i, span in enumerate(spans):
            self._ids[i] = span.tokens[0]
            self._position[i] = span.start
            page, offset = divmod(span.start, self._page_size)
            self._slot[i] = span.pages[page] * self._page_size + offset
            held = span.pages[: min(page + 1 + ahead, self._table.shape[1])]
            self._table[i, : len(held)] = held
        self._size = self._cut()

    def _run(self, size: int, drawn: bool | None) -> None:
        graph = self._graphs.get((size, drawn))
        if graph is not None:
            graph.start()
            return
        # The first run loads code and allocates memory, which cannot be recorded.
        self._launch(size, 0, drawn)
        self._graphs[size, drawn] = Graph(lambda stream: self._record(size, stream, drawn))

    def _cut(self) -> int:
        """Make the tiles, and return the number of them, of which some may be `NO_TILE`."""
        tiles = self._whole
        if self._part:
            tiles = cut_tiles(tiles, self._position, self._part, self._most)
        size = next(size for size in self._sizes if size >= len(tiles))
        self._tile[: len(tiles)] = tiles
        self._tile[len(tiles) : size] = NO_TILE
        return size

    def _record(self, size: int, stream: int, drawn: bool | None) -> None:
        import tvm_ffi

        with tvm_ffi.use_raw_stream(self._device, stream):
            self._launch(size, stream, drawn)

    def _launch(self, size: int, stream: int, drawn: bool | None) -> None:
        *others, tile = self._there
        if drawn is None:  # the host chooses the tokens
            self._upload(size, stream)
        self._forward((*others, tensors.view(tile, (size, 3)), self._logit_rows))
        if drawn is not None:
            self._choose(tuple(others), drawn)

    def _upload(self, size: int, stream: int) -> None:
        nbytes = self._tiles_start + self._tile[:size].nbytes
        here = self._pinned.array.ctypes.data
        copy(self._memory.data_ptr(), here, nbytes, TO_DEVICE, stream)
