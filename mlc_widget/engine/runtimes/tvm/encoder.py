"""Encoders below the seam: their compiled form, and running a batch of whole texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm.relax.frontend import nn

from mlc_widget.engine.runtimes.tvm.architectures.bert import BertConfig
from mlc_widget.engine.runtimes.tvm.compile import Program
from mlc_widget.engine.runtimes.tvm.layouts import PAGE
from mlc_widget.engine.runtimes.tvm.machine import virtual_machine
from mlc_widget.engine.runtimes.tvm.memory import Array, aligned_zeros, as_tensor

Rows = npt.NDArray[np.float32]

MAX_TEXTS = 64
"""Texts of one batch at most."""


def batch_rows(config: BertConfig) -> int:
    """Tokens of one batch at most: a text goes through whole."""
    return max(512, config.context_window_size)


@dataclass(frozen=True)
class EncoderProgram(Program):
    """An encoder as a graph.

    Its ``forward`` runs n ≤ `max_rows` rows (tokens) of whole texts, the rows of a text adjacent:
    ``position`` is a row's place in its text, ``last`` that of its text's last token, ``slot`` and
    ``page_table`` say where its keys and values go. It returns all rows, (n, pad(hidden)).

    Attributes:
        rows: Tokens of one batch at most.
    """

    rows: int = 512

    @property
    def decodes(self) -> bool:
        """Texts go through whole."""
        return False

    @property
    def max_rows(self) -> int:
        """Rows that memory is planned for."""
        return self.rows

    def signature(self) -> dict[str, Any]:
        """Of ``forward``."""
        s = self.shape
        integers = {
            name: nn.spec.Tensor(["n"], "int32")
            for name in ("ids", "kind", "position", "last", "slot")
        }
        table = nn.spec.Tensor(["positions", s.head_dim // 2], "float32")
        return {
            **integers,
            "page_table": nn.spec.Tensor(["sequences", "max_pages"], "int32"),
            "tile": nn.spec.Tensor(["tiles", 3], "int32"),
            "cos": table,
            "sin": table,
            "k_pages": nn.spec.Tensor(["pages", 1, s.kv_heads, s.head_dim, PAGE], self.kv_dtype),
            "v_pages": nn.spec.Tensor(["pages", 1, s.kv_heads, PAGE, s.head_dim], self.kv_dtype),
            "$": {"param_mode": "packed", "effect_mode": "none"},
        }


class EncoderExecutor:
    """Runs batches of a compiled encoder. All calls from one thread."""

    def __init__(
        self, executable: Any, config: BertConfig, weights: list[Array], kv_dtype: str
    ) -> None:
        import tvm_ffi

        self._executable = executable
        self._forward: Any = None
        self.config, self.max_rows = config, batch_rows(config)
        shape = config.shape
        pages = self.max_rows // PAGE + MAX_TEXTS
        self._weights = tvm_ffi.convert([as_tensor(w) for w in weights])
        self._static = []
        for table in shape.rope.table(config.context_window_size):
            self._static.append(aligned_zeros(table.shape, table.dtype))
            self._static[-1][...] = table
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
            # A tile's rows are at successive places, and these are all at the last: one by one.
            self._tile[n:end] = np.stack(
                [np.arange(n, end), np.ones_like(places), np.full_like(places, i)], axis=1
            )
            n, page = end, page + count
        rows = (self._ids, self._kind, self._position, self._last, self._slot)
        out = self._forward(
            *(as_tensor(r[:n]) for r in rows),
            as_tensor(table),
            as_tensor(self._tile[:n]),
            *map(as_tensor, self._static),
            self._weights,
        ).numpy()
        ends = np.cumsum([len(t) for t in texts])
        return [part[:, : self.config.hidden_size] for part in np.split(out, ends[:-1])]
