"""What users call: ``completions.create`` and ``chat.completions.create``."""

from __future__ import annotations

import ast
import uuid
import weakref
from typing import Any

from mlc_llm.protocol import openai_api_protocol as openai
from mlc_llm.standin import recordings


class AsyncCompletion:
    def __init__(self, engine: weakref.ref[Any]) -> None:
        self._engine = engine

    async def create(
        self,
        *,
        prompt: str | list[int],
        model: str | None = None,
        best_of: int = 1,
        echo: bool = False,
        frequency_penalty: float | None = None,
        presence_penalty: float | None = None,
        logprobs: int | None = None,
        logit_bias: dict[int, float] | None = None,
        max_tokens: int | None = None,
        n: int = 1,
        seed: int | None = None,
        stop: str | list[str] | None = None,
        stream: bool = False,
        stream_options: dict[str, Any] | None = None,
        suffix: str | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        user: str | None = None,
        response_format: dict[str, Any] | None = None,
        request_id: str | None = None,
        extra_body: dict[str, Any] | None = None,
    ) -> Any:
        arguments = {k: v for k, v in locals().items() if k != "self"}
        engine = self._engine()
        assert engine is not None
        recorded = _recorded("completions.create", arguments)
        request_id = request_id or f"cmpl-{uuid.uuid4().hex}"
        request = openai.CompletionRequest(**_fields(arguments))
        chunks = engine._completion(request, request_id, recorded)
        if stream:
            return chunks
        texts, reasons = [""] * n, [None] * n
        logprob_results: list[Any] = [None] * n
        usage = None
        async for chunk in chunks:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                texts[choice.index] += choice.text
                reasons[choice.index] = reasons[choice.index] or choice.finish_reason
                if choice.logprobs is not None:  # only the last ones stay
                    logprob_results[choice.index] = choice.logprobs
        choices = [
            openai.CompletionResponseChoice(
                index=i, finish_reason=reasons[i], text=texts[i], logprobs=logprob_results[i]
            )
            for i in range(n)
        ]
        return openai.CompletionResponse(id=request_id, choices=choices, model=model, usage=usage)


class AsyncChatCompletion:
    def __init__(self, engine: weakref.ref[Any]) -> None:
        self._engine = engine

    async def create(
        self,
        *,
        messages: list[dict[str, Any]],
        model: str | None = None,
        frequency_penalty: float | None = None,
        presence_penalty: float | None = None,
        logprobs: bool = False,
        top_logprobs: int = 0,
        logit_bias: dict[int, float] | None = None,
        max_tokens: int | None = None,
        n: int = 1,
        seed: int | None = None,
        stop: str | list[str] | None = None,
        stream: bool = False,
        stream_options: dict[str, Any] | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        tools: list[dict[str, Any]] | None = None,
        tool_choice: Any = None,
        user: str | None = None,
        response_format: dict[str, Any] | None = None,
        request_id: str | None = None,
        extra_body: dict[str, Any] | None = None,
    ) -> Any:
        arguments = {k: v for k, v in locals().items() if k != "self"}
        engine = self._engine()
        assert engine is not None
        recorded = _recorded("chat.completions.create", arguments)
        request_id = request_id or f"chatcmpl-{uuid.uuid4().hex}"
        fields = _fields(arguments)
        fields["messages"] = [openai.ChatCompletionMessage.model_validate(m) for m in messages]
        request = openai.ChatCompletionRequest(**fields)
        chunks = engine._chat(request, request_id, recorded)
        if stream:
            return chunks
        texts: list[str] = [""] * n
        reasons: list[Any] = [None] * n
        entries: list[list[Any]] | None = [[] for _ in range(n)] if logprobs else None
        usage = None
        async for chunk in chunks:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content
                reasons[choice.index] = reasons[choice.index] or choice.finish_reason
                if choice.logprobs is not None and entries is not None:
                    entries[choice.index] += choice.logprobs.content
        choices = []
        for i in range(n):
            calls = None
            if reasons[i] == "tool_calls":
                calls = _calls(texts[i])
                reasons[i] = "tool_calls" if calls else "error"
            message = openai.ChatCompletionMessage(
                content=None if calls else texts[i], role="assistant", tool_calls=calls
            )
            shown = None if entries is None else openai.LogProbs(content=entries[i])
            choices.append(
                openai.ChatCompletionResponseChoice(
                    index=i, finish_reason=reasons[i], message=message, logprobs=shown
                )
            )
        return openai.ChatCompletionResponse(
            id=request_id, choices=choices, model=model, system_fingerprint="", usage=usage
        )


class AsyncChat:
    def __init__(self, engine: weakref.ref[Any]) -> None:
        self.completions = AsyncChatCompletion(engine)


def _fields(arguments: dict[str, Any]) -> dict[str, Any]:
    """A request's fields, in the order in which mlc_llm gives them."""
    extra = arguments["extra_body"] or {}
    fields = {k: v for k, v in arguments.items() if k not in ("extra_body", "request_id")}
    return {**fields, "debug_config": extra.get("debug_config")}


def _recorded(api: str, arguments: dict[str, Any]) -> Any:
    defaults = {"best_of": 1, "echo": False, "n": 1, "stream": False, "logprobs": False}
    given = {
        k: v
        for k, v in arguments.items()
        if v is not None and k != "request_id" and (k not in defaults or defaults[k] != v)
    }
    if given.get("top_logprobs") == 0:
        del given["top_logprobs"]
    return recordings.find(api, given)


def _calls(text: str) -> list[openai.ChatToolCall] | None:
    """Python calls in a text, as mlc_llm expects them; None if it is anything else."""
    try:
        node = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError):
        return None
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        return None
    values = {k.arg: ast.literal_eval(k.value) for k in node.keywords if k.arg}
    call = openai.ChatFunctionCall(name=node.func.id, arguments=values)
    return [openai.ChatToolCall(type="function", function=call)]
