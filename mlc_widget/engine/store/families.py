"""What the families of models call their parameters, in MLC's folders and in transformers' files.

The runtime's own names are those of Llama in MLC (``model.layers.0.self_attn.qkv_proj.weight``);
where a family has other names, its line here says so. GGUF's names are in
`formats.gguf_weights`, as they are the same for all families.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from mlc_widget.engine.store.weight_source import WeightRecord, WeightSource

Array: TypeAlias = npt.NDArray[Any]
Renames: TypeAlias = tuple[tuple[str, str], ...]

_QKV: Final = ("q_proj", "k_proj", "v_proj")


@dataclass(frozen=True, slots=True)
class Family:
    """The parameters of one family.

    Attributes:
        mlc: Parts of our names, and MLC's in their place.
        transformers: Parts of our names, and transformers' in their place.
        apart: Whether MLC stores queries, keys and values as three parameters.
        qkv: Our name of the projection to queries, keys and values.
        qkv_bias: Whether it has a bias; None if `attention_bias` says so, as of `o_bias`.
        o_bias: Whether the projection after attention has a bias.
        head_norms: Whether queries and keys are normalized: each head, with the same weights or
            with its own (LayerNorm without biases), or all heads together.
        norms: The norms of a layer.
        norms_plus: What is added to the weights of norms when they are read from transformers'
            files.
        norm_bias: Whether norms have biases (LayerNorm).
        fused: Whether transformers stacks queries, keys and values, and gate and up, as MLC does.
        fused_mlp: Whether it stacks gate and up only.
        gated: Whether the MLP has a gate; without one, its layers have biases.
        heads_together: Whether transformers' files have queries, keys and values head by head.
        inputs_first: Whether transformers' files have matrices of layers with the inputs first.
        positions: Whether positions have embeddings, and the output layer is the embedding.
        output_bias: Whether the output layer has a bias.
    """

    mlc: Renames = ()
    transformers: Renames = ()
    apart: bool = False
    qkv: str = "qkv_proj"
    qkv_bias: bool | None = False
    o_bias: bool | None = False
    head_norms: Literal["", "each", "own", "together"] = ""
    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    norms_plus: float = 0.0
    norm_bias: bool = False
    fused: bool = False
    fused_mlp: bool = False
    gated: bool = True
    heads_together: bool = False
    inputs_first: bool = False
    positions: bool = False
    output_bias: bool = False


_LLAMA: Final = Family(qkv_bias=None, o_bias=None)
_AROUND: Final = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)
_GEMMA3: Final = Family(
    mlc=(("model.", "language_model.model."),),
    apart=True,
    head_norms="each",
    norms=_AROUND,
    norms_plus=1.0,
)
_NEOX: Final = (
    ("model.embed_tokens", "gpt_neox.embed_in"),
    ("model.layers.", "gpt_neox.layers."),
    ("model.norm", "gpt_neox.final_layer_norm"),
    ("self_attn.qkv_proj", "attention.query_key_value"),
    ("self_attn.o_proj", "attention.dense"),
    ("mlp.up_proj", "mlp.dense_h_to_4h"),
    ("mlp.down_proj", "mlp.dense_4h_to_h"),
    ("lm_head", "embed_out"),
)
_GPT2: Final = (
    ("model.embed_tokens", "transformer.wte"),
    ("model.embed_positions", "transformer.wpe"),
    ("model.layers.", "transformer.h."),
    ("model.norm", "transformer.ln_f"),
    ("self_attn.qkv_proj", "attn.c_attn"),
    ("self_attn.o_proj", "attn.c_proj"),
    ("mlp.up_proj", "mlp.c_fc"),
    ("mlp.down_proj", "mlp.c_proj"),
    ("input_layernorm", "ln_1"),
    ("post_attention_layernorm", "ln_2"),
)
_TRANSFORMER: Final = (
    ("model.embed_tokens", "transformer.embd"),
    ("model.layers.", "transformer.h."),
    ("self_attn.o_proj", "mixer.out_proj"),
    ("input_layernorm", "ln"),
)
_PHI: Final = Family(
    mlc=(
        *_TRANSFORMER,
        ("self_attn.qkv_proj", "mixer.Wqkv"),
        ("mlp.up_proj", "mlp.fc1"),
        ("mlp.down_proj", "mlp.fc2"),
        ("lm_head.", "lm_head.linear."),
        ("model.norm.", "lm_head.ln."),
    ),
    transformers=(
        ("self_attn.o_proj", "self_attn.dense"),
        ("mlp.up_proj", "mlp.fc1"),
        ("mlp.down_proj", "mlp.fc2"),
        ("model.norm.", "model.final_layernorm."),
    ),
    qkv_bias=True,
    o_bias=True,
    norms=("input_layernorm",),
    norm_bias=True,
    gated=False,
    output_bias=True,
)

FAMILIES: Final[Mapping[str, Family]] = {
    "llama": _LLAMA,
    "mistral": Family(),
    "qwen2": Family(qkv="c_attn", qkv_bias=True),
    "qwen3": Family(qkv="c_attn", qkv_bias=None, o_bias=None, head_norms="each"),
    "gemma": Family(norms_plus=1.0),
    "gemma2": Family(norms=_AROUND, norms_plus=1.0),
    "gemma3": _GEMMA3,
    "gemma3_text": _GEMMA3,
    "gpt2": Family(
        mlc=_GPT2,
        transformers=_GPT2,
        qkv_bias=True,
        o_bias=True,
        norm_bias=True,
        fused=True,
        gated=False,
        inputs_first=True,
        positions=True,
    ),
    "gpt_neox": Family(
        mlc=_NEOX,
        transformers=_NEOX,
        qkv_bias=True,
        o_bias=True,
        norm_bias=True,
        fused=True,
        gated=False,
        heads_together=True,
    ),
    "granite": _LLAMA,
    "granitemoehybrid": replace(
        _LLAMA,
        transformers=(
            ("mlp.gate_up_proj", "shared_mlp.input_linear"),
            ("mlp.down_proj", "shared_mlp.output_linear"),
        ),
        fused_mlp=True,
    ),
    "ministral3": Family(
        mlc=(("model.", "language_model.model."), ("lm_head", "language_model.lm_head"))
    ),
    "olmo2": replace(
        _LLAMA,
        norms=("post_attention_layernorm", "post_feedforward_layernorm"),
        head_norms="together",
    ),
    "phi": _PHI,
    "phi-msft": _PHI,
    "phi3": Family(
        mlc=(
            *_TRANSFORMER,
            ("self_attn.qkv_proj", "mixer.qkv_proj"),
            ("model.norm", "transformer.norm"),
        ),
        fused=True,
    ),
    "smollm3": _LLAMA,
    "stablelm": Family(
        transformers=(
            ("self_attn.q_norm.", "self_attn.q_layernorm.norms."),
            ("self_attn.k_norm.", "self_attn.k_layernorm.norms."),
        ),
        qkv_bias=None,
        norm_bias=True,
    ),
}
"""The families that can be read from transformers' files, by `model_type`."""


def family_of(model_type: str, config: Mapping[str, Any]) -> Family:
    """The parameters of one model.

    Args:
        model_type: One of `FAMILIES`.
        config: MLC's ``model_config``, which says in which variant of the family it is.
    """
    family = FAMILIES[model_type]
    if model_type == "stablelm":
        if config.get("qk_layernorm"):
            family = replace(family, head_norms="own")
        if config.get("use_parallel_residual"):
            family = replace(family, norms=("input_layernorm",))
    return family


_FIELDS: Final = {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_head_kv": "num_key_value_heads",
    "n_positions": "max_position_embeddings",
    "layer_norm_epsilon": "layer_norm_eps",
    "activation_function": "hidden_act",
    "rotary_emb_base": "rope_theta",
}
"""Llama's names of fields that older families name otherwise."""


def common_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """A model's configuration with the fields of older families under Llama's names, too."""
    made = {ours: values[theirs] for theirs, ours in _FIELDS.items() if values.get(theirs)}
    made |= values
    hidden = made.get("hidden_size")
    if "n_embd" in values and isinstance(hidden, int):
        inner = values.get("n_inner")
        made["intermediate_size"] = 4 * hidden if inner in (None, 0, -1) else inner
        if values.get("context_window_size"):  # the size of MLC's table of positions
            made["max_position_embeddings"] = values["context_window_size"]
    if values.get("model_type") == "granitemoehybrid":
        # intermediate_size is that of the experts, which the dense models lack.
        made["intermediate_size"] = values.get("shared_intermediate_size", 1024)
    return made


def renamed(name: str, renames: Renames) -> str:
    """A parameter's name with parts replaced."""
    for ours, theirs in renames:
        name = name.replace(ours, theirs)
    return name


def with_our_names(
    source: WeightSource, model_type: object, *, transposed: bool = False
) -> WeightSource:
    """An MLC folder's parameters under our names.

    Args:
        source: The folder's parameters.
        model_type: The model's `model_type`.
        transposed: Whether inputs come first in matrices.
    """
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is None or not (family.mlc or family.apart):
        return source
    return _Renamed(source, family, transposed)


@dataclass(frozen=True, slots=True)
class _Joined:
    """Parameters that are one of ours, one after the other."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    parts: tuple[WeightRecord, ...]
    transposed: bool


@dataclass(frozen=True, slots=True)
class _Ours:
    """A record under our name."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    record: WeightRecord


class _Renamed:
    """A `WeightSource` with our names."""

    def __init__(self, source: WeightSource, family: Family, transposed: bool) -> None:
        self._source, self._family, self._transposed = source, family, transposed
        self.where = source.where
        self.layers, self.verify, self.close = source.layers, source.verify, source.close
        self.tensor_types, self.types_of = source.tensor_types, source.types_of
        self.identities = source.identities

    def find(self, name: str) -> _Ours | _Joined | None:
        """The parameter of our name."""
        theirs = renamed(name, self._family.mlc)
        record = self._source.find(theirs) or self._source.find(name)
        if record is not None:
            return _Ours(name, record.shape, record.dtype, record.nbytes, record)
        qkv = f".{self._family.qkv}."
        if not self._family.apart or qkv not in theirs:
            return None
        found = [self._source.find(theirs.replace(qkv, f".{part}.")) for part in _QKV]
        parts = tuple(record for record in found if record is not None)
        if len(parts) < len(_QKV) or len({part.dtype for part in parts}) > 1:
            return None
        transposed = self._transposed and len(parts[0].shape) > 1
        joined, rest = (1, 0) if transposed else (0, slice(1, None))
        if len({str(part.shape[rest]) for part in parts}) > 1:
            return None
        shape = list(parts[0].shape)
        shape[joined] = sum(part.shape[joined] for part in parts)
        nbytes = sum(part.nbytes for part in parts)
        return _Joined(name, tuple(shape), parts[0].dtype, nbytes, parts, transposed)

    def read_rows(self, record: Any, pieces: Sequence[tuple[int, int]]) -> Iterator[Array]:
        """Read a parameter piece by piece."""
        if isinstance(record, _Ours):
            yield from self._source.read_rows(record.record, pieces)
        elif record.transposed:
            for piece in pieces:
                yield np.concatenate([self._read(part, *piece) for part in record.parts], axis=1)
        else:
            for start, stop in pieces:
                yield np.concatenate(list(self._rows(record, start, stop)))

    def _rows(self, joined: _Joined, start: int, stop: int) -> Iterator[Array]:
        at = 0
        for part in joined.parts:
            first, last = max(start - at, 0), min(stop - at, part.shape[0])
            if first < last:
                yield self._read(part, first, last)
            at += part.shape[0]

    def _read(self, record: WeightRecord, start: int, stop: int) -> Array:
        [rows] = self._source.read_rows(record, [(start, stop)])
        return rows.copy()  # the next one is read into the same memory
