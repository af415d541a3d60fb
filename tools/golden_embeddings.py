"""Make the fixtures of embeddings: what transformers computes on tiny random models.

    python tools/golden_embeddings.py tests/fixtures

Needs torch and transformers, as tools/golden.py does. Under ``embeddings/``:

- ``bert/`` is an MLC model folder of a BERT with snowflake-arctic-embed's shape in small (heads of
  32, learned positions up to 512, GELU), with a WordPiece tokenizer; ``texts.json`` has texts of
  many lengths, and ``<pooling>.npz`` transformers' ``vectors`` of them, normalised;
- ``decoders.npz`` has, for each of ``architectures/`` and each pooling, ``<name>-<pooling>``: the
  vectors of the token sequences ``tokens-<i>``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import golden
import mlc_format
import numpy as np
import torch
import transformers

POOLINGS = ("cls", "mean", "last")
DECODERS = ("llama", "qwen3")
LENGTHS = (1, 2, 15, 16, 17, 40, 200, 300)
WORDS = (
    "the weather in paris is mild today and rain falls on green fields while people read old "
    "books about rivers mountains ships trade music colour light sound number time house tree"
).split()
BERT = {
    "hidden_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 384,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "context_window_size": 512,
    "prefill_chunk_size": 512,
    "type_vocab_size": 2,
}


def pool(states: torch.Tensor, pooling: str) -> np.ndarray:
    """The normalised vector of (tokens, hidden) states."""
    rows = states.double().numpy()
    vector = {"cls": rows[0], "last": rows[-1], "mean": rows.mean(axis=0)}[pooling]
    made: np.ndarray = (vector / np.linalg.norm(vector)).astype(np.float32)
    return made


def wordpiece() -> Any:
    """A WordPiece tokenizer that puts [CLS] and [SEP] around a text."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from tokenizers.trainers import WordPieceTrainer

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(WORDS * 20, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def mlc_params(state: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """A Hugging Face BERT's parameters under MLC's names: queries, keys and values stacked."""
    params: dict[str, np.ndarray] = {}
    for name, value in state.items():
        if name.startswith("pooler.") or name.endswith("position_ids"):
            continue
        if ".attention.self." in name:
            stem, _, kind = name.rpartition(".")
            stem = stem.rpartition(".")[0]
            parts = [state[f"{stem}.{p}.{kind}"] for p in ("query", "key", "value")]
            params[f"{stem}.qkv.{kind}"] = torch.cat(parts).numpy()
        else:
            params[name] = value.numpy()
    return params


def make_bert(folder: Path) -> None:
    """Write the BERT and its vectors."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = wordpiece()
    vocab = tokenizer.get_vocab_size()
    config = transformers.BertConfig(
        vocab_size=vocab,
        max_position_embeddings=BERT["context_window_size"],
        attn_implementation="eager",
        **{k: BERT[k] for k in BERT if not k.startswith(("context", "prefill"))},
    )
    torch.manual_seed(11)
    model = transformers.BertModel(config, add_pooling_layer=False).float().eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("LayerNorm.weight"):
                p.copy_(1 + 0.2 * torch.randn_like(p))
            elif p.ndim == 1:
                p.copy_(0.2 * torch.randn_like(p))
            else:
                p.copy_(1.5 * torch.randn_like(p) / p.shape[1] ** 0.5)
            p.copy_(p.bfloat16().float())  # as the folder stores them
    mlc_format.write_params(folder, mlc_params(model.state_dict()), shard_bytes=256 << 10)
    (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text("{}\n", encoding="utf-8")
    chat_config = {
        "version": "0.1.0",
        "model_type": "bert",
        "quantization": "q0f32",
        "model_config": {**BERT, "vocab_size": vocab, "head_dim": 32},
        "vocab_size": vocab,
        "context_window_size": BERT["context_window_size"],
        "prefill_chunk_size": BERT["prefill_chunk_size"],
        "tokenizer_files": ["tokenizer.json", "tokenizer_config.json"],
        "conv_template": {**mlc_format.CHATML_TEMPLATE, "name": "LM", "stop_token_ids": []},
        "model_task": "embedding",
        "embedding_metadata": {
            "model_type": "encoder",
            "pooling_strategy": "cls",
            "normalize": True,
        },
    }
    (folder / "mlc-chat-config.json").write_text(json.dumps(chat_config, indent=2) + "\n")

    random = np.random.default_rng(5)
    texts = [" ".join(random.choice(WORDS, n)) for n in LENGTHS]
    (folder / "texts.json").write_text(json.dumps(texts, indent=1) + "\n")
    states = []
    with torch.no_grad():
        for text in texts:
            ids = torch.tensor([tokenizer.encode(text).ids])
            states.append(model(ids).last_hidden_state[0])
    for pooling in POOLINGS:
        np.savez_compressed(
            folder / f"{pooling}.npz", vectors=np.stack([pool(s, pooling) for s in states])
        )


def make_decoders(root: Path, out: Path) -> None:
    """Write the vectors of the decoders whose folders tools/golden.py made."""
    random = np.random.default_rng(5)
    found: dict[str, np.ndarray] = {}
    for i, n in enumerate(LENGTHS):
        found[f"tokens-{i}"] = random.integers(3, 60, min(n, 256)).astype(np.int32)
    for name in DECODERS:
        folder = root / "architectures" / name
        config = json.loads((folder / "mlc-chat-config.json").read_text())["model_config"]
        model = golden.transformers_model(name, config)
        golden.put(model, mlc_format.read_params(folder), config)
        with torch.no_grad():
            states = [
                model.model(
                    torch.from_numpy(found[f"tokens-{i}"][None].astype(np.int64))
                ).last_hidden_state[0]
                for i in range(len(LENGTHS))
            ]
        for pooling in POOLINGS:
            found[f"{name}-{pooling}"] = np.stack([pool(s, pooling) for s in states])
    np.savez_compressed(out, **found)


def main() -> None:
    """Write all fixtures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    torch.set_num_threads(1)
    make_bert(folder / "embeddings" / "bert")
    make_decoders(folder, folder / "embeddings" / "decoders.npz")
    size = sum(f.stat().st_size for f in (folder / "embeddings").rglob("*") if f.is_file())
    print(f"{size:,} bytes in all")


if __name__ == "__main__":
    main()
