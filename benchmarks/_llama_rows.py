"""llama-cpp-python, row by row: run by `map.py` in the Python environment that has it.

    python _llama_rows.py MODEL.gguf THREADS

Each line of the input is ``{"prompts": [...], "tokens": n}``; each line of the output has the
seconds in which all prompts were answered, one after the other, with just so many tokens each.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from llama_cpp import Llama  # type: ignore[import-not-found]


def main() -> None:
    path, threads = sys.argv[1], int(sys.argv[2])
    llama: Any = Llama(path, n_ctx=2048, n_threads=threads, n_threads_batch=threads, verbose=False)
    endless = {llama.token_eos(): -100.0}
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        started = time.perf_counter()
        for prompt in asked["prompts"]:
            made = llama.create_chat_completion(
                [{"role": "user", "content": prompt}],
                max_tokens=asked["tokens"],
                logit_bias=endless,
            )
            assert made["usage"]["completion_tokens"] >= asked["tokens"] - 1, made["usage"]
        print(time.perf_counter() - started, flush=True)


if __name__ == "__main__":
    main()
