"""A runtime without a model, which follows a script: it gives certain texts, and fails on demand.

For tests and for trying a front end: pace, failures, hangs and crashes on demand. The model folder
only lends its tokenizer and template.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from mlc_widget.api.errors import (
    BadRequestError,
    ContextLengthExceededError,
    EngineDeadError,
    InsufficientMemoryError,
    InternalEngineError,
    ModelFormatError,
    UnsupportedModelError,
)
from mlc_widget.api.progress import LoadReporter
from mlc_widget.engine.runtimes.base import (
    DeviceUsage,
    GenerationEvent,
    GenerationStats,
    ModelSource,
    ReplacedModels,
    RuntimeCapabilities,
    Sampling,
)
from mlc_widget.engine.system.running_step import RunningStep


@dataclass(frozen=True, slots=True)
class Script:
    """What to do.

    Attributes:
        text: The answer; its pieces are its words.
        repeat: How often the answer repeats its text.
        echo: Answer with the prompt's text instead.
        after_tools: The answer instead, if the prompt ends with a tool's result.
        pace_s: Seconds between pieces; 0 gives them as fast as they are read.
        fail_after: Raise an error after this many pieces.
        hang_after: Give nothing more after this many pieces, until cancelled.
        crash_after: Kill the process after this many pieces.
        crash_if: Do so only where the prompt has this text in it.
        last_words: What to print before that.
        load_s: Seconds that a load takes, reported in twenty steps.
        load_waits_for: A file; loads go on only while it is there.
        load_fails: The message of the error with which a load ends.
        load_hangs: Whether a load never ends.
        load_crashes: Whether a load kills the process.
        load_troubles: The text that a model's id must have in it for the above to happen to it.
        load_needs: The bytes that each model takes.
        load_memory: The bytes that all models of the process may take.
        single_use: Whether a process can load once only.
    """

    text: str = "Hello from the script."
    repeat: int = 1
    echo: bool = False
    after_tools: str | None = None
    pace_s: float = 0.0
    fail_after: int | None = None
    hang_after: int | None = None
    crash_after: int | None = None
    crash_if: str = ""
    last_words: str = ""
    load_s: float = 0.0
    load_waits_for: str | None = None
    load_fails: str | None = None
    load_hangs: bool = False
    load_crashes: bool = False
    load_troubles: str = ""
    load_needs: int = 0
    load_memory: int | None = None
    single_use: bool = False


class ScriptedRuntime:
    """`ModelRuntime` that follows a `Script`.

    Args:
        options: The script's fields.

    Raises:
        BadRequestError: an unknown field.
    """

    name = "scripted"
    taken: ClassVar[int] = 0
    """Bytes that all models of this process are said to take."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        known = [f.name for f in fields(Script)]
        for option, value in options.items():
            if option not in known:
                raise BadRequestError(
                    f"runtime_options.{option} = {value!r}: known: {', '.join(known)}.",
                    param=f"runtime_options.{option}",
                )
        self._script = Script(**options)
        self._source: ModelSource | None = None
        self.on_dead: Callable[[EngineDeadError], None] | None = None
        self.replaces: ReplacedModels | None = None
        self._taken = 0
        self.active = 0
        """Generations that run now."""

    @property
    def capabilities(self) -> RuntimeCapabilities:
        """It ignores all sampling, so the same seed gives the same text."""
        return RuntimeCapabilities(
            batch_invariant=True,
            request_fields=frozenset({"ignore_eos"}),
            fresh_process_needed=self._script.single_use,
        )

    @property
    def context_window_size(self) -> int:
        """The folder's, or 4096."""
        config = self._source.config if self._source else {}
        return int(config.get("context_window_size", 4096))

    async def device_usage(self) -> DeviceUsage:
        """It computes nothing, on the CPU."""
        return DeviceUsage("cpu", model=self._taken)

    async def load(self, source: ModelSource, report: LoadReporter) -> None:
        """Pretend to load."""
        script = self._script
        troubled = script.load_troubles in source.model_id
        await self._make_room()
        total = 20_000_000
        for step in range(21):
            done = total * step // 20
            report("load", step / 20, "Loading", bytes_done=done, bytes_total=total)
            await asyncio.sleep(script.load_s / 20)
            while troubled and not self._may_load():  # noqa: ASYNC110 - a file has no event
                await asyncio.sleep(0.01)
        if troubled and script.load_crashes:
            os.kill(os.getpid(), signal.SIGKILL)
        if troubled and script.load_hangs:
            await asyncio.Event().wait()
        if troubled and script.load_fails is not None:
            raise ModelFormatError(script.load_fails)
        self._source = source

    async def _make_room(self) -> None:
        """Take the model's memory, from those that it replaces if there is no more."""
        need, limit, replaced = self._script.load_needs, self._script.load_memory, self.replaces
        if limit is not None and ScriptedRuntime.taken + need > limit:
            freed = 0 if replaced is None else replaced.nbytes("cpu")
            if replaced is None or ScriptedRuntime.taken - freed + need > limit:
                raise InsufficientMemoryError(f"The script needs {need} bytes of {limit}.")
            await asyncio.to_thread(replaced.unload)
        self._taken = need
        ScriptedRuntime.taken += need

    def _may_load(self) -> bool:
        gate = self._script.load_waits_for
        return gate is None or Path(gate).exists()

    async def generate(
        self, prompt_token_ids: Sequence[int], sampling: Sampling, *, request_id: str
    ) -> AsyncGenerator[GenerationEvent, None]:
        """Say the script's words."""
        assert self._source is not None
        if len(prompt_token_ids) >= self.context_window_size:
            raise ContextLengthExceededError(
                f"The prompt has {len(prompt_token_ids)} tokens; the context window is "
                f"{self.context_window_size}.",
                param="messages",
            )
        self.active += 1
        started = time.monotonic()
        try:
            words = self._words(prompt_token_ids)
            poison = self._script.crash_if in self._source.tokenizer.decode(list(prompt_token_ids))
            total = len(words) * self._script.repeat
            count = total if sampling.max_tokens is None else min(sampling.max_tokens, total)
            for i in range(count):
                if i >= len(sampling.resume):
                    await self._misbehave(i, poison)
                    await asyncio.sleep(self._script.pace_s)
                word = words[i % len(words)]
                yield GenerationEvent(text=f" {word}" if i else word, token_ids=(i,))
            await self._misbehave(total, poison)
            took = time.monotonic() - started
            yield GenerationEvent(
                text="",
                finish_reason="length" if count < total else "stop",
                stats=GenerationStats(len(prompt_token_ids), 0, count, 0.0, 0.0, took),
            )
        finally:
            self.active -= 1

    def _words(self, prompt: Sequence[int]) -> list[str]:
        assert self._source is not None
        script = self._script
        said = self._source.tokenizer.decode(list(prompt))
        text = said if script.echo else script.text
        last_turn = said.rpartition("user\n")[2]
        if script.after_tools is not None and "<tool_response>" in last_turn:
            text = script.after_tools
        return (text + " ").split(" ")[:-1]

    async def _misbehave(self, piece: int, poison: bool) -> None:
        script = self._script
        if piece == script.crash_after and poison:
            print(script.last_words, file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        if piece == script.fail_after:
            raise InternalEngineError(f"The script fails after {piece} pieces.")
        if piece == script.hang_after:
            await asyncio.Event().wait()

    async def embed(self, inputs: Sequence[Sequence[int]]) -> Sequence[Sequence[float]]:
        """Not part of any script."""
        raise UnsupportedModelError("The scripted runtime has no embeddings.")

    def running_step(self) -> RunningStep | None:
        """It has no thread."""
        return None

    def interrupt(self) -> None:
        """Nothing to do: the engine cancels what it runs."""

    async def unload(self) -> None:
        """Forget the model."""
        self._source = None
        ScriptedRuntime.taken -= self._taken
        self._taken = 0
