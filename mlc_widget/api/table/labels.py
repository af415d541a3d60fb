"""The exact probabilities of labels, from the model's log-probabilities.

Each label is a request of its own that can only be answered by this label, so that its answer says
how probable each of its tokens is after those before. Requests of one row share the computation of
their prompt. The answers are the paths of a tree; where paths part, the probabilities of the tokens
that continue some label are divided by their sum. The probability of a label is the product along
its path.

That needs texts of which none begins another. JSON's strings end with a quotation mark; numbers do
not, so that ``1`` and ``10`` are asked for as strings.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from mlc_widget.api.core import EngineCore
from mlc_widget.api.errors import InternalEngineError, UnsupportedFieldError
from mlc_widget.api.request_values import JSONDict, bad
from mlc_widget.api.table.schemas import ReplySchema

MOST_LABELS: Final = 100
_ROUNDING: Final = 1e-3

Path = Sequence[tuple[bytes, float]]
"""The tokens of a label, each with its log-probability after those before."""


def labels_of(schema: Mapping[str, Any]) -> list[Any]:
    """The labels of a schema that allows a few plain values only.

    Raises:
        BadRequestError: It allows something else, or too many.
    """
    labels = [schema["const"]] if "const" in schema else schema.get("enum")
    if labels is None and schema.get("type") == "boolean":
        labels = [True, False]
    if not isinstance(labels, list) or not labels:
        raise bad("probabilities", True, "the schema must be a Literal, an Enum, or a JSON enum.")
    if any(isinstance(label, list | dict) for label in labels):
        raise bad("probabilities", True, "the labels must be texts, numbers, booleans or null.")
    if len(labels) > MOST_LABELS:
        raise bad(
            "probabilities",
            True,
            f"there are {len(labels)} labels; at most {MOST_LABELS} are allowed.",
        )
    return labels


def answers_of(labels: Sequence[Any]) -> list[Any]:
    """What the model answers for each label: the labels, or their texts if one begins another."""
    texts = [json.dumps(label) for label in labels]
    ordered = sorted(texts)  # a text is next to one that it begins, or to another that it begins
    begins = any(later.startswith(text) for text, later in itertools.pairwise(ordered))
    return texts if begins else list(labels)


def label_columns(labels: Sequence[Any]) -> list[str]:
    """The column of each label's probability."""
    return [
        f"{label if isinstance(label, str) else json.dumps(label)}_probability" for label in labels
    ]


class LabelSchema:
    """The reply of `ask_probabilities`: the columns of a label, and one for each probability.

    Args:
        label: What reads the label.

    Raises:
        BadRequestError: It is not the schema of a few labels.
    """

    def __init__(self, label: ReplySchema) -> None:
        form = label.response_format or {"json_schema": {"schema": {}}}
        self.labels = labels_of(form["json_schema"]["schema"])
        self.response_format = label.response_format
        self._label, self._names = label, label_columns(self.labels)
        self.columns: Mapping[str, str | None] = {
            **label.columns,
            **dict.fromkeys(self._names, "number"),
        }
        if len(self.columns) != len(label.columns) + len(self.labels):
            raise bad("probabilities", True, "two columns would have the same name.")

    def read(self, text: str) -> dict[str, Any]:
        """The values of the columns."""
        found = json.loads(text)
        values = self._label.read(json.dumps(found["label"]))
        return {**values, **dict(zip(self._names, found["probabilities"], strict=True))}


@dataclass(slots=True)
class _Node:
    logprob: float = 0.0
    children: dict[bytes, _Node] = field(default_factory=dict)


def tree_probabilities(paths: Sequence[Path]) -> list[float]:
    """The probability of each path, which add up to 1.

    Raises:
        UnsupportedFieldError: The log-probabilities are not those of the model alone.
    """
    root = _Node()
    for path in paths:
        node = root
        for token, logprob in path:
            node = node.children.setdefault(token, _Node(logprob))
    logs = []
    for path in paths:
        node, total = root, 0.0
        for token, _ in path:
            total += _share(node, token)
            node = node.children[token]
        logs.append(total)
    peak = max(logs)
    masses = [math.exp(log - peak) for log in logs]
    return [mass / sum(masses) for mass in masses]


def _share(node: _Node, token: bytes) -> float:
    """The logarithm of a token's part of the probability of all that continue a label."""
    logprobs = [child.logprob for child in node.children.values()]
    if len(logprobs) == 1:
        return 0.0
    peak = max(logprobs)
    if not math.isfinite(peak):
        return -math.log(len(logprobs))
    total = peak + math.log(sum(math.exp(logprob - peak) for logprob in logprobs))
    if total > _ROUNDING:
        raise UnsupportedFieldError(
            "probabilities = True: this runtime gives log-probabilities among the allowed tokens "
            "only, so the labels cannot be compared; leave probabilities out.",
            param="probabilities",
        )
    return node.children[token].logprob - total


async def ask_probabilities(
    core: EngineCore, request: Mapping[str, Any], labels: Sequence[Any]
) -> JSONDict:
    """A response whose text is ``{"label", "probabilities"}``: the most probable label, and all.

    On the home loop.

    Args:
        core: The engine's core.
        request: A checked chat request.
        labels: The labels.

    Raises:
        MLCEngineError: What a chat request raises.
    """
    tasks = [
        asyncio.ensure_future(core.request("chat", {**request, **_forced(answer)}))
        for answer in answers_of(labels)
    ]
    try:
        responses = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    choices = [response["choices"][0] for response in responses]
    reason = next((c["finish_reason"] for c in choices if c["finish_reason"] != "stop"), "stop")
    usages = [response.get("usage") or {} for response in responses]
    usage = {
        "prompt_tokens": max(u.get("prompt_tokens", 0) for u in usages),
        "completion_tokens": sum(u.get("completion_tokens", 0) for u in usages),
    }
    text = ""
    if reason == "stop":
        found = tree_probabilities([_path(choice) for choice in choices])
        best = labels[found.index(max(found))]
        text = json.dumps({"label": best, "probabilities": found})
    choice = {"message": {"content": text}, "finish_reason": reason}
    return {"choices": [choice], "usage": usage}


def _forced(answer: Any) -> JSONDict:
    schema = {"name": "label", "schema": {"enum": [answer]}}
    return {
        "response_format": {"type": "json_schema", "json_schema": schema},
        "logprobs": True,
        "temperature": 0,
    }


def _path(choice: Mapping[str, Any]) -> Path:
    entries = (choice.get("logprobs") or {}).get("content")
    if not entries:
        raise InternalEngineError("The engine gave no log-probabilities for a label.")
    return [
        (
            bytes(entry["bytes"]) if entry.get("bytes") else str(entry["token"]).encode(),
            float(entry["logprob"]),
        )
        for entry in entries
    ]
