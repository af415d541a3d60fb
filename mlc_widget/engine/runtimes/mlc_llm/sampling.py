"""Translates `Sampling` to mlc_llm's arguments, and refuses what would crash mlc_llm."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

from mlc_widget.api.errors import BadRequestError, ContextLengthExceededError
from mlc_widget.engine.runtimes.base import Sampling
from mlc_widget.engine.runtimes.mlc_llm.schema import response_format

_MAX_TOP_LOGPROBS = 5
"""With more, mlc_llm's CPU sampler raises an error that ends its thread and all requests."""


def check(
    prompt: Sequence[int], sampling: Sampling, *, vocab_size: int, context_window: int
) -> None:
    """Refuse requests on which mlc_llm would crash or hang, even if earlier checks passed them.

    A token id outside the vocabulary ends mlc_llm's process; an exception in its thread ends every
    request.

    Raises:
        BadRequestError: A value is invalid; the message names the field and the value.
        ContextLengthExceededError: The prompt leaves no room for an answer.
    """
    if not prompt:
        raise BadRequestError("prompt = []: give at least one token.", param="prompt")
    for param, ids in (("prompt", prompt), ("logit_bias", sampling.logit_bias)):
        for token_id in ids:
            if isinstance(token_id, bool) or not isinstance(token_id, int):
                raise BadRequestError(
                    f"{param}: {token_id!r} is not a token id; give integers.", param=param
                )
            if not 0 <= token_id < vocab_size:
                raise BadRequestError(
                    f"{param}: token id {token_id} is outside the vocabulary of {vocab_size}.",
                    param=param,
                )
    if len(prompt) >= context_window:
        raise ContextLengthExceededError(
            f"The prompt has {len(prompt)} tokens; the context window has {context_window}, of "
            "which the answer needs at least one: shorten the conversation, or raise "
            "engine_config.max_total_sequence_length if the model's own window is larger.",
            param="messages",
        )
    if sampling.max_tokens is not None and sampling.max_tokens < 1:
        raise _wrong("max_tokens", sampling.max_tokens, "at least 1")
    _within("temperature", sampling.temperature, 0, math.inf)
    _within("top_p", sampling.top_p, 0, 1)
    _within("frequency_penalty", sampling.frequency_penalty, -2, 2)
    _within("presence_penalty", sampling.presence_penalty, -2, 2)
    for bias in sampling.logit_bias.values():
        _within("logit_bias", bias, -100, 100)
    if not 0 <= sampling.top_logprobs <= _MAX_TOP_LOGPROBS:
        raise _wrong("top_logprobs", sampling.top_logprobs, f"from 0 to {_MAX_TOP_LOGPROBS}")


def _within(param: str, value: float, low: float, high: float) -> None:
    if not (low <= value <= high and math.isfinite(value)):
        raise _wrong(param, value, f"a finite number from {low:g} to {high:g}")


def _wrong(param: str, value: Any, wanted: str) -> BadRequestError:
    return BadRequestError(f"{param} = {value!r}: it must be {wanted}.", param=param)


def engine_seed(seed: int, choice: int) -> int:
    """The seed to give to mlc_llm, which uses 31 bits, for one choice of a request.

    A small seed is passed unchanged, so that it gives the same text as in mlc_llm itself.
    """
    if choice == 0 and seed < 2**31:
        return seed
    digest = hashlib.blake2b(f"{seed}/{choice}".encode(), digest_size=4).digest()
    return int.from_bytes(digest) >> 1


def common_arguments(
    sampling: Sampling, *, prompt_tokens: int, context_window: int
) -> dict[str, Any]:
    """The arguments that `completions.create` and `GenerationConfig` have in common.

    Stop strings are not among them, because mlc_llm drops the whole token in which one begins, and
    ignores them when it ignores the end of the text; this runtime looks for them itself. Neither
    is repetition_penalty: mlc_llm's interface lacks it, and mlc_llm ignores the one in
    mlc-chat-config.json.
    """
    room = context_window - prompt_tokens
    arguments: dict[str, Any] = {
        "max_tokens": room if sampling.max_tokens is None else min(sampling.max_tokens, room),
        "temperature": float(sampling.temperature),
        "top_p": float(sampling.top_p),
        "seed": engine_seed(sampling.seed, sampling.choice),
        "frequency_penalty": float(sampling.frequency_penalty),
        "presence_penalty": float(sampling.presence_penalty),
    }
    if sampling.logit_bias:
        arguments["logit_bias"] = {i: float(b) for i, b in sampling.logit_bias.items()}
    wanted = response_format(sampling.response_format)
    if wanted is not None:
        arguments["response_format"] = wanted
    return arguments


def debug_config(sampling: Sampling) -> dict[str, Any]:
    """The arguments that mlc_llm takes in its ``debug_config``."""
    debug: dict[str, Any] = {}
    if sampling.ignore_eos:
        debug["ignore_eos"] = True
    if sampling.response_format is not None:
        # The default mode, jump forward, replaces tokens that have already been streamed.
        debug["grammar_execution_mode"] = "constraint"
    return debug
