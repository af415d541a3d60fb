"""Run the GPU tests and benchmarks on this machine, and print what they say as a page of Markdown.

    python tools/gpu_page.py [--shapes 1B 8B] > page.md

It needs an NVIDIA GPU, the package with its ``cuda`` extra, and pytest. The page names the card.
With pytest-xdist, several processes run the tests. All takes 7 minutes on an H100 and 16 cores.
The exit status is that of the tests, or that of the benchmark if they passed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
TESTS = REPOSITORY / "tests/engine/runtimes/tvm"
GPU_TESTS = [*sorted(map(str, TESTS.glob("test_cuda*.py"))), str(TESTS / "test_families.py")]
CARD = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]


def section(title: str, command: list[str]) -> int:
    """Run a command, and print its output below a title; return its exit status."""
    print(f"\n## {title}\n\n```", flush=True)
    status = subprocess.run(command, cwd=REPOSITORY, stderr=subprocess.STDOUT, check=False)
    print("```", flush=True)
    return status.returncode


def main() -> int:
    """Print the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=["1B", "8B"], help="as benchmarks/gpu.py")
    args = parser.parse_args()
    try:
        card = subprocess.run(CARD, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"There is no NVIDIA GPU here: {error}", file=sys.stderr)
        return 1
    print(f"# {card}\n\nPython {platform.python_version()}, {platform.platform()}")
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "gpu"]
    if importlib.util.find_spec("xdist"):  # most of their time is spent on compiling
        tests += ["-n", str(min(12, os.cpu_count() or 1))]
    failed = section("Tests", [*tests, *GPU_TESTS])
    bench = [sys.executable, "benchmarks/gpu.py", "--shapes", *args.shapes]
    benched = section("Benchmark", bench)
    return failed or benched


if __name__ == "__main__":
    sys.exit(main())
