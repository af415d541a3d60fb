"""The interface of all engines whose methods block the calling thread."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from functools import partial
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack, overload

from mlc_widget.api.core import ChatOpts, EngineCore, ModelName
from mlc_widget.api.engine_base import EngineBase, model_list, optional_model, opts_list
from mlc_widget.api.engine_log import EngineLogRecord
from mlc_widget.api.engine_options import takes_options
from mlc_widget.api.errors import MLCEngineError
from mlc_widget.api.home_loop import HomeLoop, to_raise
from mlc_widget.api.metrics import EngineMetrics
from mlc_widget.api.progress import InitProgressCallback, InitProgressReport
from mlc_widget.api.request_params import ChatParams
from mlc_widget.api.request_values import JSONDict, identifier, token_ids
from mlc_widget.api.resources import Chat, Completions, Embeddings, Models
from mlc_widget.api.responses import chat_completion_chunk, warm_up
from mlc_widget.api.resumable import ResumableSession, ResumeResult
from mlc_widget.api.resumable_field import session_id as check_session_id
from mlc_widget.api.resume import Resume
from mlc_widget.api.statistics import EngineStatistics
from mlc_widget.api.streams import Stream, StreamBuffer
from mlc_widget.api.table.options import MAP_DEFAULTS, MapOptions
from mlc_widget.api.tracebacks import releases_locals_of_methods

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI
    from openai.types.chat import ChatCompletionChunk

    from mlc_widget.api.table.prompts import Prompt
    from mlc_widget.api.table.report import MapRow


@releases_locals_of_methods
class MLCEngineInterface(EngineBase):
    """Every engine whose methods block the calling thread; otherwise as the awaited interface.

    Args:
        core: Computes the answers.
        home: The loop that it runs on.
    """

    def __init__(self, core: EngineCore, home: HomeLoop) -> None:
        super().__init__(core, home)
        self.chat = Chat(core, home)
        self.completions = Completions(core, home)
        self.embeddings = Embeddings(core, home)
        self.models = Models(core, home)
        self._reports: SimpleQueue[InitProgressReport | None] | None = None

    def set_init_progress_callback(self, callback: InitProgressCallback | None) -> None:
        """Set the callback for load progress; it is called on the thread that called `reload`."""
        self._callback = callback

    def _on_progress(self, report: InitProgressReport) -> None:
        reports = self._reports
        if reports is not None:
            reports.put(report)

    def _call(self, method: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> Any:
        return self._home.wait_blocking(partial(method, *args))

    def _call_reporting(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        reports: SimpleQueue[InitProgressReport | None] = SimpleQueue()
        self._reports = reports
        future = self._home.start(work)
        future.add_done_callback(lambda _: reports.put(None))
        try:
            while (report := reports.get()) is not None:
                if self._callback is not None:
                    self._callback(report)
            future.result()
        except MLCEngineError as error:
            future.cancel()  # the callback may have raised it
            raise to_raise(error) from error.__cause__
        except BaseException:
            future.cancel()
            raise
        finally:
            if self._reports is reports:
                self._reports = None

    def reload(
        self,
        model_id: ModelName | Sequence[ModelName],
        chat_opts: ChatOpts | Sequence[ChatOpts | None] | None = None,
    ) -> None:
        """As `AsyncMLCEngineInterface.reload`; an exception in the progress callback cancels it."""
        warm_up()
        models, opts = model_list(model_id), opts_list(chat_opts)
        self._load_warning = ""  # of a load that nobody waited for
        self._call_reporting(partial(self._core.reload, models, opts))
        self._warn_of_load()

    def unload(self) -> None:
        """As `AsyncMLCEngineInterface.unload`."""
        self._call(self._core.unload)

    @takes_options(MapOptions, MAP_DEFAULTS)
    def map(self, prompt: Prompt, data: Any, **options: Unpack[MapOptions]) -> Any:
        """As `AsyncMLCEngineInterface.map`."""
        return self._map_run(prompt, data, options).table_blocking()

    @takes_options(MapOptions, MAP_DEFAULTS)
    def map_stream(
        self, prompt: Prompt, data: Any, **options: Unpack[MapOptions]
    ) -> Iterator[MapRow]:
        """As `AsyncMLCEngineInterface.map_stream`, an iterator for ``for``."""
        return self._map_run(prompt, data, options).stream_blocking()

    def list_resumable_sessions(self) -> list[ResumableSession]:
        """As `AsyncMLCEngineInterface.list_resumable_sessions`."""
        sessions: list[ResumableSession] = self._call(self._core.list_resumable_sessions)
        return sessions

    @overload
    def resume_chat_completion(
        self,
        session_id: str,
        *,
        continue_generation: bool = ...,
        stream: Literal[False] = ...,
        messages: Sequence[Mapping[str, Any]] | None = ...,
        **params: Unpack[ChatParams],
    ) -> ResumeResult: ...
    @overload
    def resume_chat_completion(
        self,
        session_id: str,
        *,
        continue_generation: Literal[True],
        stream: Literal[True],
        messages: Sequence[Mapping[str, Any]] | None = ...,
        **params: Unpack[ChatParams],
    ) -> Stream[ChatCompletionChunk]: ...
    def resume_chat_completion(
        self,
        session_id: str,
        *,
        continue_generation: bool = False,
        stream: bool = False,
        messages: Sequence[Mapping[str, Any]] | None = None,
        **params: Unpack[ChatParams],
    ) -> ResumeResult | Stream[ChatCompletionChunk]:
        """As `AsyncMLCEngineInterface.resume_chat_completion`."""
        resume = Resume.read(
            session_id, continue_generation, stream, {"messages": messages, **params}
        )
        if not resume.streams:
            result: ResumeResult = self._call(resume.result, self._core)
            return result
        opening = partial(self._open_resumed, resume)
        relay = self._home.wait_blocking(opening, abandoned=StreamBuffer.close)
        return Stream(relay, chat_completion_chunk)

    def delete_resumable_session(self, session_id: str) -> None:
        """As `AsyncMLCEngineInterface.delete_resumable_session`."""
        checked = check_session_id("session_id", session_id)
        self._call(self._core.delete_resumable_session, checked)

    def interrupt_generate(self) -> None:
        """As `AsyncMLCEngineInterface.interrupt_generate`."""
        self._call(self._core.interrupt_generate)

    def abort(self, request_id: str) -> None:
        """As `AsyncMLCEngineInterface.abort`."""
        self._call(self._core.abort, identifier("request_id", request_id))

    def reset_chat(self, keep_stats: bool = False, model_id: str | None = None) -> None:
        """As `AsyncMLCEngineInterface.reset_chat`."""
        self._call(self._core.reset_chat, keep_stats, optional_model(model_id))

    def get_message(self, model_id: str | None = None) -> str:
        """As `AsyncMLCEngineInterface.get_message`."""
        return str(self._call(self._core.get_message, optional_model(model_id)))

    def runtime_stats_text(self, model_id: str | None = None) -> str:
        """As `AsyncMLCEngineInterface.runtime_stats_text`."""
        return str(self._call(self._core.runtime_stats_text, optional_model(model_id)))

    def forward_tokens_and_sample(
        self, input_ids: Sequence[int], is_prefill: bool = False, model_id: str | None = None
    ) -> int:
        """As `AsyncMLCEngineInterface.forward_tokens_and_sample`."""
        ids = token_ids("input_ids", input_ids)
        call = self._core.forward_tokens_and_sample
        return int(self._call(call, ids, is_prefill, optional_model(model_id)))

    def set_app_config(self, app_config: Mapping[str, Any] | None) -> None:
        """As `AsyncMLCEngineInterface.set_app_config`."""
        self._call(self._core.set_app_config, app_config)

    def set_log_level(self, level: str) -> None:
        """As `AsyncMLCEngineInterface.set_log_level`."""
        self._call(self._core.set_log_level, level)

    def metrics(self) -> EngineMetrics:
        """As `AsyncMLCEngineInterface.metrics`."""
        return EngineMetrics(self._call(self._core.metrics))

    def statistics(self) -> EngineStatistics:
        """As `AsyncMLCEngineInterface.statistics`."""
        found: EngineStatistics = self._call(self._core.statistics)
        return found

    def logs(self) -> list[EngineLogRecord]:
        """As `AsyncMLCEngineInterface.logs`."""
        found: list[EngineLogRecord] = self._call(self._core.logs)
        return found

    @overload
    def openai_client(self, *, sync: Literal[True] | None = ..., **options: Any) -> OpenAI: ...
    @overload
    def openai_client(self, *, sync: Literal[False], **options: Any) -> AsyncOpenAI: ...
    def openai_client(self, *, sync: bool | None = None, **options: Any) -> AsyncOpenAI | OpenAI:
        """As `AsyncMLCEngineInterface.openai_client`, blocking unless `sync` is False."""
        return self._openai_client(True if sync is None else sync, options)

    def device_info(self) -> JSONDict:
        """As `AsyncMLCEngineInterface.device_info`."""
        info: JSONDict = self._call(self._core.device_info)
        return info

    def terminate(self) -> None:
        """As `AsyncMLCEngineInterface.terminate`."""
        self._call(self._terminate)

    def close(self) -> None:
        """As `AsyncMLCEngineInterface.close`."""
        self.terminate()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.terminate()
