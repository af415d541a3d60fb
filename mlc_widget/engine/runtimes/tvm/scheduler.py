"""Continuous batching: one thread per model runs step after step while there is work.

A step takes one token of every decoding sequence, with tokens that `speculation` drafts, and prompt
tokens of the others, up to a budget that keeps steps short. Results do not depend on which
sequences share a step, so a sequence can be preempted when pages run out and recomputed later,
without any effect on its text. A sequence whose reader is far behind is parked: it holds no pages,
and others run in its place, until the reader has caught up.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from mlc_widget.api.errors import EngineDeadError, InternalEngineError
from mlc_widget.engine.runtimes.base import GenerationEvent
from mlc_widget.engine.runtimes.step_clock import StepClock
from mlc_widget.engine.runtimes.tvm.executor import Executor, Logits, Span
from mlc_widget.engine.runtimes.tvm.pages import PagePool
from mlc_widget.engine.runtimes.tvm.sequence import (
    MAX_UNREAD,
    MAX_UNREAD_IF_OTHERS_WAIT,
    Sequence,
    SequenceStatus,
)
from mlc_widget.engine.runtimes.tvm.speculation import (
    MOST_SEQUENCES,
    SpeculativeMode,
    Speculator,
)

_SCORED: Final = 32
"""The number of tokens per step of a prompt whose log-probabilities are requested."""

Delivery = tuple[Sequence, GenerationEvent | BaseException]


class Scheduler:
    """Runs sequences on an executor.

    `submit`, `cancel`, `interrupt` and `stop` may be called from any thread; they take effect
    between two steps. `run` is the thread's body.
    """

    def __init__(
        self,
        executor: Executor,
        pool: PagePool,
        *,
        max_sequences: int,
        chunk: int,
        speculative_mode: SpeculativeMode = "auto",
        post: Callable[[list[Delivery]], None],
    ) -> None:
        """Set up a scheduler.

        Args:
            executor: Runs the steps.
            pool: The executor's pages, enough for a sequence of any allowed length.
            max_sequences: The number of sequences that share steps; others wait.
            chunk: The maximum number of tokens of a step, at least `max_sequences`.
            speculative_mode: Whether to draft tokens: ``auto``, where that saves time; ``always``,
                wherever the text repeats itself; or ``disable``.
            post: Called on the scheduler's thread with the events of a step.
        """
        self.executor, self.pool = executor, pool
        self.clock = StepClock()
        self._max_sequences, self._chunk, self._post = max_sequences, chunk, post
        self._speculator = Speculator(speculative_mode)
        self._speculates = speculative_mode != "disable"
        self._changed = threading.Condition()
        self._submitted: list[Sequence] = []
        self._cancelled: set[Sequence] = set()
        self._interrupted: int | None = None  # how many of those submitted an interrupt found
        self._stopping = False
        self._dead: BaseException | None = None
        self._idle = True
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._parked: list[Sequence] = []
        self._out: list[Delivery] = []

    def submit(self, sequence: Sequence) -> None:
        """Accept a sequence.

        Raises:
            EngineDeadError: The thread died or was stopped.
        """
        with self._changed:
            if self._dead is not None:
                raise _dead(self._dead)
            if self._stopping:
                raise EngineDeadError("The model was unloaded.")
            self._submitted.append(sequence)
            self._changed.notify_all()

    def cancel(self, sequence: Sequence) -> None:
        """Drop a sequence without further events; its pages are freed within a step."""
        with self._changed:
            if sequence.status is not SequenceStatus.FINISHED:
                self._cancelled.add(sequence)
                self._changed.notify_all()

    def wake(self, sequence: Sequence) -> None:
        """Continue a parked sequence if its reader has caught up."""
        if sequence.caught_up:
            with self._changed:
                self._changed.notify_all()

    def interrupt(self) -> None:
        """End all current sequences with ``abort``."""
        with self._changed:
            self._interrupted = len(self._submitted)
            self._changed.notify_all()

    def stop(self) -> None:
        """End all sequences with ``abort``, and the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def wait_idle(self, timeout: float) -> bool:
        """Wait until no sequence runs or waits and all pages are released."""
        with self._changed:
            return self._changed.wait_for(
                lambda: (
                    self._dead is not None
                    or (self._idle and not self._submitted and not self._cancelled)
                ),
                timeout,
            )

    def run(self) -> None:
        """Run until `stop`. After any failure, all sequences get an error."""
        try:
            while self._next_commands():
                with self.clock:
                    self._admit()
                    plan = self._plan()
                    if plan:
                        self._step(plan, self._draft(plan))
                    self._flush()
        except BaseException as e:  # every waiting reader must get an answer
            self._die(e)

    # --- called only on the scheduler's thread ----------------------------------------------------

    def _next_commands(self) -> bool:
        """Wait for work and carry out commands; return False to end the thread."""
        with self._changed:
            self._idle = not (self._waiting or self._running or self._parked)
            if self._idle:
                self._changed.notify_all()
        while not self._has_work() and self.executor.settle():
            pass
        with self._changed:
            self._changed.wait_for(self._has_work)
            self._idle = False
            self._unpark()
            submitted, self._submitted = self._submitted, []
            self._waiting.extend(submitted)
            cancelled, self._cancelled = self._cancelled, set()
            found, self._interrupted = self._interrupted, None
            stopping = self._stopping
        came_later = set(submitted if found is None else submitted[found:])
        for sequence in [*self._running, *self._waiting, *self._parked]:
            if sequence in cancelled:
                sequence.status = SequenceStatus.FINISHED
            elif stopping or (found is not None and sequence not in came_later):
                text = sequence.detokenizer.flush()
                self._out.append((sequence, sequence.finish("abort", text)))
        self._sweep()
        self._flush()
        return not stopping

    def _has_work(self) -> bool:
        return bool(
            self._waiting
            or self._running
            or self._submitted
            or self._cancelled
            or self._interrupted is not None
            or self._stopping
            or any(s.caught_up for s in self._parked)
        )

    def _unpark(self) -> None:
        """Queue parked sequences whose readers have caught up, before those that never ran."""
        ready = [s for s in self._parked if s.caught_up]
        self._parked = [s for s in self._parked if s not in ready]
        self._waiting.extendleft(reversed(ready))
        for sequence in ready:
            sequence.status = SequenceStatus.WAITING

    def _park(self) -> None:
        """Park sequences that are far ahead of their readers, sooner if others are waiting."""
        most = MAX_UNREAD_IF_OTHERS_WAIT if self._waiting or self._submitted else MAX_UNREAD
        for sequence in [s for s in self._running if s.unread >= most]:
            sequence.resume_at = most // 2
            self._running.remove(sequence)
            self._give_back(sequence)
            self._parked.append(sequence)
            sequence.status = SequenceStatus.PARKED

    def _admit(self) -> None:
        """Admit waiting sequences, oldest first, while there is room for their prompts."""
        for sequence in list(self._waiting):
            if len(self._running) >= self._max_sequences:
                return
            if self._is_being_computed(sequence):
                continue
            if not self._take_in(sequence):
                return  # a younger sequence must not overtake one that waits for pages

    def _is_being_computed(self, sequence: Sequence) -> bool:
        """Whether a running prompt is about to fill pages that this one can share.

        So a common prefix is computed once for the choices of a request or for several requests.
        """
        if not self.pool.reuse or sequence.scoring:
            return False
        usable = len(sequence.tokens) - 1
        for other in self._running:
            if other.remaining > 1 and usable - other.computed >= self.pool.page_size:
                end = other.computed + self.pool.page_size
                if other.tokens[:end] == sequence.tokens[:end]:
                    return True
        return False

    def _take_in(self, sequence: Sequence) -> bool:
        """Admit a waiting sequence with its cached prefix; return False if it must wait."""
        # Tokens whose log-probabilities are requested must be computed, not taken from the cache.
        match = self.pool.match(sequence.tokens[:1] if sequence.scoring else sequence.tokens)
        size = self.pool.page_size
        needed = len(sequence.tokens) // size + 1 - len(match.pages)
        promised = sum(max(0, len(s.tokens) // size + 1 - len(s.pages)) for s in self._running)
        if needed + promised > self.pool.available and self._running:
            for page in match.pages:
                self.pool.release(page)
            if match.partial is not None:
                self.pool.release(match.partial)
            return False
        self._waiting.remove(sequence)
        sequence.pages = match.pages
        sequence.parent, sequence.published = match.parent, len(match.pages)
        sequence.computed = len(match.pages) * size
        if match.partial is not None:
            copy = self.pool.allocate()
            if copy is not None:
                self.executor.copy_page(match.partial, copy)
                sequence.pages.append(copy)
                sequence.computed += match.partial_tokens
            self.pool.release(match.partial)
        if sequence.admitted_at is None:
            sequence.admitted_at = time.monotonic()
            sequence.cached = sequence.computed
        self._running.append(sequence)
        sequence.status = SequenceStatus.RUNNING
        return True

    def _plan(self) -> list[tuple[Sequence, int]]:
        """The number of tokens of each sequence in the next step, with their pages allocated."""
        budget = self._chunk
        plan: dict[Sequence, int] = {}
        for sequence in self._running:
            if sequence.remaining == 1:
                plan[sequence] = 1
                budget -= 1
        prompts = [s for s in self._running if s.remaining > 1]
        # Give all an equal share first, so that a long prompt does not delay a short one; the
        # oldest then get the rest.
        share = max(self.pool.page_size, budget // max(1, len(prompts)))
        for limit in (share, budget):
            for sequence in prompts:
                taken = plan.get(sequence, 0)
                more = min(limit, sequence.remaining - taken, budget)
                if sequence.scoring:  # each token needs a row of logits, which take a while to read
                    more = min(more, _SCORED - taken)
                if more > 0:
                    plan[sequence] = taken + more
                    budget -= more
        return self._with_pages(plan)

    def _with_pages(self, plan: dict[Sequence, int]) -> list[tuple[Sequence, int]]:
        """Allocate pages, oldest sequence first; if they run out, preempt the youngest."""
        ready: list[tuple[Sequence, int]] = []
        for sequence in list(self._running):
            if sequence not in plan or sequence not in self._running:
                continue
            needed = -(-(sequence.computed + plan[sequence]) // self.pool.page_size)
            while len(sequence.pages) < needed:
                page = self.pool.allocate()
                if page is not None:
                    sequence.pages.append(page)
                elif self._running[-1] is not sequence:
                    self._preempt(self._running[-1])
                elif len(self._running) > 1:
                    self._preempt(sequence)
                    break
                else:
                    raise InternalEngineError("The KV cache is smaller than the context window.")
            else:
                ready.append((sequence, plan[sequence]))
        return ready

    def _preempt(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        self._give_back(sequence)
        self._waiting.appendleft(sequence)
        sequence.status = SequenceStatus.WAITING

    def _draft(self, plan: list[tuple[Sequence, int]]) -> dict[Sequence, list[int]]:
        """Tokens of sequences that decode to be computed in the same step, as far as they fit."""
        if not self._speculates or len(self._running) > MOST_SEQUENCES:
            return {}
        decoding = [s for s, count in plan if count == s.remaining == 1 and not s.scoring]
        for sequence in decoding:
            sequence.drafter.follow(sequence.prompt_tokens)
        drafts = self._speculator.draft(
            [sequence.drafter for sequence in decoding],
            rows=self._chunk - sum(count for _, count in plan),
            mixed=len(decoding) < len(plan),
        )
        fitting = {}
        for sequence, draft in zip(decoding, drafts, strict=True):
            draft = draft[: sequence.most_drafted]
            if fits := self._room(sequence, len(draft)):
                fitting[sequence] = draft[:fits]
        return fitting

    def _room(self, sequence: Sequence, wanted: int) -> int:
        """How many of the `wanted` tokens after a decoding sequence's last one its pages can hold.

        More pages are allocated only if there are enough for everybody.
        """
        while (room := len(sequence.pages) * self.pool.page_size - len(sequence.tokens)) < wanted:
            if self.pool.available <= len(self._running):
                return room
            page = self.pool.allocate()
            assert page is not None
            sequence.pages.append(page)
        return wanted

    def _step(self, plan: list[tuple[Sequence, int]], drafts: dict[Sequence, list[int]]) -> None:
        spans, wanted = [], list[tuple[Sequence, int, int, bool]]()
        for sequence, count in plan:
            start, draft = sequence.computed, drafts.get(sequence, [])
            tokens = [*sequence.tokens[start : start + count], *draft]
            rows = [*sequence.rows(start, count), *range(count, len(tokens))]
            spans.append(Span(tokens, start, sequence.pages, rows))
            wanted.append((sequence, start, len(rows), count == sequence.remaining))
        started = time.perf_counter()
        logits = self.executor.run(spans)
        seconds = time.perf_counter() - started
        for sequence, count in plan:
            sequence.computed += count
            self._publish(sequence)
        at = saved = 0
        for sequence, start, rows_of, complete in wanted:
            own, at = logits[at : at + rows_of], at + rows_of
            try:
                if sequence.scoring:
                    sequence.score(start, own[: len(own) - complete])
                if complete:
                    draft = drafts.get(sequence, [])
                    saved += self._accept(sequence, own[-1 - len(draft) :], draft)
            except BaseException as e:  # it fails this sequence only
                sequence.status = SequenceStatus.FINISHED
                self._out.append((sequence, _failed(e)))
                sequence.posted += 1
        if self._speculates and all(count == 1 for _, count in plan):
            computed = sum(len(span.tokens) for span in spans)
            self._speculator.stepped(computed, seconds, [s.drafter for s, _ in plan], saved)
        self._sweep()
        self._park()

    def _accept(self, sequence: Sequence, logits: Logits, draft: list[int]) -> int:
        """Choose the next tokens of a sequence, as long as they are those of the draft.

        Args:
            sequence: The sequence.
            logits: (1 + len(draft), vocab_size), those at its last token and at each of the draft.
            draft: The drafted tokens.

        Returns:
            The number of drafted tokens that were right.
        """
        right = 0
        sequence.drafter.drafted += len(draft)
        for i, row in enumerate(logits):
            event = sequence.accept(row)
            self._out.append((sequence, event))
            sequence.posted += 1
            if i == len(draft) or event.stats is not None or sequence.tokens[-1] != draft[i]:
                break
            sequence.computed += 1  # the draft's keys and values are those of this token
            self._publish(sequence)
            right += 1
            sequence.drafter.accepted += 1
        return right

    def _sweep(self) -> None:
        """Remove the sequences that have finished."""
        for sequence in self._running:
            if sequence.status is SequenceStatus.FINISHED:
                self._give_back(sequence)
        self._running = _unfinished(self._running)
        self._waiting = deque(_unfinished(self._waiting))
        self._parked = _unfinished(self._parked)

    def _publish(self, sequence: Sequence) -> None:
        """Publish pages that became full, and the beginning of a prompt's last page."""
        if not self.pool.reuse:
            return
        size = self.pool.page_size
        while (sequence.published + 1) * size <= sequence.computed:
            at = sequence.published
            tokens = tuple(sequence.tokens[at * size : (at + 1) * size])
            sequence.parent = self.pool.publish(sequence.pages[at], sequence.parent, tokens)
            sequence.published += 1
        if sequence.computed == sequence.prompt_tokens:
            self._publish_rest(sequence)

    def _publish_rest(self, sequence: Sequence) -> None:
        """Publish the tokens in a sequence's last page."""
        rest = tuple(sequence.tokens[sequence.published * self.pool.page_size : sequence.computed])
        if self.pool.reuse and rest:
            self.pool.publish(sequence.pages[sequence.published], sequence.parent, rest)

    def _give_back(self, sequence: Sequence) -> None:
        self._publish_rest(sequence)
        # Release the end first, so that the end of a text is evicted before its beginning.
        for page in reversed(sequence.pages):
            self.pool.release(page)
        sequence.pages = []
        sequence.computed = sequence.published = sequence.parent = 0

    def _flush(self) -> None:
        if self._out:
            out, self._out = self._out, []
            self._post(out)

    def _die(self, error: BaseException) -> None:
        with self._changed:
            self._dead = error
            everybody = [*self._running, *self._waiting, *self._parked, *self._submitted]
            self._running, self._waiting, self._parked, self._submitted = [], deque(), [], []
            self._changed.notify_all()
        failed = _dead(error)
        self._out += [(s, failed) for s in _unfinished(everybody)]
        for sequence in everybody:
            sequence.status = SequenceStatus.FINISHED
        self._flush()


def _unfinished(sequences: Iterable[Sequence]) -> list[Sequence]:
    return [s for s in sequences if s.status is not SequenceStatus.FINISHED]


def _failed(error: BaseException) -> Exception:
    """An exception for the event loop; an exit or the panic of native code is replaced."""
    if isinstance(error, Exception):
        return error
    failed = InternalEngineError(f"A step failed: {error!r}")
    failed.__cause__ = error
    return failed


def _dead(error: BaseException) -> EngineDeadError:
    dead = EngineDeadError(f"The engine's thread died: {type(error).__name__}: {error}")
    dead.__cause__ = error
    return dead
