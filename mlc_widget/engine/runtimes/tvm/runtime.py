"""`ModelRuntime` on apache-tvm."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeGuard, cast

from mlc_widget.api.errors import (
    BadRequestError,
    ContextLengthExceededError,
    EngineDeadError,
    InternalEngineError,
    MLCEngineError,
    ModelNotLoadedError,
    UnsupportedModelError,
)
from mlc_widget.api.progress import LoadReporter
from mlc_widget.engine.runtimes.base import (
    DeviceUsage,
    GenerationEvent,
    ModelSource,
    ReplacedModels,
    RuntimeCapabilities,
    Sampling,
)
from mlc_widget.engine.runtimes.tvm import shutdown
from mlc_widget.engine.runtimes.tvm.machine import INSTALL
from mlc_widget.engine.runtimes.tvm.options import TVMOptions
from mlc_widget.engine.system.imports import (
    check_room_for_numpy,
    import_error,
    import_package,
    memory_error,
    ran_out_of_memory,
)
from mlc_widget.engine.system.memory import give_back_memory
from mlc_widget.engine.system.running_step import RunningStep

if TYPE_CHECKING:
    from mlc_widget.engine.runtimes.step_clock import StepClock
    from mlc_widget.engine.runtimes.tvm.embedder import Embedder, Vector
    from mlc_widget.engine.runtimes.tvm.grammar import Grammar, GrammarCompiler
    from mlc_widget.engine.runtimes.tvm.loading import Loaded
    from mlc_widget.engine.runtimes.tvm.scheduler import Delivery

REQUEST_FIELDS: Final = frozenset(
    {
        "frequency_penalty",
        "presence_penalty",
        "repetition_penalty",
        "top_k",
        "min_p",
        "typical_p",
        "dry_multiplier",
        "dry_base",
        "dry_allowed_length",
        "dry_sequence_breakers",
        "logit_bias",
        "logprobs",
        "top_logprobs",
        "ignore_eos",
        "response_format",
        "enable_latency_breakdown",
    }
)


_LAST_PIECE_S: Final = 2.0
"""Seconds for which an unload waits for a disk."""


class TVMRuntime:
    """A `ModelRuntime` that compiles models with TVM, for this machine's CPU or NVIDIA GPU.

    TVM is imported only when a model is loaded.
    """

    name: ClassVar[str] = "tvm"

    def __init__(self, options: Mapping[str, Any]) -> None:
        """Make a runtime without a model.

        Args:
            options: See `TVMOptions`.

        Raises:
            BadRequestError: An option is unknown or has an invalid value.
        """
        self._options = TVMOptions.parse(options)
        if self._options.device != "cpu":  # while the model's tokenizer is read, for example
            name = "mlc_widget-cuda-context"
            threading.Thread(target=self._start_context, name=name, daemon=True).start()
        self.on_dead: Callable[[EngineDeadError], None] | None = None
        self.replaces: ReplacedModels | None = None
        self._loaded: Loaded | Embedder | None = None
        self._clock: StepClock | None = None  # until the model's thread has ended
        self._source: ModelSource | None = None
        self._grammars: GrammarCompiler | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def _start_context(self) -> None:
        from mlc_widget.engine.runtimes.tvm.cuda.cudart import start_context
        from mlc_widget.engine.runtimes.tvm.cuda.device import index_of

        start_context(index_of(self._options.device))

    @property
    def capabilities(self) -> RuntimeCapabilities:
        """The capabilities for the loaded model."""
        return RuntimeCapabilities(
            batch_invariant=True,
            request_fields=REQUEST_FIELDS,
            embeddings=self._loaded is not None and not _generates(self._loaded),
            logit_processors=True,
            grammars=True,
            prompt_logprobs=True,
            max_num_sequence=self._options.max_num_sequence,
        )

    @property
    def context_window_size(self) -> int:
        """Tokens of prompt and answer that fit: the model's window, or less in a small KV cache."""
        return self._running().context_window

    async def device_usage(self) -> DeviceUsage:
        """The model's device and its memory; see `ModelRuntime.device_usage`."""
        usage = self._running().usage
        if self._options.device == "cpu":
            return usage()
        return await asyncio.to_thread(usage)  # a GPU that is busy or lost may not answer

    async def load(self, source: ModelSource, report: LoadReporter) -> None:
        """Make the model ready; see `ModelRuntime.load`."""
        if self._loaded is not None:
            await self.unload()
        loop = self._loop = asyncio.get_running_loop()
        done: asyncio.Future[Loaded | Embedder] = loop.create_future()
        cancelled = threading.Event()

        def settle(loaded: Loaded | Embedder | None, error: BaseException | None) -> None:
            if done.done():  # cancelled meanwhile
                if loaded is not None:
                    loaded.stop()
            elif loaded is not None:
                done.set_result(loaded)
            elif error is not None:
                done.set_exception(error)

        def work() -> None:
            loaded: Loaded | Embedder | None = None
            error: BaseException | None = None
            try:
                loaded = self._load(source, report, cancelled)
            except MLCEngineError as e:
                error = e
            except BaseException as e:  # `load` must not wait forever
                if ran_out_of_memory(e):
                    error = memory_error(f"Memory ran out while {source.model_id} was loaded", e)
                else:
                    error = InternalEngineError(f"Loading {source.model_id} failed: {e!r}")
                error.__cause__ = e
            try:
                loop.call_soon_threadsafe(settle, loaded, error)
            except RuntimeError:  # the loop is closed: nobody is waiting any more
                if loaded is not None:
                    loaded.stop()

        # Not the loop's executor, as a compilation in LLVM cannot be stopped, and must not keep
        # the process from ending.
        thread = threading.Thread(target=work, name="mlc_widget-tvm-load", daemon=True)
        shutdown.load_runs(thread, cancelled)
        thread.start()
        try:
            self._loaded = loaded = await done
        except asyncio.CancelledError:
            cancelled.set()
            if done.done() and not done.cancelled() and done.exception() is None:
                done.result().stop()
            raise
        from mlc_widget.engine.runtimes.tvm.grammar import GrammarCompiler

        self._clock = loaded.clock
        self._source = source
        self._grammars = GrammarCompiler(source.tokenizer, _end_ids(source.config))

    async def generate(
        self, prompt_token_ids: Sequence[int], sampling: Sampling, *, request_id: str
    ) -> AsyncGenerator[GenerationEvent, None]:
        """Generate from a prompt; see `ModelRuntime.generate`."""
        from mlc_widget.engine.runtimes.tvm.sequence import SequenceStatus, make_sequence

        model, source = self._model(), self._source
        assert source is not None
        prompt = list(prompt_token_ids)
        self._check_prompt([*prompt, *sampling.resume], model)
        grammar = await self._grammar(sampling)
        events: asyncio.Queue[GenerationEvent | BaseException] = asyncio.Queue()
        sequence = make_sequence(
            request_id,
            prompt,
            sampling,
            source.tokenizer,
            model.context_window,
            events.put_nowait,
            grammar,
        )
        again: list[GenerationEvent] = []
        if sampling.resume:  # a grammar may take a while
            again = await asyncio.to_thread(lambda: [sequence.follow(t) for t in sampling.resume])
        model.scheduler.submit(sequence)
        try:
            for known in again:
                yield known
            while True:
                event = await events.get()
                if isinstance(event, BaseException):
                    raise event
                sequence.taken += 1
                if sequence.status is SequenceStatus.PARKED:
                    model.scheduler.wake(sequence)
                yield event
                if event.finish_reason is not None:
                    return
        finally:
            model.scheduler.cancel(sequence)

    async def embed(self, inputs: Sequence[Sequence[int]]) -> Sequence[Sequence[float]]:
        """Embed each token sequence as one vector; see `ModelRuntime.embed`."""
        model = self._running()
        if _generates(model):
            raise UnsupportedModelError(
                "The loaded model is for text. Load an embedding model, or load this one with "
                'chat_opts={"model_task": "embedding"}.'
            )
        for tokens in inputs:
            self._check_prompt(list(tokens), model, param="input")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[list[Vector]] = loop.create_future()

        def settle(result: list[Vector] | BaseException) -> None:
            if done.done():
                return
            if isinstance(result, BaseException):
                done.set_exception(result)
            else:
                done.set_result(result)

        def deliver(result: list[Vector] | BaseException) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is waiting
                loop.call_soon_threadsafe(settle, result)

        embedder = cast("Embedder", model)
        job = embedder.submit(inputs, deliver)
        try:
            return [vector.tolist() for vector in await done]
        finally:
            embedder.cancel(job)

    def running_step(self) -> RunningStep | None:
        """The step of the model's thread; see `ModelRuntime.running_step`."""
        return None if self._clock is None else self._clock.running()

    def interrupt(self) -> None:
        """End all running generations with finish reason ``abort``, within one step."""
        if self._loaded is not None and _generates(self._loaded):
            self._loaded.scheduler.interrupt()

    async def unload(self) -> None:
        """Stop all generations and give the memory back to the system. Idempotent."""
        loaded, self._loaded, self._source = self._loaded, None, None
        self._grammars = None
        if loaded is None:
            return
        loaded.stop()
        ended, copying = loaded.ended, loaded.copying
        del loaded
        await asyncio.wrap_future(ended)
        if copying is not None:  # it may hold the weights until it has written a piece
            await asyncio.to_thread(copying.join, _LAST_PIECE_S)
        self._clock = None
        with contextlib.suppress(RuntimeError):  # the process is ending: no thread can be started
            await asyncio.to_thread(_release_memory)

    async def _grammar(self, sampling: Sampling) -> Grammar | None:
        if sampling.grammar is None or self._grammars is None:
            return None
        # llguidance releases the GIL while it works.
        return await asyncio.to_thread(
            self._grammars.compile,
            sampling.grammar,
            ignore_eos=sampling.ignore_eos,
            salt=sampling.cache_salt,
        )

    def _load(
        self, source: ModelSource, report: LoadReporter, cancelled: threading.Event
    ) -> Loaded | Embedder | None:
        """Load the model on this thread; return None if the load was cancelled."""
        check_room_for_numpy("The tvm runtime needs numpy")
        for package, attribute in (("numpy", "ndarray"), ("psutil", "virtual_memory")):
            purpose = f"The tvm runtime needs {package}"
            import_package(package, attribute, purpose=purpose, install=INSTALL)
        try:
            from mlc_widget.engine.runtimes.tvm import embedding_loading, loading
            from mlc_widget.engine.runtimes.tvm.progress import Cancelled, Progress
        except Exception as e:
            raise import_error(
                e, purpose="The tvm runtime needs apache-tvm", install=INSTALL, package="tvm"
            ) from e
        try:
            progress = Progress(report, cancelled, self.replaces)
            if embedding_loading.is_embedding_model(source.config):
                return embedding_loading.load(source, self._options, progress)
            return loading.load(source, self._options, progress, self._post)
        except Cancelled:
            return None

    def _post(self, deliveries: list[Delivery]) -> None:
        """Pass a step's events to the event loop; called on the scheduler's thread."""
        loop = self._loop
        assert loop is not None
        try:
            loop.call_soon_threadsafe(self._deliver, deliveries)
        except RuntimeError:  # the loop is closed: nobody is listening any more
            if self._loaded is not None:
                self._loaded.stop()

    def _deliver(self, deliveries: list[Delivery]) -> None:
        for _, event in deliveries:
            if isinstance(event, EngineDeadError) and self.on_dead is not None:
                self.on_dead(event)
                break
        for sequence, event in deliveries:
            sequence.deliver(event)

    def _running(self) -> Loaded | Embedder:
        if self._loaded is None:
            raise ModelNotLoadedError("The tvm runtime has no model; load one first.")
        return self._loaded

    def _model(self) -> Loaded:
        model = self._running()
        if not _generates(model):
            raise UnsupportedModelError("The loaded model is for embeddings, not for text.")
        return model

    def _check_prompt(
        self, prompt: list[int], model: Loaded | Embedder, param: str = "prompt"
    ) -> None:
        if not prompt:
            raise BadRequestError(f"{param} has no tokens; give at least one.", param=param)
        if param == "input" and len(prompt) > model.context_window:
            raise ContextLengthExceededError(
                f"input: a text has {len(prompt)} tokens, and the model takes at most "
                f"{model.context_window}. Split it.",
                param=param,
            )
        if param == "prompt" and len(prompt) >= model.context_window:
            raise ContextLengthExceededError(
                f"The prompt has {len(prompt)} tokens; the context window has "
                f"{model.context_window}, of which the answer needs at least one. Shorten the "
                "conversation, or raise max_total_sequence_length if the model's own window is "
                "larger.",
                param="messages",
            )
        wrong = next((t for t in prompt if not 0 <= t < model.vocab_size), None)
        if wrong is not None:
            raise BadRequestError(
                f"Token {wrong} is not in the model's vocabulary of {model.vocab_size}.",
                param=param,
            )


def _generates(model: Loaded | Embedder) -> TypeGuard[Loaded]:
    return hasattr(model, "scheduler")


def _end_ids(config: Mapping[str, Any]) -> list[int]:
    """The tokens that end a text, as mlc-chat-config.json says."""
    eos, template = config.get("eos_token_id"), config.get("conv_template")
    ids = [eos] if isinstance(eos, int) else list(eos or ())
    if isinstance(template, Mapping):
        ids += template.get("stop_token_ids") or ()
    return ids


def _release_memory() -> None:
    """Give freed memory back to the system, as far as the allocators allow."""
    import tvm_ffi

    from mlc_widget.engine.runtimes.tvm.cuda import pool

    gc.collect()
    clear = tvm_ffi.get_global_func("vm.builtin.memory_manager.clear", allow_missing=True)
    if clear is not None:
        pool.shrink(clear)
    give_back_memory()
