"""Embeddings: a thread per model runs texts in batches and pools their hidden states."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from mlc_widget.api.errors import EngineDeadError
from mlc_widget.engine.runtimes.base import DeviceUsage
from mlc_widget.engine.runtimes.step_clock import StepClock
from mlc_widget.engine.runtimes.tvm.executor import Executor
from mlc_widget.engine.runtimes.tvm.step_inputs import Span
from mlc_widget.engine.store.fields import Fields
from mlc_widget.engine.store.packed_weights import CopyTask

Pooling: TypeAlias = Literal["cls", "mean", "last"]
Vector: TypeAlias = npt.NDArray[np.float32]
Rows: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class EmbeddingSettings:
    """`embedding_metadata` of mlc-chat-config.json.

    Attributes:
        pooling: How hidden states become a vector: the first one (cls), their mean, or the last.
        normalize: Whether vectors are scaled to length 1.
    """

    pooling: Pooling
    normalize: bool

    @classmethod
    def read(cls, config: Fields, *, encoder: bool) -> EmbeddingSettings:
        """Read the settings; by default, encoders use ``cls`` and decoders ``last``.

        Raises:
            ModelFormatError: A field is wrong.
        """
        fields = config.nested("embedding_metadata")
        default = "cls" if encoder else "last"
        pooling = fields.choice("pooling_strategy", ("cls", "mean", "last"), default)
        return cls(cast("Pooling", pooling), fields.boolean("normalize", default=True))

    def finish(self, total: npt.NDArray[np.float64], tokens: int) -> Vector:
        """Make a vector from the sum of the pooled rows."""
        vector = total / tokens if self.pooling == "mean" else total
        if self.normalize:
            vector = vector / (np.linalg.norm(vector) or 1.0)
        return vector.astype(np.float32)


class TextModel(Protocol):
    """Computes the sums of texts' hidden states, batch by batch."""

    max_rows: int

    def prepare(self) -> None:
        """Get ready, on the thread that will run it."""

    def pooled(
        self, texts: Sequence[Sequence[int]], pooling: Pooling
    ) -> Iterator[list[npt.NDArray[np.float64]]]:
        """Yield the sums of the rows to pool, for each batch of `texts` in order."""


def batches(
    texts: Sequence[Sequence[int]], max_rows: int, max_texts: int
) -> Iterator[Sequence[Sequence[int]]]:
    """Split a list into batches of at most `max_rows` tokens, or of a single longer text."""
    start = rows = 0
    for i, text in enumerate(texts):
        if i > start and (rows + len(text) > max_rows or i - start == max_texts):
            yield texts[start:i]
            start, rows = i, 0
        rows += len(text)
    if start < len(texts):
        yield texts[start:]


def sum_rows(rows: Rows) -> npt.NDArray[np.float64]:
    """Sum row after row, so that the result does not depend on how a text was cut."""
    total = np.zeros(rows.shape[1])
    for row in rows:
        total += row
    return total


class DecoderTexts:
    """A `TextModel` that runs a decoder; long texts are run chunk by chunk."""

    def __init__(self, executor: Executor, max_texts: int) -> None:
        """Take an executor with pages for a text of any length, or for `max_texts` short ones."""
        self._executor, self._max_texts = executor, max_texts
        self.max_rows = executor.max_rows

    def prepare(self) -> None:
        """See `TextModel`."""
        self._executor.prepare()

    def pooled(
        self, texts: Sequence[Sequence[int]], pooling: Pooling
    ) -> Iterator[list[npt.NDArray[np.float64]]]:
        """See `TextModel`."""
        for batch in batches(texts, self.max_rows, self._max_texts):
            if len(batch) == 1:
                total = np.zeros(self._executor.vocab)
                tokens = batch[0]
                for start in range(0, len(tokens), self.max_rows):
                    chunk = tokens[start : start + self.max_rows]
                    wanted = _wanted(pooling, start, len(chunk), len(tokens))
                    rows = self._run([chunk], [wanted], start)
                    for row in rows[: len(wanted)]:
                        total += row
                yield [total]
                continue
            wanted_rows = [_wanted(pooling, 0, len(t), len(t)) for t in batch]
            rows = self._run(batch, wanted_rows, 0)
            ends = np.cumsum([len(w) for w in wanted_rows])
            yield [sum_rows(part) for part in np.split(rows, ends[:-1])]

    def _run(self, texts: Sequence[Sequence[int]], wanted: list[list[int]], start: int) -> Rows:
        spans, page = [], 0
        for tokens, rows in zip(texts, wanted, strict=True):
            count = -(-(start + len(tokens)) // self._executor.page_size)
            spans.append(Span(tokens, start, range(page, page + count), rows))
            page += count
        return cast("Rows", self._executor.run(spans))


def _wanted(pooling: Pooling, start: int, count: int, length: int) -> list[int]:
    """The rows of a chunk that are pooled."""
    if pooling == "mean":
        return list(range(count))
    at = 0 if pooling == "cls" else length - 1
    return [at - start] if start <= at < start + count else []


@dataclass(eq=False, slots=True)
class _Job:
    """One request."""

    texts: Sequence[Sequence[int]]
    deliver: Callable[[list[Vector] | BaseException], None]
    steps: Iterator[list[npt.NDArray[np.float64]]]
    vectors: list[Vector] = field(default_factory=list)
    cancelled: bool = False


class Embedder:
    """Embeds texts on a thread of its own; requests take turns batch by batch.

    `submit`, `cancel` and `stop` may be called from any thread. `run` is the thread's body.

    Attributes:
        vocab_size: The number of tokens in the model's vocabulary.
        context_window: The maximum number of tokens of a text.
        usage: Returns the model's device and its memory now.
        ended: Done when the thread no longer uses the model.
        copying: The thread that copies the weights to the cache, if they were not there.
    """

    def __init__(
        self,
        model: TextModel,
        settings: EmbeddingSettings,
        *,
        vocab_size: int,
        context_window: int,
        usage: Callable[[], DeviceUsage],
    ) -> None:
        self._model, self._settings = model, settings
        self.vocab_size, self.context_window = vocab_size, context_window
        self.usage = usage
        self.ended: Future[None] = Future()
        self.copying: CopyTask | None = None
        self.clock = StepClock()
        self._changed = threading.Condition()
        self._submitted: list[_Job] = []
        self._stopping = False
        self._dead: BaseException | None = None

    def prepare(self) -> None:
        """Get ready, on the thread that will run it."""
        self._model.prepare()

    def end(self) -> None:
        """Do nothing: no other thread runs it."""

    def submit(
        self,
        texts: Sequence[Sequence[int]],
        deliver: Callable[[list[Vector] | BaseException], None],
    ) -> Any:
        """Embed `texts`; `deliver` is called on the thread. Returns an argument for `cancel`.

        Raises:
            EngineDeadError: The thread died or was stopped.
        """
        job = _Job(texts, deliver, self._model.pooled(texts, self._settings.pooling))
        with self._changed:
            if self._stopping or self._dead is not None:
                raise EngineDeadError("The model was unloaded, or its thread died.")
            self._submitted.append(job)
            self._changed.notify_all()
        return job

    def cancel(self, job: Any) -> None:
        """Drop a request after the current batch; it gets no result."""
        job.cancelled = True

    def stop(self) -> None:
        """End the thread; waiting requests get an error."""
        if self.copying is not None:
            self.copying.stop()
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def run(self) -> None:
        """Run until `stop`. After any failure, all requests get an error."""
        jobs: deque[_Job] = deque()
        error: BaseException | None = None
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: jobs or self._submitted or self._stopping)
                    jobs.extend(self._submitted)
                    self._submitted.clear()
                    if self._stopping:
                        break
                with self.clock:
                    if not (jobs[0].cancelled or self._advance(jobs[0])):
                        jobs.append(jobs[0])
                jobs.popleft()
        except BaseException as e:  # every waiting request must get an answer
            error = e
        with self._changed:
            self._dead = error or EngineDeadError("The model was unloaded.")
            jobs.extend(self._submitted)
        for job in jobs:
            if not job.cancelled:
                failed = EngineDeadError("The model was unloaded, or its thread died.")
                failed.__cause__ = error
                job.deliver(failed)
        self._model = cast("TextModel", None)  # frees its memory

    def _advance(self, job: _Job) -> bool:
        """Run one batch of a request; return whether it was the last."""
        try:
            for total in next(job.steps):
                tokens = len(job.texts[len(job.vectors)])
                job.vectors.append(self._settings.finish(total, tokens))
        except StopIteration:
            job.deliver(job.vectors)
            return True
        return False


class EncoderTexts:
    """A `TextModel` that runs an encoder; texts are never cut."""

    def __init__(self, executor: Any, max_texts: int) -> None:
        self._executor, self._max_texts = executor, max_texts
        self.max_rows = executor.max_rows

    def prepare(self) -> None:
        """See `TextModel`."""
        self._executor.prepare()

    def pooled(
        self, texts: Sequence[Sequence[int]], pooling: Pooling
    ) -> Iterator[list[npt.NDArray[np.float64]]]:
        """See `TextModel`."""
        for batch in batches(texts, self.max_rows, self._max_texts):
            states = self._executor.run(batch)
            yield [sum_rows(rows[_wanted(pooling, 0, len(rows), len(rows))]) for rows in states]
