"""The tools of ``mlc_widget mcp``: what an agent can ask the model for."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Coroutine
from typing import Annotated, Any, Final

from pydantic import Field

from mlc_widget.api.errors import BadRequestError, MLCEngineError
from mlc_widget.api.requests import JSONDict

MAX_TEXTS: Final = 1000


class ModelTools:
    """What agents can ask for. The model loads meanwhile; calls wait for it.

    Args:
        load: Gives the engine.
        max_tokens: The longest reply in tokens.
    """

    def __init__(self, load: Coroutine[Any, Any, Any], max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._engine = asyncio.ensure_future(load)
        self._engine.add_done_callback(_tell_failure)

    async def close(self) -> None:
        """End the engine."""
        self._engine.cancel()
        await asyncio.wait({self._engine})
        if not self._engine.cancelled() and self._engine.exception() is None:
            await self._engine.result().terminate()

    async def chat(
        self,
        message: Annotated[str, Field(description="What to answer")],
        system: Annotated[
            str, Field(description="How to answer, for example in which language")
        ] = "",
        temperature: Annotated[
            float, Field(description="0 for the most likely answer, to 2")
        ] = 0.0,
    ) -> str:
        """Ask the model, which remembers no earlier call."""
        return await self._ask(message, system, temperature=temperature)

    async def label(
        self,
        texts: Annotated[list[str], Field(description="The texts, up to 1,000")],
        labels: Annotated[list[str], Field(description="The labels to choose from, at least two")],
        question: Annotated[
            str, Field(description="What to decide")
        ] = "Which label fits the text?",
    ) -> list[str]:
        """Choose one of the labels for each text; returns them in the order of the texts."""
        if not 0 < len(texts) <= MAX_TEXTS:
            raise BadRequestError(f"texts: {len(texts)}; give 1 to {MAX_TEXTS:,}.", param="texts")
        if len(set(labels)) < 2:
            raise BadRequestError(f"labels = {labels!r}: give two or more.", param="labels")
        engine = await self._ready()
        rows = await engine.map(
            f"{_escaped(question)}\n{{text}}",
            [{"text": text} for text in texts],
            schema={"enum": list(dict.fromkeys(labels))},
            into="label",
            temperature=0,
            cache=False,
            on_error="raise",
            show_progress=False,
        )
        return [row["label"] for row in rows]

    async def extract(
        self,
        text: Annotated[str, Field(description="The text")],
        json_schema: Annotated[dict[str, Any], Field(description="A JSON schema of an object")],
    ) -> dict[str, Any]:
        """Extract from a text what a JSON schema describes; the result always matches it."""
        schema = {"name": "extract", "schema": {"type": "object", **json_schema}}
        answer = await self._ask(
            f"Extract the data from this text, as JSON.\n\n{text}",
            response_format={"type": "json_schema", "json_schema": schema},
        )
        found: JSONDict = json.loads(answer)
        return found

    async def _ask(self, message: str, system: str = "", **more: Any) -> str:
        engine = await self._ready()
        messages = [{"role": "system", "content": system}] if system else []
        reply = await engine.chat.completions.create(
            messages=[*messages, {"role": "user", "content": message}],
            max_tokens=self._max_tokens,
            **{"temperature": 0, **more},
        )
        choice = reply.choices[0]
        if choice.finish_reason == "length" and "response_format" in more:
            raise BadRequestError(f"The answer has more than {self._max_tokens} tokens.")
        return choice.message.content or ""

    async def _ready(self) -> Any:
        """The engine, once the model is loaded."""
        return await asyncio.shield(self._engine)


def _escaped(text: str) -> str:
    """A text as a part of a template of `engine.map`."""
    return text.replace("{", "{{").replace("}", "}}")


def _tell_failure(load: asyncio.Future[Any]) -> None:
    if not load.cancelled() and (error := load.exception()) is not None:
        said = error.message if isinstance(error, MLCEngineError) else repr(error)
        print(f"mlc_widget mcp: {said}", file=sys.stderr, flush=True)
