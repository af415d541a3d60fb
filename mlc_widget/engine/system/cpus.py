"""How many CPUs this process may use: its affinity, and the quota of its control group."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_CGROUPS: Final = Path("/sys/fs/cgroup")


def usable_cpus(cgroups: Path = _CGROUPS) -> int:
    """The number of CPUs that this process may use, at least 1.

    A container's limit, such as that of ``docker run --cpus`` or of a Kubernetes pod, is a quota of
    its control group: more threads than that are stopped again and again (Linux, cgroup v2 and v1).

    Args:
        cgroups: Where the control groups' files are.
    """
    try:
        usable = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        usable = os.cpu_count() or 1
    quota = _quota(cgroups)
    return usable if quota is None else max(1, min(usable, round(quota)))


def _quota(cgroups: Path) -> float | None:
    """The quota in CPUs; None without one."""
    try:
        quota, period = (cgroups / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota, period = (
                (cgroups / "cpu" / name).read_text()
                for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            )
        except OSError:
            return None
    try:
        cpus = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):  # "max": no limit
        return None
    return cpus if cpus > 0 else None  # v1 writes -1 for no limit
