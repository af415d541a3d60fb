"""The server engines: the same interface as the others, on a server of OpenAI's API."""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Unpack

from mlc_widget.api.async_interface import AsyncMLCEngineInterface
from mlc_widget.api.blocking_interface import MLCEngineInterface
from mlc_widget.api.core import ChatOpts, ModelName
from mlc_widget.api.engine_base import model_list, opts_list
from mlc_widget.api.engine_options import takes_options
from mlc_widget.api.errors import EngineForkedError
from mlc_widget.api.home_loop import HomeLoop
from mlc_widget.api.linked_engine import LinkedEngine
from mlc_widget.api.request_values import bad, identifier, number
from mlc_widget.api.tracebacks import releases_locals
from mlc_widget.server_engine.address import ServerAddress, key_variable
from mlc_widget.server_engine.connection import ServerConnection
from mlc_widget.server_engine.core import ServerCore
from mlc_widget.server_engine.options import SERVER_DEFAULTS, ServerOptions

_LONGEST_S = 86_400.0


def _end(core: ServerCore) -> None:
    """Close the connections of an engine that nothing refers to any more."""
    with contextlib.suppress(EngineForkedError):
        core.submit(core.terminate(dropped=True))


class _ServerEngine(LinkedEngine):
    """The common part of both server engines."""

    _core: ServerCore

    @takes_options(ServerOptions, SERVER_DEFAULTS)
    def __init__(self, url: str, **options: Unpack[ServerOptions]) -> None:
        if unknown := options.keys() - SERVER_DEFAULTS.keys():
            raise TypeError(
                f"{type(self).__name__} got an unexpected keyword argument {min(unknown)!r}. On a "
                f"server it takes {', '.join(SERVER_DEFAULTS)}."
            )
        chosen: ServerOptions = {**SERVER_DEFAULTS, **options}
        address = ServerAddress.read(url)
        variable = key_variable(address, chosen["api_key_env"])
        timeout = number(0, _LONGEST_S, open_low=True)("timeout", chosen["timeout"])
        extra = _names("extra_fields", chosen["extra_fields"])
        home = HomeLoop.shared()
        core = ServerCore(home, ServerConnection(address, variable, timeout), extra)
        super().__init__(core, home)
        self.set_init_progress_callback(chosen["init_progress_callback"])
        others = {**chosen, "init_progress_callback": None}
        make: Callable[..., object] = type(self)
        core.made_by(functools.partial(make, url, **others))
        self._address = address
        self._finalizer = weakref.finalize(self, _end, core)
        self._finalizer.atexit = False

    @property
    def url(self) -> str:
        """The server's address."""
        return self._address.url

    def __repr__(self) -> str:
        model = self.model_id or "no model"
        return f"<{type(self).__name__} {model} on {self._address.host}: {self.state}>"


class AsyncServerMLCEngine(_ServerEngine, AsyncMLCEngineInterface):
    """`AsyncMLCEngine`'s interface on a server of OpenAI's API, such as vLLM's or llama.cpp's.

    `reload` chooses among the server's models. ``docs/servers.md`` says what is different.

    Args:
        url: The server's address, such as ``http://127.0.0.1:8000/v1``, or ``group://NAME`` for the
            one that `mlc_widget serve --group NAME` has started on this machine.
        **options: See `ServerOptions`.

    Raises:
        TypeError: An option does not exist.
        BadRequestError: The address or an option is invalid.
    """

    @releases_locals
    async def reload(
        self,
        model_id: ModelName | Sequence[ModelName] | None = None,
        chat_opts: ChatOpts | Sequence[ChatOpts | None] | None = None,
    ) -> None:
        """Use these models of the server from now on. Nothing is loaded or unloaded there.

        Args:
            model_id: One name or several, as the server lists them; None for its only model.
            chat_opts: Refused, as the server has its own.

        Raises:
            ModelNotFoundError: The server does not list the model.
            BadRequestError: No name is given, and the server has several models.
            ServerError: The server cannot be reached, or refuses.
            LoadCancelledError: A newer call ended this one.
            EngineTerminatedError: The engine has been terminated.
        """
        names = [] if model_id is None else model_list(model_id)
        await self._call(self._core.reload, names, opts_list(chat_opts))


class ServerMLCEngine(_ServerEngine, MLCEngineInterface):
    """`AsyncServerMLCEngine`, blocking the calling thread; `kernel_mlc_engine` makes one."""

    @releases_locals
    def reload(
        self,
        model_id: ModelName | Sequence[ModelName] | None = None,
        chat_opts: ChatOpts | Sequence[ChatOpts | None] | None = None,
    ) -> None:
        """As `AsyncServerMLCEngine.reload`."""
        names = [] if model_id is None else model_list(model_id)
        self._call(self._core.reload, names, opts_list(chat_opts))


def _names(param: str, value: Any) -> Sequence[str]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise bad(param, value, "give a list of names, such as ['top_k'].")
    return [identifier(f"{param}[{i}]", name) for i, name in enumerate(value)]
