"""Encoders in their compiled form; `encoder_executor` runs them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm.relax.frontend import nn

from mlc_widget.engine.runtimes.tvm.architectures.bert import BertConfig
from mlc_widget.engine.runtimes.tvm.compile import Program
from mlc_widget.engine.runtimes.tvm.layouts import PAGE


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
