"""The direct engine's core: loaded models, routing, reload, interrupt, statistics."""

from __future__ import annotations

import asyncio
import contextlib
import platform
import time
from collections.abc import AsyncGenerator, Coroutine, Iterator, Mapping, Sequence
from typing import Any, Literal

from mlc_widget._version import __version__
from mlc_widget.api.core import ChatOpts, RequestKind
from mlc_widget.api.errors import (
    BadRequestError,
    EngineTerminatedError,
    LoadCancelledError,
    ModelNotLoadedError,
)
from mlc_widget.api.progress import InitProgressCallback, InitProgressReport
from mlc_widget.api.requests import JSONDict, check_chat, check_completion, check_embedding
from mlc_widget.engine.generation import Generation
from mlc_widget.engine.load_monitor import LoadMonitor
from mlc_widget.engine.model import LoadedModel, load_model
from mlc_widget.engine.runtimes.registry import create_runtime
from mlc_widget.engine.shapes import ResponseShape


class DirectCore:
    """`EngineCore` that runs models in this process, each in a runtime of its own.

    Args:
        runtime: The runtime's name, or ``auto``.
        runtime_options: What the runtime is made with, such as ``device`` and ``threads``.
    """

    def __init__(
        self, *, runtime: str = "auto", runtime_options: Mapping[str, Any] | None = None
    ) -> None:
        self._runtime = runtime
        self._runtime_options = dict(runtime_options or {})
        self._models: dict[str, LoadedModel] = {}
        self._generations: dict[str, Generation] = {}
        self._on_progress: InitProgressCallback | None = None
        self._load_lock = asyncio.Lock()
        self._load_task: asyncio.Task[None] | None = None
        self._load_epoch = 0
        self._terminated = False
        self._finished = 0
        self._prompt_tokens = 0
        self._completion_tokens = 0

    def set_init_progress_callback(self, callback: InitProgressCallback | None) -> None:
        """Set who hears of load progress, on the home loop."""
        self._on_progress = callback

    # Loading

    @property
    def loaded(self) -> dict[str, Mapping[str, Any]]:
        """What is really loaded: `chat_opts` by model id, in the order of loading."""
        return {m.model_id: m.chat_opts for m in self._models.values()}

    async def reload(
        self, model_ids: Sequence[str], chat_opts: Sequence[ChatOpts | None] | None = None
    ) -> None:
        """Make exactly these models loaded."""
        self._check_alive()
        opts = list(chat_opts or [None] * len(model_ids))
        if not model_ids or not all(isinstance(m, str) and m for m in model_ids):
            raise BadRequestError(
                f"model_id = {list(model_ids)!r}: give at least one model id.", param="model_id"
            )
        if len(set(model_ids)) != len(model_ids):
            raise BadRequestError(
                f"model_id = {list(model_ids)!r}: give each model once.", param="model_id"
            )
        if len(opts) != len(model_ids):
            raise BadRequestError(
                f"chat_opts has {len(opts)} entries for {len(model_ids)} models: give one each.",
                param="chat_opts",
            )
        await self._alone(self._load_all(list(zip(model_ids, opts, strict=True))))

    async def unload(self) -> None:
        """Unload all models."""
        await self._alone(self._unload_all())

    async def _alone(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a load or unload with no other beside it; a newer one ends an older one."""
        self._load_epoch += 1
        epoch = self._load_epoch
        if self._load_task is not None:
            self._load_task.cancel()
        superseded = LoadCancelledError("A newer reload, unload or terminate ended this load.")
        try:
            async with self._load_lock:
                if epoch != self._load_epoch:
                    raise superseded
                self._load_task = asyncio.create_task(work)
                try:
                    await self._load_task
                except asyncio.CancelledError:
                    if epoch != self._load_epoch:
                        raise superseded from None
                    raise
                finally:
                    self._load_task = None
        finally:
            work.close()

    async def _load_all(self, wanted: list[tuple[str, ChatOpts | None]]) -> None:
        started = time.monotonic()
        await self._unload_all()
        try:
            for i, (model_id, opts) in enumerate(wanted):
                part = (i / len(wanted), (i + 1) / len(wanted))
                monitor = LoadMonitor(model_id, self._emit, started=started, part=part)
                runtime = create_runtime(self._runtime, self._runtime_options)
                try:
                    self._models[model_id] = await load_model(model_id, opts, runtime, monitor)
                except BaseException:
                    await runtime.unload()
                    raise
                monitor("warm up", 1.0, f"{model_id} is ready")
            await asyncio.sleep(0)  # the last report goes out before the load's answer
        except BaseException:
            await self._unload_all()  # a failed load leaves nothing half loaded
            raise

    async def _unload_all(self) -> None:
        models, self._models = self._models, {}
        for generation in list(self._generations.values()):
            generation.abort()
        for model in models.values():
            await model.runtime.unload()

    def _emit(self, report: InitProgressReport) -> None:
        if self._on_progress is not None:
            self._on_progress(report)

    # Requests

    def _check_alive(self) -> None:
        if self._terminated:
            raise EngineTerminatedError("This engine was terminated; make a new one.")

    def _model(self, model_id: str | None) -> LoadedModel:
        self._check_alive()
        if not self._models:
            raise ModelNotLoadedError("No model is loaded: call reload(model_id) first.")
        if model_id is None:
            if len(self._models) > 1:
                raise BadRequestError(
                    f"model: several are loaded, name one of {', '.join(self._models)}.",
                    param="model",
                )
            return next(iter(self._models.values()))
        try:
            return self._models[model_id]
        except KeyError:
            raise ModelNotLoadedError(
                f"model = {model_id!r}: not loaded; loaded: {', '.join(self._models)}.",
                param="model",
            ) from None

    def _generation(
        self, kind: Literal["chat", "completion"], request: Mapping[str, Any]
    ) -> Generation:
        checked = check_chat(request) if kind == "chat" else check_completion(request)
        model = self._model(checked.get("model"))
        model.check_supported(checked)
        if kind == "chat":
            prompt = model.template.prompt(checked["messages"], model.tokenizer)
        elif isinstance(checked["prompt"], str):
            prompt = model.tokenizer.encode(checked["prompt"])
        else:
            prompt = checked["prompt"]
            model.check_ids("prompt", prompt)
        request_id = checked.get("request_id", "")
        if request_id in self._generations:
            raise BadRequestError(
                f"request_id = {request_id!r}: a request with this id is running.",
                param="request_id",
            )
        return Generation(
            model,
            ResponseShape(kind, model.model_id, id=request_id),
            prompt,
            model.sampling(checked, stop_at_template=kind == "chat"),
            checked.get("n", 1),
            include_usage=checked.get("stream_options", {}).get("include_usage", False),
        )

    async def request(self, kind: RequestKind, request: JSONDict) -> JSONDict:
        """Answer one request with the whole response."""
        if kind == "embedding":
            return await self._embed(check_embedding(request))
        generation = self._generation(kind, {**request, "stream": None, "stream_options": None})
        with self._running(generation):
            return await generation.whole()

    async def open_stream(
        self, kind: RequestKind, request: JSONDict
    ) -> AsyncGenerator[list[JSONDict], None]:
        """Accept one streaming request."""
        if kind == "embedding":
            raise BadRequestError("stream = True: embeddings do not stream.", param="stream")
        return self._chunks(self._generation(kind, {**request, "stream": True}))

    async def _chunks(self, generation: Generation) -> AsyncGenerator[list[JSONDict], None]:
        with self._running(generation):
            async with contextlib.aclosing(generation.chunks()) as chunks:
                async for batch in chunks:
                    yield batch

    @contextlib.contextmanager
    def _running(self, generation: Generation) -> Iterator[None]:
        self._generations[generation.request_id] = generation
        try:
            yield
        finally:
            self._generations.pop(generation.request_id, None)
            self._finished += 1
            self._prompt_tokens += generation.prompt_tokens
            self._completion_tokens += generation.completion_tokens

    async def _embed(self, request: JSONDict) -> JSONDict:
        model = self._model(request.get("model"))
        inputs = []
        for text in request["input"]:
            ids = model.tokenizer.encode(text) if isinstance(text, str) else text
            model.check_ids("input", ids)
            inputs.append(ids)
        vectors = await model.runtime.embed(inputs)
        tokens = sum(map(len, inputs))
        return {
            "object": "list",
            "model": model.model_id,
            "data": [
                {"object": "embedding", "index": i, "embedding": list(v)}
                for i, v in enumerate(vectors)
            ],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }

    async def interrupt_generate(self) -> None:
        """End everything that generates now."""
        for generation in list(self._generations.values()):
            generation.abort()

    async def abort(self, request_id: str) -> None:
        """End one request."""
        generation = self._generations.get(request_id)
        if generation is not None:
            generation.abort()

    # State and statistics

    async def reset_chat(self, keep_stats: bool = False, model_id: str | None = None) -> None:
        """Forget the last message and, unless kept, the statistics."""
        model = self._model(model_id)
        model.last_message = ""
        if not keep_stats:
            model.last_usage = None

    async def get_message(self, model_id: str | None = None) -> str:
        """The last generated message."""
        return self._model(model_id).last_message

    async def runtime_stats_text(self, model_id: str | None = None) -> str:
        """WebLLM's line: ``prefill: 12.3 tokens/sec, decoding: 45.6 tokens/sec``."""
        extra = (self._model(model_id).last_usage or {}).get("extra", {})
        prefill = extra.get("prefill_tokens_per_s", 0.0)
        decode = extra.get("decode_tokens_per_s", 0.0)
        return f"prefill: {prefill:.4f} tokens/sec, decoding: {decode:.4f} tokens/sec"

    async def metrics(self) -> JSONDict:
        """Counters since this engine was made."""
        return {
            "running_requests": len(self._generations),
            "finished_requests": self._finished,
            "prompt_tokens_sum": self._prompt_tokens,
            "completion_tokens_sum": self._completion_tokens,
        }

    async def list_models(self) -> list[JSONDict]:
        """The loaded models, as OpenAI's model objects."""
        self._check_alive()
        return [
            {
                "id": m.model_id,
                "object": "model",
                "created": m.created,
                "owned_by": m.runtime.name,
                "context_window_size": m.runtime.context_window_size,
            }
            for m in self._models.values()
        ]

    async def device_info(self) -> JSONDict:
        """Runtime, device and versions."""
        models = list(self._models.values())
        return {
            "runtime": models[0].runtime.name if models else self._runtime,
            "device": models[0].runtime.capabilities.devices[0] if models else None,
            "machine": platform.machine(),
            "mlc_widget": __version__,
            "python": platform.python_version(),
        }

    async def terminate(self) -> None:
        """End the engine for good."""
        if not self._terminated:
            self._terminated = True
            with contextlib.suppress(LoadCancelledError):
                await self.unload()
