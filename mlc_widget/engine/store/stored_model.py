"""Reads a model on disk, in any format, into the parts that the engine and its runtimes need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlc_widget.api.errors import BadRequestError, RuntimeUnavailableError
from mlc_widget.api.garbage import collection_paused
from mlc_widget.engine.store.model_config import check_config
from mlc_widget.engine.store.model_files import read_json_object
from mlc_widget.engine.store.model_folder import read_config
from mlc_widget.engine.system.imports import check_room_for_numpy

if TYPE_CHECKING:
    from mlc_widget.engine.store.gguf_cache import GGUFParts
    from mlc_widget.engine.store.weight_source import OpenWeights, WeightSource

_TOKENIZER_CONFIG: Final = "tokenizer_config.json"
_LARGEST_TOKENIZER_CONFIG: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class JinjaSource:
    """A chat template in Jinja and the special tokens for it.

    Attributes:
        text: The template; None if the model has none, because it is not a chat model.
        tokens: ``bos_token``, ``eos_token`` and so on, by the template's names.
        bos_id: The token with which every prompt begins, if any.
        where: The file, for messages.
        bos_in_chats: Whether a chat's prompt also begins with `bos_id` if the template does not
            write it. llama.cpp adds it; transformers leaves it to the template.
    """

    text: str | None
    tokens: Mapping[str, str]
    bos_id: int | None
    where: str
    bos_in_chats: bool = True


@dataclass(frozen=True, slots=True)
class StoredModel:
    """The parts of a model.

    Attributes:
        path: The folder or the file.
        config: The content of mlc-chat-config.json, or its equivalent, with overrides applied.
        tokenizer: The content of a tokenizer.json, if the model has no such file.
        open_weights: Opens its weights.
        jinja: Its template, if that is in Jinja; otherwise `config` has MLC's ``conv_template``.
    """

    path: Path
    config: Mapping[str, Any]
    tokenizer: Mapping[str, Any] | None = field(repr=False)
    open_weights: OpenWeights = field(repr=False)
    jinja: JinjaSource | None = None


def read_model(path: Path, chat_opts: Mapping[str, Any] | None) -> StoredModel:
    """Read everything but the weights.

    Args:
        path: A folder in MLC format or a ``.gguf`` file, from `model_folder.resolve`.
        chat_opts: Checked overrides of mlc-chat-config.json.

    Raises:
        ModelFormatError: A file is missing or malformed.
        UnsupportedModelError: The model has an unsupported feature.
        BadRequestError: `chat_opts` asks for a quantization other than the model's.
        InsufficientMemoryError: There is too little memory to read a GGUF file.
    """
    if path.is_dir():
        config = read_config(path, None)
        _check_quantization(path, config, chat_opts)
        config |= chat_opts or {}
        return StoredModel(
            path,
            config,
            None,
            lambda: _tensor_cache(path),
            None if "conv_template" in config else _own_template(path, config),
        )
    check_room_for_numpy("Reading a GGUF file needs numpy")
    try:
        stored = _read_gguf(path, chat_opts)
    except ModuleNotFoundError as error:
        raise RuntimeUnavailableError(
            f"Reading a GGUF file needs the package {error.name}, which is missing: "
            'pip install "mlc-widget[tvm]".'
        ) from error
    _check_quantization(path, {}, chat_opts)
    return stored


def _check_quantization(
    path: Path, config: Mapping[str, Any], chat_opts: Mapping[str, Any] | None
) -> None:
    """Refuse to quantise what is quantised: that is done from a folder of safetensors alone."""
    wanted = (chat_opts or {}).get("quantization")
    if wanted is not None and wanted != config.get("quantization"):
        has = config.get("quantization", "a type for each tensor")
        raise BadRequestError(
            f"chat_opts.quantization = {wanted!r}: the weights of {path} are stored already, in "
            f"{has}. Leave quantization out, or give the model's folder of safetensors.",
            param="chat_opts.quantization",
        )


def _own_template(folder: Path, config: Mapping[str, Any]) -> JinjaSource | None:
    """The template in tokenizer_config.json, where a folder has that and no ``conv_template``."""
    file = folder / _TOKENIZER_CONFIG
    if not file.exists():
        return None
    given = read_json_object(file, _LARGEST_TOKENIZER_CONFIG, "Download it again.", "restore it")
    template = given.get("chat_template", ...)
    if template is ...:
        return None
    tokens = {
        name: value
        for name, value in given.items()
        if name.endswith("_token") and isinstance(value, str)
    }
    begin = config.get("bos_token_id") if given.get("add_bos_token") is True else None
    return JinjaSource(
        template if isinstance(template, str) else None,
        tokens,
        begin if isinstance(begin, int) else None,
        str(file),
        bos_in_chats=False,
    )


def _tensor_cache(folder: Path) -> WeightSource:
    from mlc_widget.engine.store.tensor_cache import TensorCache

    return TensorCache.from_folder(folder)


def _read_gguf(path: Path, chat_opts: Mapping[str, Any] | None) -> StoredModel:
    # Formats need numpy, which may be missing in a worker without the tvm runtime.
    from mlc_widget.engine.store import gguf_cache
    from mlc_widget.engine.store.formats.gguf_config import interleaved_heads
    from mlc_widget.engine.store.formats.gguf_file import GGUFModel
    from mlc_widget.engine.store.formats.gguf_weights import GGUFWeights

    with collection_paused():
        parts = gguf_cache.find(path)
        if parts is None:
            parts = _parse_gguf(path)
            gguf_cache.keep(parts)
    headers = parts.headers

    def open_weights() -> GGUFWeights:
        opened = GGUFModel(path, headers)
        try:
            return GGUFWeights(opened, interleaved_heads(opened))
        except BaseException:
            opened.close()
            raise

    return StoredModel(
        path,
        {**parts.config, **(chat_opts or {})},
        parts.tokenizer,
        open_weights,
        JinjaSource(**{**parts.jinja, "where": str(path)}),
    )


def _parse_gguf(path: Path) -> GGUFParts:
    from mlc_widget.engine.store.formats.gguf_config import chat_config, special_id
    from mlc_widget.engine.store.formats.gguf_file import GGUFModel
    from mlc_widget.engine.store.formats.gguf_tokenizer import tokenizer_spec
    from mlc_widget.engine.store.gguf_cache import GGUFParts

    with GGUFModel(path) as model:
        config = chat_config(model)
        check_config(config)
        fields = model.fields
        tokenizer = tokenizer_spec(fields, str(path))
        template = fields.get("tokenizer.chat_template")
        headers = model.headers
    tokens = fields["tokenizer.ggml.tokens"]  # checked by `tokenizer_spec`
    names = ("bos", "eos", "unknown", "padding")
    ids = {name: i for name in names if (i := special_id(fields, name)) is not None}
    # As in llama.cpp, SentencePiece's and Llama 3's prompts begin with BOS by default.
    begins = fields["tokenizer.ggml.model"] == "llama" or str(fields.get("tokenizer.ggml.pre")) in (
        "llama-bpe",
        "llama3",
        "llama-v3",
        "tekken",
    )
    add_bos = fields.get("tokenizer.ggml.add_bos_token", begins) is True
    jinja = {
        "text": template if isinstance(template, str) else None,
        "tokens": {
            f"{({'unknown': 'unk', 'padding': 'pad'}).get(name, name)}_token": tokens[i]
            for name, i in ids.items()
        },
        "bos_id": ids.get("bos") if add_bos else None,
    }
    return GGUFParts(config, tokenizer, jinja, headers)
