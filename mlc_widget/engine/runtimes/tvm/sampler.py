"""Samples tokens from logits with numpy, reproducibly."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final

import numpy as np
import numpy.typing as npt

from mlc_widget.api.errors import InternalEngineError
from mlc_widget.api.logit_processor import LogitProcessor
from mlc_widget.engine.runtimes.base import Sampling, TokenLogprob
from mlc_widget.engine.runtimes.tvm.candidates import Best, Candidates
from mlc_widget.engine.runtimes.tvm.dry import DryPenalty, Vocabulary
from mlc_widget.engine.runtimes.tvm.executor import Row
from mlc_widget.engine.runtimes.tvm.filters import filtered, filtered_candidates
from mlc_widget.engine.runtimes.tvm.grammar import Grammar

Logits = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

_BLOCK: Final = 256
_MANY: Final = 4096
"""If more tokens are allowed than this, it is faster to keep the others, with mass 0."""

STAGES = (
    "logitProcessorTime",
    "penaltyTime",
    "logitBiasTime",
    "grammarBitmaskTime",
    "sampleTime",
    "totalTime",
)
"""The stages that `Sampler.latency` distinguishes, by WebLLM's names."""

_UNTIMED: Final = nullcontext()


def uniform(seed: int, choice: int, position: int) -> float:
    """A random number in [0, 1) that depends only on these three.

    It comes from Philox, a counter-based generator: `seed` and `choice` are the key, and `position`
    is the counter.
    """
    bits = np.random.Philox(key=[seed, choice], counter=[0, position, 0, 0])
    return float(bits.random_raw(1)[0] >> np.uint64(11)) * 2.0**-53


class Sampler:
    """Chooses the tokens of one generation.

    The logits of a step are changed in this order: the logit processor, the repetition penalty
    (over prompt and answer, as in transformers), frequency and presence penalties (over the
    answer), DRY (over prompt and answer), logit_bias. Tokens that the grammar forbids are left out.
    Unless the temperature is 0, `filtered` then leaves some of the tokens, by the softmax of
    logits / temperature, and one of these is drawn by inverting their distribution.

    Attributes:
        latency: The seconds that each token took in each of the `STAGES`, if requested.
    """

    def __init__(
        self,
        sampling: Sampling,
        prompt: list[int],
        vocabulary: Vocabulary,
        grammar: Grammar | None = None,
    ) -> None:
        self._s = sampling
        self._grammar = grammar
        self._token_bytes = vocabulary.token_bytes
        self._dry = DryPenalty(sampling, prompt, vocabulary) if sampling.dry_multiplier else None
        self._processor = _make_processor(sampling)
        self._answer: Counter[int] = Counter()
        self._seen = set(prompt) if sampling.repetition_penalty != 1.0 else set()
        self.latency: dict[str, list[float]] | None = (
            {stage: [] for stage in STAGES} if sampling.latency_breakdown else None
        )

    @property
    def draws_at(self) -> float | None:
        """The temperature of the next draw, if `sample` does not need all logits for it."""
        s = self._s
        changes = s.logit_bias or self._processor is not None or self._dry is not None
        penalties = s.repetition_penalty != 1.0 or s.frequency_penalty or s.presence_penalty
        if changes or penalties or s.logprobs or self._grammar is not None:
            return None
        filters = s.top_k or s.top_p < 1.0 or s.min_p
        return s.temperature if s.temperature == 0 or (filters and s.typical_p == 1.0) else None

    def sample(self, logits: Row, position: int) -> tuple[int, TokenLogprob | None]:
        """Choose the token at `position` of the sequence.

        Args:
            logits: (vocab_size,) float32; not changed. Or, if `draws_at` is a number, what the
                executor gives in their place.
            position: The token's index in the sequence, prompt included.

        Returns:
            The token and, if requested, its log-probabilities after penalties and bias.

        Raises:
            InternalEngineError: The logits are not finite, or the logit processor failed.
        """
        if isinstance(logits, Best | Candidates):
            return self._sample_of(logits, position), None
        s = self._s
        with self._timed("totalTime"):
            adjusted = self._adjust(logits)
            with self._timed("grammarBitmaskTime"):
                allowed = None if self._grammar is None else self._grammar.allowed(len(logits))
            with self._timed("sampleTime"):
                token = self._choose(adjusted, allowed, position)
            self.remember(token)
        if not s.logprobs:
            return token, None
        return token, logprob_of(adjusted, token, s.top_logprobs, self._token_bytes)

    def _sample_of(self, found: Best | Candidates, position: int) -> int:
        """As `sample`, where `draws_at` is a number: there are no changes of logits, no grammar."""
        with self._timed("totalTime"):
            with self._timed("grammarBitmaskTime"):
                pass  # so that each token has a time of this stage, as in `sample`
            with self._timed("sampleTime"):
                token = self._choose_of(found, position)
            self.remember(token)
        return token

    def _choose_of(self, found: Best | Candidates, position: int) -> int:
        """Choose a token; only if candidates do not decide on it, by the logits of all."""
        best = found if isinstance(found, Best) else found.best
        if not best.finite:
            raise _not_finite()
        if isinstance(found, Best):
            return best.token
        token = self._draw_of(found, position)
        return self._pick(found.row(), position) if token is None else token

    def _draw_of(self, found: Candidates, position: int) -> int | None:
        """As `_draw`; None if the candidates do not decide which tokens the filters leave."""
        s = self._s
        mass = self._mass(found.logits, found.logits.max(initial=-np.inf))
        order = filtered_candidates(mass, found, s)
        if order is None:
            return None
        u = uniform(s.seed, s.choice, position)
        return int(found.ids[order[_invert(mass[order], u)]])

    def _mass(self, logits: Logits, best: np.float32) -> Logits:
        """The probabilities of tokens, relative to that of the best."""
        mass: Logits = logits - best
        mass *= np.float32(1 / self._s.temperature)
        np.exp(mass, out=mass)
        return mass

    def _choose(self, logits: Logits, allowed: Mask | None, position: int) -> int:
        if allowed is None:
            return self._pick(logits, position)
        if np.count_nonzero(allowed) > _MANY:
            return self._pick(np.where(allowed, logits, np.float32(-np.inf)), position)
        ids = np.flatnonzero(allowed)
        return int(ids[0 if len(ids) == 1 else self._pick(logits[ids], position)])

    def _pick(self, logits: Logits, position: int) -> int:
        """The index of the chosen token in `logits`."""
        best = int(np.argmax(logits))
        if not math.isfinite(logits[best]):
            raise _not_finite()
        return best if self._s.temperature == 0 else self._draw(logits, best, position)

    def remember(self, token: int) -> None:
        """Note a token that was chosen, here or before this generation was resumed."""
        self._answer[token] += 1
        if self._dry is not None:
            self._dry.append(token)
        if self._s.repetition_penalty != 1.0:
            self._seen.add(token)
        if self._processor is not None:
            self._processor.process_sampled_token(token)

    def _adjust(self, logits: Logits) -> Logits:
        s = self._s
        repeats = s.repetition_penalty != 1.0 and self._seen
        counts = (s.frequency_penalty or s.presence_penalty) and self._answer
        if not (self._processor or repeats or counts or self._dry or s.logit_bias):
            return logits
        logits = logits.copy()
        if self._processor is not None:
            with self._timed("logitProcessorTime"):
                logits = self._processed(logits)
        with self._timed("penaltyTime"):
            if repeats:
                ids = np.fromiter(self._seen, np.int64)
                old = logits[ids]
                p = np.float32(s.repetition_penalty)
                logits[ids] = np.where(old > 0, old / p, old * p)
            if counts:
                ids = np.fromiter(self._answer, np.int64)
                often = np.fromiter(self._answer.values(), np.float32)
                logits[ids] -= often * np.float32(s.frequency_penalty) + np.float32(
                    s.presence_penalty
                )
            if self._dry is not None:
                self._dry.apply(logits)
        with self._timed("logitBiasTime"):
            for token, bias in s.logit_bias.items():
                if 0 <= token < len(logits):
                    logits[token] += np.float32(bias)
        return logits

    def _processed(self, logits: Logits) -> Logits:
        assert self._processor is not None
        try:
            changed = np.asarray(self._processor.process_logits(logits), np.float32)
        except BaseException as e:  # even SystemExit must not end the thread
            raise InternalEngineError(f"The logit processor failed: {e!r}") from e
        if changed.shape != logits.shape:
            raise InternalEngineError(
                f"The logit processor returned logits of shape {changed.shape}, not {logits.shape}."
            )
        return changed

    def _draw(self, logits: Logits, best: int, position: int) -> int:
        s = self._s
        mass = self._mass(logits, logits[best])
        u = uniform(s.seed, s.choice, position)
        order = filtered(mass, s)
        return _invert(mass, u) if order is None else int(order[_invert(mass[order], u)])

    def _timed(self, stage: str) -> AbstractContextManager[None]:
        return _UNTIMED if self.latency is None else _timed(self.latency[stage])


def _not_finite() -> InternalEngineError:
    return InternalEngineError(
        "The logits are not finite. The model's weights are damaged or belong to another model, or "
        "its logit processor is wrong."
    )


@contextmanager
def _timed(times: list[float]) -> Iterator[None]:
    started = time.perf_counter()
    yield
    times.append(time.perf_counter() - started)


def _make_processor(sampling: Sampling) -> LogitProcessor | None:
    if sampling.logit_processor is None:
        return None
    try:
        return sampling.logit_processor()
    except BaseException as e:  # even SystemExit must not end the thread
        raise InternalEngineError(f"The logit processor cannot be made: {e!r}") from e


def _invert(mass: Logits, u: float) -> int:
    """The first index at which the cumulative mass exceeds the fraction `u` of the total.

    Blocks are summed first, since a running sum over a whole vocabulary would be slow.
    """
    whole = len(mass) // _BLOCK * _BLOCK
    sums = mass[:whole].reshape(-1, _BLOCK).sum(axis=1, dtype=np.float64)
    before = np.concatenate(([0.0], sums, [mass[whole:].sum(dtype=np.float64)])).cumsum()
    target = u * before[-1]
    block = min(int(np.searchsorted(before, target, side="right")) - 1, len(before) - 2)
    start = block * _BLOCK
    cumulative = np.cumsum(mass[start : start + _BLOCK], dtype=np.float64)
    index = start + int(np.searchsorted(cumulative, target - before[block], side="right"))
    # Because of rounding, the index may be at the end of a block, after the last token with mass.
    if index >= min(start + _BLOCK, len(mass)) or not mass[index]:
        index = int(np.flatnonzero(mass[: index + 1] if index < len(mass) else mass)[-1])
    return index


def logprob_of(
    logits: Logits, token: int, top: int, token_bytes: Callable[[int], bytes]
) -> TokenLogprob:
    """The log-probability of a token, and of the `top` most probable ones."""
    peak = logits.max()
    total = float(peak) + math.log(float(np.exp(logits - peak).sum(dtype=np.float64)))
    best: list[tuple[int, bytes, float]] = []
    if top:
        part = np.argpartition(-logits, min(top, len(logits)) - 1)[:top]
        order = part[np.lexsort((part, -logits[part]))]
        best = [(int(i), token_bytes(int(i)), float(logits[i]) - total) for i in order]
    return TokenLogprob(token, token_bytes(token), float(logits[token]) - total, tuple(best))
