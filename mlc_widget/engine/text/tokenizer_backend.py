"""What we ask of the package `tokenizers`: making its tokenizers, checking and using them.

A `backend` is a `tokenizers.Tokenizer`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from mlc_widget.api.errors import BadRequestError, ModelFormatError
from mlc_widget.engine.system.imports import import_package, memory_error, ran_out_of_memory

_MOST_IDS: Final = 1 << 22
_MOST_ADDED: Final = 1 << 16
_LONGEST_ADDED: Final = 1 << 12
_MOST_GROWTH: Final = 256


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


@contextmanager
def errors_of(file: Path, tokenizers: ModuleType) -> Iterator[None]:
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


def backend_from_json(text: str, tokenizers: ModuleType) -> Any:
    """Make a backend of a tokenizer.json.

    Raises:
        ValueError: Its normalizer makes texts too long.
    """
    _check_normalizer(json.loads(text))
    return tokenizers.Tokenizer.from_str(text)


def backend_from_spec(spec: Mapping[str, Any], tokenizers: ModuleType) -> Any:
    """Make a backend of a tokenizer.json's content without writing its vocabulary as JSON."""
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


def names_of(backend: Any) -> list[str | None]:
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


def names_of_spec(spec: Mapping[str, Any]) -> list[str | None]:
    """Like `names_of` of `backend_from_spec`, but without a call for each token."""
    vocab = spec["model"]["vocab"]
    names: list[str | None] = [None] * (max(vocab.values(), default=-1) + 1)
    for token, i in vocab.items():
        names[i] = token
    return names


def check_sizes(names: Sequence[str | None], added: Mapping[int, Any]) -> None:
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


def ignore_in_text(backend: Any, tokens: list[Any]) -> None:
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


def without_first_space(backend: Any) -> Any:
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


def encode(backend: Any, text: str, *, add_special_tokens: bool = False, fast: bool = True) -> Any:
    """The `tokenizers.Encoding` of a text; with `fast`, it has no offsets."""
    try:
        # Encoded as a batch, since only then does the package release the GIL.
        encode = backend.encode_batch_fast if fast else backend.encode_batch
        return encode([text], add_special_tokens=add_special_tokens)[0]
    except (TypeError, UnicodeEncodeError) as e:
        raise BadRequestError(f"The text cannot be encoded as UTF-8: {e}.") from e
