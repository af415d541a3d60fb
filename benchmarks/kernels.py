"""The TVM runtime's kernels against llama.cpp, and against the machine's memory bandwidth.

    python benchmarks/kernels.py [--quick] [--models …] [--threads 1 2] [--llama-python PYTHON]

One interleaved run: both engines take turns at every figure, so that a machine that slows down
slows both. Models have published shapes and random weights, made on the fly in ``.make/bench``:
q4f16_1 for us, for llama.cpp Q4_0 as its own quantizer writes it (``--pure``: with the output layer
in Q4_0, too, so that both engines read as many bytes), both with float16 keys and values. Printed
are medians of process CPU time and of wall time, and the median of the paired ratios (llama.cpp's
time over ours, more than 1 is faster) with a 95 % bootstrap interval. llama.cpp runs with and
without flash attention; each figure is compared with the better of the two. Resident memory is
with the KV cache full, and of the size that a load makes unless told otherwise. Without
``--llama-python`` an environment is made once in ``.make/bench`` and llama-cpp-python built there
for this CPU.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from _kernel_models import SHAPES, gguf_file, write_mlc
from _process import Process
from _stats import shown

from mlc_widget.engine.runtimes.tvm.loading import DEFAULT_TOTAL

HERE = Path(__file__).resolve().parent

BUILD = HERE.parent / ".make" / "bench"
LLAMA_CPP = "0.3.36"
"""The version of llama-cpp-python that is measured against."""

LOADS = 7
"""Processes that are started to measure a load."""

FIGURES = ["decode 32", "decode 1000", "prefill 128", "prefill 512", "prefill 2000"]


def llama_environment() -> str:
    """The Python of an environment with llama-cpp-python, built from source for this CPU."""
    python = BUILD / "llama" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(python.parents[1])], check=True)
        packages = [f"llama-cpp-python=={LLAMA_CPP}", "gguf"]
        pip = [str(python), "-m", "pip", "install", "--no-binary", "llama-cpp-python"]
        subprocess.run([*pip, *packages], check=True)
    return str(python)


def mlc_folder(name: str) -> Path:
    """The MLC folder of that name, made where it is not there."""
    folder = BUILD / name
    if not (folder / "mlc-chat-config.json").exists():
        write_mlc(name, folder)
    return folder


def loads(starts: dict[str, Callable[[], Process]]) -> None:
    """Print how long each engine takes to load, in fresh processes that take turns.

    Args:
        starts: Start a process with an engine; "tvm" first.
    """
    times: dict[str, list[float]] = {name: [] for name in starts}
    for _ in range(LOADS):
        for name, start in starts.items():
            worker = start()
            times[name].append(worker.started["load"]["wall"])
            worker.close()
    ours, *others = times
    best = min(others, key=lambda name: statistics.median(times[name]))
    pairs = [b / a for a, b in zip(times[ours], times[best], strict=True)]
    print(
        f"load, warm caches: {ours} {statistics.median(times[ours]):.3f} s, "
        f"{best} {statistics.median(times[best]):.3f} s, ratio {shown(pairs)}"
    )


def measure(
    name: str, threads: int, rounds: int, figures: Sequence[str], llama_python: str, *, pure: bool
) -> None:
    """Run and print all figures of one model at one number of threads."""
    folder, file = str(mlc_folder(name)), gguf_file(name, BUILD, llama_python, pure=pure)

    def start(python: str, *args: str) -> Process:
        return Process(python, "_kernel_worker.py", *args)

    theirs = partial(start, llama_python, "llama.cpp", str(file), str(threads))
    starts = {
        "tvm": partial(start, sys.executable, "tvm", folder, str(threads)),
        "llama.cpp": partial(theirs, "0"),
        "llama.cpp fa": partial(theirs, "1"),
    }
    starts["tvm"]().close()  # fills the compile cache
    print(f"\n## {name}, {threads} thread{'s' if threads > 1 else ''}")
    loads(starts)
    workers = {engine: begin() for engine, begin in starts.items()}
    memory = start(sys.executable, "memory", "-", str(threads))
    ours = workers["tvm"]
    weights, kv = ours.started["weights"], ours.started["kv"]
    print(
        f"weights {weights / 1e6:.0f} MB (llama.cpp: {file.stat().st_size / 1e6:.0f} MB), "
        f"KV cache {kv / 1e6:.0f} MB"
    )
    for figure in figures:
        kind, size = figure.split()
        steps = 16 if kind == "decode" else 1
        command = f"decode {size} {steps}" if kind == "decode" else f"prefill {size}"
        times: dict[str, list[dict[str, float]]] = {w: [] for w in workers}
        rates: list[float] = []
        for w in workers.values():
            w.ask(command)
        for i in range(rounds):
            order = list(workers) if i % 2 else list(workers)[::-1]
            for w in order:
                times[w].append(workers[w].ask(command))
            if kind == "decode":
                rates.append(memory.ask("bandwidth")["bytes_per_s"])
        tokens = steps if kind == "decode" else int(size)
        for clock in ("cpu", "wall"):
            median = {w: statistics.median(t[clock] for t in times[w]) for w in workers}
            best = min((w for w in workers if w != "tvm"), key=lambda w: median[w])
            pairs = [b[clock] / a[clock] for a, b in zip(times["tvm"], times[best], strict=True)]
            line = (
                f"{figure:>12} {clock:>4}: tvm {tokens / median['tvm']:8.1f} tok/s, "
                f"{best} {tokens / median[best]:8.1f}, ratio {shown(pairs)}"
            )
            print(line, flush=True)
            if kind == "decode" and clock == "wall":
                read = (weights + int(size) * ours.started["kv_per_token"]) * tokens
                _bound(read, rates, [t["wall"] for t in times["tvm"]], median[best])
    for worker in (*workers.values(), memory):
        worker.close()
    resident(starts)


def resident(starts: dict[str, Callable[..., Process]]) -> None:
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


def main() -> None:
    parser = argparse.ArgumentParser(description="The TVM runtime's kernels against llama.cpp.")
    parser.add_argument("--models", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--figures", nargs="+", choices=FIGURES, default=FIGURES)
    parser.add_argument("--rounds", type=int, default=9, help="measurements of each figure")
    parser.add_argument("--pure", action="store_true", help="llama.cpp's output layer in Q4_0, too")
    parser.add_argument("--quick", action="store_true", help="the smallest model, few rounds")
    parser.add_argument("--llama-python", help="Python of an environment with llama-cpp-python")
    args = parser.parse_args()
    if args.quick:
        args.models, args.rounds = args.models[:1], 3
    BUILD.mkdir(parents=True, exist_ok=True)
    llama_python = args.llama_python or llama_environment()
    info = "import llama_cpp as l; print(l.__version__, l.llama_print_system_info().decode())"
    system = subprocess.run([llama_python, "-c", info], capture_output=True, text=True, check=True)
    print("llama-cpp-python", system.stdout.strip())
    for name in args.models:
        for threads in args.threads:
            measure(name, threads, args.rounds, args.figures, llama_python, pure=args.pure)


if __name__ == "__main__":
    main()
