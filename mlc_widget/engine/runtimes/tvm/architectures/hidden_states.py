# mypy: disable-error-code="misc"
"""A decoder that returns its last hidden states, normalized, instead of logits: for embeddings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import Tensor

from mlc_widget.engine.runtimes.tvm.architectures.llama import LlamaConfig
from mlc_widget.engine.runtimes.tvm.builder import Builder, Rows
from mlc_widget.engine.runtimes.tvm.model_shape import ModelShape


@dataclass(frozen=True, slots=True)
class HiddenStates:
    """The `Architecture` of a decoder without its output layer."""

    decoder: LlamaConfig

    @property
    def shape(self) -> ModelShape:
        """The shape of the decoder; its "logits" are the hidden features."""
        return dataclasses.replace(self.decoder.shape, vocab_size=self.decoder.hidden_size)

    def compiled_from(self) -> Mapping[str, Any]:
        """Everything on which the decoder's code depends, and its class."""
        return {"decoder": type(self.decoder).__name__, **self.decoder.compiled_from()}

    def build(self, build: Builder) -> nn.Module:
        """The module of this configuration."""
        return HiddenStatesModel(self.decoder, build)


class HiddenStatesModel(nn.Module):
    """The whole model, without an output layer."""

    def __init__(self, c: LlamaConfig, build: Builder) -> None:
        super().__init__()
        self.build = build
        self.model = c.model(build)

    def forward(
        self,
        ids: Tensor,
        position: Tensor,
        slot: Tensor,
        page_table: Tensor,
        tile: Tensor,
        logit_rows: Tensor,
        cos: Tensor,
        sin: Tensor,
        k_pages: Tensor,
        v_pages: Tensor,
        logits: Tensor,
    ) -> Tensor:
        """Run one step; see `compile.forward_spec`. `logits` gets (m, pad(hidden))."""
        rows = Rows(position, slot, page_table, tile, cos, sin, k_pages, v_pages)
        x = self.model.hidden_states(ids, rows)
        return self.build.norm_into(self.model.norm, x, logit_rows, logits)
