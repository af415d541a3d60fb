"""The requests in flight, and how many deaths of the worker each of them survives.

One death does not show which request caused it, so all of them continue in the next worker. Those
that were running at a second death are tried once more, one at a time: so the request that kills
its workers is found, and the others are answered.
"""

from __future__ import annotations

import secrets
import weakref
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias, cast, get_args

from mlc_widget.api.core import RequestKind
from mlc_widget.api.errors import (
    BadRequestError,
    EngineDeadError,
    EngineTerminatedError,
    MLCEngineError,
    ModelNotLoadedError,
)
from mlc_widget.api.request_ids import new_request_id, of_request
from mlc_widget.api.requests import JSONDict
from mlc_widget.proxy.connection import WorkerConnection
from mlc_widget.proxy.remote_models import RemoteModels
from mlc_widget.proxy.room import Room
from mlc_widget.proxy.turns import Turns

Recovery: TypeAlias = Literal["resume", "error"]

WHOLE_AT_ONCE: Final = 256
"""Requests without stream that an engine sends at once; others wait here, where they take less
memory. Half of what a worker takes, as it may still be ending some that were left."""
_COUNTS: Final = {2: "Two", 3: "Three"}


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
        requests: The collection that it belongs to.
        kind: Which of OpenAI's requests it is.
        request: In OpenAI's shape. It gets an id and a seed where it has none, so that it is the
            same request, with the same answer, when it is sent again.
        resumable: Whether it continues after the worker's death.
    """

    def __init__(
        self,
        requests: InFlightRequests,
        kind: RequestKind,
        request: Mapping[str, Any],
        *,
        resumable: bool,
        streamed: bool,
    ) -> None:
        self.request = dict(request)
        self.streamed = streamed
        self.request_id = request.get("request_id") or new_request_id(kind)
        self.request["request_id"] = self.request_id
        if kind != "embedding" and request.get("seed") is None:
            self.request["seed"] = secrets.randbits(63)
        self.resumable = resumable
        self.aborted = False
        """Whether it must end with finish reason ``abort``, also in a later worker."""
        self._requests = requests
        self._connection: WorkerConnection | None = None
        self._expected: JSONDict | None = None
        self._deaths = 0
        self._suspect = self._failed = False

    @property
    def began(self) -> bool:
        """Whether it was sent to a worker, even one that has died since."""
        return self._connection is not None

    def is_at(self, connection: WorkerConnection) -> bool:
        """Whether it was last sent to this worker."""
        return self._connection is connection

    async def address(self) -> tuple[WorkerConnection, JSONDict]:
        """The connection to send it by, and its content, which names the expected models.

        Raises:
            EngineDeadError: it should be sent again, and no worker has the same models.
            MLCEngineError: it was never sent, and there is no worker for it.
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
            raise self._lost("other models were loaded in the meantime.")
        self._connection, self._expected = connection, expected
        selected = {"request": self.request, "selectedModelId": self.request.get("model")}
        return connection, {**selected, **expected}

    def _lost(self, why: str) -> EngineDeadError:
        return EngineDeadError(
            f"The worker died during this request, which could not be resumed: {why}",
            request_id=self.request_id,
        )

    def sent(self) -> None:
        """Note that it was sent; if it was aborted while there was no worker, abort it now."""
        if self.aborted and self._connection is not None:
            self._connection.post("abort", {"requestId": self.request_id})

    def left(self) -> None:
        """Abort it: nobody waits for its answer any more."""
        if self._connection is not None:
            self._connection.post("abort", {"requestId": self.request_id})

    def served(self) -> None:
        """The worker has sent everything, or waits for the consumer: others may have their turn."""
        self._requests.turns.leave(self)

    def failed(self, error: MLCEngineError) -> BaseException:
        """Log that it failed, once; returns the error to raise, which names this request."""
        if not self._failed:
            self._failed = True
            self._requests.models.log.failed("A request", error, self.request_id)
        return of_request(error, self.request_id)

    def answered(self) -> None:
        """Note that it was answered in full, which resets the count of deaths."""
        self._requests.models.supervisor.reset_death_count()

    def readdress(self, error: ModelNotLoadedError) -> None:
        """Let it be sent again if the model that it was for was replaced on its way.

        Raises:
            ModelNotLoadedError: `error`, if that is not what happened.
        """
        if error.code != "model_replaced" or self._deaths:
            raise error

    def outlive(self, error: EngineDeadError) -> None:
        """Decide whether it continues after `error`.

        Raises:
            EngineDeadError: `error`, if the worker was not replaced, or died too often during it.
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
                f"{error.message}\n{_COUNTS[self._deaths]} workers died during this "
                "request, so it is not tried again.",
                request_id=self.request_id,
            ) from error
        self._suspect = self._deaths > 1


class InFlightRequests:
    """All of an engine's requests. On the home loop.

    Args:
        models: Provides the workers.
        recovery: What happens to running requests when the worker dies.
    """

    def __init__(self, models: RemoteModels, recovery: Recovery) -> None:
        self.models = models
        self.turns: Turns[InFlightRequest] = Turns()
        """Whose turn it is to be at the worker."""
        self.room: Room[InFlightRequest] = Room(WHOLE_AT_ONCE)
        """Those without stream that may be at the worker."""
        self._recovery = recovery
        self._company: weakref.WeakKeyDictionary[WorkerConnection, int]
        self._company = weakref.WeakKeyDictionary()
        self._active: weakref.WeakSet[InFlightRequest] = weakref.WeakSet()

    def begin(
        self, kind: RequestKind, request: Mapping[str, Any], *, streamed: bool = False
    ) -> InFlightRequest:
        """Register a request that was just submitted; the caller must call `end`."""
        resumable = self._recovery == "resume"
        in_flight = InFlightRequest(self, kind, request, resumable=resumable, streamed=streamed)
        self._active.add(in_flight)
        return in_flight

    def end(self, in_flight: InFlightRequest) -> None:
        """Remove a request that was answered, or that nobody waits for. Idempotent."""
        self._active.discard(in_flight)
        self.room.leave(in_flight)
        self.turns.leave(in_flight)
        self.models.request_ended()

    def counts(self, connection: WorkerConnection | None) -> tuple[int, int, int]:
        """How many requests there are, are streamed, and are not at this worker."""
        active = list(self._active)
        elsewhere = sum(connection is None or not one.is_at(connection) for one in active)
        return len(active), sum(one.streamed for one in active), elsewhere

    def company(self, connection: WorkerConnection) -> int:
        """How many requests a worker had when it died; call it before any of them continues."""
        if connection not in self._company:
            there = sum(in_flight.is_at(connection) for in_flight in self._active)
            self._company[connection] = there
        return self._company[connection]

    def abort(self, request_id: str | None = None) -> None:
        """Abort one request, or all, including those that wait for a new worker."""
        for in_flight in self._active:
            if request_id in (None, in_flight.request_id):
                in_flight.aborted = True
                if request_id is not None:  # else all others end, and it gets a place soon
                    self.room.let_in(in_flight)
        self.turns.reconsider()
