"""The wire: WebLLM's worker messages, carried as the data of Jupyter comm messages.

Up, from proxy to worker: ``{"kind", "uuid", "content"}``. Down: ``{"kind": "return" | "throw" |
"initProgressCallback", "uuid", "content"}``. Kinds and contents are WebLLM's
(``@mlc-ai/web-llm``, src/message.ts), so its own client can drive the worker.

Everything beyond WebLLM's messages is only for a peer that has sent ``hello``. Such a peer

- gets an ``error`` object beside a ``throw``'s text, and more fields in progress reports, each of
  which it answers with ``progressTaken``;
- gets ``log`` messages, whose content is a list of what its engine logs (`EngineLogRecord`), each
  of which it answers with ``logTaken``: the next one comes only after that;
- numbers its messages from 0 (``n``), and they are taken in that order. Numbers that do not come
  are given up after some seconds: ``{"kind": "lost", "content": {"first", "last"}}`` comes down,
  and what was sent after them is taken;
- may send ``credit`` in a stream's init, and then gets pushed ``chunks`` instead of pulling them:
  with ``seq`` 0 and no content once the request is accepted, then counting up, then one ``return``
  or ``throw``, all under the init's uuid. ``streamCredit`` says how many chunks were read since
  the last one, and lets as many more come; it is due once `STREAM_SHARE_BYTES` / 2 were read, as
  the worker also bounds the bytes that a client has not read. A stream that has been waiting for
  it for long gets a message without chunks now and then, which is answered by a ``streamCredit``
  of 0: the stream of a client that was killed ends;
- may send ``journal: true`` beside ``credit``; each chunk of a choice then has a ``journal``: the
  token ids that it and what was held back before it came from (of a choice's last chunk, without
  the last token) or, where the runtime is not batch-invariant, the text that the model wrote;
- may send ``resume`` beside ``credit``, to have a stream continued that another worker began:
  ``{"created", "choices"}``, the chunks' ``created`` and for each choice null if it has not begun,
  else ``{"journal", "finish_reason"}``, its chunks' journals joined and its finish reason if it has
  one. The first chunk then has ``resumed``: ``{"exact", "tokens"}``, whether the answer is the one
  that would have come without the interruption, and how many tokens of it came before;
- may send ``resumedRequest``, with a ``sessionId`` and the ``request`` as it was at first (or an
  empty one), to continue an answer on the worker's disk: the answer has the complete ``request``
  and the ``resume`` for a stream's init, and ``before``, a `ResumeResult` of WebLLM's. WebLLM's own
  ``resumeChatCompletion`` may have that request as ``options.request``;
- may send ``health`` to learn whether the worker hangs: the answer lists the steps that its models
  are at, each as ``{"model", "number", "seconds", "usual_s"}``: which step, for how long, and the
  longest before it (null for the first);
- may send ``cancelLoad``, which ends a running load and is answered once what was loaded before it
  is there again. A request for models that this peer's own ``reload`` has just replaced is refused
  with the code ``model_replaced``: it was sent before the peer knew, and may be sent again;
- says in its ``hello`` to a shared worker which process it is, as ``client: {"pid"}``, so that the
  worker knows when that has ended. ``client: {"observer": true}`` is no client: it may ask for
  ``workerInfo``, the worker's models and clients, and does not keep it running. A worker that is
  about to end refuses a ``hello`` with the code ``worker_ending``;
- may say in the ``comm_open`` itself, as the comm's data, what a worker needs that was started
  without settings: ``settings``, as `WorkerSettings.to_wire` makes them, which count for the first
  client only; and ``linkTimeout``: it will send something, if only a ``keepAlive`` without a
  number, more often than once in so many seconds, and the worker ends after as many of silence;
- may send ``abort``, ``metrics``, ``statistics``, ``listModels``, ``deviceInfo``, and
  ``appConfigHash`` beside ``modelId``, the digest of an app config that a ``setAppConfig`` brought.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

from mlc_widget.api.errors import ProtocolError
from mlc_widget.api.progress import InitProgressReport
from mlc_widget.api.requests import JSONDict
from mlc_widget.api.unicode_text import is_well_formed

PROTOCOL_VERSION: Final = 1
COMM_TARGET: Final = "mlc_widget.engine"
WORKER_ENDING: Final = "worker_ending"
"""The code with which a shared worker that is about to end refuses a client."""
MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
STREAM_BYTES: Final = 16 * 1024 * 1024
"""Unread bytes of a pushed stream after which the worker waits for the client to read."""
STREAM_SHARE_BYTES: Final = 256 * 1024
"""Unread bytes that a pushed stream may always have, whatever the client's other streams have. A
client grants credit at the latest when it has read half of this."""
MAX_WHOLE_REQUESTS: Final = 512
"""Requests of one client that are answered whole, at the same time; a worker refuses more."""

STREAM_INITS: Final = {
    "chat": "chatCompletionStreamInit",
    "completion": "completionStreamInit",
}
WHOLE_REQUESTS: Final = {
    "chat": "chatCompletionNonStreaming",
    "completion": "completionNonStreaming",
    "embedding": "embedding",
}


@dataclass(frozen=True, slots=True)
class WorkerRequest:
    """A message from the proxy to the worker."""

    kind: str
    uuid: str
    content: Any

    def encode(self, number: int | None = None) -> JSONDict:
        """The message as comm data; `number` is its place in the order of messages."""
        data = {"kind": self.kind, "uuid": self.uuid, "content": self.content}
        return data if number is None else {**data, "n": number}

    @classmethod
    def decode(cls, data: Any) -> WorkerRequest:
        """Read comm data.

        Raises:
            ProtocolError: not of the form ``{"kind", "uuid", "content"}``.
        """
        if not isinstance(data, Mapping):
            raise ProtocolError(f"a message must be an object, not {type(data).__name__}")
        kind, uuid = data.get("kind"), data.get("uuid")
        if not isinstance(kind, str) or not kind or not _can_be_sent(uuid):
            raise ProtocolError(
                f"a message needs a kind and a uuid, not {kind!r:.200} and {uuid!r:.200}"
            )
        return cls(kind, uuid, data.get("content"))


def answerable_uuid(data: Any) -> str:
    """The uuid of comm data; "" if there is none, or one that no answer can carry."""
    uuid = data.get("uuid") if isinstance(data, Mapping) else None
    return uuid if _can_be_sent(uuid) else ""


def _can_be_sent(uuid: Any) -> TypeGuard[str]:
    """Whether it is a text without lone surrogates, which JSON can escape but not contain."""
    return isinstance(uuid, str) and is_well_formed(uuid)


def return_message(uuid: str, content: Any) -> JSONDict:
    """The answer to a request, or a pushed stream's end."""
    return {"kind": "return", "uuid": uuid, "content": content}


def end_message(uuid: str) -> JSONDict:
    """The answer to ``completionStreamNextChunk`` after the last chunk.

    There is no content: WebLLM's client ends a stream when the content's type is not "object",
    and in JavaScript null has that type.
    """
    return {"kind": "return", "uuid": uuid}


def throw_message(uuid: str, text: str, error: JSONDict | None) -> JSONDict:
    """A failed request: a readable text and, for a peer that said hello, the error's fields."""
    message: JSONDict = {"kind": "throw", "uuid": uuid, "content": text}
    if error is not None:
        message["error"] = error
    return message


def lost_message(first: int, last: int) -> JSONDict:
    """The numbered messages from `first` to `last` never came."""
    return {"kind": "lost", "uuid": "", "content": {"first": first, "last": last}}


def log_message(records: Sequence[JSONDict]) -> JSONDict:
    """What an engine has logged."""
    return {"kind": "log", "uuid": "", "content": list(records)}


def chunks_message(uuid: str, seq: int, chunks: Sequence[JSONDict]) -> JSONDict:
    """Chunks of a pushed stream; `seq` counts these messages from 0."""
    return {"kind": "chunks", "uuid": uuid, "seq": seq, "content": list(chunks)}


def progress_message(report: InitProgressReport, *, extended: bool) -> JSONDict:
    """A load's report: WebLLM's three fields and, if `extended`, all of ours."""
    content: JSONDict = {
        "progress": report.progress,
        "timeElapsed": report.time_elapsed,
        "text": report.text,
    }
    if extended:
        content |= {
            "phase": report.phase,
            "modelId": report.model_id,
            "bytesDone": report.bytes_done,
            "bytesTotal": report.bytes_total,
            "bytesPerS": report.bytes_per_s,
            "etaS": report.eta_s,
            "warning": report.warning,
        }
    return {"kind": "initProgressCallback", "uuid": "", "content": content}


def read_progress(content: Mapping[str, Any]) -> InitProgressReport:
    """The report in an ``initProgressCallback`` message."""
    return InitProgressReport(
        progress=float(content["progress"]),
        time_elapsed=float(content["timeElapsed"]),
        text=str(content["text"]),
        phase=content.get("phase", "load"),
        model_id=content.get("modelId", ""),
        bytes_done=content.get("bytesDone"),
        bytes_total=content.get("bytesTotal"),
        bytes_per_s=content.get("bytesPerS"),
        eta_s=content.get("etaS"),
        warning=str(content.get("warning", "")),
    )
