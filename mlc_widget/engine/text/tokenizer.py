"""A model's tokenizer: turns text into token ids, and token ids into their exact bytes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from mlc_widget.api.garbage import collection_paused
from mlc_widget.engine.store.model_files import read_file
from mlc_widget.engine.text.control_tokens import ControlTokens
from mlc_widget.engine.text.prompt_text import PromptText
from mlc_widget.engine.text.token_bytes import (
    UNASSIGNED,
    TokenBytes,
    TokenKind,
    bytes_of,
    decode_bytes,
    kind_of,
)
from mlc_widget.engine.text.tokenizer_backend import (
    backend_from_json,
    backend_from_spec,
    check_sizes,
    encode,
    errors_of,
    ignore_in_text,
    import_tokenizers,
    names_of,
    names_of_spec,
    without_first_space,
)

TOKENIZER_FILE: Final = "tokenizer.json"
_LARGEST: Final = 256 << 20


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


class Tokenizer:
    """Wraps a Hugging Face `tokenizer.json`.

    The exact bytes of each token are known for two families of vocabularies: byte-level BPE
    (GPT-2, Llama 3, Qwen), and SentencePiece with byte fallback (Llama 2, Mistral), where ``▁`` is
    a space, ``<0x0A>`` is a byte, and decoding removes one space at the beginning of a text.

    Text becomes a control token only in markup (see `encode_prompt`); `ControlTokens` says which
    added tokens are control tokens.

    Use `from_folder`. Instances are immutable and may be shared between threads.
    """

    def __init__(self, backend: Any, names: Sequence[str | None] | None = None) -> None:
        """Wrap a `tokenizers.Tokenizer`, which this object owns from now on.

        Args:
            backend: That.
            names: Its tokens by id, if they are known: see `names_of`.
        """
        backend.no_truncation()
        backend.no_padding()
        added = backend.get_added_tokens_decoder()
        names = names_of(backend) if names is None else names
        check_sizes(names, added)
        self._special = frozenset(i for i, token in added.items() if token.special)
        self._added = {i: str(token.content) for i, token in added.items()}
        self._control = ControlTokens(added)
        ignore_in_text(backend, [added[i] for i in sorted(self._control.ids)])
        self._backend = backend
        self._continuing = without_first_space(backend)
        self._unknown = frozenset(encode(backend, UNASSIGNED).ids)
        decoder = backend.decoder
        self._kind, self._strips_leading_space = kind_of(
            {} if decoder is None else json.loads(decoder.__getstate__())
        )
        tokens = bytes_of(names, self._kind)
        if self._kind != "byte_fallback":
            for i, content in self._added.items():
                tokens[i] = content.encode()
        self._bytes = TokenBytes(tokens)

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
        with errors_of(file, tokenizers):
            return cls(backend_from_json(content.decode(), tokenizers))

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
        with errors_of(file, tokenizers), collection_paused():
            return cls(backend_from_spec(spec, tokenizers), names_of_spec(spec))

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
        return self._bytes.longest

    @property
    def vocab_size(self) -> int:
        """The largest token id plus one; a model's logits may be padded beyond it."""
        return len(self._bytes)

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
        around = encode(self._backend, text, add_special_tokens=True)
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
        ids: list[int] = encode(backend, text).ids
        if self._control.ids.isdisjoint(ids):
            return ids
        # The vocabulary itself may have a control token's name; such a name is cut in two.
        offsets = encode(backend, text, fast=False).offsets
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
        return self._bytes.of(token_id)

    def token_to_id(self, token: str) -> int | None:
        """The id of a token by its name in the vocabulary, or None."""
        found: int | None = self._backend.token_to_id(token)
        return found

    def ids_of_texts(self, texts: Iterable[str]) -> dict[str, list[int]]:
        """The ids of the tokens with exactly these texts (see `token_bytes`): none, one or more."""
        found: dict[bytes, list[int]] = {text.encode(): [] for text in texts}
        if found:
            for token_id, data in enumerate(self._bytes):
                if data in found:
                    found[data].append(token_id)
        return {data.decode(): ids for data, ids in found.items()}

    def is_special(self, token_id: int) -> bool:
        """Whether the token is a special one, such as an end of turn, and not text."""
        return token_id in self._special
