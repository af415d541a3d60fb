# mypy: disable-error-code="misc"
"""What architectures are made of: the layers and operations that every device has.

Activations are (rows, features) with features padded to a multiple of 32. The residual stream is
float32; what norms, gated linear layers and attention give to linear layers may have another form
(8-bit, float16), which a builder's own linear layers take.
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
from mlc_widget.engine.runtimes.tvm.quantization import Quantization

Activation: TypeAlias = Literal["silu", "gelu", "gelu_tanh"]


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """What one layer's attention is.

    Attributes:
        query_heads: Heads of queries.
        kv_heads: Heads of keys and values.
        head_dim: Dimensions of a head.
        scale: What scores are multiplied by; None for ``head_dim ** -0.5``.
        window: How many keys a token attends to, itself among them; None for all before it.
        rotary: Which of the model's rotary tables rotates queries and keys; None for none.
        soft_cap: Scores become ``soft_cap * tanh(score / soft_cap)``; None for as they are.
        sinks: Whether each head has a learned score that takes part in the softmax.
    """

    query_heads: int
    kv_heads: int
    head_dim: int
    scale: float | None = None
    window: int | None = None
    rotary: int | None = 0
    soft_cap: float | None = None
    sinks: bool = False

    @property
    def heads(self) -> tuple[int, int, int]:
        """Heads of queries, heads of keys and values, dimensions of a head."""
        return self.query_heads, self.kv_heads, self.head_dim

    def check_plain(self) -> None:
        """Refuse what no kernel does yet.

        Raises:
            UnsupportedModelError: naming what it is.
        """
        if self.scale is not None and self.scale != self.head_dim**-0.5:
            unsupported(f"attention with a scale of {self.scale:g}", "head_dim ** -0.5")
        if self.rotary != 0:
            which = "without" if self.rotary is None else f"with the rotary table {self.rotary} of"
            unsupported(f"attention {which} rotary embeddings", "attention with one rotary table")
        if self.soft_cap is not None:
            unsupported(f"attention with a soft cap of {self.soft_cap:g}", "attention without")
        if self.sinks:
            unsupported("attention with sinks", "attention without")


class Rows:
    """What a step gives to every layer's attention; `k_pages` and `v_pages` change in place.

    See `kernels.attention` for shapes.
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

    Architectures use these methods and nothing else of a device. What a device has no kernel for
    is refused when the layer is made, which is when the model is planned.

    Args:
        quantization: Of the model's weights.
        kv_dtype: Of keys and values in the cache.
    """

    def __init__(self, quantization: Quantization, kv_dtype: str) -> None:
        self.quantization, self.kv_dtype = quantization, kv_dtype
        self._kernels: dict[tuple[Any, ...], Any] = {}

    def kernel(self, make: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The PrimFunc ``make(*args, **kwargs)``, made once; for a device's own layers."""
        key = (make, args, tuple(kwargs.items()))
        if key not in self._kernels:
            self._kernels[key] = make(*args, **kwargs)
        return self._kernels[key]

    def attention(self, spec: AttentionSpec, layer: int) -> Attention:
        """Attention that keeps its keys and values as the layer of that number.

        Raises:
            UnsupportedModelError: This device has no kernel for it.
        """
        spec.check_plain()
        return Attention(self, spec, layer)

    @abstractmethod
    def linear(self, inputs: int, *outputs: int, bias: bool = False) -> Any:
        """Y = x · Wᵀ (+ bias), called with x and, to be added, a residual.

        `outputs` lists the parts of W's rows that are padded one by one. Called with ``out``, it
        writes there. Parameters: ``weight`` or ``q_weight`` and ``q_scale``, and ``bias``.
        """

    @abstractmethod
    def gated_linear(self, inputs: int, features: int, activation: Activation) -> Any:
        """activation(x · Gᵀ) · (x · Uᵀ), for a linear layer; G's rows lie before U's in one tensor.

        Raises:
            UnsupportedModelError: This device has no kernel for the activation.
        """

    @abstractmethod
    def embedding(self, vocab_size: int, hidden_size: int) -> Any:
        """Has ``embed(ids)``; called as a linear layer, it is the output layer tied to it."""

    @abstractmethod
    def rms_norm(self, features: int, eps: float) -> Any:
        """RMSNorm for linear layers, called with x and, to norm only those, numbers of rows."""

    @abstractmethod
    def output_norm(self, features: int, eps: float) -> Any:
        """RMSNorm of what a block gives, called with it and the residual that it is added to.

        Raises:
            UnsupportedModelError: This device has no kernel for it.
        """

    @abstractmethod
    def layer_norm(self, features: int, eps: float) -> Any:
        """LayerNorm in float32, called with one tensor or with three whose sum is normed.

        Raises:
            UnsupportedModelError: This device has no kernel for it.
        """

    @abstractmethod
    def head_norm(self, head_dim: int, eps: float) -> Any:
        """The weight of an RMSNorm of heads, for `norm_heads`."""

    @abstractmethod
    def norm_heads(self, qkv: Tensor, q_norm: Any, k_norm: Any, spec: AttentionSpec) -> Tensor:
        """RMSNorm of each head of queries and of keys in `qkv`, which is changed in place."""

    @abstractmethod
    def gelu(self, x: Tensor) -> Tensor:
        """GELU in float32, with the error function."""

    @abstractmethod
    def norm_into(self, norm: Any, x: Tensor, rows: Tensor, out: Tensor) -> Tensor:
        """What a layer of `rms_norm` makes of some rows, in float32, written to `out`."""

    @abstractmethod
    def attend(self, qkv: Tensor, rows: Rows, layer: int, spec: AttentionSpec) -> Any:
        """What `Attention` does; for that alone."""


def parameter(layout: Layout) -> Any:
    """A parameter that is stored as a layout says."""
    made = nn.Parameter(layout.shape, layout.dtype)
    made.attrs["layout"] = layout
    return made


def unsupported(what: str, instead: str) -> NoReturn:
    """Refuse a model for what it is made of.

    Raises:
        UnsupportedModelError: Always.
    """
    raise UnsupportedModelError(
        f"The model has {what}, which the tvm runtime does not run on this device; it runs "
        f"{instead}. Choose another model or device.",
        param="model_config",
    )
