"""The embedded runtime: MLC-format models on apache-tvm from PyPI."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

from mlc_widget.api.errors import (
    BadRequestError,
    ContextLengthExceededError,
    InternalEngineError,
    MLCEngineError,
    ModelNotLoadedError,
    RuntimeUnavailableError,
    UnsupportedModelError,
)
from mlc_widget.engine.runtimes.base import (
    GenerationEvent,
    LoadReporter,
    ModelSource,
    RuntimeCapabilities,
    Sampling,
)
from mlc_widget.engine.runtimes.tvm.options import TVMOptions

if TYPE_CHECKING:
    from mlc_widget.engine.runtimes.tvm.grammar import Grammar, GrammarCompiler
    from mlc_widget.engine.runtimes.tvm.loading import Loaded
    from mlc_widget.engine.runtimes.tvm.scheduler import Delivery

REQUEST_FIELDS: Final = frozenset(
    {
        "frequency_penalty",
        "presence_penalty",
        "repetition_penalty",
        "logit_bias",
        "logprobs",
        "top_logprobs",
        "ignore_eos",
        "response_format",
        "enable_latency_breakdown",
    }
)


class TVMRuntime:
    """A `ModelRuntime` that compiles with TVM and runs on this machine's CPU.

    TVM is imported when a model is loaded, not before.
    """

    name: ClassVar[str] = "tvm"

    def __init__(self, options: Mapping[str, Any]) -> None:
        """Make a runtime without a model.

        Args:
            options: See `TVMOptions`.

        Raises:
            BadRequestError: An option is unknown or wrong.
        """
        self._options = TVMOptions.parse(options)
        self._loaded: Loaded | None = None
        self._source: ModelSource | None = None
        self._grammars: GrammarCompiler | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def capabilities(self) -> RuntimeCapabilities:
        """What this runtime does."""
        return RuntimeCapabilities(
            batch_invariant=True, request_fields=REQUEST_FIELDS, logit_processors=True, grammars=True
        )

    @property
    def context_window_size(self) -> int:
        """Tokens of prompt and answer together: the model's window, or the KV cache if less."""
        return self._model().context_window

    async def load(self, source: ModelSource, report: LoadReporter) -> None:
        """Make the model ready; see `ModelRuntime.load`."""
        if self._loaded is not None:
            await self.unload()
        loop = self._loop = asyncio.get_running_loop()
        done: asyncio.Future[Loaded] = loop.create_future()
        cancelled = threading.Event()

        def settle(loaded: Loaded | None, error: BaseException | None) -> None:
            if done.done():  # cancelled meanwhile
                if loaded is not None:
                    loaded.scheduler.stop()
            elif loaded is not None:
                done.set_result(loaded)
            elif error is not None:
                done.set_exception(error)

        def work() -> None:
            loaded: Loaded | None = None
            error: BaseException | None = None
            try:
                loaded = self._load(source, report, cancelled)
            except MLCEngineError as e:
                error = e
            except Exception as e:
                error = InternalEngineError(f"Loading {source.model_id} failed: {e}")
                error.__cause__ = e
            try:
                loop.call_soon_threadsafe(settle, loaded, error)
            except RuntimeError:  # the loop is closed: nobody waits any more
                if loaded is not None:
                    loaded.scheduler.stop()

        # Not the loop's executor: a compilation in LLVM cannot be ended, and must not keep the
        # process from ending.
        threading.Thread(target=work, name="mlc_widget-tvm-load", daemon=True).start()
        try:
            self._loaded = await done
        except asyncio.CancelledError:
            cancelled.set()
            if done.done() and not done.cancelled() and done.exception() is None:
                done.result().scheduler.stop()
            raise
        from mlc_widget.engine.runtimes.tvm.grammar import GrammarCompiler

        self._source = source
        self._grammars = GrammarCompiler(source.tokenizer, _end_ids(source.config))

    async def generate(
        self, prompt_token_ids: Sequence[int], sampling: Sampling, *, request_id: str
    ) -> AsyncGenerator[GenerationEvent, None]:
        """Generate from a prompt; see `ModelRuntime.generate`."""
        from mlc_widget.engine.runtimes.tvm.sequence import make_sequence

        model, source = self._model(), self._source
        assert source is not None
        prompt = list(prompt_token_ids)
        self._check_prompt(prompt, model)
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
        model.scheduler.submit(sequence)
        try:
            while True:
                event = await events.get()
                if isinstance(event, BaseException):
                    raise event
                yield event
                if event.finish_reason is not None:
                    return
        finally:
            model.scheduler.cancel(sequence)

    async def embed(self, inputs: Sequence[Sequence[int]]) -> Sequence[Sequence[float]]:
        """Not supported by the models that this runtime runs."""
        raise UnsupportedModelError("The tvm runtime has no embeddings for this model.")

    def interrupt(self) -> None:
        """End everything that runs now with finish reason ``abort``, within one step."""
        if self._loaded is not None:
            self._loaded.scheduler.interrupt()

    async def unload(self) -> None:
        """Stop what runs and give the memory back to the system. Idempotent."""
        loaded, self._loaded, self._source = self._loaded, None, None
        self._grammars = None
        if loaded is None:
            return
        loaded.scheduler.stop()
        ended = loaded.ended
        del loaded
        await asyncio.get_running_loop().run_in_executor(None, ended.wait)
        _release_memory()

    async def _grammar(self, sampling: Sampling) -> Grammar | None:
        if sampling.grammar is None or self._grammars is None:
            return None
        # llguidance lets the interpreter go on while it works.
        return await asyncio.to_thread(
            self._grammars.compile, sampling.grammar, ignore_eos=sampling.ignore_eos
        )

    def _load(
        self, source: ModelSource, report: LoadReporter, cancelled: threading.Event
    ) -> Loaded | None:
        """Load on this thread; None if it was cancelled."""
        try:
            from mlc_widget.engine.runtimes.tvm import loading
        except ImportError as e:
            raise RuntimeUnavailableError(
                f"The tvm runtime cannot start: {e}. Install it with `pip install "
                '"mlc-widget[tvm]"`.'
            ) from e
        try:
            return loading.load(
                source, self._options, loading.Progress(report, cancelled), self._post
            )
        except loading.Cancelled:
            return None

    def _post(self, deliveries: list[Delivery]) -> None:
        """Hand a step's events to the event loop; called on the scheduler's thread."""
        loop = self._loop
        assert loop is not None
        try:
            loop.call_soon_threadsafe(_deliver, deliveries)
        except RuntimeError:  # the loop is closed: nobody listens any more
            if self._loaded is not None:
                self._loaded.scheduler.stop()

    def _model(self) -> Loaded:
        if self._loaded is None:
            raise ModelNotLoadedError("The tvm runtime has no model; load one first.")
        return self._loaded

    def _check_prompt(self, prompt: list[int], model: Loaded) -> None:
        if not prompt:
            raise BadRequestError("The prompt has no tokens; give at least one.", param="prompt")
        if len(prompt) >= model.context_window:
            raise ContextLengthExceededError(
                f"The prompt has {len(prompt)} tokens, and the context window is "
                f"{model.context_window} with at least one for the answer. Shorten the "
                "conversation, or raise max_total_sequence_length if the model's own window is "
                "larger.",
                param="messages",
            )
        wrong = next((t for t in prompt if not 0 <= t < model.vocab_size), None)
        if wrong is not None:
            raise BadRequestError(
                f"Token {wrong} is not in the model's vocabulary of {model.vocab_size}.",
                param="prompt",
            )


def _end_ids(config: Mapping[str, Any]) -> list[int]:
    """The tokens that end a text, by mlc-chat-config.json."""
    eos, template = config.get("eos_token_id"), config.get("conv_template")
    ids = [eos] if isinstance(eos, int) else list(eos or ())
    if isinstance(template, Mapping):
        ids += template.get("stop_token_ids") or ()
    return ids


def _deliver(deliveries: list[Delivery]) -> None:
    for sequence, event in deliveries:
        sequence.deliver(event)


def _release_memory() -> None:
    """Give freed memory back to the system, as far as the allocators let us."""
    gc.collect()
    import tvm_ffi

    clear = tvm_ffi.get_global_func("vm.builtin.memory_manager.clear", allow_missing=True)
    if clear is not None:
        clear()
    if sys.platform == "linux":
        import ctypes

        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
