"""What drafting tokens from earlier in the text saves, and what it costs where there are none.

    python benchmarks/speculation.py [--model MODEL] [--rounds 9] [--device cpu] [--threads 1]

A model is loaded once, and answers each request without drafts, with them, and without them once
more, as a control; all three must give the same text. Decoding is compared by tokens per second,
and the whole request by the CPU time of the process, as the median ratio of each round with a 95 %
bootstrap interval. In the first tasks the answer repeats most of a prompt of about 1,000 tokens;
in the others it does not, or there is little to repeat.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))
from _stats import shown

from mlc_widget import AsyncMLCEngine, create_mlc_engine
from mlc_widget.engine.runtimes.tvm.drafting import Drafting

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


class Modes:
    """One loaded engine, of which each request runs in another mode.

    Two loads of the same model differ by some percent, since they lie elsewhere in memory. So here
    the one scheduler gets another `Drafting` between requests, while it is idle. `AGAIN` is the
    control: it does the same as ``disable``, and its ratio is what the machine does by itself.
    """

    AGAIN = "disable again"

    def __init__(self, engine: AsyncMLCEngine) -> None:
        self._engine = engine
        (model,) = engine._core._models._models.values()  # type: ignore[attr-defined]
        self._scheduler = model.runtime._loaded.scheduler
        auto = self._scheduler._drafting
        # Each mode keeps what it has measured of steps.
        self._modes = {"auto": auto, "disable": Drafting("disable", auto._pages, auto._chunk)}

    async def run(self, mode: str, request: Mapping[str, Any], seed: int) -> dict[str, Any]:
        """One answer: its text, its speed, its CPU time, and the counts of drafted tokens."""
        self._scheduler.wait_idle(60)
        self._scheduler._drafting = self._modes["auto" if mode == "auto" else "disable"]
        given = {"max_tokens": 200, "ignore_eos": True, "seed": seed, **request}
        cpu = time.process_time()
        answer = await self._engine.completions.create(**given)
        cpu = time.process_time() - cpu
        extra = answer.usage.model_dump()["extra"] if answer.usage else {}
        return {"text": answer.choices[0].text, "cpu": cpu, **extra}


def ratio(rounds: list[dict[str, dict[str, Any]]], mode: str, clock: str) -> str:
    """How much faster than without drafts: the median of the rounds, and its 95 % interval."""
    if clock == "cpu":
        pairs = [r["disable"]["cpu"] / r[mode]["cpu"] for r in rounds]
    else:
        pairs = [r[mode][clock] / r["disable"][clock] for r in rounds]
    return f"× {shown(pairs, digits=3)}"


async def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Decoding with and without drafts.")
    parser.add_argument("--model", default="smollm2-135m", help="a name, a folder or a .gguf file")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="threads of the engine")
    parser.add_argument("--only", nargs="+", choices=list(tasks()), default=list(tasks()))
    args = parser.parse_args()
    options = {"device": args.device, "speculative_mode": "auto"}
    if args.threads:
        options["threads"] = args.threads
    engine = await create_mlc_engine(args.model, runtime_options=options)
    modes = Modes(engine)
    print(f"{args.model} on {args.device}; {args.rounds} rounds, medians")
    for name in args.only:
        rounds: list[dict[str, dict[str, Any]]] = []
        for seed in range(args.rounds + 1):
            order = ["disable", "auto", Modes.AGAIN]
            order = order[seed % 3 :] + order[: seed % 3]
            if seed % 2:
                order.reverse()
            made = {mode: await modes.run(mode, tasks()[name], seed) for mode in order}
            if len({answer["text"] for answer in made.values()}) > 1:
                raise RuntimeError(f"{name}, seed {seed}: the texts differ")
            rounds.append(made)
        rounds = rounds[1:]  # the first fills caches
        speed = {
            mode: statistics.median(r[mode]["decode_tokens_per_s"] for r in rounds)
            for mode in ("disable", "auto")
        }
        drafted, accepted = (
            sum(r["auto"].get(f"{kind}draft_tokens", 0) for r in rounds)
            for kind in ("", "accepted_")
        )
        print(
            f"{name}: {speed['disable']:.1f} → {speed['auto']:.1f} tokens/s; "
            f"{accepted} of {drafted} drafted tokens were right"
        )
        for clock, title in (("decode_tokens_per_s", "decoding"), ("cpu", "CPU time of all")):
            print(
                f"{title:>20}: {ratio(rounds, 'auto', clock)}; "
                f"control {ratio(rounds, Modes.AGAIN, clock)}",
                flush=True,
            )
    await engine.terminate()


if __name__ == "__main__":
    asyncio.run(main())
