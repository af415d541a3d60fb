"""A worker's settings, in one environment variable, as any kernel provisioner passes it on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

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
