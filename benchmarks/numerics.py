"""What each mode of `numerics` costs in exactness: the logits and the perplexity of `demo`.

    python benchmarks/numerics.py [--dialogues 20]

The built-in model reads held-out conversations of its evaluation. "fast" (8-bit activations,
float16 keys and values), and each half of it alone, is compared with "faithful" (float32
activations, keys and values): the error of all logits relative to the largest one (root mean
square, and maximum), how often the most probable token is the same, and the perplexity of the
answers' tokens.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mlc_widget.engine.runtimes.base import ModelSource
from mlc_widget.engine.runtimes.tvm.executor import Executor
from mlc_widget.engine.runtimes.tvm.loading import Progress, make_executor
from mlc_widget.engine.runtimes.tvm.options import TVMOptions
from mlc_widget.engine.runtimes.tvm.step_inputs import Span
from mlc_widget.engine.store.tensor_cache import TensorCache
from mlc_widget.engine.text.tokenizer import Tokenizer
from mlc_widget.models import builtin_models
from tools.demo import corpus
from tools.demo.tokenizer import chat_segments

CHUNK = 128
MODES: dict[str, dict[str, Any]] = {
    "faithful": {"numerics": "faithful"},
    "faithful, float16 keys and values": {"numerics": "faithful", "kv": "float16"},
    "fast, float32 keys and values": {"numerics": "fast", "kv": "float32"},
    "fast": {"numerics": "fast"},
}


def held_out(
    tokenizer: Tokenizer, dialogues: int, limit: int
) -> list[tuple[list[int], list[bool]]]:
    """Token ids of held-out conversations, and which of them are part of an answer."""
    encoded = []
    for dialogue in corpus.long_dialogues(7, dialogues, exchanges=10):
        ids: list[int] = []
        learnt: list[bool] = []
        for piece, answer in chat_segments(dialogue):
            new = [piece] if isinstance(piece, int) else list(tokenizer.encode(piece))
            ids += new
            learnt += [answer] * len(new)
        encoded.append((ids[:limit], learnt[:limit]))
    return encoded


def logits(executor: Executor, ids: list[int]) -> np.ndarray[Any, Any]:
    """(len(ids), vocab) float32."""
    pages = list(range(-(-len(ids) // executor.page_size)))
    parts = []
    for at in range(0, len(ids), CHUNK):
        part = ids[at : at + CHUNK]
        parts.append(executor.run([Span(part, at, pages, range(len(part)))]).copy())
    return np.concatenate(parts)


def perplexity(rows: np.ndarray[Any, Any], ids: list[int], answer: list[bool]) -> tuple[float, int]:
    """Sum of the negative logarithms of the answers' tokens, and their number."""
    wide = rows.astype(np.float64)
    top = wide.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(wide - top).sum(axis=1)) + top[:, 0]
    at = np.array([i for i in range(1, len(ids)) if answer[i]])
    token = np.array(ids)[at]
    return float((log_sum[at - 1] - wide[at - 1, token]).sum()), len(at)


def main() -> None:
    parser = argparse.ArgumentParser(description="The exactness of the modes of `numerics`.")
    parser.add_argument("--dialogues", type=int, default=20, help="held-out conversations")
    args = parser.parse_args()
    folder = builtin_models()["demo"]
    config = json.loads((folder / "mlc-chat-config.json").read_text())
    tokenizer = Tokenizer.from_folder(folder)
    texts = held_out(tokenizer, args.dialogues, config["context_window_size"])
    reference: list[np.ndarray[Any, Any]] = []
    print(f"demo, {len(texts)} held-out conversations, {sum(len(i) for i, _ in texts)} tokens")
    for name, mode in MODES.items():
        source = ModelSource(
            "demo",
            folder,
            {**config, "numerics": mode["numerics"]},
            tokenizer,
            partial(TensorCache.from_folder, folder),
        )
        options = TVMOptions.parse({"kv_cache_dtype": mode.get("kv")})
        progress = Progress(lambda *a, **k: None, threading.Event())
        executor, _ = make_executor(source, options, progress)
        executor.prepare()
        rows = [logits(executor, ids) for ids, _ in texts]
        reference = reference or rows
        largest = max(float(np.abs(r).max()) for r in reference)
        errors = [a - b for a, b in zip(rows, reference, strict=True)]
        square = np.sqrt(np.mean([np.mean(e.astype(np.float64) ** 2) for e in errors]))
        same = np.concatenate(
            [a.argmax(1) == b.argmax(1) for a, b in zip(rows, reference, strict=True)]
        )
        sums = [perplexity(r, *text) for r, text in zip(rows, texts, strict=True)]
        ppl = np.exp(sum(s for s, _ in sums) / sum(n for _, n in sums))
        print(
            f"{name:>34}: error {square / largest:.2e} (largest "
            f"{max(float(np.abs(e).max()) for e in errors) / largest:.2e}), "
            f"same most probable token {same.mean():.2%}, perplexity {ppl:.4f}"
        )


if __name__ == "__main__":
    main()
