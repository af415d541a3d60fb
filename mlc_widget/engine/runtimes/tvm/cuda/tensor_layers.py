# mypy: disable-error-code="misc"
"""The layers of a `Builder` on tensor cores.

Inputs of linear layers and of attention are float16; the residual stream, sums of products and
logits are float32. Models with weights and pages in float16 get these layers; others get those of
`layers`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import Tensor, op

from mlc_widget.engine.runtimes.tvm.builder import Activation, AttentionSpec, Rows, parameter
from mlc_widget.engine.runtimes.tvm.cuda import fragments
from mlc_widget.engine.runtimes.tvm.cuda.embedding import make_tensor_embedding
from mlc_widget.engine.runtimes.tvm.cuda.features import make_rounding
from mlc_widget.engine.runtimes.tvm.cuda.layers import CudaBuilder, CudaRMSNorm
from mlc_widget.engine.runtimes.tvm.cuda.parts import rows_of
from mlc_widget.engine.runtimes.tvm.cuda.target import CudaTarget
from mlc_widget.engine.runtimes.tvm.cuda.tensor_append import make_append_attention
from mlc_widget.engine.runtimes.tvm.cuda.tensor_attention import blocks_of, pages_of_a_part
from mlc_widget.engine.runtimes.tvm.cuda.tensor_attention_many import most_rows
from mlc_widget.engine.runtimes.tvm.cuda.tensor_matmul import (
    arranged_rows,
    make_tensor_matmul,
    make_warpgroup_matmul,
    serves_norm,
)
from mlc_widget.engine.runtimes.tvm.kernels.isa import pad
from mlc_widget.engine.runtimes.tvm.layers import rotation_of
from mlc_widget.engine.runtimes.tvm.layouts import PAGE, Vector
from mlc_widget.engine.runtimes.tvm.model_shape import ModelShape
from mlc_widget.engine.runtimes.tvm.quantization import Quantization


def has_tensor_cores(quantization: Quantization, kv_dtype: str, target: CudaTarget) -> bool:
    """Whether a model's layers run on tensor cores.

    Args:
        quantization: The quantization of its weights.
        kv_dtype: The dtype of its pages; float32 pages imply float32 activations.
        target: The GPU; `intrinsics.mma` needs Ampere or later.
    """
    return quantization.dtype == kv_dtype == "float16" and target.capability >= 80


def builder_for(quantization: Quantization, kv_dtype: str, target: CudaTarget) -> CudaBuilder:
    """The builder of a model's layers on a GPU."""
    if has_tensor_cores(quantization, kv_dtype, target):
        return TensorBuilder(
            quantization,
            overlapped=target.capability >= 90,
            warpgroups=target.has_warpgroups,
            multiprocessors=target.multiprocessors,
        )
    return CudaBuilder(quantization, kv_dtype=kv_dtype)


def attention_rows(
    quantization: Quantization, kv_dtype: str, target: CudaTarget, shape: ModelShape
) -> int:
    """The maximum number of rows of an attention tile in the kernels of such a model."""
    if has_tensor_cores(quantization, kv_dtype, target):
        group = shape.query_heads // shape.kv_heads
        return most_rows(group, shape.head_dim) if target.has_warpgroups else rows_of(group)
    return 1


def attention_part(
    quantization: Quantization, kv_dtype: str, target: CudaTarget, shape: ModelShape
) -> int:
    """The number of keys in each part of a context that a tile can have; 0 if it must have all."""
    if has_tensor_cores(quantization, kv_dtype, target):
        return pages_of_a_part(shape.head_dim) * PAGE
    return 0


class TensorBuilder(CudaBuilder):
    """Makes the layers and operations of one model for tensor cores.

    Attributes:
        overlapped: Whether a kernel may start while the previous one is still running.
        warpgroups: Whether the GPU has products of warpgroups.
        multiprocessors: The number of the GPU's multiprocessors.
    """

    dtype = "float16"

    def __init__(
        self,
        quantization: Quantization,
        *,
        overlapped: bool = False,
        warpgroups: bool = False,
        multiprocessors: int = 132,
    ) -> None:
        super().__init__(quantization, kv_dtype="float16")
        self.overlapped, self.warpgroups = overlapped, warpgroups
        self.multiprocessors = multiprocessors

    def linear(self, inputs: int, *outputs: int, bias: bool = False) -> Any:
        """A `TensorLinear`."""
        return TensorLinear(self, inputs, *outputs, bias=bias)

    def gated_linear(self, inputs: int, features: int, activation: Activation) -> Any:
        """A `TensorGatedLinear`."""
        return TensorGatedLinear(self, inputs, features, activation)

    def embedding(self, vocab_size: int, hidden_size: int) -> Any:
        """A `TensorEmbedding`."""
        return TensorEmbedding(self, vocab_size, hidden_size)

    def rms_norm(self, features: int, eps: float) -> Any:
        """A `TensorRMSNorm`."""
        return TensorRMSNorm(self, features, eps)

    def attend(self, qkv: Tensor, rows: Rows, layer: int, spec: AttentionSpec) -> Tensor:
        """Rotate, append to the pages and attend, like `layers.paged_attention`, in float16."""
        hq, hkv, d = spec.heads
        n, at = qkv.shape[0], tirx.IntImm("int64", layer)
        attend = self.kernel(
            make_append_attention,
            *spec.heads,
            rotation_of(spec, rows),
            spec.window,
            scale=spec.scale,
            cap=spec.soft_cap,
            overlapped=self.overlapped,
            many=self.warpgroups,
        )
        rows.k_pages, rows.v_pages, y, *_ = op.tensor_ir_inplace_op(
            attend,
            attend.attrs["global_symbol"],
            [
                qkv, rows.cos, rows.sin, rows.position, rows.slot, rows.k_pages, rows.v_pages,
                rows.page_table, rows.tile, at,
            ],
            inplace_indices=[5, 6, -1, -1, -1, -1],
            out=[
                Tensor.placeholder(rows.k_pages.shape, "float16"),
                Tensor.placeholder(rows.v_pages.shape, "float16"),
                Tensor.placeholder((n, pad(hq * d)), "float16"),
                Tensor.placeholder((n, hq * d), "float16"),
                Tensor.placeholder((n, blocks_of(hq, hkv)), "int32"),
                Tensor.placeholder((rows.tile.shape[0], hq, d + 2), "float32"),
            ],
        )  # fmt: skip
        return Attended(_expr=y._expr)


class Attended(Tensor):
    """The output of attention, whose kernel occupies only some multiprocessors."""


@dataclass(frozen=True)
class Normed:
    """Rows whose norm the linear layer that takes them computes itself."""

    x: Tensor
    norm: TensorRMSNorm

    @property
    def rows(self) -> Tensor:
        """The norm of the rows, in float16."""
        return CudaRMSNorm.forward(self.norm, self.x)


class TensorRMSNorm(CudaRMSNorm):
    """RMSNorm of some rows, or of all by the linear layers that take them."""

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Any:
        """`Normed` (n, pad(hidden)), or (m, pad(hidden)) float16 for (m,) int32 `rows`."""
        if rows is None and self.build.warpgroups:
            return Normed(x, self)
        return super().forward(x, rows)


class TensorLinear(nn.Module):
    """y = x · Wᵀ (+ bias) (+ residual) in float32, of rows that are or become float16."""

    activation: Activation | None = None

    def __init__(
        self,
        build: TensorBuilder,
        inputs: int,
        *outputs: int,
        bias: bool = False,
        transposable: bool = True,
    ) -> None:
        super().__init__()
        self.build, self.k, self.n = build, pad(inputs), sum(map(pad, outputs))
        self.quantization = q = build.quantization
        transposed = q.transposed and transposable
        if q.coded:
            codes = fragments.Codes4 if q.bits == 4 else fragments.Codes8
            self.q_weight = parameter(codes(inputs, outputs, transposed=transposed))
            self.q_scale = parameter(fragments.Scales(inputs, outputs, transposed=transposed))
        else:
            self.weight = parameter(fragments.Floats(inputs, outputs))
        self.bias = parameter(Vector(*outputs)) if bias else None

    def weights(self) -> tuple[Any, Any]:
        """The weights and scales for the kernels."""
        if self.quantization.coded:
            return self.q_weight, self.q_scale
        return self.weight, self.weight

    def forward(
        self, x: Tensor | Normed, residual: Tensor | None = None, out: Tensor | None = None
    ) -> Tensor:
        """(M, pad(inputs)) → (M, sum of the padded outputs), into `out` if it is given."""
        norm = x.norm if isinstance(x, Normed) else None
        if isinstance(x, Normed):
            if out is None and serves_norm(self.k, self.n, self.quantization.bits, self.activation):
                x = x.x
            else:
                x, norm = x.rows, None
        elif x.dtype == "float32":  # a residual stream without a norm
            rounding = self.build.kernel(make_rounding, self.k, overlapped=self.build.overlapped)
            x = self.build.call(rounding, [x], x.shape, "float16")
        rows, made, args = x.shape[0], [self._made(x.shape[0])], self._arguments(x, residual)
        if norm is not None:
            args.insert(1, norm.weight)
            made.append(Tensor.placeholder(x.shape, "float16"))
        if self.build.warpgroups:
            kernel = self._kernel(
                make_warpgroup_matmul,
                residual,
                multiprocessors=self.build.multiprocessors,
                beside=isinstance(x, Attended),
                norm=None if norm is None else (norm.hidden_size, norm.eps),
            )
            inputs = fragments.STEP * fragments.steps_of(self.k)
            made.append(Tensor.placeholder((arranged_rows(rows), inputs), "float16"))
        else:
            kernel = self._kernel(make_tensor_matmul, residual, overlapped=self.build.overlapped)
        name = kernel.attrs["global_symbol"]
        if out is None:
            result = op.tensor_ir_op(kernel, name, args, made)
        else:
            places = [len(args), -1][: len(made)]
            result = op.tensor_ir_inplace_op(kernel, name, [*args, out], places, made)
        return result[0] if len(made) > 1 else result

    def _kernel(self, make: Any, residual: Tensor | None, **options: Any) -> Any:
        return self.build.kernel(
            make,
            self.k,
            self.n,
            self.quantization.bits,
            residual=residual is not None,
            bias=self.bias is not None,
            activation=self.activation,
            **options,
        )

    def _arguments(self, x: Tensor, residual: Tensor | None) -> list[Any]:
        """Without bias or residual, the kernel ignores the argument in its place."""
        return [
            x,
            *self.weights(),
            x if self.bias is None else self.bias,
            x if residual is None else residual,
        ]

    def _made(self, rows: Any) -> Tensor:
        return Tensor.placeholder((rows, self.n), "float32")


class TensorGatedLinear(TensorLinear):
    """f(gate) · up in float16. The first output is gate, the second up, of the same size."""

    def __init__(
        self, build: TensorBuilder, inputs: int, features: int, activation: Activation
    ) -> None:
        super().__init__(build, inputs, features, features)
        self.activation = activation

    def _made(self, rows: Any) -> Tensor:
        return Tensor.placeholder((rows, self.n // 2), "float16")


class TensorEmbedding(TensorLinear):
    """A vocabulary's embedding and the output layer that is tied to it."""

    def __init__(self, build: TensorBuilder, vocab_size: int, hidden_size: int) -> None:
        super().__init__(build, hidden_size, vocab_size, transposable=False)

    def embed(self, ids: Tensor) -> Tensor:
        """(n,) int32 → (n, pad(hidden)) float32."""
        q = self.quantization
        kernel = self.build.kernel(make_tensor_embedding, self.k, self.n, q.bits)
        args = [ids, *(self.weights() if q.coded else (self.weight,))]
        out = Tensor.placeholder((ids.shape[0], self.k), "float32")
        return op.tensor_ir_op(kernel, kernel.attrs["global_symbol"], args, out)
