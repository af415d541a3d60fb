"""Two ways to stream tokens from mlc_llm: its public API, and the generator below it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from mlc_widget.engine.runtimes.base import Sampling
from mlc_widget.engine.runtimes.mlc_llm.sampling import common_arguments, debug_config
from mlc_widget.engine.runtimes.mlc_llm.translate import Piece


def can_generate_exactly(engine: Any) -> bool:
    """Whether `exact` works with this version of mlc_llm."""
    try:
        from mlc_llm.protocol.debug_protocol import DebugConfig  # noqa: F401
        from mlc_llm.protocol.generation_config import GenerationConfig  # noqa: F401
    except ImportError:
        return False
    return callable(getattr(engine, "_generate", None))


async def metrics(engine: Any) -> None:
    """Wait until an engine answers a request for its metrics, which are discarded.

    It does so between two steps. mlc_llm's own ``metrics`` sends a chat, whose system message may
    be longer than the context window.
    """
    chunks = await engine.completions.create(
        prompt=[0],
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"debug_config": {"special_request": "query_engine_metrics"}},
    )
    async with contextlib.aclosing(chunks):
        async for _ in chunks:
            pass


async def public(
    engine: Any, prompt: Sequence[int], sampling: Sampling, request_id: str, context_window: int
) -> AsyncGenerator[Piece, None]:
    """Stream text from ``completions.create``, which stops as the folder's configuration says."""
    arguments = common_arguments(sampling, prompt_tokens=len(prompt), context_window=context_window)
    debug = debug_config(sampling)
    chunks = await engine.completions.create(
        prompt=list(prompt),
        stream=True,
        stream_options={"include_usage": True},
        request_id=request_id,
        extra_body={"debug_config": debug} if debug else None,
        **arguments,
    )
    async with contextlib.aclosing(chunks):
        async for chunk in chunks:
            for choice in chunk.choices:
                yield Piece(text=choice.text, finish_reason=choice.finish_reason)
            if chunk.usage is not None:
                yield Piece(usage=chunk.usage.model_dump())


async def exact(
    engine: Any, prompt: Sequence[int], sampling: Sampling, request_id: str, context_window: int
) -> AsyncGenerator[Piece, None]:
    """Stream from the undocumented generator on which mlc_llm's own ``create`` is built.

    It can do what ``completions.create`` cannot: give log-probabilities with the tokens' bytes, and
    use other stops than the folder's, or none. (``completions.create`` ends at the folder's stop
    strings even with ``ignore_eos``, since special tokens come as text.)
    """
    from mlc_llm.protocol.debug_protocol import DebugConfig
    from mlc_llm.protocol.generation_config import GenerationConfig
    from mlc_llm.protocol.openai_api_protocol import RequestResponseFormat

    arguments = common_arguments(sampling, prompt_tokens=len(prompt), context_window=context_window)
    wanted = arguments.pop("response_format", None)
    if wanted is not None:
        arguments["response_format"] = RequestResponseFormat.model_validate(wanted)
    config = GenerationConfig(
        **arguments,
        stop_token_ids=list(sampling.stop_token_ids),
        logprobs=sampling.logprobs,
        top_logprobs=sampling.top_logprobs if sampling.logprobs else 0,
        debug_config=DebugConfig.model_validate(debug_config(sampling)),
    )
    outputs = engine._generate(list(prompt), config, request_id)
    async with contextlib.aclosing(outputs):
        async for output, *_ in outputs:
            if output.request_final_usage_json_str is not None:
                yield Piece(usage=json.loads(output.request_final_usage_json_str))
            else:
                yield Piece(
                    text=output.delta_text,
                    logprobs=tuple(output.delta_logprob_json_strs or ()),
                    finish_reason=output.finish_reason,
                )
