"""transformers on a GPU, in a process of its own, which answers lines with JSON.

    python benchmarks/_gpu_peer.py 1B

It compiles all of a shape in float16, and prints the versions. Then it answers ``products`` with
the operations per second of a large product of matrices, and ``measure`` with tokens per second.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks._gpu_models import LLAMAS
from benchmarks._stats import median_of

PROMPT = 1024
PATIENCE_S = 150
"""The time to compile; what is not compiled then is not measured."""


def products() -> dict[str, float]:
    """Operations per second of a product of random float16 matrices."""
    import torch

    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.float16) for _ in range(2))

    def product() -> None:
        for _ in range(4):
            torch.mm(a, b)
        torch.cuda.synchronize()

    product()
    return {"products": 4 * 2 * 8192**3 / median_of(product, 10)}


class Transformers:
    """A Llama model of transformers with random weights, and compiled functions of it."""

    def __init__(self, shape: str) -> None:
        import torch
        import transformers

        self._shape = shape
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float16)
        same = {k: v for k, v in LLAMAS[shape].items() if k != "position_embedding_base"}
        config = transformers.LlamaConfig(
            **same, max_position_embeddings=4096, rope_parameters={"rope_type": "default",
            "rope_theta": 500000.0}, attn_implementation="sdpa",
        )  # fmt: skip
        with torch.device("cuda"):
            self._model = transformers.LlamaForCausalLM(config).eval()
            self._prompt = torch.full((1, PROMPT), 7)
            self._token, self._at = torch.full((1, 1), 5), 128
            first = torch.full((1, 128), 7)
            self._cache = transformers.StaticCache(config=config, max_cache_len=1024)
            self._model(first, past_key_values=self._cache, cache_position=torch.arange(128))
        self._prefill_compiled = torch.compile(self._model.forward)
        self._step = torch.compile(self._model.forward, mode="reduce-overhead", fullgraph=True)
        self.versions = f"transformers {transformers.__version__}, torch {torch.__version__}"

    def functions(self) -> dict[str, tuple[Callable[[], None], int, int]]:
        """By name: a function, how many tokens it computes, and how often to run it."""
        found = {
            "prefill 1024, not compiled": (lambda: self._prefill(self._model), PROMPT, 7),
            "decode batch 1": (self._decode, 1, 100),
        }
        if self._shape == "1B":  # to compile more takes minutes
            compiled = self._prefill_compiled
            found["prefill 1024, compiled"] = (lambda: self._prefill(compiled), PROMPT, 7)
        return found

    def _prefill(self, forward: Any) -> None:
        out = forward(self._prompt, use_cache=True, logits_to_keep=1)
        out.logits.argmax(-1).item()

    def _decode(self) -> None:
        import torch

        position = torch.tensor([self._at], device="cuda")
        logits = self._step(
            self._token, past_key_values=self._cache, cache_position=position,
            position_ids=position[None],
        ).logits  # fmt: skip
        self._token = logits[:, -1:].argmax(-1).clone()
        self._token.item()
        self._at += 1


def main() -> None:
    """Compile, and answer until the end of the input."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what torch prints is no answer

    def answer(value: Any) -> None:
        print(json.dumps(value), file=answers, flush=True)

    def late(*_: object) -> None:
        raise TimeoutError(f"not compiled within {PATIENCE_S} s")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(PATIENCE_S)
    model = Transformers(sys.argv[1])
    functions = {}
    try:
        for name, figure in model.functions().items():
            for _ in range(4):
                figure[0]()
            functions[name] = figure
    except Exception as error:  # another version may not compile it
        print(f"{name}: {error!r}"[:2000], file=sys.stderr)
    signal.alarm(0)
    answer(model.versions)
    for line in sys.stdin:
        if line.strip() == "products":
            answer(products())
        else:
            answer(
                {n: tokens / median_of(f, repeat) for n, (f, tokens, repeat) in functions.items()}
            )


if __name__ == "__main__":
    main()
