"""The content of a session's file: lines of JSON, of which a crash may leave the last one partial.

The first line is the header. Each later one is a part of the answer, ``{"journal", "text",
"finish_reason"}``: token ids, or the model's text where the runtime is not batch-invariant; the
text that the reader got; and the finish reason or null. ``{"continue_from": n}`` says that a later
process continued after the first `n` tokens (or characters), so that what follows replaces what
came after these. The files are read as if anybody might have written them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from itertools import chain
from typing import Any, Final

from mlc_widget.api.errors import BadRequestError, MLCEngineError
from mlc_widget.api.json_size import TooDeepError, TooLargeError, check_json_size
from mlc_widget.api.requests import CHAT_FIELDS, JSONDict, check_chat
from mlc_widget.api.resumable import RecoveryMode, ResumableSession, ResumeResult

MAX_SESSION_BYTES: Final = 16 * 1024 * 1024
"""The largest journal; what is written beyond it is not kept."""
MAX_SESSION_LINES: Final = 2**17
"""The most lines of a journal; what is written beyond them is not kept."""
_MAX_TOKENS: Final = 2**20
_LONGEST_TEXT: Final = 4096
"""Characters of a text in the header, such as the model's path."""
_LARGEST_NUMBER: Final = 2**53 - 1  # the largest that JavaScript can represent
_VERSION: Final = 1
_DEEPEST: Final = 64
_FINISH_REASONS: Final = ("stop", "length", "tool_calls", "abort")
_WITH_TEXT: Final = frozenset(
    {
        *("messages", "tools", "tool_choice", "response_format", "stop", "logit_bias"),
        *("dry_sequence_breakers", "user", "metadata", "safety_identifier", "prompt_cache_key"),
    }
)
"""The fields of requests that may hold what a user wrote."""
_OF_ONE_CALL: Final = frozenset({"stream", "stream_options", "resumable"})


@dataclass(frozen=True, slots=True)
class Header:
    """What is known of an answer when it begins.

    Attributes:
        session_id: The session's name.
        created: The ``created`` of the answer's chunks.
        model_id: The model, as it was loaded.
        fingerprint: Identifies the model's files and configuration.
        exact: Whether a continued answer equals an uninterrupted one.
        prompt_tokens: The tokens of the prompt.
        request: The request's fields; without a stored prompt, those without text.
        digests: The digests of its other fields, by name.
        salt: What the digests are keyed with.
    """

    session_id: str
    created: int
    model_id: str
    fingerprint: str
    exact: bool
    prompt_tokens: int
    request: Mapping[str, Any]
    digests: Mapping[str, str]
    salt: str

    @property
    def request_id(self) -> str:
        """The answer's id."""
        return str(self.request["request_id"])

    def same_request(self, other: Header) -> bool:
        """Whether a header with the same salt is of the same request, kept in the same way."""
        return (
            self.salt == other.salt
            and self.digests == other.digests
            and self.request == _plain(other.request)
        )

    def encode(self) -> bytes:
        """The first line of the file."""
        return _line({"mlc_widget_session": _VERSION, **asdict(self)})


def split_request(request: Mapping[str, Any], salt: str, *, stored: bool) -> tuple[JSONDict, Any]:
    """The fields of a request to store, and the digests of the others.

    Args:
        request: A checked request.
        salt: Keys the digests.
        stored: Whether fields with text are stored, too.
    """
    kept = {name: value for name, value in request.items() if name not in _OF_ONE_CALL}
    if stored:
        return kept, {}
    texts = {name: value for name, value in kept.items() if name in _WITH_TEXT}
    digests = {name: _digest(salt, value) for name, value in texts.items()}
    return {name: value for name, value in kept.items() if name not in texts}, digests


def _plain(value: Any) -> Any:
    """A value as a file gives it back."""
    return json.loads(json.dumps(value))


def _digest(salt: str, value: Any) -> str:
    text = json.dumps(_plain(value), sort_keys=True)
    return hashlib.blake2b(text.encode(), key=salt.encode()[:64], digest_size=32).hexdigest()


def encode_chunk(chunk: Mapping[str, Any], journal: Any) -> bytes:
    """The line for a chunk of the answer; empty if there is nothing to keep of it."""
    choices = chunk.get("choices") or ()
    if not choices:
        return b""
    text = (choices[0].get("delta") or {}).get("content") or ""
    reason = choices[0].get("finish_reason")
    if not (journal or text or reason):
        return b""
    return _line({"journal": journal, "text": text, "finish_reason": reason})


def encode_continuation(known: int) -> bytes:
    """The line that says after how many tokens or characters another process continues."""
    return _line({"continue_from": known})


def _line(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode() + b"\n"


@dataclass(slots=True)
class _Part:
    begins: int
    ends: int
    journal: Any
    text: str


@dataclass(slots=True)
class SessionState:
    """What a session's file says.

    Attributes:
        header: Its first line.
        nbytes: The length of all its complete lines.
        nlines: The number of these lines.
        finish_reason: The answer's finish reason, if it has ended.
    """

    header: Header
    nbytes: int = 0
    nlines: int = 0
    finish_reason: str | None = None
    _parts: list[_Part] = field(default_factory=list)

    @property
    def known(self) -> int:
        """The tokens of the answer or, if it is kept as text, its characters."""
        return self._parts[-1].ends if self._parts else 0

    @property
    def tokens(self) -> int:
        """The tokens of the answer; 0 if they were not reported."""
        return self.known if self.header.exact else 0

    @property
    def text(self) -> str:
        """The text of the answer that its reader may have got."""
        return "".join(part.text for part in self._parts)

    @property
    def stored_prompt(self) -> bool:
        """Whether it continues without the request's messages."""
        return not self.header.digests

    @property
    def finished(self) -> bool:
        """Whether nothing is left to generate."""
        return self.finish_reason not in (None, "abort")

    @property
    def recovery_mode(self) -> RecoveryMode:
        """How it continues."""
        return "token_replay" if self.header.exact else "text_only"

    def probe(self) -> ResumableSession:
        """The entry in a list of sessions."""
        reason = {None: "generation incomplete", "abort": "generation aborted"}
        return ResumableSession(
            session_id=self.header.session_id,
            resumable=not self.finished,
            reason=reason.get(self.finish_reason, "generation finished"),
            model_id=self.header.model_id,
            emitted_tokens=self.tokens,
            processed_seq_len=self.header.prompt_tokens + self.tokens,
            recovery_mode="none" if self.finished else self.recovery_mode,
            stored_prompt=self.stored_prompt,
        )

    def result(self) -> ResumeResult:
        """The text that was recovered, without a model."""
        return ResumeResult(
            session_id=self.header.session_id,
            recovered_text=self.text,
            emitted_tokens=self.tokens,
            processed_seq_len=self.header.prompt_tokens + self.tokens,
            replayed_tokens=0,
            recovery_mode="text_only",
            finish_reason=self.finish_reason,
        )

    def resume(self) -> JSONDict | None:
        """The ``resume`` of a stream's init; None if the answer has not begun."""
        if not self._parts:
            return None
        parts = [part.journal for part in self._parts]
        journal = list(chain(*parts)) if self.header.exact else "".join(parts)
        choice = {"journal": journal, "finish_reason": None}
        return {"created": self.header.created, "choices": [choice]}

    def request(self, given: Mapping[str, Any]) -> JSONDict:
        """The request to continue with.

        Args:
            given: The fields of the request that the session does not have, and any others, as they
                were at first; empty if the session has its prompt.

        Raises:
            BadRequestError: The answer has ended, or this is not its request.
        """
        name = self.header.session_id
        if self.finished:
            raise BadRequestError(
                f"session_id = {name!r}: this answer is complete; read its text without "
                "continue_generation.",
                param="session_id",
            )
        own = dict(self.header.request)
        if given:
            checked = {n: v for n, v in check_chat(given).items() if n not in _OF_ONE_CALL}
            self._compare(checked)
            own |= {n: v for n, v in checked.items() if n in self.header.digests}
        elif not self.stored_prompt:
            raise BadRequestError(
                f"session_id = {name!r}: this session was begun without store_prompt, so give "
                f"the request's {', '.join(sorted(self.header.digests))} again.",
                param="messages",
            )
        own["resumable"] = {
            "enabled": True,
            "session_id": name,
            "store_prompt": self.stored_prompt,
        }
        return own

    def _compare(self, checked: Mapping[str, Any]) -> None:
        header = self.header
        for name, value in checked.items():
            known = header.digests.get(name)
            if known is None:
                same = name in header.request and header.request[name] == _plain(value)
            else:
                same = known == _digest(header.salt, value)
            if not same:
                raise _other_request(header.session_id, name)
        for name in sorted(header.digests.keys() - checked.keys()):
            raise BadRequestError(
                f"{name}: session {header.session_id!r} was begun with this field; give it again.",
                param=name,
            )


def _other_request(session: str, name: str) -> BadRequestError:
    return BadRequestError(
        f"{name}: session {session!r} was begun with another value of this field. Give the same "
        "as the first time.",
        param=name,
    )


def read_session(name: str, data: bytes) -> SessionState:
    """Read a session's file.

    Args:
        name: The session's name.
        data: The content of its file; an incomplete last line is left out.

    Raises:
        BadRequestError: It is not the file of such a session.
    """
    if len(data) > MAX_SESSION_BYTES:
        raise _malformed(name, f"it is larger than {MAX_SESSION_BYTES} bytes")
    nbytes, nlines = data.rfind(b"\n") + 1, data.count(b"\n")
    if nlines > MAX_SESSION_LINES:
        raise _malformed(name, f"it has {nlines} lines, more than {MAX_SESSION_LINES}")
    lines = _lines(name, data)
    try:
        first = next(lines)
    except StopIteration:
        raise _malformed(name, "it has no header") from None
    state = SessionState(_header(name, first), nbytes, nlines)
    for number, content in enumerate(lines, 2):
        if not _take(state, content):
            raise _malformed(name, f"line {number} is not a part of an answer")
        if state.tokens > _MAX_TOKENS:
            raise _malformed(
                name,
                f"its answer has {state.tokens} tokens by line {number}, more than {_MAX_TOKENS}",
            )
    return state


def _lines(name: str, data: bytes) -> Iterator[JSONDict]:
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        try:
            content = json.loads(line.decode())
            if b"\\u" in line:  # which may be half of a surrogate pair, that nothing can encode
                json.dumps(content, ensure_ascii=False).encode()
        except (ValueError, RecursionError):
            raise _malformed(name, f"line {number} is not JSON of ours") from None
        if not isinstance(content, dict):
            raise _malformed(name, f"line {number} is not a JSON object")
        yield content


def _header(name: str, content: JSONDict) -> Header:
    if content.get("mlc_widget_session") != _VERSION:
        raise _malformed(name, "it is not a session of this version of mlc_widget")
    try:
        header = Header(**{one.name: content[one.name] for one in fields(Header)})
    except KeyError as error:
        raise _malformed(name, f"its header has no {error.args[0]}") from None
    texts = (header.session_id, header.model_id, header.fingerprint, header.salt)
    numbers = (header.created, header.prompt_tokens)
    fits = (
        header.session_id == name
        and all(isinstance(text, str) and len(text) <= _LONGEST_TEXT for text in texts)
        and all(type(number) is int and 0 <= number <= _LARGEST_NUMBER for number in numbers)
        and type(header.exact) is bool
        and isinstance(header.request, dict)
        and isinstance(header.digests, dict)
        and header.digests.keys() <= _WITH_TEXT - header.request.keys()
        and all(isinstance(digest, str) for digest in header.digests.values())
        and "request_id" in header.request
        and ("messages" in header.request) != ("messages" in header.digests)
        and _are_fields(header.request)
    )
    if not fits:
        raise _malformed(name, "its header has wrong values")
    return header


def _are_fields(request: JSONDict) -> bool:
    """Whether these are fields of a chat request, each with a valid value."""
    try:
        for name, value in request.items():
            CHAT_FIELDS[name](name, value)
        check_json_size(request, MAX_SESSION_BYTES, _DEEPEST)
    except (KeyError, RecursionError, TooLargeError, TooDeepError, MLCEngineError):
        return False
    return True


def _take(state: SessionState, content: JSONDict) -> bool:
    """Add a line; returns whether it is one."""
    if "continue_from" in content:
        return _go_back(state, content["continue_from"])
    journal, text = content.get("journal"), content.get("text")
    reason = content.get("finish_reason")
    fits = (
        isinstance(text, str)
        and bool(journal or text or reason)
        and (reason is None or reason in _FINISH_REASONS)
        and (_are_ids(journal) if state.header.exact else isinstance(journal, str))
        and state.finish_reason is None
    )
    if fits:
        begins = state.known
        state._parts.append(_Part(begins, begins + len(journal or ()), journal, str(text)))
        state.finish_reason = reason
    return fits


def _are_ids(journal: Any) -> bool:
    return isinstance(journal, list) and all(type(i) is int and 0 <= i < 2**31 for i in journal)


def _go_back(state: SessionState, known: Any) -> bool:
    if type(known) is not int or not 0 <= known <= state.known:
        return False
    while state._parts and state._parts[-1].begins >= known:
        state._parts.pop()
    state.finish_reason = None
    return state.known == known


def _malformed(name: str, why: str) -> BadRequestError:
    return BadRequestError(
        f"session_id = {name!r}: its file cannot be used: {why}. Delete the session.",
        param="session_id",
    )
