"""The thread on which engines live, and the two ways to wait for it.

An engine's state belongs to one event loop on one background thread, so that it goes on while a
cell of the notebook runs. Callers on any other loop or thread hand it coroutines and wait here.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextvars
import inspect
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, Generic, ParamSpec, TypeVar

from mlc_widget.api.errors import EngineForkedError, MLCEngineError

_T = TypeVar("_T")
_P = ParamSpec("_P")

INTERRUPT_TICK_S = 0.1
"""How often a wait wakes its loop: an idle loop sees an interrupt only then (ipykernel #881)."""


_PARK_S = 5.0


class HomeLoop:
    """A daemon thread that runs an event loop for as long as the process lives."""

    _shared: ClassVar[HomeLoop | None] = None
    _guard: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, name: str) -> None:
        self._pid = os.getpid()
        self._parked = False
        self._tasks: set[asyncio.Task[Any]] = set()
        # A selector loop everywhere: zmq's asyncio sockets need one.
        self.loop: asyncio.AbstractEventLoop = asyncio.SelectorEventLoop()
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), name=name, daemon=True)
        # In an empty context: a task must not inherit the cell that happened to make it.
        contextvars.Context().run(self._thread.start)
        started.wait()

    @classmethod
    def shared(cls) -> HomeLoop:
        """The one home loop of this process; a forked child gets its own."""
        with cls._guard:
            home = cls._shared
            if home is None or home._pid != os.getpid():
                home = cls._shared = cls("mlc_widget")
            return home

    @classmethod
    def _after_fork(cls) -> None:
        cls._guard = threading.Lock()  # another thread may have held it

    def _run(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.call_soon(started.set)
        self.loop.run_forever()

    def park(self, timeout: float) -> None:
        """Stop the thread for good, at the end of the process.

        The thread may be in native code, from which it must not return to an interpreter that is
        being torn down. Its tasks are not cancelled; they never continue.

        Args:
            timeout: The longest wait, in seconds, for the thread to return to its loop.
        """
        parked = threading.Event()

        def stay() -> None:
            self._parked = True
            parked.set()
            threading.Event().wait()

        self.loop.call_soon_threadsafe(stay)
        parked.wait(timeout)

    @property
    def is_current(self) -> bool:
        """Whether the caller runs on this loop's thread."""
        return threading.current_thread() is self._thread

    @property
    def is_forked(self) -> bool:
        """Whether this process was forked from the loop's: its thread stayed there."""
        return self._pid != os.getpid()

    def check_process(self) -> None:
        """Refuse to wait for a thread that is not in this process.

        Raises:
            EngineForkedError: This process was forked from the one that has the thread.
        """
        check_not_forked_from(self._pid)

    def spawn(self, coroutine: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Start a coroutine, on this loop's own thread.

        The task is kept until it is done. asyncio itself keeps no reference to a task, and one
        that the garbage collector finds is finalised in the middle of whatever runs just then.
        """
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def start(self, work: Callable[[], Coroutine[Any, Any, _T]]) -> concurrent.futures.Future[_T]:
        """Make a coroutine and run it here, from any thread; cancelling the future cancels it."""
        handover: _Handover[_T] = _Handover(self.spawn, None)

        def cancelled(future: concurrent.futures.Future[_T]) -> None:
            if future.cancelled():
                self._give_up(handover)

        handover.future.add_done_callback(cancelled)
        self.call_soon(handover.start, work)
        return handover.future

    def submit(self, coroutine: Coroutine[Any, Any, _T]) -> concurrent.futures.Future[_T]:
        """As `start`, with a coroutine that has been made already."""
        if self.is_forked:
            coroutine.close()
        future = self.start(lambda: coroutine)

        def cancelled(future: concurrent.futures.Future[_T]) -> None:
            if future.cancelled():
                self.call_soon(_close_unstarted, coroutine)

        future.add_done_callback(cancelled)
        return future

    def call_soon(self, function: Callable[_P, object], *args: _P.args, **_: _P.kwargs) -> None:
        """Call a function here, from any thread, and from finalisers.

        Raises:
            EngineForkedError: in a forked process.
        """
        self.check_process()
        self.loop.call_soon_threadsafe(function, *args, context=contextvars.Context())

    async def wait(
        self,
        work: Callable[[], Coroutine[Any, Any, _T]],
        *,
        abandoned: Callable[[_T], object] | None = None,
    ) -> _T:
        """Make a coroutine and run it here, and await it on the caller's loop.

        Cancelling the caller (also by ■ in Jupyter) cancels the coroutine. If it had already
        finished, `abandoned` gets the result, which the caller can no longer receive.
        """
        self.check_process()
        handover = _Handover(self.spawn, abandoned)
        try:
            self.call_soon(handover.start, work)
            return await wait_ticking(asyncio.wrap_future(handover.future))
        except BaseException:
            self._give_up(handover)
            raise

    def wait_blocking(
        self,
        work: Callable[[], Coroutine[Any, Any, _T]],
        *,
        timeout: float | None = None,
        abandoned: Callable[[_T], object] | None = None,
    ) -> _T:
        """Make a coroutine and run it here, and block the calling thread until it is done.

        `work` must not have made the coroutine already: Ctrl-C may end the caller at any moment,
        and Python complains of a coroutine that was made but never awaited.

        Raises:
            WaitTimeoutError: it took longer than `timeout` seconds, and was cancelled.
            RuntimeError: when called on the home thread itself, which would deadlock.
        """
        self.check_process()
        if self._parked:
            raise RuntimeError("the process is ending: an engine can no longer be called")
        if self.is_current:
            raise RuntimeError("a blocking call on the engine's own thread would deadlock")
        handover = _Handover(self.spawn, abandoned)
        try:
            # An interrupt is possible here too; then it is unknown whether the work has begun.
            self.call_soon(handover.start, work)
            if not concurrent.futures.wait({handover.future}, timeout).done:
                raise WaitTimeoutError
            return handover.future.result()
        except BaseException:  # KeyboardInterrupt most of all
            self._give_up(handover)
            raise

    def _give_up(self, handover: _Handover[_T]) -> None:
        handover.give_up()
        self.call_soon(handover.cancel)


def check_not_forked_from(pid: int) -> None:
    """Refuse to use an engine of a process from which this one was forked.

    Raises:
        EngineForkedError: `pid` is not this process; the message says what to do.
    """
    if pid != os.getpid():
        raise EngineForkedError(
            f"This engine belongs to process {pid}, from which this one ({os.getpid()}) was "
            "forked: its threads stayed there, so it would never answer here. Use it there, or "
            "make an engine in the process that uses it: with multiprocessing, choose "
            "`multiprocessing.get_context('spawn')` and make the engine in the worker function."
        )


@atexit.register
def _park() -> None:
    home = HomeLoop._shared
    if home is not None and home._pid == os.getpid():
        home.park(_PARK_S)


def to_raise(error: BaseException) -> BaseException:
    """An error of this thread, to be raised on another.

    An error that is kept here, such as an engine's last one, must not get the caller's frames into
    its traceback: they hold the caller's variables, and so the engine.
    """
    if isinstance(error, MLCEngineError):
        return error.copy().with_traceback(error.__traceback__)
    return error


def _close_unstarted(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Close a coroutine that was cancelled before its first step: Python warns of those."""
    if inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
        coroutine.close()


class WaitTimeoutError(Exception):
    """A blocking wait took longer than its caller allowed."""


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=HomeLoop._after_fork)


class _Handover(Generic[_T]):
    """Carries a result to another thread, or to `abandoned` if that thread has given up.

    A future alone cannot do that: cancelled at the wrong moment, it drops a result that the
    coroutine has already returned.
    """

    def __init__(
        self,
        spawn: Callable[[Coroutine[Any, Any, _T]], asyncio.Task[_T]],
        abandoned: Callable[[_T], object] | None,
    ) -> None:
        self._spawn = spawn
        self.future: concurrent.futures.Future[_T] = concurrent.futures.Future()
        """The result for the thread that waits."""
        self._abandoned = abandoned
        self._task: asyncio.Task[_T] | None = None
        self._lock = threading.RLock()
        self._results: list[_T] = []
        self._given_up = False

    def start(self, work: Callable[[], Coroutine[Any, Any, _T]]) -> None:
        """Start the coroutine, on the home loop, unless the caller has given up."""
        if not self._given_up:
            self._task = self._spawn(self._run(work))
            self._task.add_done_callback(self._done)

    def cancel(self) -> None:
        """End it, on the home loop."""
        if self._task is not None:
            self._task.cancel()

    def _done(self, task: asyncio.Task[_T]) -> None:
        error = None if task.cancelled() else task.exception()
        if task.cancelled():
            self.future.cancel()
        if not self.future.set_running_or_notify_cancel():
            return
        if error is not None:
            self.future.set_exception(to_raise(error))
        else:
            self.future.set_result(task.result())

    async def _run(self, work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        result = await work()
        with self._lock:
            self._results.append(result)
            given_up = self._given_up
        if given_up:
            self._drop()
        return result

    def give_up(self) -> None:
        """Note that the caller has stopped waiting; from any thread."""
        with self._lock:
            self._given_up = True
        self._drop()

    def _drop(self) -> None:
        with self._lock:
            results, self._results = self._results, []
        for result in results:
            if self._abandoned is not None:
                self._abandoned(result)


_waiting: set[asyncio.Task[Any] | None] = set()


def is_waiting(task: asyncio.Task[Any]) -> bool:
    """Whether a task waits for an engine."""
    return task in _waiting


async def wait_ticking(waiter: asyncio.Future[_T]) -> _T:
    """Await a future, waking the loop regularly so that it notices interrupts."""
    task = asyncio.current_task()
    _waiting.add(task)
    try:
        while not waiter.done():
            await asyncio.wait({waiter}, timeout=INTERRUPT_TICK_S)
    except asyncio.CancelledError:
        waiter.cancel()
        raise
    finally:
        _waiting.discard(task)
    return waiter.result()
