"""Which of a server's models are used, and what the server says of itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from mlc_widget.api.engine_link import FailedLoad
from mlc_widget.api.errors import (
    BadRequestError,
    EngineTerminatedError,
    LoadCancelledError,
    MLCEngineError,
    ModelNotFoundError,
    ModelNotLoadedError,
    ProtocolError,
    UnsupportedFieldError,
)
from mlc_widget.api.home_loop import HomeLoop
from mlc_widget.api.load_request import LoadTarget
from mlc_widget.api.progress import InitProgressCallback, InitProgressReport
from mlc_widget.api.request_values import shortened
from mlc_widget.api.snapshot_publisher import SnapshotPublisher
from mlc_widget.server_engine import answers
from mlc_widget.server_engine.connection import ServerConnection
from mlc_widget.server_engine.fields import ServerFields, fields_of

_SHOWN: Final = 20


class ServerModels:
    """Asks a server for its models, and keeps those that were chosen. On the home loop.

    Args:
        home: Its loop.
        connection: To the server.
        publisher: Gets the engine's state.
        extra_fields: Request fields that the user vouches for.
    """

    def __init__(
        self,
        home: HomeLoop,
        connection: ServerConnection,
        publisher: SnapshotPublisher,
        extra_fields: Sequence[str],
    ) -> None:
        self._home = home
        self._connection = connection
        self._publisher = publisher
        self._extra_fields = extra_fields
        self.on_progress: InitProgressCallback | None = None
        self.chosen: dict[str, answers.ServedModel] = {}
        self.since = 0
        """When they were chosen, in seconds since 1970."""
        self.software = ""
        self._fields: ServerFields | None = None
        self._wanted: tuple[str, ...] | None = None
        self._loading: asyncio.Task[None] | None = None
        self._ended: str | None = None

    def check_alive(self) -> None:
        """Refuse to go on after the end.

        Raises:
            EngineTerminatedError: The engine has ended.
        """
        if self._ended is not None:
            raise EngineTerminatedError(self._ended)

    def begin(
        self, names: Sequence[str] | None, chat_opts: Sequence[Mapping[str, Any] | None] | None
    ) -> asyncio.Task[None]:
        """Begin to choose models, by name; None for the only one. It ends an earlier choice.

        Raises:
            BadRequestError: A name is invalid, or there are `chat_opts`, which servers do not take.
        """
        self.check_alive()
        if names is not None:
            target = LoadTarget.read(names, chat_opts)
            if any(target.chat_opts):
                raise UnsupportedFieldError(
                    "chat_opts: a server's models have the options that the server was started "
                    "with. Give sampling fields with each request.",
                    param="chat_opts",
                )
            self._wanted = target.model_ids
        else:
            self._wanted = None
        self.cancel()
        self._publisher.update(state="loading", models=self._wanted or (), error=None, failed=None)
        self._loading = self._home.spawn(self._load(self._wanted))
        self._loading.add_done_callback(lambda t: None if t.cancelled() else t.exception() and None)
        return self._loading

    async def load(
        self, names: Sequence[str] | None, chat_opts: Sequence[Mapping[str, Any] | None] | None
    ) -> None:
        """As `begin`, and wait for the end.

        Raises:
            LoadCancelledError: A newer call ended this one.
            MLCEngineError: The server cannot be asked, or does not have a model.
        """
        task = self.begin(names, chat_opts)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                self.check_alive()
                raise LoadCancelledError("A newer reload or unload cancelled this load.") from None
            task.cancel()
            raise

    async def load_again(self) -> None:
        """Repeat the last `load`."""
        await self.load(self._wanted, None)

    def cancel(self) -> None:
        """End a choice that is being made."""
        if self._loading is not None and not self._loading.done():
            self._loading.cancel()
            self._show_chosen()

    def forget(self) -> None:
        """Use no model any more."""
        self.check_alive()
        self.cancel()
        self.chosen = {}
        self._publisher.update(state="idle", models=(), progress=None, error=None, failed=None)

    def end(self, reason: str) -> None:
        """End for good."""
        if self._ended is None:
            self._ended = reason
            self.cancel()
            self._publisher.update(state="terminated")

    async def fields_and_model(self, named: str | None) -> tuple[ServerFields, str]:
        """The server's fields and the model that a request is for, once it is known.

        Raises:
            ModelNotLoadedError: It was not chosen, or none was.
            BadRequestError: Several were, and none is named.
        """
        self.check_alive()
        if self._loading is not None:
            await asyncio.wait({self._loading})
            self.check_alive()
        name = self.named(named)
        assert self._fields is not None
        return self._fields, name

    def named(self, name: str | None) -> str:
        """The model of that name, or the only one; raises as `fields_and_model`."""
        if not self.chosen:
            error = self._publisher.snapshot.error
            raise ModelNotLoadedError.none_is_loaded("" if error is None else error.message)
        if name is None and len(self.chosen) > 1:
            raise BadRequestError.several_are_loaded(self.chosen)
        if name is not None and name not in self.chosen:
            raise ModelNotLoadedError(
                f"model {shortened(name)} is not loaded; loaded: {', '.join(self.chosen)}.",
                param="model",
            )
        return name or next(iter(self.chosen))

    def _show_chosen(self) -> None:
        if self.chosen:
            self._publisher.update(state="ready", models=tuple(self.chosen))
        else:
            self._publisher.update(state="idle", models=())

    async def _load(self, wanted: tuple[str, ...] | None) -> None:
        began = time.monotonic()
        address = self._connection.address
        self._report(0.0, began, f"Asking the server at {address.host} for its models")
        try:
            await self._ask(wanted)
        except MLCEngineError as error:
            self._failed(wanted, error)
            raise
        self._report(1.0, began, f"Using {', '.join(self.chosen)} on the server at {address.host}")
        self._publisher.update(
            state="ready", models=tuple(self.chosen), device=f"server {address.host}"
        )

    async def _ask(self, wanted: tuple[str, ...] | None) -> None:
        address = self._connection.address
        listed = await self._connection.ask("GET", f"{address.base}/models")
        served = {model.id: model for model in answers.models(listed.content)}
        names = _chosen(wanted, list(served), address.host)
        owners = [model.owned_by for model in served.values()]
        self._fields = fields_of(
            await self._description(), address.path, owners, listed.software, self._extra_fields
        )
        self.software = listed.software
        self.chosen = {name: served[name] for name in names}
        self.since = int(time.time())

    async def _description(self) -> Any:
        """The server's OpenAPI description; None if it has none."""
        try:
            url = f"{self._connection.address.root}/openapi.json"
            return (await self._connection.ask("GET", url)).content
        except MLCEngineError:  # llama.cpp's and Ollama's have none
            return None

    def _failed(self, wanted: tuple[str, ...] | None, error: MLCEngineError) -> None:
        name = ", ".join(wanted or ())
        if self.chosen:
            self._show_chosen()
            self._publisher.update(failed=FailedLoad(name, error))
        else:
            self._publisher.update(state="idle", models=(), error=error)

    def _report(self, progress: float, began: float, text: str) -> None:
        report = InitProgressReport(
            progress,
            time.monotonic() - began,
            text,
            phase="resolve",
            model_id=self._publisher.snapshot.model_id or "",
        )
        self._publisher.update(progress=report)
        if self.on_progress is not None:
            self.on_progress(report)


def _chosen(wanted: tuple[str, ...] | None, served: list[str], host: str) -> Sequence[str]:
    """The names of the models to use.

    Raises:
        BadRequestError: None is named, and the server has several.
        ModelNotFoundError: It has no such model, or none.
        ProtocolError: The name has characters that a terminal would obey.
    """
    more = f" and {len(served) - _SHOWN} more" if len(served) > _SHOWN else ""
    known = ", ".join(map(shortened, served[:_SHOWN])) + more
    if wanted is None:
        if len(served) > 1:
            raise BadRequestError(
                f"model: the server at {host} has several models; name one of {known}.",
                param="model",
            )
        if not served:
            raise ModelNotFoundError(f"The server at {host} lists no models.", param="model")
    for name in served if wanted is None else wanted:
        if name not in served:
            raise ModelNotFoundError(
                f"The server at {host} has no model {shortened(name)}; it has {known or 'none'}.",
                param="model",
            )
        if not name.isprintable():
            raise ProtocolError(
                f"The server at {host} names a model {shortened(name)}, with characters that "
                "cannot be shown."
            )
    return served if wanted is None else wanted
