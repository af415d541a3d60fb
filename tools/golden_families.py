"""Write transformers' logits of the tiny models of `families`.

    python tools/golden_families.py tests/fixtures/families [NAME …]

Needs torch and transformers.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import families
import mlc_format
import numpy as np
import torch
import transformers

UNUSED = (".rotary_emb.inv_freq", ".masked_bias", ".attention.bias", ".attn.bias")


def quantized(name: str, tensor: str, value: Any, quantization: Any) -> Any:
    """A tensor's values once it is quantized, in float32."""
    if value.ndim != 2:
        # MLC's folders have the weights of Gemma's norms with the 1 already added.
        plus = np.float32(1 if name.startswith("gemma") else 0)
        rounded = (value + plus).astype(mlc_format.MODEL_DTYPE[quantization])
        return rounded.astype(np.float32) - plus
    if name == "gpt2" and not any(part in tensor for part in ("wte", "wpe")):
        return quantized(name, "wte", value.T, quantization).T  # inputs come first
    return mlc_format.dequantized({"w.weight": value}, quantization)["w.weight"]


def make(name: str, file: Path) -> None:
    """Write the fixture of one model."""
    config = transformers.AutoConfig.for_model(**families.CONFIGS[name])
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    tied = families.CONFIGS[name].get("tie_word_embeddings", False)
    # As files have it, which newer versions of transformers rename when they read them.
    output = "embed_out." if name == "gpt_neox" else "lm_head."
    shapes = {
        key.replace("lm_head.", output): tuple(value.shape)
        for key, value in model.state_dict().items()
        if not key.endswith(UNUSED) and not (tied and key == "lm_head.weight")
    }
    state = families.state(name, shapes)
    ids = torch.tensor([families.prompt(name)])
    arrays = {"shapes": np.array(json.dumps({k: list(v) for k, v in shapes.items()}))}
    for quantization in (None, *families.QUANTIZATIONS):
        values = {
            key: value if quantization is None else quantized(name, key, value, quantization)
            for key, value in state.items()
        }
        missing, unexpected = model.load_state_dict(
            {
                key.replace(output, "lm_head."): torch.from_numpy(np.ascontiguousarray(v))
                for key, v in values.items()
            },
            strict=False,
        )
        assert not unexpected, unexpected
        assert all(key == "lm_head.weight" or key.endswith(UNUSED) for key in missing), missing
        model.tie_weights()
        with torch.no_grad():
            logits = model(ids).logits[0].numpy().astype(np.float32)
        arrays["logits" if quantization is None else f"logits_{quantization}"] = logits
    np.savez_compressed(file, **arrays)
    print(name, file.stat().st_size, np.abs(arrays["logits"]).max())


def main() -> None:
    """Write all, or those that are named."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for name in sys.argv[2:] or families.CONFIGS:
        make(name, folder / f"{name}.npz")


if __name__ == "__main__":
    main()
