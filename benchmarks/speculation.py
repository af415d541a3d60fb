"""What drafting tokens from earlier in the text saves, and what it costs where there are none.

    python benchmarks/speculation.py [--model MODEL] [--rounds 5] [--device cpu]

One model is loaded twice, with `speculative_mode` "disable" and "auto", and both answer the same
requests in turn: they must give the same texts. Decoding is compared by tokens per second, as the
ratio of each round. In the first tasks the answer repeats most of a prompt of about 1,000 tokens;
in the others it does not, or there is little to repeat.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
from collections.abc import Mapping
from typing import Any

from mlc_widget import AsyncMLCEngine, create_mlc_engine

_PEOPLE = ("Anna", "Boris", "Carla", "David", "Elena", "Felix", "Greta", "Henry")
_DEEDS = (
    "repaired the old bicycle", "sold a basket of apples", "painted the garden fence",
    "wrote a long letter", "found a silver coin", "planted three cherry trees",
    "baked bread for the school", "carried water from the well", "read about distant islands",
    "built a small wooden boat",
)  # fmt: skip
_PLACES = (
    "in London", "near the station", "behind the church", "at the market", "by the river",
    "on the hill", "next to the mill", "in the library",
)  # fmt: skip
_DAYS = ("On Monday", "After lunch", "In the evening", "Last spring", "Before the storm", "At noon")


def prose(sentences: int, seed: int) -> str:
    """Plain sentences that do not repeat each other as a whole."""
    chance = random.Random(seed)
    return " ".join(
        f"{chance.choice(_DAYS)}, {chance.choice(_PEOPLE)} {chance.choice(_DEEDS)} "
        f"{chance.choice(_PLACES)}, and it took {chance.randrange(2, 99)} minutes."
        for _ in range(sentences)
    )


def tasks() -> dict[str, dict[str, Any]]:
    """The requests by name: fields of `completions.create`."""
    text = prose(48, 1)
    begun = " ".join(text.split(" ")[:12]).replace("London", "Paris")
    edit = (
        f"The original text:\n\n{text}\n\nThe same text, with Paris instead of London:\n\n{begun}"
    )
    story = "Once upon a time, in a village between two mountains, there lived a clockmaker who"
    ask = "Question: Why is the sky blue, and why are sunsets red?\nAnswer:"
    return {
        "edit a text, greedy": {"prompt": edit, "temperature": 0, "max_tokens": 400},
        "edit a text, temperature 0.3": {"prompt": edit, "temperature": 0.3, "max_tokens": 400},
        "tell a story, temperature 1": {"prompt": story, "temperature": 1, "max_tokens": 200},
        "answer a question, temperature 0.7": {"prompt": ask, "temperature": 0.7},
        "go on with the text, temperature 1": {"prompt": text, "temperature": 1},
        "20 tokens, temperature 1": {"prompt": story, "temperature": 1, "max_tokens": 20},
    }


async def run(engine: AsyncMLCEngine, request: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """One answer: its text, its speed, and the counts of drafted tokens."""
    given = {"max_tokens": 200, "ignore_eos": True, "seed": seed, **request}
    answer = await engine.completions.create(**given)
    extra = answer.usage.model_dump()["extra"] if answer.usage else {}
    return {"text": answer.choices[0].text, **extra}


async def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Decoding with and without drafts.")
    parser.add_argument("--model", default="smollm2-135m", help="a name, a folder or a .gguf file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    engines = {
        mode: await create_mlc_engine(
            args.model, runtime_options={"device": args.device, "speculative_mode": mode}
        )
        for mode in ("disable", "auto")
    }
    print(f"{args.model} on {args.device}; {args.rounds} rounds, medians")
    for name, request in tasks().items():
        rounds = []
        for seed in range(args.rounds + 1):
            order = list(engines) if seed % 2 else list(engines)[::-1]
            made = {mode: await run(engines[mode], request, seed) for mode in order}
            if made["auto"]["text"] != made["disable"]["text"]:
                raise RuntimeError(f"{name}, seed {seed}: the texts differ")
            rounds.append(made)
        rounds = rounds[1:]  # the first fills caches
        speed = {
            mode: statistics.median(r[mode]["decode_tokens_per_s"] for r in rounds)
            for mode in engines
        }
        ratios = sorted(
            r["auto"]["decode_tokens_per_s"] / r["disable"]["decode_tokens_per_s"] for r in rounds
        )
        drafted, accepted = (
            sum(r["auto"].get(f"{kind}draft_tokens", 0) for r in rounds)
            for kind in ("", "accepted_")
        )
        print(
            f"{name:>36}: {speed['disable']:6.1f} → {speed['auto']:6.1f} tokens/s, "
            f"× {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}); "
            f"{accepted} of {drafted} drafted tokens were right"
        )
    for engine in engines.values():
        await engine.terminate()


if __name__ == "__main__":
    asyncio.run(main())
