# mypy: disable-error-code="misc"
"""The layers and operations of which architectures are built, on every device.

Activations are (rows, features), with features padded to a multiple of 32. The residual stream is
float32; the outputs of norms, gated linear layers and attention may have another form (8-bit,
float16), which the linear layers of the same builder take as input.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, TypeAlias

from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import Tensor

from mlc_widget.api.errors import UnsupportedModelError
from mlc_widget.engine.runtimes.tvm.layouts import Layout
from mlc_widget.engine.runtimes.tvm.parsing import parse_quickly
from mlc_widget.engine.runtimes.tvm.quantization import Quantization

Activation: TypeAlias = Literal["silu", "gelu", "gelu_tanh"]
HeadNorm: TypeAlias = Literal["rms", "joint rms", "layer"]
"""A norm of queries and keys: RMSNorm of each head, RMSNorm of all heads as one vector, or
LayerNorm of each head with weights of its own and without biases."""


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """The parameters of one layer's attention.

    Attributes:
        query_heads: The number of query heads.
        kv_heads: The number of key and value heads.
        head_dim: The dimension of a head.
        scale: The factor of the scores; None for ``head_dim ** -0.5``.
        window: The number of keys that a token attends to, its own included; None for all.
        rotary: The index of the model's rotary table that rotates queries and keys; None for no
            rotation.
        rotary_dims: The number of a head's first dimensions that are rotated; None for all.
        tables: The number of the model's rotary tables.
        soft_cap: Scores become ``soft_cap * tanh(score / soft_cap)``; None leaves them unchanged.
        sinks: Whether each head has a learned score that takes part in the softmax.
    """

    query_heads: int
    kv_heads: int
    head_dim: int
    scale: float | None = None
    window: int | None = None
    rotary: int | None = 0
    rotary_dims: int | None = None
    tables: int = 1
    soft_cap: float | None = None
    sinks: bool = False

    @property
    def heads(self) -> tuple[int, int, int]:
        """``(query_heads, kv_heads, head_dim)``."""
        return self.query_heads, self.kv_heads, self.head_dim

    def check_sinks(self) -> None:
        """Refuse sinks, for which there is no kernel.

        Raises:
            UnsupportedModelError: There are some.
        """
        if self.sinks:
            unsupported("attention with sinks", "attention without")


class Rows:
    """The inputs of a step for every layer's attention; `k_pages` and `v_pages` change in place.

    See `kernels.attention` for their shapes.
    """

    def __init__(
        self,
        position: Tensor,
        slot: Tensor,
        page_table: Tensor,
        tile: Tensor,
        cos: Tensor,
        sin: Tensor,
        k_pages: Tensor,
        v_pages: Tensor,
    ) -> None:
        self.position, self.slot, self.page_table, self.tile = position, slot, page_table, tile
        self.cos, self.sin, self.k_pages, self.v_pages = cos, sin, k_pages, v_pages


class Attention(nn.Module):
    """One layer's attention, called with (n, pad((HQ + 2 HKV) D)) queries, keys and values."""

    def __init__(self, build: Builder, spec: AttentionSpec, layer: int) -> None:
        super().__init__()
        self.build, self.spec, self.layer = build, spec, layer

    def forward(self, qkv: Tensor, rows: Rows) -> Any:
        """Rotate, append to the pages, attend: (n, pad(HQ D)), for a linear layer."""
        return self.build.attend(qkv, rows, self.layer, self.spec)


class Builder(ABC):
    """Makes the layers and operations of one model for a device.

    Architectures use only these methods. If a device has no kernel for a layer, the layer is
    refused when it is made, which is when the model is planned.

    Args:
        quantization: The quantization of the model's weights.
        kv_dtype: The dtype of keys and values in the cache.
    """

    def __init__(self, quantization: Quantization, kv_dtype: str) -> None:
        parse_quickly()
        self.quantization, self.kv_dtype = quantization, kv_dtype
        self._kernels: dict[tuple[Any, ...], Any] = {}

    def kernel(self, make: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Make the PrimFunc ``make(*args, **kwargs)`` once; only a device's own layers use this."""
        key = (make, args, tuple(kwargs.items()))
        if key not in self._kernels:
            self._kernels[key] = make(*args, **kwargs)
        return self._kernels[key]

    def attention(self, spec: AttentionSpec, layer: int) -> Attention:
        """Attention that keeps its keys and values as those of layer number `layer`.

        Raises:
            UnsupportedModelError: This device has no kernel for it.
        """
        self.check_attention(spec)
        return Attention(self, spec, layer)

    @abstractmethod
    def check_attention(self, spec: AttentionSpec) -> None:
        """Refuse attention for which this device has no kernel."""

    @abstractmethod
    def linear(self, inputs: int, *outputs: int, bias: bool = False) -> Any:
        """Y = x · Wᵀ (+ bias), called with x and optionally a residual, which is added.

        `outputs` are the sizes of the parts of W's rows, each of which is padded. Called with
        ``out``, it writes there. Its parameters are ``weight`` or ``q_weight`` and ``q_scale``, and
        ``bias``.
        """

    @abstractmethod
    def gated_linear(self, inputs: int, features: int, activation: Activation) -> Any:
        """activation(x · Gᵀ) · (x · Uᵀ), for a linear layer; one tensor has G's rows, then U's.

        Raises:
            UnsupportedModelError: This device has no kernel for the activation.
        """

    @abstractmethod
    def embedding(self, vocab_size: int, hidden_size: int) -> Any:
        """An embedding with ``embed(ids)``; called like a linear layer, it is the tied output."""

    @abstractmethod
    def rms_norm(self, features: int, eps: float) -> Any:
        """RMSNorm for linear layers, called with x and optionally the indices of some rows."""

    @abstractmethod
    def output_norm(self, features: int, eps: float) -> Any:
        """RMSNorm of a block's output, called with that and the residual to which it is added.

        Raises:
            UnsupportedModelError: This device has no kernel for it.
        """

    @abstractmethod
    def layer_norm(self, features: int, eps: float) -> Any:
        """LayerNorm of one tensor, for linear layers, or in float32 of the sum of three.

        With ``rows``, the indices of some rows of the one tensor, it is of those.

        Raises:
            UnsupportedModelError: This device has no kernel for it.
        """

    @abstractmethod
    def head_norm(self, features: int, eps: float) -> Any:
        """The weights of a norm of queries or keys, for `norm_heads`: of one head, or of all."""

    @abstractmethod
    def norm_heads(
        self, qkv: Tensor, q_norm: Any, k_norm: Any, spec: AttentionSpec, kind: HeadNorm = "rms"
    ) -> Tensor:
        """Normalize the queries and the keys of `qkv`, in place.

        Raises:
            UnsupportedModelError: This device has no kernel for it.
        """

    @abstractmethod
    def activation(self, x: Tensor, activation: Activation) -> Any:
        """The activation of a layer without a gate, for a linear layer.

        Raises:
            UnsupportedModelError: This device has no kernel for it.
        """

    @abstractmethod
    def scaled(self, x: Tensor, factor: float, residual: Tensor | None = None) -> Tensor:
        """Factor · x (+ residual), in float32.

        Raises:
            UnsupportedModelError: This device has no kernel for it.
        """

    @abstractmethod
    def finish_logits(self, logits: Tensor, factor: float, soft_cap: float | None) -> Tensor:
        """Factor · logits, and then ``soft_cap * tanh(… / soft_cap)``, if that is given; in place.

        Raises:
            UnsupportedModelError: This device has no kernel for it.
        """

    @abstractmethod
    def norm_into(self, norm: Any, x: Tensor, rows: Tensor, out: Tensor) -> Tensor:
        """Write to `out`, in float32, the result of a layer of `rms_norm` for some rows."""

    @abstractmethod
    def attend(self, qkv: Tensor, rows: Rows, layer: int, spec: AttentionSpec) -> Any:
        """Compute attention; only `Attention` calls this."""


def parameter(layout: Layout) -> Any:
    """A parameter that is stored in a layout."""
    made = nn.Parameter(layout.shape, layout.dtype)
    made.attrs["layout"] = layout
    return made


def unsupported(what: str, instead: str) -> NoReturn:
    """Refuse a model because of a feature.

    Args:
        what: The feature.
        instead: What is supported instead.

    Raises:
        UnsupportedModelError: Always.
    """
    raise UnsupportedModelError(
        f"The model has {what}, which the tvm runtime does not support on this device; it supports "
        f"{instead}. Choose another model or device.",
        param="model_config",
    )
