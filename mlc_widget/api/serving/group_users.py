"""The users of a group's server: who has an engine, from the first request to an idle time."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from mlc_widget.api.engine_link import EngineLink
from mlc_widget.api.errors import MLCEngineError
from mlc_widget.api.home_loop import HomeLoop
from mlc_widget.api.openai_routes import OpenAIRoutes
from mlc_widget.api.serving.handler import ServedEngine, TooManyUsersError

_MAX_USERS: Final = 256
_SHORTEST_IDLE_S: Final = 60.0
_LOOK_S: Final = 5.0


class UserEngine(Protocol):
    """What is needed of a user's engine, which lives as long as somebody has it."""

    @property
    def link(self) -> EngineLink:
        """Its core."""


class _Member:
    """A user's engine."""

    def __init__(self, engine: UserEngine, models: Sequence[str], home: HomeLoop) -> None:
        self.engine = engine
        self.last_used = time.monotonic()
        self._models = models
        self._loading: asyncio.Task[None] | None = None
        core = engine.link
        routes = OpenAIRoutes(core, home, keeps_sessions=False)
        self.served = ServedEngine(core, routes, self._ready)

    def idle_s(self, now: float) -> float:
        """Seconds without a request."""
        if self.served.accepted:
            self.last_used = now
        return now - self.last_used

    async def end(self) -> None:
        """Terminate the engine."""
        with contextlib.suppress(MLCEngineError):  # it has ended already
            await self.engine.link.terminate()

    async def _ready(self) -> None:
        """Load the models, also after a load or a worker's restart that has failed."""
        link = self.engine.link
        done = self._loading
        if done is None or (done.done() and self._has_failed(done)):
            self._loading = asyncio.ensure_future(link.reload(self._models))
            self._loading.add_done_callback(lambda t: None if t.cancelled() else t.exception())
        assert self._loading is not None
        await asyncio.shield(self._loading)  # who asked first may leave, others wait for it, too

    def _has_failed(self, load: asyncio.Task[None]) -> bool:
        if load.cancelled() or load.exception() is not None:
            return True
        # A worker that died too often is not started again unless it is asked to load.
        return self.engine.link.snapshot.state == "dead" and len(self.served.answering) == 1


class GroupUsers:
    """The engines by the ids of their users. On the home loop.

    Args:
        make_engine: Makes an engine without a model for a user.
        models: What each engine loads.
        home: The home loop.
        idle_timeout: Seconds without a request after which an engine ends.
    """

    def __init__(
        self,
        make_engine: Callable[[int], UserEngine],
        models: Sequence[str],
        home: HomeLoop,
        idle_timeout: float,
    ) -> None:
        self._make_engine, self._models, self._home = make_engine, models, home
        self._idle_timeout = idle_timeout
        self._members: dict[int, _Member] = {}
        self._looking: asyncio.Task[None] | None = None
        self._leaving: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """End the engines of idle users from now on."""
        self._looking = self._home.spawn(self._look())

    def served_to(self, user: int) -> ServedEngine:
        """The engine of a user.

        Raises:
            TooManyUsersError: There is none, and too many others have one.
        """
        if user not in self._members:
            if len(self._members) >= _MAX_USERS:
                self._make_room()
            self._members[user] = _Member(self._make_engine(user), self._models, self._home)
        member = self._members[user]
        member.last_used = time.monotonic()
        return member.served

    def all_served(self) -> list[ServedEngine]:
        """All engines that users have."""
        return [member.served for member in self._members.values()]

    async def interrupt(self) -> None:
        """End all running requests; each answer ends with what it has."""
        for member in list(self._members.values()):
            await member.engine.link.interrupt_generate()

    async def end(self) -> None:
        """Terminate all engines."""
        if self._looking is not None:
            self._looking.cancel()
        for user in list(self._members):
            self._drop(user)
        if self._leaving:
            await asyncio.wait(set(self._leaving))

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(min(_LOOK_S, self._idle_timeout))
            now = time.monotonic()
            for user, member in list(self._members.items()):
                if member.idle_s(now) >= self._idle_timeout:
                    self._drop(user)

    def _make_room(self) -> None:
        """End the engine of the user who has asked nothing for the longest time."""
        now = time.monotonic()
        user, member = max(self._members.items(), key=lambda item: item[1].idle_s(now))
        if (idle := member.idle_s(now)) < _SHORTEST_IDLE_S:
            raise TooManyUsersError(
                f"{len(self._members)} users have engines, and all have used them lately; try "
                "again later.",
                retry_after=math.ceil(_SHORTEST_IDLE_S - idle),
            )
        self._drop(user)

    def _drop(self, user: int) -> None:
        task = asyncio.ensure_future(self._members.pop(user).end())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
