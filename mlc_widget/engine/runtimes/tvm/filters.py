"""Filters that leave some of the tokens to draw from: top_k, typical_p, top_p and min_p.

They apply in this order, which is llama.cpp's, each to the probabilities that the ones before
leave, renormalised. All of them come after the temperature, as in vLLM, transformers and OpenAI's
API, so that a temperature with top_p means here what it means there; llama.cpp applies the
temperature last by default. vLLM applies min_p before top_k and top_p: the two orders differ only
if min_p is combined with another filter.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from mlc_widget.engine.runtimes.base import Sampling
from mlc_widget.engine.runtimes.tvm.candidates import Candidates

Mass = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]

_LIKELY: Final = np.float32(1e-4)
"""Tokens with less than this fraction of the largest probability rarely matter."""
_ROUNDING: Final = 1e-12
"""A bound of the relative difference of float64 sums of the same masses in different orders."""


def filtered(mass: Mass, sampling: Sampling, count: int | None = None) -> Ids | None:
    """The ids of the tokens to draw from, at least one, or None for all.

    They are sorted by descending probability, then by ascending id.

    Args:
        mass: (n,) probabilities of tokens, times any positive factor.
        sampling: The parameters of the filters.
        count: The number of all tokens, if those that are not in `mass` have probability 0.
    """
    ids: Ids | None = None
    if 0 < sampling.top_k < (len(mass) if count is None else count):
        ids = _most_probable(mass, min(sampling.top_k, len(mass)))
    if sampling.typical_p < 1.0:
        ids = _typical(mass, ids, sampling.typical_p)
    if sampling.top_p < 1.0:
        ids = _nucleus(mass, sampling.top_p) if ids is None else _head(mass, ids, sampling.top_p)
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
        order = _sorted(mass, np.flatnonzero(mass > least))  # the first ones of all tokens
        ids: Ids | None = None
        if 0 < sampling.top_k < of.count:
            if len(order) < sampling.top_k and least > 0:
                continue
            ids = order[: sampling.top_k]
        if sampling.top_p < 1.0:
            if ids is None:
                cumulative = np.cumsum(mass[order], dtype=np.float64)
                fewest, most = (_reaching(cumulative, sampling.top_p * t) for t in totals)
                if not fewest == most <= len(order):
                    continue
                ids = order[:most]
            else:
                ids = _head(mass, ids, sampling.top_p)
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
    least = np.partition(mass, len(mass) - count)[len(mass) - count]
    above, equal = np.flatnonzero(mass > least), np.flatnonzero(mass == least)
    return np.concatenate((_sorted(mass, above), equal[: count - len(above)]))


def _nucleus(mass: Mass, top_p: float) -> Ids:
    """The smallest set of most probable tokens with a mass of at least `top_p`."""
    # A few tokens have nearly all the mass: sort these first, and all only if they do not suffice.
    total = float(mass.sum(dtype=np.float64))
    likely = np.flatnonzero(mass > _LIKELY * mass.max())
    for candidates in (likely, np.arange(len(mass))):
        order = _sorted(mass, candidates)
        cumulative = np.cumsum(mass[order], dtype=np.float64)
        if cumulative[-1] >= top_p * total:
            break
    return order[: _reaching(cumulative, top_p * total)]


def _head(mass: Mass, ids: Ids, top_p: float) -> Ids:
    """As `_nucleus`, among sorted `ids`."""
    cumulative = np.cumsum(mass[ids], dtype=np.float64)
    return ids[: _reaching(cumulative, top_p * float(cumulative[-1]))]


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
    kept = order[: _reaching(np.cumsum(p[order]), typical_p)]
    return _sorted(mass, np.sort(ids[kept]))


def _probable(mass: Mass, ids: Ids | None, min_p: float) -> Ids:
    """The tokens with at least the fraction `min_p` of the largest probability."""
    if ids is None:
        return _sorted(mass, np.flatnonzero(mass >= np.float32(min_p) * mass.max()))
    enough: npt.NDArray[np.bool_] = mass[ids] >= np.float32(min_p) * mass[ids[0]]
    return ids[enough]
