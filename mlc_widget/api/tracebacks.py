"""Keep errors from keeping engines alive, and from showing frames that explain nothing.

Python and IPython keep the last error, the error its traceback, and the traceback the local
variables of every function that it passed through. An engine ends when nothing refers to it any
more, so our functions that have one among their locals let go of it when they fail.

An error about a request or a model says what is wrong and what to do; of the way to it inside of
this package, only the function that was called is kept. ``python -X dev`` keeps everything.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any, Final, TypeVar

from mlc_widget.api.errors import BadRequestError, ModelError
from mlc_widget.api.ipython_traceback import own_frames

_PACKAGE: Final = __name__.partition(".")[0] + "."
_F = TypeVar("_F", bound=Callable[..., Any])
_C = TypeVar("_C", bound=type)


def releases_locals(function: _F) -> _F:
    """Decorate a function: when it raises, its locals and those of its package are released.

    Only frames that the error has left are cleared; those on an engine's own thread are in other
    packages or do not hold an engine.
    """
    module = function.__module__
    room = module.rpartition(".")[0] + "." if module.count(".") > 1 else module

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            try:
                return await function(*args, **kwargs)
            except BaseException as error:
                del args, kwargs
                _release(error, room)
                _shorten(error)
                raise

        return awaited  # type: ignore[return-value]

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            del args, kwargs
            _release(error, room)
            _shorten(error)
            raise

    return called  # type: ignore[return-value]


def callers_level() -> int:
    """The `stacklevel` of a warning of the calling function that names this package's caller."""
    level, frame = 1, inspect.currentframe()
    frame = None if frame is None else frame.f_back
    while frame is not None and str(frame.f_globals.get("__name__")).startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    return level


def releases_locals_of_methods(cls: _C) -> _C:
    """Decorate a class: `releases_locals` for all its public methods."""
    for name, value in list(vars(cls).items()):
        if inspect.isfunction(value) and not name.startswith("_"):
            setattr(cls, name, releases_locals(value))
    return cls


def explains_itself(error: BaseException) -> bool:
    """Whether an error's message says all that a user needs, wherever in us it was raised."""
    return isinstance(error, BadRequestError | ModelError) and not sys.flags.dev_mode


def _shorten(error: BaseException) -> None:
    """Drop the frames below the public function, whose decorator's is the first."""
    called = error.__traceback__ and error.__traceback__.tb_next
    if called and explains_itself(error) and own_frames(called) is None:
        called.tb_next = None


def _release(error: BaseException, room: str) -> None:
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        link = pending.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        pending += [link.__cause__, link.__context__]
        traceback = link.__traceback__
        while traceback is not None:
            frame = traceback.tb_frame
            name = str(frame.f_globals.get("__name__"))
            # Python before 3.13 would end a suspended coroutine whose frame is cleared.
            plain = not frame.f_code.co_flags & _SUSPENDABLE or link is error
            if name.startswith(room) and plain:
                with contextlib.suppress(RuntimeError):  # it still runs
                    frame.clear()
            traceback = traceback.tb_next


_SUSPENDABLE = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
