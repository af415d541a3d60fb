"""Recorded answers by the call that they were given to, as what the engine's thread would emit."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from mlc_llm.standin.faults import faults
from mlc_llm.standin.outputs import Output


def key(api: str, arguments: dict[str, Any]) -> str:
    return json.dumps([api, arguments], sort_keys=True)


@cache
def _all() -> dict[str, list[list[Output]]]:
    path = faults().recordings
    if path is None:
        return {}
    calls = json.loads(Path(path).read_text())["recordings"]
    return {
        key(call["api"], call["kwargs"]): _outputs(call)
        for call in calls
        if call.get("outcome") == "ok" and "api" in call
    }


def find(api: str, arguments: dict[str, Any]) -> list[list[Output]] | None:
    """What the thread emits for a call, one list for each moment; None if it was not recorded."""
    return _all().get(key(api, arguments))


def _outputs(call: dict[str, Any]) -> list[list[Output]]:
    chunks = call.get("chunks") or [call["response"]]
    n = call["kwargs"].get("n", 1)
    whole = "response" in call
    emitted: list[list[Output]] = []
    usage: dict[str, Any] | None = None
    for chunk in chunks:
        usage = chunk["usage"] or usage
        moment = [Output() for _ in range(n)]
        for choice in chunk["choices"]:
            text = _text(choice)
            if whole and call["api"] == "completions.create":
                text = _own_text(text, call["kwargs"])
            reason = choice["finish_reason"]
            if reason in ("tool_calls", "error"):  # made above the thread
                reason = "stop"
            moment[choice["index"]] = Output(text, _logprobs(choice, call), reason)
        if chunk["choices"]:
            emitted.extend(_parts(moment, call))
    usage = usage or {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    emitted.append([Output(usage=json.dumps(usage))])
    return emitted


def _parts(moment: list[Output], call: dict[str, Any]) -> list[list[Output]]:
    """Of a whole completion only its last chunk's log-probabilities were kept."""
    if "response" not in call or call["api"] != "completions.create":
        return [moment]
    if "logprobs" not in call["kwargs"]:
        return [moment]
    last = moment[0]
    lost = '{"token": "?", "logprob": -1.0, "bytes": [63], "top_logprobs": []}'
    return [[Output(last.text[:-1], [lost])], [Output(last.text[-1:], last.logprobs, last.reason)]]


def _own_text(text: str, arguments: dict[str, Any]) -> str:
    """Without what the caller's echo and suffix add."""
    if arguments.get("echo"):
        text = text.removeprefix(arguments["prompt"])
    return text.removesuffix(arguments.get("suffix", ""))


def _text(choice: dict[str, Any]) -> str:
    inner = choice.get("delta") or choice.get("message")
    return str(inner["content"] if inner else choice["text"])


def _logprobs(choice: dict[str, Any], call: dict[str, Any]) -> list[str] | None:
    found = choice["logprobs"]
    if found is None:
        return None
    if "content" in found:
        return [json.dumps(entry) for entry in found["content"]]
    entries = zip(found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True)
    return [
        json.dumps(
            {
                "token": token,
                "logprob": logprob,
                "bytes": list(token.encode()),
                "top_logprobs": [
                    {"token": t, "logprob": p, "bytes": list(t.encode())} for t, p in top.items()
                ],
            }
        )
        for token, logprob, top in entries
    ]
