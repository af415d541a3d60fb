"""Embedding requests, in OpenAI's shape."""

from __future__ import annotations

import asyncio
import base64
import math
import struct
from collections.abc import Collection, Coroutine, Iterator
from typing import Any

from mlc_widget.api.errors import BadRequestError, MLCEngineError, UnsupportedModelError
from mlc_widget.api.requests import JSONDict
from mlc_widget.engine.model import LoadedModel


class RunningEmbeddings(Collection[str]):
    """The running embedding requests by their ids, so that they can be aborted."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[JSONDict]] = {}
        self._errors: dict[str, MLCEngineError] = {}

    def __contains__(self, request_id: object) -> bool:
        return request_id in self._tasks

    def __iter__(self) -> Iterator[str]:
        return iter(self._tasks)

    def __len__(self) -> int:
        return len(self._tasks)

    async def run(self, request_id: str, work: Coroutine[Any, Any, JSONDict]) -> JSONDict:
        """Do the work of one request. Cancelling the caller cancels it.

        Raises:
            MLCEngineError: It was aborted (code ``aborted``), or ended by `end_all`.
        """
        task = self._tasks[request_id] = asyncio.create_task(work)
        try:
            return await task
        except asyncio.CancelledError:
            error = self._errors.get(request_id)
            if error is None:
                raise
            raise error from None
        finally:
            self._errors.pop(request_id, None)
            del self._tasks[request_id]

    def end(self, request_id: str, error: MLCEngineError | None = None) -> None:
        """Abort one request, which then raises an error. An unknown id is ignored."""
        if request_id in self._tasks:
            aborted = MLCEngineError("The request was aborted.", code="aborted")
            self._errors[request_id] = error or aborted
            self._tasks[request_id].cancel()

    def end_all(self, error: MLCEngineError | None) -> None:
        """End all requests."""
        for request_id in list(self._tasks):
            self.end(request_id, error)


async def embed(model: LoadedModel, request: JSONDict) -> JSONDict:
    """Answer a checked embedding request.

    With ``dimensions``, only that many leading components are kept and normalized to length 1.
    With ``truncate``, inputs are cut at the context window; otherwise longer ones are refused.

    Raises:
        UnsupportedModelError: The model has no embeddings.
        BadRequestError: ``dimensions`` is greater than the model's.
    """
    if not model.runtime.capabilities.embeddings:
        raise UnsupportedModelError(
            f"{model.model_id} has no embeddings under the {model.runtime.name} runtime: load an "
            "embedding model."
        )
    given = request["input"]
    window = model.runtime.context_window_size if request.get("truncate") else None
    if window is not None:  # text that will be cut off need not be encoded
        given = [one[: model.longest_prompt] for one in given]
    inputs = await model.encoder.run(lambda: _encode(model, given, window), sum(map(len, given)))
    vectors = await model.runtime.embed(inputs)
    size = request.get("dimensions")
    if size is not None:
        vectors = [_shorten(list(v), size) for v in vectors]
    packed = request.get("encoding_format") == "base64"
    tokens = sum(map(len, inputs))
    return {
        "object": "list",
        "model": model.model_id,
        "data": [
            {"object": "embedding", "index": i, "embedding": _base64(v) if packed else list(v)}
            for i, v in enumerate(vectors)
        ],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _encode(
    model: LoadedModel, inputs: list[str | list[int]], window: int | None
) -> list[list[int]]:
    """The token ids of all inputs, at most `window` each, with the tokenizer's special tokens."""
    encoded = []
    for text in inputs:
        if isinstance(text, str):
            ids = model.tokenizer.encode(text, add_special_tokens=True)
            if window is not None and len(ids) > window:
                ids = _cut(ids, model.tokenizer.encode(text), window)
        else:
            ids = text
            model.check_ids("input", ids)
            ids = ids[:window]
        encoded.append(ids)
    return encoded


def _cut(ids: list[int], own: list[int], window: int) -> list[int]:
    """Cut the end of a text's `own` tokens, keeping special tokens before and after them."""
    added = len(ids) - len(own)
    before = next((i for i in range(added + 1) if ids[i : i + len(own)] == own), 0)
    after = added - before
    return [*ids[: window - after], *ids[len(ids) - after :]]


def _shorten(vector: list[float], size: int) -> list[float]:
    if size > len(vector):
        raise BadRequestError(
            f"dimensions = {size}: the model's embeddings have {len(vector)}.", param="dimensions"
        )
    kept = vector[:size]
    length = math.sqrt(sum(x * x for x in kept)) or 1.0
    return [x / length for x in kept]


def _base64(vector: object) -> str:
    values = list(vector)  # type: ignore[call-overload]
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()
