"""From logits to a token, with numpy, reproducibly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from mlc_widget.api.errors import InternalEngineError
from mlc_widget.engine.runtimes.base import Sampling, TokenLogprob

Floats = npt.NDArray[np.float64]


def uniform(seed: int, choice: int, position: int) -> float:
    """A number in [0, 1) that depends on these three alone.

    Philox is counter-based: position counts, seed and choice are the key.
    """
    bits = np.random.Philox(key=[seed, choice], counter=[0, position, 0, 0])
    return float(bits.random_raw(1)[0] >> np.uint64(11)) * 2.0**-53


class Sampler:
    """Chooses the tokens of one generation.

    The logits of a step are changed in this order: repetition penalty (over prompt and answer, as
    transformers does), frequency and presence penalty (over the answer), logit_bias. Then, unless
    the temperature is 0, the softmax of logits / temperature is cut to the smallest set of most
    probable tokens whose mass reaches top_p, and one is drawn by inverting its distribution.
    """

    def __init__(self, sampling: Sampling, prompt: list[int]) -> None:
        self._s = sampling
        self._answer: Counter[int] = Counter()
        self._seen = set(prompt) if sampling.repetition_penalty != 1.0 else set()

    def sample(
        self, logits: npt.NDArray[np.float32], position: int, token_bytes: Callable[[int], bytes]
    ) -> tuple[int, TokenLogprob | None]:
        """Choose the token at `position` of the sequence.

        Args:
            logits: (vocab_size,), not changed.
            position: The token's index in the sequence, prompt included.
            token_bytes: Gives a token's bytes, for logprobs.

        Returns:
            The token and, if asked for, its log-probabilities after penalties and bias.

        Raises:
            InternalEngineError: The logits are not numbers.
        """
        s = self._s
        adjusted = self._adjust(logits)
        best = int(np.argmax(adjusted))
        if not np.isfinite(adjusted[best]):
            raise InternalEngineError(
                "The model's logits are not finite. Its weights are damaged, or of another model."
            )
        token = best if s.temperature == 0 else self._draw(adjusted, position)
        self._answer[token] += 1
        if s.repetition_penalty != 1.0:
            self._seen.add(token)
        if not s.logprobs:
            return token, None
        return token, _logprob(adjusted, token, s.top_logprobs, token_bytes)

    def _adjust(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        s = self._s
        repeats = s.repetition_penalty != 1.0 and self._seen
        counts = (s.frequency_penalty or s.presence_penalty) and self._answer
        if not (repeats or counts or s.logit_bias):
            return logits
        logits = logits.copy()
        if repeats:
            ids = np.fromiter(self._seen, np.int64)
            old = logits[ids]
            p = np.float32(s.repetition_penalty)
            logits[ids] = np.where(old > 0, old / p, old * p)
        if counts:
            ids = np.fromiter(self._answer, np.int64)
            often = np.fromiter(self._answer.values(), np.float32)
            logits[ids] -= often * np.float32(s.frequency_penalty) + np.float32(s.presence_penalty)
        for token, bias in s.logit_bias.items():
            if 0 <= token < len(logits):
                logits[token] += np.float32(bias)
        return logits

    def _draw(self, logits: npt.NDArray[np.float32], position: int) -> int:
        s = self._s
        scaled = logits.astype(np.float64) / s.temperature
        mass = np.exp(scaled - scaled.max())
        u = uniform(s.seed, s.choice, position)
        if s.top_p >= 1.0:
            return _invert(mass, u)
        order = _nucleus(mass, s.top_p)
        return int(order[_invert(mass[order], u)])


def _invert(mass: Floats, u: float) -> int:
    """The first index at which the cumulative mass exceeds the share `u` of it all."""
    cumulative = np.cumsum(mass)
    index = int(np.searchsorted(cumulative, u * cumulative[-1], side="right"))
    return min(index, int(np.flatnonzero(mass)[-1]))


def _nucleus(mass: Floats, top_p: float) -> npt.NDArray[np.int64]:
    """Ids of the smallest set of most probable tokens with a share of at least `top_p`.

    Sorted from the most probable; of equally probable ones the smaller id first.
    """
    # Few tokens carry nearly all mass: sort those, and all only if they are not enough.
    total = float(mass.sum())
    likely = np.flatnonzero(mass > 1e-4 * mass.max())
    for candidates in (likely, np.arange(len(mass))):
        order = candidates[np.argsort(-mass[candidates], kind="stable")]
        cumulative = np.cumsum(mass[order])
        if cumulative[-1] >= top_p * total:
            break
    size = int(np.searchsorted(cumulative, top_p * total, side="left")) + 1
    return order[:size]


def _logprob(
    logits: npt.NDArray[np.float32], token: int, top: int, token_bytes: Callable[[int], bytes]
) -> TokenLogprob:
    wide = logits.astype(np.float64)
    peak = wide.max()
    log_p = wide - (peak + np.log(np.exp(wide - peak).sum()))
    best: list[tuple[int, bytes, float]] = []
    if top:
        part = np.argpartition(-log_p, min(top, len(log_p)) - 1)[:top]
        order = part[np.lexsort((part, -log_p[part]))]
        best = [(int(i), token_bytes(int(i)), float(log_p[i])) for i in order]
    return TokenLogprob(token, token_bytes(token), float(log_p[token]), tuple(best))
