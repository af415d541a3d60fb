"""The model card, with every number read from the scores.

``python -m tools.demo.card`` writes the README.md of the demo model's folder anew.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "mlc_widget" / "models" / "demo"
SCORES = Path(__file__).with_name("scores.json")

GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Talk", ("greetings", "goodbyes", "small_talk", "statements", "identity", "refusals",
              "unclear", "too_big")),
    ("Using mlc_widget", ("usage", "glossary")),
    ("Memory", ("name", "name_unknown", "about_me", "about_me_unknown", "talk_recall")),
    ("Arithmetic", ("addition", "subtraction", "multiplication", "division", "arithmetic_chain",
                    "arithmetic_steps", "arithmetic_sure", "word_problem")),
    ("Counting and order", ("counting", "counting_go_on", "comparing", "sorting", "number_words")),
    ("Facts", ("capitals", "continents", "languages", "currencies", "unknown_facts", "animals",
               "colours", "calendar", "units", "general_facts", "examples", "follow_up")),
    ("Language", ("opposites", "plurals", "past_tense", "translation")),
    ("Letters", ("spelling", "reversing", "letter_count", "repeating")),
    ("JSON", ("json", "json_edit", "json_extract", "json_array")),
    ("Markdown and code", ("lists", "tables", "formulas", "code", "code_explain", "code_rename")),
    ("Stories and fun", ("stories", "story_questions", "poems", "jokes", "riddles")),
)  # fmt: skip

CARD = """\
# The demo model of mlc_widget

A tiny chat model for trying mlc_widget offline and for its tests. It greets, counts, adds, recalls
what you told it, names capitals, tells little stories, writes JSON, lists, tables and short Python
functions, and explains how to use mlc_widget. It is not a model for work.

| | |
| --- | --- |
| architecture | Llama: {num_hidden_layers} layers, hidden size {hidden_size}, \
{num_attention_heads} heads, {num_key_value_heads} of them with keys and values, tied embeddings |
| parameters | {parameters:,} |
| format | MLC, `{quantization}` (4-bit codes in groups of 32), {megabytes:.1f} MB |
| context | {context_window_size} tokens |
| tokenizer | byte-level BPE, {vocab_size} tokens; digits and the capitals of words stand alone |
| prompt | ChatML; the default system prompt is "{system_message}" |
| license | Apache-2.0, as mlc_widget |

## How it was made

From nothing, on text that `tools/demo/` writes: about sixty kinds of little tasks, strung together
to conversations of up to some thirty turns, never the same twice. No text from elsewhere, and no
other model, went into it. Loss on the answers alone; the last part of the training sees the weights
as they are shipped, rounded to 4 bits.

{training}
{note}
## How it scored

Measured on the folder as it is shipped (4-bit weights, float32 arithmetic), greedy, each answer
checked by a program. **What is asked here was kept out of training**: wordings of every kind of
question; names, cities and words; combinations of numbers. Facts themselves can only be learnt, so
there the wordings alone are new. A test checks that the two parts share nothing.

| kind | right | asked | score |
| --- | ---: | ---: | ---: |
{rows}
| **all** | **{right}** | **{asked}** | **{score:.3f}** |

Per kind:

| kind | score | asked | | kind | score | asked |
| --- | ---: | ---: | --- | --- | ---: | ---: |
{kinds}

In conversations that go on from the model's own answers:

| | right | asked | score |
| --- | ---: | ---: | ---: |
{dialogues}

The first things that people ask:

{first}

## What it is not for

- Facts that matter, advice, anything where a mistake costs: it makes mistakes with confidence.
- Subjects outside the list above. It is trained to say so, and does not always.
- Languages other than English, texts longer than a page, arithmetic beyond three digits.
- Measuring what mlc_widget can do with a real model: load one with `%mlc load`.
"""

DIALOGUES = {
    "recall_after_other_topics": "something told, one to six other topics, then asked for",
    "system_prompt": "a system prompt that changes the answers (content and form)",
    "conversation_of_24_exchanges": "conversations of 24 exchanges about everything",
}


def _line(name: str, rows: list[dict[str, Any]]) -> str:
    right, asked = sum(row["right"] for row in rows), sum(row["asked"] for row in rows)
    return f"| {name} | {right} | {asked} | {right / asked:.3f} |"


def _training(runs: list[dict[str, Any]]) -> str:
    lines = []
    for run in runs:
        tokens = run["steps"] * run["rows"] * run["length"] / 1e6
        lines.append(
            f"- {run['steps']:,} steps of {run['rows']} rows of {run['length']} tokens "
            f"({tokens:,.0f} million tokens), the last {run['quantized_share']:.0%} with 4-bit "
            f"weights, learning rate up to {run['peak']:g}, seed {run['seed']}:\n"
            f"  `{run['command']}`"
        )
    return "\n".join(lines)


def render(folder: Path, scores_file: Path) -> str:
    """The card of a model folder with these scores."""
    scores = json.loads(scores_file.read_text(encoding="utf-8"))
    config = json.loads((folder / "mlc-chat-config.json").read_text(encoding="utf-8"))
    cache = json.loads((folder / "tensor-cache.json").read_text(encoding="utf-8"))
    kinds = scores["kinds"]
    groups = [
        (name, [kinds[kind] for kind in members if kind in kinds]) for name, members in GROUPS
    ]
    named = {kind for _, members in GROUPS for kind in members}
    if set(kinds) - named:
        raise ValueError(f"kinds without a group in the card: {sorted(set(kinds) - named)}")
    cells = [
        f"{kind.replace('_', ' ')} | {row['score']:.3f} | {row['asked']}"
        for kind, row in kinds.items()
    ]
    half = (len(cells) + 1) // 2
    cells += [" | | "] * (2 * half - len(cells))
    pairs = zip(cells[:half], cells[half:], strict=True)
    first = []
    for row in scores["first_questions"]:
        quoted = row["answer"].replace("\n", "\n> ")
        first.append(f"**{row['question']}**\n\n> {quoted}\n")
    parameters = sum(
        _size(record["shape"]) * (8 if record["name"].endswith("q_weight") else 1)
        for shard in cache["records"]
        for record in shard["records"]
        if not record["name"].endswith("q_scale")
    )
    return CARD.format(
        **config["model_config"],
        quantization=config["quantization"],
        system_message=config["conv_template"]["system_message"],
        parameters=parameters,
        megabytes=sum(path.stat().st_size for path in folder.glob("[!R]*")) / 1e6,
        training=_training(scores["training"]),
        note=f"\n{scores['note']}\n" if "note" in scores else "",
        rows="\n".join(_line(name, rows) for name, rows in groups if rows),
        kinds="\n".join(f"| {left} | | {right} |" for left, right in pairs),
        dialogues="\n".join(
            _line(DIALOGUES[name], [row]) for name, row in scores["conversations"].items()
        ),
        first="\n".join(first).rstrip(),
        **scores["all"],
    )


def _size(shape: list[int]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size


def write_card(folder: Path, scores_file: Path) -> None:
    """Write README.md of a model folder."""
    (folder / "README.md").write_text(render(folder, scores_file), encoding="utf-8")


def main() -> None:
    """Write the card of the demo model."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--scores", type=Path, default=SCORES)
    arguments = parser.parse_args()
    write_card(arguments.folder, arguments.scores)


if __name__ == "__main__":
    main()
