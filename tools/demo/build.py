"""From nothing to the model folder: tokenizer, training, 4-bit weights, scores.

``python -m tools.demo.build`` writes ``mlc_widget/models/demo``; see README.md beside this file.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from tools.demo.card import FOLDER, SCORES, write_card
from tools.demo.dialogue import DEFAULT_SYSTEM
from tools.demo.evaluate import evaluate, write_json, write_scores
from tools.demo.model import Config, Llama
from tools.demo.tokenizer import (
    END_OF_TEXT_ID,
    IM_END_ID,
    compact_json,
    tokenizer_config,
    train_tokenizer,
)
from tools.demo.train import add_arguments, train_as_asked
from tools.mlc_format import CHATML_TEMPLATE, llama_params, write_model

RECORDED = ("steps", "rows", "length", "peak", "quantized_share", "seed")


def convert(model: Llama, tokenizer_json: str, folder: Path, config: Config) -> None:
    """Write the model's weights, rounded to 4 bits, as an MLC folder."""
    state = {name: value.float().cpu().numpy() for name, value in model.state_dict().items()}
    template = {
        **CHATML_TEMPLATE,
        "system_message": DEFAULT_SYSTEM,
        "stop_token_ids": [END_OF_TEXT_ID, IM_END_ID],
    }
    write_model(
        folder,
        params=llama_params(state, "q4f32_1"),
        config=config.as_dict(),
        quantization="q4f32_1",
        conv_template=template,
        tokenizer_json=tokenizer_json,
        tokenizer_config=tokenizer_config(),
        generation={
            "temperature": 0.6,
            "top_p": 0.9,
            "pad_token_id": END_OF_TEXT_ID,
            "bos_token_id": END_OF_TEXT_ID,
            "eos_token_id": IM_END_ID,
        },
    )


def _command(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> str:
    """What to type for the same training, whatever the paths."""
    words = ["python -m tools.demo.build"]
    for name in RECORDED:
        value = getattr(arguments, name)
        if value != parser.get_default(name):
            words.append(f"--{name.replace('_', '-')} {value}")
    return " ".join(words)


def main() -> None:
    """Train, convert and evaluate."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--out", type=Path, default=FOLDER, help="the model folder")
    parser.add_argument("--scores", type=Path, default=SCORES, help="what the card is made of")
    parser.add_argument("--wrong", type=Path, help="where to write wrong answers")
    parser.add_argument("--checkpoint", type=Path, help="where to keep the float weights")
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer.json to keep")
    parser.add_argument(
        "--per-kind", type=int, default=200, help="held-out dialogues per kind of task"
    )
    parser.add_argument("--batch", type=int, default=0, help="conversations evaluated at once")
    arguments = parser.parse_args()

    began = time.monotonic()
    if arguments.tokenizer:
        tokenizer_json = arguments.tokenizer.read_text(encoding="utf-8")
    else:
        tokenizer_json = compact_json(train_tokenizer())
    print(f"tokenizer {time.monotonic() - began:.0f} s", flush=True)
    model = train_as_asked(tokenizer_json, arguments)
    if arguments.checkpoint:
        torch.save(
            {k: v.bfloat16().cpu() for k, v in model.state_dict().items()}, arguments.checkpoint
        )
    convert(model, tokenizer_json, arguments.out, model.config)
    print(f"trained and converted {time.monotonic() - began:.0f} s", flush=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    scores, wrong = evaluate(
        arguments.out,
        per_kind=arguments.per_kind,
        batch=arguments.batch or (1024 if device == "cuda" else 64),
        device=device,
    )
    scores["training"] = [
        {
            **{name: getattr(arguments, name) for name in RECORDED},
            "command": _command(parser, arguments),
        }
    ]
    write_scores(scores, arguments.scores)
    write_card(arguments.out, arguments.scores)
    if arguments.wrong:
        write_json(wrong, arguments.wrong)
    print(f"all {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
