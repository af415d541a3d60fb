"""Write the list of the models that WebLLM offers: names, families and quantizations.

    npm pack @mlc-ai/web-llm && tar xzf mlc-ai-web-llm-*.tgz
    python tools/webllm_models.py package > tests/fixtures/webllm_models.json

A family is MLC's `model_type`; the package does not have it, so it is told from the name.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

FAMILIES = (
    ("snowflake-arctic-embed", "bert"),
    ("DeepSeek-R1-Distill-Qwen", "qwen2"),
    ("DeepSeek-R1-Distill-Llama", "llama"),
    ("Hermes-2-Pro-Mistral|OpenHermes-2.5-Mistral|NeuralHermes-2.5-Mistral|WizardMath", "mistral"),
    ("Ministral-3", "ministral3"),
    ("Mistral", "mistral"),
    ("Phi-3.5-vision", "phi3_v"),
    ("Phi-3|Phi-4-mini", "phi3"),
    ("phi-2", "phi-msft"),
    ("phi-1_5", "phi"),
    ("gemma-4", "gemma4"),
    ("gemma3", "gemma3_text"),
    ("gemma-2-", "gemma2"),
    ("gemma-2b", "gemma"),
    ("OLMo-2", "olmo2"),
    ("Qwen3.5", "qwen3_5"),
    ("Qwen3-", "qwen3"),
    ("Qwen2", "qwen2"),
    ("stablelm-2", "stablelm"),
    ("RedPajama", "gpt_neox"),
    ("Llama|SmolLM2|Hermes", "llama"),
)
"""Beginnings of names and their families; the first counts."""


def family_of(name: str) -> str:
    """The family of a model.

    Raises:
        ValueError: It is not known.
    """
    for pattern, family in FAMILIES:
        if re.match(pattern, name) or (family == "llama" and re.search(pattern, name)):
            return family
    raise ValueError(f"the family of {name} is not known; add it to FAMILIES")


def main() -> None:
    """Print the list."""
    package = Path(sys.argv[1])
    version = json.loads((package / "package.json").read_text())["version"]
    code = (package / "lib" / "index.js").read_text()
    start = code.index("model_list: [")
    names = re.findall(r'model_id: "([^"]+)"', code[start : code.index("\n};", start)])
    models = [[n, family_of(n), re.search(r"q\d+f\d+(?:_\d)?", n)[0]] for n in names]  # type: ignore[index]
    rows = ",\n".join(f"    {json.dumps(row)}" for row in models)
    print(f'{{\n  "package": "@mlc-ai/web-llm {version}",\n  "models": [\n{rows}\n  ]\n}}')


if __name__ == "__main__":
    main()
