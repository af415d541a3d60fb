"""One running request: generates its choices concurrently and yields their chunks."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from typing import Final

from mlc_widget.api.request_ids import of_request
from mlc_widget.api.requests import JSONDict
from mlc_widget.engine.answer import Delta
from mlc_widget.engine.chat_plan import AnswerPlan
from mlc_widget.engine.choice_run import ChoiceRun
from mlc_widget.engine.model import LoadedModel
from mlc_widget.engine.resumption import Beginning, Delivered, Resumption, begin, is_exact
from mlc_widget.engine.runtimes.base import GenerationEvent, GenerationStats, Sampling
from mlc_widget.engine.shapes import ResponseShape, usage

_AHEAD: Final = 32
"""The number of events that may wait for a consumer that is busy; with more, the choices pause."""
_AHEAD_OF_BATCH: Final = 256
"""The same while the consumer waits for a batch, which it takes soon."""
_NOTHING: Final = GenerationEvent(text="")
_MANY: Final = 128
"""A batch of this many events is sent at once, however soon after the last batch."""


@dataclass(frozen=True, slots=True)
class Echo:
    """A prompt that is repeated at the beginning of its answers.

    Attributes:
        text: The prompt's text.
        unseen: The number of the prompt's first tokens that are not part of the text, such as BOS.
    """

    text: str
    unseen: int = 0


class _Status(Enum):
    RUNNING = "running"
    FINISHED = "finished"
    """The consumer gets no more chunks."""
    CLOSED = "closed"
    """Nothing of it runs any more, and `on_end` was called."""


class Generation:
    """Runs the `n` choices of one request; iterate it for batches of chunks, or await `whole`.

    It runs from its creation until its end or `aclose`, which its owner must call. If the consumer
    does not read, it pauses after a few tokens. `abort` may be called at any time: every choice
    that is still running then ends with finish reason ``abort``.

    Args:
        model: The model that answers.
        shape: Builds the response.
        prompts: The token ids of each prompt; a chat has one.
        sampling: The parameters of every choice; the choice's index is filled in.
        plan: How the answers are parsed.
        n: The number of choices for each prompt.
        include_usage: Whether the last chunk is the usage.
        echo: The texts with which the answers of each prompt begin, if any.
        gather_s: The minimum time between two batches in seconds, for a consumer for whom a batch
            costs much more than a chunk. The first, the last and large batches do not wait.
        journal: Whether each chunk has a ``journal``, from which `Delivered` is made: the token ids
            since its choice's last chunk or, if the runtime is not batch-invariant, the text.
        resumption: What was already delivered; the first chunk then has a mark, ``resumed``.
        streamed: Whether its reader gets a stream.
        on_end: Called once when all choices have ended.
    """

    def __init__(
        self,
        model: LoadedModel,
        shape: ResponseShape,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        plan: AnswerPlan,
        n: int,
        *,
        include_usage: bool,
        echo: Sequence[Echo] = (),
        gather_s: float = 0.0,
        journal: bool = False,
        resumption: Resumption | None = None,
        streamed: bool = False,
        on_end: Callable[[Generation], object],
    ) -> None:
        self._model = model
        self._shape = shape
        self._prompts, self._n = prompts, n
        self._include_usage = include_usage
        self.streamed = streamed
        self._on_end = on_end
        self._started = time.monotonic()
        self._events: deque[tuple[int, GenerationEvent]] = deque()
        self._error: BaseException | None = None
        self._ready = asyncio.Event()
        self._space = asyncio.Event()
        self._gather_s = gather_s
        self._taken_at = -math.inf
        self._enough = asyncio.Event()  # set when a batch need not wait for more events
        self._gathering = False
        self._journal = journal
        exact = is_exact(model)
        self._marker = resumption.marker(model) if resumption is not None else None
        self._echoes = [GenerationEvent(text=one.text) for one in echo]
        self._unseen = [one.unseen for one in echo]
        self._runs: list[ChoiceRun] = []
        choices = n * len(prompts)
        for i in range(choices):
            delivered = resumption.choices[i] if resumption is not None else None
            beginning = begin(model, prompts[i // n], replace(sampling, choice=i % n), delivered)
            if sampling.max_tokens == 0 and not sampling.prompt_logprobs:
                beginning = replace(beginning, finish_reason="length")
            self._runs.append(ChoiceRun(plan.parser(shape.id, i), beginning, exact))
            if delivered is not None:
                self._go_on(i, delivered)
            elif self._echoes and not sampling.prompt_logprobs:
                self._events.append((i, self._echo(i)))
        self._status = _Status.RUNNING
        self._tasks = [asyncio.create_task(self._run(i)) for i in range(choices)]
        for i, task in enumerate(self._tasks):
            task.add_done_callback(partial(self._done, i))

    @property
    def request_id(self) -> str:
        """The response's id, by which it can be aborted."""
        return self._shape.id

    @property
    def error(self) -> BaseException | None:
        """What it has failed with, if it has."""
        return self._error

    @property
    def model(self) -> LoadedModel:
        """The model that answers."""
        return self._model

    @property
    def created(self) -> int:
        """The ``created`` of its chunks, in seconds since the epoch."""
        return self._shape.created

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt."""
        return sum(map(len, self._prompts))

    @property
    def completion_tokens(self) -> int:
        """Tokens generated so far, over all choices."""
        return sum(r.stats.completion_tokens if r.stats else self._counted(r) for r in self._runs)

    @property
    def stats(self) -> list[GenerationStats]:
        """The statistics of the choices that have ended."""
        return [r.stats for r in self._runs if r.stats is not None]

    @property
    def waiting(self) -> bool:
        """Whether nothing has been generated yet: it is queued, or its prompt is being read."""
        return all(run.first_at is None and run.stats is None for run in self._runs)

    def abort(self) -> None:
        """End the running choices with finish reason ``abort``."""
        for task in self._tasks:
            task.cancel()

    def fail(self, error: BaseException) -> None:
        """End the request with an error for the consumer."""
        self._error = self._error or error
        self.abort()
        self._ready.set()
        self._enough.set()

    # The choices' side

    def _go_on(self, index: int, delivered: Delivered) -> None:
        """Start a choice after what its reader already has."""
        run = self._runs[index]
        run.begun, run.last_chunk_sent = True, delivered.finish_reason is not None
        run.tokens = run.replay_left = len(delivered.tokens)
        for known in (self._echo(index), GenerationEvent(text=delivered.text)):
            if known.text:
                self._absorb(index, known)
        run.text_without_ids.append(delivered.text)

    async def _run(self, index: int) -> None:
        run = self._runs[index]
        start = run.beginning
        if start.finish_reason is not None:
            stats = self._aborted(run).stats
            self._put(index, GenerationEvent("", finish_reason=start.finish_reason, stats=stats))
            return
        to_replay = run.replay_left
        request_id = f"{self._shape.id}-{index}"
        events = self._model.runtime.generate(start.prompt, start.sampling, request_id=request_id)
        async with contextlib.aclosing(events):
            async for event in events:
                run.first_at = run.first_at or time.monotonic()
                known = min(to_replay, len(event.token_ids))
                to_replay -= known
                run.tokens += len(event.token_ids) - known
                if event.text and not event.token_ids:
                    run.text_without_ids.append(event.text)
                if event.prompt_logprobs:
                    unseen = self._unseen[index // self._n] if self._unseen else 0
                    scores = event.prompt_logprobs[unseen:]
                    self._put(index, replace(self._echo(index), logprobs=scores))
                    event = replace(event, prompt_logprobs=())
                self._put(index, self._counting_all(index, event, start))
                if event.finish_reason is not None:
                    return
                while len(self._events) >= (_AHEAD_OF_BATCH if self._gathering else _AHEAD):
                    self._space.clear()
                    await self._space.wait()
        raise RuntimeError("the runtime ended a generation without a finish reason")

    def _put(self, index: int, event: GenerationEvent) -> None:
        self._runs[index].ended = event.finish_reason is not None
        self._events.append((index, event))
        self._ready.set()
        if event.finish_reason is not None or len(self._events) >= _MANY:
            self._enough.set()

    def _echo(self, index: int) -> GenerationEvent:
        """The event with which a choice begins."""
        return self._echoes[index // self._n] if self._echoes else _NOTHING

    def _counting_all(
        self, index: int, event: GenerationEvent, start: Beginning
    ) -> GenerationEvent:
        """Return the event; in the last one, count delivered tokens as answer, not as prompt."""
        if event.finish_reason is None:
            return event
        if event.stats is None:
            raise RuntimeError("the runtime ended a generation without its stats")
        if not start.delivered:
            return event
        stats = replace(
            event.stats,
            prompt_tokens=len(self._prompts[index // self._n]),
            cached_tokens=min(event.stats.cached_tokens, len(self._prompts[index // self._n])),
            completion_tokens=event.stats.completion_tokens + start.delivered,
        )
        return replace(event, stats=stats)

    def _done(self, index: int, task: asyncio.Task[None]) -> None:
        """Tell the consumer how a choice ended, even if it never began."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error)
        elif not self._runs[index].ended and self._error is None:
            self._put(index, self._aborted(self._runs[index]))

    def _counted(self, run: ChoiceRun) -> int:
        return run.tokens + len(self._model.tokenizer.encode("".join(run.text_without_ids)))

    def _aborted(self, run: ChoiceRun) -> GenerationEvent:
        now = time.monotonic()
        first = run.first_at or now
        stats = GenerationStats(
            prompt_tokens=len(self._prompts[self._runs.index(run) // self._n]),
            cached_tokens=0,
            completion_tokens=self._counted(run),
            queue_s=0.0,
            prefill_s=first - self._started,
            decode_s=now - first,
        )
        return GenerationEvent(text="", finish_reason="abort", stats=stats)

    # The consumer's side

    def __aiter__(self) -> Generation:
        return self

    async def __anext__(self) -> list[JSONDict]:
        if self._status is not _Status.RUNNING:
            raise StopAsyncIteration
        while any(run.stats is None for run in self._runs):
            chunks = self._shape_events(await self._take())
            if chunks:
                return chunks
        self._no_more_chunks()
        used = self._finish()
        await self.aclose()
        if self._include_usage:
            return [self._marked(self._shape.usage_chunk(used))]
        raise StopAsyncIteration

    async def whole(
        self, record: Callable[[list[JSONDict]], Awaitable[None]] | None = None
    ) -> JSONDict:
        """The whole answer in OpenAI's shape.

        Args:
            record: Gets the chunks that a reader of the stream would get.
        """
        try:
            while any(run.stats is None for run in self._runs):
                events = await self._take()
                if record is not None:
                    await record(self._shape_events(events))
                    continue
                for index, event in events:
                    self._absorb(index, event)
            return self._shape.whole([r.choice for r in self._runs], self._finish())
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Stop the running choices and wait until they have stopped. Idempotent."""
        self._no_more_chunks()
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        if self._status is not _Status.CLOSED:
            self._status = _Status.CLOSED
            for run in self._runs:  # count the tokens of choices that were cut short
                run.stats = run.stats or self._aborted(run).stats
            self._on_end(self)

    def _no_more_chunks(self) -> None:
        if self._status is _Status.RUNNING:
            self._status = _Status.FINISHED

    async def _take(self) -> list[tuple[int, GenerationEvent]]:
        """Return all queued events, waiting until there is at least one."""
        while not self._events:
            if self._error is not None:
                await self.aclose()
                raise of_request(self._error, self.request_id)
            self._ready.clear()
            await self._ready.wait()
        if self._gather_s:
            await self._gather()
        events = list(self._events)
        self._events.clear()
        self._space.set()
        return events

    async def _gather(self) -> None:
        loop = asyncio.get_running_loop()
        wait = self._taken_at + self._gather_s - loop.time()
        ending = any(event.finish_reason is not None for _, event in self._events)
        if wait > 0 and len(self._events) < _MANY and not ending:
            self._enough.clear()
            timer = loop.call_later(wait, self._enough.set)
            self._gathering = True
            self._space.set()
            try:
                await self._enough.wait()
            finally:
                self._gathering = False
                timer.cancel()
        self._taken_at = loop.time()

    def _absorb(self, index: int, event: GenerationEvent) -> tuple[Delta, JSONDict | None]:
        """Add an event to its choice; returns the new content, and logprobs in OpenAI's shape."""
        run = self._runs[index]
        delta = run.parser.push(event.text, last=event.finish_reason is not None)
        logprobs = self._shape.logprobs(event.logprobs, run.choice.length)
        run.choice.add(delta, len(event.text), logprobs)
        called = event.finish_reason == "stop" and run.parser.called
        run.choice.finish_reason = "tool_calls" if called else event.finish_reason
        run.stats = event.stats
        return delta, logprobs

    def _shape_events(self, events: Sequence[tuple[int, GenerationEvent]]) -> list[JSONDict]:
        chunks = []
        for index, event in events:
            run = self._runs[index]
            delta, logprobs = self._absorb(index, event)
            last = event.finish_reason is not None
            if run.last_chunk_sent or (run.replay_left > 0 and not last):
                run.replay_left -= len(event.token_ids)
                continue  # the reader already has it
            if self._journal and event is not self._echo(index):
                run.note(event)
            if not delta and not last and logprobs is None:
                continue  # tokens whose text is still held back
            chunk = self._shape.chunk(
                index,
                delta,
                first=not run.begun,
                finish_reason=run.choice.finish_reason,
                logprobs=logprobs,
            )
            if self._journal:
                chunk["journal"] = run.take_journal()
            chunks.append(self._marked(chunk))
            run.begun = True
        return chunks

    def _marked(self, chunk: JSONDict) -> JSONDict:
        """Mark the first chunk after a resumption."""
        if self._marker is not None:
            chunk["resumed"], self._marker = self._marker, None
        return chunk

    def _finish(self) -> JSONDict:
        used = usage(self.stats, time.monotonic() - self._started, n=self._n)
        self._model.last_message = self._runs[0].choice.text
        self._model.last_usage = used
        return used
