"""``mlc_widget serve --group``: one worker for the users of a shared machine."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable
from typing import Any, Final

from mlc_widget.api.errors import BadRequestError
from mlc_widget.api.request_values import bad
from mlc_widget.protocol.worker_record import check_seconds

_IDLE_TIMEOUT_S: Final = 3600.0


def serve_group(options: argparse.Namespace, wait: Callable[[], None]) -> None:
    """Serve the members of a group until `wait` returns, and let running requests end.

    Raises:
        BadRequestError: An option does not go with a group, or there is no such group.
    """
    from mlc_widget.api.serving.group_server import GroupServer
    from mlc_widget.api.serving.group_socket import GroupSocket
    from mlc_widget.factories import kernel_mlc_engine
    from mlc_widget.proxy.engines import AsyncKernelMLCEngine
    from mlc_widget.proxy.shared_workers import stop_worker

    for flag in ("host", "port", "token_file", "allow_remote"):
        if (value := getattr(options, flag)) not in (None, False):
            name = flag.replace("_", "-")
            raise bad(name, value, "it does not go with --group, which opens no port.")
    idle_timeout = _IDLE_TIMEOUT_S
    if options.idle_timeout is not None:
        idle_timeout = check_seconds("idle-timeout", options.idle_timeout)
    share = f"group-{options.group}"
    chosen: dict[str, Any] = {
        "share": share,
        "unload_after": options.unload_after,
        "runtime": options.runtime,
        "device": options.device,
        "runtime_options": _runtime_options(options),
    }

    class MemberEngine(AsyncKernelMLCEngine):
        """Its errors are a member's to read, who must not see what the worker printed."""

        _hides_output = True

    def make_engine(user: int) -> AsyncKernelMLCEngine:
        return MemberEngine(**chosen, cache_salt=f"user-{user}")

    with GroupSocket(options.group) as socket:  # before the load, which may take long
        _allow_many_connections()
        engine = kernel_mlc_engine(options.model, **chosen)
        try:
            server = GroupServer(socket, make_engine, options.model, idle_timeout=idle_timeout)
            with server:
                print(f"{', '.join(options.model)} is served to the group {options.group}.")
                print(f"Its members take {socket.url} in place of a model.")
                print("Ctrl+C ends it.", flush=True)
                wait()
                print("Ending …", file=sys.stderr)
                server.interrupt_generate()  # each answer ends properly, with what it has
        finally:
            engine.terminate()
            with contextlib.suppress(BadRequestError):  # it has ended already
                stop_worker(share)


def _runtime_options(options: argparse.Namespace) -> dict[str, Any]:
    """What keeps users from learning of each other's prompts, beside salts for the tvm runtime."""
    from mlc_widget.engine.runtimes.registry import choose_runtime

    name = options.runtime
    if name == "auto":
        name = choose_runtime({"device": options.device})
    if name == "mlc_llm":  # its prefix cache has no salts
        return {"engine_config": {"prefix_cache_mode": "disable"}}
    return {}


def _allow_many_connections() -> None:
    """Raise this process's limit of open files, which each user's connections count among."""
    import resource  # not on Windows

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
