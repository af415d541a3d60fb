"""Why models of known kinds do not run: what they have that no runtime of this package computes.

The names are those of transformers (`model_type`), of llama.cpp (``general.architecture``) and of
MLC, which differ in their signs: ``qwen3_moe`` and ``qwen3moe`` are one kind.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from mlc_widget.api.request_values import shortened

RECURRENT: Final = (
    "some of its layers keep a recurrent state (Mamba, RWKV, linear attention or short "
    "convolutions) in place of keys and values"
)
EXPERTS: Final = "it is a mixture of experts: a router chooses the MLPs that a token goes through"
IMAGES: Final = "it also reads images or sound"
ENCODER: Final = "it has an encoder, whose outputs its decoder attends to"

_KINDS: Final = {
    RECURRENT: (
        r"mamba.*|falconmamba|rwkv.*|arwkv.*|bamba|jamba|zamba.*|falconh1|plamo[23]|nemotronh.*"
        r"|granitehybrid|granitemoehybrid|lfm2(moe)?|qwen3next|qwen35(moe)?(text)?|kimilinear"
        r"|recurrentgemma|minimax(01|text01)?|olmohybrid"
    ),
    IMAGES: (
        r".*vl(moe)?|mllama|llava.*|clip|paligemma|pixtral|idefics\d?|smolvlm|cogvlm|chameleon"
        r"|phi3v|phi4mm|phi4multimodal|internvl.*|gemma3n.*|qwen\d*(25)?omni.*|.*ocr|ultravox"
        r"|mistral3|florence2|molmo.*|minicpmv|.*vision"
    ),
    EXPERTS: (
        r".*moe(v?2|shared|text)?|mixtral|deepseek([23]|v[23]|v32)?|gptoss|dbrx|arctic|grok"
        r"|llama4(text)?|dots1|minimaxm2|smallthinker|glm4moelite|longcatflash|kimik2"
    ),
    ENCODER: r"t5.*|u?mt5|flant5|bart|mbart|t5gemma|pegasus|whisper|marian|m2m100",
}
"""The kinds of each mechanism, as regular expressions of their names in letters and digits."""
_COUNTS: Final = (
    *("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"),
    "expert_count",
)
"""Fields that have the number of experts, in config.json and in GGUF files."""
_RECURRENT_LAYERS: Final = ("mamba", "mamba2", "linear_attention", "conv", "recurrent")
"""What config.json calls layers with a recurrent state."""


def missing_mechanism(fields: Mapping[str, Any]) -> str | None:
    """What a model's fields say that it has and no runtime computes, as a clause; None if nothing.

    Args:
        fields: Those of config.json, or of a GGUF file without the architecture before them.
    """
    layers = fields.get("layer_types") or fields.get("layers_block_type")
    if isinstance(layers, list) and any(layer in _RECURRENT_LAYERS for layer in layers):
        return RECURRENT
    if any(name.startswith("ssm.") for name in fields):
        return RECURRENT
    for name in _COUNTS:
        count = fields.get(name)
        if isinstance(count, int) and not isinstance(count, bool) and count > 0:
            return f"{EXPERTS} ({name} is {shortened(count)})"
    return None


def mechanism_of_kind(kind: object) -> str | None:
    """What models of this kind have and no runtime computes, as a clause; None if not known.

    Args:
        kind: A `model_type` or ``general.architecture`` that is not supported.
    """
    if not isinstance(kind, str):
        return None
    plain = re.sub(r"[^a-z0-9]", "", kind[:60].lower())
    return next((why for why, names in _KINDS.items() if re.fullmatch(names, plain)), None)
