"""llama.cpp with one GGUF file: token ids in, logits out, as `files.py` compares them.

``python _files_llama.py FILE``, in llama.cpp's environment. A line ``tokens TEXT_FILE SPECIAL``
gives the ids of a text, in which control tokens are such if SPECIAL is 1; ``logits IDS_FILE OUT``
writes those of every position as float32; ``greedy IDS_FILE N OUT`` gives N tokens after each of
the prompts in a file, each the most probable one, and writes the logits (prompts, N, vocabulary).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

CONTEXT = 1024


class Engine:
    """One model."""

    def __init__(self, file: str) -> None:
        self._llama = llama_cpp.Llama(
            file, n_ctx=CONTEXT, n_batch=CONTEXT, logits_all=True, verbose=False
        )

    def tokens(self, file: str, special: str) -> dict[str, Any]:
        """The ids of a file's text; control tokens are recognized if `special` is "1"."""
        text = Path(file).read_bytes()
        return {"ids": self._llama.tokenize(text, add_bos=False, special=special == "1")}

    def logits(self, file: str, out: str) -> dict[str, Any]:
        """Write the logits of all positions of a file's ids."""
        np.save(out, self._run(json.loads(Path(file).read_text())))
        return {}

    def _run(self, ids: list[int]) -> np.ndarray[Any, Any]:
        self._llama.reset()
        self._llama.eval(ids)
        return self._llama.scores[: len(ids)].astype(np.float32)

    def greedy(self, file: str, count: str, out: str) -> dict[str, Any]:
        """Continue each prompt of a file greedily, and write the logits."""
        steps = []
        for prompt in json.loads(Path(file).read_text()):
            rows = [self._run(prompt)[-1]]
            while len(rows) < int(count):
                self._llama.eval([int(rows[-1].argmax())])
                rows.append(self._llama.scores[self._llama.n_tokens - 1].astype(np.float32))
            steps.append(rows)
        logits = np.array(steps)
        np.save(out, logits)
        return {"answers": logits.argmax(axis=2).tolist()}


def main() -> None:
    engine = Engine(sys.argv[1])
    print(json.dumps({"version": llama_cpp.__version__}), flush=True)
    for line in sys.stdin:
        command, *arguments = line.split()
        work = {"tokens": engine.tokens, "logits": engine.logits, "greedy": engine.greedy}[command]
        print(json.dumps(work(*arguments)), flush=True)


if __name__ == "__main__":
    main()
