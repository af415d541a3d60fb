"""A server's answers, checked: whatever it sends, what comes out has OpenAI's shape."""

from __future__ import annotations

import uuid
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from mlc_widget.api.errors import ProtocolError
from mlc_widget.api.log_text import one_line
from mlc_widget.api.request_values import JSONDict
from mlc_widget.api.unicode_text import well_formed

_LONGEST_PLACE = 200
"""Characters of the place that an error names: keys in it are the server's."""
_Str = Annotated[str, AfterValidator(well_formed)]
_Count = Annotated[int, Field(ge=0, le=2**53)]
_Index = Annotated[int, Field(ge=0, lt=4096)]
_Answer = TypeVar("_Answer", bound=BaseModel)


class _Shape(BaseModel):
    """Fields that are null are as if they were missing: some languages write them so."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {name: value for name, value in given.items() if value is not None}


def new_call_id() -> str:
    """An id for a tool call to which the server gives none."""
    return f"call_{uuid.uuid4().hex}"


class _Function(_Shape):
    name: _Str | None = None
    arguments: _Str | None = None


class _CallPiece(_Shape):
    index: _Index = 0
    id: _Str | None = None
    type: _Str | None = None
    function: _Function | None = None


class _WholeFunction(_Shape):
    name: _Str
    arguments: _Str = ""


class _Call(_Shape):
    id: _Str = Field(default_factory=new_call_id)
    type: _Str = "function"
    function: _WholeFunction


class _Text(_Shape):
    role: _Str | None = None
    content: _Str | None = None
    reasoning_content: _Str | None = None
    reasoning: _Str | None = None  # as newer versions of vLLM have it
    refusal: _Str | None = None


class _Delta(_Text):
    tool_calls: list[_CallPiece] | None = None


class _Message(_Text):
    tool_calls: list[_Call] | None = None


class _Top(_Shape):
    token: _Str
    logprob: float
    bytes: list[Annotated[int, Field(ge=0, le=255)]] | None = None


class _Token(_Top):
    top_logprobs: list[_Top] = []


class _Logprobs(_Shape):
    """Log-probabilities: of a chat, only ``content``; of a completion, the other fields."""

    content: list[_Token] | None = None
    tokens: list[_Str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[_Str, float] | None] | None = None
    text_offset: list[_Count] | None = None


class _Choice(_Shape):
    index: _Index = 0
    finish_reason: _Str | None = None
    logprobs: _Logprobs | None = None


class _ChunkChoice(_Choice):
    delta: _Delta = _Delta()


class _ChatChoice(_Choice):
    message: _Message


class _TextChoice(_Choice):
    text: _Str = ""


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
        at = one_line(".".join(map(str, first["loc"])), _LONGEST_PLACE) or "the answer"
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
    found["finish_reason"] = found.get("finish_reason") or None  # some write "" for none yet
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
