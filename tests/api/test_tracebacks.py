"""What is left of an error's frames once it has left the package."""

from __future__ import annotations

import traceback
from collections.abc import Callable

import pytest

from mlc_widget.api import tracebacks
from mlc_widget.api.errors import EngineDeadError, MLCEngineError, ModelNotFoundError
from mlc_widget.protocol.errors import encode_error


def _ours(source: str) -> Callable[..., object]:
    """The function `public` of a module of this package."""
    namespace = {"__name__": "mlc_widget.invented"}
    exec(source, namespace)
    return tracebacks.releases_locals(namespace["public"])  # type: ignore[arg-type]


PUBLIC = """
def public(work): return inner(work)
def inner(work): return innermost(work)
def innermost(work): return work()
"""
RAISES = """
def public(error): return inner(error)
def inner(error): raise error
"""


def _names(error: BaseException) -> list[str]:
    return [frame.name for frame in traceback.extract_tb(error.__traceback__)]


def test_an_error_that_explains_itself_names_the_public_function_only() -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        _ours(RAISES)(ModelNotFoundError("No such model."))
    assert _names(caught.value)[-2:] == ["called", "public"]


@pytest.mark.parametrize("error", [EngineDeadError("The worker died."), ZeroDivisionError()])
def test_other_errors_keep_their_frames(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        _ours(RAISES)(error)
    assert _names(caught.value)[-2:] == ["public", "inner"]


def test_the_frames_of_a_user_s_function_that_we_called_are_kept() -> None:
    def users() -> None:
        raise ModelNotFoundError("No such model.")

    with pytest.raises(ModelNotFoundError) as caught:
        _ours(PUBLIC)(users)
    assert _names(caught.value)[-4:] == ["public", "inner", "innermost", "users"]


@pytest.mark.parametrize(
    ("error", "whole"),
    [(ModelNotFoundError("No such model."), False), (EngineDeadError("It died."), True)],
)
def test_the_worker_s_traceback_is_as_short(error: MLCEngineError, whole: bool) -> None:
    with pytest.raises(type(error)):
        _raise_below(error, 2)
    lines = encode_error(error)["traceback"]
    assert "in test_the_worker_s_traceback_is_as_short" in lines
    assert "raise error" in lines
    assert ("_raise_below(error, depth - 1)" in lines) == whole


def _raise_below(error: MLCEngineError, depth: int) -> None:
    if depth:
        _raise_below(error, depth - 1)
    raise error
