"""Errors about keyword arguments that do not exist, with the nearest one that does."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection
from difflib import get_close_matches
from typing import Any, TypeVar

_F = TypeVar("_F", bound=Callable[..., Any])


def unexpected_keyword(name: str, keyword: str, known: Collection[str]) -> TypeError:
    """The error about a keyword argument that does not exist.

    Args:
        name: The function or class.
        keyword: The argument.
        known: Those that exist.
    """
    near = get_close_matches(keyword, known, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"It takes {', '.join(known)}."
    return TypeError(f"{name} got an unexpected keyword argument {keyword!r}. {hint}")


def suggests_keywords(function: _F) -> _F:
    """Decorate a function: a misspelt keyword argument is refused with the nearest name.

    Python does this itself from 3.13 on.
    """
    parameters = list(inspect.signature(function).parameters)
    known = dict.fromkeys(name for name in parameters if name != "self")
    name = function.__qualname__.removesuffix(".__init__")

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        wrong = next((keyword for keyword in kwargs if keyword not in known), None)
        if wrong is not None:
            del args, kwargs  # or the error's traceback would keep an engine alive
            raise unexpected_keyword(name, wrong, known)
        try:
            return function(*args, **kwargs)
        except BaseException:
            del args, kwargs
            raise

    return called  # type: ignore[return-value]
