"""Samples tokens from logits with numpy, reproducibly."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from mlc_widget.api.errors import InternalEngineError
from mlc_widget.api.logit_processor import LogitProcessor
from mlc_widget.engine.runtimes.base import Sampling, TokenLogprob
from mlc_widget.engine.runtimes.tvm.candidates import (
    Best,
    Block,
    Candidates,
    Scored,
)
from mlc_widget.engine.runtimes.tvm.draws import BLOCK, MOST_CHANGES, Changes, Draw, Ids, Values
from mlc_widget.engine.runtimes.tvm.dry import DryPenalty, Vocabulary
from mlc_widget.engine.runtimes.tvm.executor import Row
from mlc_widget.engine.runtimes.tvm.filters import filtered, filtered_candidates
from mlc_widget.engine.runtimes.tvm.grammar import Grammar
from mlc_widget.engine.runtimes.tvm.largest import largest
from mlc_widget.engine.runtimes.tvm.shortlists import shortlists
from mlc_widget.engine.runtimes.tvm.token_counts import TokenCounts

Logits = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
IdsOf = npt.NDArray[np.int64] | None

_MANY: Final = 4096
"""If more tokens are allowed than this, it is faster to keep the others, with mass 0."""

_KEPT: Final = 8
"""The numbers of so many positions are kept, as some are asked for several times."""

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


class Uniforms:
    """Random numbers in [0, 1) that depend only on a seed, a choice and a position.

    They come from Philox, a counter-based generator: seed and choice are the key, and the position
    is the counter.
    """

    def __init__(self, seed: int, choice: int) -> None:
        self._philox = np.random.Philox(key=[seed, choice])
        self._state: Any = self._philox.state
        self._counter = self._state["state"]["counter"]
        self._found: dict[int, tuple[float, float]] = {}

    def at(self, position: int) -> tuple[float, float]:
        """The two numbers of a position."""
        known = self._found.get(position)
        if known is not None:
            return known
        self._counter[:] = 0, position, 0, 0
        self._philox.state = self._state  # a new generator would take four times as long
        first, second = self._philox.random_raw(2).tolist()
        found = (first >> 11) * 2.0**-53, (second >> 11) * 2.0**-53
        if len(self._found) == _KEPT:
            self._found.clear()
        self._found[position] = found
        return found


class _Some(NamedTuple):
    """Some tokens, by their ids, ascending, of a number of tokens."""

    ids: npt.NDArray[np.int64]
    of: int


class Sampler:
    """Chooses the tokens of one generation.

    The logits of a step are changed in this order: the logit processor, the repetition penalty
    (over prompt and answer, as in transformers), frequency and presence penalties (over the
    answer), DRY (over prompt and answer), logit_bias. Tokens that the grammar forbids are left out.
    Unless the temperature is 0, `filtered` then leaves some of the tokens, by the softmax of
    logits / temperature, and one of these is drawn: first one of the blocks of `BLOCK` tokens into
    which the vocabulary is divided, then one of the block's tokens, each by inverting the
    distribution. So only the sums of blocks need be known to choose a block, and only nearly,
    unless the random number is next to the border of two.

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
        self._repeats = sampling.repetition_penalty != 1.0
        self._answer, self._seen = TokenCounts(), TokenCounts(prompt if self._repeats else ())
        bias = {token: b for token, b in sampling.logit_bias.items() if 0 <= token < 2**31}
        self._bias = np.fromiter(bias, np.int32), -np.fromiter(bias.values(), np.float32)
        penalties = self._repeats or sampling.frequency_penalty or sampling.presence_penalty
        self._changes_logits = bool(penalties or self._dry or bias)
        self._random = Uniforms(sampling.seed, sampling.choice)
        self._allowed: Mask | None = None
        self.latency: dict[str, list[float]] | None = (
            {stage: [] for stage in STAGES} if sampling.latency_breakdown else None
        )

    def draws_at(self, *, drafted: bool = False) -> float | None:
        """The temperature of the next draw, if `sample` does not need all logits for it.

        Args:
            drafted: Whether the draws after drafted tokens are meant, too.
        """
        s = self._s
        if self._processor is not None or (s.logprobs and self._grammar is not None):
            return None  # log-probabilities are those before tokens are forbidden
        if drafted and (self._grammar or self._dry or self.latency):
            return None  # these follow the text only once it is there
        return s.temperature if s.temperature == 0 or s.typical_p == 1.0 else None

    @property
    def temperature_suffices(self) -> bool:
        """Whether `draws_at` says all that an executor needs to know, so that `draw` need not."""
        s = self._s
        if self._changes_logits or s.logprobs or self._grammar is not None:
            return False
        return s.temperature == 0 or s.top_p < 1.0 or s.min_p > 0.0

    @property
    def uniforms(self) -> Callable[[int], tuple[float, float]] | None:
        """The random numbers of a position, if these and the temperature say all of its draw."""
        s = self._s
        filters = s.top_k > 0 or s.top_p < 1.0 or s.min_p or s.typical_p != 1.0
        if not s.temperature or filters or s.logprobs or self._processor is not None:
            return None
        return None if self._changes_logits or self._grammar is not None else self._random.at

    def draw(self, position: int, vocab_size: int, drafted: Sequence[int] = ()) -> Draw | None:
        """What an executor needs for the next call of `sample`; only if `draws_at` is a number.

        Args:
            position: As for `sample`.
            vocab_size: The number of logits of a row.
            drafted: Tokens that are to be sampled before.

        Returns:
            It; None if `sample` needs all logits, as they are.
        """
        s, changes = self._s, None
        if self._changes_logits:
            with self._timed("penaltyTime"):
                penalties = self._penalties(drafted)
            less = [*penalties.less, *self._biases(vocab_size)]
            changes = Changes(penalties.penalty, penalties.repeated, less)
            if changes.count > MOST_CHANGES:
                return None
        if self._grammar is not None:
            try:
                with self._timed("grammarBitmaskTime"):
                    self._allowed = self._grammar.allowed(vocab_size)
            except BaseException:  # `sample` will raise it, which fails this generation only
                return None
        at = None
        if s.temperature and not (0 < s.top_k < vocab_size or s.top_p < 1.0 or s.min_p):
            at = self._random.at(position)[1]
        return Draw(s.temperature, at, changes, self._allowed, scored=s.logprobs)

    def sample(self, logits: Row, position: int) -> tuple[int, TokenLogprob | None]:
        """Choose the token at `position` of the sequence.

        Args:
            logits: (vocab_size,) float32; not changed. Or what the executor gives in their place,
                by the last `draw`.
            position: The token's index in the sequence, prompt included.

        Returns:
            The token and, if requested, its log-probabilities after penalties and bias.

        Raises:
            InternalEngineError: The logits are not finite, or the logit processor failed.
        """
        s = self._s
        if isinstance(logits, Scored):
            token = self._sample_of(logits.found, position)
            return token, logprob_of(logits.logits, token, s.top_logprobs, self._token_bytes)
        if not isinstance(logits, np.ndarray):
            return self._sample_of(logits, position), None
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

    def _sample_of(self, found: Best | Candidates | Block, position: int) -> int:
        """As `sample`, where the executor has made the changes of logits."""
        with self._timed("totalTime"):
            if self._grammar is None:
                with self._timed("grammarBitmaskTime"):
                    pass  # so that each token has a time of this stage, as in `sample`
            with self._timed("sampleTime"):
                token = self._choose_of(found, position)
            self.remember(token)
        return token

    def _choose_of(self, found: Best | Candidates | Block, position: int) -> int:
        """Choose a token; only if what was found does not decide on it, by the logits of all."""
        best = found if isinstance(found, Best) else found.best
        if not best.finite:
            raise _not_finite()
        if isinstance(found, Best):
            return best.token
        draw = self._draw_in(found, position) if isinstance(found, Block) else None
        if isinstance(found, Candidates):
            draw = self._draw_of(found, position)
        return self._choose(found.row(), self._allowed, position) if draw is None else draw

    def _draw_of(self, found: Candidates, position: int) -> int | None:
        """As `_draw`; None if the candidates do not decide which tokens the filters leave."""
        if self._s.top_p < 1.0 and self._s.top_p * found.total[1] <= 1.0:
            return found.best.token  # whose mass is 1: it has at least `top_p` of all
        mass = self._mass(found.logits, found.logits.max(initial=-np.inf))
        kept = filtered_candidates(mass, found, self._s)
        if kept is None:
            return None
        ids = found.ids[kept]
        if len(ids) == 1:
            return int(ids[0])
        return int(ids[_invert(mass[kept], *self._random.at(position), ids)])

    def _draw_in(self, found: Block, position: int) -> int | None:
        """As `_draw`; None if it is not sure that the draw falls into this block."""
        if not found.sure:
            return None
        mass = self._mass(found.logits, found.peak)
        u, _ = self._random.at(position)
        return found.start + _invert_block(mass, u) if mass.any() else None

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
        return int(
            ids[0 if len(ids) == 1 else self._pick(logits[ids], position, _Some(ids, len(logits)))]
        )

    def _pick(self, logits: Logits, position: int, some: _Some | None = None) -> int:
        """The index of the chosen token in `logits`, which are those of all tokens, or of some."""
        best = int(np.argmax(logits))
        if not math.isfinite(logits[best]):
            raise _not_finite()
        return best if self._s.temperature == 0 else self._draw(logits, best, position, some)

    def remember(self, token: int) -> None:
        """Note a token that was chosen, here or before this generation was resumed."""
        self._answer.add(token)
        if self._dry is not None:
            self._dry.append(token)
        if self._repeats:
            self._seen.add(token)
        if self._processor is not None:
            self._processor.process_sampled_token(token)

    def _adjust(self, logits: Logits) -> Logits:
        if self._processor is None and not self._changes_logits:
            return logits
        logits = logits.copy()
        if self._processor is not None:
            with self._timed("logitProcessorTime"):
                logits = self._processed(logits)
        with self._timed("penaltyTime"):
            self._penalties().apply(logits)
        with self._timed("logitBiasTime"):
            Changes(less=self._biases(len(logits))).apply(logits)
        return logits

    def _penalties(self, drafted: Sequence[int] = ()) -> Changes:
        """The changes by penalties, `drafted` tokens being counted, too."""
        s, less = self._s, list[tuple[Ids, Values]]()
        if s.frequency_penalty or s.presence_penalty:
            ids, often = self._answer.after(drafted)
            amount = often * np.float32(s.frequency_penalty) + np.float32(s.presence_penalty)
            less.append((ids, amount))
        if self._dry is not None:
            less.append(self._dry.penalties())
        return Changes(
            s.repetition_penalty, self._seen.after(drafted)[0] if self._repeats else (), less
        )

    def _biases(self, vocab_size: int) -> list[tuple[Ids, Values]]:
        """What is subtracted for `logit_bias`."""
        ids, less = self._bias
        known = ids < vocab_size
        return [(ids[known], less[known])] if known.any() else []

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

    def _draw(self, logits: Logits, best: int, position: int, some: _Some | None) -> int:
        s = self._s
        few = s.typical_p == 1.0 and (s.top_k or s.top_p < 1.0 or s.min_p)
        if few and some is None and len(logits) > _MANY:
            [found] = shortlists(logits[None], [s.temperature])
            token = self._draw_of(found, position) if isinstance(found, Candidates) else None
            if token is not None:
                return token
        mass = self._mass(logits, logits[best])
        u = self._random.at(position)
        kept = filtered(mass, s, some and some.of)
        if kept is None:
            return _invert(mass, *u, None if some is None else some.ids)
        ids = kept if some is None else some.ids[kept]
        return int(kept[_invert(mass[kept], *u, ids)])

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


def _invert(mass: Logits, u: float, of_block: float, ids: IdsOf = None) -> int:
    """The index that two random numbers choose from a distribution.

    Args:
        mass: (n,) the masses, of any sum.
        u: Which token of its block, as a fraction of the block's mass.
        of_block: Which block of `BLOCK` tokens, as a fraction of the whole mass.
        ids: (n,) the tokens, ascending, if not all; blocks are those of all tokens.
    """
    if ids is None:
        whole = len(mass) // BLOCK * BLOCK
        sums = mass[:whole].reshape(-1, BLOCK).sum(axis=1, dtype=np.float64)
        sums = np.append(sums, mass[whole:].sum(dtype=np.float64))
    else:
        sums = np.bincount(ids // BLOCK, weights=mass)
    before = sums.cumsum()
    # The first block at which the sum exceeds the fraction; so it has mass.
    block = int(np.searchsorted(before, of_block * before[-1], side="right"))
    bounds = block * BLOCK, (block + 1) * BLOCK
    start, end = bounds if ids is None else np.searchsorted(ids, bounds).tolist()
    return start + _invert_block(mass[start:end], u)


def _invert_block(mass: Logits, u: float) -> int:
    """The first index at which the cumulative mass exceeds the fraction `u` of the sum."""
    cumulative = np.cumsum(mass, dtype=np.float64)
    return int(np.searchsorted(cumulative, u * cumulative[-1], side="right"))


def logprob_of(
    logits: Logits, token: int, top: int, token_bytes: Callable[[int], bytes]
) -> TokenLogprob:
    """The log-probability of a token, and of the `top` most probable ones."""
    peak = logits.max()
    total = float(peak) + math.log(float(np.exp(logits - peak).sum(dtype=np.float64)))
    best: list[tuple[int, bytes, float]] = []
    if top:
        ids = largest(logits, top)
        order = ids[np.argsort(-logits[ids], kind="stable")]
        best = [(int(i), token_bytes(int(i)), float(logits[i]) - total) for i in order]
    return TokenLogprob(token, token_bytes(token), float(logits[token]) - total, tuple(best))
