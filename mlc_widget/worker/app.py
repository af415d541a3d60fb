"""The worker's process: an ordinary Jupyter kernel, started by ``python -m mlc_widget.worker``."""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
from typing import Any, Final

import zmq
from ipykernel.kernelapp import IPKernelApp

from mlc_widget.protocol.worker_settings import WorkerSettings
from mlc_widget.worker.kernel import IOPUB_QUEUE, WorkerKernel
from mlc_widget.worker.services import end_process

_PARENT_POLL_S: Final = 0.2


class WorkerKernelApp(IPKernelApp):
    """An `IPKernelApp` for a `WorkerKernel`."""

    name = "mlc-widget-worker"
    kernel_class = WorkerKernel

    def initialize(self, argv: list[str] | None = None) -> None:
        """Set up the kernel."""
        self.ignore_cwd = True
        # Output goes to the process's own stdout and stderr, which the proxy keeps the end of;
        # on iopub it would share a socket with the tokens.
        self.outstream_class = None  # type: ignore[assignment]
        super().initialize(argv)  # type: ignore[no-untyped-call]

    def init_pdb(self) -> None:
        """Nothing: who runs no code debugs none, and IPython's debugger takes time to import."""

    def init_control(self, context: zmq.Context[Any]) -> None:
        """Have the main thread read the shell's socket, which takes turns among clients.

        ipykernel's thread for subshells, of which a worker has none, would read up to two thousand
        messages of one client ahead, and any other client's would wait behind them.
        """
        super().init_control(context)  # type: ignore[no-untyped-call]
        reader: Any = getattr(self, "shell_channel_thread", None)  # ipykernel 6 has none
        if reader is not None:
            self.shell_channel_thread = None
            reader.io_loop.close()

    def init_iopub(self, context: zmq.Context[Any]) -> None:
        """Give iopub its queue before the first client comes; see `IOPUB_QUEUE`."""
        context.setsockopt(zmq.SNDHWM, IOPUB_QUEUE)
        super().init_iopub(context)  # type: ignore[no-untyped-call]
        context.sockopts.pop(zmq.SNDHWM, None)


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
    gc.freeze()  # spares later collections what stays until the end
    gc.enable()
    app.start()  # type: ignore[no-untyped-call]
    app.cleanup_connection_file()  # type: ignore[no-untyped-call]
    end_process()
