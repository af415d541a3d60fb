"""How one reply comes from the engine into its buffer; on the I/O thread."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from mlc_widget.api.engine_link import EngineLink
from mlc_widget.api.errors import MLCEngineError
from mlc_widget.api.requests import JSONDict
from mlc_widget.widget.chat_request import DEFAULT_MAX_TOKENS
from mlc_widget.widget.chat_tools import listed
from mlc_widget.widget.outcome import Outcome
from mlc_widget.widget.reply_buffer import ReplyBuffer


async def stream_reply(
    link: EngineLink,
    request: JSONDict,
    buffer: ReplyBuffer,
    *,
    on_change: Callable[[], object],
    on_resumed: Callable[[bool], object],
) -> Outcome:
    """Have the engine answer; cancelling it stops the engine.

    Args:
        link: To the engine.
        request: A streaming chat request. Without `max_tokens` it is bounded nevertheless. Servers
            among its tools are started, and replaced by their tools.
        buffer: Gets what the reply says.
        on_change: Called when more has changed than the text and whether it repeats itself.
        on_resumed: Called when another worker continues the reply, with whether it is exact.
    """
    finish = ""
    usage: JSONDict = {}
    if "max_tokens" not in request and not await _model_has_bound(link):
        request = {**request, "max_tokens": DEFAULT_MAX_TOKENS}
    if "tools" in request:
        request = {**request, "tools": await listed(request["tools"])}
    async with contextlib.aclosing(await link.open_stream("chat", request)) as batches:
        async for batch in batches:
            for chunk in batch:
                usage = chunk.get("usage") or usage
                if resumed := chunk.get("resumed"):
                    on_resumed(resumed.get("exact") is True)
                for choice in chunk["choices"]:
                    buffer.tokens += (choice.get("logprobs") or {}).get("content") or ()
                    if _take(buffer, choice["delta"]):
                        on_change()
                    finish = choice.get("finish_reason") or finish
    return Outcome("stopped" if finish == "abort" else "done", finish, usage)


async def _model_has_bound(link: EngineLink) -> bool:
    """Whether the model's configuration limits the tokens of a reply."""
    try:
        models = await link.list_models()
    except MLCEngineError:  # the request itself will tell, or be resumed
        return False
    defaults = models[0].get("default_sampling_params") if models else None  # a server has none
    return defaults is not None and defaults["max_tokens"] is not None


def _take(buffer: ReplyBuffer, delta: JSONDict) -> bool:
    """Add a delta to the buffer; returns whether a tool call was begun or named."""
    buffer.append(delta.get("reasoning_content") or "", "reasoning")
    buffer.append(delta.get("content") or "")
    changed = False
    for piece in delta.get("tool_calls") or ():
        buffer.call(piece)
        # A call's arguments come with the next change.
        changed = changed or bool((piece.get("function") or {}).get("name"))
    return changed
