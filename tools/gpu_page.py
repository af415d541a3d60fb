"""Run the GPU tests and benchmarks on this machine, and print what they say as a page of Markdown.

    python tools/gpu_page.py [--shapes 1B 8B] > page.md

It needs an NVIDIA GPU, the package with its ``cuda`` extra, and pytest. The page names the card.
With pytest-xdist, several processes run the tests; a second GPU is tested where there is one. Where
CUDA's compute-sanitizer is installed, it meanwhile watches a test of each kind of kernel written by
hand: for wrong addresses (memcheck), wrong use of barriers (synccheck), and threads of a block that
do not wait for one another's shared memory (racecheck). All takes 7 minutes on an H200 and 16
cores. The exit status is not 0 if a test, the sanitizer or the benchmark fails.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
TESTS = REPOSITORY / "tests/engine/runtimes/tvm"
GPU_TESTS = [*sorted(map(str, TESTS.glob("test_cuda*.py"))), str(TESTS / "test_families.py")]
CUDA = TESTS / "test_cuda.py"
LAYERS = (
    # layers of few rows, whose weights are copied ahead, and of many, by warpgroups on Hopper
    f"{CUDA}::test_a_layer_gives_rows_the_same_bits_among_any_number_on_a_gpu[1024-128-4-options0]",
    # the same of one row by two blocks of a multiprocessor
    f"{CUDA}::test_a_layer_gives_rows_the_same_bits_among_any_number_on_a_gpu[4096-4096-4-options13]",
    # the same with a norm of their input
    f"{CUDA}::test_a_layer_gives_rows_the_same_bits_among_any_number_on_a_gpu[2592-96-8-options19]",
    # a whole model: norms, embedding, rotation, and prefill by `mma`
    f"{CUDA}::test_golden_logits_on_a_gpu[llama-q4f16_1-float16]",
)
OTHERS = (
    # attention, cut over the keys and whole
    f"{TESTS / 'test_cuda_attention.py'}::"
    "test_attention_in_parts_has_the_same_bits_on_a_gpu[8-2-64-None-None]",
    # the same with its own queries, keys and values
    f"{TESTS / 'test_cuda_attention.py'}::"
    "test_rows_of_their_own_sequences_have_the_same_bits_on_a_gpu[shape2-rotation2]",
    # attention of many rows
    f"{TESTS / 'test_cuda_attention.py'}::"
    "test_rows_among_many_have_the_same_bits_on_a_gpu[shape3-rotation3]",
    # the choice of tokens
    f"{TESTS / 'test_cuda_shortlist.py'}::"
    "test_a_gpu_finds_the_best_token_of_any_row_and_the_candidates_of_most",
    f"{TESTS / 'test_cuda_draws.py'}::test_draws_are_those_from_all_logits_on_a_gpu",
    # draws in a step that was started ahead
    f"{TESTS / 'test_cuda_executor.py'}::test_steps_that_draw_are_started_ahead_on_a_gpu[faithful]",
    # a whole model without tensor cores: norms, embedding, rotation
    f"{CUDA}::test_golden_logits_on_a_gpu[llama-q4f16_1-float32]",
)
TOOLS: dict[str, tuple[str, ...]] = {
    "memcheck": (*LAYERS, *OTHERS),
    "synccheck": (*LAYERS, *OTHERS),
    # Not the layers for tensor cores. It takes only what a lane itself wrote to be ordered before
    # the lane arrives at an mbarrier, and not what the warp's others wrote before `__syncwarp`, so
    # it finds 31 hazards for each warp in which one lane arrives for all; and it ends with an
    # internal error at the first layer of 9 to 32 rows, which has clusters of blocks.
    "racecheck": OTHERS,
}
"""The sanitizer's tools, and the tests that each watches."""
PATIENCE_S = 300
"""Seconds after which a tool is stopped."""
CARD = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]


def section(title: str, command: Sequence[str]) -> int:
    """Run a command, and print its output below a title; return its exit status."""
    print(f"\n## {title}\n\n```", flush=True)
    began = time.monotonic()
    done = subprocess.run(command, cwd=REPOSITORY, stderr=subprocess.STDOUT, check=False)
    print(f"```\n\n{time.monotonic() - began:.0f} s", flush=True)
    return done.returncode


def pytest_command(*tests: str) -> list[str]:
    """Run some tests, only those that need a GPU."""
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:benchmark", "-k", "gpu"]
    return [sys.executable, "-m", "pytest", *options, *tests]


def sanitizer() -> str | None:
    """CUDA's compute-sanitizer, if it is installed."""
    there = shutil.which("compute-sanitizer")
    return there or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")


def watch(program: str, tool: str) -> tuple[int, str]:
    """Run tests under a tool of the sanitizer; its exit status and output."""
    command = [program, "--tool", tool, "--error-exitcode", "9", "--print-limit", "9"]
    began = time.monotonic()
    try:
        done = subprocess.run(
            [*command, *pytest_command(*TOOLS[tool])],
            cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            check=False, timeout=PATIENCE_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return 1, f"stopped after {PATIENCE_S} s"
    return done.returncode, f"{done.stdout}\n{time.monotonic() - began:.0f} s"


def tests_and_sanitizer(only: Sequence[str]) -> int:
    """Run the tests, and at the same time those that the sanitizer watches."""
    failed = 0
    program = sanitizer() if "sanitizer" in only else None
    with ThreadPoolExecutor() as pool:
        watched = {t: pool.submit(watch, program, t) for t in TOOLS} if program else {}
        if "tests" in only:
            workers: list[str] = []
            if importlib.util.find_spec("xdist"):  # most of their time is spent on compiling
                workers = ["-n", str(min(16, os.cpu_count() or 1))]
            failed |= section("Tests", pytest_command(*workers, *GPU_TESTS))
        for tool, each in watched.items():
            status, output = each.result()
            failed |= status
            print(f"\n## compute-sanitizer --tool {tool}\n\n```\n{output}\n```", flush=True)
    if "sanitizer" in only and program is None:
        print("\nThe sanitizer did not run: there is no compute-sanitizer here.")
    return failed


def main() -> int:
    """Print the page."""
    sections = ("tests", "sanitizer", "benchmark")
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=["1B", "8B"], help="as benchmarks/gpu.py")
    parser.add_argument("--only", nargs="+", choices=sections, default=sections)
    args = parser.parse_args()
    try:
        cards = subprocess.run(CARD, capture_output=True, text=True, check=True).stdout.split("\n")
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"There is no NVIDIA GPU here: {error}", file=sys.stderr)
        return 1
    print(f"# {'; '.join(filter(None, cards))}")
    print(f"\nPython {platform.python_version()}, {platform.platform()}")
    failed = tests_and_sanitizer(args.only)
    if "benchmark" in args.only:
        # The tests compare the golden logits.
        parts = ["speed", "families", "load", "transformers"]
        bench = [sys.executable, "benchmarks/gpu.py", "--only", *parts, "--shapes", *args.shapes]
        failed |= section("Benchmark", bench)
    return failed


if __name__ == "__main__":
    sys.exit(main())
