"""Medians, with intervals, and how the benchmarks print them."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence

_RESAMPLES = 2000


def interval(
    values: Sequence[float],
    statistic: Callable[[Sequence[float]], float] = statistics.median,
) -> tuple[float, float]:
    """A 95 % bootstrap interval of a statistic, the same at each run."""
    draw = random.Random(0)
    resampled = sorted(statistic(draw.choices(values, k=len(values))) for _ in range(_RESAMPLES))
    return resampled[int(0.025 * _RESAMPLES)], resampled[int(0.975 * _RESAMPLES)]


def shown(values: Sequence[float], unit: str = "", digits: int = 2) -> str:
    """The median with its interval, as text."""
    low, high = interval(values)
    middle = statistics.median(values)
    text = f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{text} {unit}".rstrip()


def median_of(step: Callable[[], None], repeat: int) -> float:
    """The median of the seconds that a step takes, which waits for its result."""
    times = []
    for _ in range(repeat):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    return statistics.median(times)
