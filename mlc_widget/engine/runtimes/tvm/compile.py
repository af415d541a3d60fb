"""Turns a model's configuration into a program, and compiles it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax
from tvm.relax.frontend import nn

from mlc_widget.api.errors import UnsupportedModelError
from mlc_widget.engine.runtimes.tvm.architectures import Architecture
from mlc_widget.engine.runtimes.tvm.block_layers import BlockBuilder, bind_blocks, takes_int8
from mlc_widget.engine.runtimes.tvm.blocks import BlockMatrix
from mlc_widget.engine.runtimes.tvm.builder import Builder
from mlc_widget.engine.runtimes.tvm.cuda.target import CudaTarget
from mlc_widget.engine.runtimes.tvm.kernels.repack import make_repack
from mlc_widget.engine.runtimes.tvm.layers import CpuBuilder
from mlc_widget.engine.runtimes.tvm.layouts import (
    MAX_ROWS,
    MAX_ROWS_WITH_WARPGROUPS,
    PAGE,
    USUAL_ROWS,
    Layout,
    pad,
)
from mlc_widget.engine.runtimes.tvm.model_shape import ModelShape
from mlc_widget.engine.runtimes.tvm.quantization import GGML, Quantization
from mlc_widget.engine.runtimes.tvm.target import CpuTarget
from mlc_widget.engine.store.rope import half_width
from mlc_widget.engine.store.weight_source import WeightSource


@dataclass(frozen=True)
class Program:
    """A model as a graph, not yet compiled.

    Attributes:
        module: The `relax.frontend.nn` module.
        shape: The shape of the model, as the runtime needs it.
        target: The target for which to compile.
        parameters: The name and layout of each parameter, in the order in which the compiled
            function takes them.
        kv_dtype: The dtype of the pages of keys and values, float16 or float32.
    """

    module: Any
    shape: ModelShape
    target: CpuTarget | CudaTarget
    parameters: tuple[tuple[str, Layout], ...]
    kv_dtype: str = "float32"

    @property
    def decodes(self) -> bool:
        """Whether steps of one row are common, so that they get their own code."""
        return True

    @property
    def max_rows(self) -> int:
        """The largest number of rows, for which memory is planned."""
        return MAX_ROWS_WITH_WARPGROUPS if self._warpgroups else MAX_ROWS

    @property
    def usual_rows(self) -> int:
        """The largest number of rows, unless a user chooses another."""
        return self.max_rows if self._warpgroups else USUAL_ROWS

    @property
    def _warpgroups(self) -> bool:
        return isinstance(self.target, CudaTarget) and self.target.has_warpgroups

    def signature(self) -> dict[str, Any]:
        """The signature of ``forward``, the only function of the compiled model."""
        return forward_spec(self.shape, self.kv_dtype)

    @property
    def widest(self) -> int:
        """The number of features of the widest activation."""
        names = ("lm_head", "embed_tokens")
        inner = [p for name, p in self.parameters if not any(n in name for n in names)]
        return max(p.width for p in inner)


def make_program(
    architecture: Architecture,
    quantization: Quantization,
    target: CpuTarget | CudaTarget,
    kv_dtype: str = "float32",
    weights: WeightSource | None = None,
) -> Program:
    """Build the graph of a model.

    Args:
        architecture: The model's configuration.
        quantization: How its matrices are stored; `GGML` if each tensor has a type of its own.
        target: The target for which to compile.
        kv_dtype: The dtype of the KV cache.
        weights: Gives the type of each tensor, if `quantization` is `GGML`.
    """
    builder: Builder
    if quantization is GGML:
        return _block_program(architecture, target, kv_dtype, weights)
    if isinstance(target, CudaTarget):
        from mlc_widget.engine.runtimes.tvm.cuda.tensor_layers import builder_for

        builder = builder_for(quantization, kv_dtype, target)
    else:
        int8 = bool(target.isa.dot) and quantization.coded
        builder = CpuBuilder(quantization, target.isa, int8=int8, kv_dtype=kv_dtype)
    module = architecture.build(builder)
    parameters = tuple((name, p.attrs["layout"]) for name, p in module.state_dict().items())
    return Program(module, architecture.shape, target, parameters, kv_dtype)


def _block_program(
    architecture: Architecture,
    target: CpuTarget | CudaTarget,
    kv_dtype: str,
    weights: WeightSource | None,
) -> Program:
    """Build the graph of a model whose weights stay in their file's blocks."""
    if not isinstance(target, CpuTarget) or weights is None or weights.tensor_types() is None:
        raise UnsupportedModelError(
            "quantization is 'ggml', which is only for the weights of GGUF files on a CPU.",
            param="quantization",
        )
    builder = BlockBuilder(GGML, target.isa, kv_dtype=kv_dtype)
    module = architecture.build(builder)
    bind_blocks(module, weights.types_of)
    # 8-bit activations need codes; if a layer has float weights, all activations stay floats.
    builder.int8 = bool(target.isa.dot) and takes_int8(module)
    parameters = tuple((name, p.attrs["layout"]) for name, p in module.state_dict().items())
    return Program(module, architecture.shape, target, parameters, kv_dtype)


def forward_spec(shape: ModelShape, kv_dtype: str) -> dict[str, Any]:
    """The signature of ``forward``, the only function of a compiled model.

    It runs n ≤ `Program.max_rows` rows (tokens) of any sequences, where the rows of a sequence are
    adjacent and in order, and writes the logits of the rows ``logit_rows`` to ``logits``. The
    parameters follow as a tuple. ``k_pages`` and ``v_pages`` are changed in place.
    """
    half, heads, layers = half_width(shape.ropes), shape.kv_heads, shape.layers
    return {
        "ids": nn.spec.Tensor(["n"], "int32"),
        "position": nn.spec.Tensor(["n"], "int32"),
        "slot": nn.spec.Tensor(["n"], "int32"),
        "page_table": nn.spec.Tensor(["sequences", "max_pages"], "int32"),
        "tile": nn.spec.Tensor(["tiles", 3], "int32"),
        "logit_rows": nn.spec.Tensor(["m"], "int32"),
        "cos": nn.spec.Tensor(["positions", half], "float32"),
        "sin": nn.spec.Tensor(["positions", half], "float32"),
        "k_pages": nn.spec.Tensor(["pages", layers, heads, shape.head_dim, PAGE], kv_dtype),
        "v_pages": nn.spec.Tensor(["pages", layers, heads, PAGE, shape.head_dim], kv_dtype),
        "logits": nn.spec.Tensor(["m", pad(shape.vocab_size)], "float32"),
        "$": {"param_mode": "packed", "effect_mode": "none"},
    }


def trace(program: Program) -> Any:
    """Make the program's IRModule."""
    spec = nn.spec.ModuleSpec.from_raw({"forward": program.signature()}, program.module)
    module, _ = program.module.export_tvm(spec=spec)
    bounds = dict.fromkeys(("n", "m", "tiles"), program.max_rows)
    module["forward"] = module["forward"].with_attr("tir_var_upper_bound", bounds)
    if program.decodes and isinstance(program.target, CpuTarget):
        # The same kernels in the same order; with fixed shapes, a step of one row takes less time.
        ones = dict.fromkeys(("n", "m", "tiles", "sequences"), 1)
        one = module["forward"].bind_symbolic_vars(ones)
        module["forward_one"] = one.with_attr("global_symbol", "forward_one")
    for kernel in [*_loading_kernels(program), *_sampling_kernels(program)]:
        module[kernel.attrs["global_symbol"]] = kernel
    return module


def _loading_kernels(program: Program) -> list[Any]:
    """The kernels that write the program's parameters while it is loaded."""
    layouts = [layout for _, layout in program.parameters]
    kinds = {p.kind.name: p.kind for p in layouts if isinstance(p, BlockMatrix) and p.kind.coded}
    return [make_repack(kind) for kind in kinds.values()]


def _sampling_kernels(program: Program) -> list[Any]:
    """The kernels that choose tokens where the logits are."""
    if not (program.decodes and isinstance(program.target, CudaTarget)):
        return []
    from mlc_widget.engine.runtimes.tvm.cuda import change_logits, shortlist
    from mlc_widget.engine.runtimes.tvm.cuda.next_step import make_next_step

    width = pad(program.shape.vocab_size)
    makers = (
        shortlist.make_best_tokens,
        shortlist.make_draw_tokens,
        shortlist.make_choose_tokens,
        change_logits.make_change_logits,
        change_logits.make_forbid_tokens,
    )
    return [*(make(width) for make in makers), make_next_step()]


def compile_module(module: Any, target: CpuTarget | CudaTarget) -> Any:
    """Compile a traced program to a `relax.VMExecutable`.

    The kernels are scheduled by hand, so all that remains is to plan memory and lower calls.
    """
    return tvm.compile(module, target.tvm_target(), relax_pipeline=_pipeline())


def _pipeline() -> Any:
    t = relax.transform
    return tvm.transform.Sequential(
        [
            t.DeadCodeElimination(),
            t.ToNonDataflow(),
            t.RemovePurityChecking(),
            t.CallTIRRewrite(),
            t.StaticPlanBlockMemory(),
            t.LowerAllocTensor(),
            t.KillAfterLastUse(),
            t.LowerRuntimeBuiltin(),
            t.ComputePrimValue(),
            t.VMShapeLower(),
            t.AttachGlobalSymbol(),
        ]
    )
