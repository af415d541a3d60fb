"""``mlc_widget convert``: a folder of safetensors to a quantised model in MLC format."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path
from typing import Any, Final

from mlc_widget.api.errors import BadRequestError, ModelNotFoundError
from mlc_widget.cli.progress import ProgressLine

_QUANTIZATIONS: Final = ("q4f16_1", "q8f16_1", "q0f16", "q0f32")


def add_to(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "convert",
        help="quantise a folder of safetensors permanently",
        description="Convert a model that transformers saved (config.json, tokenizer.json, "
        "*.safetensors) to a folder in MLC format, which engines load as it is. Loading the "
        "folder of safetensors itself does the same and keeps the result in the cache.",
    )
    parser.add_argument("source", type=Path, help="the folder of safetensors")
    parser.add_argument("destination", type=Path, help="the folder to make; it must not exist")
    parser.add_argument(
        "--quantization",
        choices=_QUANTIZATIONS,
        help="4 or 8 bits per weight, or floats of 16 or 32 bits; by default 4 bits, or 8 for "
        "models with fewer than 0.6 billion weights, which lose too much quality with 4",
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="TEXT",
        help="a text file that resembles what the model will read and write; its first 256 tokens "
        "show which weights matter most in 4 bits; by default, a short text on various "
        "subjects",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Convert, and print the result."""
    source, destination = options.source.expanduser(), options.destination.expanduser().absolute()
    if not source.is_dir():
        raise ModelNotFoundError(f"{source} is not a folder.", param="source")
    if destination.exists() or destination.is_symlink():
        raise BadRequestError(
            f"{destination} exists already: remove it, or give another name.", param="destination"
        )
    if not destination.parent.is_dir():
        raise BadRequestError(
            f"{destination.parent} is not a folder: make it first.", param="destination"
        )
    asyncio.run(_convert(source, destination, options.quantization, options.calibration))


async def _convert(
    source: Path, destination: Path, quantization: str | None, calibration: Path | None
) -> None:
    from mlc_widget.engine.converted_models import cancellable, opened
    from mlc_widget.engine.text.tokenizer_loading import load_tokenizer

    started = time.monotonic()
    conversion = await opened(source, quantization, calibration)
    try:
        tokenizer = await load_tokenizer(source)
        named = conversion.format.name
        line = ProgressLine(f"Converting to {named}", sys.stderr)

        def work(cancelled: Any) -> None:
            def progress(done: int, total: int) -> None:
                if cancelled.is_set():
                    raise KeyboardInterrupt
                line.show(done, total)

            conversion.run(destination, tokenizer, progress)

        try:
            await cancellable(work)
        finally:
            line.end()
    finally:
        conversion.close()
    took = time.monotonic() - started
    print(
        f"{destination}: {conversion.weights / 1e6:.0f} million weights in {named}, "
        f"{conversion.nbytes / 1e6:.0f} MB, in {took:.1f} s"
    )
