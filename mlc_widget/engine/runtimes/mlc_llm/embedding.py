"""Runs embedding models on mlc_llm's `AsyncEmbeddingEngine`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlc_widget.api.errors import (
    BadRequestError,
    ContextLengthExceededError,
    InternalEngineError,
    RuntimeUnavailableError,
)
from mlc_widget.engine.runtimes.mlc_llm.constructor import load_error, tvm_device
from mlc_widget.engine.system.daemon import call_in_daemon
from mlc_widget.engine.text.prompt_text import markup
from mlc_widget.engine.text.tokenizer import Tokenizer

_POLL_S = 0.1


def is_embedding_model(config: Mapping[str, Any]) -> bool:
    """Whether a model's configuration says that it is an embedding model."""
    return config.get("model_task") == "embedding"


class EmbeddingEngine:
    """mlc_llm's embedding engine, for inputs given as token ids.

    mlc_llm takes texts and encodes them itself, adding the special tokens that the model needs. So
    token ids are decoded to text, and refused if the text would be encoded differently.
    """

    def __init__(self, engine: Any, tokenizer: Tokenizer, longest: int) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._longest = longest

    @classmethod
    async def load(
        cls,
        folder: Path,
        library: str,
        device: str,
        tokenizer: Tokenizer,
        config: Mapping[str, Any],
        poll: Callable[[], None],
    ) -> EmbeddingEngine:
        """Load a model; `poll` is called repeatedly while it loads.

        Raises:
            RuntimeUnavailableError: This version of mlc_llm has no embedding engine.
            MLCEngineError: mlc_llm failed to load the model.
        """
        try:
            from mlc_llm.serve import AsyncEmbeddingEngine
        except ImportError as error:
            raise RuntimeUnavailableError(
                "The installed mlc_llm has no AsyncEmbeddingEngine: install a newer one."
            ) from error
        done = call_in_daemon(
            lambda: AsyncEmbeddingEngine(str(folder), library, tvm_device(device)),
            "mlc_llm-constructor",
        )
        try:
            while not done.done():
                poll()
                await asyncio.wait({done}, timeout=_POLL_S)
            engine = done.result()
        except Exception as error:
            raise load_error(error) from error
        windows = (config.get("context_window_size"), config.get("prefill_chunk_size"))
        longest = min((w for w in windows if isinstance(w, int) and w > 0), default=512)
        return cls(engine, tokenizer, longest)

    async def embed(self, inputs: Sequence[Sequence[int]]) -> Sequence[Sequence[float]]:
        """Return one vector for each token sequence.

        Raises:
            ContextLengthExceededError: An input is too long for the model. (mlc_llm would
                truncate it silently.)
            BadRequestError: The token ids are not the encoding of any text.
        """
        texts = [self._text(i, list(ids)) for i, ids in enumerate(inputs)]
        try:
            vectors, _ = await self._engine.async_embed(texts)
        except Exception as error:
            raise InternalEngineError(f"mlc_llm failed: {type(error).__name__}: {error}") from error
        if len(vectors) != len(texts):
            raise InternalEngineError(
                f"mlc_llm gave {len(vectors)} embeddings for {len(texts)} inputs."
            )
        return [list(map(float, v)) for v in vectors]

    def _text(self, index: int, ids: list[int]) -> str:
        param = f"input[{index}]"
        if len(ids) + 2 > self._longest:  # with the two special tokens that may be added
            raise ContextLengthExceededError(
                f"{param} has {len(ids)} tokens; this model takes at most {self._longest - 2}: "
                "shorten it.",
                param=param,
            )
        text = self._tokenizer.decode(ids)
        if self._tokenizer.encode_prompt(markup(text)) != ids:  # as mlc_llm's tokenizer encodes it
            raise BadRequestError(
                f"{param}: the mlc_llm runtime takes texts, and no text is encoded as these token "
                "ids: give a string.",
                param=param,
            )
        return text

    def terminate(self) -> None:
        """Release the model."""
        self._engine.terminate()
