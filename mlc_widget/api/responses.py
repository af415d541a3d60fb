"""From dicts in OpenAI's shape to OpenAI's types.

`openai` is imported at the first response, not with the package: it costs most of a second.
Fields beyond OpenAI's (``usage.extra``) stay as attributes.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from mlc_widget.api.requests import JSONDict

if TYPE_CHECKING:
    from openai.types import Completion, CreateEmbeddingResponse, Model
    from openai.types.chat import ChatCompletion, ChatCompletionChunk


@cache
def _type(module: str, name: str) -> Any:
    from importlib import import_module

    return getattr(import_module(module), name)


def chat_completion(response: JSONDict) -> ChatCompletion:
    """An answer of `chat.completions.create`."""
    return _type("openai.types.chat", "ChatCompletion").construct(**response)  # type: ignore[no-any-return]


def chat_completion_chunk(response: JSONDict) -> ChatCompletionChunk:
    """A piece of one, when streaming."""
    return _type("openai.types.chat", "ChatCompletionChunk").construct(**response)  # type: ignore[no-any-return]


def completion(response: JSONDict) -> Completion:
    """An answer of `completions.create`, or a piece of one."""
    return _type("openai.types", "Completion").construct(**response)  # type: ignore[no-any-return]


def embedding_response(response: JSONDict) -> CreateEmbeddingResponse:
    """An answer of `embeddings.create`."""
    return _type("openai.types", "CreateEmbeddingResponse").construct(**response)  # type: ignore[no-any-return]


def model(response: JSONDict) -> Model:
    """An entry of `models.list`."""
    return _type("openai.types", "Model").construct(**response)  # type: ignore[no-any-return]
