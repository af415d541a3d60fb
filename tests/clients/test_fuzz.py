"""Random requests through every public door are all answered; see `fuzz`."""

from __future__ import annotations

from pathlib import Path

import pytest

from .fuzz import DOORS, fuzz

pytest.importorskip("tvm", reason="needs mlc-widget[tvm]")


@pytest.mark.parametrize("door", DOORS)
async def test_a_hundred_random_requests(tiny_model: Path, door: str) -> None:
    run = await fuzz(str(tiny_model), 100, seed=7, doors=(door,))
    assert not run.faults, "\n".join(run.faults)
    assert sum(run.ends.values()) >= 40  # others were cancelled before they began
    assert run.ends[f"{door} answered"]
    assert run.ends[f"{door} refused"]


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("door", DOORS)
async def test_two_thousand_random_requests(tiny_model: Path, door: str) -> None:
    run = await fuzz(str(tiny_model), 2000, seed=1, doors=(door,))
    assert not run.faults, "\n".join(run.faults)
