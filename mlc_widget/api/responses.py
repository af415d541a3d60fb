"""From dicts in OpenAI's shape to OpenAI's types.

Importing `openai` takes most of a second, so it is not imported with the package, but on a thread
while a model loads (`warm_up`), or else at the first response.
Fields beyond OpenAI's (``usage.extra``) are kept as attributes.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from mlc_widget.api.garbage import collection_paused
from mlc_widget.api.requests import JSONDict

if TYPE_CHECKING:
    from openai.types import Completion, CreateEmbeddingResponse, Model
    from openai.types.chat import ChatCompletion, ChatCompletionChunk


_types: dict[tuple[str, str], Any] = {}
_building: set[threading.Thread] = set()  # those that import or build
_one_at_a_time = threading.Lock()


def _type(module: str, name: str) -> Any:
    """One of openai's types, ready to validate.

    It is imported and built on a thread of its own: an interrupt in the middle of that would be
    lost, or become another error. Waiting for the thread can be interrupted.
    """
    key = module, name
    if key not in _types:
        failed: list[Exception] = []
        thread = threading.Thread(
            target=_build, args=(key, failed), name="mlc_widget-openai-types", daemon=True
        )
        _start(thread)
        thread.join()
        if failed:
            raise failed[0]
    return _types[key]


def _start(thread: threading.Thread) -> None:
    _building.add(thread)
    thread.start()


def _build(key: tuple[str, str], failed: list[Exception]) -> None:
    module, name = key
    try:
        with _one_at_a_time:
            if key not in _types:
                with collection_paused():
                    found = getattr(import_module(module), name)
                    found.model_rebuild()
                _types[key] = found
    except Exception as error:
        failed.append(error)
    finally:
        _building.discard(threading.current_thread())


def warm_up() -> None:
    """Begin to import openai's types, so that the first response does not hold up a loop."""

    def work() -> None:
        with contextlib.suppress(Exception):  # the first response will raise the error
            for name in ("ChatCompletionChunk", "ChatCompletion"):
                _type("openai.types.chat", name)
        _building.discard(threading.current_thread())

    if "openai.types.chat" not in sys.modules:
        _start(threading.Thread(target=work, name="mlc_widget-warm-up", daemon=True))


def _finish_imports() -> None:
    """A process that is forked in the middle of an import could never import that module."""
    for thread in _building - {threading.current_thread()}:
        if thread.is_alive():
            thread.join()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_finish_imports)


def _make(module: str, name: str, response: JSONDict) -> Any:
    """Validation is twenty times as fast as openai's ``construct`` and gives an equal object."""
    cls = _type(module, name)
    try:
        return cls.model_validate(response)
    except ValueError:  # openai's own client takes what its types do not foresee
        return cls.construct(**response)


_FORESEEN: Final = ("stop", "length", "tool_calls")


def _make_choices(module: str, name: str, response: JSONDict) -> Any:
    """As `_make`, for finish reasons that OpenAI's types leave out: ``abort``, and none yet."""
    given = [choice["finish_reason"] for choice in response["choices"]]
    if all(reason in _FORESEEN for reason in given):
        return _make(module, name, response)
    choices = [{**choice, "finish_reason": "stop"} for choice in response["choices"]]
    made = _make(module, name, {**response, "choices": choices})
    for choice, reason in zip(made.choices, given, strict=True):
        choice.finish_reason = reason
    return made


def chat_completion(response: JSONDict) -> ChatCompletion:
    """An answer of `chat.completions.create`."""
    return _make_choices("openai.types.chat", "ChatCompletion", response)  # type: ignore[no-any-return]


def chat_completion_chunk(response: JSONDict) -> ChatCompletionChunk:
    """A piece of one, when streaming."""
    if any(choice["finish_reason"] == "abort" for choice in response["choices"]):
        return _make_choices("openai.types.chat", "ChatCompletionChunk", response)  # type: ignore[no-any-return]
    return _make("openai.types.chat", "ChatCompletionChunk", response)  # type: ignore[no-any-return]


def completion(response: JSONDict) -> Completion:
    """An answer of `completions.create`, or a piece of one."""
    return _make_choices("openai.types", "Completion", response)  # type: ignore[no-any-return]


def embedding_response(response: JSONDict) -> CreateEmbeddingResponse:
    """An answer of `embeddings.create`."""
    return _make("openai.types", "CreateEmbeddingResponse", response)  # type: ignore[no-any-return]


def model(response: JSONDict) -> Model:
    """An entry of `models.list`."""
    return _make("openai.types", "Model", response)  # type: ignore[no-any-return]
