"""Write and read MLC model folders with numpy alone.

An MLC model folder is what ``mlc_llm convert_weight`` and ``mlc_llm gen_config`` leave behind:
``mlc-chat-config.json``, ``tensor-cache.json`` (formerly ``ndarray-cache.json``) with its
``params_shard_N.bin`` files, ``tokenizer.json`` and ``tokenizer_config.json``.

Layouts, names and rounding follow mlc-llm (Apache-2.0), of July 2026:
``quantization/group_quantization.py``, ``model/llama/llama_loader.py`` (and mistral, qwen2, qwen3),
``protocol/mlc_chat_config.py``, and ``tvm.contrib.tvmjs.dump_tensor_cache``.
"""

from .folder import CHATML_TEMPLATE, requantize, write_model
from .parameters import QKV_NAME, ModelType, fuse, llama_params
from .quantization import (
    CODE_BITS,
    MODEL_DTYPE,
    Array,
    Quantization,
    dequantize_group,
    dequantized,
    quantize_group,
    quantize_params,
)
from .tensor_cache import EncodeFormat, from_bf16, read_params, to_bf16, write_params

__all__ = [
    "CHATML_TEMPLATE",
    "CODE_BITS",
    "MODEL_DTYPE",
    "QKV_NAME",
    "Array",
    "EncodeFormat",
    "ModelType",
    "Quantization",
    "dequantize_group",
    "dequantized",
    "from_bf16",
    "fuse",
    "llama_params",
    "quantize_group",
    "quantize_params",
    "read_params",
    "requantize",
    "to_bf16",
    "write_model",
    "write_params",
]
