"""`engine.map` beside a loop that awaits one row after the other, and its cache and memory.

Everything in one run on one engine, with the built-in ``demo`` model or another::

    python benchmarks/map.py [--model demo] [--rows 64] [--tokens 32] [--pairs 3] [--many 20000]

Printed are, with 95 % bootstrap intervals: rows per second of the map and of the loop, in turns,
and the ratio of each pair; the share of the batched ceiling (all requests given to the engine at
once); rows per second of a cached second run; and how much memory the process takes more after
many rows of an iterator than after a tenth of them, on an engine that answers at once.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _stats import shown

from mlc_widget import AsyncMLCEngine, AsyncMLCEngineInterface, create_mlc_engine
from mlc_widget.api.home_loop import HomeLoop

PROMPT = "Write a sentence about {thing}."


def things(count: int, first: int = 0) -> list[dict[str, str]]:
    return [{"thing": f"thing number {first + i}"} for i in range(count)]


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


async def main(options: argparse.Namespace) -> None:
    engine = await create_mlc_engine(options.model)
    params = {"max_tokens": options.tokens, "ignore_eos": True}
    await map_rows_per_s(engine, things(4, -4), 4, cache=False, **params)  # warm
    loops, maps, ceilings = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "replies"
        for pair in range(options.pairs):
            rows = things(options.rows, pair * options.rows)
            loops.append(await loop_rows_per_s(engine, rows, options.tokens))
            maps.append(await map_rows_per_s(engine, rows, len(rows), cache=cache, **params))
            ceilings.append(await ceiling_rows_per_s(engine, rows, options.tokens))
        everything = things(options.pairs * options.rows)
        cached = await map_rows_per_s(engine, everything, len(everything), cache=cache, **params)
    await engine.terminate()
    print(f"{options.model}: {options.rows} rows, {options.tokens} tokens each")
    print(f"loop of await create   {shown(loops, 'rows/s')}")
    print(f"engine.map             {shown(maps, 'rows/s')}")
    print(f"map / loop             {shown([m / p for m, p in zip(maps, loops, strict=True)])}")
    print(f"map / all at once      {shown([m / c for m, c in zip(maps, ceilings, strict=True)])}")
    print(f"cached second run      {cached:,.0f} rows/s")
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
    asyncio.run(main(parser.parse_args()))
