# mypy: disable-error-code="misc"
"""Layers whose weights stay in the blocks of a GGUF file, where each tensor has its own type.

`BlockBuilder` makes them for a CPU. A linear layer of an architecture may be several tensors in the
file (queries, keys and values; the two halves of a gated layer). Each is a part with its own
kernel, which writes its columns of the result. The types of the parts are set after the model has
been built, when its layers have names (`bind_blocks`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import Tensor, op

from mlc_widget.api.errors import ModelFormatError
from mlc_widget.engine.runtimes.tvm.blocks import FORMATS, BlockMatrix
from mlc_widget.engine.runtimes.tvm.builder import Activation, parameter
from mlc_widget.engine.runtimes.tvm.kernels import (
    embedding_blocks,
    matmul_blocks,
    matmul_blocks_int8,
    quantize,
)
from mlc_widget.engine.runtimes.tvm.kernels.isa import Isa, pad
from mlc_widget.engine.runtimes.tvm.layers import CpuBuilder, Quantized, int64
from mlc_widget.engine.runtimes.tvm.layouts import BLOCK, Vector
from mlc_widget.engine.runtimes.tvm.quantization import Quantization


@dataclass(frozen=True, slots=True)
class BlockPart:
    """One tensor of a linear layer.

    Attributes:
        kind: ggml's name of its type.
        rows: The number of its outputs.
    """

    kind: str
    rows: int


class BlockBuilder(CpuBuilder):
    """Makes layers with weights in blocks for a CPU; other layers are `CpuBuilder`'s."""

    def __init__(
        self, quantization: Quantization, isa: Isa, *, int8: bool = False, kv_dtype: str = "float32"
    ) -> None:
        super().__init__(quantization, isa, int8=int8, kv_dtype=kv_dtype)
        self.int8_order = 4  # all kernels for blocks take that order

    def linear(self, inputs: int, *outputs: int, bias: bool = False) -> Any:
        """A `BlockLinear`."""
        return BlockLinear(self, inputs, *outputs, bias=bias)

    def gated_linear(self, inputs: int, features: int, activation: Activation) -> Any:
        """A `BlockGatedLinear`."""
        return BlockGatedLinear(self, inputs, features, activation)

    def embedding(self, vocab_size: int, hidden_size: int) -> Any:
        """A `BlockEmbedding`."""
        return BlockEmbedding(self, vocab_size, hidden_size)


class BlockLinear(nn.Module):
    """y = x · Wᵀ (+ bias) (+ residual), where W is the concatenation of the parts' rows."""

    def __init__(self, build: CpuBuilder, inputs: int, *outputs: int, bias: bool = False) -> None:
        super().__init__()
        self.build, self.inputs, self.outputs = build, inputs, outputs
        self.k, self.n = pad(inputs), sum(map(pad, outputs))
        self.bias = parameter(Vector(*outputs)) if bias else None
        self.parts: list[tuple[str, int]] = []  # name, first column
        self.kinds: list[str] = []

    def bind(self, parts: Sequence[BlockPart]) -> None:
        """Set the tensors of which the layer consists."""
        ends = _columns(self.outputs, [part.rows for part in parts])
        for i, (part, (first, end)) in enumerate(zip(parts, ends, strict=True)):
            name = f"part{i}"
            layout = BlockMatrix(part.kind, self.inputs, part.rows, end - first, self.n)
            setattr(self, name, parameter(layout))
            self.parts.append((name, first))
            self.kinds.append(part.kind)

    def forward(
        self, x: Tensor | Quantized, residual: Tensor | None = None, out: Tensor | None = None
    ) -> Tensor:
        """(M, pad(inputs)) → (M, sum of the padded outputs), into `out` if it is given."""
        build = self.build
        if build.int8 and isinstance(x, Tensor):
            to_int8 = build.kernel(quantize.make_quantize, self.k, build.isa, bits=build.int8_order)
            x = build.quantized(to_int8, [x], x.shape[0], self.k)
        rows = x.q if isinstance(x, Quantized) else x
        make = (
            matmul_blocks_int8.make_matmul_blocks_int8
            if isinstance(x, Quantized)
            else matmul_blocks.make_matmul_blocks
        )
        bias = rows if self.bias is None else self.bias
        addend = rows if residual is None else residual
        made = Tensor.placeholder((rows.shape[0], self.n), "float32")
        for name, first in self.parts:
            weights = getattr(self, name)
            kernel = build.kernel(
                make,
                self.k,
                FORMATS[weights.attrs["layout"].kind.name],
                build.isa,
                residual=residual is not None,
                bias=self.bias is not None,
            )
            args = [rows, weights, bias, addend, int64(first)]
            called = kernel.attrs["global_symbol"]
            if out is None:
                out = op.tensor_ir_op(kernel, called, args, made)
            else:
                out = op.tensor_ir_inplace_op(kernel, called, [*args, out], [len(args)], made)
        assert out is not None
        return out


class BlockGatedLinear(BlockLinear):
    """activation(gate) · up, as input for linear layers. The outputs are gate, then up."""

    def __init__(
        self, build: CpuBuilder, inputs: int, features: int, activation: Activation
    ) -> None:
        super().__init__(build, inputs, features, features)
        self.activation = activation

    def forward(self, x: Tensor | Quantized) -> Tensor | Quantized:  # type: ignore[override]
        """(M, pad(inputs)) → (M, pad(features))."""
        return self.build.gate(super().forward(x), self.activation)


class BlockEmbedding(BlockLinear):
    """A vocabulary's embedding and the output layer that is tied to it."""

    def __init__(self, build: CpuBuilder, vocab_size: int, hidden_size: int) -> None:
        super().__init__(build, hidden_size, vocab_size)

    def embed(self, ids: Tensor) -> Tensor:
        """(n,) int32 → (n, pad(hidden))."""
        weights = self.part0
        kind = FORMATS[weights.attrs["layout"].kind.name]
        kernel = self.build.kernel(
            embedding_blocks.make_embedding_blocks, self.k, kind, self.build.isa
        )
        out = Tensor.placeholder((ids.shape[0], self.k), "float32")
        return op.tensor_ir_op(kernel, kernel.attrs["global_symbol"], [ids, weights], out)


def _columns(outputs: Sequence[int], rows: Sequence[int]) -> list[tuple[int, int]]:
    """The first column of each part and the one after its last, with the layer's padding."""
    found: list[tuple[int, int]] = []
    left = list(rows)
    at = 0
    for width in outputs:
        end, start = at + pad(width), at
        while at - start < width:
            if not left:
                raise ValueError(
                    f"parts of {list(rows)} rows do not make up a layer of {list(outputs)}"
                )
            count = left.pop(0)
            last = at - start + count >= width
            if at - start + count > width or (not last and count % BLOCK):
                raise ValueError(f"parts of {list(rows)} rows do not make up {list(outputs)}")
            found.append((at, end if last else at + count))
            at += count
        at = end
    if left:
        raise ValueError(f"parts of {list(rows)} rows do not make up {list(outputs)}")
    return found


def bind_blocks(module: Any, types_of: Callable[[str], Sequence[tuple[str, int]]]) -> None:
    """Set the tensors of each linear layer of a model.

    Args:
        module: The model.
        types_of: Returns the type and rows of each tensor of a layer, given its name, such as
            ``model.layers.0.mlp.down_proj``.

    Raises:
        ModelFormatError: They have other sizes than the layer.
    """
    for name, layer in _block_layers(module, ""):
        try:
            layer.bind([BlockPart(kind, rows) for kind, rows in types_of(name)])
        except ValueError as error:
            raise ModelFormatError(
                f"{name}: {error}: the file's metadata and its tensors belong to different models.",
                param="model_id",
            ) from None


def takes_int8(module: Any) -> bool:
    """Whether all weights that are multiplied with activations are codes.

    An embedding that only gathers rows may have any type.
    """
    layers = dict(_block_layers(module, ""))
    tied = not any(name.endswith("lm_head") for name in layers)
    return all(
        FORMATS[kind].coded
        for name, layer in layers.items()
        if not isinstance(layer, BlockEmbedding) or (tied and name.endswith("embed_tokens"))
        for kind in layer.kinds
    )


def _block_layers(module: Any, name: str) -> Iterator[tuple[str, BlockLinear]]:
    if isinstance(module, BlockLinear):
        yield name, module
    children = (
        enumerate(module.modules) if isinstance(module, nn.ModuleList) else vars(module).items()
    )
    for key, child in children:
        if isinstance(child, nn.Module):
            yield from _block_layers(child, f"{name}.{key}" if name else str(key))
