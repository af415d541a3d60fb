"""The result of `statistics()`: what an engine is doing, and what its worker has been through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Self

_COUNTERS: Final = frozenset({"worker_starts", "worker_restarts", "bytes_sent", "bytes_received"})


@dataclass(frozen=True, slots=True)
class EngineStatistics:
    """An engine's requests, streams and, with a worker, its starts and traffic.

    A number that does not apply or cannot be known is None: an engine in this process has no
    worker, and a server does not tell what waits there.

    Attributes:
        running_requests: Requests without a complete answer, including those that wait.
        waiting_requests: Those for which nothing has been generated yet: they wait for a worker, a
            load or their turn, or their prompt is being read.
        open_streams: Requests whose answers are streamed.
        worker_starts: How often this engine has started a worker, or joined a shared one.
        worker_restarts: Those of them that replaced a worker which had died, was restarted or
            could load nothing more.
        bytes_sent: Bytes sent to all its workers, with Jupyter's headers, before encryption.
        bytes_received: Bytes received from them.
        other_clients: The other clients of a shared worker.
        other_clients_requests: The running requests of all of them. Nothing else is told of them.
        other_clients_streams: Their open streams.
    """

    running_requests: int
    waiting_requests: int | None = None
    open_streams: int | None = None
    worker_starts: int | None = None
    worker_restarts: int | None = None
    bytes_sent: int | None = None
    bytes_received: int | None = None
    other_clients: int | None = None
    other_clients_requests: int | None = None
    other_clients_streams: int | None = None

    def __repr__(self) -> str:
        known = ", ".join(f"{name}={value}" for name, value in self.known().items())
        return f"EngineStatistics({known})"

    def prometheus_text(self) -> str:
        """The known numbers in Prometheus' text format, as ``mlc_widget_…``."""
        lines = []
        for name, value in self.known().items():
            kind = "counter" if name in _COUNTERS else "gauge"
            full = f"mlc_widget_{name}{'_total' if kind == 'counter' else ''}"
            lines += [f"# TYPE {full} {kind}", f"{full} {value}"]
        return "\n".join([*lines, ""])

    def known(self) -> dict[str, int]:
        """The numbers that are known, by their names."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Self:
        """The statistics that `known` has described, perhaps in another process."""
        names = [field.name for field in fields(cls)]
        return cls(**{name: int(content[name]) for name in names if name in content})
