"""What the cores of linked engines share: a home loop, and a snapshot that is published."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from mlc_widget.api.copies import ENGINES, NotCopyable
from mlc_widget.api.engine_link import EngineLink, EngineSnapshot, Observer
from mlc_widget.api.engine_log import EngineLog, EngineLogRecord
from mlc_widget.api.home_loop import HomeLoop
from mlc_widget.api.snapshot_publisher import SnapshotPublisher

_T = TypeVar("_T")


class PublishedLink(NotCopyable, EngineLink):
    """An `EngineLink` whose state lives on the home loop; snapshots go anywhere.

    Args:
        home: The loop that owns it.
    """

    _instead = ENGINES

    def __init__(self, home: HomeLoop) -> None:
        self._home = home
        self._make_another: Callable[[], object] | None = None
        self._publisher = SnapshotPublisher()
        self._log = EngineLog()
        self._publisher.observe(self._note_state)

    def __repr__(self) -> str:
        snapshot = self.snapshot
        return f"<EngineLink to {snapshot.model_id or 'no model'}: {snapshot.state}>"

    @property
    def snapshot(self) -> EngineSnapshot:
        """The current state; safe to read from any thread."""
        return self._publisher.snapshot

    @property
    def log(self) -> EngineLog:
        """What has happened to the engine; may be used from any thread."""
        return self._log

    def made_by(self, make: Callable[[], object]) -> None:
        """Note what makes another engine with the same options."""
        self._make_another = make

    def make_another(self) -> object:
        """Make another engine with the same options, without a model."""
        assert self._make_another is not None, "its engine says how"
        return self._make_another()

    def _note_state(self, snapshot: EngineSnapshot) -> None:
        failed = snapshot.failed
        self._log.note_state(snapshot.state, snapshot.error if failed is None else failed.error)

    async def logs(self) -> list[EngineLogRecord]:
        """What has happened to the engine and its worker; also after its end."""
        return self._log.read()

    def submit(self, coroutine: Coroutine[Any, Any, _T]) -> Future[_T]:
        """Run a coroutine on the home loop, from any thread."""
        return self._home.submit(coroutine)

    def call_soon(self, function: Callable[..., object], *args: Any) -> None:
        """Call a function on the home loop, from any thread."""
        self._home.call_soon(function, *args)

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Call `observer` on the home loop with each new snapshot; returns what ends that."""
        return self._publisher.observe(observer)
