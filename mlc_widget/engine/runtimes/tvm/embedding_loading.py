"""Loads a model as a running `Embedder`; like `loading`, on a thread of its own."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import TYPE_CHECKING, Any

from mlc_widget.api.errors import UnsupportedModelError
from mlc_widget.engine.runtimes.base import ModelSource
from mlc_widget.engine.runtimes.tvm import machine
from mlc_widget.engine.runtimes.tvm.architectures import Architecture
from mlc_widget.engine.runtimes.tvm.compiled import executable_of
from mlc_widget.engine.runtimes.tvm.computing import run_on_compute_thread
from mlc_widget.engine.runtimes.tvm.embedder import (
    DecoderTexts,
    Embedder,
    EmbeddingSettings,
    EncoderTexts,
    TextModel,
)
from mlc_widget.engine.runtimes.tvm.encoder_executor import MAX_TEXTS, EncoderExecutor
from mlc_widget.engine.runtimes.tvm.executor import Executor, kv_bytes_per_page
from mlc_widget.engine.runtimes.tvm.layouts import PAGE
from mlc_widget.engine.runtimes.tvm.memory import MemoryNeeds, usage
from mlc_widget.engine.runtimes.tvm.numerics import numerics_of
from mlc_widget.engine.runtimes.tvm.options import TVMOptions
from mlc_widget.engine.runtimes.tvm.packed import load_packed
from mlc_widget.engine.runtimes.tvm.planning import ModelPlanner, model_config
from mlc_widget.engine.runtimes.tvm.progress import Cancelled, Progress
from mlc_widget.engine.runtimes.tvm.quantization import quantization_of
from mlc_widget.engine.runtimes.tvm.sizing import sizes, weight_count
from mlc_widget.engine.runtimes.tvm.threads import default_threads
from mlc_widget.engine.runtimes.tvm.weights import (
    check_layers,
    check_weights,
    weight_bytes,
)
from mlc_widget.engine.store.families import with_our_names
from mlc_widget.engine.store.fields import Fields

if TYPE_CHECKING:
    from mlc_widget.engine.runtimes.tvm.compile import Program

ENCODERS = ("bert",)


def is_embedding_model(config: Any) -> bool:
    """Whether mlc-chat-config.json says that a model is for embeddings."""
    return config.get("model_task") == "embedding" or config.get("model_type") in ENCODERS


def load(source: ModelSource, options: TVMOptions, progress: Progress) -> Embedder:
    """Load an embedding model and start its thread.

    The default numerics are faithful, as vectors are compared with those of other programs.

    Raises:
        MLCEngineError: As `ModelRuntime.load`.
        Cancelled: The load was cancelled.
    """
    if options.device not in ("cpu", "auto"):
        raise UnsupportedModelError(
            f"device is {options.device!r}; embedding models run only on the CPU. Choose 'cpu' or "
            "'auto'.",
            param="device",
        )
    source = dataclasses.replace(source, config={"numerics": "faithful", **source.config})
    config = Fields(source.config, "")
    encoder = config.get("model_type") in ENCODERS
    settings = EmbeddingSettings.read(config, encoder=encoder)
    quantization = quantization_of(config.get("quantization"))
    numerics = numerics_of(source.config, options.kv_cache_dtype)
    weights = source.open_weights()
    if weights.tensor_types() is None:
        weights = with_our_names(
            weights, config.get("model_type"), transposed=quantization.transposed
        )
    progress("resolve", 1.0, "Starting TVM")
    machine.start()
    planner = (_EncoderPlanner if encoder else _DecoderPlanner)(
        source, options, "cpu", None, weights
    )
    check_layers(source.config.get("model_config"), weights)
    plan = planner.plan()
    shape = plan.shape
    check_weights(plan.parameters, weights)
    context, pages = _sizes(source, options, plan.max_rows, encoder=encoder)
    needs = MemoryNeeds(
        weight_bytes(plan.parameters),
        pages * kv_bytes_per_page(shape, PAGE, numerics.kv_dtype),
        4 * 4 * plan.max_rows * plan.widest,
        replaces=progress.replaces,
    )
    needs.check()
    weights.verify(progress.bytes("verify", "Verifying weights"), options.verify, options.cache_dir)
    executable = executable_of(plan.code, planner.program, options, progress)
    needs.make_room()
    loaded = load_packed(
        plan.parameters,
        weights,
        source.config,
        options,
        partial(machine.function, executable),
        progress.bytes("load", "Loading weights"),
    )
    taken = weight_bytes(plan.parameters) + pages * kv_bytes_per_page(
        shape, PAGE, numerics.kv_dtype
    )
    threads = options.threads or default_threads(weight_count(plan.parameters, quantization))
    model_fields = Fields(model_config(source), "model_config")
    model: TextModel
    if encoder:
        runner = EncoderExecutor(
            executable,
            shape,
            loaded.arrays,
            context=context,
            features=model_fields.positive_int("hidden_size"),
            max_rows=plan.max_rows,
            kv_dtype=numerics.kv_dtype,
        )
        model = EncoderTexts(runner, MAX_TEXTS)
    else:
        executor = Executor(
            executable,
            shape,
            loaded.arrays,
            page_size=PAGE,
            pages=pages,
            context=context,
            vocab=shape.vocab_size,
            max_rows=plan.max_rows,
            attention_rows=plan.attention_rows,
            threads=threads,
            kv_dtype=numerics.kv_dtype,
        )
        model = DecoderTexts(executor, MAX_TEXTS)
    vocab = model_fields.positive_int("vocab_size")
    known = min(vocab, config.positive_int("active_vocab_size", vocab))
    embedder = Embedder(
        model,
        settings,
        vocab_size=known,
        context_window=context,
        usage=lambda: usage(taken),
    )
    progress("warm up", 0.0, "Warming up")
    embedder.ended = run_on_compute_thread(embedder, embedder, threads)
    try:
        progress("warm up", 1.0, "Ready")
    except Cancelled:
        embedder.stop()
        raise
    embedder.copying = loaded.save(lambda: embedder.clock.running() is not None)
    return embedder


class _DecoderPlanner(ModelPlanner):
    """Plans a decoder without its output layer."""

    task = "embeddings"

    def _architecture(self) -> Architecture:
        from mlc_widget.engine.runtimes.tvm.architectures.hidden_states import HiddenStates
        from mlc_widget.engine.runtimes.tvm.architectures.llama import LlamaConfig

        decoder = super()._architecture()
        if not isinstance(decoder, LlamaConfig):
            raise UnsupportedModelError(
                "The tvm runtime cannot make embeddings with a model of this type.",
                param="model_type",
            )
        return HiddenStates(decoder)


class _EncoderPlanner(ModelPlanner):
    """Plans an encoder, which runs whole texts."""

    task = "embeddings"

    def _program(self, architecture: Any, *others: Any) -> Program:
        from mlc_widget.engine.runtimes.tvm.encoder import EncoderProgram, batch_rows

        program = super()._program(architecture, *others)
        fields = {f.name: getattr(program, f.name) for f in dataclasses.fields(program)}
        return EncoderProgram(**fields, rows=batch_rows(architecture))


def _sizes(
    source: ModelSource, options: TVMOptions, rows: int, *, encoder: bool
) -> tuple[int, int]:
    """The length of the longest text, and the pages for that or for a batch of short texts."""
    batch = rows // PAGE + MAX_TEXTS
    if encoder:
        fields = Fields(model_config(source), "model_config")
        return fields.positive_int("context_window_size"), batch
    window, _ = sizes(source, options)
    return window, max(batch, -(-window // PAGE))
