"""A model's tokenizer: turns text into token ids, and token ids into their exact bytes."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Literal, TypeAlias

from mlc_widget.api.errors import BadRequestError, ModelFormatError
from mlc_widget.engine.store.model_files import read_file
from mlc_widget.engine.system.imports import import_package, memory_error, ran_out_of_memory
from mlc_widget.engine.text.control_tokens import ControlTokens
from mlc_widget.engine.text.prompt_text import PromptText

TokenKind: TypeAlias = Literal["byte_level", "byte_fallback", "word_piece", "plain"]

TOKENIZER_FILE: Final = "tokenizer.json"
_LARGEST: Final = 256 << 20
_MOST_IDS: Final = 1 << 22
_MOST_ADDED: Final = 1 << 16
_LONGEST_ADDED: Final = 1 << 12
_MOST_GROWTH: Final = 256
_UNASSIGNED = "\U0010fffd"
"""A character that is in no vocabulary."""
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_level_alphabet() -> dict[str, int]:
    """Map GPT-2's printable characters to the bytes for which they stand."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(b): b for b in printable}
    missing = (b for b in range(256) if b not in set(printable))
    alphabet.update({chr(0x100 + i): b for i, b in enumerate(missing)})
    return alphabet


_TO_BYTES: Final[dict[int, int | str]] = {
    **dict.fromkeys(range(256), _UNASSIGNED),
    **{ord(c): b for c, b in _byte_level_alphabet().items()},
}
"""For `str.translate`: what stands for no byte becomes what Latin-1 cannot encode."""


def import_tokenizers() -> ModuleType:
    """Import the package `tokenizers`.

    Raises:
        RuntimeUnavailableError: It is not installed, or another module has its name.
        InsufficientMemoryError: Memory ran out.
    """
    return import_package(
        "tokenizers",
        "Tokenizer",
        "AddedToken",
        purpose="Models need the package tokenizers",
        install="pip install tokenizers",
    )


class Tokenizer:
    """Wraps a Hugging Face `tokenizer.json`.

    The exact bytes of each token are known for two families of vocabularies: byte-level BPE
    (GPT-2, Llama 3, Qwen), and SentencePiece with byte fallback (Llama 2, Mistral), where ``▁`` is
    a space, ``<0x0A>`` is a byte, and decoding removes one space at the beginning of a text.

    Text becomes a control token only in markup (see `encode_prompt`); `ControlTokens` says which
    added tokens are control tokens.

    Use `from_folder`. Instances are immutable and may be shared between threads.
    """

    def __init__(self, backend: Any) -> None:
        """Wrap a `tokenizers.Tokenizer`, which this object owns from now on."""
        backend.no_truncation()
        backend.no_padding()
        added = backend.get_added_tokens_decoder()
        names = _names(backend)
        _check_sizes(names, added)
        self._special = frozenset(i for i, token in added.items() if token.special)
        self._added = {i: str(token.content) for i, token in added.items()}
        self._control = ControlTokens(added)
        _ignore_in_text(backend, [added[i] for i in sorted(self._control.ids)])
        self._backend = backend
        self._continuing = _without_first_space(backend)
        self._unknown = frozenset(_encode(backend, _UNASSIGNED).ids)
        decoder = backend.decoder
        self._kind, self._strips_leading_space = _kind_of(
            {} if decoder is None else json.loads(decoder.__getstate__())
        )
        self._vocab_size = len(names)
        self._bytes = _bytes_of(names, self._kind)
        if self._kind != "byte_fallback":
            for i, content in self._added.items():
                self._bytes[i] = content.encode()
        self._longest = max(map(len, self._bytes), default=1)

    @classmethod
    def from_folder(cls, path: Path | str) -> Tokenizer:
        """Load the tokenizer of a model folder.

        Raises:
            ModelFormatError: tokenizer.json is missing or malformed.
        """
        file = Path(path) / TOKENIZER_FILE
        return cls.from_bytes(read_tokenizer(file), file)

    @classmethod
    def from_bytes(cls, content: bytes, file: Path) -> Tokenizer:
        """Load a tokenizer.

        Args:
            content: The content of a tokenizer.json.
            file: The file's name, for error messages.

        Raises:
            ModelFormatError: It is malformed, or its vocabulary is unreasonably large.
        """
        tokenizers = import_tokenizers()
        with _errors_of(file, tokenizers):
            text = content.decode()
            _check_normalizer(json.loads(text))
            return cls(tokenizers.Tokenizer.from_str(text))

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any], file: Path) -> Tokenizer:
        """Make a tokenizer from its parts, in half the time that it takes from their JSON text.

        Args:
            spec: The content of a tokenizer.json, made by us; its model is BPE or WordPiece, and
                its added tokens are in the vocabulary.
            file: The file that it comes from, for error messages.

        Raises:
            ModelFormatError: The parts are inconsistent.
        """
        tokenizers = import_tokenizers()
        with _errors_of(file, tokenizers):
            return cls(_backend_of(spec, tokenizers))

    @property
    def control_names(self) -> Iterable[str]:
        """The texts of the control tokens."""
        return self._control.names.values()

    @property
    def kind(self) -> TokenKind:
        """How tokens represent bytes."""
        return self._kind

    @property
    def strips_leading_space(self) -> bool:
        """Whether decoding drops one space at the beginning of a text."""
        return self._strips_leading_space

    @property
    def longest(self) -> int:
        """The length of the longest token in bytes."""
        return self._longest

    @property
    def vocab_size(self) -> int:
        """The largest token id plus one; a model's logits may be padded beyond it."""
        return self._vocab_size

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Encode `text` without control tokens.

        Args:
            text: The text.
            add_special_tokens: Add the tokens that tokenizer.json puts around a text, such as
                ``[CLS]`` and ``[SEP]``.

        Raises:
            BadRequestError: The text has lone surrogates, which UTF-8 cannot represent.
        """
        ids = self._encode_text(text, continues=False)
        if not add_special_tokens:
            return ids
        around = _encode(self._backend, text, add_special_tokens=True)
        mask = around.special_tokens_mask
        before = mask.index(0) if 0 in mask else len(mask)
        after = mask[::-1].index(0) if 0 in mask else 0
        return [*around.ids[:before], *ids, *around.ids[len(mask) - after :]]

    def encode_prompt(self, prompt: PromptText) -> list[int]:
        """Encode a prompt, in whose markup (only) a control token's text becomes that token.

        Everything between two control tokens is encoded as one text, of markup or content.

        Raises:
            BadRequestError: The text has lone surrogates, which UTF-8 cannot represent.
        """
        ids: list[int] = []
        text, done = prompt.text, 0
        for start, end, token_id in self._control.find(prompt):
            ids += self._encode_text(text[done:start], continues=done > 0)
            ids.append(token_id)
            done = end
        return ids + self._encode_text(text[done:], continues=done > 0)

    def _encode_text(self, text: str, *, continues: bool) -> list[int]:
        """Encode text without control tokens; `continues` if it is not the prompt's beginning."""
        if not text:
            return []
        backend = self._continuing if continues else self._backend
        ids: list[int] = _encode(backend, text).ids
        if self._control.ids.isdisjoint(ids):
            return ids
        # The vocabulary itself may have a control token's name; such a name is cut in two.
        offsets = _encode(backend, text, fast=False).offsets
        cuts = [
            (start + end) // 2
            for token_id, (start, end) in zip(ids, offsets, strict=True)
            if token_id in self._control.ids
            and end - start > 1
            and (token_id not in self._unknown or text[start:end] == self._control.names[token_id])
        ]
        if not cuts:
            return ids
        pieces = [text[a:b] for a, b in pairwise([0, *cuts, len(text)])]
        return [
            token_id
            for i, piece in enumerate(pieces)
            for token_id in self._encode_text(piece, continues=continues or i > 0)
        ]

    def decode(self, ids: Iterable[int]) -> str:
        """Decode `ids` without special tokens.

        Invalid bytes become U+FFFD as with Python's decoder; an incomplete character at the end
        is left out.
        """
        data = b"".join(self.token_bytes(i) for i in ids if i not in self._special)
        return decode_bytes(data, strip_leading_space=self._strips_leading_space)

    def token_bytes(self, token_id: int) -> bytes:
        """The exact bytes of a token.

        For a special token these are its name (``b"<|im_end|>"``), which `decode` leaves out; see
        `is_special`. An id outside the vocabulary has no bytes (``b""``).
        """
        return self._bytes[token_id] if 0 <= token_id < self._vocab_size else b""

    def token_to_id(self, token: str) -> int | None:
        """The id of a token by its name in the vocabulary, or None."""
        found: int | None = self._backend.token_to_id(token)
        return found

    def is_special(self, token_id: int) -> bool:
        """Whether the token is a special one, such as an end of turn, and not text."""
        return token_id in self._special


def decode_bytes(data: bytes, *, strip_leading_space: bool) -> str:
    """Decode as a `Detokenizer` does that gets `data` in any pieces and is then flushed."""
    text = codecs.getincrementaldecoder("utf-8")("replace").decode(data)
    return text.removeprefix(" ") if strip_leading_space else text


@contextmanager
def _errors_of(file: Path, tokenizers: ModuleType) -> Iterator[None]:
    """Turn exceptions of the `tokenizers` package into errors that name the file."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as e:  # its errors are plain Exceptions, its panics BaseExceptions
        if ran_out_of_memory(e):
            raise memory_error(f"Memory ran out while {file} was loaded", e) from e
        version = getattr(tokenizers, "__version__", "(unknown version)")
        raise ModelFormatError(
            f"{file} is not a tokenizer that the package tokenizers {version} can read: {e}.",
            param=str(file),
        ) from e


def _backend_of(spec: Mapping[str, Any], tokenizers: ModuleType) -> Any:
    """Make a `tokenizers.Tokenizer` without writing its vocabulary as JSON."""
    options = {key: value for key, value in spec["model"].items() if value is not None}
    kind, vocab = options.pop("type"), options["vocab"]
    empty: dict[str, Any] = {**spec["model"], "vocab": {}}
    if "merges" in empty:
        empty["merges"] = []
    around = json.dumps({**spec, "model": empty, "added_tokens": []}, ensure_ascii=False)
    backend = tokenizers.Tokenizer.from_str(around)
    backend.model = getattr(tokenizers.models, kind)(**options)
    backend.add_tokens(
        [
            tokenizers.AddedToken(**{k: v for k, v in token.items() if k != "id"})
            for token in spec["added_tokens"]
            if vocab.get(token["content"]) == token["id"]
        ]
    )
    return backend


def _names(backend: Any) -> list[str | None]:
    """The tokens by id; the vocabulary is copied to a dict only if its ids have gaps.

    Raises:
        ValueError: An id is so large that the list would take too much memory.
    """
    size: int = backend.get_vocab_size(with_added_tokens=True)
    names: list[str | None] = [backend.id_to_token(i) for i in range(size)]
    if None not in names:
        return names
    last = max(backend.get_vocab(with_added_tokens=True).values(), default=-1)
    if last >= _MOST_IDS:
        raise ValueError(f"it has the token id {last}; at most {_MOST_IDS - 1} is allowed")
    return [*names[: last + 1], *(backend.id_to_token(i) for i in range(size, last + 1))]


def _bytes_of(names: Sequence[str | None], kind: TokenKind) -> list[bytes]:
    """The bytes of tokens, given their names in the vocabulary."""
    match kind:
        case "byte_level":
            return [b"" if name is None else _byte_level(name) for name in names]
        case "byte_fallback":
            return [
                b""
                if name is None
                else bytes([int(byte[1], 16)])
                if name.startswith("<0x") and (byte := _BYTE_TOKEN.fullmatch(name))
                else name.replace("\u2581", " ").encode()
                for name in names
            ]
        case "word_piece":
            return [
                b""
                if name is None
                else name[2:].encode()
                if name.startswith("##")
                else f" {name}".encode()
                for name in names
            ]
        case "plain":
            return [b"" if name is None else name.encode() for name in names]


def _byte_level(name: str) -> bytes:
    try:
        return name.translate(_TO_BYTES).encode("latin-1")
    except UnicodeEncodeError:  # it has characters that do not stand for bytes
        return name.encode()


def read_tokenizer(file: Path) -> bytes:
    """Read a tokenizer.json.

    Raises:
        ModelFormatError: It is missing, not a regular file, too large or unreadable.
    """
    return read_file(
        file,
        _LARGEST,
        f"A model folder needs its {TOKENIZER_FILE}; download the model again, or copy the file "
        "from the original model.",
    )


def _encode(backend: Any, text: str, *, add_special_tokens: bool = False, fast: bool = True) -> Any:
    """The `tokenizers.Encoding` of a text; with `fast`, it has no offsets."""
    try:
        # Encoded as a batch, since only then does the package release the GIL.
        encode = backend.encode_batch_fast if fast else backend.encode_batch
        return encode([text], add_special_tokens=add_special_tokens)[0]
    except (TypeError, UnicodeEncodeError) as e:
        raise BadRequestError(f"The text cannot be encoded as UTF-8: {e}.") from e


def _check_sizes(names: Sequence[str | None], added: Mapping[int, Any]) -> None:
    """Refuse a vocabulary that is larger than any model's.

    Raises:
        ValueError: It is too large; the message says in what way.
    """
    if len(added) > _MOST_ADDED:
        raise ValueError(f"it adds {len(added)} tokens, more than {_MOST_ADDED}")
    longest = max((len(str(token.content)) for token in added.values()), default=0)
    if longest > _LONGEST_ADDED:
        raise ValueError(f"an added token has {longest} characters, more than {_LONGEST_ADDED}")
    if len(names) > _MOST_IDS:
        last = len(names) - 1
        raise ValueError(f"it has the token id {last}; at most {_MOST_IDS - 1} is allowed")


def _check_normalizer(spec: Any) -> None:
    """Refuse a normalizer that makes a text much longer.

    Raises:
        ValueError: It may make a text more than `_MOST_GROWTH` times as long.
    """
    steps, growth = [spec.get("normalizer")], 1
    while steps:
        step = steps.pop()
        if not isinstance(step, dict):
            continue
        steps += step.get("normalizers") or []
        if step.get("type") == "Replace":
            pattern = step.get("pattern") or {}
            replaced = len(pattern["String"]) if "String" in pattern else 0
            new = len(step.get("content") or "")
            growth *= -(-new // replaced) or 1 if replaced else 1 + new
        elif step.get("type") == "Prepend":
            growth *= 1 + len(step.get("prepend") or "") // 16
    if growth > _MOST_GROWTH:
        raise ValueError(f"its normalizer makes a text up to {growth} times as long")


def _ignore_in_text(backend: Any, tokens: list[Any]) -> None:
    """Have the `tokenizers` package treat the text of these added tokens as ordinary text."""
    from tokenizers import AddedToken

    backend.encode_special_tokens = True
    backend.add_special_tokens(  # marks existing tokens as special, and changes nothing else
        [
            AddedToken(
                token.content,
                single_word=token.single_word,
                lstrip=token.lstrip,
                rstrip=token.rstrip,
                normalized=token.normalized,
                special=True,
            )
            for token in tokens
            if not token.special
        ]
    )


def _without_first_space(backend: Any) -> Any:
    """The backend for text that does not begin a prompt.

    It differs from `backend` only if that puts SentencePiece's space before a text's beginning.
    """
    step = backend.pre_tokenizer
    if step is None or b'"first"' not in step.__getstate__():
        return backend
    import tokenizers

    spec = json.loads(backend.to_str())
    for one in spec["pre_tokenizer"].get("pretokenizers", [spec["pre_tokenizer"]]):
        if one.get("prepend_scheme") == "first":
            one["prepend_scheme"] = "never"
    other = tokenizers.Tokenizer.from_str(json.dumps(spec))
    other.encode_special_tokens = True
    return other


def _kind_of(decoder: dict[str, Any]) -> tuple[TokenKind, bool]:
    """The kind of a tokenizer.json's decoder, and whether it drops a leading space."""
    steps: list[dict[str, Any]] = decoder.get("decoders", [decoder])
    types = {step.get("type"): step for step in steps}
    if "ByteLevel" in types:
        return "byte_level", False
    if "WordPiece" in types:
        return "word_piece", True
    if metaspace := types.get("Metaspace"):
        prepends = metaspace.get("prepend_scheme", "always") != "never"
        return "byte_fallback", prepends and metaspace.get("add_prefix_space", True)
    if "ByteFallback" in types or "Replace" in types:
        strip = types.get("Strip", {})
        return "byte_fallback", strip.get("content") == " " and strip.get("start", 0) > 0
    return "plain", False
