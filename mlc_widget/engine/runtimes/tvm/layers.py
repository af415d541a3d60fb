# mypy: disable-error-code="misc"
"""The layers of a `Builder` for CPUs, as `relax.frontend.nn` modules that call our kernels.

Activations are float32, or 8-bit as inputs of linear layers. The `Layout` of each parameter says
how MLC's tensor of that name becomes the kernel's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import Tensor, op

from mlc_widget.engine.runtimes.tvm.builder import (
    Activation,
    AttentionSpec,
    Builder,
    HeadNorm,
    Rows,
    parameter,
    unsupported,
)
from mlc_widget.engine.runtimes.tvm.kernels import (
    activation,
    attention,
    embedding,
    layer_norm,
    matmul,
    matmul_int8,
    norm,
    quantize,
    rope,
    scaling,
)
from mlc_widget.engine.runtimes.tvm.kernels.isa import Isa, pad
from mlc_widget.engine.runtimes.tvm.layouts import Codes, FloatBlocks, Scales, Vector
from mlc_widget.engine.runtimes.tvm.quantization import Quantization


@dataclass(frozen=True, slots=True)
class Quantized:
    """Rows of 8-bit activations, (M, `quantized_words(K)`) int32; see `kernels.quantize`."""

    q: Tensor


class CpuBuilder(Builder):
    """Makes the layers and operations of one model for a CPU.

    Args:
        quantization: The quantization of the model's weights.
        isa: The instructions that the kernels may use.
        int8: Whether linear layers take 8-bit activations.
        kv_dtype: The dtype of keys and values in the cache.

    Attributes:
        int8_order: The size of the codes in whose order 8-bit activations are; see
            `kernels.quantize`.
    """

    int8_order: int

    def __init__(
        self,
        quantization: Quantization,
        isa: Isa,
        *,
        int8: bool = False,
        kv_dtype: str = "float32",
    ) -> None:
        super().__init__(quantization, kv_dtype)
        self.isa, self.int8 = isa, int8
        self.int8_order = 4 if quantization.bits == 4 else 8

    def quantized(self, kernel: Any, args: list[Tensor], rows: Any, features: int) -> Quantized:
        """Call a kernel that returns 8-bit activations."""
        out = Tensor.placeholder((rows, quantize.quantized_words(features)), "int32")
        return Quantized(op.tensor_ir_op(kernel, kernel.attrs["global_symbol"], args, out))

    def linear(self, inputs: int, *outputs: int, bias: bool = False) -> Linear:
        """A `Linear`."""
        return Linear(self, inputs, *outputs, bias=bias)

    def gated_linear(self, inputs: int, features: int, activation: Activation) -> GatedLinear:
        """A `GatedLinear`."""
        return GatedLinear(self, inputs, features, activation)

    def embedding(self, vocab_size: int, hidden_size: int) -> Embedding:
        """An `Embedding`."""
        return Embedding(self, vocab_size, hidden_size)

    def rms_norm(self, features: int, eps: float) -> RMSNorm:
        """An `RMSNorm`."""
        return RMSNorm(self, features, eps)

    def output_norm(self, features: int, eps: float) -> OutputNorm:
        """An `OutputNorm`."""
        return OutputNorm(self, features, eps)

    def layer_norm(self, features: int, eps: float) -> LayerNorm:
        """A `LayerNorm`."""
        return LayerNorm(self, features, eps)

    def head_norm(self, features: int, eps: float) -> RMSNorm:
        """An `RMSNorm` whose weight is for `norm_heads`."""
        return RMSNorm(self, features, eps)

    def check_attention(self, spec: AttentionSpec) -> None:
        """Refuse attention with sinks, or with rotations for which there is no kernel."""
        spec.check_sinks()
        dims = spec.head_dim if spec.rotary_dims is None else spec.rotary_dims
        if dims % 2 and spec.rotary is not None:
            unsupported(f"{dims} rotated dimensions of each head", "even numbers")

    def norm_heads(
        self, qkv: Tensor, q_norm: Any, k_norm: Any, spec: AttentionSpec, kind: HeadNorm = "rms"
    ) -> Tensor:
        """Normalize the queries and the keys of `qkv`, in place."""
        shape = (*spec.heads, q_norm.eps, self.isa)
        if kind == "layer":
            kernel = self.kernel(layer_norm.make_head_layer_norm, *shape)
        else:
            kernel = self.kernel(norm.make_head_norm, *shape, together=kind == "joint rms")
        args = [qkv, q_norm.weight, k_norm.weight]
        made = Tensor.placeholder(qkv.shape, "float32")
        return op.tensor_ir_inplace_op(kernel, kernel.attrs["global_symbol"], args, [0], made)

    def gate(self, both: Tensor, kind: Activation) -> Tensor | Quantized:
        """kind(gate) · up, as input for linear layers, of (M, 2 I), gate then up."""
        features = int(both.shape[1]) // 2
        if self.int8:
            kernel = self.kernel(
                quantize.make_gate_quantize, features, kind, self.isa, bits=self.int8_order
            )
            return self.quantized(kernel, [both], both.shape[0], features)
        kernel = self.kernel(activation.make_gate, features, kind, self.isa)
        return self.call(kernel, [both], (both.shape[0], features))

    def activation(self, x: Tensor, kind: Activation) -> Tensor:
        """kind(x) in float32."""
        kernel = self.kernel(activation.make_activation, int(x.shape[1]), kind, self.isa)
        return self.call(kernel, [x], x.shape)

    def scaled(self, x: Tensor, factor: float, residual: Tensor | None = None) -> Tensor:
        """Factor · x (+ residual), in float32."""
        if factor == 1.0 and residual is None:
            return x
        added = residual is not None
        kernel = self.kernel(scaling.make_scale, int(x.shape[1]), factor, self.isa, added=added)
        return self.call(kernel, [x] if residual is None else [x, residual], x.shape)

    def finish_logits(self, logits: Tensor, factor: float, soft_cap: float | None) -> Tensor:
        """Factor · logits, and then the soft cap, if there is one, in place."""
        if factor == 1.0 and soft_cap is None:
            return logits
        width = int(logits.shape[1])
        kernel = self.kernel(scaling.make_finish_logits, width, factor, soft_cap, self.isa)
        made = Tensor.placeholder(logits.shape, "float32")
        return op.tensor_ir_inplace_op(kernel, kernel.attrs["global_symbol"], [logits], [0], made)

    def norm_into(self, norm_layer: Any, x: Tensor, rows: Tensor, out: Tensor) -> Tensor:
        """Write to `out`, in float32, the result of a layer of `rms_norm` for some rows."""
        if not isinstance(norm_layer, RMSNorm):
            unsupported("LayerNorm before embeddings as output", "RMSNorm")
        features = norm_layer.hidden_size
        kernel = self.kernel(norm.make_rms_norm, features, norm_layer.eps, self.isa, rows=True)
        made = Tensor.placeholder((rows.shape[0], pad(features)), "float32")
        args = [x, rows, norm_layer.weight, out]
        return op.tensor_ir_inplace_op(kernel, kernel.attrs["global_symbol"], args, [3], made)

    def attend(self, qkv: Tensor, rows: Rows, layer: int, spec: AttentionSpec) -> Tensor:
        """Rotate, append to the pages and attend; see `paged_attention`."""
        return paged_attention(self, qkv, rows, layer, spec)

    def call(self, kernel: Any, args: list[Tensor], shape: Any) -> Tensor:
        """Call a kernel that returns float32."""
        out = Tensor.placeholder(shape, "float32")
        return op.tensor_ir_op(kernel, kernel.attrs["global_symbol"], args, out)


class Linear(nn.Module):
    """y = x · Wᵀ (+ bias) (+ residual).

    `outputs` are the sizes of the parts of W's rows, each of which is padded. `build` is the
    device's builder, here and in subclasses.
    """

    def __init__(
        self,
        build: Any,
        inputs: int,
        *outputs: int,
        bias: bool = False,
        transposable: bool = True,
    ) -> None:
        super().__init__()
        self.build, self.k, self.n = build, pad(inputs), sum(map(pad, outputs))
        self.quantization = q = build.quantization
        if q.coded:
            transposed = q.transposed and transposable
            self.q_weight = parameter(Codes(inputs, outputs, q.bits, transposed=transposed))
            self.q_scale = parameter(Scales(inputs, outputs, q.dtype, transposed=transposed))
        else:
            self.weight = parameter(FloatBlocks(inputs, outputs, q.dtype))
        self.bias = parameter(Vector(*outputs)) if bias else None

    def weights(self) -> tuple[Any, Any]:
        """The weights and scales for the kernels."""
        if self.quantization.coded:
            return self.q_weight, self.q_scale
        return self.weight, self.weight

    def forward(
        self, x: Tensor | Quantized, residual: Tensor | None = None, out: Tensor | None = None
    ) -> Tensor:
        """(M, pad(inputs)) → (M, sum of the padded outputs), into `out` if it is given."""
        kernel, args, rows = self._call(x, residual)
        name = kernel.attrs["global_symbol"]
        made = Tensor.placeholder((rows, self.n), "float32")
        if out is None:
            return op.tensor_ir_op(kernel, name, args, made)
        return op.tensor_ir_inplace_op(kernel, name, [*args, out], [len(args)], made)

    def _call(
        self, x: Tensor | Quantized, residual: Tensor | None
    ) -> tuple[Any, list[Tensor], Any]:
        """The kernel, its inputs, and the number of rows."""
        q, build = self.quantization, self.build
        make: Callable[..., Any]
        kind: tuple[Any, ...]
        added = {"residual": residual is not None, "bias": self.bias is not None}
        if build.int8:
            if isinstance(x, Tensor):
                to_int8 = build.kernel(
                    quantize.make_quantize, self.k, build.isa, bits=build.int8_order
                )
                x = build.quantized(to_int8, [x], x.shape[0], self.k)
            make, kind = matmul_int8.make_matmul_int8, (q.bits, q.dtype)
        elif q.coded:
            make, kind = matmul.make_matmul_codes, (q.bits, q.dtype)
        else:
            make, kind = matmul.make_matmul_floats, (q.dtype,)
        kernel = build.kernel(make, self.k, self.n, *kind, build.isa, **added)
        rows = x.q if isinstance(x, Quantized) else x
        # Without bias or residual, the kernel ignores the argument in its place.
        bias = rows if self.bias is None else self.bias
        addend = rows if residual is None else residual
        return kernel, [rows, *self.weights(), bias, addend], rows.shape[0]


class GatedLinear(Linear):
    """activation(gate) · up, as input for linear layers. The outputs are gate, then up."""

    def __init__(self, build: Any, inputs: int, features: int, activation: Activation) -> None:
        super().__init__(build, inputs, features, features)
        self.activation = activation

    def forward(  # type: ignore[override]
        self, x: Tensor | Quantized
    ) -> Tensor | Quantized:
        """(M, pad(inputs)) → (M, pad(features))."""
        return self.build.gate(super().forward(x), self.activation)


class Embedding(Linear):
    """A vocabulary's embedding and the output layer that is tied to it."""

    def __init__(self, build: CpuBuilder, vocab_size: int, hidden_size: int) -> None:
        super().__init__(build, hidden_size, vocab_size, transposable=False)

    def embed(self, ids: Tensor) -> Tensor:
        """(n,) int32 → (n, pad(hidden))."""
        q, isa = self.quantization, self.build.isa
        kernel = (
            self.build.kernel(embedding.make_embedding_codes, self.k, self.n, q.bits, q.dtype, isa)
            if q.coded
            else self.build.kernel(embedding.make_embedding_floats, self.k, self.n, q.dtype, isa)
        )
        out = Tensor.placeholder((ids.shape[0], self.k), "float32")
        return op.tensor_ir_op(kernel, kernel.attrs["global_symbol"], [ids, *self.weights()], out)


class RMSNorm(nn.Module):
    """RMSNorm of all rows or of some."""

    def __init__(self, build: Any, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.build, self.hidden_size, self.eps = build, hidden_size, eps
        self.weight = parameter(Vector(hidden_size))

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Tensor | Quantized:
        """(n, pad(hidden)) → the same, or (m, pad(hidden)) for (m,) int32 `rows`.

        The result is only for linear layers: it is 8-bit if they take that.
        """
        build, hidden = self.build, pad(self.hidden_size)
        kind = (self.hidden_size, self.eps, build.isa)
        some = rows is not None
        kernel = (
            build.kernel(quantize.make_rms_norm_quantize, *kind, rows=some, bits=build.int8_order)
            if build.int8
            else build.kernel(norm.make_rms_norm, *kind, rows=some)
        )
        args = [x, *([] if rows is None else [rows]), self.weight]
        count = (x if rows is None else rows).shape[0]
        if build.int8:
            return build.quantized(kernel, args, count, hidden)
        out = Tensor.placeholder((count, hidden), "float32")
        return op.tensor_ir_op(kernel, kernel.attrs["global_symbol"], args, out)


class OutputNorm(nn.Module):
    """residual + RMSNorm(x), in float32."""

    def __init__(self, build: Any, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.build, self.hidden_size, self.eps = build, hidden_size, eps
        self.weight = parameter(Vector(hidden_size))

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """(n, pad(hidden)) twice → the same."""
        build = self.build
        kernel = build.kernel(norm.make_rms_norm_add, self.hidden_size, self.eps, build.isa)
        return build.call(kernel, [x, self.weight, residual], x.shape)


class LayerNorm(nn.Module):
    """LayerNorm of one tensor or of the sum of three."""

    def __init__(self, build: Any, features: int, eps: float) -> None:
        super().__init__()
        self.build, self.features, self.eps = build, features, eps
        self.weight = parameter(Vector(features))
        self.bias = parameter(Vector(features))

    def forward(self, *x: Tensor, rows: Tensor | None = None) -> Tensor:
        """(n, pad(features)) → the same, or (m, pad(features)) for (m,) int32 `rows`."""
        build, some = self.build, rows is not None
        kernel = build.kernel(
            layer_norm.make_layer_norm, self.features, self.eps, build.isa, terms=len(x), rows=some
        )
        args = [*x, *([] if rows is None else [rows]), self.weight, self.bias]
        count = (x[0] if rows is None else rows).shape[0]
        return build.call(kernel, args, (count, pad(self.features)))


def paged_attention(
    build: CpuBuilder,
    qkv: Tensor,
    rows: Rows,
    layer: int,
    spec: AttentionSpec,
) -> Tensor:
    """Rotate queries and keys, append keys and values to the pages, and attend.

    Args:
        build: The builder, which makes the kernels.
        qkv: (n, pad((HQ + 2 HKV) D)): queries, then keys, then values.
        rows: The step's rows and pages.
        layer: The number of the layer, whose pages are used.
        spec: The layer's parameters.

    Returns:
        (n, pad(HQ D)).
    """
    hq, _, d = spec.heads
    n = qkv.shape[0]
    rotation = rotation_of(spec, rows)
    append = build.kernel(rope.make_rope_append, *spec.heads, build.isa, build.kv_dtype, rotation)
    q, rows.k_pages, rows.v_pages = op.tensor_ir_inplace_op(
        append,
        append.attrs["global_symbol"],
        [
            qkv, rows.cos, rows.sin, rows.position, rows.slot, rows.k_pages, rows.v_pages,
            int64(layer),
        ],
        inplace_indices=[-1, 5, 6],
        out=[
            Tensor.placeholder((n, hq * d), "float32"),
            Tensor.placeholder(rows.k_pages.shape, build.kv_dtype),
            Tensor.placeholder(rows.v_pages.shape, build.kv_dtype),
        ],
    )  # fmt: skip
    attend = build.kernel(
        attention.make_attention,
        *spec.heads,
        build.isa,
        build.kv_dtype,
        spec.window,
        scale=spec.scale,
        cap=spec.soft_cap,
    )
    return op.tensor_ir_op(
        attend,
        attend.attrs["global_symbol"],
        [q, rows.k_pages, rows.v_pages, rows.position, rows.page_table, rows.tile, int64(layer)],
        Tensor.placeholder((n, pad(hq * d)), "float32"),
    )


def rotation_of(spec: AttentionSpec, rows: Rows) -> rope.Rotation:
    """How a layer rotates queries and keys, with the step's tables."""
    dims = 0 if spec.rotary is None else spec.rotary_dims or spec.head_dim
    return rope.Rotation(dims, spec.rotary or 0, spec.tables, int(rows.cos.shape[1]))


def int64(value: int) -> Any:
    """A constant, as an argument of a kernel."""
    from tvm import tirx

    return tirx.IntImm("int64", value)
