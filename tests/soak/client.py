"""A notebook that uses a shared worker: several requests at a time, read, left, cancelled, aborted.

Each request is noted in a log when it begins and when it ends, as one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from pathlib import Path
from typing import Any, Final

import psutil

from mlc_widget import AsyncKernelMLCEngine
from mlc_widget.api.errors import EngineDeadError, MLCEngineError

SHARE: Final = "soak"
MODEL: Final = "demo"
PROMPTS: Final = 16
OPTIONS: Final[dict[str, Any]] = {"share": SHARE, "runtime_options": {"threads": 1}}
WAYS: Final = ("whole", "stream", "stream", "break", "cancel", "abort")
"""What is done with a request."""
_AT_ONCE: Final = 3
_LONGEST_WAIT_S: Final = 0.05


def request(prompt: int) -> dict[str, Any]:
    """One of the requests, whose answer is always the same."""
    return {
        "messages": [{"role": "user", "content": f"Tell me {prompt} things about the sea."}],
        "seed": prompt,
        "temperature": 1,
        "max_tokens": 4 + 3 * prompt,
        "ignore_eos": True,
    }


def usage(process: psutil.Process) -> dict[str, int]:
    """What a process holds: bytes, descriptors and threads."""
    return {
        "memory": process.memory_info().rss,
        "descriptors": process.num_fds(),
        "threads": process.num_threads(),
    }


class Client:
    """Makes requests.

    Args:
        engine: Its engine.
        expected: The answers.
        log: A descriptor; lines of other clients do not mix with its lines.
    """

    def __init__(self, engine: AsyncKernelMLCEngine, expected: list[str], log: int) -> None:
        self._engine, self._expected, self._log = engine, expected, log

    def note(self, **line: Any) -> None:
        """Write a line of the log at once, as this process may be killed any time."""
        os.write(self._log, (json.dumps(line) + "\n").encode())

    async def run(self, numbers: list[int], draw: random.Random) -> None:
        """Make these requests, some at a time."""
        left = iter(numbers)
        lock = asyncio.Lock()

        async def work() -> None:
            while True:
                async with lock:
                    number = next(left, None)
                if number is None:
                    return
                await self._one(number, draw.choice(WAYS), draw)

        await asyncio.gather(*(work() for _ in range(_AT_ONCE)))

    async def _one(self, number: int, way: str, draw: random.Random) -> None:
        self.note(begin=number)
        prompt = number % PROMPTS
        wait = draw.random() * _LONGEST_WAIT_S
        try:
            end = await getattr(self, f"_{way}")(prompt, f"r{number}-{os.getpid()}", wait)
        except MLCEngineError as error:
            self.note(end=number, how="error", error=f"{type(error).__name__}: {error}")
        except Exception as error:
            self.note(end=number, how="wrong", error=repr(error))
        else:
            self.note(end=number, how=end)

    async def _whole(self, prompt: int, request_id: str, wait: float) -> str:
        answer = await self._engine.chat.completions.create(
            **request(prompt), request_id=request_id
        )
        return self._judged(prompt, answer.choices[0].message.content or "", whole=True)

    async def _stream(self, prompt: int, request_id: str, wait: float) -> str:
        return self._judged(prompt, await self._read(prompt, request_id), whole=True)

    async def _read(self, prompt: int, request_id: str, most: int | None = None) -> str:
        stream = await self._engine.chat.completions.create(
            **request(prompt), request_id=request_id, stream=True
        )
        text = ""
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
            most = None if most is None else most - 1
            if most == 0:
                await stream.close()
                break
        return text

    async def _break(self, prompt: int, request_id: str, wait: float) -> str:
        most = 1 + int(wait / _LONGEST_WAIT_S * 8)
        self._judged(prompt, await self._read(prompt, request_id, most), whole=False)
        return "left"

    async def _cancel(self, prompt: int, request_id: str, wait: float) -> str:
        task = asyncio.create_task(self._whole(prompt, request_id, wait))
        await asyncio.wait({task}, timeout=wait)
        task.cancel()
        try:
            return await task
        except asyncio.CancelledError:
            return "cancelled"

    async def _abort(self, prompt: int, request_id: str, wait: float) -> str:
        task = asyncio.create_task(self._read(prompt, request_id))
        await asyncio.wait({task}, timeout=wait)
        await self._engine.abort(request_id)
        whole = self._judged(prompt, await task, whole=False)
        return "aborted" if whole == "left" else whole

    def _judged(self, prompt: int, text: str, *, whole: bool) -> str:
        expected = self._expected[prompt]
        if text == expected:
            return "answered"
        if whole or not expected.startswith(text):
            raise ValueError(f"{text!r} is not {expected!r}")
        return "left"


async def load(engine: AsyncKernelMLCEngine) -> None:
    """Load the model; a load whose worker is killed ends with an error, and is asked for again."""
    while True:
        try:
            return await engine.reload(MODEL)
        except EngineDeadError:
            continue


async def main(folder: Path, index: int, numbers: list[int], seed: int) -> None:
    """Make the requests, and note what this process holds before and after."""
    expected = json.loads((folder / "expected.json").read_text())
    log = os.open(folder / f"log-{index}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    engine = AsyncKernelMLCEngine(**OPTIONS)
    client = Client(engine, expected, log)
    await load(engine)
    draw = random.Random(seed)
    warm = min(len(numbers), 4 * _AT_ONCE)
    await client.run(numbers[:warm], draw)
    client.note(usage=usage(psutil.Process()))
    await client.run(numbers[warm:], draw)
    client.note(usage=usage(psutil.Process()))
    await engine.terminate()


if __name__ == "__main__":
    first, last, step, seed = map(int, sys.argv[3:7])
    done = set(json.loads(sys.argv[7]))
    mine = [number for number in range(first, last, step) if number not in done]
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), mine, seed))
