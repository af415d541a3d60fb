# mypy: disable-error-code="misc"
"""Llama as a `relax.frontend.nn` module; parameters carry MLC's names."""

from __future__ import annotations

from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import Tensor

from mlc_widget.engine.runtimes.tvm.architectures.llama import LlamaConfig
from mlc_widget.engine.runtimes.tvm.layers import (
    Builder,
    Embedding,
    Linear,
    RMSNorm,
    Rows,
    paged_attention,
    silu_mul,
)


class LlamaAttention(nn.Module):
    """Grouped-query attention with rotary embedding."""

    def __init__(self, c: LlamaConfig, build: Builder) -> None:
        super().__init__()
        self.build = build
        self.heads = (c.num_attention_heads, c.num_key_value_heads, c.head_dim)
        hq, hkv, d = self.heads
        self.qkv_proj = Linear(build, c.hidden_size, (hq + 2 * hkv) * d)
        self.o_proj = Linear(build, hq * d, c.hidden_size)

    def forward(self, x: Tensor, rows: Rows, layer: int, residual: Tensor) -> Tensor:
        """Residual + attention(x)."""
        y = paged_attention(self.build, self.qkv_proj(x), rows, layer, self.heads)
        return self.o_proj(y, residual)


class LlamaMLP(nn.Module):
    """down(silu(gate(x)) · up(x))."""

    def __init__(self, c: LlamaConfig, build: Builder) -> None:
        super().__init__()
        self.build = build
        self.gate_up_proj = Linear(build, c.hidden_size, c.intermediate_size, c.intermediate_size)
        self.down_proj = Linear(build, c.intermediate_size, c.hidden_size)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """Residual + mlp(x)."""
        return self.down_proj(silu_mul(self.build, self.gate_up_proj(x)), residual)


class LlamaDecoderLayer(nn.Module):
    """Attention and MLP, each on a normed input and added to it."""

    def __init__(self, c: LlamaConfig, build: Builder) -> None:
        super().__init__()
        self.self_attn = LlamaAttention(c, build)
        self.mlp = LlamaMLP(c, build)
        self.input_layernorm = RMSNorm(build, c.hidden_size, c.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(build, c.hidden_size, c.rms_norm_eps)

    def forward(self, x: Tensor, rows: Rows, layer: int) -> Tensor:
        """(n, hidden) → (n, hidden)."""
        x = self.self_attn(self.input_layernorm(x), rows, layer, x)
        return self.mlp(self.post_attention_layernorm(x), x)


class LlamaModel(nn.Module):
    """Embedding, layers, last norm."""

    def __init__(self, c: LlamaConfig, build: Builder) -> None:
        super().__init__()
        self.embed_tokens = Embedding(build, c.vocab_size, c.hidden_size)
        self.layers = nn.ModuleList(
            [LlamaDecoderLayer(c, build) for _ in range(c.num_hidden_layers)]
        )
        self.norm = RMSNorm(build, c.hidden_size, c.rms_norm_eps)

    def forward(self, ids: Tensor, rows: Rows, logit_rows: Tensor) -> Tensor:
        """(n,) ids → (m, hidden) of the rows that logits are wanted for."""
        x = self.embed_tokens.embed(ids)
        for i, layer in enumerate(self.layers):
            x = layer(x, rows, i)
        return self.norm(x, logit_rows)


class LlamaForCausalLM(nn.Module):
    """The whole model."""

    def __init__(self, c: LlamaConfig, build: Builder) -> None:
        super().__init__()
        self.model = LlamaModel(c, build)
        self.tied = c.tie_word_embeddings
        if not self.tied:
            self.lm_head = Linear(build, c.hidden_size, c.vocab_size)

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
        """One step; see `compile.forward_spec`."""
        rows = Rows(position, slot, page_table, tile, cos, sin, k_pages, v_pages)
        x = self.model(ids, rows, logit_rows)
        head = self.model.embed_tokens if self.tied else self.lm_head
        return head(x, out=logits)
