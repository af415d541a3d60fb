"""The worker kernel: an ordinary Jupyter kernel with an engine behind one comm target."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

import zmq
from ipykernel.kernelapp import IPKernelApp

from mlc_widget.api.errors import EngineDeadError, MLCEngineError, ProtocolError
from mlc_widget.api.log_text import SafeText
from mlc_widget.engine.core import DirectCore
from mlc_widget.engine.logit_processors import import_object
from mlc_widget.protocol.errors import encode_error
from mlc_widget.protocol.messages import COMM_TARGET, answerable_uuid, throw_message
from mlc_widget.protocol.worker_settings import VARIABLE, WorkerSettings
from mlc_widget.worker.client_streams import MAX_STREAMS
from mlc_widget.worker.handler import KernelMLCEngineHandler
from mlc_widget.worker.kernel import WorkerKernel
from mlc_widget.worker.lease import Lease, read_link_timeout
from mlc_widget.worker.resources import ResourceWatch
from mlc_widget.worker.shared_worker import SharedWorker
from mlc_widget.worker.stream_sender import MAX_CREDIT

logger = logging.getLogger(__name__)
_PARENT_POLL_S: Final = 0.2
_ENGINE_DEAD: Final = 70  # EX_SOFTWARE of sysexits.h
_IOPUB_QUEUE: Final = 2 * MAX_STREAMS * MAX_CREDIT
"""Messages queued for one client: twice what the credit of all its streams allows, to leave room
for answers."""


class WorkerKernelApp(IPKernelApp):
    """An `IPKernelApp` that serves `COMM_TARGET` and dies with the process that started it."""

    name = "mlc-widget-worker"
    kernel_class = WorkerKernel

    def initialize(self, argv: list[str] | None = None) -> None:
        """Set up the kernel and register the comm target."""
        self.settings = WorkerSettings.from_environment()
        self._settled = False
        self._lease: Lease | None = None
        self.ignore_cwd = True
        # Output goes to the process's own stdout and stderr, which the proxy keeps the end of;
        # on iopub it would share a socket with the tokens.
        self.outstream_class = None  # type: ignore[assignment]
        super().initialize(argv)  # type: ignore[no-untyped-call]
        self._clients: set[KernelMLCEngineHandler] = set()
        self._shared: SharedWorker | None = None
        if VARIABLE in os.environ:
            self._settle()
        if not self.settings.dies_with_parent and self.settings.sharing is None:
            self._lease = Lease(self._leave)
            self._lease.start()
        self._resources = ResourceWatch()
        self._resources.start()
        self.kernel.comm_manager.register_target(COMM_TARGET, self._on_open)

    def _settle(self) -> None:
        """Set up what the settings say, once they are known.

        Raises:
            MLCEngineError: they cannot be followed here.
        """
        if self.settings.handler is not None or self.settings.logit_processors:
            # The user's own modules may be in the notebook's folder. It comes last, so that a file
            # there does not shadow a package.
            sys.path.append(os.getcwd())
        processors = {
            model_id: import_object(path, f"logit_processors[{model_id!r}]")
            for model_id, path in self.settings.logit_processors.items()
        }
        if self.settings.sharing is not None:
            self._shared = SharedWorker(self.settings, self.settings.sharing, processors)
            self._shared.start()
        else:
            self._core = self._prepared(
                DirectCore(
                    runtime=self.settings.runtime,
                    runtime_options=self.settings.runtime_options,
                    logit_processors=processors,
                )
            )
            self._core.set_init_progress_callback(self._on_progress)
        self._handler_class: type[KernelMLCEngineHandler] = KernelMLCEngineHandler
        if self.settings.handler is not None:
            self._handler_class = import_object(self.settings.handler, "handler")
        self._settled = True

    def init_iopub(self, context: zmq.Context[Any]) -> None:
        """Give iopub a queue that the clients' credit cannot fill, so that it never drops theirs.

        `XPUB_NODROP` is no alternative: one stopped client with a full queue would block all.
        """
        context.setsockopt(zmq.SNDHWM, _IOPUB_QUEUE)
        super().init_iopub(context)  # type: ignore[no-untyped-call]
        context.sockopts.pop(zmq.SNDHWM, None)

    @staticmethod
    def _prepared(core: DirectCore) -> DirectCore:
        core.set_dead_callback(_leave_dead)
        return core

    def _on_open(self, comm: Any, message: Any) -> None:
        opening = message["content"].get("data") or {}
        try:
            if not isinstance(opening, Mapping):
                raise ProtocolError(f"data = {opening!r:.200}: must be an object")
            if not self._settled:  # started elsewhere, where no variables of the notebook come
                self.settings = WorkerSettings.from_wire(opening.get("settings", {}))
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

        def take(msg: Any) -> None:
            if self._lease is not None:
                self._lease.renew()
            handler.on_message(msg["content"]["data"])

        comm.on_msg(take)
        comm.on_close(lambda _: leave())

    def _leave(self, why: str) -> None:
        """End this process, as its notebook has."""
        logger.warning("%s", SafeText(why))
        self.cleanup_connection_file()  # type: ignore[no-untyped-call]
        logging.shutdown()
        os._exit(0)

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


def _refuse(comm: Any, error: Exception) -> None:
    """Answer all messages of a client with an error."""
    encoded = encode_error(error)

    def answer(msg: Any) -> None:
        uuid = answerable_uuid(msg["content"]["data"])
        comm.send(throw_message(uuid, encoded["message"], encoded))

    comm.on_msg(answer)


def _leave_dead(error: EngineDeadError) -> None:
    """The engine cannot recover: exit at once, so that a fresh worker takes over."""
    logger.critical("the engine cannot go on: %s", error.message)
    logging.shutdown()
    os._exit(_ENGINE_DEAD)


def _die_with_parent(runtime_dir: str | None) -> None:
    """End this process and remove its files when the process that started it has ended."""
    if sys.platform == "win32":  # ipykernel's own poller does it
        return
    parent = int(os.environ.get("JPY_PARENT_PID") or os.getppid())
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)

    def leave(*_: Any) -> None:
        if runtime_dir is not None:
            shutil.rmtree(runtime_dir, ignore_errors=True)
        os._exit(1)

    def watch() -> None:
        wait = threading.Event()
        while os.getppid() == parent:
            wait.wait(_PARENT_POLL_S)
        leave()

    signal.signal(signal.SIGTERM, leave)
    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def main() -> None:
    """Run the worker; ``-f`` gives the connection file."""
    faulthandler.enable()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("Comm").setLevel(logging.ERROR)  # a hello before the comm is no surprise
    settings = WorkerSettings.from_environment()
    if settings.runtime_dir is not None:  # so that temporary files go however the worker ends
        tempfile.tempdir = settings.runtime_dir
    if settings.dies_with_parent:
        _die_with_parent(settings.runtime_dir)
    app = WorkerKernelApp.instance()
    app.initialize()
    app.start()  # type: ignore[no-untyped-call]
    app.cleanup_connection_file()  # type: ignore[no-untyped-call]
    logging.shutdown()
    os._exit(0)  # a runtime's threads may hang, or not be daemons: they are not waited for
