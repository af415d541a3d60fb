"""From logits to a token, with numpy, reproducibly."""

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
from mlc_widget.engine.runtimes.tvm.grammar import Grammar

Logits = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_BLOCK: Final = 256
_MANY: Final = 4096
"""With more allowed tokens than this, it is quicker to leave the others in, at zero."""

STAGES = (
    "logitProcessorTime",
    "penaltyTime",
    "logitBiasTime",
    "grammarBitmaskTime",
    "sampleTime",
    "totalTime",
)
"""What `Sampler.latency` tells apart, by WebLLM's names."""

_UNTIMED: Final = nullcontext()


def uniform(seed: int, choice: int, position: int) -> float:
    """A number in [0, 1) that depends on these three alone.

    Philox is counter-based: position counts, seed and choice are the key.
    """
    bits = np.random.Philox(key=[seed, choice], counter=[0, position, 0, 0])
    return float(bits.random_raw(1)[0] >> np.uint64(11)) * 2.0**-53


class Sampler:
    """Chooses the tokens of one generation.

    The logits of a step are changed in this order: the logit processor, repetition penalty (over
    prompt and answer, as transformers does), frequency and presence penalty (over the answer),
    logit_bias. What the grammar forbids is left out. Then, unless the temperature is 0, the softmax
    of logits / temperature is cut to the smallest set of most probable tokens whose mass reaches
    top_p, and one is drawn by inverting its distribution.

    Attributes:
        latency: Seconds of each token by stage, if the sampling asks for it; see `STAGES`.
    """

    def __init__(self, sampling: Sampling, prompt: list[int], grammar: Grammar | None = None):
        self._s = sampling
        self._grammar = grammar
        self._processor = _make_processor(sampling)
        self._answer: Counter[int] = Counter()
        self._seen = set(prompt) if sampling.repetition_penalty != 1.0 else set()
        self.latency: dict[str, list[float]] | None = (
            {stage: [] for stage in STAGES} if sampling.latency_breakdown else None
        )

    def sample(
        self, logits: Logits, position: int, token_bytes: Callable[[int], bytes]
    ) -> tuple[int, TokenLogprob | None]:
        """Choose the token at `position` of the sequence.

        Args:
            logits: (vocab_size,), not changed.
            position: The token's index in the sequence, prompt included.
            token_bytes: Gives a token's bytes, for logprobs.

        Returns:
            The token and, if asked for, its log-probabilities after penalties and bias.

        Raises:
            InternalEngineError: The logits are not numbers, or the logit processor failed.
        """
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
        return token, logprob_of(adjusted, token, s.top_logprobs, token_bytes)

    def _choose(self, logits: Logits, allowed: Mask | None, position: int) -> int:
        if allowed is None:
            return self._pick(logits, position)
        if np.count_nonzero(allowed) > _MANY:
            return self._pick(np.where(allowed, logits, np.float32(-np.inf)), position)
        ids = np.flatnonzero(allowed)
        return int(ids[0 if len(ids) == 1 else self._pick(logits[ids], position)])

    def _pick(self, logits: Logits, position: int) -> int:
        """The index of the chosen one."""
        best = int(np.argmax(logits))
        if not math.isfinite(logits[best]):
            raise InternalEngineError(
                "The logits are not finite. The model's weights are damaged or of another model, "
                "or its logit processor is wrong."
            )
        return best if self._s.temperature == 0 else self._make_plan(logits, best, position)

    def remember(self, token: int) -> None:
        """A token was chosen, here or before this generation was resumed."""
        self._answer[token] += 1
        if self._s.repetition_penalty != 1.0:
            self._seen.add(token)
        if self._processor is not None:
            self._processor.process_sampled_token(token)

    def _adjust(self, logits: Logits) -> Logits:
        s = self._s
        repeats = s.repetition_penalty != 1.0 and self._seen
        counts = (s.frequency_penalty or s.presence_penalty) and self._answer
        if not (self._processor or repeats or counts or s.logit_bias):
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
        with self._timed("logitBiasTime"):
            for token, bias in s.logit_bias.items():
                if 0 <= token < len(logits):
                    logits[token] += np.float32(bias)
        return logits

    def _processed(self, logits: Logits) -> Logits:
        assert self._processor is not None
        try:
            changed = np.asarray(self._processor.process_logits(logits), np.float32)
        except BaseException as e:  # an exit is not for it to ask for
            raise InternalEngineError(f"The logit processor failed: {e!r}") from e
        if changed.shape != logits.shape:
            raise InternalEngineError(
                f"The logit processor returned logits of shape {changed.shape}, not {logits.shape}."
            )
        return changed

    def _make_plan(self, logits: Logits, best: int, position: int) -> int:
        s = self._s
        mass = logits - logits[best]
        mass *= np.float32(1 / s.temperature)
        np.exp(mass, out=mass)
        u = uniform(s.seed, s.choice, position)
        if s.top_p >= 1.0:
            return _invert(mass, u)
        order = _nucleus(mass, s.top_p)
        return int(order[_invert(mass[order], u)])

    def _timed(self, stage: str) -> AbstractContextManager[None]:
        return _UNTIMED if self.latency is None else _timed(self.latency[stage])


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
    except BaseException as e:  # an exit is not for it to ask for
        raise InternalEngineError(f"The logit processor cannot be made: {e!r}") from e


def _invert(mass: Logits, u: float) -> int:
    """The first index at which the cumulative mass exceeds the share `u` of it all.

    Blocks are summed first: a running sum over a whole vocabulary would take longer than all else.
    """
    whole = len(mass) // _BLOCK * _BLOCK
    sums = mass[:whole].reshape(-1, _BLOCK).sum(axis=1, dtype=np.float64)
    before = np.concatenate(([0.0], sums, [mass[whole:].sum(dtype=np.float64)])).cumsum()
    target = u * before[-1]
    block = min(int(np.searchsorted(before, target, side="right")) - 1, len(before) - 2)
    start = block * _BLOCK
    cumulative = np.cumsum(mass[start : start + _BLOCK], dtype=np.float64)
    index = start + int(np.searchsorted(cumulative, target - before[block], side="right"))
    # Rounding may lead to the end of a block, where what follows has no mass.
    if index >= min(start + _BLOCK, len(mass)) or not mass[index]:
        index = int(np.flatnonzero(mass[: index + 1] if index < len(mass) else mass)[-1])
    return index


def _nucleus(mass: Logits, top_p: float) -> Ids:
    """Ids of the smallest set of most probable tokens with a share of at least `top_p`.

    Sorted from the most probable; of equally probable ones the smaller id first.
    """
    # Few tokens carry nearly all mass: sort those, and all only if they are not enough.
    total = float(mass.sum(dtype=np.float64))
    likely = np.flatnonzero(mass > np.float32(1e-4) * mass.max())
    for candidates in (likely, np.arange(len(mass))):
        order = candidates[np.argsort(-mass[candidates], kind="stable")]
        cumulative = np.cumsum(mass[order], dtype=np.float64)
        if cumulative[-1] >= top_p * total:
            break
    size = int(np.searchsorted(cumulative, top_p * total, side="left")) + 1
    return order[:size]


def logprob_of(
    logits: Logits, token: int, top: int, token_bytes: Callable[[int], bytes]
) -> TokenLogprob:
    """A token's log-probability, and those of the `top` most probable ones."""
    peak = logits.max()
    total = float(peak) + math.log(float(np.exp(logits - peak).sum(dtype=np.float64)))
    best: list[tuple[int, bytes, float]] = []
    if top:
        part = np.argpartition(-logits, min(top, len(logits)) - 1)[:top]
        order = part[np.lexsort((part, -logits[part]))]
        best = [(int(i), token_bytes(int(i)), float(logits[i]) - total) for i in order]
    return TokenLogprob(token, token_bytes(token), float(logits[token]) - total, tuple(best))
