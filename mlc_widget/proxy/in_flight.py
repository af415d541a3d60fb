"""The requests that are under way, and how many deaths of the worker each of them survives.

One death says little about whom to blame, so everything in flight goes on in the next worker. What
was there at a second death goes on once more, but alone: then the neighbours of a request that
kills its workers are answered, and that request is known.
"""

from __future__ import annotations

import secrets
import uuid
import weakref
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias, cast, get_args

from mlc_widget.api.core import RequestKind
from mlc_widget.api.errors import (
    BadRequestError,
    EngineDeadError,
    EngineTerminatedError,
    MLCEngineError,
)
from mlc_widget.api.requests import JSONDict
from mlc_widget.proxy.connection import WorkerConnection
from mlc_widget.proxy.remote_models import RemoteModels
from mlc_widget.proxy.turns import Turns

Recovery: TypeAlias = Literal["resume", "error"]

_COUNTS: Final = {2: "Two", 3: "Three"}
_ID_PREFIX: Final = {"chat": "chatcmpl", "completion": "cmpl", "embedding": "embd"}


def check_recovery(recovery: str) -> Recovery:
    """Read the engines' `recovery` argument.

    Raises:
        BadRequestError: it is neither ``resume`` nor ``error``.
    """
    if recovery not in get_args(Recovery):
        raise BadRequestError(
            f"recovery = {recovery!r}: it must be 'resume' (go on in a new worker) or 'error'.",
            param="recovery",
        )
    return cast("Recovery", recovery)


class InFlightRequest:
    """One request from its submission to its end. `InFlightRequests.begin` makes it.

    Args:
        requests: Those that it is one of.
        kind: Which of OpenAI's.
        request: In OpenAI's shape. It gets an id and a seed where it has none, so that it is the
            same request, with the same answer, when it is sent again.
        resumable: Whether it is to survive a death.
    """

    def __init__(
        self,
        requests: InFlightRequests,
        kind: RequestKind,
        request: Mapping[str, Any],
        *,
        resumable: bool,
    ) -> None:
        self.request = dict(request)
        self.request_id = request.get("request_id") or f"{_ID_PREFIX[kind]}-{uuid.uuid4().hex}"
        self.request["request_id"] = self.request_id
        if kind != "embedding" and request.get("seed") is None:
            self.request["seed"] = secrets.randbits(63)
        self.resumable = resumable
        self.aborted = False
        """Whether it is to end with finish reason ``abort``, wherever it is."""
        self._requests = requests
        self._connection: WorkerConnection | None = None
        self._expected: JSONDict | None = None
        self._deaths = 0
        self._suspect = False

    @property
    def began(self) -> bool:
        """Whether it was given to a worker, dead or alive."""
        return self._connection is not None

    def is_at(self, connection: WorkerConnection) -> bool:
        """Whether it was given to this worker last."""
        return self._connection is connection

    async def address(self) -> tuple[WorkerConnection, JSONDict]:
        """Where to send it, and its content: with what this side believes to be loaded.

        Raises:
            EngineDeadError: it is to be sent again, and there is no worker like the first.
            MLCEngineError: there is none for the first time.
        """
        try:
            await self._requests.turns.enter(
                self, suspect=self._suspect, at_once=lambda: self.aborted
            )
            connection, expected = await self._requests.models.serving()
        except EngineTerminatedError:
            raise
        except MLCEngineError as error:
            if not self._deaths:
                raise
            raise self._lost(error.message) from error
        if self._deaths and expected != self._expected:
            raise self._lost("Other models were loaded meanwhile.")
        self._connection, self._expected = connection, expected
        selected = {"request": self.request, "selectedModelId": self.request.get("model")}
        return connection, {**selected, **expected}

    def _lost(self, why: str) -> EngineDeadError:
        return EngineDeadError(
            f"The worker died while it worked on this request, which could not be resumed: {why}",
            request_id=self.request_id,
        )

    def sent(self) -> None:
        """It was sent; if it was aborted while there was no worker, it ends there at once."""
        if self.aborted and self._connection is not None:
            self._connection.post("abort", {"requestId": self.request_id})

    def left(self) -> None:
        """Nobody waits for its answer any more."""
        if self._connection is not None:
            self._connection.post("abort", {"requestId": self.request_id})

    def served(self) -> None:
        """The worker has sent all, or as much as the consumer takes for now: others may come."""
        self._requests.turns.leave(self)

    def answered(self) -> None:
        """It was answered in full: workers do not die of everything."""
        self._requests.models.supervisor.reset_death_count()

    def outlive(self, error: EngineDeadError) -> None:
        """Go on after `error` if that ended the worker, and not always this request's.

        Raises:
            EngineDeadError: `error`, in all other cases.
        """
        connection = self._connection
        if connection is None or not connection.replaced or not self.resumable:
            raise error
        self._deaths += 1
        alone = self._suspect or self._requests.company(connection) == 1
        self._requests.turns.leave(self)
        if self._deaths > 1 and alone:
            self._requests.models.supervisor.count_as_one(self._deaths)
            raise EngineDeadError(
                f"{error.message}\n{_COUNTS[self._deaths]} workers ended while they worked on "
                "this request: it is not tried again.",
                request_id=self.request_id,
            ) from error
        self._suspect = self._deaths > 1


class InFlightRequests:
    """All of an engine's requests. On the home loop.

    Args:
        models: Gives them workers.
        recovery: What becomes of those whose worker dies.
    """

    def __init__(self, models: RemoteModels, recovery: Recovery) -> None:
        self.models = models
        self.turns: Turns[InFlightRequest] = Turns()
        """Whose turn it is to be at the worker."""
        self._recovery = recovery
        self._company: weakref.WeakKeyDictionary[WorkerConnection, int]
        self._company = weakref.WeakKeyDictionary()
        self._active: weakref.WeakSet[InFlightRequest] = weakref.WeakSet()

    def begin(self, kind: RequestKind, request: Mapping[str, Any]) -> InFlightRequest:
        """A request that was just submitted; see to it that `end` is called."""
        in_flight = InFlightRequest(self, kind, request, resumable=self._recovery == "resume")
        self._active.add(in_flight)
        return in_flight

    def end(self, in_flight: InFlightRequest) -> None:
        """It was answered, or nobody waits for it any more. Idempotent."""
        self._active.discard(in_flight)
        self.turns.leave(in_flight)

    def company(self, connection: WorkerConnection) -> int:
        """How many were at a worker when it died; ask first before any of them goes on."""
        if connection not in self._company:
            there = sum(in_flight.is_at(connection) for in_flight in self._active)
            self._company[connection] = there
        return self._company[connection]

    def abort(self, request_id: str | None = None) -> None:
        """End one, or all, also where they wait for a new worker."""
        for in_flight in self._active:
            if request_id in (None, in_flight.request_id):
                in_flight.aborted = True
        self.turns.reconsider()
