"""The TVM runtime's kernels against llama.cpp, and against the machine's memory bandwidth.

    python benchmarks/kernels.py [--quick] [--models …] [--threads 1 2] [--llama-python PYTHON]

Both engines take turns at every figure, so that a machine that slows down slows both. Models have
published shapes and random weights, and are made in ``.make/bench``: in q4f16_1 for us, and for
llama.cpp in Q4_0 as its own quantizer writes it (with ``--pure``, the output layer is in Q4_0, too,
so that both engines read as many bytes); both have float16 keys and values. The output has medians
of process CPU time and of wall time, and the median of the paired ratios with a 95 % bootstrap
interval: llama.cpp's time over ours, so that above 1 we are faster. llama.cpp runs with and without
flash attention, and each figure is compared with the better of the two. Resident memory is measured
with a full KV cache of the default size. Without ``--llama-python``, an environment is made once in
``.make/bench``, with llama-cpp-python built for this CPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from _beside_llama import BUILD, compare, describe, llama_environment
from _kernel_models import SHAPES, gguf_file, write_mlc

FIGURES = [
    "decode 32", "decode 1000", "decode 4000", "prefill 128", "prefill 512", "prefill 2000",
]  # fmt: skip


def mlc_folder(name: str) -> Path:
    """The MLC folder of that name, made where it is not there."""
    folder = BUILD / name
    if not (folder / "mlc-chat-config.json").exists():
        write_mlc(name, folder)
    return folder


def measure_model(
    name: str,
    threads: int,
    rounds: int,
    figures: Sequence[str],
    llama_python: str,
    *,
    pure: bool,
    speed: bool,
) -> None:
    """Run and print all figures of one model at one number of threads."""
    file = gguf_file(name, "Q4_0 pure" if pure else "Q4_0", BUILD, llama_python)
    compare(name, mlc_folder(name), file, threads, rounds, figures, llama_python, speed=speed)


def main() -> None:
    parser = argparse.ArgumentParser(description="The TVM runtime's kernels against llama.cpp.")
    parser.add_argument("--models", nargs="+", choices=list(SHAPES), default=list(SHAPES)[:3])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--figures", nargs="+", choices=FIGURES, default=FIGURES)
    parser.add_argument("--rounds", type=int, default=9, help="measurements of each figure")
    parser.add_argument("--pure", action="store_true", help="llama.cpp's output layer in Q4_0, too")
    parser.add_argument("--speed", action="store_true", help="neither loads nor resident memory")
    parser.add_argument("--quick", action="store_true", help="the smallest model, few rounds")
    parser.add_argument("--llama-python", help="Python of an environment with llama-cpp-python")
    args = parser.parse_args()
    if args.quick:
        args.models, args.rounds = args.models[:1], 3
    BUILD.mkdir(parents=True, exist_ok=True)
    llama_python = args.llama_python or llama_environment()
    describe(llama_python)
    for name in args.models:
        for threads in args.threads:
            measure_model(
                name, threads, args.rounds, args.figures, llama_python,
                pure=args.pure, speed=args.speed,
            )  # fmt: skip


if __name__ == "__main__":
    main()
