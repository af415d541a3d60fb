"""The layers that no architecture has yet, and what builders refuse when a layer is made."""

from __future__ import annotations

import dataclasses
import inspect
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tvm
from tvm.relax.frontend import nn
from tvm.script.parser.core import doc, evaluator
from tvm.script.parser.core.parser import ScriptMacro
from tvm.tirx.script.parser import entry

from mlc_widget.api.errors import UnsupportedModelError
from mlc_widget.engine.runtimes.tvm.builder import AttentionSpec, Builder
from mlc_widget.engine.runtimes.tvm.compile import compile_module
from mlc_widget.engine.runtimes.tvm.cuda.layers import CudaBuilder
from mlc_widget.engine.runtimes.tvm.cuda.tensor_layers import TensorBuilder, TensorLinear
from mlc_widget.engine.runtimes.tvm.kernels.norm import make_rms_norm
from mlc_widget.engine.runtimes.tvm.layers import CpuBuilder
from mlc_widget.engine.runtimes.tvm.quantization import quantization_of
from mlc_widget.engine.runtimes.tvm.target import host_target

Q4 = quantization_of("q4f16_1")
PLAIN = AttentionSpec(4, 2, 16)


def builders() -> list[Builder]:
    isa = host_target().isa
    return [
        CpuBuilder(Q4, isa),
        CpuBuilder(Q4, isa, int8=True),
        CudaBuilder(Q4),
        TensorBuilder(Q4),
    ]


def test_every_device_has_all_that_architectures_use():
    for cls in (CpuBuilder, CudaBuilder, TensorBuilder):
        assert not inspect.isabstract(cls)
        assert issubclass(cls, Builder)


@pytest.mark.parametrize(
    "change",
    [
        {"scale": 0.1},
        {"rotary": None},
        {"rotary": 1, "tables": 2},
        {"tables": 2},
        {"rotary_dims": 16, "head_dim": 32},
        {"rotary_dims": 20, "head_dim": 80},
        {"soft_cap": 50.0},
        {"head_dim": 256},
    ],
)
def test_every_device_has_the_attention_of_every_family(change):
    for build in builders():
        spec = dataclasses.replace(PLAIN, **change)
        assert build.attention(spec, 0).spec == spec


@pytest.mark.parametrize(
    ("change", "says", "on"),
    [
        ({"sinks": True}, "sinks", Builder),
        ({"rotary_dims": 9, "head_dim": 32}, "9 rotated dimensions", CpuBuilder),
        ({"head_dim": 272}, "heads of 272 dimensions", CudaBuilder),
    ],
)
def test_attention_without_a_kernel_is_refused_when_it_is_made(change, says, on):
    for build in builders():
        spec = dataclasses.replace(PLAIN, **change)
        if not isinstance(build, on):
            build.attention(spec, 0)
            continue
        with pytest.raises(UnsupportedModelError, match=says):
            build.attention(spec, 0)


def test_a_layer_has_its_own_window():
    for build in builders():
        for window in (None, 4, 9):
            spec = dataclasses.replace(PLAIN, window=window, scale=16**-0.5)
            assert build.attention(spec, 1).spec.window == window


def test_a_linear_layer_of_two_outputs_is_no_gate():
    for build in builders():
        layer = build.linear(64, 96, 96)
        assert layer.n == 192
        assert not getattr(layer, "gated", False)
        assert type(layer) is type(build.linear(64, 96))
    assert type(TensorBuilder(Q4).linear(64, 96, 96)) is TensorLinear


def test_a_layer_norm_of_a_sum_is_refused_on_a_gpu():
    x = nn.Tensor.placeholder((1, 64), "float32")
    for build in (CudaBuilder(Q4), TensorBuilder(Q4)):
        with pytest.raises(UnsupportedModelError, match="LayerNorm of a sum"):
            build.layer_norm(64, 1e-5)(x, x, x)


def test_embeddings_of_a_model_with_layer_norm_are_refused():
    build, x = CpuBuilder(Q4, host_target().isa), nn.Tensor.placeholder((1, 64), "float32")
    with pytest.raises(UnsupportedModelError, match="LayerNorm before embeddings"):
        build.norm_into(build.layer_norm(64, 1e-5), x, x, x)


@pytest.mark.parametrize("features", [64, 40])
def test_a_norm_after_a_block(features):
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = CpuBuilder(Q4, host_target().isa).output_norm(features, 1e-5)

        def forward(self, x: Any, residual: Any) -> Any:
            return self.norm(x, residual)

    padded = -(-features // 32) * 32
    spec = {
        "forward": {
            "x": nn.spec.Tensor(["n", padded], "float32"),
            "residual": nn.spec.Tensor(["n", padded], "float32"),
            "$": {"param_mode": "plain", "effect_mode": "none"},
        }
    }
    module, _ = Block().export_tvm(spec=spec)
    machine = tvm.relax.VirtualMachine(compile_module(module, host_target()), tvm.cpu())
    x, residual = np.zeros((2, 5, padded), np.float32)
    weight = np.zeros(padded, np.float32)
    random = np.random.default_rng(0)
    for array in (x, residual):
        array[:, :features] = random.normal(size=(5, features))
    weight[:features] = random.normal(size=features)
    made = machine["forward"](*map(tvm.runtime.tensor, (x, residual, weight))).numpy()
    mean = (x[:, :features].astype(np.float64) ** 2).mean(axis=1, keepdims=True)
    assert np.allclose(made, residual + x / np.sqrt(mean + 1e-5) * weight, atol=1e-5)
    assert not made[:, features:].any()


def test_kernels_are_parsed_without_reading_the_source_of_all_callers(monkeypatch):
    CpuBuilder(Q4, host_target().isa)
    frames, theirs = inspect.stack(), entry.inspect.stack()
    assert [f.frame for f in theirs] == [f.frame for f in frames]
    assert [f.function for f in theirs] == [f.function for f in frames]
    assert [f.code_context for f in theirs[1:3]] == [f.code_context for f in frames[1:3]]
    assert all(f.code_context is None for f in theirs[3:])
    monkeypatch.setattr(inspect, "getouterframes", lambda *_: pytest.fail("it reads them"))
    assert make_rms_norm(64, 1e-5, host_target().isa, rows=False)


def test_macros_find_the_nearest_parser_without_reading_source_files(monkeypatch):
    CpuBuilder(Q4, host_target().isa)
    monkeypatch.setattr(inspect, "getouterframes", lambda *_: pytest.fail("it reads them"))
    name = ScriptMacro.parser_object_name

    def find(*_: object) -> Any:
        return ScriptMacro._find_parser_def(None)

    assert eval("find()", {name: "a parser", "find": find}) == "a parser"
    nested = partial(eval, "find()", {name: "the inner one", "find": find})
    assert eval("nested()", {name: "the outer one", "nested": nested}) == "the inner one"
    with pytest.raises(RuntimeError, match=name):
        find()


VALUES = {"a": 3, "b": [4, 5], "c": SimpleNamespace(d=6)}


@pytest.mark.parametrize(
    "text",
    ["a", "7", "'a'", "None", "len", "c.d", "b[1]", "b[a - 3]", "max(a, 2)", "c.d + a", "len(b)"],
)
def test_operands_have_the_values_that_python_gives_them(text):
    CpuBuilder(Q4, host_target().isa)
    node = doc.parse(text, mode="eval").body
    assert evaluator._eval_expr(node, dict(VALUES)) == eval(text, dict(VALUES))


@pytest.mark.parametrize(
    ("text", "error"), [("e", NameError), ("c.e", AttributeError), ("e.d", NameError)]
)
def test_operands_that_are_not_there_are_errors(text, error):
    CpuBuilder(Q4, host_target().isa)
    with pytest.raises(error):
        evaluator._eval_expr(doc.parse(text, mode="eval").body, dict(VALUES))


def test_a_macro_s_source_is_parsed_once(monkeypatch):
    make = partial(make_rms_norm, 96, 1e-5, host_target().isa, rows=False)
    CpuBuilder(Q4, host_target().isa)
    first = make()
    monkeypatch.setattr(doc, "parse", lambda *_, **__: pytest.fail("it parses it again"))
    tvm.ir.assert_structural_equal(make(), first)
