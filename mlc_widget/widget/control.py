"""Receives messages while a cell is running, by the kernel's control channel.

Jupyter's kernels serve the control channel on a thread of its own (interrupt, shutdown, debugger),
also while a cell computes. The page sends a widget's ``comm_msg`` there. ipykernel looks the type
up in `Kernel.control_handlers`, a plain dict in 6.29 and in 7 that has no entry of that name, so we
add one. It takes only messages to comms that were registered with `listen`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, MutableMapping
from typing import Any

_log = logging.getLogger(__name__)
_targets: dict[str, Callable[[Any], object]] = {}
_MESSAGE_TYPE = "comm_msg"


def listen(comm_id: str, callback: Callable[[Any], object]) -> bool:
    """Call `callback` with the content of each custom message to `comm_id`.

    It is called on the control thread and must return at once.

    Returns:
        Whether this process is a kernel whose control channel supports it.
    """
    handlers = _control_handlers()
    if handlers is None:
        return False
    _targets[comm_id] = callback
    handler = handlers.get(_MESSAGE_TYPE)
    if not isinstance(handler, _Handler):
        handlers[_MESSAGE_TYPE] = _Handler(handler)
    return True


def forget(comm_id: str) -> None:
    """Stop listening for a comm; an unknown one is ignored."""
    _targets.pop(comm_id, None)


def _control_handlers() -> MutableMapping[str, Any] | None:
    try:
        from IPython import get_ipython
    except ImportError:
        return None
    kernel = getattr(get_ipython(), "kernel", None)
    handlers = getattr(kernel, "control_handlers", None)
    return handlers if isinstance(handlers, MutableMapping) else None


class _Handler:
    """The entry in `control_handlers`; passes other messages on to the previous handler."""

    def __init__(self, previous: Callable[..., Any] | None) -> None:
        self._previous = previous

    def __call__(self, stream: Any, ident: Any, message: Any) -> Any:
        content = message.get("content") or {}
        callback = _targets.get(str(content.get("comm_id")))
        if callback is None:
            if self._previous is not None:
                return self._previous(stream, ident, message)
            _log.debug("no widget listens on the control channel for this comm")
            return None
        data = content.get("data") or {}
        if data.get("method") == "custom":
            callback(data.get("content"))
        return None
