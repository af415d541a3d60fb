"""`engine.map` beside a loop that awaits one row after the other, and its cache and memory.

Everything in one run on one engine, with the built-in ``demo`` model or another::

    python benchmarks/map.py [--model demo] [--rows 64] [--tokens 32] [--pairs 3] [--many 20000]
        [--llama-python PYTHON --gguf FILE]

Printed are, with 95 % bootstrap intervals: rows per second of the map and of the loop, in turns,
and the ratio of each pair; the share of the batched ceiling (all requests given to the engine at
once); rows per second of cached runs; how late a ticker of 1 ms on the notebook's loop is while a
map runs on a kernel engine, beside one that is alone; and how much memory the process takes more
after many rows of an iterator than after a tenth of them, on an engine that answers at once. Each
has rows of its own, as prompts that the engine has seen need no prefill.

With ``--llama-python``, an interpreter that has llama-cpp-python, and a GGUF file, the same rows
are also answered by it, one after the other. To compare, give the same file as ``--model``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from _stats import shown

from mlc_widget import (
    AsyncMLCEngine,
    AsyncMLCEngineInterface,
    create_kernel_mlc_engine,
    create_mlc_engine,
)
from mlc_widget.api.home_loop import HomeLoop

PROMPT = "Write a sentence about {thing}."
_CACHED_RUNS = 5


def things(count: int, first: int = 0) -> list[dict[str, str]]:
    """Rows whose prompts have the same number of tokens, or nearly so."""
    return [{"thing": f"thing number {10_000 + first + i}"} for i in range(count)]


class AtOnce:
    """A core that answers at once: what is left is the map itself."""

    def set_init_progress_callback(self, callback: Any) -> None:
        """It loads nothing."""

    async def list_models(self) -> list[dict[str, Any]]:
        """A model of no kind."""
        return [{"id": "none", "created": 0, "fingerprint": "none"}]

    async def request(self, kind: str, request: dict[str, Any]) -> dict[str, Any]:
        """The same answer to everything."""
        choice = {"message": {"content": "a reply"}, "finish_reason": "stop"}
        return {"choices": [choice]}


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


async def loop_rows_per_s(engine: AsyncMLCEngine, rows: list[dict[str, str]], tokens: int) -> float:
    started = time.perf_counter()
    for row in rows:
        await engine.chat.completions.create(
            messages=[{"role": "user", "content": PROMPT.format(**row)}],
            max_tokens=tokens,
            ignore_eos=True,
        )
    return len(rows) / (time.perf_counter() - started)


async def ceiling_rows_per_s(
    engine: AsyncMLCEngine, rows: list[dict[str, str]], tokens: int
) -> float:
    started = time.perf_counter()
    await asyncio.gather(
        *(
            engine.chat.completions.create(
                messages=[{"role": "user", "content": PROMPT.format(**row)}],
                max_tokens=tokens,
                ignore_eos=True,
            )
            for row in rows
        )
    )
    return len(rows) / (time.perf_counter() - started)


async def map_rows_per_s(engine: Any, rows: Any, count: int, **params: Any) -> float:
    started = time.perf_counter()
    await engine.map(PROMPT, rows, show_progress=False, **params)
    return count / (time.perf_counter() - started)


async def growth_mb(many: int) -> tuple[float, float]:
    """The rows per second of a map that computes nothing, and the growth of memory."""
    engine = AsyncMLCEngineInterface(AtOnce(), HomeLoop.shared())  # type: ignore[arg-type]

    def rows() -> Iterator[dict[str, str]]:
        yield from ({"thing": str(i)} for i in range(many))

    early, done, started = 0.0, 0, time.perf_counter()
    async for _ in engine.map_stream(PROMPT, rows(), cache=False, show_progress=False):
        done += 1
        if done == many // 10:
            early = resident_mb()
    return many / (time.perf_counter() - started), resident_mb() - early


class LlamaRows:
    """llama-cpp-python in a process of its own.

    Args:
        python: Its interpreter.
        gguf: The model.
    """

    def __init__(self, python: str, gguf: str) -> None:
        script = Path(__file__).with_name("_llama_rows.py")
        threads = len(os.sched_getaffinity(0))
        self._process = subprocess.Popen(
            [python, str(script), gguf, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._read()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("llama-cpp-python has ended")
        return line

    def rows_per_s(self, rows: list[dict[str, str]], tokens: int) -> float:
        """Answer all rows, one after the other."""
        assert self._process.stdin is not None
        prompts = [PROMPT.format(**row) for row in rows]
        self._process.stdin.write(json.dumps({"prompts": prompts, "tokens": tokens}) + "\n")
        self._process.stdin.flush()
        return len(rows) / float(self._read())

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


async def latest_tick_ms(until: asyncio.Future[Any]) -> float:
    """How late a tick of 1 ms came at most, until something is done."""
    latest = 0.0
    while not until.done():
        started = time.perf_counter()
        await asyncio.sleep(0.001)
        latest = max(latest, time.perf_counter() - started - 0.001)
    return 1000 * latest


async def ticks_ms(model: str, rows: int, tokens: int) -> tuple[float, float]:
    """How late ticks are on the notebook's loop: alone, and while a map runs in a worker."""
    engine = await create_kernel_mlc_engine(model, show_progress=False)
    try:
        params: dict[str, Any] = {"max_tokens": tokens, "ignore_eos": True, "cache": False}
        await map_rows_per_s(engine, things(4, -4), 4, **params)
        started = time.perf_counter()
        work = asyncio.ensure_future(map_rows_per_s(engine, things(rows), rows, **params))
        during = await latest_tick_ms(work)
        await work
        pause = asyncio.ensure_future(asyncio.sleep(time.perf_counter() - started))
        return await latest_tick_ms(pause), during
    finally:
        await engine.terminate()


def _listed(speeds: Mapping[str, float]) -> str:
    return ", ".join(f"{kind} {speed:.2f}" for kind, speed in speeds.items()) + " rows/s"


def _ratios(ours: list[float], theirs: list[float]) -> list[float]:
    return [mine / other for mine, other in zip(ours, theirs, strict=True)]


async def main(options: argparse.Namespace) -> None:
    engine = await create_mlc_engine(options.model)
    params = {"max_tokens": options.tokens, "ignore_eos": True}
    await map_rows_per_s(engine, things(4, -4), 4, cache=False, **params)  # warm
    speeds: dict[str, list[float]] = {"loop": [], "map": [], "ceiling": []}
    llama = LlamaRows(options.llama_python, options.gguf) if options.llama_python else None
    llamas: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "replies"
        computed: list[dict[str, str]] = []
        for pair in range(options.pairs):
            order = list(speeds)
            for turn, kind in enumerate(order if pair % 2 == 0 else order[::-1]):
                # Rows of their own: prompts that were seen before need no prefill.
                rows = things(options.rows, (pair * len(speeds) + turn) * options.rows)
                if kind == "loop":
                    speed = await loop_rows_per_s(engine, rows, options.tokens)
                elif kind == "ceiling":
                    speed = await ceiling_rows_per_s(engine, rows, options.tokens)
                else:
                    speed = await map_rows_per_s(engine, rows, len(rows), cache=cache, **params)
                    computed += rows
                speeds[kind].append(speed)
            if llama is not None:
                llamas.append(llama.rows_per_s(rows, options.tokens))
            done = {kind: each[-1] for kind, each in speeds.items()}
            done |= {"llama-cpp-python": llamas[-1]} if llamas else {}
            print(f"{pair + 1} of {options.pairs}:", _listed(done), file=sys.stderr, flush=True)
        cached = [
            await map_rows_per_s(engine, computed, len(computed), cache=cache, **params)
            for _ in range(_CACHED_RUNS)
        ]
    await engine.terminate()
    if llama is not None:
        llama.close()
    print(f"{options.model}: {options.rows} rows, {options.tokens} tokens each")
    maps = speeds["map"]
    print(f"loop of await create   {shown(speeds['loop'], 'rows/s')}")
    print(f"engine.map             {shown(maps, 'rows/s')}")
    print(f"map / loop             {shown(_ratios(maps, speeds['loop']))}")
    print(f"map / all at once      {shown(_ratios(maps, speeds['ceiling']))}")
    if llamas:
        print(f"llama-cpp-python       {shown(llamas, 'rows/s')}")
        print(f"map / llama-cpp-python {shown(_ratios(maps, llamas))}")
    print(f"cached second runs     {shown(cached, 'rows/s')}")
    alone, during = await ticks_ms(options.model, options.rows, options.tokens)
    print(f"latest tick            {during:.1f} ms while a map runs, {alone:.1f} ms alone")
    speed, growth = await growth_mb(options.many)
    print(f"a core that answers at once: {speed:,.0f} rows/s")
    print(f"memory from {options.many // 10:,} to {options.many:,} rows: {growth:+.1f} MB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--many", type=int, default=20_000)
    parser.add_argument("--llama-python")
    parser.add_argument("--gguf")
    asyncio.run(main(parser.parse_args()))
