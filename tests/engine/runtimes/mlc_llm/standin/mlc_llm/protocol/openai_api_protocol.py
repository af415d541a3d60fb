"""Requests and responses, with the fields that the recordings show, in their order."""

from __future__ import annotations

import time
from typing import Any, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from .debug_protocol import DebugConfig
from .error_protocol import BadRequestError


class TopLogProbs(BaseModel):
    token: str
    logprob: float
    bytes: list[int] | None


class LogProbsContent(BaseModel):
    token: str
    logprob: float
    bytes: list[int] | None
    top_logprobs: list[TopLogProbs] = []


class LogProbs(BaseModel):
    content: list[LogProbsContent]


class CompletionLogProbs(BaseModel):
    text_offset: list[int] | None
    token_logprobs: list[float]
    tokens: list[str]
    top_logprobs: list[dict[str, float]]


class CompletionUsage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    extra: dict[str, Any] | None = None


class StreamOptions(BaseModel):
    include_usage: bool | None


class RequestResponseFormat(BaseModel):
    type: Literal["text", "json_object"] = "text"
    json_schema: str | None = Field(default=None, alias="schema")


class _Sampled(BaseModel):
    """Checks that both kinds of requests have."""

    @field_validator("frequency_penalty", "presence_penalty", check_fields=False)
    @classmethod
    def _penalty(cls, value: float | None) -> float | None:
        if value and not -2 <= value <= 2:
            raise ValueError("Penalty value should be in range [-2, 2].")
        return value

    @field_validator("logit_bias", check_fields=False)
    @classmethod
    def _bias(cls, value: dict[int, float] | None) -> dict[int, float] | None:
        for token_id, bias in (value or {}).items():
            if abs(bias) > 100:
                raise ValueError(
                    "Logit bias value should be in range [-100, 100], while value "
                    f"{bias} is given for token id {token_id}"
                )
        return value


class CompletionRequest(_Sampled):
    model: str | None = None
    prompt: str | list[int]
    best_of: int = 1
    echo: bool = False
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logprobs: int | None = None
    logit_bias: dict[int, float] | None = None
    max_tokens: int | None = None
    n: int = 1
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    suffix: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    user: str | None = None
    response_format: RequestResponseFormat | None = None
    debug_config: DebugConfig | None = None

    @model_validator(mode="after")
    def _logprobs(self) -> CompletionRequest:
        if self.logprobs is not None and not 0 <= self.logprobs <= 5:
            raise ValueError('"logprobs" must be in range [0, 5]')
        return self


class CompletionResponseChoice(BaseModel):
    finish_reason: Literal["stop", "length", "preempt"] | None = None
    index: int = 0
    logprobs: CompletionLogProbs | None = None
    text: str


class CompletionResponse(BaseModel):
    id: str
    choices: list[CompletionResponseChoice]
    created: int = Field(default_factory=lambda: int(time.time()))
    model: str | None = None
    object: str = "text_completion"
    usage: CompletionUsage | None = None


class ChatFunction(BaseModel):
    description: str | None = None
    name: str
    parameters: dict[str, Any]


class ChatTool(BaseModel):
    type: Literal["function"]
    function: ChatFunction


class ChatFunctionCall(BaseModel):
    name: str
    arguments: dict[str, Any] | None = None


class ChatToolCall(BaseModel):
    id: str = "call_0"
    type: Literal["function"]
    function: ChatFunctionCall


class ChatCompletionMessage(BaseModel):
    content: str | list[dict[str, Any]] | None = None
    role: Literal["system", "user", "assistant", "tool"]
    name: str | None = None
    tool_calls: list[ChatToolCall] | None = None
    tool_call_id: str | None = None


class ChatCompletionRequest(_Sampled):
    messages: list[ChatCompletionMessage]
    model: str | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logprobs: bool = False
    top_logprobs: int = 0
    logit_bias: dict[int, float] | None = None
    max_tokens: int | None = None
    n: int = 1
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    tools: list[ChatTool] | None = None
    tool_choice: Literal["none", "auto"] | dict[str, Any] | None = None
    user: str | None = None
    response_format: RequestResponseFormat | None = None
    debug_config: DebugConfig | None = None

    @model_validator(mode="after")
    def _logprobs(self) -> ChatCompletionRequest:
        if not self.logprobs and self.top_logprobs > 0:
            raise ValueError('"logprobs" must be True to support "top_logprobs"')
        return self

    @model_validator(mode="after")
    def _streams(self) -> ChatCompletionRequest:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream must be set to True when stream_options is present")
        return self

    def check(self) -> bool:
        """Refuse what the engine does not do; whether tools are to be used."""
        for i, message in enumerate(self.messages):
            if message.role == "system" and i > 0:
                raise BadRequestError(
                    f"System prompt at position {i} in the message list is invalid."
                )
            if message.tool_calls is not None:
                raise BadRequestError("Assistant message having `tool_calls` is not supported yet.")
            if isinstance(message.content, list):
                raise ModuleNotFoundError("No module named 'PIL'")
        if self.tools is None or self.tool_choice == "none":
            return False
        if isinstance(self.tool_choice, dict):
            name = self.tool_choice["function"]["name"]
            if name not in [tool.function.name for tool in self.tools]:
                raise BadRequestError(
                    f"The tool_choice function {name} is not found in the tools list"
                )
        return True


class ChatCompletionResponseChoice(BaseModel):
    finish_reason: Literal["stop", "length", "tool_calls", "error"] | None = None
    index: int = 0
    message: ChatCompletionMessage
    logprobs: LogProbs | None = None


class ChatCompletionStreamResponseChoice(BaseModel):
    finish_reason: Literal["stop", "length", "tool_calls", "error"] | None = None
    index: int = 0
    delta: ChatCompletionMessage
    logprobs: LogProbs | None = None


class ChatCompletionResponse(BaseModel):
    id: str
    choices: list[ChatCompletionResponseChoice]
    created: int = Field(default_factory=lambda: int(time.time()))
    model: str | None = None
    system_fingerprint: str
    object: Literal["chat.completion"] = "chat.completion"
    usage: CompletionUsage | None = None


class ChatCompletionStreamResponse(BaseModel):
    id: str
    choices: list[ChatCompletionStreamResponseChoice]
    created: int = Field(default_factory=lambda: int(time.time()))
    model: str | None = None
    system_fingerprint: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    usage: CompletionUsage | None = None
