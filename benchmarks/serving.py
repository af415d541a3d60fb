"""Many requests at once: the engine on the tvm runtime, compared with llama.cpp's batch API.

    python benchmarks/serving.py [--quick] [--model NAME] [--threads N] [--llama-python PYTHON]

One interleaved run on a model of a published shape with random weights (4-bit), through the public
`AsyncMLCEngine`, so that the figures include all costs of a request. It prints medians with 95 %
bootstrap intervals; a ratio is the median of the ratios of pairs:

- tokens per second of one request, and of eight at once in total;
- the same eight sequences on llama.cpp's low-level batch API, with the better of its flash
  attention settings (left out where it cannot be imported; ``--llama-python ""`` leaves it out);
- time to the first token of a conversation's second turn, by the length of its history; the part of
  it that serving adds to the model's step of the new tokens, which must not grow with the history;
  and the time of llama.cpp, which keeps its cache;
- speed under a JSON schema, relative to free text;
- resident memory before a load, with the model loaded and after unload, in a separate process.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks._kernel_models import SHAPES, gguf_file, write_mlc  # noqa: E402
from benchmarks._process import Process  # noqa: E402
from benchmarks._serving_model import complete  # noqa: E402
from benchmarks._stats import shown  # noqa: E402

BUILD = HERE.parent / ".make" / "bench"
PROMPT = 32
TOKENS = 64
CROWD = 8
HISTORIES = (100, 400, 1600)
NEW = 20
"""Tokens of a second turn."""
ANSWER = 16
"""Tokens of an answer."""
SCHEMA = {
    "type": "object",
    "properties": {
        "items": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "count": {"type": "integer"}},
                "required": ["name", "count"],
                "additionalProperties": False,
            },
            "minItems": 200,
        }
    },
    "required": ["items"],
    "additionalProperties": False,
}


def model_folder(name: str) -> Path:
    """The model, made where it is not there."""
    folder = BUILD / f"{name}-serving"
    if not (folder / "tokenizer.json").exists():
        write_mlc(name, folder)
        complete(folder, SHAPES[name]["vocab_size"])
    return folder


class LlamaCpp(Process):
    """llama.cpp in a process of its own; see `_serving_llama`."""

    def __init__(self, python: str, file: Path, threads: int, flash: str) -> None:
        super().__init__(python, "_serving_llama.py", str(file), str(threads), flash)

    def batch(self, sequences: int, prompt: int, tokens: int) -> tuple[float, float]:
        """Tokens per second of the decode steps, and per CPU second of all, prompts included."""
        took = self.ask(f"batch {sequences} {prompt} {tokens}")
        return sequences * (tokens - 1) / took["decode"], sequences * tokens / took["cpu"]

    def turns(self, history: int) -> tuple[float, float]:
        """As `Bench.turns`, but for the last: seconds of the computation alone."""
        took = self.ask(f"turns {history} {NEW}")
        return took["first"], took["second"]


def llama_processes(python: str, name: str, threads: int) -> list[LlamaCpp]:
    """One with flash attention and one without; none where llama.cpp is not to be had."""
    if not python:
        return []
    probe = subprocess.run([python, "-c", "import llama_cpp, gguf"], capture_output=True)
    if probe.returncode:
        print(f"llama.cpp is left out: {python} cannot import llama_cpp and gguf")
        return []
    file = gguf_file(name, "Q4_0", BUILD, python)
    return [LlamaCpp(python, file, threads, flash) for flash in "01"]


class Bench:
    """Requests of one engine, and how fast they were answered."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self._next = 0

    def prompt(self, tokens: int) -> list[int]:
        """Token ids that no prompt before began with."""
        self._next += 1
        return [300 + (self._next * 37 + i * i) % 5000 for i in range(tokens)]

    async def _timed(self, **request: Any) -> list[float]:
        """When each chunk of a stream came."""
        stream = await self.engine.completions.create(
            stream=True, ignore_eos=True, prompt=self.prompt(PROMPT), **request
        )
        return [time.perf_counter() async for _ in stream]

    async def decode(self, requests: int, **request: Any) -> float:
        """Tokens per second in all, while all of them decode.

        Nearly every token of this tokenizer is text by itself, and so a chunk.
        """
        wanted = {"max_tokens": TOKENS, "temperature": 0.0, "seed": 1, **request}
        runs = await asyncio.gather(*(self._timed(**wanted) for _ in range(requests)))
        start, end = max(t[0] for t in runs), min(t[-1] for t in runs)
        return sum(sum(start < x <= end for x in t) for t in runs) / (end - start)

    async def whole(self, requests: int) -> tuple[float, float]:
        """Tokens per second, and per CPU second, from requests to last tokens, prompts and all."""
        started, cpu = time.perf_counter(), time.process_time()
        answers = await asyncio.gather(
            *(
                self.engine.completions.create(
                    prompt=self.prompt(PROMPT), max_tokens=TOKENS, temperature=0.0, ignore_eos=True
                )
                for _ in range(requests)
            )
        )
        tokens = sum(a.usage.completion_tokens for a in answers)
        return tokens / (time.perf_counter() - started), tokens / (time.process_time() - cpu)

    async def turns(self, history: int) -> tuple[float, float, float]:
        """Seconds to the first token of a first turn of that length, and of a short second one.

        And seconds from one token of the second answer to the next.
        """
        first = self.prompt(history)
        waits, steps = [], 0.0
        for prompt in (first, first + self.prompt(NEW)):
            started = time.perf_counter()
            stream = await self.engine.completions.create(
                prompt=prompt, max_tokens=ANSWER, stream=True, ignore_eos=True, seed=1
            )
            at = [time.perf_counter() async for _ in stream]
            waits.append(at[0] - started)
            steps = statistics.median(b - a for a, b in itertools.pairwise(at))
        return waits[0], waits[1], steps


async def run(options: argparse.Namespace) -> None:
    """Measure and print everything but memory."""
    from mlc_widget import AsyncMLCEngine

    folder = model_folder(options.model)
    engine = AsyncMLCEngine(runtime="tvm", runtime_options={"threads": options.threads})
    started = time.perf_counter()
    await engine.reload(str(folder))
    print(f"# {options.model} shapes, {options.threads} thread(s), "
          f"loaded in {time.perf_counter() - started:.1f} s")  # fmt: skip
    bare = Process(sys.executable, "_kernel_worker.py", "tvm", str(folder), str(options.threads))
    llamas = llama_processes(options.llama_python, options.model, options.threads)
    for llama in llamas[:1]:
        print(f"llama-cpp-python {llama.started['version']}: {llama.started['system_info']}")
    bench = Bench(engine)
    constrained = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
    found: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)

    await bench.decode(CROWD)
    await bench.decode(1, response_format=constrained)
    for _ in range(options.rounds):
        note("one", await bench.decode(1))
        note("eight", await bench.decode(CROWD))
        for n, label in ((1, "one"), (CROWD, "eight")):
            wall, cpu = await bench.whole(n)
            note(f"{label}, whole", wall)
            note(f"{label}, CPU", cpu)
            for i, llama in enumerate(llamas):
                wall, cpu = await asyncio.to_thread(llama.batch, n, PROMPT, TOKENS)
                note(f"llama {label} {i}", wall)
                note(f"llama {label} {i}, CPU", cpu)
        for n, label in ((1, "one"), (CROWD, "eight")):
            free = {"temperature": 1.0, "seed": None}
            note(f"free, {label}", await bench.decode(n, **free))
            note(
                f"schema, {label}",
                await bench.decode(n, **free, response_format=constrained),
            )
        for history in HISTORIES:
            first, second, step = await bench.turns(history)
            note(f"first turn {history}", first * 1e3)
            note(f"second turn {history}", second * 1e3)
            note(f"step {history}", step * 1e3)
            alone = await asyncio.to_thread(bare.ask, f"turn {history} {ANSWER} {NEW}")
            note(f"added {history}", (second - alone["wall"]) * 1e3)
            for i, llama in enumerate(llamas):
                first, second = await asyncio.to_thread(llama.turns, history)
                note(f"llama first turn {history} {i}", first * 1e3)
                note(f"llama second turn {history} {i}", second * 1e3)
    await engine.terminate()
    for process in (bare, *llamas):
        process.close()
    report(found, len(llamas))


def ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """Of the pairs."""
    return [a / b for a, b in zip(over, under, strict=True)]


def report(found: dict[str, list[float]], llamas: int) -> None:
    """Print medians, and ratios with their goals."""
    print("\n## Decoding, tokens per second in all")
    print(f"one request                {shown(found['one'], digits=1)}")
    print(f"eight requests             {shown(found['eight'], digits=1)}")
    print(f"eight over one             {shown(ratios(found['eight'], found['one']))}   (goal: 3)")
    whole = ratios(found["eight, whole"], found["one, whole"])
    print(f"the same, prompts and all  {shown(whole)}")
    work = ratios(found["eight, CPU"], found["one, CPU"])
    print(f"the same, per CPU second   {shown(work)}")
    if llamas:
        best = max(range(llamas), key=lambda i: statistics.median(found[f"llama eight {i}"]))
        theirs = found[f"llama eight {best}"]
        print(f"llama.cpp, one             {shown(found[f'llama one {best}'], digits=1)}")
        print(f"llama.cpp, eight           {shown(theirs, digits=1)}"
              f"   (flash attention {'on' if best else 'off'})")  # fmt: skip
        print(f"eight over llama.cpp's     {shown(ratios(found['eight'], theirs))}   (goal: 1.5)")
        work = ratios(found["eight, CPU"], found[f"llama eight {best}, CPU"])
        print(f"the same, per CPU second   {shown(work)}   (prompts included)")
    print("\n## Under a JSON schema, over free text (goal: 0.9)")
    for label in ("one", "eight"):
        pairs = ratios(found[f"schema, {label}"], found[f"free, {label}"])
        print(f"{label:26} {shown(pairs)}")
    report_turns(found, llamas)


def report_turns(found: dict[str, list[float]], llamas: int) -> None:
    """Print how the second turn's first token depends on the history."""
    shortest, longest = HISTORIES[0], HISTORIES[-1]
    print(f"\n## Time to the first token, ms: a first turn, and a second of {NEW} new tokens")
    for history in HISTORIES:
        print(f"{history:5} tokens of history: first turn "
              f"{shown(found[f'first turn {history}'], digits=1)}, second "
              f"{shown(found[f'second turn {history}'], digits=1)}, of which serving adds "
              f"{shown(found[f'added {history}'])}")  # fmt: skip
    share = ratios(found[f"second turn {longest}"], found[f"first turn {longest}"])
    print(f"second turn over first, longest history    {shown(share, digits=3)}"
          "   (1: the history computed again)")  # fmt: skip

    def growth(name: str) -> list[float]:
        """Per 1,000 tokens of history."""
        pairs = zip(found[name.format(longest)], found[name.format(shortest)], strict=True)
        return [1000 * (b - a) / (longest - shortest) for b, a in pairs]

    def line(label: str, values: Sequence[float]) -> None:
        print(f"{label:42} {shown(values)}")

    line("growth of what serving adds, per 1,000, ms", growth("added {}"))
    line("second turn, longest over shortest",
         ratios(found[f"second turn {longest}"], found[f"second turn {shortest}"]))  # fmt: skip
    line("growth of it per 1,000 tokens, ms", growth("second turn {}"))
    line(f"the same of each of its {NEW} tokens", [g / NEW for g in growth("second turn {}")])
    line("the same of a decode step (of one token)", growth("step {}"))
    if not llamas:
        return
    best = min(
        range(llamas), key=lambda i: statistics.median(found[f"llama second turn {longest} {i}"])
    )
    print(f"llama.cpp, computation alone, flash attention {'on' if best else 'off'}")
    for history in HISTORIES:
        print(f"{history:5} tokens of history: first turn "
              f"{shown(found[f'llama first turn {history} {best}'], digits=1)}, second "
              f"{shown(found[f'llama second turn {history} {best}'], digits=1)}")  # fmt: skip
        line("   its second turn over ours",
             ratios(found[f"llama second turn {history} {best}"],
                    found[f"second turn {history}"]))  # fmt: skip
    line("its growth per 1,000 tokens, ms", growth(f"llama second turn {{}} {best}"))


MEMORY = """
import asyncio, json, sys
import psutil

async def main(folder, threads):
    from mlc_widget import AsyncMLCEngine
    rss = lambda: psutil.Process().memory_info().rss
    engine = AsyncMLCEngine(runtime="tvm", runtime_options={"threads": threads})
    found = [rss()]
    async def use(model):
        await engine.reload(model)
        await asyncio.gather(*(engine.completions.create(
            prompt=[300 + i] * 400, max_tokens=16, ignore_eos=True) for i in range(8)))
        loaded = rss()
        await engine.unload()
        found.extend([loaded, rss()])
    await use("demo")
    for _ in range(3):
        await use(folder)
    print(json.dumps([n / 2**20 for n in found]))

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def memory(options: argparse.Namespace) -> None:
    """Measure and print resident memory around loads."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(model_folder(options.model)), str(options.threads)],
        capture_output=True, text=True, cwd=HERE.parent, check=True,
    )  # fmt: skip
    fresh, demo, before, *rest = json.loads(done.stdout.splitlines()[-1])
    print("\n## Resident memory, MiB")
    print(f"a fresh engine {fresh:.0f}; with demo {demo:.0f}; that unloaded {before:.0f}: TVM's, "
          "the tokenizers' and OpenAI's code stays")  # fmt: skip
    for loaded, unloaded in zip(rest[::2], rest[1::2], strict=True):
        print(f"loaded {loaded:.0f}, unloaded {unloaded:.0f}; over before "
              f"{unloaded / before:.3f}   (goal: 1.1)")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="SmolLM2-135M", choices=SHAPES)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="few rounds")
    llama = BUILD / "llama" / "bin" / "python"
    parser.add_argument("--llama-python", default=str(llama) if llama.exists() else "")
    options = parser.parse_args()
    if options.quick:
        options.rounds = 3
    asyncio.run(run(options))
    memory(options)


if __name__ == "__main__":
    main()
