"""Checks on requests, before any work starts.

Each request is a plain dict in OpenAI's shape. `check_chat`, `check_completion` and
`check_embedding` return a new dict with only what the caller gave (None means not given), or raise
`BadRequestError` with the field as `param` and the value in the message. `request_fields` lists
every field that OpenAI, WebLLM or mlc_llm know, and how it is treated.

Limits follow OpenAI's API reference (temperature 0 to 2, penalties -2 to 2 …) or, where OpenAI has
none, `limits`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from mlc_widget.api.errors import BadRequestError, UnsupportedFieldError
from mlc_widget.api.limits import LIMITS
from mlc_widget.api.request_fields import Kind, refused
from mlc_widget.api.request_messages import (
    check_choice,
    messages,
    response_format,
    tool_choice,
    tools,
)
from mlc_widget.api.request_params import SamplingParams
from mlc_widget.api.request_values import (
    Check,
    JSONDict,
    bad,
    boolean,
    completion_logprobs,
    embedding_input,
    field_name,
    identifier,
    integer,
    known,
    logit_bias,
    mapping,
    model,
    number,
    one_of,
    prompts,
    shortened,
    stream_options,
    string,
    strings,
    top_k,
    unknown_field,
)
from mlc_widget.api.resumable_field import resumable

__all__ = [
    "CHAT_FIELDS",
    "COMPLETION_FIELDS",
    "EMBEDDING_FIELDS",
    "JSONDict",
    "check_chat",
    "check_completion",
    "check_embedding",
    "check_sampling",
]

_COMMON: Final[dict[str, Check]] = {
    "model": model,
    "stream": boolean,
    "stream_options": stream_options,
    "n": integer(1, LIMITS.choices),
    "max_tokens": integer(1, 2**31 - 1),
    "temperature": number(0, 2),
    "top_p": number(0, 1),
    "seed": integer(-(2**63), 2**64 - 1),
    "top_k": top_k,
    "min_p": number(0, 1),
    "typical_p": number(0, 1),
    "stop": strings(LIMITS.stop_strings, LIMITS.stop_bytes),
    "frequency_penalty": number(-2, 2),
    "presence_penalty": number(-2, 2),
    "repetition_penalty": number(0.01, 10),
    "dry_multiplier": number(0, 100),
    "dry_base": number(1, 10),
    "dry_allowed_length": integer(1, 64),
    "dry_sequence_breakers": strings(LIMITS.sequence_breakers, LIMITS.sequence_breaker_bytes),
    "logit_bias": logit_bias,
    "response_format": response_format,
    "ignore_eos": boolean,
    "enable_latency_breakdown": boolean,
    "request_id": identifier,
    "user": string,
}
CHAT_FIELDS: Final[Mapping[str, Check]] = {
    **_COMMON,
    "messages": messages,
    "max_completion_tokens": integer(1, 2**31 - 1),
    "logprobs": boolean,
    "top_logprobs": integer(0, 20),
    "tools": tools,
    "tool_choice": tool_choice,
    "parallel_tool_calls": boolean,
    "enable_thinking": boolean,
    "metadata": mapping,
    "safety_identifier": string,
    "prompt_cache_key": string,
    "store": one_of(False),
    "service_tier": one_of("auto", "default", "flex"),
    "modalities": one_of(["text"]),
    "resumable": resumable,
}
COMPLETION_FIELDS: Final[Mapping[str, Check]] = {
    **_COMMON,
    "prompt": prompts,
    "max_tokens": integer(0, 2**31 - 1),
    "max_completion_tokens": integer(0, 2**31 - 1),
    "logprobs": completion_logprobs,
    "top_logprobs": integer(0, 20),
    "echo": boolean,
}
EMBEDDING_FIELDS: Final[Mapping[str, Check]] = {
    "input": embedding_input,
    "model": model,
    "dimensions": integer(1, 2**20),
    "truncate": boolean,
    "encoding_format": one_of("float", "base64"),
    "request_id": identifier,
    "user": string,
}


def _check(
    kind: Kind, request: Mapping[str, Any], fields: Mapping[str, Check], required: str
) -> JSONDict:
    flat = dict(request)
    extra = flat.pop("extra_body", None)
    if extra is not None:  # where OpenAI's client puts what is not OpenAI's
        flat.update(mapping("extra_body", extra))
    given = {name: value for name, value in flat.items() if value is not None}
    for name, rule in refused(kind).items():
        if name in given:
            raise UnsupportedFieldError(
                f"{name} = {shortened(given[name])}: {rule.note}", param=name
            )
    known("", given, fields)
    if required not in given:
        raise BadRequestError(f"{required}: this field is required.", param=required)
    return {name: fields[name](name, value) for name, value in given.items()}


def check_chat(request: Mapping[str, Any]) -> JSONDict:
    """Check a chat completion request.

    Raises:
        BadRequestError: A field is invalid; the message names it and its value.
    """
    checked = _check("chat", request, CHAT_FIELDS, "messages")
    _use_one_name_of_max_tokens(checked)
    _check_top_logprobs(checked)
    last = checked["messages"][-1]
    if last.get("tool_calls"):
        at = f"messages[{len(checked['messages']) - 1}].tool_calls"
        raise bad(
            at, last["tool_calls"], "add the results of these calls, as messages of role tool."
        )
    check_choice(checked.get("tool_choice"), checked.get("tools", ()))
    _check_stream_options(checked)
    if checked.get("n", 1) > 1 and checked.get("resumable", {}).get("enabled"):
        raise bad("n", checked["n"], "a resumable request can have only one choice; give 1.")
    return checked


def check_sampling(value: Any, own: Collection[str]) -> JSONDict:
    """Check further sampling fields of a chat request, in one mapping.

    Args:
        value: Fields of `SamplingParams` with their values.
        own: Names that have a place of their own, and must not be in the mapping.

    Raises:
        BadRequestError: A field is invalid; the message names it and its value.
    """
    fields = {
        name: given for name, given in mapping("sampling", value).items() if given is not None
    }
    # The model and the limit are chosen elsewhere, the latter as max_tokens.
    names = SamplingParams.__annotations__.keys() - {"model", "max_completion_tokens", *own}
    for name, given in fields.items():
        param = f"sampling.{field_name(name)}"
        if name in own:
            raise bad(param, given, f"give it as {name}.")
        if name not in names:
            raise unknown_field(param, given, field_name(name), names)
    return {name: CHAT_FIELDS[name](f"sampling.{name}", given) for name, given in fields.items()}


def check_completion(request: Mapping[str, Any]) -> JSONDict:
    """Check a text completion request.

    Raises:
        BadRequestError: A field is invalid; the message names it and its value.
    """
    checked = _check("completion", request, COMPLETION_FIELDS, "prompt")
    _use_one_name_of_max_tokens(checked)
    if checked.get("echo") and checked.get("logprobs") is True:
        raise bad("logprobs", True, "with echo, give the number of alternatives instead.")
    if checked.get("max_tokens") == 0 and not checked.get("echo"):
        raise bad("max_tokens", 0, "give 1 or more; 0 needs echo=True.")
    count, most = choices_of(checked), LIMITS.completions
    if count > most:
        raise bad("n", checked["n"], f"that makes {count} choices; a request may have {most}.")
    _check_top_logprobs(checked)
    _check_stream_options(checked)
    return checked


def prompts_of(request: Mapping[str, Any]) -> list[str | list[int]]:
    """The prompts of a checked completion request."""
    prompt = request["prompt"]
    several = isinstance(prompt, list) and not isinstance(prompt[0], int)
    return prompt if several else [prompt]


def choices_of(request: Mapping[str, Any]) -> int:
    """How many choices a checked chat or completion request has: `n` for each prompt."""
    n: int = request.get("n") or 1
    return n * len(prompts_of(request)) if "prompt" in request else n


def check_embedding(request: Mapping[str, Any]) -> JSONDict:
    """Check an embedding request.

    Raises:
        BadRequestError: A field is invalid; the message names it and its value.
    """
    return _check("embedding", request, EMBEDDING_FIELDS, "input")


def _use_one_name_of_max_tokens(checked: JSONDict) -> None:
    if "max_completion_tokens" in checked:
        if "max_tokens" in checked:
            raise bad("max_tokens", checked["max_tokens"], "give it or max_completion_tokens.")
        checked["max_tokens"] = checked.pop("max_completion_tokens")


def _check_top_logprobs(checked: Mapping[str, Any]) -> None:
    if checked.get("top_logprobs") and checked.get("logprobs") is not True:
        raise bad("top_logprobs", checked["top_logprobs"], "it needs logprobs=True.")


def _check_stream_options(checked: Mapping[str, Any]) -> None:
    if checked.get("stream_options") and not checked.get("stream"):
        raise bad("stream_options", checked["stream_options"], "it needs stream=True.")
