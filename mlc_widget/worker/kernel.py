"""The worker's kernel: one with comms that runs no code."""

from __future__ import annotations

import contextlib
import sys
from typing import Any, Final

import comm
from ipykernel._version import kernel_protocol_version
from ipykernel.kernelbase import Kernel

from mlc_widget._version import __version__

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
