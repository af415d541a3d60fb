"""Runs batches of whole texts on a compiled encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mlc_widget.engine.runtimes.tvm.layouts import PAGE
from mlc_widget.engine.runtimes.tvm.machine import virtual_machine
from mlc_widget.engine.runtimes.tvm.memory import Array, aligned_zeros, as_tensor
from mlc_widget.engine.runtimes.tvm.model_shape import ModelShape

Rows = npt.NDArray[np.float32]

MAX_TEXTS = 64
"""The maximum number of texts in a batch."""


class EncoderExecutor:
    """Runs batches on a compiled encoder. All calls must come from one thread."""

    def __init__(
        self,
        executable: Any,
        shape: ModelShape,
        weights: list[Array],
        *,
        context: int,
        features: int,
        max_rows: int,
        kv_dtype: str,
    ) -> None:
        """Set up a model from its parts.

        Args:
            executable: The compiled module.
            shape: The model's shape.
            weights: Its parameters, in the order of the program.
            context: The maximum number of tokens of a text.
            features: The number of features of its hidden states.
            max_rows: The maximum number of tokens of a batch.
            kv_dtype: The dtype of keys and values.
        """
        import tvm_ffi

        self._executable = executable
        self._forward: Any = None
        self.features, self.max_rows = features, max_rows
        pages = self.max_rows // PAGE + MAX_TEXTS
        self._weights = tvm_ffi.convert([as_tensor(w) for w in weights])
        # An encoder has embeddings of positions. It shares attention with decoders, which rotates
        # queries and keys; here the angle is zero.
        cos, sin = (aligned_zeros((context, shape.head_dim // 2), np.float32) for _ in range(2))
        cos.fill(1)
        self._static = [cos, sin]
        for inner in ((shape.head_dim, PAGE), (PAGE, shape.head_dim)):
            self._static.append(aligned_zeros((pages, 1, shape.kv_heads, *inner), kv_dtype))
        self._ids, self._kind, self._position, self._last, self._slot = (
            aligned_zeros((self.max_rows,), np.int32) for _ in range(5)
        )
        self._tile = aligned_zeros((self.max_rows, 3), np.int32)
        self._pages = aligned_zeros((MAX_TEXTS * -(-self.max_rows // PAGE),), np.int32)

    def prepare(self) -> None:
        """Make the virtual machine and run one row, on the thread that will run the batches."""
        self._forward = virtual_machine(self._executable)["forward"]
        self.run([[0]])

    def run(self, texts: Sequence[Sequence[int]]) -> list[Rows]:
        """The last hidden states of all tokens: for each text (tokens, hidden) float32."""
        n = page = 0
        width = -(-max(map(len, texts)) // PAGE)
        table = self._pages[: len(texts) * width].reshape(len(texts), width)
        table.fill(0)
        for i, tokens in enumerate(texts):
            end, places = n + len(tokens), np.arange(len(tokens), dtype=np.int32)
            count = -(-len(tokens) // PAGE)
            table[i, :count] = np.arange(page, page + count)
            self._ids[n:end] = tokens
            self._position[n:end] = places
            self._last[n:end] = len(tokens) - 1
            self._slot[n:end] = page * PAGE + places
            # Rows of a tile have successive positions, and all these have the last one: no tiles.
            self._tile[n:end] = np.stack(
                [np.arange(n, end), np.ones_like(places), np.full_like(places, i)], axis=1
            )
            n, page = end, page + count
        rows = (self._ids, self._kind, self._position, self._last, self._slot)
        states = self._forward(
            *(as_tensor(r[:n]) for r in rows),
            as_tensor(table),
            as_tensor(self._tile[:n]),
            *map(as_tensor, self._static),
            self._weights,
        )
        out = np.from_dlpack(states)
        ends = np.cumsum([len(t) for t in texts])
        return [part[:, : self.features] for part in np.split(out, ends[:-1])]
