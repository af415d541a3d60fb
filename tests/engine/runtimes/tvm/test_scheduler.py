"""A sequence's life in the scheduler, on an executor whose steps the test lets through."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mlc_widget.api.errors import EngineDeadError
from mlc_widget.engine.runtimes.base import Sampling
from mlc_widget.engine.runtimes.tvm import scheduler as scheduling
from mlc_widget.engine.runtimes.tvm.pages import PagePool
from mlc_widget.engine.runtimes.tvm.scheduler import Scheduler
from mlc_widget.engine.runtimes.tvm.sequence import Sequence, SequenceStatus
from tests.waiting import DEADLINE_S, until_blocking

WAITING, RUNNING = SequenceStatus.WAITING, SequenceStatus.RUNNING
PARKED, FINISHED = SequenceStatus.PARKED, SequenceStatus.FINISHED


class Gate:
    """An executor without a model; each step waits until the test lets it through."""

    def __init__(self) -> None:
        self.permits = threading.Semaphore(0)
        self.open = False
        self.steps = 0
        self.error: BaseException | None = None

    def settle(self) -> bool:
        return False

    def run(self, spans: list[Any]) -> Any:
        self.steps += 1
        if not self.open:
            assert self.permits.acquire(timeout=DEADLINE_S), "the test let no step through"
        if self.error is not None:
            raise self.error
        return np.zeros((sum(len(span.logits) for span in spans), 8), np.float32)


class Bench:
    """A scheduler with its thread, and the events that it made."""

    def __init__(self, pages: int = 64, sequences: int = 8) -> None:
        self.gate = Gate()
        self.pool = PagePool(pages, 4, reuse=False)
        self.events: dict[str, list[Any]] = {}
        self.scheduler = Scheduler(
            self.gate,  # type: ignore[arg-type]
            self.pool,
            max_sequences=sequences,
            chunk=64,
            post=self._post,
        )
        self._thread = threading.Thread(target=self.scheduler.run, daemon=True)
        self._thread.start()

    def _post(self, out: list[Any]) -> None:
        for sequence, event in out:
            self.events.setdefault(sequence.request_id, []).append(event)

    def submit(
        self,
        name: str,
        max_tokens: int | None = None,
        prompt: int = 3,
        background: bool = False,
        client: str = "",
    ) -> Sequence:
        sequence = Sequence(
            request_id=name,
            tokens=list(range(prompt)),
            prompt_tokens=prompt,
            sampling=Sampling(
                max_tokens,
                temperature=0.0,
                top_p=1.0,
                seed=0,
                background=background,
                client=client,
            ),
            max_length=4 * self.pool.size,
            deliver=lambda event: None,
            detokenizer=SimpleNamespace(push=lambda _: "x", flush=str, stopped=None),  # type: ignore[arg-type]
            sampler=SimpleNamespace(  # type: ignore[arg-type]
                sample=lambda *_: (1, None), latency=None, draws_at=lambda **_: None, uniforms=None
            ),
            token_bytes=lambda token: b"x",
        )
        self.scheduler.submit(sequence)
        return sequence

    def until_in_step(self, step: int = 1) -> None:
        """Wait until a step has begun, and waits to be let through."""
        until_blocking(lambda: self.gate.steps >= step)

    def let_through(self, steps: int) -> None:
        """Let steps through, and wait for the beginning of the next one."""
        begun = self.gate.steps
        self.gate.permits.release(steps)
        self.until_in_step(begun + steps)

    def run_freely(self) -> None:
        self.gate.open = True
        self.gate.permits.release()

    def until_ended(self, **reasons: str) -> None:
        """Wait until these sequences' readers were told that they have ended, and why."""
        until_blocking(lambda: all(self._reason(name) for name in reasons))
        assert {name: self._reason(name) for name in reasons} == reasons

    def _reason(self, name: str) -> str | None:
        last = self.events.get(name, [None])[-1]
        if isinstance(last, BaseException):
            return type(last).__name__
        return None if last is None else last.finish_reason

    def close(self) -> None:
        self.scheduler.stop()
        self.run_freely()
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()
        assert self.pool.held == 0


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


def test_a_sequence_waits_runs_and_finishes():
    bench = Bench(sequences=1)
    first = bench.submit("first", 2)
    bench.until_in_step()
    second = bench.submit("second", 1)
    assert (first.status, second.status) == (RUNNING, WAITING)
    bench.let_through(2)
    assert (first.status, second.status) == (FINISHED, RUNNING)
    bench.run_freely()
    bench.until_ended(first="length", second="length")
    assert second.status is FINISHED
    bench.close()


def test_an_interrupt_ends_what_is_here_and_nothing_that_comes_later(bench):
    running = bench.submit("running")
    bench.until_in_step()
    submitted = bench.submit("submitted")
    bench.scheduler.interrupt()
    later = bench.submit("later", 2)
    bench.run_freely()
    bench.until_ended(running="abort", submitted="abort", later="length")
    assert {s.status for s in (running, submitted, later)} == {FINISHED}


def test_the_newest_interrupt_counts(bench):
    bench.submit("running")
    bench.until_in_step()
    bench.scheduler.interrupt()
    bench.submit("between")
    bench.scheduler.interrupt()
    bench.run_freely()
    bench.until_ended(running="abort", between="abort")


def test_an_interrupt_of_nothing_spares_what_comes(bench):
    bench.scheduler.interrupt()
    bench.submit("later", 1)
    bench.run_freely()
    bench.until_ended(later="length")


def test_what_is_far_ahead_of_its_reader_is_parked_and_goes_on(bench, monkeypatch):
    monkeypatch.setattr(scheduling, "MAX_UNREAD", 4)
    sequence = bench.submit("slow", 12)
    bench.run_freely()
    until_blocking(lambda: sequence.status is PARKED)
    assert sequence.unread == 4
    assert not sequence.pages
    sequence.taken += 1
    bench.scheduler.wake(sequence)
    assert sequence.status is PARKED  # its reader has not caught up
    sequence.taken += 1
    bench.scheduler.wake(sequence)
    until_blocking(lambda: sequence.posted > 4)
    while sequence.status is not FINISHED:
        sequence.taken = sequence.posted
        bench.scheduler.wake(sequence)
    bench.until_ended(slow="length")


@pytest.mark.parametrize("how", ["cancel", "interrupt", "stop"])
def test_a_parked_sequence_can_be_ended(bench, monkeypatch, how):
    monkeypatch.setattr(scheduling, "MAX_UNREAD", 4)
    sequence = bench.submit("slow")
    bench.run_freely()
    until_blocking(lambda: sequence.status is PARKED)
    if how == "cancel":
        bench.scheduler.cancel(sequence)
        until_blocking(lambda: sequence.status is FINISHED)
        assert len(bench.events["slow"]) == 4  # nobody hears of it
    else:
        getattr(bench.scheduler, how)()
        bench.until_ended(slow="abort")
        assert sequence.status is FINISHED


def test_who_gave_up_its_pages_waits_and_runs_again():
    bench = Bench(pages=4)
    old = bench.submit("old", 10)
    bench.until_in_step()
    young = bench.submit("young", 6)
    bench.let_through(1)
    assert (old.status, young.status) == (RUNNING, RUNNING)
    while young.status is RUNNING:
        bench.let_through(1)
    assert young.status is WAITING
    assert not young.pages
    bench.run_freely()
    bench.until_ended(old="length", young="length")
    bench.close()
    assert len(young.tokens) == 3 + 6


def test_a_thread_that_dies_finishes_everybody(bench):
    running = bench.submit("running")
    bench.until_in_step()
    submitted = bench.submit("submitted")
    bench.gate.error = RuntimeError("broken")
    bench.run_freely()
    bench.until_ended(running="EngineDeadError", submitted="EngineDeadError")
    for sequence in (running, submitted):
        assert sequence.status is FINISHED
        for page in sequence.pages:
            bench.pool.release(page)
    with pytest.raises(EngineDeadError):
        bench.submit("late")


def test_the_background_gives_way_within_a_step() -> None:
    bench = Bench(sequences=2)
    rows = [bench.submit(f"row {i}", 8, background=True) for i in range(4)]
    bench.until_in_step()
    chat = bench.submit("chat", 3)
    bench.let_through(1)
    assert chat.status is RUNNING, "it takes the place of a row in the next step"
    assert [row.status for row in rows] == [RUNNING, WAITING, WAITING, WAITING]
    other = bench.submit("other", 3)
    third = bench.submit("third", 1)
    bench.let_through(1)
    assert [s.status for s in (chat, other, third)] == [RUNNING, RUNNING, WAITING]
    assert [row.status for row in rows] == [WAITING] * 4
    bench.run_freely()
    names = {f"row {i}": "length" for i in range(4)}
    bench.until_ended(chat="length", other="length", third="length", **names)
    assert [len(bench.events[name]) for name in names] == [8] * 4, "no token is lost or made twice"
    bench.close()


def test_the_background_gives_its_pages_up() -> None:
    bench = Bench(pages=8, sequences=8)
    row = bench.submit("row", 8, prompt=20, background=True)
    bench.until_in_step()
    chat = bench.submit("chat", 8, prompt=20)
    bench.let_through(1)
    assert (chat.status, row.status) == (RUNNING, WAITING)
    bench.run_freely()
    bench.until_ended(chat="length", row="length")
    assert len(bench.events["row"]) == 8
    bench.close()


def test_the_prompt_of_the_foreground_comes_first() -> None:
    bench = Bench(pages=256, sequences=8)
    rows = [bench.submit(f"row {i}", 1, prompt=200, background=True) for i in range(2)]
    bench.until_in_step()
    chat = bench.submit("chat", 1, prompt=64)
    bench.let_through(1)
    bench.let_through(1)
    assert chat.status is FINISHED, "a step computes 64 tokens, and they were all its own"
    assert all(row.status is RUNNING for row in rows)
    bench.run_freely()
    bench.until_ended(**{f"row {i}": "length" for i in range(2)})
    bench.close()


def test_a_client_with_many_requests_gives_way_to_one_with_few() -> None:
    bench = Bench(sequences=4)
    many = [bench.submit(f"many {i}", 8, client="flood") for i in range(6)]
    bench.until_in_step()
    few = [bench.submit(f"few {i}", 8, client="other") for i in range(3)]
    bench.let_through(1)
    assert [s.status for s in few] == [RUNNING, RUNNING, WAITING], "half of the four places"
    assert [s.status for s in many] == [RUNNING, RUNNING, *[WAITING] * 4], "the oldest stay"
    third = bench.submit("third", 2, client="third")
    bench.let_through(1)
    assert third.status is RUNNING
    assert sorted(s.status is RUNNING for s in few + many) == [False] * 6 + [True] * 3
    bench.run_freely()
    names = {s.request_id: "length" for s in [*many, *few, third]}
    bench.until_ended(**names)
    assert [len(bench.events[s.request_id]) for s in many] == [8] * 6, "none is lost"
    bench.close()


def test_a_place_that_becomes_free_goes_to_the_client_that_has_least() -> None:
    bench = Bench(sequences=1)
    many = [bench.submit(f"many {i}", 2, client="flood") for i in range(3)]
    bench.until_in_step()
    late = bench.submit("late", 2, client="late")
    bench.let_through(1)
    assert many[0].status is RUNNING, "one place cannot be divided"
    bench.let_through(1)
    assert (late.status, many[1].status) == (RUNNING, WAITING), "but it is taken in turns"
    bench.run_freely()
    bench.until_ended(late="length", **{f"many {i}": "length" for i in range(3)})
    bench.close()


def test_a_client_s_prompts_share_its_part_of_a_step() -> None:
    bench = Bench(pages=256)
    many = [bench.submit(f"many {i}", 1, prompt=200, client="flood") for i in range(4)]
    bench.until_in_step()
    short = bench.submit("short", 1, prompt=32, client="other")
    bench.let_through(1)
    bench.let_through(1)
    assert short.status is FINISHED, "a step computes 64 tokens, and half of them were its own"
    bench.run_freely()
    bench.until_ended(short="length", **{s.request_id: "length" for s in many})
    bench.close()


def test_the_background_of_a_client_gives_way_to_the_foreground_of_another() -> None:
    bench = Bench(sequences=2)
    rows = [bench.submit(f"row {i}", 4, background=True, client="map") for i in range(3)]
    bench.until_in_step()
    chats = [bench.submit(f"chat {i}", 4, client="chat") for i in range(2)]
    bench.let_through(1)
    assert [s.status for s in chats] == [RUNNING, RUNNING]
    bench.run_freely()
    bench.until_ended(**{s.request_id: "length" for s in [*rows, *chats]})
    bench.close()
