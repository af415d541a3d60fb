"""Continuous batching: one thread per model runs step after step while there is work.

A step takes one token of every decoding sequence, with tokens that `drafting` adds, and prompt
tokens of the others, up to a budget that keeps steps short. Results do not depend on which
sequences share a step, so a sequence can be preempted when pages run out and recomputed later,
without any effect on its text. Those in the background give way to others: they wait behind them,
and are preempted for them, which costs little, as their pages stay in the cache. So do sequences of
a client that has more of them than another one that waits (`turns`). A sequence whose reader is far
behind is parked: it holds no pages, and others run in its place, until the reader has caught up.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, cast

from mlc_widget.api.errors import EngineDeadError, InternalEngineError
from mlc_widget.engine.runtimes.base import GenerationEvent
from mlc_widget.engine.runtimes.step_clock import StepClock
from mlc_widget.engine.runtimes.tvm.drafting import Drafting
from mlc_widget.engine.runtimes.tvm.executor import Executor, Logits, Rows
from mlc_widget.engine.runtimes.tvm.pages import PagePool
from mlc_widget.engine.runtimes.tvm.sequence import (
    MAX_UNREAD,
    MAX_UNREAD_IF_OTHERS_WAIT,
    Sequence,
    SequenceStatus,
)
from mlc_widget.engine.runtimes.tvm.sequence_pages import SequencePages
from mlc_widget.engine.runtimes.tvm.speculation import SpeculativeMode
from mlc_widget.engine.runtimes.tvm.turns import gives_way, in_turns, shares

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
            speculative_mode: Whether to draft tokens; see `Drafting`.
            post: Called on the scheduler's thread with the events of a step.
        """
        self.executor, self.pool = executor, pool
        self.clock = StepClock()
        self._max_sequences, self._chunk, self._post = max_sequences, chunk, post
        self._pages = SequencePages(pool, executor)
        self._drafting = Drafting(speculative_mode, self._pages, chunk)
        self._changed = threading.Condition()
        self._submitted: list[Sequence] = []
        self._cancelled: set[Sequence] = set()
        self._interrupted: int | None = None  # of those submitted, how many an interrupt is for
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
                        self._step(plan, self._drafting.draft(plan, len(self._running)))
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
            self._order_waiting()
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

    def _order_waiting(self) -> None:
        """Have clients take turns, and put those in the background behind the others."""
        self._waiting = deque(in_turns(self._waiting, self._running))

    def _park(self) -> None:
        """Park sequences that are far ahead of their readers, sooner if others are waiting."""
        most = MAX_UNREAD_IF_OTHERS_WAIT if self._waiting or self._submitted else MAX_UNREAD
        for sequence in [s for s in self._running if s.unread >= most]:
            sequence.resume_at = most // 2
            self._running.remove(sequence)
            self._pages.give_back(sequence)
            self._parked.append(sequence)
            sequence.status = SequenceStatus.PARKED

    def _admit(self) -> None:
        """Admit waiting sequences, by turns, while there is room for their prompts."""
        self._order_waiting()  # some may have finished
        for sequence in list(self._waiting):
            full = len(self._running) >= self._max_sequences
            if full and not self._must_give_way(sequence):
                return
            if self._pages.is_being_computed(sequence, self._running):
                continue
            if full:
                self._preempt(self._running[-1])
            while not self._take_in(sequence):
                if not self._must_give_way(sequence):
                    return  # a younger sequence must not overtake one that waits for pages
                self._preempt(self._running[-1])

    def _must_give_way(self, sequence: Sequence) -> bool:
        """Whether the last running sequence is to make room for this one."""
        return gives_way(self._running[-1], sequence, self._running)

    def _take_in(self, sequence: Sequence) -> bool:
        """Admit a waiting sequence with its cached prefix; return False if it must wait."""
        if not self._pages.take_prefix(sequence, self._running):
            return False
        self._waiting.remove(sequence)
        if sequence.admitted_at is None:
            sequence.admitted_at = time.monotonic()
            sequence.cached = sequence.computed
        self._running.append(sequence)
        # The last is the first to be preempted: one in the background, or of who has most.
        self._running = in_turns(self._running)
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
        for background in (False, True):
            prompts = [
                s for s in self._running if s.remaining > 1 and s.sampling.background is background
            ]
            # Give all an equal share first, so that a long prompt does not delay a short one; the
            # oldest then get the rest.
            first = shares(prompts, budget)
            for the_rest in (False, True):
                for sequence in prompts:
                    taken = plan.get(sequence, 0)
                    limit = budget if the_rest else max(self.pool.page_size, first[sequence])
                    more = min(limit, sequence.remaining - taken, budget)
                    if sequence.scoring:  # each needs a row of logits, which take a while to read
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
            while not self._pages.hold(sequence, sequence.computed + plan[sequence]):
                if self._running[-1] is not sequence:
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
        self._pages.give_back(sequence)
        self._waiting.appendleft(sequence)
        self._order_waiting()
        sequence.status = SequenceStatus.WAITING

    def _step(self, plan: list[tuple[Sequence, int]], drafts: dict[Sequence, list[int]]) -> None:
        spans, wanted = [], list[tuple[Sequence, int, int, bool]]()
        for sequence, count in plan:
            start, draft = sequence.computed, drafts.get(sequence, [])
            spans.append(span := sequence.span(start, count, draft))
            wanted.append((sequence, start, len(span.logits), count == sequence.remaining))
        started = time.perf_counter()
        logits = self.executor.run(spans)
        seconds = time.perf_counter() - started
        for sequence, count in plan:
            sequence.computed += count
            self._pages.publish(sequence)
        at = saved = 0
        for sequence, start, rows_of, complete in wanted:
            own, at = logits[at : at + rows_of], at + rows_of
            try:
                if sequence.scoring:
                    sequence.score(start, cast("Iterable[Logits]", own[: len(own) - complete]))
                if complete:
                    draft = drafts.get(sequence, [])
                    saved += self._accept(sequence, own[-1 - len(draft) :], draft)
            except BaseException as e:  # it fails this sequence only
                sequence.status = SequenceStatus.FINISHED
                self._out.append((sequence, _failed(e)))
                sequence.posted += 1
        computed = sum(len(span.tokens) for span in spans)
        self._drafting.stepped(plan, computed, seconds, saved)
        self._sweep()
        self._park()

    def _accept(self, sequence: Sequence, logits: Rows, draft: list[int]) -> int:
        """Choose the next tokens of a sequence, as long as they are those of the draft.

        Args:
            sequence: The sequence.
            logits: (1 + len(draft), vocab_size), those at its last token and at each of the draft,
                or what suffices in their place.
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
            self._pages.publish(sequence)
            right += 1
            sequence.drafter.accepted += 1
        return right

    def _sweep(self) -> None:
        """Remove the sequences that have finished."""
        for sequence in self._running:
            if sequence.status is SequenceStatus.FINISHED:
                self._pages.give_back(sequence)
        self._running = _unfinished(self._running)
        self._waiting = deque(_unfinished(self._waiting))
        self._parked = _unfinished(self._parked)

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
