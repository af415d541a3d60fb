"""From a model folder to a running `Embedder`. Runs on a thread of its own, as `loading` does."""

from __future__ import annotations

import dataclasses
from typing import Any

from mlc_widget.api.errors import UnsupportedModelError
from mlc_widget.engine.runtimes.base import ModelSource
from mlc_widget.engine.runtimes.tvm import loading, machine
from mlc_widget.engine.runtimes.tvm.architectures import architecture_of
from mlc_widget.engine.runtimes.tvm.compiled import code_key, executable_of
from mlc_widget.engine.runtimes.tvm.drawing import model_config
from mlc_widget.engine.runtimes.tvm.embedder import (
    DecoderTexts,
    Embedder,
    EmbeddingSettings,
    EncoderTexts,
    TextModel,
)
from mlc_widget.engine.runtimes.tvm.executor import Executor, kv_bytes_per_page
from mlc_widget.engine.runtimes.tvm.fields import Fields
from mlc_widget.engine.runtimes.tvm.layouts import PAGE
from mlc_widget.engine.runtimes.tvm.memory import require
from mlc_widget.engine.runtimes.tvm.numerics import numerics_of
from mlc_widget.engine.runtimes.tvm.options import TVMOptions
from mlc_widget.engine.runtimes.tvm.quantization import quantization_of
from mlc_widget.engine.runtimes.tvm.threads import default_threads
from mlc_widget.engine.runtimes.tvm.weights import check_weights, load_weights, weight_bytes
from mlc_widget.engine.store.tensor_cache import TensorCache

ENCODERS = ("bert",)
MAX_TEXTS = 64


def is_embedding_model(config: Any) -> bool:
    """Whether a model is for embeddings, by mlc-chat-config.json."""
    return config.get("model_task") == "embedding" or config.get("model_type") in ENCODERS


def load(source: ModelSource, options: TVMOptions, progress: loading.Progress) -> Embedder:
    """Load an embedding model and start its thread.

    Vectors are compared with those of other programs, so the model is computed faithfully unless
    its configuration says otherwise.

    Raises:
        MLCEngineError: As `ModelRuntime.load`.
        Cancelled: The load was cancelled.
    """
    if options.device == "cuda":
        raise UnsupportedModelError(
            "device is 'cuda'; embedding models run on the CPU alone. Choose 'cpu' or 'auto'.",
            param="device",
        )
    if options.device not in ("cpu", "auto"):
        raise UnsupportedModelError(
            f"device is {options.device!r}: the tvm runtime embeds on the CPU. Set it to cpu.",
            param="device",
        )
    config = Fields(source.config, "")
    encoder = config.get("model_type") in ENCODERS
    settings = EmbeddingSettings.read(config, encoder=encoder)
    quantization = quantization_of(config.get("quantization"))
    numerics = numerics_of({"numerics": "faithful", **source.config}, options.kv_cache_dtype)
    weights = TensorCache.from_folder(source.path)
    progress("resolve", 1.0, "Starting TVM")
    machine.start()
    from mlc_widget.engine.runtimes.tvm.compile import make_program
    from mlc_widget.engine.runtimes.tvm.encoder import EncoderExecutor, EncoderProgram, batch_rows
    from mlc_widget.engine.runtimes.tvm.target import host_target

    architecture: Any = architecture_of(config.get("model_type"), model_config(source))
    vocab = architecture.shape.vocab_size
    if not encoder:
        architecture = _hidden_states(architecture)
    shape = architecture.shape
    target = host_target(options.cpu)
    target = dataclasses.replace(target, isa=numerics.isa(target.isa))
    program = make_program(architecture, quantization, target, numerics.kv_dtype)
    if encoder:
        fields = {f.name: getattr(program, f.name) for f in dataclasses.fields(program)}
        program = EncoderProgram(**fields, rows=batch_rows(architecture))
    check_weights(program.parameters, weights)
    context, pages = _sizes(source, options, architecture, program.max_rows, encoder=encoder)
    require(
        weight_bytes(program.parameters),
        pages * kv_bytes_per_page(shape, PAGE, numerics.kv_dtype),
        4 * 4 * program.max_rows * program.widest,
    )
    if options.verify:
        weights.verify(progress.bytes("verify", "Verifying weights"))
    key = code_key(program, quantization, architecture)
    executable = executable_of(key, lambda: program, options, progress)
    arrays = load_weights(program.parameters, weights, progress.bytes("load", "Loading weights"))
    threads = options.threads or default_threads(loading.count(program.parameters, quantization))
    model: TextModel
    if encoder:
        runner = EncoderExecutor(executable, architecture, arrays, numerics.kv_dtype)
        model = EncoderTexts(runner, MAX_TEXTS)
    else:
        executor = Executor(
            executable,
            shape,
            arrays,
            page_size=PAGE,
            pages=pages,
            context=context,
            vocab=shape.vocab_size,
            max_rows=program.max_rows,
            attention_rows=target.isa.attention_rows(shape.query_heads // shape.kv_heads),
            threads=threads,
            kv_dtype=numerics.kv_dtype,
        )
        model = DecoderTexts(executor, MAX_TEXTS)
    known = min(vocab, config.positive_int("active_vocab_size", vocab))
    embedder = Embedder(model, settings, vocab_size=known, context_window=context)
    progress("warm up", 0.0, "Warming up")
    embedder.ended = loading.start(embedder, embedder, threads)
    try:
        progress("warm up", 1.0, "Ready")
    except loading.Cancelled:
        embedder.stop()
        raise
    return embedder


def _hidden_states(architecture: Any) -> Any:
    """A decoder without its output layer."""
    from mlc_widget.engine.runtimes.tvm.architectures.hidden_states import HiddenStates
    from mlc_widget.engine.runtimes.tvm.architectures.llama import LlamaConfig

    if not isinstance(architecture, LlamaConfig):
        raise UnsupportedModelError(
            "The tvm runtime has no embeddings from models of this type.", param="model_type"
        )
    return HiddenStates(architecture)


def _sizes(
    source: ModelSource, options: TVMOptions, architecture: Any, rows: int, *, encoder: bool
) -> tuple[int, int]:
    """The longest text, and the pages for it or for a batch of short ones."""
    batch = rows // PAGE + MAX_TEXTS
    if encoder:
        return int(architecture.context_window_size), batch
    window, _ = loading.sizes(source, options)
    return window, max(batch, -(-window // PAGE))
