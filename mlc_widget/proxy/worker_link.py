"""The sockets to a worker that another process may have started."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

import zmq
from jupyter_client.asynchronous.client import AsyncKernelClient

from mlc_widget.proxy.off_loop import off_loop
from mlc_widget.proxy.process import close_context, new_context

_LINGER_MS: Final = 200


class WorkerLink:
    """The sockets to a worker.

    Args:
        connection: What a Jupyter connection file has.
    """

    def __init__(self, connection: Mapping[str, Any]) -> None:
        self._context = new_context()
        self._client = AsyncKernelClient(context=self._context)
        self._client.load_connection_info(cast("Any", dict(connection)))

    def sockets(self) -> tuple[Any, Any, Any]:
        """Sockets for shell and iopub, the latter without subscriptions, and a session."""
        iopub = self._client.connect_iopub()
        iopub.setsockopt(zmq.UNSUBSCRIBE, b"")
        return self._client.connect_shell(), iopub, self._client.session

    async def close(self) -> None:
        """Close the sockets; the worker still gets what was sent, such as that this one leaves."""
        await off_loop(close_context, self._context, linger=_LINGER_MS)
