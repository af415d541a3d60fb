"""The turns between a reply that calls tools and the reply to their results."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mlc_widget.api.errors import BadRequestError
from mlc_widget.api.function_tools import MAX_CALL_TURNS, result_text
from mlc_widget.api.request_values import bad
from mlc_widget.api.requests import JSONDict
from mlc_widget.widget.state import ChatState, Message


def result_turn(reply: Message, results: Any) -> list[Message]:
    """A reply whose calls are made, and the messages with their results after it.

    Args:
        reply: The reply with the calls.
        results: A list with a result for each call, or a mapping by the calls' ids or names.

    Raises:
        BadRequestError: the reply makes no calls, they are not complete, or results are missing.
    """
    if not reply.tool_calls:
        raise BadRequestError(f"reply = {reply.id!r}: it calls no tools.", param="reply")
    if not reply.calls_are_whole:
        raise BadRequestError(
            f"reply = {reply.id!r}: it ended before its calls were complete; regenerate it.",
            param="reply",
        )
    turn = [replace(reply, calling=False, calls_stopped=False)]
    texts = _results_in_order(reply.tool_calls, results)
    for call, text in zip(reply.tool_calls, texts, strict=True):
        turn.append(
            Message(
                uuid.uuid4().hex,
                "tool",
                text,
                parent=turn[-1].id,
                tool_call_id=call["id"],
                name=call["function"]["name"],
            )
        )
    return turn


def may_call(state: ChatState, reply_id: str) -> bool:
    """Whether functions may make a reply's calls; not after too many turns without the user."""
    turns = 0
    for message in reversed(state.path(reply_id)):
        if message.role == "user":
            break
        turns += message.role == "assistant"
    return turns <= MAX_CALL_TURNS


def _results_in_order(calls: Sequence[JSONDict], results: Any) -> list[str]:
    """One text per call, from a list of results or a mapping by the calls' ids or names.

    Raises:
        BadRequestError: there are too few or too many results.
    """
    names = [call["function"]["name"] for call in calls]
    if isinstance(results, Mapping):
        keys = [
            call["id"] if call["id"] in results else name
            for call, name in zip(calls, names, strict=True)
        ]
        missing = [name for key, name in zip(keys, names, strict=True) if key not in results]
        if missing:
            raise BadRequestError(f"results: none for {', '.join(missing)}.", param="results")
        return [result_text(results[key]) for key in keys]
    if isinstance(results, str) or not isinstance(results, Sequence) or len(results) != len(calls):
        raise bad(
            "results", results, f"give a list with a result for each call: {', '.join(names)}."
        )
    return [result_text(result) for result in results]
