"""A server's answers, checked: whatever it sends, what comes out has OpenAI's shape."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mlc_widget.api.errors import ProtocolError
from mlc_widget.api.request_values import JSONDict

_Count = Annotated[int, Field(ge=0, le=2**53)]
_Index = Annotated[int, Field(ge=0, lt=4096)]
_Answer = TypeVar("_Answer", bound=BaseModel)


class _Shape(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _Function(_Shape):
    name: str | None = None
    arguments: str | None = None


class _CallPiece(_Shape):
    index: _Index = 0
    id: str | None = None
    type: str | None = None
    function: _Function | None = None


class _WholeFunction(_Shape):
    name: str
    arguments: str = ""


class _Call(_Shape):
    id: str
    type: str = "function"
    function: _WholeFunction


class _Text(_Shape):
    role: str | None = None
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None  # as newer versions of vLLM have it
    refusal: str | None = None


class _Delta(_Text):
    tool_calls: list[_CallPiece] | None = None


class _Message(_Text):
    tool_calls: list[_Call] | None = None


class _Top(_Shape):
    token: str
    logprob: float
    bytes: list[int] | None = None


class _Token(_Top):
    top_logprobs: list[_Top] = []


class _Logprobs(_Shape):
    """Log-probabilities: of a chat, only ``content``; of a completion, the other fields."""

    content: list[_Token] | None = None
    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None
    text_offset: list[int] | None = None


class _Choice(_Shape):
    index: _Index = 0
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _ChunkChoice(_Choice):
    delta: _Delta = _Delta()


class _ChatChoice(_Choice):
    message: _Message


class _TextChoice(_Choice):
    text: str = ""


class _Details(_Shape):
    cached_tokens: _Count | None = None


class _Usage(_Shape):
    prompt_tokens: _Count = 0
    completion_tokens: _Count = 0
    total_tokens: _Count = 0
    prompt_tokens_details: _Details | None = None


class _Envelope(_Shape):
    usage: _Usage | None = None


class _Chunk(_Envelope):
    choices: list[_ChunkChoice] = []


class _Chat(_Envelope):
    choices: list[_ChatChoice]


class _Completion(_Envelope):
    choices: list[_TextChoice] = []


class _Vector(_Shape):
    index: Annotated[int, Field(ge=0, le=2**20)] = 0
    embedding: list[float] | str


class _Embeddings(_Envelope):
    data: list[_Vector]


class ServedModel(_Shape):
    """An entry of a server's list of models."""

    id: Annotated[str, Field(min_length=1, max_length=512)]
    owned_by: str | None = None
    max_model_len: _Count | None = None
    """The context window, of vLLM and SGLang."""


class _Models(_Shape):
    data: Annotated[list[ServedModel], Field(max_length=10_000)]


def chat_chunk(answer: Any) -> JSONDict:
    """A chunk of a chat: its ``choices`` and, if there is one, its ``usage``.

    Raises:
        ProtocolError: It has another shape, as with all functions here.
    """
    return _choices(_read(_Chunk, answer))


def chat(answer: Any) -> JSONDict:
    """The answer to a chat request."""
    return _choices(_read(_Chat, answer))


def completion(answer: Any) -> JSONDict:
    """The answer to a completion request, or a chunk of one."""
    return _choices(_read(_Completion, answer))


def embeddings(answer: Any) -> JSONDict:
    """The answer to an embedding request."""
    read = _read(_Embeddings, answer)
    data = [
        {"object": "embedding", "index": vector.index, "embedding": vector.embedding}
        for vector in sorted(read.data, key=lambda vector: vector.index)
    ]
    return {"data": data, "usage": (read.usage or _Usage()).model_dump(exclude_none=True)}


def models(answer: Any) -> list[ServedModel]:
    """The models that a server lists."""
    return _read(_Models, answer).data


def _read(shape: type[_Answer], answer: Any) -> _Answer:
    try:
        return shape.model_validate(answer)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        at = ".".join(map(str, first["loc"])) or "the answer"
        raise ProtocolError(
            f"The server's answer does not have OpenAI's shape: {at}: {first['msg']}."
        ) from None


def _choices(read: _Chunk | _Chat | _Completion) -> JSONDict:
    found: JSONDict = {"choices": [_choice(choice) for choice in read.choices]}
    if read.usage is not None:
        found["usage"] = read.usage.model_dump(exclude_none=True)
    return found


def _choice(choice: _Choice) -> JSONDict:
    """A choice, with the fields that all our engines have, and without those that are None."""
    found = choice.model_dump(exclude_none=True)
    found.setdefault("finish_reason", None)
    found.setdefault("logprobs", None)
    for name in ("delta", "message"):
        if (said := found.get(name)) is not None:
            thought = said.pop("reasoning", None)
            if thought:
                said.setdefault("reasoning_content", thought)
    if "message" in found:
        found["message"]["role"] = "assistant"
        found["message"].setdefault("content", None)
    return found


def no_usage() -> JSONDict:
    """The usage where a server does not report it."""
    return _Usage().model_dump(exclude_none=True)
