"""The worker's kernel: an engine behind a comm target, and no code.

It needs no application of ours: other launchers, such as gateway-provisioners', may host it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from typing import Any, Final

import comm
import zmq
from ipykernel._version import kernel_protocol_version
from ipykernel.iostream import OutStream
from ipykernel.kernelbase import Kernel

from mlc_widget._version import __version__
from mlc_widget.api.log_text import SafeText
from mlc_widget.protocol.messages import COMM_TARGET
from mlc_widget.worker.client_streams import MAX_STREAMS
from mlc_widget.worker.services import WorkerServices, end_process
from mlc_widget.worker.stream_sender import MAX_CREDIT

logger = logging.getLogger(__name__)
IOPUB_QUEUE: Final = 2 * MAX_STREAMS * MAX_CREDIT
"""Messages queued for one client: twice what the credit of all its streams allows, to leave room
for answers. iopub drops what does not fit. `XPUB_NODROP` is no alternative: one stopped client with
a full queue would block all."""
_END_S: Final = 5.0
_NO_CODE: Final = "This kernel is a worker of mlc_widget, which runs no code: open a comm to it."
_ERROR: Final = {"ename": "RuntimeError", "evalue": _NO_CODE, "traceback": [_NO_CODE]}


class WorkerKernel(Kernel):
    """A kernel without IPython's shell and debugger, which take a fifth of the time to start."""

    implementation = "mlc_widget"
    implementation_version = __version__
    banner = _NO_CODE
    language_info = {  # noqa: RUF012 - ipykernel's own form
        "name": "python",
        "version": sys.version.split()[0],
        "mimetype": "text/x-python",
        "file_extension": ".py",
    }

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)  # type: ignore[no-untyped-call]
        self.comm_manager: Any = comm.get_comm_manager()
        for kind in ("comm_open", "comm_msg", "comm_close"):
            self.shell_handlers[kind] = getattr(self.comm_manager, kind)
        if sys.platform == "darwin":  # it would slow down a process without a window
            with contextlib.suppress(ImportError):
                import appnope

                appnope.nope()

    def start(self) -> None:
        """Serve `COMM_TARGET`.

        Raises:
            MLCEngineError: the settings in the environment cannot be followed here.
        """
        self._take_back_output()
        services = WorkerServices(self._leave, self._widen_iopub)
        services.start()
        self.comm_manager.register_target(COMM_TARGET, services.on_open)
        super().start()  # type: ignore[no-untyped-call]

    @staticmethod
    def _take_back_output() -> None:
        """Have this process's output go to its own stdout and stderr, and so to a log.

        On iopub, where other applications send it, nobody would read it.
        """
        for name in ("stdout", "stderr"):
            stream, own = getattr(sys, name), getattr(sys, f"__{name}__")
            if isinstance(stream, OutStream) and own is not None:
                setattr(sys, name, own)
                copy = getattr(stream, "_original_stdstream_copy", None)
                if copy is not None:  # not closed, since log handlers may write to it
                    os.dup2(copy, own.fileno())

    def _widen_iopub(self) -> None:
        """Give iopub its queue to each client that is there, whoever has made the socket."""
        thread: Any = self.iopub_thread
        thread.schedule(lambda: thread.socket.setsockopt(zmq.SNDHWM, IOPUB_QUEUE))

    def _leave(self, why: str) -> None:
        """End this process, as its notebook has."""
        logger.warning("%s", SafeText(why))
        application: Any = self.parent
        application.cleanup_connection_file()
        end_process()

    async def do_shutdown(self, restart: bool) -> dict[str, Any]:
        """End the process in time, whatever its threads do, and whoever runs it."""
        why = f"The worker was told to end, and has not in {_END_S:g} s."
        late = threading.Timer(_END_S, self._leave, [why])
        late.daemon = True
        late.start()
        return {"status": "ok", "restart": restart}

    @property
    def kernel_info(self) -> dict[str, Any]:
        """What a front end is told: that there are neither subshells nor a debugger.

        ipykernel's own would import debugpy to find out.
        """
        return {
            "protocol_version": kernel_protocol_version,
            "implementation": self.implementation,
            "implementation_version": self.implementation_version,
            "language_info": self.language_info,
            "banner": self.banner,
            "help_links": self.help_links,
            "supported_features": [],
        }

    async def do_execute(self, code: str, silent: bool, *_: Any, **__: Any) -> dict[str, Any]:
        """Refuse to run code."""
        if not silent:
            self.send_response(self.iopub_socket, "error", _ERROR)  # type: ignore[no-untyped-call]
        return {"status": "error", "execution_count": self.execution_count, **_ERROR}

    async def do_debug_request(self, msg: Any) -> dict[str, Any]:
        """Refuse to debug."""
        return {"type": "response", "success": False, "message": _NO_CODE}

    async def create_subshell_request(self, socket: Any, ident: Any, parent: Any) -> None:
        """Refuse to make a subshell: its thread has an event loop of its own, and may end."""
        assert self.session is not None
        reply = {"status": "error", **_ERROR}
        self.session.send(socket, "create_subshell_reply", reply, parent, ident)
