"""The scheduler's state of one generation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Final

from mlc_widget.engine.runtimes.base import (
    FinishReason,
    GenerationEvent,
    GenerationStats,
    Sampling,
    TokenLogprob,
)
from mlc_widget.engine.runtimes.tvm.draws import Draw
from mlc_widget.engine.runtimes.tvm.executor import Logits, Row
from mlc_widget.engine.runtimes.tvm.grammar import Grammar
from mlc_widget.engine.runtimes.tvm.pages import Name
from mlc_widget.engine.runtimes.tvm.sampler import Sampler, logprob_of
from mlc_widget.engine.runtimes.tvm.speculation import Drafter
from mlc_widget.engine.runtimes.tvm.step_inputs import Span
from mlc_widget.engine.text.detokenizer import Detokenizer
from mlc_widget.engine.text.tokenizer import Tokenizer

MAX_UNREAD: Final = 256
"""A sequence that is this many events ahead of its reader is parked; it resumes at half of them."""
MAX_UNREAD_IF_OTHERS_WAIT: Final = 16
"""The same limit while others wait for a place, so that a stopped reader does not delay them."""


class SequenceStatus(Enum):
    """Where a sequence is in its life, which ends in `FINISHED`; the scheduler changes it."""

    WAITING = "waiting"
    """For a place: it has not begun, its pages were taken for others, or its reader caught up."""
    RUNNING = "running"
    """It takes part in steps, and has pages."""
    PARKED = "parked"
    """It is far ahead of its reader, and waits for that without pages."""
    FINISHED = "finished"
    """An event with a finish reason, or an error, was made; or it was cancelled."""


@dataclass(eq=False, slots=True)
class Sequence:
    """A prompt and the tokens generated so far.

    Attributes:
        request_id: The id of its request.
        tokens: The tokens of prompt and answer.
        prompt_tokens: The number of them in the prompt.
        sampling: The sampling parameters.
        deliver: Called with the generation's events, or the error that ends it; from any thread.
        grammar: The grammar that the answer must match, if any.
        pages: The pages that hold its keys and values.
        computed: The number of tokens that have keys and values in the pages.
        parent: The name of the content of its full, published pages (see `PagePool`).
        published: The number of published pages.
        cached: The number of prompt tokens that were in the cache when it was first admitted.
        status: Whether it waits, runs, is parked or has finished.
        posted: The number of events that the scheduler has made.
        taken: The number of events that the reader has taken; only the reader's thread writes it.
        resume_at: A parked sequence resumes when it is at most this far ahead of its reader.
        drafter: Predicts the next tokens.
        scores: The log-probabilities of the prompt's tokens so far, if requested.
    """

    request_id: str
    tokens: list[int]
    prompt_tokens: int
    sampling: Sampling
    max_length: int
    deliver: Callable[[GenerationEvent | BaseException], None]
    detokenizer: Detokenizer
    sampler: Sampler
    token_bytes: Callable[[int], bytes]
    grammar: Grammar | None = None
    pages: list[int] = field(default_factory=list)
    computed: int = 0
    parent: Name = field(init=False)
    published: int = 0
    cached: int | None = None
    status: SequenceStatus = SequenceStatus.WAITING
    posted: int = 0
    taken: int = 0
    resume_at: int = 0
    drafter: Drafter = field(init=False)
    scores: list[TokenLogprob] = field(default_factory=list)
    submitted_at: float = field(default_factory=time.monotonic)
    admitted_at: float | None = None
    first_token_at: float | None = None

    def __post_init__(self) -> None:
        """Let the drafter follow the tokens; no page is published yet."""
        self.parent = self.sampling.cache_salt
        self.drafter = Drafter(self.tokens)

    @property
    def scoring(self) -> bool:
        """Whether log-probabilities of the prompt's tokens are still to come."""
        return self.sampling.prompt_logprobs and len(self.scores) < self.prompt_tokens

    def rows(self, start: int, count: int) -> list[int]:
        """The indices, among `count` tokens from `start`, of those whose logits are needed."""
        last = [count - 1] if start + count == len(self.tokens) else []
        if not self.scoring:
            return last
        # The logits at a token are those of the next token.
        return [*range(min(count, self.prompt_tokens - 1 - start)), *last]

    def score(self, start: int, rows: Iterable[Logits]) -> None:
        """Score tokens of the prompt by (vocab_size,) logits of each token from `start` on.

        Tokens that were scored before a preemption are skipped.
        """
        if not self.scores:
            first = self.tokens[0]
            self.scores.append(TokenLogprob(first, self.token_bytes(first), math.nan))
        for i, row in enumerate(rows):
            if start + i + 1 == len(self.scores):
                token = self.tokens[start + i + 1]
                top = self.sampling.top_logprobs
                self.scores.append(logprob_of(row, token, top, self.token_bytes))

    @property
    def remaining(self) -> int:
        """The number of tokens without keys and values; 1 while decoding."""
        return len(self.tokens) - self.computed

    @property
    def most_drafted(self) -> int:
        """How many tokens may be drafted, so that one can still follow them."""
        limit, s = self.max_length, self.sampling
        if s.max_tokens is not None:
            limit = min(limit, self.prompt_tokens + s.max_tokens)
        return max(0, limit - len(self.tokens) - 1)

    @property
    def unread(self) -> int:
        """The number of events that its reader has not taken."""
        return self.posted - self.taken

    @property
    def caught_up(self) -> bool:
        """Whether a parked sequence can resume."""
        return self.unread <= self.resume_at

    def follow(self, token: int) -> GenerationEvent:
        """Append a token that was chosen in another process; before the sequence is submitted.

        The sequence then continues as if the token had been chosen here.

        Raises:
            InternalEngineError: The grammar does not allow it.
        """
        self.sampler.remember(token)
        self.tokens.append(token)
        if self.grammar is not None:
            self.grammar.accept(token)
        return GenerationEvent(self.detokenizer.push(token), (token,))

    def span(self, start: int, count: int, draft: SequenceOf[int] = ()) -> Span:
        """What to run in a step: `count` tokens from `start` on, and a draft that follows them."""
        tokens = [*self.tokens[start : start + count], *draft]
        rows = [*self.rows(start, count), *range(count, len(tokens))]
        at = None if self.scoring else self.sampler.draws_at(drafted=bool(draft))
        plain = at is None or self.sampler.temperature_suffices
        draws = None if plain else partial(self._draws, draft)
        uniforms = None if self.scoring or draft else self.sampler.uniforms
        return Span(tokens, start, self.pages, rows, at, draws, uniforms)

    def _draws(self, draft: SequenceOf[int], vocab_size: int) -> list[Draw | None]:
        """How to draw the next token, and one after each of the draft; see `Span.draws`."""
        at, draw = len(self.tokens), self.sampler.draw
        return [draw(at + i, vocab_size, draft[:i]) for i in range(len(draft) + 1)]

    def accept(self, logits: Row) -> GenerationEvent:
        """Choose the next token from (vocab_size,) logits, or what suffices in their place.

        Returns:
            The event with the token's text.
        """
        s = self.sampling
        if s.max_tokens == 0:
            return self.finish("length")
        token, logprob = self.sampler.sample(logits, len(self.tokens))
        if self.first_token_at is None:
            self.first_token_at = time.monotonic()
        self.tokens.append(token)
        complete = self.grammar is not None and self.grammar.accept(token)
        if token in s.stop_token_ids and not s.ignore_eos:
            return self.finish("stop", self.detokenizer.flush())
        text = self.detokenizer.push(token)
        logprobs = () if logprob is None else (logprob,)
        if self.detokenizer.stopped:
            return self.finish("stop", text, (token,), logprobs)
        if complete:
            return self.finish("stop", text + self.detokenizer.flush(), (token,), logprobs)
        generated = len(self.tokens) - self.prompt_tokens
        if generated == s.max_tokens or len(self.tokens) >= self.max_length:
            return self.finish("length", text + self.detokenizer.flush(), (token,), logprobs)
        return GenerationEvent(text, (token,), logprobs, self._take_scores())

    def _take_scores(self) -> tuple[TokenLogprob, ...]:
        """Take the prompt's log-probabilities, which are in the first event."""
        first = len(self.tokens) - self.prompt_tokens <= 1
        return tuple(self.scores) if first and not self.sampling.resume else ()

    def finish(
        self,
        reason: FinishReason,
        text: str = "",
        token_ids: tuple[int, ...] = (),
        logprobs: tuple[TokenLogprob, ...] = (),
    ) -> GenerationEvent:
        """Make the generation's last event."""
        self.status = SequenceStatus.FINISHED
        now = time.monotonic()
        admitted = self.admitted_at or now
        first = self.first_token_at or now
        stats = GenerationStats(
            prompt_tokens=self.prompt_tokens,
            cached_tokens=min(self.cached or 0, self.prompt_tokens),
            completion_tokens=len(self.tokens) - self.prompt_tokens,
            queue_s=admitted - self.submitted_at,
            prefill_s=first - admitted,
            decode_s=now - first,
            grammar_init_s=self.grammar.init_s if self.grammar else None,
            grammar_s=self.grammar.seconds if self.grammar else 0.0,
            latency=self.sampler.latency,
            draft_tokens=self.drafter.drafted,
            accepted_draft_tokens=self.drafter.accepted,
        )
        scores = self._take_scores() if reason != "abort" else ()
        return GenerationEvent(text, token_ids, logprobs, scores, reason, stats)


def make_sequence(
    request_id: str,
    prompt: list[int],
    sampling: Sampling,
    tokenizer: Tokenizer,
    max_length: int,
    deliver: Callable[[GenerationEvent | BaseException], None],
    grammar: Grammar | None = None,
) -> Sequence:
    """Make a sequence, which ends at `max_length` tokens at the latest.

    Raises:
        InternalEngineError: The logit processor cannot be made.
    """
    return Sequence(
        request_id=request_id,
        tokens=list(prompt),
        prompt_tokens=len(prompt),
        sampling=sampling,
        max_length=max_length,
        deliver=deliver,
        detokenizer=Detokenizer(tokenizer, sampling.stop),
        sampler=Sampler(sampling, prompt, tokenizer, grammar),
        token_bytes=tokenizer.token_bytes,
        grammar=grammar,
    )
