"""Compares llama.cpp with the tvm runtime: its environment, and figures that both give in turns."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from _process import Process
from _stats import shown

from mlc_widget.engine.runtimes.tvm.sizing import DEFAULT_TOTAL
from mlc_widget.engine.store.packed_weights import LIMIT_VARIABLE

BUILD = Path(__file__).resolve().parents[1] / ".make" / "bench"
LLAMA_CPP = "0.3.36"
"""The version of llama-cpp-python that we compare with."""

LOADS, UNPACKED = 7, 2
"""The number of processes that are started to measure a load, and one without packed weights."""
FEWEST_ROUNDS, FIGURE_S = 4, 20.0
"""A figure is measured at least so often, and not again after so many seconds."""
LARGE = 800_000_000
"""Bytes of a file from which resident memory is left out: llama.cpp would take minutes to fill its
cache, and what it takes beside its file depends on the context alone."""

Starts = dict[str, Callable[..., Process]]

_FEATURES = {
    "AVX": "avx", "AVX2": "avx2", "FMA": "fma", "F16C": "f16c", "BMI2": "bmi2",
    "AVX512": "avx512f", "AVX512_VBMI": "avx512vbmi", "AVX512_VNNI": "avx512_vnni",
    "AVX512_BF16": "avx512_bf16",
}  # fmt: skip
"""The CPU features for which llama.cpp can be built, with their names in Linux's /proc/cpuinfo."""


def cmake_args() -> str:
    """CMake's arguments to build llama.cpp for this CPU.

    They name all features except AMX: where the system does not let processes use it, a build with
    AMX crashes.
    """
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
    flags = set(
        next((v for k, _, v in map(_parted, text.splitlines()) if k == "flags"), "").split()
    )
    if not any(flag.startswith("amx") for flag in flags):
        return ""
    has = [f"-DGGML_{name}=ON" for name, flag in _FEATURES.items() if flag in flags]
    return " ".join(["-DGGML_NATIVE=OFF", *has])


def _parted(line: str) -> tuple[str, str, str]:
    key, colon, value = line.partition(":")
    return key.strip(), colon, value


def llama_environment() -> str:
    """The Python of an environment with llama-cpp-python, built from source for this CPU."""
    python = BUILD / "llama" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(python.parents[1])], check=True)
        packages = [f"llama-cpp-python=={LLAMA_CPP}", "gguf"]
        # A wheel that pip has from another build may be of another kind.
        options = ["--no-cache-dir", "--no-binary", "llama-cpp-python"]
        arguments = f"{os.environ.get('CMAKE_ARGS', '')} {cmake_args()}".strip()
        subprocess.run(
            [str(python), "-m", "pip", "install", *options, *packages],
            check=True,
            env={**os.environ, "CMAKE_ARGS": arguments},
        )
    return str(python)


def describe(python: str) -> None:
    """Print which llama.cpp it is, and how it was built."""
    info = "import llama_cpp as l; print(l.__version__, l.llama_print_system_info().decode())"
    system = subprocess.run([python, "-c", info], capture_output=True, text=True, check=True)
    print("llama-cpp-python", system.stdout.strip())


def compare(
    title: str,
    ours: Path,
    theirs: Path,
    threads: int,
    rounds: int,
    figures: Sequence[str],
    llama_python: str,
    *,
    speed: bool = False,
) -> None:
    """Print load, speed and memory of both engines, at one number of threads.

    Args:
        title: What the figures are of.
        ours: The model for the tvm runtime.
        theirs: The GGUF file for llama.cpp.
        threads: Threads of each engine.
        rounds: How often they take turns at most.
        figures: Which of `_kernel_worker`'s figures.
        llama_python: See `llama_environment`.
        speed: Whether to print speed alone.
    """

    def start(python: str, *args: str, **environ: str) -> Process:
        return Process(python, "_kernel_worker.py", *args, **environ)

    llama = partial(start, llama_python, "llama.cpp", str(theirs), str(threads))
    starts = {
        "tvm": partial(start, sys.executable, "tvm", str(ours), str(threads)),
        "llama.cpp": partial(llama, "0"),
        "llama.cpp fa": partial(llama, "1"),
    }
    first = starts["tvm"]()  # fills the caches of code and of packed weights
    first.ask("settle")
    first.close()
    print(f"\n## {title}, {threads} thread{'s' if threads > 1 else ''}")
    print(f"llama.cpp's file: {theirs.stat().st_size / 1e6:.0f} MB")
    if not speed:
        loads(starts, partial(starts["tvm"], **{LIMIT_VARIABLE: "0"}))
    memory = start(sys.executable, "memory", "-", str(threads))
    measure(starts, threads, rounds, figures, memory)
    memory.close()
    if not speed and theirs.stat().st_size < LARGE:
        resident(starts)


def loads(starts: Starts, unpacked: Callable[[], Process]) -> None:
    """Print how long each engine takes to load, and with one token, in processes that take turns.

    Args:
        starts: Start a process with an engine; "tvm" first.
        unpacked: Starts one with the first engine, without packed weights.
    """
    starts = {**starts, "tvm without packed weights": unpacked}
    told: dict[str, list[dict[str, Any]]] = {name: [] for name in starts}
    for i in range(LOADS):
        for name, start in list(starts.items())[:: 1 if i % 2 else -1]:
            if start is unpacked and i >= UNPACKED:
                continue
            worker = start()
            told[name].append(worker.started)
            worker.close()
    for what, clock in product(("load", "first token"), ("wall", "cpu")):
        times = {name: [t[what][clock] for t in found] for name, found in told.items()}
        median = {name: statistics.median(found) for name, found in times.items()}
        best = min((name for name in starts if "llama" in name), key=lambda name: median[name])
        pairs = [b / a for a, b in zip(times["tvm"], times[best], strict=True)]
        line = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in median.items())
        print(f"warm caches, {what:>11} {clock:>4}: {line}; {best} / tvm {shown(pairs)}")


def measure(
    starts: Starts, threads: int, rounds: int, figures: Sequence[str], memory: Process
) -> None:
    """Print figures, such as ``decode 32``, that the engines take turns at.

    Of several llama.cpp, the one that is best at the first figure of a kind (``decode``,
    ``prefill``) is the one that is measured at the others.

    Args:
        starts: Start a process with an engine; "tvm" first.
        threads: What each runs with.
        rounds: Measurements of each figure at most; `FEWEST_ROUNDS` if one takes long.
        figures: ``decode`` or ``prefill``, and a number of tokens.
        memory: Tells the bandwidth, and what an idle process gets of the machine.
    """
    workers = {engine: begin() for engine, begin in starts.items()}
    ours = workers["tvm"]
    weights, kv = ours.started["weights"], ours.started["kv"]
    print(f"weights {weights / 1e6:.0f} MB, KV cache {kv / 1e6:.0f} MB")
    theirs: dict[str, list[str]] = {}
    for figure in figures:
        kind, size = figure.split()
        steps = 16 if kind == "decode" else 1
        command = f"decode {size} {steps}" if kind == "decode" else f"prefill {size}"
        asked = ["tvm", *theirs.get(kind, [w for w in workers if w != "tvm"])]
        times: dict[str, list[dict[str, float]]] = {w: [] for w in asked}
        rates: list[float] = []
        idle: list[float] = []
        if kind == "decode" or kind not in theirs:  # a longer prompt needs no step in advance
            for w in asked:
                workers[w].ask(command)
        end = time.monotonic() + FIGURE_S
        while len(idle) < FEWEST_ROUNDS or (len(idle) < rounds and time.monotonic() < end):
            for w in asked if len(idle) % 2 else asked[::-1]:
                times[w].append(workers[w].ask(command))
            spun = memory.ask("spin")
            idle.append(spun["cpu"] / spun["wall"])
            if kind == "decode":
                rates.append(memory.ask("bandwidth")["bytes_per_s"])
        tokens = steps if kind == "decode" else int(size)
        for clock in ("cpu", "wall"):
            median = {w: statistics.median(t[clock] for t in times[w]) for w in asked}
            best = min(asked[1:], key=lambda w: median[w])
            pairs = [b[clock] / a[clock] for a, b in zip(times["tvm"], times[best], strict=True)]
            line = (
                f"{figure:>12} {clock:>4}: tvm {tokens / median['tvm']:8.1f} tok/s, "
                f"{best} {tokens / median[best]:8.1f}, ratio {shown(pairs)}"
            )
            print(line, flush=True)
            if kind == "decode" and clock == "wall":
                read = (weights + int(size) * ours.started["kv_per_token"]) * tokens
                _bound(read, rates, [t["wall"] for t in times["tvm"]], median[best])
        theirs.setdefault(kind, [best])
        print(
            f"{'':>18}an idle process got {shown([100 * i for i in idle], digits=0)} % of a core, "
            f"{len(idle)} rounds"
        )
    for worker in workers.values():
        worker.close()


def resident(starts: Starts) -> None:
    """Print the resident memory with a full KV cache, of the size that a load makes by itself."""
    for engine, start in starts.items():
        worker = start(str(DEFAULT_TOTAL))
        if engine == "tvm":
            base = worker.started["resident_before"]
            both = worker.started["weights"] + worker.started["kv"]
        memory = worker.ask("memory")
        bytes_, files = memory["resident"], memory["resident"] - memory["anonymous"]
        line = (
            f"resident with {DEFAULT_TOTAL} tokens: {engine} {bytes_ / 1e6:.0f} MB "
            f"({files / 1e6:.0f} MB of them files')"
        )
        if engine == "tvm":
            line += (
                f", {bytes_ / both:.3f} × the {both / 1e6:.0f} MB of weights and KV: "
                f"{base / 1e6:.0f} MB of Python, numpy and TVM's runtime, "
                f"{(bytes_ - base) / both:.2f} × since"
            )
        print(line, flush=True)
        worker.close()


def _bound(read: float, rates: list[float], ours: list[float], theirs: float) -> None:
    """Print how near decoding comes to reading its bytes once, and what that leaves to win.

    Args:
        read: Bytes of weights, keys and values.
        rates: Bytes per second that as many threads read, measured after each of `ours`.
        ours: Seconds of our steps.
        theirs: Median seconds of llama.cpp's.
    """
    shares = [100 * read / rate / took for rate, took in zip(rates, ours, strict=True)]
    rate = statistics.median(rates)
    print(
        f"{'':>18}{shown(shares, digits=0)} % of the bandwidth bound at {rate / 1e9:.1f} GB/s, "
        f"where the ratio would be {theirs / (read / rate):.2f}",
        flush=True,
    )
