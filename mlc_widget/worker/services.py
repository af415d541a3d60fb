"""What a worker's kernel serves: an engine behind one comm target."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

from mlc_widget.api.errors import EngineDeadError, MLCEngineError, ProtocolError
from mlc_widget.engine.core import DirectCore
from mlc_widget.engine.logit_processors import import_object
from mlc_widget.protocol.errors import encode_error
from mlc_widget.protocol.messages import answerable_uuid, throw_message
from mlc_widget.protocol.worker_settings import VARIABLE, WorkerSettings
from mlc_widget.worker.handler import KernelMLCEngineHandler
from mlc_widget.worker.lease import Lease, read_link_timeout
from mlc_widget.worker.resources import ResourceWatch
from mlc_widget.worker.shared_worker import SharedWorker

logger = logging.getLogger(__name__)
_ENGINE_DEAD: Final = 70  # EX_SOFTWARE of sysexits.h


class WorkerServices:
    """An engine for the clients that open a comm.

    Args:
        leave: Ends the process; called with the reason, a sentence.
        widen: Called for each client that has been answered: it has a queue from now on.
    """

    def __init__(self, leave: Callable[[str], object], widen: Callable[[], object]) -> None:
        self._leave, self._widen = leave, widen
        self._settings = WorkerSettings.from_environment()
        self._settled = False
        self._lease: Lease | None = None
        self._clients: set[KernelMLCEngineHandler] = set()
        self._shared: SharedWorker | None = None
        self._resources = ResourceWatch()

    def start(self) -> None:
        """Set up what is known before the first client comes.

        Raises:
            MLCEngineError: the settings cannot be followed here.
        """
        if VARIABLE in os.environ:
            self._settle()
        if not self._settings.dies_with_parent and self._settings.sharing is None:
            self._lease = Lease(self._leave)
            self._lease.start()
        self._resources.start()

    def _settle(self) -> None:
        """Set up what the settings say, once they are known.

        Raises:
            MLCEngineError: they cannot be followed here.
        """
        settings = self._settings
        if settings.handler is not None or settings.logit_processors:
            # The user's own modules may be in the notebook's folder. It comes last, so that a file
            # there does not shadow a package.
            sys.path.append(os.getcwd())
        processors = {
            model_id: import_object(path, f"logit_processors[{model_id!r}]")
            for model_id, path in settings.logit_processors.items()
        }
        if settings.sharing is not None:
            self._shared = SharedWorker(settings, settings.sharing, processors)
            self._shared.start()
        else:
            self._core = self._prepared(
                DirectCore(
                    runtime=settings.runtime,
                    runtime_options=settings.runtime_options,
                    logit_processors=processors,
                )
            )
            self._core.set_init_progress_callback(self._on_progress)
        self._handler_class: type[KernelMLCEngineHandler] = KernelMLCEngineHandler
        if settings.handler is not None:
            self._handler_class = import_object(settings.handler, "handler")
        self._settled = True

    @staticmethod
    def _prepared(core: DirectCore) -> DirectCore:
        core.set_dead_callback(_leave_dead)
        return core

    def on_open(self, comm: Any, message: Any) -> None:
        """Take a client, which has opened a comm."""
        opening = message["content"].get("data") or {}
        try:
            if not isinstance(opening, Mapping):
                raise ProtocolError(f"data = {opening!r:.200}: must be an object")
            if not self._settled:  # started elsewhere, where no variables of the notebook come
                self._settings = WorkerSettings.from_wire(opening.get("settings", {}))
                self._settle()
            timeout = read_link_timeout(opening)
        except Exception as error:  # a module of the user's may raise any
            if not isinstance(error, MLCEngineError):
                logger.exception("the settings cannot be followed")
            _refuse(comm, error)
            return
        if self._lease is not None:
            self._lease.promise(timeout)
        shared = self._shared
        core = self._core if shared is None else self._prepared(shared.new_core())
        handler = self._handler_class(core, comm.send)
        handler.resources = self._resources
        asyncio.get_running_loop().set_exception_handler(self._resources.on_loop_error)
        if shared is None:
            leave = self._join(handler)
        else:
            core.set_init_progress_callback(handler.report_progress)
            leave = shared.join(core, handler)
        greeting = True

        def take(msg: Any) -> None:
            nonlocal greeting
            if self._lease is not None:
                self._lease.renew()
            data = msg["content"]["data"]
            if greeting and not _is_hello(data):  # again and again, until it gets an answer
                greeting = False
                self._widen()
            handler.on_message(data)

        comm.on_msg(take)
        comm.on_close(lambda _: leave())

    def _join(self, handler: KernelMLCEngineHandler) -> Callable[[], None]:
        """Take a client of the one engine; returns what ends its stay."""
        self._clients.add(handler)

        def leave() -> None:
            self._clients.discard(handler)
            self._closing = asyncio.ensure_future(handler.close())

        return leave

    def _on_progress(self, report: Any) -> None:
        for client in self._clients:
            client.report_progress(report)


def _is_hello(data: Any) -> bool:
    return isinstance(data, Mapping) and data.get("kind") == "hello"


def _refuse(comm: Any, error: Exception) -> None:
    """Answer all messages of a client with an error."""
    encoded = encode_error(error)

    def answer(msg: Any) -> None:
        uuid = answerable_uuid(msg["content"]["data"])
        comm.send(throw_message(uuid, encoded["message"], encoded))

    comm.on_msg(answer)


def end_process(code: int = 0) -> None:
    """End this process at once: a runtime's threads may hang, or not be daemons."""
    logging.shutdown()
    forks: Any = sys.modules.get("multiprocessing")
    for child in [] if forks is None else forks.active_children():
        child.terminate()  # what a launcher has forked off would wait for orders
    os._exit(code)


def _leave_dead(error: EngineDeadError) -> None:
    """The engine cannot recover: exit at once, so that a fresh worker takes over."""
    logger.critical("the engine cannot go on: %s", error.message)
    end_process(_ENGINE_DEAD)
