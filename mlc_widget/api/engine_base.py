"""The common part of all engines, awaited (`async_interface`) and blocking (`blocking_interface`).

`AsyncMLCEngine` and `AsyncKernelMLCEngine` are `AsyncMLCEngineInterface`s, `MLCEngine` and
`KernelMLCEngine` are `MLCEngineInterface`s. They differ in their cores only: an `EngineCore` of
your own becomes an engine by subclassing one of the two.
"""

from __future__ import annotations

import warnings
import weakref
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlc_widget.api.batch_runs import watch_cells
from mlc_widget.api.copies import NotCopyable
from mlc_widget.api.core import ChatOpts, EngineCore, ModelName
from mlc_widget.api.home_loop import HomeLoop
from mlc_widget.api.keywords import suggests_keywords
from mlc_widget.api.progress import InitProgressCallback, InitProgressReport
from mlc_widget.api.request_values import JSONDict, boolean, model, path_text
from mlc_widget.api.streams import StreamBuffer
from mlc_widget.api.tracebacks import callers_level

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI

    from mlc_widget.api.openai_routes import OpenAIRoutes
    from mlc_widget.api.resume import Resume
    from mlc_widget.api.serving.server import EngineServer
    from mlc_widget.api.table.evaluation import Evaluation
    from mlc_widget.api.table.options import MapOptions
    from mlc_widget.api.table.prompts import Prompt
    from mlc_widget.api.table.run import MapRun


def model_list(model_id: ModelName | Sequence[ModelName]) -> list[str]:
    """The models that a call of `reload` names."""
    several = isinstance(model_id, Sequence) and not isinstance(model_id, str | bytes)
    given = model_id if several else [model_id]
    return [path_text(one) for one in given]  # type: ignore[union-attr]


def opts_list(
    chat_opts: ChatOpts | Sequence[ChatOpts | None] | None,
) -> list[ChatOpts | None] | None:
    """The `chat_opts` of a call of `reload`, one for each model."""
    if chat_opts is None:
        return None
    return list(chat_opts) if isinstance(chat_opts, Sequence) else [chat_opts]


def optional_model(model_id: ModelName | None) -> str | None:
    """The name of a model, checked if one is given.

    Raises:
        BadRequestError: It is not a name.
    """
    return None if model_id is None else model("model_id", model_id)


class EngineBase(NotCopyable, ABC):
    """The common part of awaited and blocking engines: a core and the progress callback."""

    _instead = (
        "it consists of threads and memory of this process. Pass the object itself, or make "
        "another engine where it is needed."
    )

    def __init__(self, core: EngineCore, home: HomeLoop) -> None:
        self._core = core
        self._home = home
        self._callback: InitProgressCallback | None = None
        self._routes: OpenAIRoutes | None = None  # all clients share what it stores
        self._servers: list[EngineServer] = []
        self._load_warning = ""
        this = weakref.ref(self)  # the core must not keep the engine alive

        def on_progress(report: InitProgressReport) -> None:
            if (engine := this()) is not None:
                engine._load_warning = report.warning
                engine._on_progress(report)

        core.set_init_progress_callback(on_progress)
        watch_cells()

    def _openai_client(self, sync: bool, options: JSONDict) -> AsyncOpenAI | OpenAI:
        from mlc_widget.api.openai_client import async_openai_client, openai_client
        from mlc_widget.api.openai_routes import OpenAIRoutes

        if self._routes is None:
            self._routes = OpenAIRoutes(self._core, self._home)
        if boolean("sync", sync):
            return openai_client(self._routes, self._home, options)
        return async_openai_client(self._routes, self._home, options)

    async def _open_resumed(self, resume: Resume) -> StreamBuffer:
        """Begin the rest of an answer on disk; on the home loop."""
        return StreamBuffer(self._home, await resume.stream(self._core))

    @suggests_keywords
    def serve(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str | None = None,
        allow_remote: bool = False,
    ) -> EngineServer:
        """Answer OpenAI's API over HTTP, for programs outside of the notebook.

        It is not awaited on any engine, as it only opens a port. The server lives as long as this
        engine: keep the engine in a variable.

        Args:
            host: The address to listen on. By default only programs on this machine reach it.
            port: The port; 0 for any free one.
            token: What clients must send as API key: at least 16 ASCII characters. By default a
                new one is made, which the server's `token` shows.
            allow_remote: Whether `host` may be an address that other machines reach. Nothing is
                encrypted.

        Returns:
            The server, with its `url` and its `token`.

        Raises:
            BadRequestError: An argument is invalid, or the port is taken.
        """
        from mlc_widget.api.serving.server import EngineServer

        server = EngineServer(
            self._core, self._home, host=host, port=port, token=token, allow_remote=allow_remote
        )
        self._servers.append(server)
        return server

    def _warn_of_load(self) -> None:
        """Warn, at the line that asked for a load, of what the loaded models cannot do."""
        warning, self._load_warning = self._load_warning, ""
        if warning:
            warnings.warn(warning, UserWarning, stacklevel=callers_level())

    async def _terminate(self) -> None:
        """End the engine and its servers; on the home loop."""
        servers, self._servers = self._servers, []
        for server in servers:
            await server._closed()
        await self._core.terminate()

    def _map_run(self, prompt: Prompt, data: Any, options: MapOptions) -> MapRun:
        """Check the arguments of `map`, and make what runs it."""
        from mlc_widget.api.table.plan import MapPlan
        from mlc_widget.api.table.run import MapRun

        return MapRun(self._core, self._home, MapPlan(prompt, data, options))

    @staticmethod
    def evaluate(result: Any, truth: Any, column: str | None = None) -> Evaluation:
        """Compare the labels of `map` with the right ones, or with another result's.

        Nothing is computed by the model, so it is not awaited on any engine.

        Args:
            result: A table of `map`, or a list or column of labels.
            truth: The right labels, as a list or column, or the name of a column in `result`; or
                another table with the same column.
            column: The column of labels in tables; ``reply`` by default.

        Returns:
            Accuracy, precision and recall by label, confusion and Cohen's kappa, which a notebook
            shows as a table with bars.

        Raises:
            BadRequestError: The two do not fit together; the message says how.
        """
        from mlc_widget.api.table.evaluation import evaluate

        return evaluate(result, truth, column)

    def get_init_progress_callback(self) -> InitProgressCallback | None:
        """The callback set by `set_init_progress_callback`."""
        return self._callback

    @abstractmethod
    def set_init_progress_callback(self, callback: InitProgressCallback | None) -> None:
        """Set the callback for load progress; None for none."""

    @abstractmethod
    def _on_progress(self, report: InitProgressReport) -> None:
        """Pass a report on to the callback."""
