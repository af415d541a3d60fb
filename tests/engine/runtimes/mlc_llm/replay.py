"""Makes every recorded call on whatever mlc_llm is importable and prints what came back, as JSON.

Run as ``python replay.py MODEL_FOLDER RECORDINGS``. The calls that end in a hang or a crash are
made in `traps.py`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import tvm
from mlc_llm.serve import AsyncMLCEngine, EngineConfig

HANG_S = 0.5


def describe_error(error: BaseException, raised_at: str) -> dict[str, Any]:
    ancestors = type(error).__mro__[1:]
    bases = [c.__name__ for c in ancestors if issubclass(c, Exception)]
    return {
        "module": type(error).__module__,
        "type": type(error).__name__,
        "bases": bases,
        "message": str(error),
        "raised_at": raised_at,
    }


async def make_call(engine: Any, call: dict[str, Any]) -> dict[str, Any]:
    api = engine.chat.completions if call["api"].startswith("chat") else engine.completions
    arguments = dict(call["kwargs"])
    if "logit_bias" in arguments:  # JSON has no integers for keys
        arguments["logit_bias"] = {int(k): v for k, v in arguments["logit_bias"].items()}
    result: dict[str, Any] = {}
    where = "call"
    try:
        answer = await api.create(**arguments)
        if not hasattr(answer, "__aiter__"):
            return {"response": answer.model_dump(), "outcome": "ok"}
        where = "first iteration"
        result = {"returned": type(answer).__name__, "chunks": []}
        async for chunk in answer:
            where = "later"
            result["chunks"].append(chunk.model_dump())
    except Exception as error:
        return {**result, "outcome": "error", "error": describe_error(error, where)}
    return {**result, "outcome": "ok"}


async def ends(awaitable: Any) -> bool:
    """Whether it ends at all."""
    task = asyncio.ensure_future(awaitable)
    await asyncio.wait({task}, timeout=HANG_S)
    ended = task.done()
    task.cancel()
    return ended


async def abort_mid_stream(engine: Any) -> dict[str, Any]:
    """Abort a stream while its consumer waits; one that was faster than the abort is no measure."""
    for i in range(100):
        request = f"aborted-{i}"
        stream = await engine.chat.completions.create(
            messages=[{"role": "user", "content": "Abort me"}],
            stream=True,
            request_id=request,
            extra_body={"debug_config": {"ignore_eos": True}},
        )
        await anext(stream)
        finished = []

        async def drain(stream: Any = stream, finished: list[bool] = finished) -> None:
            async for chunk in stream:
                finished.extend(bool(choice.finish_reason) for choice in chunk.choices)

        consumer = asyncio.ensure_future(drain())
        returned = await engine.abort(request)
        ended = await ends(consumer)
        if not any(finished):
            return {"abort_returned": returned, "consumer_ended_within_3_s": ended}
    raise AssertionError("every stream ended by itself before it could be aborted")


async def main() -> None:
    folder, recordings = sys.argv[1:]
    calls = json.loads(Path(recordings).read_text())["recordings"]
    lib = Path(folder) / "lib.so"
    lib.write_bytes(b"library")
    engine = AsyncMLCEngine(
        folder, tvm.cpu(), model_lib=str(lib), engine_config=EngineConfig(verbose=False)
    )
    results: dict[str, Any] = {}
    for call in calls:
        if "api" in call and call["name"] != "after terminate" and "signal" not in call:
            results[call["name"]] = await make_call(engine, call)
    results["abort mid-stream"] = await abort_mid_stream(engine)
    results["abort unknown id"] = {"abort_returned": await engine.abort("nobody")}
    metrics = await engine.metrics()
    results["metrics"] = {
        "metrics": metrics.metrics,
        "prometheus_text": metrics.prometheus_text(),
    }
    terminated = asyncio.ensure_future(asyncio.to_thread(engine.terminate))
    results["terminate"] = {"returned": await terminated, "again": engine.terminate()}
    last = next(c for c in calls if c["name"] == "after terminate")
    results["after terminate"] = await make_call(engine, last)
    print(json.dumps(results))


if __name__ == "__main__":
    asyncio.run(main())
