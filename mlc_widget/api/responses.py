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
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from mlc_widget.api.requests import JSONDict

if TYPE_CHECKING:
    from openai.types import Completion, CreateEmbeddingResponse, Model
    from openai.types.chat import ChatCompletion, ChatCompletionChunk


@cache
def _type(module: str, name: str) -> Any:
    return getattr(import_module(module), name)


_SAMPLE: Final = {
    "id": "",
    "object": "chat.completion.chunk",
    "created": 0,
    "model": "",
    "choices": [{"index": 0, "finish_reason": "stop", "logprobs": None, "delta": {}}],
}


def warm_up() -> None:
    """Import openai's types on a thread, so that the first response does not hold up a loop."""

    def work() -> None:
        with contextlib.suppress(Exception):  # the first response will raise the error
            chat_completion_chunk(_SAMPLE)
            _type("openai.types.chat", "ChatCompletion").model_validate(
                {**_SAMPLE, "object": "chat.completion", "choices": []}
            )

    global _warming
    if "openai.types.chat" not in sys.modules:
        _warming = threading.Thread(target=work, name="mlc_widget-warm-up", daemon=True)
        _warming.start()


_warming: threading.Thread | None = None


def _finish_imports() -> None:
    """A process that is forked in the middle of an import could never import that module."""
    if _warming is not None:
        _warming.join()


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
