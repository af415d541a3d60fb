"""The direct engine's core: routes requests and calls to the loaded models."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from mlc_widget.api.app_config import AppConfig
from mlc_widget.api.core import DROPPED, TERMINATED, ChatOpts, ChunkSource, RequestKind
from mlc_widget.api.engine_log import EngineLog, EngineLogRecord
from mlc_widget.api.errors import (
    BadRequestError,
    EngineDeadError,
    EngineTerminatedError,
    MLCEngineError,
)
from mlc_widget.api.load_request import LoadTarget, RequiredModels
from mlc_widget.api.log_level import set_log_level
from mlc_widget.api.logit_processor import LogitProcessorFactory
from mlc_widget.api.progress import InitProgressCallback
from mlc_widget.api.request_ids import new_request_id, of_request
from mlc_widget.api.requests import (
    JSONDict,
    check_chat,
    check_completion,
    check_embedding,
    choices_of,
    prompts_of,
)
from mlc_widget.api.resumable import ResumableSession, ResumeResult
from mlc_widget.api.statistics import EngineStatistics
from mlc_widget.engine.chat_plan import AnswerPlan
from mlc_widget.engine.counters import Counters
from mlc_widget.engine.device import describe_device
from mlc_widget.engine.embedding import RunningEmbeddings, embed
from mlc_widget.engine.forwarding import forward_and_sample
from mlc_widget.engine.generation import Echo, Generation
from mlc_widget.engine.loaded_models import LoadedModels, replaced_error
from mlc_widget.engine.model import LoadedModel
from mlc_widget.engine.planner import Planner
from mlc_widget.engine.resumption import Resumption
from mlc_widget.engine.sessions.journaled_answer import JournaledAnswer, resumable_request
from mlc_widget.engine.sessions.session_store import SessionStore
from mlc_widget.engine.shapes import ResponseShape
from mlc_widget.engine.shared_models import ClientModels, SharedModels
from mlc_widget.engine.text.prompt_text import markup


class DirectCore:
    """An `EngineCore` that runs models in this process, each in a runtime of its own.

    Args:
        runtime: The runtime's name, or ``auto``.
        runtime_options: Options of the runtime, such as ``device`` and ``threads``.
        logit_processors: Factories by model id, in addition to those of installed packages (entry
            points).
        shared: Models that this core shares with others, which are for other clients; they have
            options of their own.
    """

    def __init__(
        self,
        *,
        runtime: str = "auto",
        runtime_options: Mapping[str, Any] | None = None,
        logit_processors: Mapping[str, LogitProcessorFactory] | None = None,
        shared: SharedModels | None = None,
    ) -> None:
        self._runtime = runtime
        self._models: LoadedModels | ClientModels
        if shared is None:
            self._models = LoadedModels(runtime, runtime_options, logit_processors, self._end_all)
        else:
            client, busy = uuid.uuid4().hex, lambda: any(self._running())
            self._models = ClientModels(shared, client, self._end_all, busy)
        self._app_config = AppConfig()
        self._generations: dict[str, Generation] = {}
        self._opening: dict[str, asyncio.Event] = {}  # set if aborted before they began
        self._planner = Planner(shares=shared is not None)
        self._embeddings = RunningEmbeddings()
        self._counters = Counters()
        self._end_message: str | None = None  # once it was terminated
        self.log = EngineLog(own_only=shared is not None)

    def describe(self) -> str:
        """The model and the state in a few words, from any thread."""
        names = self._models.names()
        state = "terminated" if self._end_message else self._models.state
        return f"{', '.join(names) or 'no model'}: {state}"

    def set_init_progress_callback(self, callback: InitProgressCallback | None) -> None:
        """Set the callback for load progress; it is called on the home loop."""
        self._models.on_progress = callback

    def set_dead_callback(self, callback: Callable[[EngineDeadError], None] | None) -> None:
        """Set the callback for an engine that needs a fresh process; called on the home loop.

        It is called before the running requests fail.
        """
        self._models.on_dead = callback

    def set_cache_salt(self, salt: str) -> None:
        """Set the `Sampling.cache_salt` of all requests, before anything is loaded.

        Raises:
            RuntimeError: The models of this core are not shared.
        """
        if not isinstance(self._models, ClientModels):
            raise RuntimeError("only the clients of shared models have salts")
        self._models.cache_salt = salt

    # Loading

    async def reload(
        self,
        model_ids: Sequence[str],
        chat_opts: Sequence[ChatOpts | None] | None = None,
        app_config: AppConfig | None = None,
    ) -> None:
        """Load these models and unload all others; `app_config` replaces the one that was set.

        What is loaded answers until these are ready, and stays if they cannot be loaded; see
        `LoadedModels.load`.
        """
        self._check_alive()
        target = LoadTarget.read(model_ids, chat_opts)
        with self.log.noting_failure("A load"):
            await self._models.load(target, app_config or self._app_config)
        self.log.note("The models are loaded.")

    async def check_reload(
        self,
        model_ids: Sequence[str],
        chat_opts: Sequence[ChatOpts | None] | None = None,
        app_config: AppConfig | None = None,
    ) -> None:
        """Find, download and read models as `reload` would, without loading them."""
        self._check_alive()
        target = LoadTarget.read(model_ids, chat_opts)
        await self._models.check(target, app_config or self._app_config)

    async def cancel_load(self) -> None:
        """Cancel a running load; what was loaded before stays."""
        self._check_alive()
        await self._models.cancel_load()

    async def _ensure(self, required: RequiredModels | None) -> None:
        """Load these models unless they are loaded; joins a running load of the same models."""
        self._check_alive()
        if required is None:
            await self._models.ensure_current()
        else:
            await self._models.ensure(
                required.target, required.app_config, resends=required.resends
            )

    @property
    def running_requests(self) -> int:
        """The number of requests that run, or wait for a load."""
        return sum(map(len, self._running()))

    @property
    def target(self) -> tuple[LoadTarget, str] | None:
        """What is loaded, with its app config's digest."""
        return self._models.target

    async def unload(self) -> None:
        """Unload all models."""
        self._check_alive()
        await self._models.unload()

    async def set_app_config(self, config: Mapping[str, Any] | None) -> None:
        """Set the names that `reload` knows."""
        self._check_alive()
        self._app_config = AppConfig.read(config)

    # Requests

    def _check_alive(self) -> None:
        if self._end_message:
            raise EngineTerminatedError(self._end_message)

    def _model(self, model_id: str | None) -> LoadedModel:
        self._check_alive()
        return self._models.get(model_id)

    def _id_of(self, kind: RequestKind, checked: JSONDict) -> str:
        request_id: str = checked.get("request_id") or new_request_id(kind)
        if any(request_id in those for those in self._running()):
            raise BadRequestError(
                f"request_id = {request_id!r}: a request with this id is running; give another id.",
                param="request_id",
            )
        return request_id

    def _running(self) -> Sequence[Collection[str]]:
        """The ids of all requests, by their stage."""
        return self._opening, self._generations, self._embeddings

    async def _generation(
        self,
        kind: Literal["chat", "completion"],
        request: Mapping[str, Any],
        required: RequiredModels | None,
        gather_s: float,
        journal: bool,
        resumption: Resumption | None,
    ) -> Generation:
        """Check a request, prepare for it, and start it."""
        checked = check_chat(request) if kind == "chat" else check_completion(request)
        request_id = self._id_of(kind, checked)
        self._opening[request_id] = aborted = asyncio.Event()
        try:
            await self._ensure(required)
            model = self._model(checked.get("model"))
            model.check_supported(checked)
            model.check_prompt_logprobs(checked)
            answers = await self._planner.plan(kind, model, checked)
            sampling = replace(
                model.sampling(checked, stop_at_template=kind == "chat"), grammar=answers.grammar
            )
            prompts = await self._prompts(kind, model, checked, answers)
            if resumption is not None:
                resumption.check(model, sampling, choices_of(checked))
            self._check_alive()
            if not self._models.holds(model):  # reloaded while the prompt was encoded
                raise replaced_error()
        except MLCEngineError as error:
            raise of_request(error, request_id) from error.__cause__
        finally:
            del self._opening[request_id]
        switched = checked.get("logprobs") is True
        shape = ResponseShape(kind, model.model_id, request_id, chat_logprobs=switched)
        if resumption is not None:
            shape = replace(shape, created=resumption.created)
        generation = Generation(
            model,
            shape,
            prompts,
            sampling,
            answers,
            checked.get("n", 1),
            include_usage=checked.get("stream_options", {}).get("include_usage", False),
            echo=_echo(model, checked) if checked.get("echo") else (),
            gather_s=gather_s,
            journal=journal,
            resumption=resumption,
            streamed=checked.get("stream") is True,
            on_end=self._ended,
        )
        self._generations[request_id] = generation
        if aborted.is_set():
            generation.abort()
        return generation

    async def _prompts(
        self,
        kind: Literal["chat", "completion"],
        model: LoadedModel,
        checked: JSONDict,
        answers: AnswerPlan,
    ) -> list[list[int]]:
        """The token ids of each prompt of a request; a chat has one."""
        if kind == "chat":
            rendered = await model.encoder.encode_prompt(answers.prompt)
            ids = [*model.template.system_prefix_token_ids, *rendered]
            model.check_context("messages", len(ids))
            return [ids]
        given = prompts_of(checked)
        return [
            await _prompt_ids(model, "prompt" if len(given) == 1 else f"prompt[{i}]", one)
            for i, one in enumerate(given)
        ]

    def _ended(self, generation: Generation) -> None:
        if generation.streamed and generation.error is not None:  # else its caller gets the error
            self.log.failed("A request", generation.error, generation.request_id)
        self._generations.pop(generation.request_id, None)
        self._counters.add(generation.stats, generation.completion_tokens)

    async def request(
        self, kind: RequestKind, request: JSONDict, required: RequiredModels | None = None
    ) -> JSONDict:
        """Answer one request with the whole response.

        Args:
            kind: The kind of request.
            request: The request in OpenAI's shape.
            required: Models to load first, after the request has been checked. The request may be
                aborted meanwhile.
        """
        with self.log.noting_failure("A request", request.get("request_id")):
            return await self._whole(kind, request, required)

    async def _whole(
        self, kind: RequestKind, request: JSONDict, required: RequiredModels | None
    ) -> JSONDict:
        if kind == "embedding":
            checked = check_embedding(request)
            request_id = self._id_of(kind, checked)
            try:
                return await self._embeddings.run(request_id, self._embedding(checked, required))
            except MLCEngineError as error:
                raise of_request(error, request_id) from error.__cause__
        whole = {**request, "stream": None, "stream_options": None}
        return await (await self._answer(kind, whole, required)).whole()

    async def _embedding(self, checked: JSONDict, required: RequiredModels | None) -> JSONDict:
        await self._ensure(required)
        return await embed(self._model(checked.get("model")), checked)

    async def open_stream(
        self,
        kind: RequestKind,
        request: JSONDict,
        required: RequiredModels | None = None,
        gather_s: float = 0.0,
        journal: bool = False,
        resumption: Resumption | None = None,
    ) -> ChunkSource:
        """Accept one streaming request, which runs until it ends or is closed.

        Args:
            kind: The kind of request.
            request: The request in OpenAI's shape.
            required: As for `request`.
            gather_s: The minimum time between two batches of chunks in seconds; see `Generation`.
            journal: Whether chunks have a ``journal``; see `Generation`.
            resumption: What was already delivered of a stream that is to be continued.

        Raises:
            EngineDeadError: The runtime cannot continue the stream.
        """
        with self.log.noting_failure("A request", request.get("request_id")):
            if kind == "embedding":
                raise BadRequestError("stream = True: embeddings do not stream.", param="stream")
            streamed = {**request, "stream": True}
            return await self._answer(kind, streamed, required, gather_s, journal, resumption)

    async def _answer(
        self,
        kind: Literal["chat", "completion"],
        request: JSONDict,
        required: RequiredModels | None,
        gather_s: float = 0.0,
        journal: bool = False,
        resumption: Resumption | None = None,
    ) -> Generation | JournaledAnswer:
        """Start a request, whose answer is written to a session if it asks for one."""
        if (kept := resumable_request(kind, request)) is None:
            return await self._generation(kind, request, required, gather_s, journal, resumption)
        generation = await self._generation(kind, kept, required, gather_s, True, resumption)
        return await JournaledAnswer.begin(generation, kept, resumption, keeps_journals=journal)

    async def list_resumable_sessions(self) -> list[ResumableSession]:
        """The sessions on disk."""
        self._check_alive()
        return await asyncio.to_thread(SessionStore().list)

    async def read_resumable_session(self, session_id: str) -> ResumeResult:
        """The text of a session's answer."""
        self._check_alive()
        return (await asyncio.to_thread(SessionStore().read, session_id)).result()

    async def resumed_request(self, session_id: str, request: JSONDict) -> JSONDict:
        """What continues a session's answer.

        Args:
            session_id: The session.
            request: The request as it was at first, or empty if the session has its messages.

        Returns:
            ``request``, complete; ``resume``, what its reader has, as in a stream's init; and
            ``before``, what was recovered, as WebLLM's `ResumeResult`.
        """
        self._check_alive()
        state = await asyncio.to_thread(SessionStore().read, session_id)
        return {
            "request": state.request(request),
            "resume": state.resume(),
            "before": state.result().to_wire(),
        }

    async def resume_stream(
        self, session_id: str, request: JSONDict, *, include_usage: bool = False
    ) -> tuple[ResumeResult, ChunkSource]:
        """Continue a session's answer."""
        resumed = await self.resumed_request(session_id, request)
        options = {"stream": True, "stream_options": {"include_usage": include_usage}}
        resumption = resumed["resume"] and Resumption.read(resumed["resume"])
        source = await self.open_stream(
            "chat", {**resumed["request"], **options}, resumption=resumption
        )
        return ResumeResult.from_wire(resumed["before"]), source

    async def delete_resumable_session(self, session_id: str) -> None:
        """Delete a session."""
        self._check_alive()
        await asyncio.to_thread(SessionStore().delete, session_id)

    def _end_all(self) -> None:
        """End all requests, before models are unloaded."""
        for generation in list(self._generations.values()):
            if self._end_message:
                generation.fail(EngineTerminatedError(self._end_message))
            else:
                generation.abort()
        message = self._end_message
        self._embeddings.end_all(EngineTerminatedError(message) if message else None)

    async def interrupt_generate(self) -> None:
        """End all running requests."""
        self._check_alive()
        for request_id in [i for those in self._running() for i in those]:
            await self.abort(request_id)

    async def abort(self, request_id: str) -> None:
        """End one request."""
        self._check_alive()
        if request_id in self._opening:  # it ends as soon as it has begun
            self._opening[request_id].set()
        elif request_id in self._generations:
            self._generations[request_id].abort()
        else:
            self._embeddings.end(request_id)

    async def forward_tokens_and_sample(
        self, input_ids: Sequence[int], is_prefill: bool, model_id: str | None
    ) -> int:
        """Append tokens to the model's raw context and sample the next one."""
        await self._ensure(None)
        return await forward_and_sample(self._model(model_id), input_ids)

    # State and statistics

    async def reset_chat(self, keep_stats: bool = False, model_id: str | None = None) -> None:
        """Forget the last message, the raw context and, unless kept, the statistics."""
        model = self._model(model_id)
        model.last_message = ""
        model.forwarded.clear()
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
        self._check_alive()
        return self._counters.read(len(self._generations) + len(self._embeddings))

    async def statistics(self) -> EngineStatistics:
        """What this engine is doing."""
        self._check_alive()
        return self.read_statistics()

    async def logs(self) -> list[EngineLogRecord]:
        """What has happened to this engine; also after its end."""
        return self.log.read()

    def read_statistics(self) -> EngineStatistics:
        """What this engine is doing, whether or not it has ended."""
        waiting = sum(generation.waiting for generation in self._generations.values())
        return EngineStatistics(
            running_requests=self.running_requests,
            waiting_requests=len(self._opening) + waiting,
            open_streams=sum(generation.streamed for generation in self._generations.values()),
        )

    async def running_steps(self) -> list[JSONDict]:
        """The current steps of the models' threads; see `LoadedModels.running_steps`."""
        return self._models.running_steps()

    async def set_log_level(self, level: str) -> None:
        """Set the level of this process's loggers."""
        self._check_alive()
        set_log_level(level)

    async def list_models(self) -> list[JSONDict]:
        """The loaded models, as OpenAI's model objects."""
        self._check_alive()
        return [m.describe() for m in self._models]

    async def device_info(self) -> JSONDict:
        """Runtime, device and versions; memory in bytes. See `describe_device`."""
        self._check_alive()
        info = await describe_device(self._runtime, list(self._models))
        return {**info, "fresh_process_needed": self._models.fresh_process_needed}

    async def terminate(self, *, dropped: bool = False, message: str = TERMINATED) -> None:
        """End the engine for good.

        Args:
            dropped: Whether the reason is that nothing refers to the engine any more.
            message: What running and later requests say otherwise.
        """
        if self._end_message is None:
            self._end_message = DROPPED if dropped else message
            self.log.note("The engine was terminated.")
            self.log.close()
            await self._models.unload()


async def _prompt_ids(model: LoadedModel, param: str, prompt: str | list[int]) -> list[int]:
    """The token ids of a completion's prompt."""
    if isinstance(prompt, str):
        model.check_length(param, len(prompt))
        encoded = await model.encoder.encode_prompt(markup(prompt))
        prompt = [*model.template.completion_prefix_token_ids, *encoded]
    else:
        model.check_ids(param, prompt)
    model.check_context(param, len(prompt))
    return prompt


def _echo(model: LoadedModel, checked: JSONDict) -> list[Echo]:
    """The text with which the answers of each prompt begin, without the template's prefix."""
    prefix = len(model.template.completion_prefix_token_ids)
    return [
        Echo(p, prefix) if isinstance(p, str) else Echo(model.tokenizer.decode(p))
        for p in prompts_of(checked)
    ]
