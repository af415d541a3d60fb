"""Chat with the built-in model, in this process and in a worker kernel.

``make smoke``, ``make dist`` and the smoke tests on macOS and Windows run this: it needs the
package with its ``tvm`` extra, and nothing else.
"""

from __future__ import annotations

import asyncio
import platform
from typing import Any

from mlc_widget import __version__, create_kernel_mlc_engine, create_mlc_engine

MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]
DEADLINE_S = 300.0


async def converse(engine: Any) -> str:
    """Ask once for a whole answer and once for a stream.

    Raises:
        RuntimeError: if the answer is empty, or the two differ.
    """
    options = {"messages": MESSAGES, "max_tokens": 32, "temperature": 0.0}
    whole = await engine.chat.completions.create(**options)
    answer = whole.choices[0].message.content or ""
    streamed = ""
    async for chunk in await engine.chat.completions.create(**options, stream=True):
        streamed += chunk.choices[0].delta.content or ""
    if not answer or streamed != answer:
        raise RuntimeError(f"the whole answer is {answer!r}, the streamed one {streamed!r}")
    return answer


async def main() -> None:
    """Try both engines, and compare their answers."""
    print(f"mlc_widget {__version__}, Python {platform.python_version()}, {platform.platform()}")
    answers = []
    for create in (create_mlc_engine, create_kernel_mlc_engine):
        async with asyncio.timeout(DEADLINE_S):
            async with await create("demo") as engine:
                answers.append(await converse(engine))
        print(f"{create.__name__}: {answers[-1]!r}")
    if len(set(answers)) != 1:
        raise RuntimeError("the two engines answered differently")


if __name__ == "__main__":
    asyncio.run(main())
