# mypy: disable-error-code="misc"
"""The layers of a `Builder` on a GPU's float32 kernels.

Activations here are float32; `tensor_layers` has the layers for tensor cores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from tvm import tirx
from tvm.relax.frontend.nn import Tensor, op

from mlc_widget.engine.runtimes.tvm import layers
from mlc_widget.engine.runtimes.tvm.builder import (
    Activation,
    AttentionSpec,
    Builder,
    HeadNorm,
    Rows,
    unsupported,
)
from mlc_widget.engine.runtimes.tvm.cuda.attention import make_attention, make_rope_append
from mlc_widget.engine.runtimes.tvm.cuda.embedding import (
    make_embedding_codes,
    make_embedding_floats,
)
from mlc_widget.engine.runtimes.tvm.cuda.features import (
    make_activation,
    make_finish_logits,
    make_gate,
    make_scale,
)
from mlc_widget.engine.runtimes.tvm.cuda.head_norms import (
    make_head_layer_norm,
    make_head_norm,
    make_joint_norm,
)
from mlc_widget.engine.runtimes.tvm.cuda.matmul import make_matmul_codes, make_matmul_floats
from mlc_widget.engine.runtimes.tvm.cuda.rows import (
    make_layer_norm,
    make_rms_norm,
    make_rms_norm_add,
)
from mlc_widget.engine.runtimes.tvm.cuda.tensor_attention import MOST_DIMS
from mlc_widget.engine.runtimes.tvm.kernels.isa import pad
from mlc_widget.engine.runtimes.tvm.quantization import Quantization

_HEAD_NORMS: Final[Mapping[HeadNorm, Callable[..., Any]]] = {
    "rms": make_head_norm,
    "joint rms": make_joint_norm,
    "layer": make_head_layer_norm,
}


class CudaBuilder(Builder):
    """Makes the layers and operations of one model for a GPU.

    Attributes:
        dtype: The dtype of the inputs of linear layers.
        overlapped: Whether a kernel may start while the previous one is still running.
    """

    dtype = "float32"
    overlapped = False

    def __init__(self, quantization: Quantization, *, kv_dtype: str = "float16") -> None:
        super().__init__(quantization, kv_dtype)

    def linear(self, inputs: int, *outputs: int, bias: bool = False) -> Any:
        """A `CudaLinear`."""
        return CudaLinear(self, inputs, *outputs, bias=bias)

    def embedding(self, vocab_size: int, hidden_size: int) -> Any:
        """A `CudaEmbedding`."""
        return CudaEmbedding(self, vocab_size, hidden_size)

    def rms_norm(self, features: int, eps: float) -> Any:
        """A `CudaRMSNorm`."""
        return CudaRMSNorm(self, features, eps)

    def gated_linear(self, inputs: int, features: int, activation: Activation) -> Any:
        """A `CudaGatedLinear`."""
        return CudaGatedLinear(self, inputs, features, activation)

    def output_norm(self, features: int, eps: float) -> Any:
        """A `CudaOutputNorm`."""
        return CudaOutputNorm(self, features, eps)

    def layer_norm(self, features: int, eps: float) -> Any:
        """A `CudaLayerNorm`."""
        return CudaLayerNorm(self, features, eps)

    def head_norm(self, features: int, eps: float) -> Any:
        """A `CudaRMSNorm` whose weight is for `norm_heads`."""
        return CudaRMSNorm(self, features, eps)

    def check_attention(self, spec: AttentionSpec) -> None:
        """Refuse attention with sinks, and heads that are too large for a thread's registers."""
        spec.check_sinks()
        if spec.head_dim > MOST_DIMS:
            unsupported(f"heads of {spec.head_dim} dimensions", f"up to {MOST_DIMS}")

    def activation(self, x: Tensor, activation: Activation) -> Tensor:
        """The activation, for a linear layer."""
        kernel = self.kernel(
            make_activation,
            int(x.shape[1]),
            activation,
            dtype=self.dtype,
            overlapped=self.overlapped,
        )
        return self.call(kernel, [x], x.shape, self.dtype)

    def scaled(self, x: Tensor, factor: float, residual: Tensor | None = None) -> Tensor:
        """Factor · x (+ residual), in float32."""
        if factor == 1.0 and residual is None:
            return x
        kernel = self.kernel(
            make_scale,
            int(x.shape[1]),
            factor,
            added=residual is not None,
            overlapped=self.overlapped,
        )
        return self.call(kernel, [x] if residual is None else [x, residual], x.shape)

    def finish_logits(self, logits: Tensor, factor: float, soft_cap: float | None) -> Tensor:
        """Factor · logits, and then the soft cap, if there is one, in place."""
        if factor == 1.0 and soft_cap is None:
            return logits
        kernel = self.kernel(make_finish_logits, int(logits.shape[1]), factor, soft_cap)
        made = Tensor.placeholder(logits.shape, "float32")
        return op.tensor_ir_inplace_op(kernel, kernel.attrs["global_symbol"], [logits], [0], made)

    def norm_into(self, norm: Any, x: Tensor, rows: Tensor, out: Tensor) -> Tensor:
        """Refused."""
        unsupported("embeddings as output", "models for text")

    def norm_heads(
        self, qkv: Tensor, q_norm: Any, k_norm: Any, spec: AttentionSpec, kind: HeadNorm = "rms"
    ) -> Tensor:
        """Normalize the queries and the keys of `qkv`, in place."""
        kernel = self.kernel(_HEAD_NORMS[kind], *spec.heads, q_norm.eps)
        args = [qkv, q_norm.weight, k_norm.weight]
        made = Tensor.placeholder(qkv.shape, "float32")
        return op.tensor_ir_inplace_op(kernel, kernel.attrs["global_symbol"], args, [0], made)

    def attend(self, qkv: Tensor, rows: Rows, layer: int, spec: AttentionSpec) -> Tensor:
        """Rotate, append to the pages and attend, like `layers.paged_attention`."""
        hq, hkv, d = spec.heads
        n, at = qkv.shape[0], tirx.IntImm("int64", layer)
        rotation = layers.rotation_of(spec, rows)
        append = self.kernel(make_rope_append, hq, hkv, d, self.kv_dtype, rotation)
        q, rows.k_pages, rows.v_pages = op.tensor_ir_inplace_op(
            append,
            append.attrs["global_symbol"],
            [
                qkv, rows.cos, rows.sin, rows.position, rows.slot, rows.k_pages, rows.v_pages, at,
            ],
            inplace_indices=[-1, 5, 6],
            out=[
                Tensor.placeholder((n, hq * d), "float32"),
                Tensor.placeholder(rows.k_pages.shape, self.kv_dtype),
                Tensor.placeholder(rows.v_pages.shape, self.kv_dtype),
            ],
        )  # fmt: skip
        attend = self.kernel(
            make_attention,
            *spec.heads,
            self.kv_dtype,
            spec.window,
            scale=spec.scale,
            cap=spec.soft_cap,
        )
        args = [q, rows.k_pages, rows.v_pages, rows.position, rows.page_table, rows.tile, at]
        return self.call(attend, args, (n, pad(hq * d)))

    def call(
        self, kernel: Any, args: list[Any], shape: Sequence[Any], dtype: str = "float32"
    ) -> Tensor:
        """Call a kernel that returns a tensor."""
        out = Tensor.placeholder(shape, dtype)
        return op.tensor_ir_op(kernel, kernel.attrs["global_symbol"], args, out)


class CudaLinear(layers.Linear):
    """y = x · Wᵀ (+ bias) (+ residual)."""

    def _call(self, x: Any, residual: Tensor | None) -> tuple[Any, list[Tensor], Any]:
        """The kernel, its inputs, and the number of rows."""
        q, build = self.quantization, self.build
        added = {"residual": residual is not None, "bias": self.bias is not None}
        if q.coded:
            make, bits = make_matmul_codes, (q.bits,)
        else:
            make, bits = make_matmul_floats, ()  # type: ignore[assignment]
        kernel = build.kernel(make, self.k, self.n, *bits, q.dtype, **added)
        # Without bias or residual, the kernel ignores the argument in its place.
        bias = x if self.bias is None else self.bias
        addend = x if residual is None else residual
        return kernel, [x, *self.weights(), bias, addend], x.shape[0]


class CudaGatedLinear(CudaLinear):
    """activation(gate) · up. The first output is gate, the second up."""

    def __init__(
        self, build: CudaBuilder, inputs: int, features: int, activation: Activation
    ) -> None:
        super().__init__(build, inputs, features, features)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(M, pad(inputs)) → (M, pad(features))."""
        both, features = super().forward(x), self.n // 2
        kernel = self.build.kernel(make_gate, features, self.activation)
        return self.build.call(kernel, [both], (both.shape[0], features))


class CudaEmbedding(CudaLinear):
    """A vocabulary's embedding and the output layer that is tied to it."""

    def __init__(self, build: CudaBuilder, vocab_size: int, hidden_size: int) -> None:
        super().__init__(build, hidden_size, vocab_size, transposable=False)

    def embed(self, ids: Tensor) -> Tensor:
        """(n,) int32 → (n, pad(hidden))."""
        q, build = self.quantization, self.build
        if q.coded:
            kernel = build.kernel(make_embedding_codes, self.k, self.n, q.bits, q.dtype)
            args = [ids, self.q_weight, self.q_scale]
        else:
            kernel = build.kernel(make_embedding_floats, self.k, self.n, q.dtype)
            args = [ids, self.weight]
        out = Tensor.placeholder((ids.shape[0], self.k), "float32")
        return op.tensor_ir_op(kernel, kernel.attrs["global_symbol"], args, out)


class CudaRMSNorm(layers.RMSNorm):
    """RMSNorm of all rows or of some, for linear layers."""

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """(n, pad(hidden)) → the same, or (m, pad(hidden)) for (m,) int32 `rows`."""
        build = self.build
        kernel = build.kernel(
            make_rms_norm,
            self.hidden_size,
            self.eps,
            rows=rows is not None,
            dtype=build.dtype,
            overlapped=build.overlapped,
        )
        args = [x, *([] if rows is None else [rows]), self.weight]
        count = (x if rows is None else rows).shape[0]
        return build.call(kernel, args, (count, pad(self.hidden_size)), build.dtype)


class CudaOutputNorm(layers.OutputNorm):
    """residual + RMSNorm(x), in float32."""

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """(n, pad(hidden)) twice → the same."""
        build = self.build
        kernel = build.kernel(
            make_rms_norm_add, self.hidden_size, self.eps, overlapped=build.overlapped
        )
        return build.call(kernel, [x, self.weight, residual], x.shape)


class CudaLayerNorm(layers.LayerNorm):
    """LayerNorm of one tensor's rows or of some of them, for linear layers."""

    def forward(self, *x: Tensor, rows: Tensor | None = None) -> Tensor:
        """(n, pad(features)) → the same, or (m, pad(features)) for (m,) int32 `rows`."""
        build = self.build
        if len(x) != 1:
            unsupported("LayerNorm of a sum", "that of one tensor")
        kernel = build.kernel(
            make_layer_norm,
            self.features,
            self.eps,
            rows=rows is not None,
            dtype=build.dtype,
            overlapped=build.overlapped,
        )
        args = [x[0], *([] if rows is None else [rows]), self.weight, self.bias]
        count = (x[0] if rows is None else rows).shape[0]
        return build.call(kernel, args, (count, pad(self.features)), build.dtype)
