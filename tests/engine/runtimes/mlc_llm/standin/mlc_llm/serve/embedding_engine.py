from __future__ import annotations

import asyncio
import concurrent.futures
import math
from pathlib import Path
from typing import Any

import tokenizers

from mlc_llm.standin.language import number

DIMENSIONS = 8


class AsyncEmbeddingEngine:
    def __init__(
        self,
        model: str,
        model_lib: str,
        device: Any = "auto",
        *,
        pooling_strategy: str | None = None,
    ) -> None:
        if not Path(model_lib).is_file():
            raise RuntimeError(f"Cannot open file {model_lib}")
        self._tokenizer = tokenizers.Tokenizer.from_file(str(Path(model) / "tokenizer.json"))
        self._executor = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="embedding")
        self._terminated = False

    def embed(self, inputs: list[str]) -> tuple[list[list[float]], int]:
        vectors, count = [], 0
        for text in inputs:
            ids = self._tokenizer.encode(text).ids
            count += len(ids)
            raw = [number(text, i) / 2**48 - 0.5 for i in range(DIMENSIONS)]
            length = math.sqrt(sum(x * x for x in raw))
            vectors.append([x / length for x in raw])
        return vectors, count

    async def async_embed(self, inputs: list[str]) -> tuple[list[list[float]], int]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, self.embed, inputs)

    def terminate(self) -> None:
        self._terminated = True
        self._executor.shutdown(wait=False)
