"""Every fault in every phase of a worker's life: nothing is lost, and the notebook goes on."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

if sys.platform != "linux":
    pytest.skip("only Linux can limit another process", allow_module_level=True)
pytest.importorskip("tvm", reason="needs mlc-widget[tvm]")

from ..pages import END
from .bench import FAULTS, PHASES, Bench
from .expected import problem
from .table import BEGIN, PAGE

QUICK = {
    ("loading", "stderr flooded"),
    ("loading", "files removed"),
    ("downloading", "files removed"),
    ("in prefill", "stderr flooded"),
    ("in prefill", "files removed"),
    ("mid-stream", "disk full"),
    ("mid-stream", "native abort"),
    ("between requests", "stderr flooded"),
    ("downloading", "SIGTERM"),
    ("unloading", "files removed"),
    ("unloading", "SIGSEGV"),
    ("terminating", "out of memory"),
}
"""The cells for `make test`: few of them cost the start of a worker."""
CELLS = [
    pytest.param(phase, fault, marks=() if (phase, fault) in QUICK else pytest.mark.soak)
    for phase in PHASES
    for fault in FAULTS
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    yield made
    assert not await made.close(), "files were left behind"


def test_the_page_has_what_became_of_each_fault_in_each_phase() -> None:
    written = PAGE.read_text().partition(BEGIN)[2].partition(END)[0]
    rows = [line for line in written.splitlines() if line.startswith("| **")]
    assert [row.split("**")[1] for row in rows] == list(FAULTS)
    assert all(row.count(" s |") == len(PHASES) for row in rows)


@pytest.mark.parametrize(("phase", "fault"), CELLS)
@pytest.mark.asyncio(loop_scope="module")
async def test_a_fault_in_a_phase(bench: Bench, phase: str, fault: str) -> None:
    assert not problem(phase, fault, await bench.run(phase, fault))
