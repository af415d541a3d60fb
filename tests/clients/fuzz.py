"""Random requests, valid and not, through every public door, while two threads cancel.

::

    python tests/clients/fuzz.py [--requests 2000] [--seed 0] [--doors engine client …] MODEL_FOLDER

Every request must be answered: with an answer, or with one error that says what is wrong with it.
An `InternalEngineError`, any exception that is not ours, silence, or a worker that dies is a fault;
faults are printed with the request that brought them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import openai
from traitlets import TraitError

from mlc_widget import AsyncKernelMLCEngine, ChatWidget
from mlc_widget.api import errors

ANSWER_S = 120
"""Only catches what is never answered."""

_DEEP: Any = {}
for _ in range(150):
    _DEEP = {"a": [_DEEP]}
STRANGE: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64 + 1, -(2**70), 0.5, -0.0, 1e308, 5e-324,
    math.nan, math.inf, "", "x", "auto", "\x00", "\ud800", "ä" * 1000, "<|im_end|>", [], {}, [[]],
    [None], ["x"], [1, 2, 3], {"a": 1}, {"type": "object"}, {"role": "user"}, _DEEP, "x" * 100_000,
]  # fmt: skip
SCHEMAS: list[Any] = [
    {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
    {"type": "array", "items": {"type": "boolean"}, "maxItems": 4},
    {"enum": ["a", "b", 3, None]}, {"const": -(2**63)}, {"const": 2**64 - 1}, {}, True, False,
    {"type": ["string", "null"], "maxLength": 5}, {"oneOf": [{"const": 1}, {"const": 2}]},
    {"$ref": "#/$defs/a", "$defs": {"a": {"type": "string"}}}, {"$ref": "#"},
    {"$defs": {"a": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"},
    {"type": "number", "exclusiveMinimum": 1, "exclusiveMaximum": 1.01},
    {"type": "string", "pattern": "^(a+)+$"}, {"type": "string", "pattern": "("},
    {"type": "integer", "maximum": 10**20}, {"minProperties": 2, "additionalProperties": False},
    {"patternProperties": {"^x": {"type": "integer"}}, "additionalProperties": False},
    {"type": "array", "items": {"type": ["string", "integer"]}, "uniqueItems": True},
    {"patternProperties": {f"^p{i}": True for i in range(60)}}, {"$dynamicRef": "#"},
    {"type": "nonsense"}, {"properties": 5}, {"not": {}}, {"$ref": "http://example.invalid/x"},
]  # fmt: skip
GRAMMARS = ['root ::= "a" | "b"', "nonsense", "root ::= root", 'start: "a"+', "start: start"]
WORDS = ["Hello", "the", "weather", "{error}", "<|im_start|>", "\x00", "🙂", "in", "Paris", "\n"]


class Grammar:
    """Makes requests in OpenAI's shape."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def text(self) -> str:
        return " ".join(self.random.choices(WORDS, k=self.random.choice([1, 3, 30])))

    def messages(self) -> list[Any]:
        r = self.random
        turns: list[Any] = [{"role": "user", "content": self.text()}]
        if r.random() < 0.3:
            turns.insert(0, {"role": r.choice(["system", "developer"]), "content": self.text()})
        if r.random() < 0.3:
            function = {"name": "f", "arguments": r.choice(["{}", "", '{"a"', self.text()])}
            call = {"id": "c", "type": "function", "function": function}
            turns += [
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "tool_call_id": r.choice(["c", "c", "d"]), "content": self.text()},
            ]
        if r.random() < 0.15:
            turns.insert(r.randrange(len(turns) + 1), r.choice([*STRANGE, {"role": "assistant"}]))
        return turns

    def schema(self) -> Any:
        schema = self.random.choice(SCHEMAS)
        if self.random.random() < 0.3:
            schema = {"type": "object", "properties": {"x": schema, "y": self.schema()}}
        return schema

    def _tools(self) -> list[Any]:
        function = {"name": "f", "description": self.text(), "parameters": self.schema()}
        return [{"type": "function", "function": function}]

    def options(self) -> dict[str, Any]:
        """Fields that chats and completions share; some of them wrong."""
        r = self.random
        given: dict[str, Any] = {"max_tokens": r.choice([1, 2, 5, 20])}
        good: dict[str, Callable[[], Any]] = {
            "temperature": lambda: r.choice([0, 0.7, 2, 1e-45]),
            "top_p": lambda: r.choice([1, 0.5, 1e-9]),
            "seed": lambda: r.randrange(2**63),
            "stop": lambda: r.choice(["a", ["b", "\n"], "x" * 1024]),
            "n": lambda: r.choice([1, 2, 16]),
            "frequency_penalty": lambda: r.uniform(-2, 2),
            "repetition_penalty": lambda: r.choice([1e-300, 0.1, 1, 10]),
            "top_k": lambda: r.choice([-1, 0, 1, 40]),
            "min_p": lambda: r.choice([0, 0.1, 1]),
            "typical_p": lambda: r.choice([0, 0.5, 1]),
            "dry_multiplier": lambda: r.choice([0, 0.8, 100]),
            "dry_sequence_breakers": lambda: r.choice(["a", [], ["\n", "ab"]]),
            "logit_bias": lambda: {str(r.randrange(400)): r.choice([-100, 0, 100])},
            "logprobs": lambda: True,
            "top_logprobs": lambda: r.choice([0, 5, 20]),
            "ignore_eos": lambda: True,
            "response_format": self._format,
        }
        for name in r.sample(sorted(good), k=r.choice([0, 1, 3])):
            given[name] = good[name]()
        return given

    def _format(self) -> Any:
        r = self.random
        return r.choice([
            {"type": "json_object"},
            {"type": "json_schema", "json_schema": {"name": "a", "schema": self.schema()}},
            {"type": "regex", "regex": r.choice(["[ab]{1,5}", "(", "(a|b)*c", "a{100000}"])},
            {"type": "grammar", "grammar": r.choice(GRAMMARS)},
            {"type": "text"},
        ])  # fmt: skip

    def request(self, kind: str) -> dict[str, Any]:
        r = self.random
        if kind == "chat":
            body = {"messages": self.messages(), **self.options()}
            if r.random() < 0.2:
                body |= {"tools": self._tools(), "tool_choice": r.choice(["auto", "required"])}
        elif kind == "completion":
            body = {"prompt": r.choice([self.text(), [1, 2, 3], [10**6]]), **self.options()}
        else:
            body = {"input": r.choice([self.text(), [self.text()] * 3, [[1, 2]]])}
        for _ in range(r.choice([0, 0, 1, 2])):
            body[r.choice([*body, "user", "metadata", "stream_options", "nonsense"])] = r.choice(
                STRANGE
            )
        return body


class Faults(list[str]):
    """What went wrong, each with what brought it."""


class Run:
    """Sends the requests of all doors to one engine."""

    def __init__(self, engine: AsyncKernelMLCEngine, seed: int) -> None:
        self.engine = engine
        self.grammar = Grammar(seed)
        self.random = random.Random(seed + 1)
        self.faults = Faults()
        self.ends: Counter[str] = Counter()
        self.running: set[asyncio.Task[Any]] = set()
        self.client = engine.openai_client()

    # Doors

    async def through_engine(self) -> None:
        kind = self.random.choice(["chat", "chat", "completion", "embedding"])
        body = self.grammar.request(kind)
        call: dict[str, Any] = {
            "chat": self.engine.chat.completions.create,
            "completion": self.engine.completions.create,
            "embedding": self.engine.embeddings.create,
        }
        if kind != "embedding" and self.random.random() < 0.4:
            body["stream"] = True
        await self._answered(f"engine {kind}", body, lambda: self._read(call[kind](**body)))

    async def _read(self, answer: Awaitable[Any]) -> None:
        stream = await answer
        if hasattr(stream, "__anext__"):
            left = self.random.choice([1, 3, 10**6])
            async for _ in stream:
                left -= 1
                if not left:
                    break

    async def through_client(self) -> None:
        kind = self.random.choice(["chat", "completion", "embedding", "response"])
        path = {"chat": "/chat/completions", "response": "/responses"}.get(kind, f"/{kind}s")
        if kind == "response":
            chat = self.grammar.request("chat")
            body = {"model": "m", "input": chat.get("messages"), "max_output_tokens": 5}
            body |= {k: v for k, v in chat.items() if k in ("temperature", "tools", "user", "seed")}
        else:
            body = {"model": "m", **self.grammar.request(kind)}
        if self.random.random() < 0.4:
            body["stream"] = True
        method = self.random.choice(["POST"] * 9 + ["GET"])
        content = json.dumps(body).encode()

        async def call() -> None:
            url = f"http://mlc-widget.invalid/v1{path}"
            answer = await self.client._client.request(method, url, content=content)
            if answer.status_code >= 500 or b'"InternalEngineError"' in answer.content:
                raise AssertionError(f"{answer.status_code}: {answer.text[:500]}")
            if b"response.failed" in answer.content:
                raise AssertionError(answer.text[-500:])
            if answer.status_code >= 400:
                raise errors.BadRequestError(answer.text[:500])

        await self._answered(f"client {method} {path}", body, call)

    async def through_wire(self) -> None:
        r = self.random
        kinds = [
            "chatCompletionNonStreaming", "completionNonStreaming", "embedding", "getMessage",
            "chatCompletionStreamInit", "completionStreamNextChunk", "completionStreamReturn",
            "interruptGenerate", "abort", "resetChat", "runtimeStatsText", "metrics", "health",
            "listModels", "deviceInfo", "forwardTokensAndSample", "customRequest", "nonsense",
        ]  # fmt: skip
        names = [
            "request", "streamId", "credit", "resume", "journal", "requestId", "keepStats",
            "inputIds", "isPrefill", "requestName", "requestMessage", "selectedModelId",
        ]  # fmt: skip
        kind = r.choice(kinds)
        plain = [value for value in STRANGE if value == value and value not in (math.inf, "\ud800")]
        content: Any = {name: r.choice(plain) for name in r.sample(names, 3)}
        if r.random() < 0.6:
            content["request"] = self.grammar.request(r.choice(["chat", "completion"]))
        if kind == "chatCompletionStreamInit":  # pulled: one that is pushed ends with its last
            content.pop("credit", None)
            content["streamId"] = f"{r.random()}"
        worker = self.engine._core._supervisor.worker
        assert worker is not None

        async def call() -> None:
            try:
                await self._at_home(lambda: worker.connection.call(kind, content))
            finally:  # also when cancelled: what nobody pulls or ends would wait forever
                if kind == "chatCompletionStreamInit":
                    end = {"streamId": content["streamId"]}
                    self.engine._home.submit(worker.connection.call("completionStreamReturn", end))

        await self._answered(f"wire {kind}", content, call)

    async def _at_home(self, work: Callable[[], Any]) -> Any:
        return await self.engine._home.wait(work)

    async def through_widget(self) -> None:
        r = self.random
        chat = ChatWidget(self.engine, max_tokens=5)
        settings = [
            "temperature", "top_p", "max_tokens", "seed", "system_prompt", "response_format",
            "repetition_penalty", "top_k", "min_p",
        ]  # fmt: skip
        name, value = r.choice(settings), r.choice([*STRANGE, self.grammar.schema(), 0.7, 3])

        async def call() -> None:
            try:
                setattr(chat, name, value)
                for _ in range(r.choice([1, 2])):
                    reply = chat.send(r.choice([self.grammar.text(), r.choice(STRANGE)]))
                    if reply is None:  # a message of the page, or nothing to send
                        continue
                    if r.random() < 0.3:
                        reply.stop()
                    await reply
                chat.export(r.choice(["md", "json", "nonsense"]))
            finally:
                chat.close()

        await self._answered("widget", {name: value}, call)

    async def through_magics(self) -> None:
        r = self.random
        from IPython.core.interactiveshell import InteractiveShell
        from IPython.utils.capture import capture_output

        shell = InteractiveShell.instance()
        if "chat" not in shell.magics_manager.magics["cell"]:
            shell.run_line_magic("load_ext", "mlc_widget")
        shell.user_ns |= {
            "engine": self.engine,
            "schema": self.grammar.schema(),
            "odd": r.choice(STRANGE),
        }
        flags = [
            "--new", "--system x", "--schema schema", "--schema odd", "--tools odd",
            "--temperature 0", "--temperature 9", "--temperature x", "--top-p 0.5", "--seed -1",
            "--max-tokens 3", "--max-tokens 0", "--nonsense", "--model", "--to odd", "'",
        ]  # fmt: skip
        line = " ".join(["--to engine --max-tokens 5", *r.sample(flags, k=r.choice([0, 1, 2]))])
        text = r.choice([self.grammar.text(), "{odd}", "{nobody}", "{{x}}", "{odd[0]}", ""])
        cell = r.choice([f"%%chat {line}\n{text}"] * 4 + ["%mlc stats --to engine", "%mlc models"])

        def call_blocking() -> None:
            shell.user_ns.pop("_chat", None)
            with capture_output() as captured:
                ran = shell.run_cell(cell)
                reply = shell.user_ns.get("_chat")
                error = ran.error_in_exec or ran.error_before_exec
                if error is None and reply is not None:
                    reply.result(ANSWER_S)
            del captured
            if error is not None:
                raise error

        async def call() -> None:
            call_blocking()
            await asyncio.sleep(0)

        await self._answered("magics", cell, call)

    # What comes of it

    async def in_worker(self) -> dict[str, Any]:
        """The worker's own statistics, which count its requests from their arrival to their end.

        `metrics()` does not count a request whose schema is being compiled. One that is cancelled
        meanwhile ends after that, and `metrics()` may count it then, for a moment: so its 0 does
        not mean that nothing is left. The engine's `statistics()` leaves out what was cancelled.
        """
        worker = self.engine._core._supervisor.worker
        assert worker is not None
        found: dict[str, Any] = await self._at_home(lambda: worker.call("statistics"))
        return found

    async def _answered(self, door: str, asked: Any, call: Callable[[], Awaitable[None]]) -> None:
        from IPython.core.error import UsageError

        try:
            async with asyncio.timeout(ANSWER_S):
                await call()
            end = "answered"
        except asyncio.CancelledError:
            end = "cancelled"
        except TimeoutError:
            end = "silence"
        except errors.MLCEngineError as error:
            broken = (errors.InternalEngineError, errors.EngineDeadError)
            end = f"broken: {error!r}" if isinstance(error, broken) else "refused"
        except (openai.APIError, UsageError, TraitError):
            end = "refused"
        except Exception as error:  # whatever it is, it is no answer
            end = f"broken: {error!r}"
        self.ends[f"{door.split()[0]} {end.split(':')[0]}"] += 1
        if end == "silence" or end.startswith("broken"):
            self.faults.append(f"{door}: {end}\n    {asked!r:.3000}")

    async def through(self, door: str, count: int) -> None:
        """Send `count` requests through one door, eight at a time."""
        gate = asyncio.Semaphore(1 if door == "magics" else 8)
        pid = self.engine.worker_pid

        async def one() -> None:
            async with gate:
                await getattr(self, f"through_{door}")()

        for _ in range(count):
            task = asyncio.create_task(one())
            self.running.add(task)
            task.add_done_callback(self.running.discard)
            if len(self.running) >= 16:
                await asyncio.wait(self.running, return_when=asyncio.FIRST_COMPLETED)
        while self.running:
            done, _ = await asyncio.wait(self.running)
            self.faults += [
                repr(t.exception()) for t in done if not t.cancelled() and t.exception()
            ]
        if self.engine.worker_pid != pid:
            death = self.engine._core._supervisor._last_death
            self.faults.append(f"{door}: the worker died: {death}")

    def cancelling(self, loop: asyncio.AbstractEventLoop, over: threading.Event) -> None:
        """One of the threads that cancel: tasks here, or everything in the engine."""
        r = random.Random(self.random.random())

        def cancel() -> None:
            if self.running:
                r.choice(sorted(self.running, key=id)).cancel()

        while not over.wait(r.uniform(0.01, 0.2)):
            if r.random() < 0.7:
                loop.call_soon_threadsafe(cancel)
            else:
                self.engine._home.submit(self.engine._core.interrupt_generate())


DOORS = ("engine", "client", "wire", "widget", "magics")


async def fuzz(folder: str, requests: int, seed: int, doors: tuple[str, ...] = DOORS) -> Run:
    """Send `requests` through each door of an engine that runs the model in `folder`."""
    over = threading.Event()
    async with AsyncKernelMLCEngine(runtime="tvm", runtime_options={"threads": 1}) as engine:
        await engine.set_app_config({"model_list": [{"model_id": "m", "model": folder}]})
        await engine.reload("m")
        run = Run(engine, seed)
        loop = asyncio.get_running_loop()
        threads = [threading.Thread(target=run.cancelling, args=(loop, over)) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for door in doors:
                await run.through(door, requests)
        finally:
            over.set()
            for thread in threads:
                thread.join()
        answer = await engine.completions.create(prompt="x", max_tokens=1)
        assert answer.choices
        there: dict[str, Any] = {}
        try:  # what was cancelled last may still be ending
            async with asyncio.timeout(ANSWER_S):
                while (there := await run.in_worker())["running_requests"]:
                    await asyncio.sleep(0.05)
        except TimeoutError:
            run.faults.append(f"the worker still has requests after {ANSWER_S} s: {there}")
    return run


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--doors", nargs="+", default=DOORS, choices=DOORS)
    given = parser.parse_args()
    done = asyncio.run(fuzz(given.folder, given.requests, given.seed, tuple(given.doors)))
    print(*sorted(done.ends.items()), *done.faults, sep="\n")
    sys.exit(1 if done.faults else 0)
