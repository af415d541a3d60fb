"""Checks on single values of requests: each returns the value to use, or raises.

A check takes the field's dotted path and the value, and raises `BadRequestError` with the path as
`param` and the value in the message.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import reprlib
from collections.abc import Callable, Collection, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Final, TypeAlias, cast

from mlc_widget.api.errors import BadRequestError
from mlc_widget.api.json_size import TooDeepError, TooLargeError, check_json_size
from mlc_widget.api.limits import LIMITS

JSONDict: TypeAlias = dict[str, Any]
Check: TypeAlias = Callable[[str, Any], Any]


def bad(param: str, value: Any, remedy: str) -> BadRequestError:
    """An error that names the field, the value (shortened) and the remedy."""
    return BadRequestError(f"{param} = {shortened(value)}: {remedy}", param=param)


_SHOWN: Final = 120
"""Characters of a value that an error message shows."""
_EXCERPT: Final = reprlib.Repr()
_EXCERPT.maxlevel = 4
_EXCERPT.maxstring = _EXCERPT.maxother = _EXCERPT.maxlong = 2 * _SHOWN


def shortened(value: Any) -> str:
    """A value as an error message shows it; a large one is not written out in full first."""
    try:
        check_json_size(value, _SHOWN)
        shown = " ".join(repr(value).splitlines())  # a data frame's has several
    except TooLargeError:
        shown = _excerpt(value)
    except Exception:  # an integer of many thousand digits, a class's own fault
        shown = f"<{type(value).__name__}>"
    return shown if len(shown) <= _SHOWN else f"{shown[: _SHOWN - 3]}…"


def field_name(name: Any) -> str:
    """A field's name, which may be any key of a mapping, as an error message shows it."""
    plain = isinstance(name, str) and 0 < len(name) <= _SHOWN and name.isprintable()
    return name if plain else shortened(name)


def _excerpt(value: Any) -> str:
    try:
        return repr(value[:_SHOWN]) if isinstance(value, str) else _EXCERPT.repr(value)
    except Exception:
        return f"<{type(value).__name__}>"


def number(low: float, high: float, *, open_low: bool = False) -> Check:
    """A finite number between `low` and `high`; with `open_low`, greater than `low`."""

    def check(param: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise bad(param, value, "give a number.")
        # NaN is not between any two numbers; an integer may be too large for a float.
        if not low <= cast("float", value) <= high or (open_low and value == low):
            span = f"greater than {low:g} and at most" if open_low else f"between {low:g} and"
            raise bad(param, value, f"give a number {span} {high:g}.")
        return float(value)

    return check


def integer(low: int, high: int) -> Check:
    """An integer between `low` and `high`."""

    def check(param: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise bad(param, value, "give an integer.")
        if not low <= int(value) <= high:
            raise bad(param, value, f"give an integer between {low} and {high}.")
        return int(value)

    return check


def boolean(param: str, value: Any) -> bool:
    """True or False, not 0 or 1."""
    if not isinstance(value, bool) and not _is_numpy_bool(value):
        raise bad(param, value, "give True or False.")
    return bool(value)


def _is_numpy_bool(value: Any) -> bool:
    """Whether it is numpy's; numpy registers its numbers with `numbers`, but not this."""
    return type(value).__module__ == "numpy" and type(value).__name__ in ("bool", "bool_")


def string(param: str, value: Any) -> str:
    """A string that can be encoded."""
    if not isinstance(value, str):
        raise bad(param, value, "give a string.")
    encoded_size(param, value)
    return value


def encoded_size(param: str, value: str) -> int:
    """Bytes of a text in UTF-8; refuses lone surrogates, which no encoding can represent."""
    try:
        return len(value.encode())
    except UnicodeEncodeError as error:
        raise bad(param, value[:20], f"not valid Unicode text ({error.reason}).") from None


def identifier(param: str, value: Any, longest: int = 512) -> str:
    """A short text that is not empty."""
    if not isinstance(value, str) or not 0 < len(value) <= longest:
        raise bad(param, value, f"give a string of 1 to {longest} characters.")
    encoded_size(param, value)
    return value


def model(param: str, value: Any) -> str:
    """A model's id, which may be a path, as a string or as a `pathlib.Path`."""
    return identifier(param, path_text(value), longest=4096)


def path_text(value: Any) -> Any:
    """A `pathlib.Path` as a string; anything else as it is."""
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def strings(most: int, largest: int) -> Check:
    """One string, or a list of at most `most`; each has 1 to `largest` bytes."""

    def check(param: str, value: Any) -> list[str]:
        given = [value] if isinstance(value, str) else value
        if not isinstance(given, list | tuple) or not all(isinstance(s, str) for s in given):
            raise bad(param, value, "give a string or a list of strings.")
        if len(given) > most:
            raise bad(param, value, f"give at most {most} strings.")
        for i, one in enumerate(given):
            if not 0 < encoded_size(f"{param}[{i}]", one) <= largest:
                raise bad(f"{param}[{i}]", one, f"give 1 to {largest} bytes.")
        return list(given)

    return check


def top_k(param: str, value: Any) -> int:
    """A number of tokens; 0 or, as in vLLM and llama.cpp, -1 for all of them."""
    return max(0, int(integer(-1, 2**31 - 1)(param, value)))


def logit_bias(param: str, value: Any) -> dict[int | str, float]:
    """Biases by token: its id, which may be written as a string, as JSON must; or its text."""
    if not isinstance(value, Mapping):
        raise bad(param, value, "give a mapping from a token's id or text to a bias.")
    if len(value) > LIMITS.logit_bias:
        raise bad(param, len(value), f"give at most {LIMITS.logit_bias} entries.")
    checked: dict[int | str, float] = {}
    bias = number(-100, 100)
    for key, amount in value.items():
        token = _token(param, key)
        if token in checked:
            raise bad(param, key, "this token appears twice.")
        checked[token] = bias(f"{param}[{shortened(token)}]", amount)
    return checked


_INTEGER: Final = re.compile(r"[+-]?[0-9]+")


def _token(param: str, key: Any) -> int | str:
    """The token id, or the text of a token, for which a key stands."""
    if isinstance(key, str) and not _INTEGER.fullmatch(key):
        most = LIMITS.logit_bias_bytes
        if not 0 < encoded_size(param, key) <= most:
            raise bad(param, key, f"the text of a token has 1 to {most} bytes.")
        return str(key)
    if isinstance(key, str) and len(key) <= 10 and key.isdigit():
        key = int(key)
    if not isinstance(key, Integral) or isinstance(key, bool) or not 0 <= int(key) < 2**31:
        raise bad(param, key, "keys are token ids (integers, 0 or greater) or texts of tokens.")
    return int(key)


def completion_logprobs(param: str, value: Any) -> int | bool:
    """The number of alternatives to each token (OpenAI), or True or False as in chats (WebLLM)."""
    if isinstance(value, bool) or _is_numpy_bool(value):
        return bool(value)
    return int(integer(0, 20)(param, value))


def stream_options(param: str, value: Any) -> JSONDict:
    """OpenAI's ``stream_options``."""
    if not isinstance(value, Mapping):
        raise bad(param, value, 'give a mapping such as {"include_usage": True}.')
    known(param, value, ("include_usage", "include_obfuscation"))
    return {k: boolean(f"{param}.{k}", v) for k, v in value.items() if v is not None}


def mapping(param: str, value: Any) -> JSONDict:
    """A JSON object, bounded in size and depth; returned as JSON would decode it."""
    if not isinstance(value, Mapping):
        raise bad(param, value, "give a mapping.")
    made: JSONDict = _decoded(param, value, LIMITS.schema_bytes, LIMITS.schema_depth)
    return made


def plain(param: str, value: Any) -> Any:
    """Any value that JSON can represent, bounded in size and depth."""
    return _decoded(param, value, LIMITS.prompt_bytes, LIMITS.schema_depth)


def _decoded(param: str, value: Any, largest: int, deepest: int) -> Any:
    """A value as JSON would decode it."""
    try:
        check_json_size(value, largest, deepest)
        text = json.dumps(value, allow_nan=False, ensure_ascii=False, default=_plain_number)
        size = len(text.encode())
    except TooLargeError:
        raise bad(param, value, f"it is too large; give at most {largest} bytes.") from None
    except TooDeepError:
        raise bad(param, value, f"nest at most {deepest} levels.") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise bad(param, value, f"give plain JSON values ({error}).") from None
    if size > largest:
        raise bad(param, f"{size} bytes", f"give at most {largest} bytes.")
    return json.loads(text)


def _plain_number(value: Any) -> int | float | bool:
    """What JSON says for a number of another type, such as numpy's.

    Raises:
        TypeError: It is not a number.
    """
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if _is_numpy_bool(value):
        return bool(value)
    raise TypeError(f"{type(value).__name__} is not a plain JSON value")


def prompt(param: str, value: Any) -> str | list[int]:
    """A text, or token ids."""
    if isinstance(value, str):
        if not value:
            raise bad(param, value, "give at least one character.")
        size = encoded_size(param, value)
        if size > LIMITS.prompt_bytes:
            raise bad(param, f"{size} bytes", f"give at most {LIMITS.prompt_bytes} bytes.")
        return value
    if not isinstance(value, list | tuple) or not value:
        raise bad(param, value, "give a string, a list of token ids, or a list of either.")
    return token_ids(param, value)


def prompts(param: str, value: Any) -> str | list[int] | list[str | list[int]]:
    """One prompt, or a list of them."""
    if not isinstance(value, list | tuple) or not value or isinstance(value[0], Integral):
        return prompt(param, value)
    if len(value) > LIMITS.completions:
        raise bad(param, len(value), f"give at most {LIMITS.completions} prompts.")
    return _prompts(param, value, LIMITS.prompt_bytes)


def _prompts(param: str, value: Sequence[Any], largest: int) -> list[str | list[int]]:
    """Several prompts, of `largest` bytes in total; the same list may occur many times."""
    checked: list[str | list[int]] = []
    left = largest
    for i, one in enumerate(value):
        checked.append(made := prompt(f"{param}[{i}]", one))
        left -= len(made.encode()) if isinstance(made, str) else 4 * len(made)
        if left < 0:
            raise bad(param, value, f"it is too large; give at most {largest} bytes.")
    return checked


def token_ids(param: str, value: Any) -> list[int]:
    """Token ids, at least one; the engine checks later that the vocabulary has them."""
    if not isinstance(value, list | tuple) or not value:
        raise bad(param, value, "give a list of token ids.")
    if len(value) * 4 > LIMITS.prompt_bytes:
        raise bad(param, f"{len(value)} ids", f"give at most {LIMITS.prompt_bytes // 4} ids.")
    # Long conversations are checked at each turn, so quickly; slowly only to name the invalid id.
    if set(map(type, value)) == {int} and min(value) >= 0 and max(value) < 2**31:
        return list(value)
    token_id = integer(0, 2**31 - 1)
    return [token_id(f"{param}[{i}]", v) for i, v in enumerate(value)]


def embedding_input(param: str, value: Any) -> list[str | list[int]]:
    """One or several texts or lists of token ids, always as a list."""
    if isinstance(value, str):
        return [prompt(param, value)]
    if isinstance(value, list | tuple) and value:
        if isinstance(value[0], Integral):
            return [token_ids(param, value)]
        if len(value) > LIMITS.embedding_inputs:
            raise bad(param, len(value), f"give at most {LIMITS.embedding_inputs} inputs.")
        return _prompts(param, value, LIMITS.embedding_bytes)
    raise bad(param, value, "give a string, a list of strings, or token ids.")


def one_of(*choices: Any) -> Check:
    """One of some values."""

    def check(param: str, value: Any) -> Any:
        for choice in choices:
            if type(value) is type(choice) and value == choice:
                return value
        raise bad(param, value, f"give {' or '.join(map(repr, choices))}.")

    return check


def known(
    where: str, request: Mapping[str, Any], fields: Sequence[str] | Mapping[str, Any]
) -> None:
    """Refuse a mapping that has other fields than these."""
    unknown = [name for name in request if name not in fields]
    if unknown:
        name = field_name(unknown[0])
        param = f"{where}.{name}" if where else name
        raise unknown_field(param, request[unknown[0]], name, fields)


def unknown_field(param: str, value: Any, name: str, known: Collection[str]) -> BadRequestError:
    """An error about a field that does not exist, with the known ones and the nearest of them."""
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]!r}? Known" if near else "known"
    return bad(param, value, f"no such field; {hint}: {', '.join(sorted(known))}.")
