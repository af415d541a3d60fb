"""Filters that leave some of the tokens to draw from: top_k, typical_p, top_p and min_p.

They apply in this order, which is llama.cpp's, each to the probabilities that the ones before
leave, renormalised. All of them come after the temperature, as in vLLM, transformers and OpenAI's
API, so that a temperature with top_p means here what it means there; llama.cpp applies the
temperature last by default. vLLM applies min_p before top_k and top_p: the two orders differ only
if min_p is combined with another filter.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from mlc_widget.engine.runtimes.base import Sampling
from mlc_widget.engine.runtimes.tvm.candidates import Candidates
from mlc_widget.engine.runtimes.tvm.largest import largest

Mass = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]

_LIKELY: Final = np.float32(1e-4)
"""Tokens with less than this fraction of the largest probability rarely matter."""
_ROUNDING: Final = 1e-12
"""A bound of the relative difference of float64 sums of the same masses in different orders."""
_FEW: Final = 4096
"""So many tokens are sorted faster than counted."""


def filtered(mass: Mass, sampling: Sampling, count: int | None = None) -> Ids | None:
    """The ids of the tokens to draw from, ascending, at least one, or None for all.

    Args:
        mass: (n,) probabilities of tokens, times any positive factor.
        sampling: The parameters of the filters.
        count: The number of all tokens, if those that are not in `mass` have probability 0.
    """
    ids: Ids | None = None
    if 0 < sampling.top_k < (len(mass) if count is None else count):
        ids = _most_probable(mass, sampling.top_k)
    if sampling.typical_p < 1.0:
        ids = _typical(mass, ids, sampling.typical_p)
    if sampling.top_p < 1.0:
        ids = _nucleus(mass, ids, sampling.top_p)
    if sampling.min_p > 0.0:
        ids = _probable(mass, ids, sampling.min_p)
    return ids


def filtered_candidates(mass: Mass, of: Candidates, sampling: Sampling) -> Ids | None:
    """As `filtered` of all tokens, from those that may be drawn.

    Args:
        mass: (n,) the mass of each candidate.
        of: The candidates.
        sampling: The parameters of the filters, `typical_p` not among them.

    Returns:
        The indices of those to draw from, or None if they cannot be told without the other tokens.
    """
    totals = of.total
    if of.rest == 0:
        total = float(mass.sum(dtype=np.float64))
        totals = total * (1 - _ROUNDING), total * (1 + _ROUNDING)
    for least in (max(of.rest, float(_LIKELY)), of.rest):
        known = np.flatnonzero(mass > least)  # the most probable of all tokens
        ids: Ids | None = None
        if 0 < sampling.top_k < of.count:
            if len(known) < sampling.top_k and least > 0:
                continue
            ids = known[_most_probable(mass[known], sampling.top_k)]
        if sampling.top_p < 1.0:
            if ids is None:
                order = _sorted(mass, known)
                cumulative = np.cumsum(mass[order], dtype=np.float64)
                fewest, most = (_reaching(cumulative, sampling.top_p * t) for t in totals)
                if not fewest == most <= len(order):
                    continue
                ids = np.sort(order[:most])
            else:
                ids = _nucleus(mass, ids, sampling.top_p)
        if sampling.min_p > 0.0:
            if ids is None and np.float32(sampling.min_p) * mass.max(initial=0) <= least:
                continue
            ids = _probable(mass, ids, sampling.min_p)
        return ids
    return None


def _sorted(mass: Mass, ids: Ids) -> Ids:
    """Ascending `ids`, sorted by descending probability, then by ascending id."""
    return ids[np.argsort(-mass[ids], kind="stable")]


def _most_probable(mass: Mass, count: int) -> Ids:
    """The first `count` tokens by descending probability, then by id, that have any."""
    ids = largest(mass, count)
    return ids[mass[ids] > 0]


def _down_to(mass: Mass, least: np.float32, equal: int) -> Ids:
    """The tokens with more probability than `least`, and the first `equal` ones that have it."""
    kept = mass > least
    kept[np.flatnonzero(mass == least)[:equal]] = True
    return np.flatnonzero(kept)


def _nucleus(mass: Mass, ids: Ids | None, top_p: float) -> Ids:
    """The smallest set of most probable tokens, among `ids`, with a mass of at least `top_p`."""
    own = mass if ids is None else mass[ids]
    target = top_p * float(own.sum(dtype=np.float64))
    # A few tokens have nearly all the mass: sort these, and count all only if they do not suffice.
    likely = np.arange(len(own))
    if len(own) > _FEW:
        likely = np.flatnonzero(own > _LIKELY * own.max())
    kept: Ids | None = None
    if len(likely) <= _FEW:
        order = _sorted(own, likely)
        cumulative = np.cumsum(own[order], dtype=np.float64)
        if len(likely) == len(own) or cumulative[-1] >= target:
            kept = np.sort(order[: _reaching(cumulative, target)])
    if kept is None:
        kept = _counted(own, target)
    return kept if ids is None else ids[kept]


def _counted(mass: Mass, target: float) -> Ids:
    """The smallest set of most probable tokens whose mass reaches `target`, without sorting them.

    Positive floats are in the order of their bits, so the least of these masses is found by its
    upper bits first, by the sum of all masses that share them, and then by its lower bits.
    """
    bits = mass.view(np.int32)
    upper, before = _crossing(bits >> 16, mass, 0.0, target)
    inside = np.flatnonzero(bits >> 16 == upper)
    lower, before = _crossing(bits[inside] & 0xFFFF, mass[inside], before, target)
    least = np.int32(upper << 16 | lower).view(np.float32)
    equal = max(1, math.ceil((target - before) / float(least)))
    return _down_to(mass, least, equal)


def _crossing(
    keys: npt.NDArray[np.int32], mass: Mass, before: float, target: float
) -> tuple[int, float]:
    """From the largest key down, the first with whose tokens' mass `before` reaches `target`.

    Returns:
        The key, and `before` with the mass of all larger ones.
    """
    lowest = keys.min()
    sums = np.bincount((keys - lowest).astype(np.int64), weights=mass.astype(np.float64))
    there = np.flatnonzero(sums)[::-1]  # the largest first
    cumulative = np.cumsum(np.append(before, sums[there]))
    at = min(int(np.searchsorted(cumulative[1:], target)), len(there) - 1)
    return int(there[at] + lowest), float(cumulative[at])


def _reaching(cumulative: npt.NDArray[np.float64], target: float) -> int:
    """The number of tokens, at least one, whose cumulative mass reaches `target`."""
    return int(np.searchsorted(cumulative, target, side="left")) + 1


def _typical(mass: Mass, ids: Ids | None, typical_p: float) -> Ids:
    """The tokens whose information is nearest to the entropy, with a mass of at least `typical_p`.

    This is locally typical sampling (Meister et al., 2022).
    """
    ids = np.flatnonzero(mass) if ids is None else ids[mass[ids] > 0]
    p = mass[ids].astype(np.float64)
    p /= p.sum()
    information = -np.log(p)
    distance = np.abs(information - float(np.dot(p, information)))
    order = np.argsort(distance, kind="stable")
    return np.sort(ids[order[: _reaching(np.cumsum(p[order]), typical_p)]])


def _probable(mass: Mass, ids: Ids | None, min_p: float) -> Ids:
    """The tokens with at least the fraction `min_p` of the largest probability."""
    own = mass if ids is None else mass[ids]
    enough = np.flatnonzero(own >= np.float32(min_p) * own.max())
    return enough if ids is None else ids[enough]
