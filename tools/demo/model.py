"""A Llama in PyTorch, with the parameter names of transformers and MLC's 4-bit rounding."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Config:
    """The shape of the demo model; the names are MLC's."""

    hidden_size: int = 256
    intermediate_size: int = 768
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64
    num_hidden_layers: int = 8
    vocab_size: int = 2048
    rms_norm_eps: float = 1e-5
    position_embedding_base: int = 10000
    context_window_size: int = 2048
    prefill_chunk_size: int = 256
    tie_word_embeddings: bool = True

    def as_dict(self) -> dict[str, Any]:
        """The fields, for mlc-chat-config.json."""
        return asdict(self)


def fake_quantize(weight: Tensor) -> Tensor:
    """What q4f32_1 makes of a matrix, with the gradient passed straight through.

    Groups of 32 along the input; scale = max|w| / 7, stored as bfloat16; codes −7 … 7.
    """
    n, k = weight.shape
    groups = weight.detach().float().view(n, k // 32, 32)
    scale = groups.abs().amax(dim=2, keepdim=True) / 7
    codes = torch.round(groups / scale.clamp_min(1e-12)).clamp(-7, 7)
    rounded = (codes * scale.bfloat16().float()).view(n, k)
    return weight + (rounded - weight.detach())


class Linear(nn.Module):
    """A matrix without bias that can pretend to be 4-bit."""

    def __init__(self, inputs: int, outputs: int, std: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) * std)
        self.quantized = False

    def forward(self, x: Tensor) -> Tensor:
        """(…, inputs) → (…, outputs)."""
        return F.linear(x, fake_quantize(self.weight) if self.quantized else self.weight)


class Norm(nn.Module):
    """RMS normalisation."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis, in float32."""
        wide = x.float()
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return (wide * scale).type_as(x) * self.weight.type_as(x)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of (batch, heads, time, head_dim); cos and sin broadcast to it."""
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return (x * cos + turned * sin).type_as(x)


class Attention(nn.Module):
    """Causal grouped-query attention."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = config.head_dim
        hidden, wide, narrow = (
            config.hidden_size,
            self.heads * self.head_dim,
            self.kv_heads * self.head_dim,
        )
        self.q_proj = Linear(hidden, wide, hidden**-0.5)
        self.k_proj = Linear(hidden, narrow, hidden**-0.5)
        self.v_proj = Linear(hidden, narrow, hidden**-0.5)
        self.o_proj = Linear(wide, hidden, (2 * config.num_hidden_layers * wide) ** -0.5)

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        cache: tuple[Tensor, Tensor] | None = None,
        at: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Attend; with a cache, one new token per row is put at its own position ``at``."""
        batch, time, _ = x.shape

        def heads(y: Tensor, count: int) -> Tensor:
            return y.view(batch, time, count, self.head_dim).transpose(1, 2)

        q = rotate(heads(self.q_proj(x), self.heads), cos, sin)
        k = rotate(heads(self.k_proj(x), self.kv_heads), cos, sin)
        v = heads(self.v_proj(x), self.kv_heads)
        if cache is not None and at is not None:
            rows = torch.arange(batch, device=x.device)
            cache[0][rows, :, at] = k[:, :, 0]
            cache[1][rows, :, at] = v[:, :, 0]
            k, v = cache
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True
        )
        return self.o_proj(y.transpose(1, 2).reshape(batch, time, -1)), (k, v)


class Mlp(nn.Module):
    """The gated feed-forward network."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        hidden, inner = config.hidden_size, config.intermediate_size
        self.gate_proj = Linear(hidden, inner, hidden**-0.5)
        self.up_proj = Linear(hidden, inner, hidden**-0.5)
        self.down_proj = Linear(inner, hidden, (2 * config.num_hidden_layers * inner) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(…, hidden) → (…, hidden)."""
        down: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return down


class Layer(nn.Module):
    """One transformer block."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = Mlp(config)
        self.input_layernorm = Norm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = Norm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, *rest: Any) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Attention and feed-forward, each added to the stream."""
        attended, cache = self.self_attn(self.input_layernorm(x), *rest)
        x = x + attended
        return x + self.mlp(self.post_attention_layernorm(x)), cache


class Body(nn.Module):
    """Embedding, layers and the last norm."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embed_tokens = Linear(config.hidden_size, config.vocab_size, 0.02)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = Norm(config.hidden_size, config.rms_norm_eps)


class Llama(nn.Module):
    """A causal language model whose output matrix is its embedding."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.model = Body(config)
        half = config.head_dim // 2
        steps = torch.arange(half, dtype=torch.float32) / half
        angles = torch.outer(
            torch.arange(config.context_window_size, dtype=torch.float32),
            config.position_embedding_base**-steps,
        )
        angles = torch.cat((angles, angles), dim=1)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def quantized(self, on: bool) -> None:
        """Let every matrix, the embedding included, pretend to be 4-bit."""
        for module in self.modules():
            if isinstance(module, Linear):
                module.quantized = on

    def _matrix(self) -> Tensor:
        embedding = self.model.embed_tokens
        weight: Tensor = embedding.weight
        return fake_quantize(weight) if embedding.quantized else weight

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, time) token ids → (batch, time, vocab) logits."""
        return self.prefill(tokens)[0]

    def prefill(self, tokens: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Logits of every position, and keys and values of every layer."""
        time = tokens.shape[1]
        matrix = self._matrix()
        x = F.embedding(tokens, matrix)
        caches = []
        for layer in self.model.layers:
            x, cache = layer(x, self.cos[:time], self.sin[:time])
            caches.append(cache)
        return F.linear(self.model.norm(x), matrix), caches

    def step(self, tokens: Tensor, at: Tensor, caches: list[tuple[Tensor, Tensor]]) -> Tensor:
        """One token per row at its own position: (batch,), (batch,) → (batch, vocab) logits."""
        matrix = self._matrix()
        x = F.embedding(tokens, matrix)[:, None]
        cos, sin = self.cos[at][:, None, None], self.sin[at][:, None, None]
        size = caches[0][0].shape[2]
        mask = (torch.arange(size, device=at.device)[None] <= at[:, None])[:, None, None]
        for layer, cache in zip(self.model.layers, caches, strict=True):
            x, _ = layer(x, cos, sin, cache, at, mask)
        return F.linear(self.model.norm(x), matrix)[:, 0]


def parameters_of(model: nn.Module) -> int:
    """How many numbers the model has learnt."""
    return sum(parameter.numel() for parameter in model.parameters())
