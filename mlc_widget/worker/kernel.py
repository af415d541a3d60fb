"""The worker's kernel: one with comms that runs no code."""

from __future__ import annotations

import contextlib
import sys
from typing import Any, Final

import comm
from ipykernel.kernelbase import Kernel

from mlc_widget._version import __version__

_NO_CODE: Final = "This kernel is a worker of mlc_widget, which runs no code: open a comm to it."


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

    async def do_execute(self, code: str, silent: bool, *_: Any, **__: Any) -> dict[str, Any]:
        """Refuse to run code."""
        error = {"ename": "NotImplementedError", "evalue": _NO_CODE, "traceback": [_NO_CODE]}
        if not silent:
            self.send_response(self.iopub_socket, "error", error)  # type: ignore[no-untyped-call]
        return {"status": "error", "execution_count": self.execution_count, **error}
