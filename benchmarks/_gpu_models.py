"""Models with random weights on a GPU, whose code is compiled by several processes at once."""

from __future__ import annotations

import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlc_widget.engine.runtimes.tvm.options import TVMOptions

LLAMA_1B: dict[str, Any] = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 16,
    "head_dim": 64,
    "vocab_size": 128256,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "position_embedding_base": 500000,
}
LLAMA_8B: dict[str, Any] = {
    **LLAMA_1B,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "head_dim": 128,
    "tie_word_embeddings": False,
}
LLAMAS = {"1B": LLAMA_1B, "8B": LLAMA_8B}


@dataclass(frozen=True)
class Model:
    """A model's shape; its `config` is mlc-chat-config.json's `model_config`."""

    quantization: str
    config: dict[str, Any]
    model_type: str = "llama"


def compiled(model: Model) -> tuple[Any, Any, Any]:
    """The program of a model, its architecture, and its code, from the user's cache if there."""
    from mlc_widget.engine.runtimes.tvm.architectures import architecture_of
    from mlc_widget.engine.runtimes.tvm.compile import make_program
    from mlc_widget.engine.runtimes.tvm.compiled import code_key, executable_of
    from mlc_widget.engine.runtimes.tvm.cuda.compiler import install
    from mlc_widget.engine.runtimes.tvm.cuda.target import local_target
    from mlc_widget.engine.runtimes.tvm.progress import Progress
    from mlc_widget.engine.runtimes.tvm.quantization import quantization_of

    architecture = architecture_of(model.model_type, model.config)
    target = local_target()
    install(target.arch)
    weights = quantization_of(model.quantization)
    program = make_program(architecture, weights, target, "float16")
    code = executable_of(
        code_key(program, weights, architecture),
        lambda: program,
        TVMOptions(),
        Progress(lambda *_, **__: None, threading.Event()),
    )
    return program, architecture, code


def compile_all(models: list[Model]) -> None:
    """Have the code of all models in the user's cache."""
    from mlc_widget.engine.runtimes.tvm.cuda.target import prepare

    context = multiprocessing.get_context("spawn")
    processes = max(1, min(len(models), (os.cpu_count() or 2) // 2))
    with ProcessPoolExecutor(processes, context, initializer=prepare) as pool:
        list(pool.map(_compile, models))


def _compile(model: Model) -> None:
    compiled(model)


def random_weights(parameters: Any) -> list[Any]:
    """An array for each parameter: random codes and floats, and norms of 1."""
    rng = np.random.default_rng(0)
    normal = rng.standard_normal(1 << 22).astype(np.float32)
    words = rng.integers(0, 1 << 32, 1 << 22, dtype=np.uint32)
    arrays = []
    for name, layout in parameters:
        if layout.dtype == "uint32":
            arrays.append(np.resize(words, layout.shape))
        elif name.endswith("q_scale"):
            arrays.append(np.full(layout.shape, 0.005, layout.dtype))
        elif len(layout.shape) == 1:
            arrays.append(np.ones(layout.shape, layout.dtype))
        else:
            arrays.append(np.resize((0.02 * normal).astype(layout.dtype), layout.shape))
    return arrays


def random_model(model: Model, tokens: int) -> tuple[Any, int]:
    """An executor with random weights and room for so many tokens, and the weights' bytes."""
    from mlc_widget.engine.runtimes.tvm.cuda.executor import CudaExecutor
    from mlc_widget.engine.runtimes.tvm.cuda.tensor_layers import attention_part, attention_rows
    from mlc_widget.engine.runtimes.tvm.layouts import PAGE
    from mlc_widget.engine.runtimes.tvm.quantization import quantization_of

    program, architecture, code = compiled(model)
    weights, target = quantization_of(model.quantization), program.target
    arrays = random_weights(program.parameters)
    nbytes = sum(a.nbytes for a in arrays)
    executor = CudaExecutor(
        code, architecture.shape, arrays, page_size=PAGE, pages=-(-tokens // PAGE),
        context=tokens, vocab=architecture.shape.vocab_size,
        max_rows=program.max_rows, usual_rows=program.usual_rows,
        attention_rows=attention_rows(weights, "float16", target, architecture.shape),
        attention_part=attention_part(weights, "float16", target, architecture.shape),
        kv_dtype="float16",
    )  # fmt: skip
    executor.prepare()
    return executor, nbytes
