"""A worker's settings: in an environment variable or, from another machine, in its first message.

Kernel provisioners that start a worker elsewhere pass no environment variables on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from mlc_widget.api.errors import ProtocolError

VARIABLE: Final = "MLC_WIDGET_WORKER"


@dataclass(frozen=True, slots=True)
class Sharing:
    """The settings of a worker that several processes of a user share.

    Attributes:
        name: Its name.
        record: Its record's file; see `worker_record`.
        lock_fd: The descriptor of that file, whose lock says that the worker lives.
        idle_timeout: Seconds without clients after which it ends.
        unload_after: Seconds after which models that nobody asked for are unloaded.
    """

    name: str
    record: str
    lock_fd: int
    idle_timeout: float
    unload_after: float


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """A worker's settings.

    Attributes:
        runtime: The runtime's name, or ``auto``.
        runtime_options: Options of the runtime.
        handler: A subclass of `KernelMLCEngineHandler`, as ``package.module:Class``.
        logit_processors: By model id, each as ``package.module:Class``.
        dies_with_parent: Whether the worker ends when the process that started it does.
        runtime_dir: Where its sockets are; removed when it ends on its own.
        sharing: Set if clients of several processes share it.
    """

    runtime: str = "auto"
    runtime_options: Mapping[str, Any] = field(default_factory=dict)
    handler: str | None = None
    logit_processors: Mapping[str, str] = field(default_factory=dict)
    dies_with_parent: bool = False
    runtime_dir: str | None = None
    sharing: Sharing | None = None

    def to_wire(self) -> dict[str, Any]:
        """What a worker on any machine needs, for the message that opens a comm."""
        return {name: getattr(self, name) for name in _ON_THE_WIRE}

    @classmethod
    def from_wire(cls, settings: Any) -> WorkerSettings:
        """Read what `to_wire` gave, of any version.

        Raises:
            ProtocolError: it is something else.
        """
        if not isinstance(settings, Mapping):
            raise ProtocolError(f"settings = {settings!r:.200}: must be an object")
        known = {name: settings[name] for name in _ON_THE_WIRE if name in settings}
        for name, value in known.items():
            if not isinstance(value, _ON_THE_WIRE[name]):
                raise ProtocolError(f"settings.{name} = {value!r:.200}: has the wrong type")
        return cls(**known)

    def to_environment(self) -> dict[str, str]:
        """The variable to start a worker with."""
        return {VARIABLE: json.dumps(asdict(self))}

    @classmethod
    def from_environment(cls) -> WorkerSettings:
        """Read them in the worker; all defaults where the variable is not set."""
        settings = json.loads(os.environ.get(VARIABLE, "{}"))
        if settings.get("sharing") is not None:
            settings["sharing"] = Sharing(**settings["sharing"])
        return cls(**settings)


_ON_THE_WIRE: Final[Mapping[str, Any]] = {
    "runtime": str,
    "runtime_options": Mapping,
    "handler": str | None,
    "logit_processors": Mapping,
}
