"""The compiled form of encoders; `encoder_executor` runs them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm.relax.frontend import nn

from mlc_widget.engine.runtimes.tvm.architectures.bert import BertConfig
from mlc_widget.engine.runtimes.tvm.compile import Program
from mlc_widget.engine.runtimes.tvm.layouts import PAGE


def batch_rows(config: BertConfig) -> int:
    """The maximum number of tokens of a batch, which must hold any whole text."""
    return max(512, config.context_window_size)


@dataclass(frozen=True)
class EncoderProgram(Program):
    """An encoder as a graph.

    Its ``forward`` runs n ≤ `max_rows` rows (tokens) of whole texts, where the rows of a text are
    adjacent. ``position`` is a row's position in its text, ``last`` that of the text's last token;
    ``slot`` and ``page_table`` say where its keys and values go. It returns all rows,
    (n, pad(hidden)).

    Attributes:
        rows: The maximum number of tokens of a batch.
    """

    rows: int = 512

    @property
    def decodes(self) -> bool:
        """False: texts are run as a whole."""
        return False

    @property
    def max_rows(self) -> int:
        """The largest number of rows, for which memory is planned."""
        return self.rows

    def signature(self) -> dict[str, Any]:
        """The signature of ``forward``."""
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
