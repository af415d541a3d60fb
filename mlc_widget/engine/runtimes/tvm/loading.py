"""From a model folder to a running scheduler. Runs on a thread of its own."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from mlc_widget.api.errors import (
    InternalEngineError,
    MLCEngineError,
)
from mlc_widget.api.progress import LoadReporter
from mlc_widget.engine.runtimes.base import ModelSource
from mlc_widget.engine.runtimes.step_clock import StepClock
from mlc_widget.engine.runtimes.tvm import machine
from mlc_widget.engine.runtimes.tvm.compiled import compiling, executable_of
from mlc_widget.engine.runtimes.tvm.executor import Executor, kv_bytes_per_page
from mlc_widget.engine.runtimes.tvm.fields import Fields
from mlc_widget.engine.runtimes.tvm.layouts import MAX_ROWS, PAGE
from mlc_widget.engine.runtimes.tvm.memory import require
from mlc_widget.engine.runtimes.tvm.numerics import numerics_of
from mlc_widget.engine.runtimes.tvm.options import TVMOptions
from mlc_widget.engine.runtimes.tvm.pages import PagePool
from mlc_widget.engine.runtimes.tvm.planning import ModelPlanner, device_of
from mlc_widget.engine.runtimes.tvm.quantization import Quantization, quantization_of
from mlc_widget.engine.runtimes.tvm.scheduler import Delivery, Scheduler
from mlc_widget.engine.runtimes.tvm.threads import ComputeThread, default_threads
from mlc_widget.engine.runtimes.tvm.weights import (
    Parameters,
    check_layers,
    check_weights,
    load_weights,
    weight_bytes,
)
from mlc_widget.engine.store.tensor_cache import TensorCache

if TYPE_CHECKING:
    from mlc_widget.engine.runtimes.tvm.planning import Target

DEFAULT_TOTAL = 8192
"""Tokens that the KV cache holds where nothing else is said, or four context windows if less."""

_running: WeakKeyDictionary[Any, threading.Event] = WeakKeyDictionary()


@atexit.register
def _stop_all() -> None:
    """End what still runs before the process tears down the code that it runs."""
    ends = list(_running.items())
    for scheduler, _ in ends:
        scheduler.stop()
    for _, ended in ends:
        ended.wait(timeout=5)
    # A compilation of a cancelled load may still be under way, in LLVM.
    if compiling.acquire(timeout=5):
        compiling.release()


class Cancelled(Exception):
    """The load was cancelled; raised by `Progress` where it is noticed."""


class Progress:
    """Passes reports on, and ends the load where it reports once it is cancelled."""

    def __init__(self, report: LoadReporter, cancelled: threading.Event) -> None:
        self.report, self.cancelled = report, cancelled

    def __call__(self, phase: Any, fraction: float, text: str, **counts: int) -> None:
        """Report, or raise `Cancelled`."""
        if self.cancelled.is_set():
            raise Cancelled
        self.report(phase, fraction, text, **counts)

    def bytes(self, phase: Any, text: str) -> Callable[[int, int], None]:
        """A function that reports bytes done and bytes in all."""

        def progress(done: int, total: int) -> None:
            self(phase, done / max(1, total), text, bytes_done=done, bytes_total=total)

        return progress


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that runs.

    Attributes:
        scheduler: Takes its sequences.
        vocab_size: Tokens that it knows.
        context_window: Tokens of a sequence at most.
        ended: Set when its thread has left the model's code for good.
    """

    scheduler: Scheduler
    vocab_size: int
    context_window: int
    ended: threading.Event

    @property
    def clock(self) -> StepClock:
        """Of its thread's steps."""
        return self.scheduler.clock

    def stop(self) -> None:
        """End everything that runs, and the thread."""
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
        chunk=max(_chunk(source, options), options.max_num_sequence),
        post=post,
    )
    progress("warm up", 0.0, "Warming up")
    ended = start(scheduler, executor, threads)
    try:
        progress("warm up", 1.0, "Ready")
    except Cancelled:
        scheduler.stop()
        raise
    return Loaded(scheduler, executor.vocab, executor.context, ended)


def make_executor(
    source: ModelSource, options: TVMOptions, progress: Progress, target: Target | None = None
) -> tuple[Executor, int]:
    """Everything but the scheduler: checks, code, weights.

    Args:
        source: The model.
        options: The caller's.
        progress: Hears of it.
        target: What to compile for, if not for what `options` and this machine say.

    Returns:
        The executor, to be prepared on the thread that will run it, and how many CPU threads it is
        best run with.

    Raises:
        MLCEngineError: As `ModelRuntime.load`.
        Cancelled: The load was cancelled.
    """
    config = Fields(source.config, "")
    quantization = quantization_of(config.get("quantization"))
    numerics = numerics_of(source.config, options.kv_cache_dtype)
    weights = TensorCache.from_folder(source.path)
    progress("resolve", 1.0, "Starting TVM")
    device = device_of(options)
    machine.start()
    check_layers(source.config.get("model_config"), weights)
    planner = ModelPlanner(source, options, device, target)
    plan = planner.plan()
    shape = plan.shape
    check_weights(plan.parameters, weights)
    context, pages = sizes(source, options)
    require(
        weight_bytes(plan.parameters),
        pages * kv_bytes_per_page(shape, PAGE, numerics.kv_dtype),
        4 * (4 * MAX_ROWS * plan.widest + options.max_num_sequence * shape.vocab_size),
    )
    weights.verify(progress.bytes("verify", "Verifying weights"), options.verify, options.cache_dir)
    executable = executable_of(
        plan.code, planner.program, options, progress, cached=planner.executor is Executor
    )
    arrays = load_weights(plan.parameters, weights, progress.bytes("load", "Loading weights"))
    threads = options.threads or default_threads(count(plan.parameters, quantization))
    executor = planner.executor(
        executable,
        shape,
        arrays,
        page_size=PAGE,
        pages=pages,
        context=context,
        vocab=min(shape.vocab_size, config.positive_int("active_vocab_size", shape.vocab_size)),
        max_rows=MAX_ROWS,
        attention_rows=plan.attention_rows,
        threads=threads,
        kv_dtype=numerics.kv_dtype,
    )
    return executor, threads


def sizes(source: ModelSource, options: TVMOptions) -> tuple[int, int]:
    """The context window, and the pages of the KV cache.

    Models with a sliding window say -1: their context is what the KV cache holds.
    """
    model_config = Fields(source.config.get("model_config", {}), "model_config")
    window = source.config.get("context_window_size")
    if window is None:
        window = model_config.get("context_window_size", 2048)
    if window == -1:
        window = options.max_total_sequence_length or DEFAULT_TOTAL
    else:
        window = Fields({"context_window_size": window}, "").positive_int("context_window_size")
    total = options.max_total_sequence_length or min(4 * window, DEFAULT_TOTAL)
    pages = -(-total // PAGE)
    return min(window, pages * PAGE), pages


def _chunk(source: ModelSource, options: TVMOptions) -> int:
    own = Fields(source.config, "").positive_int("prefill_chunk_size", options.prefill_chunk_size)
    return min(own, options.prefill_chunk_size)


def count(parameters: Parameters, quantization: Quantization) -> int:
    """Weights of a model, to tell small from large."""
    layouts = [layout for name, layout in parameters if not name.endswith("scale")]
    return sum(p.nbytes for p in layouts) * 8 // quantization.bits


def start(scheduler: Any, executor: Any, threads: int) -> threading.Event:
    """Prepare the executor on a compute thread and leave the scheduler running there.

    Args:
        scheduler: Has ``run()`` and ``stop()``: a `Scheduler`, or an embedding model's `Embedder`.
        executor: Has ``prepare()``.
        threads: CPU threads.

    Returns:
        Set when the thread has left the model's code for good.
    """
    ready, ended = threading.Event(), threading.Event()
    failure: list[BaseException] = []

    def body() -> None:
        try:
            executor.prepare()
        except BaseException as e:  # handed to the loading thread
            failure.append(e)
            ready.set()
            ended.set()
            return
        ready.set()
        scheduler.run()
        ended.set()

    ComputeThread.take(threads).run(body)
    ready.wait()
    if failure:
        if isinstance(failure[0], MLCEngineError):
            raise failure[0]
        raise InternalEngineError(f"The model's first step failed: {failure[0]}") from failure[0]
    _running[scheduler] = ended
    return ended
