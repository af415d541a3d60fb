"""One engine is used from several event loops and threads at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from mlc_widget import AsyncKernelMLCEngine

from ..waiting import until_running

Make = Callable[..., Awaitable[AsyncKernelMLCEngine]]
HELLO = [{"role": "user", "content": "Hello!"}]
LOOPS = 4


async def whole(engine: Any, tokens: int) -> str:
    answer = await engine.chat.completions.create(messages=HELLO, max_tokens=tokens)
    return str(answer.choices[0].message.content)


async def streamed(engine: Any, tokens: int) -> str:
    stream = await engine.chat.completions.create(messages=HELLO, max_tokens=tokens, stream=True)
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


async def left(engine: Any, tokens: int) -> str:
    """What comes first; the stream is left, and so is one that belongs to another task."""
    other = asyncio.create_task(whole(engine, 10**6))
    stream = await engine.chat.completions.create(messages=HELLO, stream=True)
    first = await anext(stream)
    await stream.close()
    other.cancel()
    return str(first.choices[0].delta.content)


async def test_loops_of_several_threads_use_one_engine_at_once(kernel_engine: Make) -> None:
    engine = await kernel_engine(text="one two three four", repeat=10**6)

    def use(index: int) -> list[str]:
        async def ask() -> list[str]:
            tokens = 5 + index
            return await asyncio.gather(
                whole(engine, tokens), streamed(engine, tokens), left(engine, tokens)
            )

        return [text for _ in range(3) for text in asyncio.run(ask())]  # each time in a new loop

    mine = asyncio.create_task(streamed(engine, 10**6))  # in the meantime on this loop
    await until_running(engine)
    with ThreadPoolExecutor(LOOPS) as threads:
        loop = asyncio.get_running_loop()
        answers = await asyncio.gather(
            *(loop.run_in_executor(threads, use, index) for index in range(LOOPS))
        )
    words = ["one", "two", "three", "four"] * 3
    for index, texts in enumerate(answers):
        expected = " ".join(words[: 5 + index])
        assert texts == [expected, expected, "one"] * 3
    assert not mine.done()
    await engine.interrupt_generate()
    assert (await mine).startswith("one two three four one")
