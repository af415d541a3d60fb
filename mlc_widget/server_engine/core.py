"""The core of the server engines: an `EngineCore` on a server of OpenAI's API.

It runs on the home loop of the notebook's process: asynchronous HTTP needs no worker, and a server
that crashes, hangs or misbehaves is another process already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from mlc_widget._version import __version__
from mlc_widget.api.core import DROPPED, TERMINATED, ChatOpts, ChunkSource, RequestKind
from mlc_widget.api.errors import EngineTerminatedError, UnsupportedFieldError
from mlc_widget.api.home_loop import HomeLoop
from mlc_widget.api.metrics import no_metrics
from mlc_widget.api.progress import InitProgressCallback
from mlc_widget.api.published_link import PublishedLink
from mlc_widget.api.requests import JSONDict
from mlc_widget.api.resumable import ResumableSession, ResumeResult
from mlc_widget.api.statistics import EngineStatistics
from mlc_widget.server_engine.connection import ServerConnection
from mlc_widget.server_engine.exchange import Exchange
from mlc_widget.server_engine.fields import PATHS, no_sessions
from mlc_widget.server_engine.loading import ServerModels
from mlc_widget.server_engine.running import Running, ServerStream


class ServerCore(PublishedLink):
    """An engine on a server. State lives on the home loop; snapshots go anywhere.

    Args:
        home: The loop that owns it.
        connection: To the server.
        extra_fields: Request fields that the user vouches for.
    """

    def __init__(
        self, home: HomeLoop, connection: ServerConnection, extra_fields: Sequence[str]
    ) -> None:
        super().__init__(home)
        self._connection = connection
        self._models = ServerModels(home, connection, self._publisher, extra_fields)
        self._running: set[Running] = set()
        self._last: dict[str, Exchange] = {}
        self._metrics = no_metrics()

    # For widgets: from any thread

    def cancel_load(self) -> None:
        """Stop asking the server for its models. On the home loop."""
        self._models.cancel()

    # EngineCore: models

    def set_init_progress_callback(self, callback: InitProgressCallback | None) -> None:
        """Set the callback for load progress; it is called on the home loop."""
        self._models.on_progress = callback

    async def set_app_config(self, config: Mapping[str, Any] | None) -> None:
        """Refused, as the server has its own names.

        Raises:
            UnsupportedFieldError: always, but for None.
        """
        if config is not None:
            raise UnsupportedFieldError(
                "app_config: a server names its models itself; `reload` takes these names.",
                param="app_config",
            )

    async def reload(
        self, model_ids: Sequence[str], chat_opts: Sequence[ChatOpts | None] | None = None
    ) -> None:
        """Use these models of the server, or its only one. Nothing changes on the server."""
        await self._models.load(model_ids or None, chat_opts)

    def begin_reload(
        self, model_ids: Sequence[str], chat_opts: Sequence[ChatOpts | None] | None = None
    ) -> None:
        """Begin to use these models of the server; no names mean its only one."""
        self._models.begin(model_ids or None, chat_opts)

    async def reload_last(self) -> None:
        """Repeat the last `reload`."""
        await self._models.load_again()

    async def restart(self) -> None:
        """Ask the server again for its models; the server itself is not restarted."""
        await self._models.load_again()

    async def unload(self) -> None:
        """Use no model any more; the server keeps them."""
        self._models.forget()
        self._last.clear()

    async def terminate(self, *, dropped: bool = False) -> None:
        """End all requests and close all connections."""
        reason = DROPPED if dropped else TERMINATED
        self._models.end(reason)
        for running in list(self._running):
            running.abort(reason)
        self._log.close()
        await self._connection.close()

    # EngineCore: requests

    async def request(self, kind: RequestKind, request: JSONDict) -> JSONDict:
        """Answer one request with the whole response."""
        with self._noting_failure(request):
            return await self._whole(kind, request)

    async def _whole(self, kind: RequestKind, request: JSONDict) -> JSONDict:
        running = await self._begin(kind, {**request, "stream": None, "stream_options": None})
        exchange = running.exchange
        try:
            answer = await running.wait(
                self._connection.ask("POST", self._url(kind), exchange.body)
            )
            return exchange.aborted() if answer is None else exchange.whole(answer.content)
        finally:
            self._ended(running)

    async def open_stream(self, kind: RequestKind, request: JSONDict) -> ChunkSource:
        """Accept one streaming request; the server's refusal raises here."""
        with self._noting_failure(request):
            return await self._stream(kind, request)

    async def _stream(self, kind: RequestKind, request: JSONDict) -> ServerStream:
        running = await self._begin(kind, {**request, "stream": True})
        try:
            events = await running.wait(
                self._connection.events(self._url(kind), running.exchange.body)
            )
        except BaseException:
            self._ended(running)
            raise
        return ServerStream(running, events, self._ended, partial(self._noting_failure, request))

    def _noting_failure(self, request: JSONDict) -> AbstractContextManager[None]:
        return self._log.noting_failure("A request", request.get("request_id"))

    async def _begin(self, kind: RequestKind, request: JSONDict) -> Running:
        fields, model = await self._models.fields_and_model(request.get("model"))
        body = fields.translated(kind, {**request, "model": model})
        running = Running(Exchange(kind, model, request, body))
        self._running.add(running)
        return running

    def _url(self, kind: RequestKind) -> str:
        return self._connection.address.base + PATHS[kind]

    def _ended(self, running: Running) -> None:
        """Count an answer, and keep the last one of each model."""
        self._running.discard(running)
        exchange = running.exchange
        if not exchange.began_to_answer:
            return
        if exchange.choices and exchange.model in self._models.chosen:
            self._last[exchange.model] = exchange
        self._metrics["finished_requests"] += 1
        for name in ("prompt_tokens", "completion_tokens"):
            self._metrics[f"{name}_sum"] += exchange.usage.get(name, 0)

    async def forward_tokens_and_sample(
        self, input_ids: Sequence[int], is_prefill: bool, model_id: str | None
    ) -> int:
        """Refused: OpenAI's API has nothing like it.

        Raises:
            UnsupportedFieldError: always.
        """
        raise UnsupportedFieldError(
            "forward_tokens_and_sample: OpenAI's API has nothing like it; load the model in a "
            "kernel engine.",
            param="forward_tokens_and_sample",
        )

    async def list_resumable_sessions(self) -> list[ResumableSession]:
        """Refused, as all that concerns sessions.

        Raises:
            UnsupportedFieldError: always.
        """
        raise no_sessions()

    async def read_resumable_session(self, session_id: str) -> ResumeResult:
        """Refused; see `list_resumable_sessions`."""
        raise no_sessions()

    async def resume_stream(
        self, session_id: str, request: JSONDict, *, include_usage: bool = False
    ) -> tuple[ResumeResult, ChunkSource]:
        """Refused; see `list_resumable_sessions`."""
        raise no_sessions()

    async def delete_resumable_session(self, session_id: str) -> None:
        """Refused; see `list_resumable_sessions`."""
        raise no_sessions()

    async def interrupt_generate(self) -> None:
        """End all running requests; their connections are closed, so that the server stops."""
        for running in list(self._running):
            running.abort()

    async def abort(self, request_id: str) -> None:
        """End one request."""
        for running in list(self._running):
            if running.exchange.id == request_id:
                running.abort()

    # EngineCore: state and statistics

    async def reset_chat(self, keep_stats: bool = False, model_id: str | None = None) -> None:
        """Forget the last message and, unless kept, its statistics."""
        last = self._last.get(self._models.named(model_id))
        if last is None:
            return
        if keep_stats:
            last.choices.clear()
        else:
            del self._last[last.model]

    async def get_message(self, model_id: str | None = None) -> str:
        """The last generated message."""
        last = self._last.get(self._models.named(model_id))
        return "" if last is None else last.text

    async def runtime_stats_text(self, model_id: str | None = None) -> str:
        """The speed of the last answer, as it was seen from here."""
        last = self._last.get(self._models.named(model_id))
        if last is not None and not last.usage:
            return "speed unknown: the server did not report how many tokens its last answer had"
        prefill, decode = (0.0, 0.0) if last is None else last.speeds
        return (
            f"prefill: {prefill:.4f} tokens/sec, decoding: {decode:.4f} tokens/sec "
            "(seen from here: with the network and the server's queue)"
        )

    async def metrics(self) -> JSONDict:
        """Counters of this engine's requests; the server's other clients are not in them."""
        self._models.check_alive()
        return {**self._metrics, "running_requests": len(self._running)}

    async def statistics(self) -> EngineStatistics:
        """What this engine has asked for; a server does not tell what waits there."""
        self._models.check_alive()
        streams = sum(one.exchange.body.get("stream") is True for one in self._running)
        return EngineStatistics(running_requests=len(self._running), open_streams=streams)

    async def set_log_level(self, level: str) -> None:
        """Refused: the server has a log of its own.

        Raises:
            UnsupportedFieldError: always.
        """
        raise UnsupportedFieldError(
            "log_level: a server's log is set where it was started.", param="log_level"
        )

    async def list_models(self) -> list[JSONDict]:
        """The models in use. Their files may change, so they have no fingerprint."""
        if self._publisher.snapshot.state == "terminated":
            raise EngineTerminatedError(TERMINATED)
        return [
            {
                "id": name,
                "object": "model",
                "created": self._models.since,
                "owned_by": "server",
                "context_window_size": model.max_model_len,
                "max_num_sequence": None,
                "label_probabilities": False,
            }
            for name, model in self._models.chosen.items()
        ]

    async def device_info(self) -> JSONDict:
        """Where the server is. What it computes on is not part of OpenAI's API, and so is None."""
        self._models.check_alive()
        address = self._connection.address
        return {
            "runtime": "server",
            "url": address.url,
            "server": self._models.software or None,
            "owned_by": [model.owned_by for model in self._models.chosen.values()],
            "device": None,
            "device_name": None,
            "mlc_widget": __version__,
        }
