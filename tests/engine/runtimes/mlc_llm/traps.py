"""The ways to make mlc_llm hang or crash, one for each name; ``python traps.py NAME FOLDER``.

Prints ``hang`` where it hangs.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

HANG_S = 0.5


def make_engine(folder: str, **options: Any) -> Any:
    import tvm
    from mlc_llm.serve import AsyncMLCEngine, EngineConfig

    lib = Path(folder) / "lib.so"
    lib.write_bytes(b"library")
    window = options.pop("window", None)
    config = EngineConfig(verbose=False, max_single_sequence_length=window)
    return AsyncMLCEngine(folder, tvm.cpu(), model_lib=str(lib), engine_config=config, **options)


async def _hangs(awaitable: Awaitable[Any]) -> None:
    task = asyncio.ensure_future(awaitable)
    await asyncio.wait({task}, timeout=HANG_S)
    print("ended" if task.done() else "hang")


def _say_if_hanging(function: Callable[[], Any]) -> None:
    """Whether it hangs once a thread of its own has died, however long that takes to happen."""
    died = threading.Event()
    tell = threading.excepthook

    def hook(how: Any) -> None:
        tell(how)
        died.set()

    threading.excepthook = hook
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    died.wait(30)
    thread.join(HANG_S)
    print("hang" if thread.is_alive() else "ended")


async def _logit_bias(folder: str) -> None:
    await make_engine(folder).chat.completions.create(
        messages=[{"role": "user", "content": "Hello"}],
        max_tokens=3,
        temperature=0.0,
        logit_bias={999999: 5},
    )
    await asyncio.sleep(HANG_S)


async def _prompt_id(folder: str) -> None:
    await make_engine(folder).completions.create(prompt=[999999], max_tokens=3)
    await asyncio.sleep(HANG_S)


async def _schema(folder: str) -> None:
    engine = make_engine(folder)
    for wanted in ({"type": "json_object", "schema": "{"}, None):  # this one and every later one
        await _hangs(
            engine.chat.completions.create(
                messages=[{"role": "user", "content": "Hello"}],
                max_tokens=3,
                response_format=wanted,
            )
        )


async def _asked(folder: str, **request: Any) -> None:
    create = make_engine(folder).chat.completions.create
    await _hangs(create(messages=[{"role": "user", "content": "Hello"}], max_tokens=3, **request))


async def _schemas(folder: str) -> None:
    again = {"$ref": "#/$defs/A", "$defs": {"A": {"items": {"$ref": "#/$defs/A"}}}}
    for schema in ({}, {"type": ["string", "null"]}, again):
        wanted = {"type": "json_object", "schema": json.dumps(schema)}
        await _asked(folder, response_format=wanted)


async def _top_logprobs(folder: str) -> None:
    await _asked(folder, logprobs=True, top_logprobs=6)


async def _small_window(folder: str) -> None:
    try:
        await make_engine(folder, window=8).metrics()
    except Exception as error:
        print(type(error).__name__)


async def _mode(folder: str) -> None:
    _say_if_hanging(lambda: make_engine(folder, mode="fast"))


async def _terminate(folder: str) -> None:
    engine = make_engine(folder)
    stream = await engine.completions.create(
        prompt=[5],
        stream=True,
        max_tokens=100_000,
        extra_body={"debug_config": {"ignore_eos": True}},
    )
    await anext(stream)

    async def drain() -> None:
        async for _ in stream:
            pass

    consumer = asyncio.ensure_future(drain())
    await asyncio.to_thread(engine.terminate)
    await _hangs(consumer)


async def _not_terminated(folder: str) -> None:
    engine = make_engine(folder)
    await engine.completions.create(prompt=[5], max_tokens=2)
    print("leaving", flush=True)


TRAPS: dict[str, Callable[[str], Awaitable[None]]] = {
    "logit_bias out of vocabulary": _logit_bias,
    "prompt id out of vocabulary": _prompt_id,
    "malformed JSON schema": _schema,
    "schemas that are right": _schemas,
    "six top_logprobs": _top_logprobs,
    "metrics in a small window": _small_window,
    "constructor with an unknown mode": _mode,
    "stream open at terminate()": _terminate,
    "no terminate at exit": _not_terminated,
}

if __name__ == "__main__":
    asyncio.run(TRAPS[sys.argv[1]](sys.argv[2]))
    if sys.argv[1] != "no terminate at exit":
        sys.stdout.flush()
        os._exit(0)
