"""`ModelRuntime` on MLC's own engine."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

from mlc_widget.api.errors import (
    BadRequestError,
    EngineDeadError,
    ModelNotLoadedError,
    RuntimeUnavailableError,
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
from mlc_widget.engine.runtimes.mlc_llm import devices, model_view, sources
from mlc_widget.engine.runtimes.mlc_llm.compilation import model_library
from mlc_widget.engine.runtimes.mlc_llm.constructor import (
    Construction,
    background_threads,
    load_error,
    resolve_device,
)
from mlc_widget.engine.runtimes.mlc_llm.embedding import EmbeddingEngine, is_embedding_model
from mlc_widget.engine.runtimes.mlc_llm.health import EngineHealth
from mlc_widget.engine.runtimes.mlc_llm.options import MLCLLMOptions
from mlc_widget.engine.runtimes.mlc_llm.phases import LoadPhases
from mlc_widget.engine.runtimes.mlc_llm.sampling import check
from mlc_widget.engine.runtimes.mlc_llm.stream import RequestStream
from mlc_widget.engine.runtimes.mlc_llm.translate import TokenIds
from mlc_widget.engine.store.model_folder import read_config_file
from mlc_widget.engine.system.daemon import call_in_daemon
from mlc_widget.engine.system.running_step import RunningStep

logger = logging.getLogger(__name__)

_POLL_S: Final = 0.1
_TERMINATE_S: Final = 5.0
_FIELDS: Final = frozenset(
    {"frequency_penalty", "presence_penalty", "logit_bias", "ignore_eos", "response_format"}
)
_EXACT_FIELDS: Final = frozenset({"logprobs", "top_logprobs"})
REQUEST_FIELDS: Final = _FIELDS | _EXACT_FIELDS
_FROM_CHAT_OPTS: Final = {
    "context_window_size": "max_single_sequence_length",
    "sliding_window_size": "sliding_window_size",
    "prefill_chunk_size": "prefill_chunk_size",
    "attention_sink_size": "attention_sink_size",
    "max_batch_size": "max_num_sequence",
}


class MLCLLMRuntime:
    """Runs one model on mlc_llm's `AsyncMLCEngine` or `AsyncEmbeddingEngine`.

    A process can load only one model, and only once: mlc_llm has process-wide state, and frees a
    device's memory only when the process ends. So once mlc_llm's constructor has been called,
    `capabilities.fresh_process_needed` is true, whether the load succeeded or not.

    Unlike other runtimes, it gives log-probabilities of the distribution after temperature, and
    its results depend on the other requests in the batch.

    Args:
        options: See `MLCLLMOptions`.

    Raises:
        BadRequestError: An option is unknown or has an invalid value.
        RuntimeUnavailableError: mlc_llm is not installed here.
    """

    name: ClassVar[str] = "mlc_llm"
    _process_used: ClassVar[bool] = False

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = MLCLLMOptions.parse(options)
        if not devices.installed():
            raise RuntimeUnavailableError(
                f"mlc_llm is not installed in {sys.executable}. {devices.INSTALL_HINT}"
            )
        self.on_dead: Callable[[EngineDeadError], None] | None = None
        self.replaces: ReplacedModels | None = None  # its process has only one model
        self._source: ModelSource | None = None
        self._engine: Any = None
        self._embedding: EmbeddingEngine | None = None
        self._health: EngineHealth | None = None
        self._token_ids: TokenIds | None = None
        self._stop_ids: frozenset[int] = frozenset()
        self._device = self._options.device
        self._exact = False
        self._vocab_size = self._context_window = 0
        self._streams: set[RequestStream] = set()
        self._numbers = itertools.count()

    @property
    def capabilities(self) -> RuntimeCapabilities:
        """The capabilities for the loaded model."""
        return RuntimeCapabilities(
            batch_invariant=False,
            request_fields=REQUEST_FIELDS if self._exact else _FIELDS,
            embeddings=self._embedding is not None,
            models_per_process=1,
            fresh_process_needed=MLCLLMRuntime._process_used,
        )

    @property
    def _keeps_prompts_apart(self) -> bool:
        """Whether no prompt is answered from what another has left in the prefix cache."""
        return self._options.engine_config.get("prefix_cache_mode") == "disable"

    @property
    def context_window_size(self) -> int:
        """Tokens of prompt and answer that fit: the model's window, or less in a small KV cache."""
        return self._context_window

    async def device_usage(self) -> DeviceUsage:
        """The model's device; mlc_llm does not report its memory."""
        return DeviceUsage(self._device)

    # Loading

    async def load(self, source: ModelSource, report: LoadReporter) -> None:
        """Make the model ready; see `ModelRuntime.load`."""
        if MLCLLMRuntime._process_used:
            raise EngineDeadError(
                "mlc_llm can load one model per process, and this process has already loaded one: "
                "load the model in a new process.",
                code="fresh_process_needed",
            )
        engine_config = self._engine_config(source)
        weight_bytes = 0
        if not self._options.is_mock:
            report("verify", 0.0, "Checking the weights")
            weight_bytes = await _check_weights(source.path, report)
        phases = LoadPhases(report, weight_bytes)
        report("compile", 0.0, "Importing mlc_llm")
        self._device = await call_in_daemon(lambda: resolve_device(self._options), "mlc_llm-import")
        with model_view.view(source) as folder:
            library = await self._library(folder, engine_config, phases)
            MLCLLMRuntime._process_used = True
            if is_embedding_model(source.config):
                await self._load_embedding(folder, library, source, phases)
            else:
                await self._load_engine(folder, library, source, engine_config, phases)
        report("warm up", 0.5, "Testing the engine")
        self._source = source
        await self._warm_up()

    def _engine_config(self, source: ModelSource) -> dict[str, Any]:
        """The fields of EngineConfig: the user's, and those that `chat_opts` override."""
        config = dict(self._options.engine_config)
        on_disk = read_config_file(source.path)
        for option, name in _FROM_CHAT_OPTS.items():
            wanted = source.config.get(option)
            if wanted is None or wanted == on_disk.get(option):
                continue
            if config.setdefault(name, wanted) != wanted:
                raise BadRequestError(
                    f"chat_opts.{option} = {wanted!r} and runtime_options.engine_config.{name} = "
                    f"{config[name]!r} contradict each other: give only one of them.",
                    param=f"chat_opts.{option}",
                )
            if option == "context_window_size":  # mode="local" would limit it to 8192
                config.setdefault("max_total_sequence_length", wanted)
        return config

    async def _library(
        self, folder: Path, engine_config: dict[str, Any], phases: LoadPhases
    ) -> str:
        """Return the model's library; those of additional models are put into `engine_config`."""

        async def find(model: Path, given: str | None) -> str:
            if given is not None:
                return given
            return await model_library(model, self._device, engine_config, phases.compiler_line)

        more = engine_config.get("additional_models", ())
        if more:
            engine_config["additional_models"] = [
                (model, await find(Path(model), given)) for model, given in more
            ]
        return await find(folder, self._options.model_lib)

    async def _load_engine(
        self,
        folder: Path,
        library: str,
        source: ModelSource,
        engine_config: Mapping[str, Any],
        phases: LoadPhases,
    ) -> None:
        construction = Construction(folder, library, self._device, self._options, engine_config)
        engine = self._engine = await construction.run(phases)
        window = getattr(engine, "max_input_sequence_length", None)
        self._context_window = int(window or source.config.get("context_window_size") or 4096)
        self._exact = sources.can_generate_exactly(engine)
        self._stop_ids = model_view.stop_token_ids(source.config)
        self._vocab_size = _vocab_size(source)
        self._token_ids = await asyncio.to_thread(TokenIds, source.tokenizer)
        self._health = EngineHealth(
            background_threads(engine) or construction.deaths.born(),
            construction.deaths,
            lambda: sources.metrics(engine),
            stall_timeout=self._options.stall_timeout,
            on_dead=self._died,
        )

    async def _load_embedding(
        self, folder: Path, library: str, source: ModelSource, phases: LoadPhases
    ) -> None:
        self._embedding = await EmbeddingEngine.load(
            folder,
            library,
            self._device,
            source.tokenizer,
            source.config,
            lambda: phases.read_bytes(None),
        )
        self._context_window = int(source.config.get("context_window_size") or 512)

    async def _warm_up(self) -> None:
        """Have the engine answer once; its first answer binds it to this event loop."""
        if self._health is None:
            return
        self._health.begin()
        asked = asyncio.ensure_future(sources.metrics(self._engine))
        try:
            while not asked.done():
                if self._health.error is not None:
                    raise self._health.error
                await asyncio.wait({asked}, timeout=_POLL_S)
            if (error := asked.exception()) is not None:
                raise load_error(error) from error
        finally:
            asked.cancel()
            self._health.end()

    # Requests

    async def generate(
        self, prompt_token_ids: Sequence[int], sampling: Sampling, *, request_id: str
    ) -> AsyncGenerator[GenerationEvent, None]:
        """Generate from a prompt; see `ModelRuntime.generate`."""
        source, health = self._source, self._health
        if source is None:
            raise ModelNotLoadedError("The mlc_llm runtime has no model; load one first.")
        if health is None or self._token_ids is None:
            raise UnsupportedModelError(
                f"{source.model_id} is an embedding model, which generates no text."
            )
        if sampling.cache_salt and not self._keeps_prompts_apart:
            raise RuntimeUnavailableError(
                "mlc_llm's prefix cache is common to all prompts, but this engine has a "
                "cache_salt. Load the model with runtime_options="
                "{'engine_config': {'prefix_cache_mode': 'disable'}}, or use runtime='tvm'."
            )
        if health.error is not None:
            raise health.error
        window = self._context_window
        check(prompt_token_ids, sampling, vocab_size=self._vocab_size, context_window=window)
        own_stops = sampling.ignore_eos or set(sampling.stop_token_ids) != self._stop_ids
        ask = sources.exact if self._exact and (sampling.logprobs or own_stops) else sources.public
        # mlc_llm refuses an id that is in use, and may not have released one that was aborted.
        unique = f"{request_id}.{next(self._numbers)}"
        stream = RequestStream(
            ask(self._engine, prompt_token_ids, sampling, unique, window),
            len(prompt_token_ids),
            sampling,
            source.tokenizer,
            self._token_ids,
            health.sign,
        )
        self._streams.add(stream)
        health.begin()
        try:
            async with contextlib.aclosing(stream.events()) as events:
                async for event in events:
                    yield event
        finally:
            health.end()
            self._streams.discard(stream)
            await stream.close()

    async def embed(self, inputs: Sequence[Sequence[int]]) -> Sequence[Sequence[float]]:
        """Embed each token sequence as one vector; see `ModelRuntime.embed`."""
        if self._embedding is None:
            raise UnsupportedModelError(
                "The loaded model has no embeddings: load an embedding model "
                '(its mlc-chat-config.json says "model_task": "embedding").'
            )
        return await self._embedding.embed(inputs)

    def running_step(self) -> RunningStep | None:
        """How long mlc_llm has not responded; see `ModelRuntime.running_step`."""
        return None if self._health is None else self._health.running_step()

    def interrupt(self) -> None:
        """End all running generations with finish reason ``abort``."""
        for stream in list(self._streams):
            stream.abort()

    def _died(self, error: EngineDeadError) -> None:
        if self.on_dead is not None:
            self.on_dead(error)
        for stream in list(self._streams):
            stream.fail(error)

    async def unload(self) -> None:
        """Stop all generations and release the model. Idempotent.

        The device's memory is freed only when the process ends; see
        `capabilities.fresh_process_needed`.
        """
        engine = self._engine or self._embedding
        health, self._health = self._health, None
        self._engine = self._embedding = self._source = None
        if health is not None:
            await health.close()
        for stream in list(self._streams):  # an open one would hang after terminate
            stream.abort()
            await stream.close()
        if engine is not None:
            # terminate() joins the engine's threads, which may never end.
            ended = call_in_daemon(engine.terminate, "mlc_llm-terminate")
            await asyncio.wait({ended}, timeout=_TERMINATE_S)
            if ended.done() and (error := ended.exception()) is not None:
                logger.warning("mlc_llm failed to terminate: %s", error)


def _vocab_size(source: ModelSource) -> int:
    """The number of valid token ids; a tokenizer may have more than the embedding table."""
    inner = source.config.get("model_config")
    sizes = [
        source.tokenizer.vocab_size,
        source.config.get("vocab_size"),
        inner.get("vocab_size") if isinstance(inner, Mapping) else None,
    ]
    return min(s for s in sizes if isinstance(s, int) and s > 0)


async def _check_weights(folder: Path, report: LoadReporter) -> int:
    """Run `model_view.check_weights` on a thread, which ends soon after this is cancelled."""
    cancelled = threading.Event()

    def progress(done: int, total: int) -> None:
        if cancelled.is_set():
            raise InterruptedError
        report(
            "verify", done / max(1, total), "Verifying weights", bytes_done=done, bytes_total=total
        )

    try:
        return await asyncio.to_thread(model_view.check_weights, folder, progress)
    finally:
        cancelled.set()
