"""Random-weight models of published shapes, as an MLC folder (q4f16_1) and as GGUF.

The MLC folder is written here; the GGUF by this file run as a script in llama.cpp's environment,
``python _kernel_models.py SOURCE FILE TYPE [pure]``: float16 of a shape, or another GGUF file, then
what llama.cpp's own quantizer makes of it. As in the files that people download, that keeps an
output layer that is tied to the embedding in Q6_K or Q8_0, where MLC's q4f16_1 has 4 bits; ``pure``
makes it of the type, too.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

CONTEXT = 4352

SHAPES: dict[str, dict[str, Any]] = {
    "SmolLM2-135M": {
        "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536,
        "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64,
        "num_hidden_layers": 30, "vocab_size": 49152, "rms_norm_eps": 1e-5, "rope_theta": 1e5,
    },
    "Qwen2.5-0.5B": {
        "model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864,
        "num_attention_heads": 14, "num_key_value_heads": 2, "head_dim": 64,
        "num_hidden_layers": 24, "vocab_size": 151936, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
    },
    "Llama-3.2-1B": {
        "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
        "num_hidden_layers": 16, "vocab_size": 128256, "rms_norm_eps": 1e-5, "rope_theta": 5e5,
    },
    "Llama-3.1-8B": {
        "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
        "num_hidden_layers": 32, "vocab_size": 128256, "rms_norm_eps": 1e-5, "rope_theta": 5e5,
        "tie_word_embeddings": False,
    },
    "Qwen2.5-1.5B": {
        "model_type": "qwen2", "hidden_size": 1536, "intermediate_size": 8960,
        "num_attention_heads": 12, "num_key_value_heads": 2, "head_dim": 128,
        "num_hidden_layers": 28, "vocab_size": 151936, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
    },
    "Gemma-3-1B": {
        "model_type": "gemma3", "hidden_size": 1152, "intermediate_size": 6912,
        "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256,
        "num_hidden_layers": 26, "vocab_size": 262144, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
        "sliding_window": 512, "query_pre_attn_scalar": 256,
    },
    "Phi-4-mini-8-layers": {
        "model_type": "phi3", "hidden_size": 3072, "intermediate_size": 8192,
        "num_attention_heads": 24, "num_key_value_heads": 8, "head_dim": 128,
        "num_hidden_layers": 8, "vocab_size": 200064, "rms_norm_eps": 1e-5, "rope_theta": 1e4,
        "partial_rotary_factor": 0.75, "max_position_embeddings": 131072,
        "original_max_position_embeddings": 4096,
        "rope_scaling": {
            "type": "longrope", "short_factor": [1.0] * 48, "long_factor": [2.0] * 48,
        },
    },
    "SmolLM3-9-layers": {
        "model_type": "smollm3", "hidden_size": 2048, "intermediate_size": 11008,
        "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 128,
        "num_hidden_layers": 9, "vocab_size": 128256, "rms_norm_eps": 1e-6, "rope_theta": 5e6,
    },
}  # fmt: skip
"""By name; all but the largest tie their embeddings. Of Phi-4-mini and SmolLM3, a quarter of the
layers."""

FILE_TYPES = {
    "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K_M": 12, "Q4_K_M": 15,
    "Q5_K_M": 17, "Q6_K": 18, "IQ4_NL": 25, "IQ4_XS": 30,
}  # fmt: skip
"""llama.cpp's numbers of kinds of files."""


def mlc_config(name: str, quantization: str = "q4f16_1") -> dict[str, Any]:
    """mlc-chat-config.json of that shape."""
    shape = dict(SHAPES[name])
    model_type = shape.pop("model_type")
    model_config = {
        "tie_word_embeddings": True,
        **shape,
        "position_embedding_base": shape["rope_theta"],
        "context_window_size": CONTEXT,
    }
    return {
        "model_type": model_type,
        "quantization": quantization,
        "model_config": model_config,
        "vocab_size": shape["vocab_size"],
        "context_window_size": CONTEXT,
    }


def write_mlc(name: str, folder: Path, quantization: str = "q4f16_1") -> None:
    """The model's MLC folder, but for its tokenizer, which nothing here reads."""
    sys.path.append(str(Path(__file__).resolve().parents[1] / "tools"))
    import mlc_format

    from mlc_widget.engine.runtimes.tvm.architectures import architecture_of
    from mlc_widget.engine.runtimes.tvm.compile import make_program
    from mlc_widget.engine.runtimes.tvm.quantization import quantization_of
    from mlc_widget.engine.runtimes.tvm.target import host_target

    config = mlc_config(name, quantization)
    architecture = architecture_of(config["model_type"], config["model_config"])
    program = make_program(architecture, quantization_of(quantization), host_target())
    rng = np.random.default_rng(0)
    normal = (0.02 * rng.standard_normal(1 << 22)).astype(np.float16)
    params: dict[str, np.ndarray] = {}
    for parameter, layout in program.parameters:
        if layout.dtype == "uint32":
            values = rng.integers(0, 1 << 32, layout.source_shape, dtype=np.uint32)
        elif "q_scale" in parameter:
            values = rng.uniform(0.002, 0.006, layout.source_shape).astype(np.float16)
        elif len(layout.source_shape) == 1:
            values = np.ones(layout.source_shape, np.float16)
        else:
            values = np.resize(normal, layout.source_shape)
        params[parameter] = values
    folder.mkdir(parents=True, exist_ok=True)
    mlc_format.write_params(folder, params, encode_format="raw")
    (folder / "mlc-chat-config.json").write_text(json.dumps(config))


def write_gguf(source: str, file: Path, kind: str, *, pure: bool = False) -> None:
    """The same shape as GGUF, or another GGUF file, as llama.cpp quantizes it.

    Raises:
        RuntimeError: llama.cpp could not.
    """
    import llama_cpp

    floats = file.with_suffix(".float16") if source in SHAPES else Path(source)
    if source in SHAPES:
        _write_float16(source, floats)
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.pure, params.allow_requantize = FILE_TYPES[kind], pure, True
    quiet = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(quiet, None)
    status = llama_cpp.llama_model_quantize(
        str(floats).encode(), str(file).encode(), ctypes.byref(params)
    )
    if source in SHAPES:
        floats.unlink()
    if status:
        raise RuntimeError(f"llama_model_quantize gave {status} for {source}")


def gguf_file(source: str, kind: str, folder: Path, python: str) -> Path:
    """A GGUF file in a folder, made by the Python of llama.cpp's environment.

    Args:
        source: The name of a shape, or the path of a GGUF file.
        kind: Of `FILE_TYPES`, and `` pure`` behind it for one type throughout.
        folder: Where it is kept.
        python: Of an environment with llama-cpp-python and gguf.
    """
    file = folder / f"{Path(source).name.removesuffix('.gguf')}.{kind.replace(' ', '-')}.gguf"
    if not file.exists():
        aside = file.with_suffix(".part")
        script = [python, __file__, source, str(aside), *kind.split()]
        subprocess.run(script, check=True)
        aside.rename(file)
    return file


def _write_float16(name: str, file: Path) -> None:
    import gguf

    s = SHAPES[name]
    arch = s["model_type"]
    hidden, inner, d = s["hidden_size"], s["intermediate_size"], s["head_dim"]
    q, kv = s["num_attention_heads"] * d, s["num_key_value_heads"] * d
    w = gguf.GGUFWriter(str(file), arch)
    w.add_context_length(CONTEXT)
    w.add_embedding_length(hidden)
    w.add_block_count(s["num_hidden_layers"])
    w.add_feed_forward_length(inner)
    w.add_head_count(s["num_attention_heads"])
    w.add_head_count_kv(s["num_key_value_heads"])
    w.add_layer_norm_rms_eps(s["rms_norm_eps"])
    w.add_rope_freq_base(s["rope_theta"])
    w.add_rope_dimension_count(int(d * s.get("partial_rotary_factor", 1)))
    w.add_key_length(d)
    w.add_value_length(d)
    if "sliding_window" in s:
        w.add_sliding_window(s["sliding_window"])
    w.add_vocab_size(s["vocab_size"])
    w.add_file_type(1)
    w.add_tokenizer_model("no_vocab")
    normal = (0.02 * np.random.default_rng(0).standard_normal(1 << 22)).astype(np.float16)

    def matrix(tensor: str, rows: int, columns: int) -> None:
        w.add_tensor(tensor, np.resize(normal, (rows, columns)))

    def vector(tensor: str, features: int) -> None:
        w.add_tensor(tensor, np.ones(features, np.float32))

    if "rope_scaling" in s:
        w.add_rope_scaling_orig_ctx_len(s["original_max_position_embeddings"])
        for kind in ("short", "long"):
            factors = np.array(s["rope_scaling"][f"{kind}_factor"], np.float32)
            w.add_tensor(f"rope_factors_{kind}.weight", factors)

    matrix("token_embd.weight", s["vocab_size"], hidden)
    vector("output_norm.weight", hidden)
    for i in range(s["num_hidden_layers"]):
        block = f"blk.{i}."
        vector(block + "attn_norm.weight", hidden)
        vector(block + "ffn_norm.weight", hidden)
        matrix(block + "attn_output.weight", hidden, q)
        matrix(block + "ffn_down.weight", hidden, inner)
        if arch == "phi3":
            matrix(block + "attn_qkv.weight", q + 2 * kv, hidden)
            matrix(block + "ffn_up.weight", 2 * inner, hidden)
            continue
        for part, rows in (("q", q), ("k", kv), ("v", kv)):
            matrix(f"{block}attn_{part}.weight", rows, hidden)
            if arch == "qwen2":
                vector(f"{block}attn_{part}.bias", rows)
        matrix(block + "ffn_gate.weight", inner, hidden)
        matrix(block + "ffn_up.weight", inner, hidden)
        if arch == "gemma3":
            vector(block + "post_attention_norm.weight", hidden)
            vector(block + "post_ffw_norm.weight", hidden)
            vector(block + "attn_q_norm.weight", d)
            vector(block + "attn_k_norm.weight", d)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


if __name__ == "__main__":
    write_gguf(sys.argv[1], Path(sys.argv[2]), sys.argv[3], pure=sys.argv[4:] == ["pure"])
