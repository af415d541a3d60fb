"""Make the golden fixtures: tiny random models, and what transformers computes from them.

    python tools/golden.py tests/fixtures

Needs torch and transformers in addition to numpy and tokenizers; the tests need neither. Each of
``golden/`` is an MLC model folder with ``golden.npz`` beside the weights:

- ``prompt`` (n,) int32, a prompt that crosses pages and chunks;
- ``logits`` (n, vocab) float32, transformers' logits at every position of it, in float32, from the
  very weights of the folder (dequantised, rounded to bfloat16 where the folder stores that);
- ``greedy`` (m,) int32, the tokens that greedy decoding appends to it.

``architectures/`` has one folder for each architecture, in q0f32, with ``prompt.npy`` and, for each
quantization, ``<quantization>.npz`` with the ``logits`` of the same weights after quantisation.
Tests make the other quantizations from the folder by `mlc_format.quantize_params`.

``wide/`` has one ``<architecture>.npz`` with such logits, by quantization, of each model of `wide`,
whose weights are made from a seed where they are needed.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlc_format
import numpy as np
import tokenizers
import torch
import transformers
import wide
from tokenizers import decoders, models, pre_tokenizers

PROMPT_TOKENS = 84
GREEDY_TOKENS = 40


@dataclass(frozen=True)
class Golden:
    """One fixture."""

    name: str
    quantization: mlc_format.Quantization
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool
    layers: int = 2
    theta: float = 10000.0
    rope_scaling: dict[str, Any] | None = None
    encode_format: mlc_format.EncodeFormat = "f32-to-bf16"
    cache_name: str = "tensor-cache.json"
    extra: dict[str, Any] = field(default_factory=dict)


_GQA = {"hidden": 64, "intermediate": 96, "heads": 4, "kv_heads": 2, "head_dim": 16, "vocab": 259}
_MHA = {"hidden": 96, "intermediate": 160, "heads": 3, "kv_heads": 3, "head_dim": 32, "vocab": 131}
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}

GOLDENS = [
    Golden("gqa-tied-q0f32", "q0f32", tied=True, **_GQA),
    Golden("gqa-tied-q4f32_1", "q4f32_1", tied=True, **_GQA),
    Golden("mha-untied-q0f32", "q0f32", tied=False, theta=5e5, **_MHA),
    Golden(
        "mha-untied-q4f32_1",
        "q4f32_1",
        tied=False,
        encode_format="raw",
        cache_name="ndarray-cache.json",
        **_MHA,
    ),
    # No size is a multiple of 32, nor half a head one of 16; Llama 3.1's rotary embedding.
    Golden(
        "odd-sizes-q0f32",
        "q0f32",
        hidden=72,
        intermediate=88,
        heads=3,
        kv_heads=1,
        head_dim=48,
        vocab=101,
        tied=False,
        rope_scaling=_LLAMA3_ROPE,
    ),
]


_TINY = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 67,
    "rms_norm_eps": 1e-5,
    "context_window_size": 256,
    "prefill_chunk_size": 32,
}
_QWEN = {"hidden_act": "silu", "rope_theta": 1000000}

ARCHITECTURES: dict[mlc_format.ModelType, dict[str, Any]] = {
    "llama": {
        **_TINY,
        "head_dim": 16,
        "tie_word_embeddings": True,
        "position_embedding_base": 500000,
        "rope_scaling": _LLAMA3_ROPE,
    },
    "mistral": {
        **_TINY,
        "head_dim": 16,
        "tie_word_embeddings": False,
        "position_embedding_base": 10000,
        "sliding_window_size": 21,
        "attention_sink_size": 4,
    },
    "qwen2": {**_TINY, **_QWEN, "head_dim": 16, "tie_word_embeddings": True},
    # A head is wider than hidden_size / num_attention_heads.
    "qwen3": {
        **_TINY,
        **_QWEN,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 48,
        "tie_word_embeddings": False,
        "attention_bias": False,
    },
}
"""MLC's `model_config` of each."""


def tokenizer_json() -> str:
    """A byte-level tokenizer without merges: 256 bytes and three special tokens."""
    special = ["<pad>", "<|im_start|>", "<|im_end|>"]
    names = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = tokenizers.Tokenizer(models.BPE({n: i for i, n in enumerate(names)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    text: str = tokenizer.to_str()
    return text


def reference(g: Golden) -> transformers.LlamaForCausalLM:
    """A random model whose attention and logits are far from uniform."""
    rope = dict(g.rope_scaling or {"rope_type": "default"}) | {"rope_theta": g.theta}
    config = transformers.LlamaConfig(
        hidden_size=g.hidden,
        intermediate_size=g.intermediate,
        num_hidden_layers=g.layers,
        num_attention_heads=g.heads,
        num_key_value_heads=g.kv_heads,
        head_dim=g.head_dim,
        vocab_size=g.vocab,
        rms_norm_eps=1e-5,
        tie_word_embeddings=g.tied,
        rope_parameters=rope,
        max_position_embeddings=512,
        attn_implementation="eager",
    )
    torch.manual_seed(sum(map(ord, g.name)))
    model = transformers.LlamaForCausalLM(config).float().eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 1:
                p.copy_(1 + 0.2 * torch.randn_like(p))
            else:
                scale = 1.0 if "embed" in name or "lm_head" in name else 1.6
                p.copy_(scale * torch.randn_like(p) / p.shape[1] ** 0.5)
    return model


def stored(g: Golden, value: np.ndarray) -> np.ndarray:
    """A float32 array as the folder gives it back."""
    if g.encode_format == "raw":
        return value
    return mlc_format.from_bf16(mlc_format.to_bf16(value)).reshape(value.shape)


def as_stored(g: Golden, model: transformers.LlamaForCausalLM) -> None:
    """Replace the model's weights by those that the folder will hold."""
    with torch.no_grad():
        for p in model.parameters():
            value = p.numpy().copy()
            if p.ndim == 2 and g.quantization == "q4f32_1":
                q, s = mlc_format.quantize_group(value, scale_dtype=np.float32)
                value = mlc_format.dequantize_group(q, stored(g, s))
            else:
                value = stored(g, value)
            p.copy_(torch.from_numpy(value))


def make(g: Golden, folder: Path) -> None:
    """Write one fixture."""
    model = reference(g)
    state = {k: v.detach().numpy().copy() for k, v in model.state_dict().items()}
    params = mlc_format.llama_params(state, g.quantization, tie_word_embeddings=g.tied)
    config = {
        "hidden_size": g.hidden,
        "intermediate_size": g.intermediate,
        "num_attention_heads": g.heads,
        "num_key_value_heads": g.kv_heads,
        "num_hidden_layers": g.layers,
        "head_dim": g.head_dim,
        "vocab_size": g.vocab,
        "rms_norm_eps": 1e-5,
        "position_embedding_base": g.theta,
        "rope_scaling": g.rope_scaling,
        "tie_word_embeddings": g.tied,
        "context_window_size": 256,
        "prefill_chunk_size": 32,
    }
    mlc_format.write_model(
        folder,
        params=params,
        config=config,
        quantization=g.quantization,
        tokenizer_json=tokenizer_json(),
        shard_bytes=64 << 10,
        cache_name=g.cache_name,
        encode_format=g.encode_format,
    )
    as_stored(g, model)
    rng = np.random.default_rng(7)
    prompt = rng.integers(3, g.vocab, PROMPT_TOKENS)
    ids = torch.from_numpy(prompt[None])
    with torch.no_grad():
        logits = model(ids).logits[0].numpy()
        for _ in range(GREEDY_TOKENS):
            best = model(ids).logits[0, -1].argmax()
            ids = torch.cat([ids, best[None, None]], dim=1)
    np.savez_compressed(
        folder / "golden.npz",
        prompt=prompt.astype(np.int32),
        logits=logits.astype(np.float32),
        greedy=ids[0, PROMPT_TOKENS:].numpy().astype(np.int32),
    )


def transformers_model(model_type: str, config: dict[str, Any]) -> Any:
    """Transformers' model of an MLC `model_config`, with random weights."""
    rope = dict(config.get("rope_scaling") or {"rope_type": "default"})
    theta = config.get("rope_theta") or config["position_embedding_base"]
    extra: dict[str, Any] = {}
    if model_type == "mistral":
        extra["sliding_window"] = config["sliding_window_size"]
    same = (
        *("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"),
        *("num_hidden_layers", "head_dim", "vocab_size", "rms_norm_eps", "tie_word_embeddings"),
    )
    made = transformers.AutoConfig.for_model(
        model_type,
        **{key: config[key] for key in same},
        rope_parameters=rope | {"rope_theta": float(theta)},
        max_position_embeddings=512,
        attn_implementation="eager",
        **extra,
    )
    torch.manual_seed(sum(map(ord, model_type)))
    model = transformers.AutoModelForCausalLM.from_config(made).float().eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("bias"):
                p.copy_(0.5 * torch.randn_like(p))
            elif p.ndim == 1:
                p.copy_(1 + 0.2 * torch.randn_like(p))
            else:
                scale = 1.0 if "embed" in name or "lm_head" in name else 1.6
                p.copy_(scale * torch.randn_like(p) / p.shape[1] ** 0.5)
    return model


def put(model: Any, params: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Replace the model's weights by MLC's parameters: `mlc_format.fuse` undone."""
    heads, kv, d = (config[k] for k in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    parts = {
        "qkv_proj": (("q_proj", "k_proj", "v_proj"), (heads * d, kv * d, kv * d)),
        "gate_up_proj": (("gate_proj", "up_proj"), (config["intermediate_size"],) * 2),
    }
    parts["c_attn"] = parts["qkv_proj"]
    state = {}
    for name, value in params.items():
        stem, fused, kind = name.rpartition(".")[0].rpartition(".")[0], *name.split(".")[-2:]
        if fused not in parts:
            state[name] = value
            continue
        at = 0
        for part, rows in zip(*parts[fused], strict=True):
            state[f"{stem}.{part}.{kind}"] = value[at : at + rows]
            at += rows
    missing, unexpected = model.load_state_dict(
        {k: torch.from_numpy(v.copy()) for k, v in state.items()}, strict=False
    )
    assert not unexpected, unexpected
    assert set(missing) <= {"lm_head.weight"}, missing


def make_architecture(model_type: mlc_format.ModelType, folder: Path) -> None:
    """Write one architecture and its logits in all quantizations."""
    config = ARCHITECTURES[model_type]
    model = transformers_model(model_type, config)
    state = {k: v.detach().numpy().copy() for k, v in model.state_dict().items()}
    tied = config["tie_word_embeddings"]
    fused = dict(mlc_format.fuse(state, model_type=model_type, tie_word_embeddings=tied))
    mlc_format.write_model(
        folder,
        params=fused,
        config=config,
        quantization="q0f32",
        model_type=model_type,
        tokenizer_json=tokenizer_json(),
    )
    params = mlc_format.read_params(folder)  # rounded to bfloat16
    prompt = np.random.default_rng(7).integers(3, config["vocab_size"], PROMPT_TOKENS)
    np.save(folder / "prompt.npy", prompt.astype(np.int32))
    for quantization in mlc_format.MODEL_DTYPE:
        put(model, mlc_format.dequantized(params, quantization), config)
        with torch.no_grad():
            logits = model(torch.from_numpy(prompt[None])).logits[0].numpy()
        np.savez_compressed(folder / f"{quantization}.npz", logits=logits.astype(np.float32))


def make_wide(model_type: mlc_format.ModelType, file: Path) -> None:
    """Write the logits of one wide model."""
    config, params = wide.WIDE[model_type], wide.params(model_type)
    model = transformers_model(model_type, config)
    ids = torch.tensor([wide.prompt(model_type, PROMPT_TOKENS)])
    logits = {}
    for quantization in wide.QUANTIZATIONS:
        put(model, mlc_format.dequantized(params, quantization), config)
        with torch.no_grad():
            logits[quantization] = model(ids).logits[0].numpy().astype(np.float32)
    np.savez_compressed(file, **logits)


def main() -> None:
    """Write all fixtures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="fixtures whose name contains this")
    options = parser.parse_args()
    folder: Path = options.folder
    torch.set_num_threads(1)
    for g in GOLDENS:
        if options.only in g.name:
            make(g, folder / "golden" / g.name)
    for model_type in ARCHITECTURES:
        if options.only in model_type:
            make_architecture(model_type, folder / "architectures" / model_type)
    (folder / "wide").mkdir(parents=True, exist_ok=True)
    for model_type in wide.WIDE:
        if options.only in f"wide-{model_type}":
            make_wide(model_type, folder / "wide" / f"{model_type}.npz")
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    print(f"{size:,} bytes in all")


if __name__ == "__main__":
    main()
