"""Score a finished model folder on held-out conversations.

The model is read back from the 4-bit folder and computes in float32; it answers greedily. Its
own answers stay in a conversation of many turns. The turns of one short exchange are scored each by
itself, after the right answers to the turns before.

``python -m tools.demo.evaluate mlc_widget/models/demo --out scores.json``
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from tools.demo import corpus
from tools.demo.dialogue import DEFAULT_SYSTEM, Dialogue
from tools.demo.model import Config, Llama
from tools.demo.tokenizer import END_OF_TEXT_ID, IM_END_ID
from tools.mlc_format import dequantize_group, read_params

FIRST_QUESTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Hello!", ("hello", "hi")),
    ("What can you do?", ("stories",)),
    ("Tell me a story about a fox.", ("fox",)),
    ("What is 17 + 25?", ("42",)),
    ("Give me a JSON object with the name Ada and age 36", ('{"name": "Ada", "age": 36}',)),
    ("How do I stop a reply?", ("stop",)),
    ("What is the capital of France?", ("Paris",)),
    ("Write a Python function that reverses a string.", ("[::-1]",)),
)


# Questions about what the model itself has made up, which a script cannot foresee.
NEEDS_SCRIPT = frozenset({"story_questions", "riddles", "code_explain", "code_rename"})


def load(folder: Path, device: str) -> tuple[Llama, Tokenizer]:
    """The model and the tokenizer of an MLC folder, weights expanded to float32."""
    params = read_params(folder)
    shape = json.loads((folder / "mlc-chat-config.json").read_text(encoding="utf-8"))
    fields = Config.__dataclass_fields__
    config = Config(**{k: v for k, v in shape["model_config"].items() if k in fields})
    state: dict[str, np.ndarray] = {}
    for name in params:
        stem, kind = name.rsplit(".", 1)
        if kind == "q_scale":
            continue
        value = params[name]
        if kind == "q_weight":
            value = dequantize_group(value, params[f"{stem}.q_scale"])
        parent, _, leaf = stem.rpartition(".")
        if leaf == "qkv_proj":
            wide = config.num_attention_heads * config.head_dim
            narrow = config.num_key_value_heads * config.head_dim
            parts = np.split(value, [wide, wide + narrow])
            for part, piece in zip(("q_proj", "k_proj", "v_proj"), parts, strict=True):
                state[f"{parent}.{part}.weight"] = piece
        elif leaf == "gate_up_proj":
            for part, piece in zip(("gate_proj", "up_proj"), np.split(value, 2), strict=True):
                state[f"{parent}.{part}.weight"] = piece
        else:
            state[f"{stem}.weight"] = value
    model = Llama(config).eval()
    model.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in state.items()})
    return model.to(device), Tokenizer.from_file(str(folder / "tokenizer.json"))


@torch.inference_mode()
def complete(model: Llama, prompts: Sequence[Sequence[int]], max_new: int = 400) -> list[list[int]]:
    """Greedy answers to many prompts at once, without the token that ends them."""
    device = model.cos.device
    window = model.config.context_window_size
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    longest = int(lengths.max())
    padded = torch.zeros((len(prompts), longest), dtype=torch.long, device=device)
    for row, prompt in enumerate(prompts):
        padded[row, : len(prompt)] = torch.tensor(prompt, device=device)
    logits, fresh = model.prefill(padded)
    rows = torch.arange(len(prompts), device=device)
    token = logits[rows, lengths - 1].argmax(dim=1)
    del logits
    room = min(longest + max_new, window)
    caches = []
    for keys, values in fresh:
        batch, heads, _, size = keys.shape
        wide = [torch.zeros((batch, heads, room, size), device=device) for _ in range(2)]
        wide[0][:, :, :longest], wide[1][:, :, :longest] = keys, values
        caches.append((wide[0], wide[1]))
    del fresh
    answers: list[list[int]] = [[] for _ in prompts]
    alive = list(range(len(prompts)))
    at = lengths
    for _ in range(max_new):
        ended = (token == IM_END_ID) | (token == END_OF_TEXT_ID) | (at >= room - 1)
        going = []
        for row, (index, one, over) in enumerate(
            zip(alive, token.tolist(), ended.tolist(), strict=True)
        ):
            if not over:
                answers[index].append(one)
                going.append(row)
        if not going:
            break
        if len(going) < len(alive):
            # Rows that have ended leave the batch.
            kept = torch.tensor(going, device=device)
            alive = [alive[row] for row in going]
            token, at = token[kept], at[kept]
            caches = [(keys[kept], values[kept]) for keys, values in caches]
        token = model.step(token, at, caches).argmax(dim=1)
        at = at + 1
    return answers


class Player:
    """Plays conversations with the model and keeps what it answered."""

    def __init__(self, model: Llama, tokenizer: Tokenizer, batch: int) -> None:
        self.model, self.tokenizer, self.batch = model, tokenizer, batch

    def play(self, dialogues: Sequence[Dialogue], *, own: bool) -> list[list[str]]:
        """The model's answers to every turn of every conversation.

        With ``own`` the conversation goes on from the model's answers, otherwise from the right
        ones: a question about a story can only be asked about a story that is known.
        """
        answers: list[list[str]] = [[] for _ in dialogues]
        texts = [
            f"<|im_start|>system\n{dialogue.style.system}<|im_end|>\n"
            if dialogue.style.system
            else ""
            for dialogue in dialogues
        ]
        limit = self.model.config.context_window_size - 100
        for number in range(max(len(dialogue.turns) for dialogue in dialogues)):
            alive = [
                index for index, dialogue in enumerate(dialogues) if len(dialogue.turns) > number
            ]
            prompts = []
            for index in alive:
                user = dialogues[index].turns[number].user
                texts[index] += f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"
                prompts.append(self.tokenizer.encode(texts[index]).ids)
            fitting = [i for i, prompt in enumerate(prompts) if len(prompt) < limit]
            # Prompts of like length go together.
            fitting.sort(key=lambda i: len(prompts[i]))
            replies = [""] * len(prompts)
            for start in range(0, len(fitting), self.batch):
                chosen = fitting[start : start + self.batch]
                for i, ids in zip(
                    chosen, complete(self.model, [prompts[i] for i in chosen]), strict=True
                ):
                    replies[i] = self.tokenizer.decode(ids)
            for index, reply in zip(alive, replies, strict=True):
                answers[index].append(reply)
                said = reply if own else dialogues[index].turns[number].answer
                texts[index] += f"{said}<|im_end|>\n"
        return answers


class Scores:
    """Right and asked per kind of task, with some of what went wrong."""

    def __init__(self) -> None:
        self.right: dict[str, int] = defaultdict(int)
        self.asked: dict[str, int] = defaultdict(int)
        self.wrong: dict[str, list[dict[str, str]]] = defaultdict(list)

    def add(self, kind: str, dialogue: Dialogue, turn: int, answer: str) -> None:
        """Judge one answer."""
        asked = dialogue.turns[turn]
        self.asked[kind] += 1
        if asked.check.passes(answer) and not answer.endswith("\0"):
            self.right[kind] += 1
        elif len(self.wrong[kind]) < 12:
            before = dialogue.turns[turn - 1].user if turn else ""
            self.wrong[kind].append(
                {"before": before, "user": asked.user, "want": asked.answer, "got": answer}
            )

    def table(self) -> dict[str, dict[str, float]]:
        """Kind → right, asked, and their ratio."""
        return {
            kind: {
                "right": self.right[kind],
                "asked": self.asked[kind],
                "score": round(self.right[kind] / self.asked[kind], 4),
            }
            for kind in sorted(self.asked)
        }


def evaluate(folder: Path, *, per_kind: int, batch: int, device: str) -> tuple[Any, Any]:
    """Scores as they are published, and wrong answers to learn from."""
    model, tokenizer = load(folder, device)
    player = Player(model, tokenizer, batch)
    single, many = Scores(), Scores()
    seed = 2
    dialogues = [
        dialogue for kind in corpus.KINDS for dialogue in corpus.single_turns(seed, kind, per_kind)
    ]
    for dialogue, answers in zip(dialogues, player.play(dialogues, own=False), strict=True):
        for number, answer in enumerate(answers):
            single.add(dialogue.turns[number].kind, dialogue, number, answer)
    groups = (
        ("recall_after_other_topics", list(corpus.recalls(seed, 2 * per_kind))),
        ("system_prompt", list(corpus.styled(seed, 2 * per_kind))),
        ("conversation_of_24_exchanges", list(corpus.long_dialogues(seed, max(1, per_kind // 4)))),
    )
    for name, dialogues in groups:
        for dialogue, answers in zip(dialogues, player.play(dialogues, own=True), strict=True):
            if name == "recall_after_other_topics":
                many.add(name, dialogue, len(answers) - 1, answers[-1])
                continue
            for number, answer in enumerate(answers):
                if dialogue.turns[number].kind in NEEDS_SCRIPT:
                    continue
                if name == "system_prompt" and not _obeyed(dialogue, number, answer):
                    answer = f"(form) {answer}\0"
                many.add(name, dialogue, number, answer)
    first: list[dict[str, str | bool]] = []
    for question, wanted in FIRST_QUESTIONS:
        prompt = (
            f"<|im_start|>system\n{DEFAULT_SYSTEM}<|im_end|>\n"
            f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        )
        answer = tokenizer.decode(complete(model, [tokenizer.encode(prompt).ids])[0])
        good = any(part.lower() in answer.lower() for part in wanted)
        first.append({"question": question, "answer": answer, "right": good})
    right = sum(single.right.values())
    asked = sum(single.asked.values())
    scores = {
        "all": {"right": right, "asked": asked, "score": round(right / asked, 4)},
        "kinds": single.table(),
        "conversations": many.table(),
        "first_questions": first,
    }
    return scores, {**single.wrong, **many.wrong}


def _obeyed(dialogue: Dialogue, number: int, answer: str) -> bool:
    """Whether an answer has the form that the system prompt asks for."""
    frame = dialogue.style.apply("\0")
    start, end = frame.split("\0")
    short = not dialogue.style.short or len(answer) <= len(dialogue.turns[number].answer) + 3
    return answer.startswith(start) and answer.endswith(end) and short


def main() -> None:
    """Evaluate a folder and write the scores."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--per-kind", type=int, default=120)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--out", type=Path, help="where to write the scores")
    parser.add_argument("--wrong", type=Path, help="where to write wrong answers")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    scores, wrong = evaluate(
        arguments.folder, per_kind=arguments.per_kind, batch=arguments.batch, device=device
    )
    write_scores(scores, arguments.out)
    if arguments.wrong:
        write_json(wrong, arguments.wrong)


def write_scores(scores: Any, path: Path | None) -> None:
    """Print the scores and write them where asked."""
    for group in ("kinds", "conversations"):
        for kind, row in scores[group].items():
            print(f"{kind:32} {row['right']:5} / {row['asked']:5}  {row['score']:.3f}")
    print("all", scores["all"])
    for row in scores["first_questions"]:
        print(f"> {row['question']}\n{row['answer']}")
    if path:
        write_json(scores, path)


def write_json(content: Any, path: Path) -> None:
    """Write a file of JSON for people and programs."""
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
