"""A client that sends malformed and hostile messages to a worker that another one uses."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Mapping
from typing import Any, Final

from mlc_widget.protocol.messages import PROTOCOL_VERSION

SECRET: Final = "a word that only the other client knows"
VICTIM_STREAM: Final = "victim's stream"
VICTIM_REQUEST: Final = "victim's request"
UNANSWERED: Final = frozenset(
    {"keepAlive", "setLogLevel", "setAppConfig", "progressTaken", "logTaken", "streamCredit"}
)
"""Kinds that are not answered, or only if they are refused."""
_KINDS: Final = (
    "hello", "keepAlive", "unload", "cancelLoad", "reload", "chatCompletionNonStreaming",
    "completionNonStreaming", "embedding", "chatCompletionStreamInit", "completionStreamInit",
    "completionStreamNextChunk", "completionStreamReturn", "streamCredit", "progressTaken",
    "logTaken", "interruptGenerate", "abort", "resetChat", "getMessage", "runtimeStatsText",
    "forwardTokensAndSample", "metrics", "statistics", "health", "workerInfo", "listModels",
    "deviceInfo", "getGPUVendor", "getMaxStorageBufferBindingSize", "listResumableSessions",
    "resumeChatCompletion", "resumeChatCompletionStreamInit", "deleteResumableSession",
    "setLogLevel", "setAppConfig", "customRequest", "__init__", "_answer", "", "é\ud800",
    "x" * 9999,
)  # fmt: skip
_FIELDS: Final = (
    "request", "modelId", "chatOpts", "streamId", "credit", "requestId", "keepStats", "inputIds",
    "isPrefill", "requestName", "requestMessage", "protocol", "selectedModelId", "appConfigHash",
    "model_list", "journal", "resume", "client",
)  # fmt: skip


class Attacker:
    """Draws messages.

    Args:
        seed: Of the draws.
        model: A model that is loaded.
    """

    def __init__(self, seed: int, model: str) -> None:
        self._draw = random.Random(seed)
        self._ids = itertools.count()
        self._numbers = itertools.count()
        nested: Any = "x"
        for _ in range(500):
            nested = [nested]
        self._values = [
            None, 0, -1, 1, 2**70, -(2**63), 1.5, float("nan"), float("inf"), True, "", "x", "\0",
            "\ud800", "é" * 3000, [], [1, "x"], [None] * 300, {}, {"a": 1}, {"": {"": {}}}, nested,
            VICTIM_STREAM, VICTIM_REQUEST, model, "/etc/passwd", "../" * 20, "/dev/zero",
            "HF://x/y@../..", os.getppid(), os.getpid(), PROTOCOL_VERSION,
            {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2},
            {"messages": [{"role": "user", "content": "hi"}], "request_id": VICTIM_REQUEST,
             "max_tokens": 500},
            {"messages": [{"role": "user", "content": "\ud800"}], "n": 2**40},
            {"prompt": "x", "max_tokens": 2}, {"input": "x"},
            {"created": 1, "choices": [None]},
            {"created": 1, "choices": [{"journal": [2**40], "finish_reason": None}]},
            {"created": 1, "choices": [{"journal": "x", "finish_reason": "stop"}]},
            {"model_list": [{"model_id": model, "model": "/etc"}]},
            {"pid": os.getpid()}, {"pid": 1}, {"observer": True},
        ]  # fmt: skip

    def message(self) -> Any:
        """The next message, which need not be an object."""
        draw = self._draw
        if draw.random() < 0.05:
            return draw.choice([*self._values, [1, 2], "reload", 5])
        kind: Any = draw.choice(_KINDS)
        if kind in ("reload", "unload") and draw.random() < 0.9:  # they take much time
            kind = "metrics"
        message: dict[str, Any] = {"kind": kind, "uuid": f"hostile {next(self._ids)}"}
        message["content"] = self._content()
        if draw.random() < 0.1:
            message["n"] = next(self._numbers)
        elif draw.random() < 0.02:
            message["n"] = draw.choice([0, 2**70, -1, "1", None, 1.0, next(self._numbers) + 3])
        if draw.random() < 0.05:
            message[draw.choice(["kind", "uuid", "content", "n", "extra"])] = self._value()
        if draw.random() < 0.02:
            del message[draw.choice(["kind", "uuid", "content"])]
        return message

    def _content(self) -> Any:
        if self._draw.random() < 0.2:
            return self._value()
        names = self._draw.sample(_FIELDS, self._draw.randint(1, 6))
        return {name: self._value() for name in names}

    def _value(self) -> Any:
        return self._draw.choice(self._values)


def awaits_answer(message: Any) -> str | None:
    """The uuid of a message that must be answered once; None for others."""
    if not isinstance(message, Mapping):
        return None
    kind, uuid = message.get("kind"), message.get("uuid")
    if not isinstance(kind, str) or not isinstance(uuid, str) or kind in UNANSWERED:
        return None
    return uuid if uuid.startswith("hostile") else None
