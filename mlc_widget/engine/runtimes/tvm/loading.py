"""Loads a model and starts its scheduler, on a thread of its own."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from mlc_widget.engine.runtimes.base import DeviceUsage, ModelSource
from mlc_widget.engine.runtimes.step_clock import StepClock
from mlc_widget.engine.runtimes.tvm import machine
from mlc_widget.engine.runtimes.tvm.compiled import executable_of
from mlc_widget.engine.runtimes.tvm.computing import run_on_compute_thread
from mlc_widget.engine.runtimes.tvm.executor import Executor, kv_bytes_per_page, nothing_to_save
from mlc_widget.engine.runtimes.tvm.layouts import PAGE
from mlc_widget.engine.runtimes.tvm.memory import MemoryNeeds, machine_free
from mlc_widget.engine.runtimes.tvm.numerics import numerics_of
from mlc_widget.engine.runtimes.tvm.options import TVMOptions
from mlc_widget.engine.runtimes.tvm.packed import load_packed
from mlc_widget.engine.runtimes.tvm.pages import PagePool
from mlc_widget.engine.runtimes.tvm.planning import ModelPlanner, device_of, model_config
from mlc_widget.engine.runtimes.tvm.progress import Cancelled, Progress
from mlc_widget.engine.runtimes.tvm.quantization import quantization_of
from mlc_widget.engine.runtimes.tvm.scheduler import Delivery, Scheduler
from mlc_widget.engine.runtimes.tvm.sizing import chunk, sizes, weight_count
from mlc_widget.engine.runtimes.tvm.threads import default_threads, has_second_core
from mlc_widget.engine.runtimes.tvm.weights import (
    check_layers,
    check_weights,
    weight_bytes,
)
from mlc_widget.engine.store.families import with_our_names
from mlc_widget.engine.store.fields import Fields
from mlc_widget.engine.store.formats.float_weights import FloatWeights
from mlc_widget.engine.store.formats.gguf_weights import GGUFWeights
from mlc_widget.engine.store.packed_weights import CopyTask

if TYPE_CHECKING:
    from mlc_widget.engine.runtimes.tvm.planning import Target


@dataclass(frozen=True, slots=True)
class Loaded:
    """A running model.

    Attributes:
        scheduler: Runs its sequences.
        vocab_size: The number of tokens in its vocabulary.
        context_window: The maximum number of tokens of a sequence.
        usage: Returns its device and the memory now.
        ended: Done when its thread no longer uses the model.
        copying: The thread that copies its weights to the cache, if they were not there.
    """

    scheduler: Scheduler
    vocab_size: int
    context_window: int
    usage: Callable[[], DeviceUsage]
    ended: Future[None]
    copying: CopyTask | None = None

    @property
    def clock(self) -> StepClock:
        """The clock of its thread's steps."""
        return self.scheduler.clock

    def stop(self) -> None:
        """End all sequences and the thread."""
        if self.copying is not None:
            self.copying.stop()
        self.scheduler.stop()


def load(
    source: ModelSource,
    options: TVMOptions,
    progress: Progress,
    post: Callable[[list[Delivery]], None],
) -> Loaded:
    """Load a model and start its scheduler.

    Raises:
        MLCEngineError: As `ModelRuntime.load`.
        Cancelled: The load was cancelled.
    """
    executor, threads = make_executor(source, options, progress)
    scheduler = Scheduler(
        executor,
        PagePool(executor.pages, PAGE, reuse=options.prefix_cache_mode != "disable"),
        max_sequences=options.max_num_sequence,
        chunk=max(chunk(source, options, executor), options.max_num_sequence),
        speculative_mode=options.speculative_mode,
        post=post,
    )
    progress("warm up", 0.0, "Warming up")
    ended = run_on_compute_thread(scheduler, executor, threads)
    try:
        progress("warm up", 1.0, "Ready")
    except Cancelled:
        scheduler.stop()
        raise
    copying = executor.save_weights(lambda: scheduler.clock.running() is not None)
    executor.save_weights = nothing_to_save  # a GPU's need not stay in this memory
    return Loaded(scheduler, executor.vocab, executor.context, executor.usage, ended, copying)


def _text_config(source: ModelSource) -> Any:
    """`model_config`, or the part of it that is about the text model, as MLC's Gemma 3 has it."""
    values = model_config(source)
    inner = values.get("text_config") if isinstance(values, Mapping) else None
    return values if inner is None else inner


def _gpu_free(device: str) -> tuple[int, str]:
    """The free memory of a GPU, and where that is."""
    from mlc_widget.engine.runtimes.tvm.cuda.device import index_of, usage

    gpu = usage(index_of(device))
    # If the driver does not report it, an allocation that fails does.
    return sys.maxsize if gpu.free is None else gpu.free, f"on the {gpu.name} ({gpu.device})"


def make_executor(
    source: ModelSource, options: TVMOptions, progress: Progress, target: Target | None = None
) -> tuple[Executor, int]:
    """Load a model without a scheduler: check it, get its code, read its weights.

    Args:
        source: The model.
        options: The caller's options.
        progress: Called with reports.
        target: The target for which to compile, if not the one of `options` and this machine.

    Returns:
        The executor, to be prepared on the thread that will run it, and the best number of CPU
        threads for it.

    Raises:
        MLCEngineError: As `ModelRuntime.load`.
        Cancelled: The load was cancelled.
    """
    numerics = numerics_of(source.config, options.kv_cache_dtype)
    weights = source.open_weights()
    progress("resolve", 1.0, "Starting TVM")
    device = device_of(options)
    if device != "cpu" and isinstance(weights, GGUFWeights):
        # There are no GPU kernels for ggml's blocks, so a GPU gets the weights as float16.
        weights = FloatWeights(weights)
        source = dataclasses.replace(source, config={**source.config, "quantization": "q0f16"})
    config = Fields(source.config, "")
    quantization = quantization_of(config.get("quantization"))
    if not isinstance(weights, GGUFWeights | FloatWeights):
        weights = with_our_names(
            weights, config.get("model_type"), transposed=quantization.transposed
        )
    machine.start()
    check_layers(_text_config(source), weights)
    planner = ModelPlanner(source, options, device, target, weights)
    plan = planner.plan()
    shape = plan.shape
    check_weights(plan.parameters, weights)
    context, pages = sizes(source, options)
    context = min(context, shape.positions or context)
    # A GPU takes memory for the logits of a whole step when a request first asks for those of its
    # prompt, which must not be what fills it.
    logits = options.max_num_sequence if device == "cpu" else plan.max_rows
    count = weight_count(plan.parameters, quantization)
    threads = options.threads or default_threads(count)
    divided = device == "cpu" and options.threads is None and has_second_core(count)
    activations = 6 if divided else 4  # of a step, at a time, and of half a step
    needs = MemoryNeeds(
        weight_bytes(plan.parameters),
        pages * kv_bytes_per_page(shape, PAGE, numerics.kv_dtype),
        4 * (activations * plan.max_rows * plan.widest + logits * shape.vocab_size),
        planner.device,
        progress.replaces,
        machine_free if planner.device == "cpu" else partial(_gpu_free, planner.device),
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
        stay=planner.executor is Executor,
    )
    weights.close()
    executor = planner.executor(
        executable,
        shape,
        loaded.arrays,
        page_size=PAGE,
        pages=pages,
        context=context,
        vocab=min(shape.vocab_size, config.positive_int("active_vocab_size", shape.vocab_size)),
        max_rows=plan.max_rows,
        usual_rows=plan.usual_rows,
        attention_rows=plan.attention_rows,
        attention_part=plan.attention_part,
        threads=threads,
        tile_rows=plan.tile_rows if divided else 0,
        kv_dtype=numerics.kv_dtype,
        device=planner.device,
    )
    executor.save_weights = loaded.save
    return executor, threads
