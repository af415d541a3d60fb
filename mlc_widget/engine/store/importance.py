"""How much each input of a model's matrices matters, measured on a text.

An error of a weight is multiplied by the weight's input, so errors count by the mean square of that
input, which is measured here: the float model reads the text. Its weights are read in pieces, as in
the conversion that follows. For the sizes of inputs, a few hundred tokens are enough.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mlc_widget.api.errors import BadRequestError
from mlc_widget.engine.store.formats import hf_weights
from mlc_widget.engine.store.formats.hf_folder import SafetensorsModel
from mlc_widget.engine.store.formats.hf_weights import Parameter

Array = npt.NDArray[Any]

MEASURED: Final = frozenset({"llama", "mistral", "qwen2", "qwen3"})
"""The families, by `model_type`, whose forward pass this module has."""
MOST_TOKENS: Final = 256
"""The tokens of a text that are read; twice as many change little."""
_LARGEST_TEXT: Final = 1 << 20
_LEAST: Final = 0.02
"""What is added to all importances, whose mean is 1, for inputs that are 0 in the text."""
_EMBEDDING: Final = "model.embed_tokens.weight"
_OUTPUT: Final = "lm_head.weight"


def calibration_text(path: Path | None = None) -> str:
    """A text to measure with.

    Args:
        path: A text file; None for the one in this package, which has a little of everything.

    Raises:
        BadRequestError: The file cannot be read, or is not a text.
    """
    if path is None:
        return files("mlc_widget.engine.store").joinpath("calibration.txt").read_text("utf-8")
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_TEXT + 1)
        if len(data) > _LARGEST_TEXT:
            raise ValueError(f"it has more than {_LARGEST_TEXT >> 20} MiB; its beginning is enough")
        text = data.decode("utf-8")
        if not text.strip():
            raise ValueError("it is empty")
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else error
        raise BadRequestError(
            f"calibration = {str(path)!r}: {what}. Give a text file in UTF-8.", param="calibration"
        ) from error
    return text


class ImportanceRun:
    """One reading of a text by a float model.

    Args:
        model: The model's files, checked.
        parameters: Its parameters.
        config: MLC's ``model_config``.
        on_bytes: Called with the number of bytes that were read.
    """

    def __init__(
        self,
        model: SafetensorsModel,
        parameters: Sequence[Parameter],
        config: Mapping[str, Any],
        on_bytes: Callable[[int], object],
    ) -> None:
        self._model, self._config, self._on_bytes = model, config, on_bytes
        self._parameters = {p.name: p for p in parameters}
        self._found: dict[str, Array] = {}

    def measure(self, ids: Sequence[int]) -> dict[str, Array]:
        """The importance of each input, (inputs,) float32 with a mean of about 1, by matrix.

        A matrix is left out if its inputs are not finite, or all 0.
        """
        with np.errstate(all="ignore"):
            self.hidden_states(ids)
        return self._found

    @property
    def nbytes(self) -> int:
        """The number of bytes of weights to read."""
        ends = (_EMBEDDING, _OUTPUT)
        read = [p for p in self._parameters.values() if p.name not in ends]
        return hf_weights.source_bytes(self._model, read)

    def hidden_states(self, ids: Sequence[int]) -> Array:
        """(len(ids), hidden_size) float32: the inputs of the output layer."""
        config = self._config
        self._angles = _rotary(len(ids), config)
        x = np.concatenate([self._row(_EMBEDDING, i) for i in ids])
        for i in range(config["num_hidden_layers"]):
            layer = f"model.layers.{i}."
            x = x + self._attention(f"{layer}self_attn.", self._norm(f"{layer}input_layernorm", x))
            inner = self._norm(f"{layer}post_attention_layernorm", x)
            gate, up = np.split(self._linear(f"{layer}mlp.gate_up_proj", inner), 2, axis=1)
            x = x + self._linear(f"{layer}mlp.down_proj", gate / (1 + np.exp(-gate)) * up)
        x = self._norm("model.norm", x)
        self._record(_EMBEDDING if config["tie_word_embeddings"] else _OUTPUT, x)
        return x

    def _attention(self, prefix: str, x: Array) -> Array:
        config, count = self._config, len(x)
        heads, kv, d = (
            config[name] for name in ("num_attention_heads", "num_key_value_heads", "head_dim")
        )
        name = "c_attn" if f"{prefix}c_attn.weight" in self._parameters else "qkv_proj"
        qkv = self._linear(f"{prefix}{name}", x).reshape(count, heads + 2 * kv, d)
        q, k, v = np.split(qkv, [heads, heads + kv], axis=1)
        if f"{prefix}q_norm.weight" in self._parameters:
            q, k = self._norm(f"{prefix}q_norm", q), self._norm(f"{prefix}k_norm", k)
        q, k = self._rotated(q), self._rotated(k)
        out = np.empty((count, heads, d), np.float32)
        future = np.triu(np.full((count, count), -np.inf, np.float32), 1)
        for head in range(heads):
            of = head * kv // heads
            scores = q[:, head] @ k[:, of].T / np.float32(np.sqrt(d)) + future
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            out[:, head] = weights / weights.sum(axis=1, keepdims=True) @ v[:, of]
        return self._linear(f"{prefix}o_proj", out.reshape(count, heads * d))

    def _rotated(self, x: Array) -> Array:
        cos, sin = self._angles
        a, b = np.split(x, 2, axis=2)
        return np.concatenate((a * cos - b * sin, b * cos + a * sin), axis=2)

    def _norm(self, name: str, x: Array) -> Array:
        root = np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + self._config["rms_norm_eps"])
        normed: Array = x / root * self._vector(f"{name}.weight")
        return normed

    def _linear(self, name: str, x: Array) -> Array:
        parameter = self._parameters[f"{name}.weight"]
        self._record(parameter.name, x)
        out = np.empty((len(x), parameter.shape[0]), np.float32)
        at = 0
        for _, size, rows in hf_weights.read(self._model, parameter, hf_weights.PIECE):
            out[:, at : at + len(rows)] = x @ rows.astype(np.float32).T
            at += len(rows)
            self._on_bytes(size)
        if f"{name}.bias" in self._parameters:
            out += self._vector(f"{name}.bias")
        return out

    def _vector(self, name: str) -> Array:
        parts = hf_weights.read(self._model, self._parameters[name], hf_weights.PIECE)
        made = []
        for _, size, values in parts:
            made.append(values.astype(np.float32))
            self._on_bytes(size)
        return np.concatenate(made)

    def _row(self, name: str, index: int) -> Array:
        file, tensor = self._model.tensors[name]
        return file.read_rows(tensor, index, index + 1).astype(np.float32)

    def _record(self, name: str, inputs: Array) -> None:
        squares = np.square(inputs).mean(axis=0)
        mean = squares.mean()
        if np.isfinite(mean) and mean > 0:
            self._found[name] = (squares / mean + np.float32(_LEAST)).astype(np.float32)


def _rotary(count: int, config: Mapping[str, Any]) -> tuple[Array, Array]:
    """(count, 1, head_dim / 2) cosines and sines."""
    base, d = config.get("rope_theta") or config["position_embedding_base"], config["head_dim"]
    frequency = base ** (-np.arange(0, d, 2) / d)
    scaling = config.get("rope_scaling") or {}
    factor = scaling.get("factor", 1.0)
    if scaling.get("rope_type") == "llama3":  # long waves are stretched, and short ones kept
        turns = scaling["original_max_position_embeddings"] * frequency / (2 * np.pi)
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        kept = np.clip((turns - low) / (high - low), 0, 1)
        frequency = kept * frequency + (1 - kept) * frequency / factor
    else:
        frequency = frequency / factor
    steps = np.arange(count)[:, None] * frequency
    return np.cos(steps)[:, None].astype(np.float32), np.sin(steps)[:, None].astype(np.float32)
