"""Train the demo model from nothing, the last part with 4-bit weights.

``python -m tools.demo.train --out checkpoint.pt`` wants a GPU; ``--steps 20 --rows 2 --length 256``
runs anywhere.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from itertools import chain
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tools.demo.dataset import stream_rows
from tools.demo.model import Config, Llama, parameters_of
from tools.demo.tokenizer import compact_json, train_tokenizer


def learning_rate(progress: float, peak: float) -> float:
    """A short warm-up, then a cosine down to a fiftieth of the peak."""
    if progress < 0.02:
        return peak * (progress + 1e-4) / 0.02
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (progress - 0.02) / 0.98)))


def groups_of(model: Llama) -> list[dict[str, object]]:
    """Weight decay for matrices, none for norms and the embedding."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (matrices if parameter.ndim == 2 and "embed" not in name else others).append(parameter)
    return [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]


def train(
    tokenizer_json: str,
    *,
    config: Config,
    steps: int,
    rows: int,
    length: int,
    peak: float,
    quantized_share: float,
    seed: int,
    start_from: Path | None = None,
) -> Llama:
    """Train and return the model, its weights meant to be rounded to 4 bits.

    Args:
        tokenizer_json: the tokenizer.
        config: the model's shape.
        steps: optimiser steps; the schedule runs over them.
        rows: conversations rows per step.
        length: tokens per row.
        peak: the highest learning rate.
        quantized_share: the part of the steps, at the end, that sees 4-bit weights.
        seed: of the initial weights and of the corpus.
        start_from: a checkpoint to go on from.
    """
    cuda = torch.cuda.is_available()
    device = "cuda" if cuda else "cpu"
    torch.manual_seed(seed)
    torch.set_float32_matmul_precision("high")
    model = Llama(config).to(device)
    if start_from is not None:
        model.load_state_dict(torch.load(start_from, map_location=device), strict=True)
        model.float()
    print(f"{parameters_of(model):,} parameters on {device}", flush=True)
    optimizer = torch.optim.AdamW(groups_of(model), lr=peak, betas=(0.9, 0.95), fused=cuda)

    def loss_of(tokens: torch.Tensor, learn: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=cuda):
            logits = model(tokens[:, :-1])
        losses = F.cross_entropy(
            logits.float().flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
        )
        kept = learn[:, 1:].flatten().float()
        return (losses * kept).sum() / kept.sum().clamp_min(1)

    source = stream_rows(
        tokenizer_json,
        seed=seed * 10**7,
        count=rows,
        length=length,
        blocks=steps,
        workers=max(0, (os.cpu_count() or 1) - 1) if cuda else 0,
    )
    # The workers start while the model compiles.
    source = chain([next(source)], source)
    compiled = torch.compile(loss_of) if cuda else loss_of
    if cuda:
        # Compile both forms before the clock starts.
        warm = torch.zeros((rows, length + 1), dtype=torch.long, device=device)
        for quantized in (True, False) if quantized_share < 1 else (True,):
            model.quantized(quantized)
            compiled(warm, warm > -1).backward()
            optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        print("compiled", flush=True)

    began = time.monotonic()
    quantized = quantized_share >= 1
    model.quantized(quantized)
    shown = torch.zeros((), device=device)
    step = 0
    for step, (tokens, learn) in enumerate(source):
        passed = time.monotonic() - began
        progress = step / steps
        if not quantized and progress >= 1 - quantized_share:
            quantized = True
            model.quantized(True)
            print(f"step {step}: 4-bit from here", flush=True)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(progress, peak)
        batch = torch.from_numpy(tokens.astype(np.int64)).to(device, non_blocking=True)
        loss = compiled(batch, torch.from_numpy(learn).to(device, non_blocking=True))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        shown = loss.detach()
        if step % 200 == 0 or step < 3:
            print(
                f"step {step} loss {shown.item():.4f} "
                f"{(step + 1) * rows * length / (passed + 1e-9) / 1e6:.2f} Mtok/s {passed:.0f} s",
                flush=True,
            )
    print(f"{step + 1} steps, last loss {shown.item():.4f}", flush=True)
    model.quantized(True)
    return model


def main() -> None:
    """Train a tokenizer and a model and save both."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, help="the checkpoint to write")
    arguments = parser.parse_args()
    tokenizer_json = compact_json(train_tokenizer())
    model = train_as_asked(tokenizer_json, arguments)
    torch.save({k: v.bfloat16().cpu() for k, v in model.state_dict().items()}, arguments.out)
    arguments.out.with_suffix(".tokenizer.json").write_text(tokenizer_json, encoding="utf-8")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of a training run."""
    parser.add_argument("--steps", type=int, default=16000)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--peak", type=float, default=2e-3)
    parser.add_argument("--quantized-share", type=float, default=0.3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start-from", type=Path, help="a checkpoint to go on from")


def train_as_asked(tokenizer_json: str, arguments: argparse.Namespace) -> Llama:
    """`train` with the options of the command line."""
    return train(
        tokenizer_json,
        config=Config(),
        steps=arguments.steps,
        rows=arguments.rows,
        length=arguments.length,
        peak=arguments.peak,
        quantized_share=arguments.quantized_share,
        seed=arguments.seed,
        start_from=arguments.start_from,
    )


if __name__ == "__main__":
    main()
