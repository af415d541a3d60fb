# mypy: disable-error-code="misc"
"""The layers that architectures are made of, as `relax.frontend.nn` modules on our kernels.

Activations are (rows, features) float32 with features padded to a multiple of 32. Parameters carry
MLC's names; each knows as a `Layout` how MLC's tensor of that name becomes the kernel's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import Tensor, op

from mlc_widget.engine.runtimes.tvm.kernels import (
    activation,
    attention,
    embedding,
    matmul,
    matmul_int8,
    norm,
    quantize,
    rope,
)
from mlc_widget.engine.runtimes.tvm.kernels.isa import Isa, pad
from mlc_widget.engine.runtimes.tvm.layouts import Codes, FloatBlocks, Layout, Scales, Vector
from mlc_widget.engine.runtimes.tvm.model_shape import ModelShape
from mlc_widget.engine.runtimes.tvm.quantization import Quantization


def _parameter(layout: Layout) -> Any:
    parameter = nn.Parameter(layout.shape, layout.dtype)
    parameter.attrs["layout"] = layout
    return parameter


@dataclass(frozen=True, slots=True)
class Quantized:
    """Rows of 8-bit activations, (M, `quantized_words(K)`) int32 as `kernels.quantize` has them."""

    q: Tensor


class Builder:
    """Makes the layers and operations of one model for a CPU.

    Architectures know these methods alone; another device has another class with the same.
    """

    def __init__(
        self,
        quantization: Quantization,
        isa: Isa,
        *,
        int8: bool = False,
        kv_dtype: str = "float32",
    ) -> None:
        self.quantization = quantization
        self.isa = isa
        self.int8 = int8
        self.kv_dtype = kv_dtype
        self._kernels: dict[tuple[Any, ...], Any] = {}

    def kernel(self, make: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The PrimFunc ``make(*args, **kwargs)``, from the first time on."""
        key = (make, args, tuple(kwargs.items()))
        if key not in self._kernels:
            self._kernels[key] = make(*args, **kwargs)
        return self._kernels[key]

    def quantized(self, kernel: Any, args: list[Tensor], rows: Any, features: int) -> Quantized:
        """Call a kernel that makes 8-bit activations."""
        out = Tensor.placeholder((rows, quantize.quantized_words(features)), "int32")
        return Quantized(op.tensor_ir_op(kernel, kernel.attrs["global_symbol"], args, out))

    def linear(self, inputs: int, *outputs: int, bias: bool = False) -> Any:
        """A `Linear`."""
        return Linear(self, inputs, *outputs, bias=bias)

    def embedding(self, vocab_size: int, hidden_size: int) -> Any:
        """An `Embedding`."""
        return Embedding(self, vocab_size, hidden_size)

    def rms_norm(self, features: int, eps: float) -> Any:
        """An `RMSNorm`."""
        return RMSNorm(self, features, eps)

    def head_norm(self, head_dim: int, eps: float) -> Any:
        """An `RMSNorm` whose weight `norm_heads` takes."""
        return RMSNorm(self, head_dim, eps)

    def silu_mul(self, x: Tensor) -> Tensor | Quantized:
        """(M, 2 I) → (M, I): SiLU of the first half times the second."""
        return silu_mul(self, x)

    def norm_heads(self, qkv: Tensor, q_norm: Any, k_norm: Any, shape: ModelShape) -> Tensor:
        """RMSNorm of each head of queries and of keys in `qkv`, which is changed in place."""
        heads = (shape.query_heads, shape.kv_heads, shape.head_dim)
        kernel = self.kernel(norm.make_head_norm, *heads, q_norm.eps, self.isa)
        args = [qkv, q_norm.weight, k_norm.weight]
        made = Tensor.placeholder(qkv.shape, "float32")
        return op.tensor_ir_inplace_op(kernel, kernel.attrs["global_symbol"], args, [0], made)

    def attention(self, qkv: Tensor, rows: Rows, layer: int, shape: ModelShape) -> Tensor:
        """Rotate, append to the pages, attend; see `paged_attention`."""
        heads = (shape.query_heads, shape.kv_heads, shape.head_dim)
        return paged_attention(self, qkv, rows, layer, heads, shape.sliding_window or None)


class Linear(nn.Module):
    """y = x · Wᵀ (+ bias) (+ residual).

    `outputs` lists the parts of W's rows that are padded one by one.
    """

    def __init__(
        self,
        build: Builder,
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
            self.q_weight = _parameter(Codes(inputs, outputs, q.bits, transposed=transposed))
            self.q_scale = _parameter(Scales(inputs, outputs, q.dtype, transposed=transposed))
        else:
            self.weight = _parameter(FloatBlocks(inputs, outputs, q.dtype))
        self.bias = _parameter(Vector(*outputs)) if bias else None

    def weights(self) -> tuple[Any, Any]:
        """Weights and scales as the kernels take them."""
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
        """The kernel, what it reads, and the number of rows."""
        q, build = self.quantization, self.build
        added = {"residual": residual is not None, "bias": self.bias is not None}
        if build.int8:
            if isinstance(x, Tensor):
                to_int8 = build.kernel(quantize.make_quantize, self.k, build.isa)
                x = build.quantized(to_int8, [x], x.shape[0], self.k)
            kernel = build.kernel(
                matmul_int8.make_matmul_int8, self.k, self.n, q.dtype, build.isa, **added
            )
            # The kernel does not look at q in the place of what there is not.
            bias = x.q if self.bias is None else self.bias
            addend = x.q if residual is None else residual
            return kernel, [x.q, *self.weights(), bias, addend], x.q.shape[0]
        assert isinstance(x, Tensor)
        args = [x, *self.weights(), *(t for t in (self.bias, residual) if t is not None)]
        if q.coded:
            kernel = build.kernel(
                matmul.make_matmul_codes, self.k, self.n, q.bits, q.dtype, build.isa, **added
            )
        else:
            kernel = build.kernel(
                matmul.make_matmul_floats, self.k, self.n, q.dtype, build.isa, **added
            )
        return kernel, args, x.shape[0]


class Embedding(Linear):
    """A vocabulary's embedding, and the output layer that is tied to it."""

    def __init__(self, build: Builder, vocab_size: int, hidden_size: int) -> None:
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
    """RMSNorm of all rows, or of some."""

    def __init__(self, build: Builder, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.build, self.hidden_size, self.eps = build, hidden_size, eps
        self.weight = _parameter(Vector(hidden_size))

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Tensor | Quantized:
        """(n, pad(hidden)) → the same, or (m, pad(hidden)) for (m,) int32 `rows`.

        What comes is for linear layers alone: 8-bit where they take that.
        """
        build, hidden = self.build, pad(self.hidden_size)
        make = quantize.make_rms_norm_quantize if build.int8 else norm.make_rms_norm
        kernel = build.kernel(make, self.hidden_size, self.eps, build.isa, rows=rows is not None)
        args = [x, *([] if rows is None else [rows]), self.weight]
        count = (x if rows is None else rows).shape[0]
        if build.int8:
            return build.quantized(kernel, args, count, hidden)
        out = Tensor.placeholder((count, hidden), "float32")
        return op.tensor_ir_op(kernel, kernel.attrs["global_symbol"], args, out)


def silu_mul(build: Builder, x: Tensor) -> Tensor | Quantized:
    """(M, 2 I) → (M, I): SiLU of the first half times the second, for linear layers as RMSNorm."""
    features = int(x.shape[1]) // 2
    if build.int8:
        kernel = build.kernel(quantize.make_silu_mul_quantize, features, build.isa)
        return build.quantized(kernel, [x], x.shape[0], features)
    kernel = build.kernel(activation.make_silu_mul, features, build.isa)
    out = Tensor.placeholder((x.shape[0], features), "float32")
    return op.tensor_ir_op(kernel, kernel.attrs["global_symbol"], [x], out)


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


def paged_attention(
    build: Builder,
    qkv: Tensor,
    rows: Rows,
    layer: int,
    heads: tuple[int, int, int],
    window: int | None = None,
) -> Tensor:
    """Rotate, append to the pages, attend.

    Args:
        build: Where kernels come from.
        qkv: (n, pad((HQ + 2 HKV) D)), queries before keys before values.
        rows: The step's rows and pages.
        layer: Which layer's pages.
        heads: (HQ, HKV, D).
        window: Keys that a row sees at most, its own among them; None for all before it.

    Returns:
        (n, pad(HQ D)).
    """
    hq, _, d = heads
    n = qkv.shape[0]
    append = build.kernel(rope.make_rope_append, *heads, build.isa, build.kv_dtype)
    q, rows.k_pages, rows.v_pages = op.tensor_ir_inplace_op(
        append,
        append.attrs["global_symbol"],
        [
            qkv, rows.cos, rows.sin, rows.position, rows.slot, rows.k_pages, rows.v_pages,
            _int64(layer),
        ],
        inplace_indices=[-1, 5, 6],
        out=[
            Tensor.placeholder((n, hq * d), "float32"),
            Tensor.placeholder(rows.k_pages.shape, build.kv_dtype),
            Tensor.placeholder(rows.v_pages.shape, build.kv_dtype),
        ],
    )  # fmt: skip
    attend = build.kernel(attention.make_attention, *heads, build.isa, build.kv_dtype, window)
    return op.tensor_ir_op(
        attend,
        attend.attrs["global_symbol"],
        [q, rows.k_pages, rows.v_pages, rows.position, rows.page_table, rows.tile, _int64(layer)],
        Tensor.placeholder((n, pad(hq * d)), "float32"),
    )


def _int64(value: int) -> Any:
    from tvm import tirx

    return tirx.IntImm("int64", value)
