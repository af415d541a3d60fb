"""One running request: its choices side by side, as chunks, until the end or an abort."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

from mlc_widget.api.requests import JSONDict
from mlc_widget.engine.model import LoadedModel
from mlc_widget.engine.runtimes.base import GenerationEvent, GenerationStats, Sampling
from mlc_widget.engine.shapes import Choice, ResponseShape, usage

_Item = tuple[int, GenerationEvent | BaseException]


class Generation:
    """Runs the `n` choices of one request and gives their chunks in batches.

    Use `chunks` once, or `whole`. `abort` may come at any time: every choice that still runs then
    ends with finish reason ``abort``.
    """

    def __init__(
        self,
        model: LoadedModel,
        shape: ResponseShape,
        prompt: Sequence[int],
        sampling: Sampling,
        choices: int,
        *,
        include_usage: bool,
    ) -> None:
        self._model = model
        self._shape = shape
        self._prompt = prompt
        self._sampling = sampling
        self._include_usage = include_usage
        self._queue: asyncio.Queue[_Item] = asyncio.Queue()
        self._choices = [Choice() for _ in range(choices)]
        self._stats: list[GenerationStats | None] = [None] * choices
        self._tasks: list[asyncio.Task[None]] = []
        self._aborted = False
        self._started = time.monotonic()
        self.prompt_tokens = len(prompt)
        self.completion_tokens = 0

    @property
    def request_id(self) -> str:
        """The response's id, by which it can be aborted."""
        return self._shape.id

    def abort(self) -> None:
        """End what still runs with finish reason ``abort``."""
        self._aborted = True
        for task in self._tasks:
            task.cancel()

    async def _run(self, index: int) -> None:
        """Move one choice's events into the queue; the last item is always terminal."""
        seen, first_at = 0, None
        sampling = replace(self._sampling, choice=index)
        request_id = f"{self._shape.id}-{index}"
        events = self._model.runtime.generate(self._prompt, sampling, request_id=request_id)
        try:
            async with contextlib.aclosing(events):
                async for event in events:
                    first_at = first_at or time.monotonic()
                    seen += len(event.token_ids)
                    self._queue.put_nowait((index, event))
                    if event.finish_reason is not None:
                        return
            raise RuntimeError("the runtime ended a generation without a finish reason")
        except asyncio.CancelledError:
            now = time.monotonic()
            stats = GenerationStats(
                prompt_tokens=len(self._prompt),
                cached_tokens=0,
                completion_tokens=seen,
                queue_s=0.0,
                prefill_s=(first_at or now) - self._started,
                decode_s=now - (first_at or now),
            )
            last = GenerationEvent(text="", finish_reason="abort", stats=stats)
            self._queue.put_nowait((index, last))
        except Exception as error:  # raised to the consumer
            self._queue.put_nowait((index, error))

    async def _batches(self) -> AsyncGenerator[list[tuple[int, GenerationEvent]], None]:
        running = len(self._choices)
        self._tasks = [asyncio.create_task(self._run(i)) for i in range(running)]
        try:
            if self._aborted:
                self.abort()
            while running:
                items = [await self._queue.get()]
                while not self._queue.empty():
                    items.append(self._queue.get_nowait())
                batch = []
                for index, event in items:
                    if isinstance(event, BaseException):
                        raise event
                    if event.finish_reason is not None:
                        running -= 1
                        self._stats[index] = event.stats
                    batch.append((index, event))
                yield batch
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    def _absorb(self, index: int, event: GenerationEvent) -> JSONDict | None:
        """Add an event to its choice; the event's logprobs in OpenAI's shape."""
        choice = self._choices[index]
        self.completion_tokens += len(event.token_ids)
        logprobs = self._shape.logprobs(event.logprobs, len(choice.text))
        if logprobs is not None:
            choice.logprobs.append(logprobs)
        choice.text += event.text
        choice.finish_reason = event.finish_reason
        return logprobs

    def _finish(self) -> JSONDict:
        stats = [s for s in self._stats if s is not None]
        used = usage(stats, time.monotonic() - self._started)
        self._model.last_message = self._choices[0].text
        self._model.last_usage = used
        return used

    async def chunks(self) -> AsyncGenerator[list[JSONDict], None]:
        """The answer as batches of OpenAI's chunks; closing it stops the work."""
        begun: set[int] = set()
        async with contextlib.aclosing(self._batches()) as batches:
            async for batch in batches:
                shaped = []
                for index, event in batch:
                    logprobs = self._absorb(index, event)
                    if not event.text and event.finish_reason is None and logprobs is None:
                        continue  # tokens whose text is still held back
                    shaped.append(
                        self._shape.chunk(
                            index,
                            event.text,
                            first=index not in begun,
                            finish_reason=event.finish_reason,
                            logprobs=logprobs,
                        )
                    )
                    begun.add(index)
                if shaped:
                    yield shaped
        used = self._finish()
        if self._include_usage:
            yield [self._shape.usage_chunk(used)]

    async def whole(self) -> JSONDict:
        """The whole answer in OpenAI's shape."""
        async with contextlib.aclosing(self._batches()) as batches:
            async for batch in batches:
                for index, event in batch:
                    self._absorb(index, event)
        return self._shape.whole(self._choices, self._finish())
