"""llama.cpp with one model, decoding several sequences at once through its low-level batch API.

``python _serving_llama.py FILE THREADS FLASH``, in llama.cpp's environment. A line ``batch
SEQUENCES PROMPT TOKENS`` fills as many sequences with prompts of that length, then decodes that
many tokens of each, all in one batch a step, each the most probable. It answers with a JSON object:
wall seconds of the prompts and of the decode steps, and CPU seconds of both. ``turns HISTORY NEW``
runs a prompt of that length, and, its keys and values kept, so many tokens after it; the answer is
the wall seconds to the first token of each.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import llama_cpp
import numpy as np

CONTEXT = 8192
BATCH = 512


class Batched:
    """A context with room for several sequences."""

    def __init__(self, file: str, threads: int, *, flash: bool) -> None:
        self._log = llama_cpp.llama_log_callback(lambda *_: None)  # llama.cpp keeps its address
        llama_cpp.llama_log_set(self._log, None)
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(
            file.encode(), llama_cpp.llama_model_default_params()
        )
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = CONTEXT, BATCH, BATCH, 16
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = True
        params.flash_attn_type = 1 if flash else 0
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.batch = llama_cpp.llama_batch_init(BATCH, 0, 1)
        vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.vocab = llama_cpp.llama_vocab_n_tokens(vocab)

    def step(self, rows: list[tuple[int, int, int, bool]]) -> None:
        """Run (token, position, sequence, whether its logits are wanted) rows."""
        self.batch.n_tokens = len(rows)
        for i, (token, position, sequence, wanted) in enumerate(rows):
            self.batch.token[i] = token
            self.batch.pos[i] = position
            self.batch.n_seq_id[i] = 1
            self.batch.seq_id[i][0] = sequence
            self.batch.logits[i] = wanted
        if llama_cpp.llama_decode(self.context, self.batch) != 0:
            raise RuntimeError("llama_decode failed")

    def best(self, row: int) -> int:
        """The most probable token after a row of the last step."""
        logits = llama_cpp.llama_get_logits_ith(self.context, row)
        return int(np.argmax(np.ctypeslib.as_array(logits, (self.vocab,))))

    def fill(self, sequence: int, start: int, tokens: int) -> int:
        """Run tokens at positions from `start` on; the most probable token after them."""
        ids = [(7 * sequence + 3 * (start + i)) % 1000 for i in range(tokens)]
        for at in range(0, tokens, BATCH):
            part = ids[at : at + BATCH]
            self.step(
                [(t, start + at + i, sequence, at + i == tokens - 1) for i, t in enumerate(part)]
            )
        return self.best(len(part) - 1)

    def turns(self, history: int, new: int) -> dict[str, float]:
        """See the module's text."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        started = time.perf_counter()
        self.fill(0, 0, history)
        between = time.perf_counter()
        self.fill(0, history, new)
        return {"first": between - started, "second": time.perf_counter() - between}

    def measure(self, sequences: int, prompt: int, tokens: int) -> dict[str, float]:
        """See the module's text."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        started, cpu = time.perf_counter(), time.process_time()
        last = [self.fill(s, 0, prompt) for s in range(sequences)]
        filled = time.perf_counter()
        for i in range(tokens - 1):
            self.step([(last[s], prompt + i, s, True) for s in range(sequences)])
            last = [self.best(s) for s in range(sequences)]
        return {
            "prompts": filled - started,
            "decode": time.perf_counter() - filled,
            "cpu": time.process_time() - cpu,
        }


def main() -> None:
    engine = Batched(sys.argv[1], int(sys.argv[2]), flash=sys.argv[3] == "1")
    info: dict[str, Any] = {
        "version": llama_cpp.__version__,
        "system_info": llama_cpp.llama_print_system_info().decode(),
    }
    print(json.dumps(info), flush=True)
    for line in sys.stdin:
        command, *numbers = line.split()
        work = {"batch": engine.measure, "turns": engine.turns}[command]
        print(json.dumps(work(*map(int, numbers))), flush=True)


if __name__ == "__main__":
    main()
