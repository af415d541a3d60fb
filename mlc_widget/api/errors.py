"""The errors of every engine, direct or proxied.

::

    MLCEngineError
    ├── BadRequestError (ValueError)      the request is wrong; nothing was started
    │   ├── UnsupportedFieldError         a field that this runtime cannot honour
    │   └── ContextLengthExceededError    the prompt does not fit the context window
    ├── ModelError
    │   ├── ModelNotFoundError            no such folder, built-in name or file
    │   ├── ModelDownloadError            no network, no access, or no space
    │   ├── ModelFormatError              a file of the model is missing, malformed or truncated
    │   ├── UnsupportedModelError         an architecture, quantization or template we do not run
    │   └── ModelNotLoadedError           a request before `reload`, or for another model
    ├── RuntimeUnavailableError           the package or device that the runtime needs is missing
    ├── MCPServerError                    a server of the Model Context Protocol failed
    ├── InsufficientMemoryError           the model and its KV cache do not fit
    ├── LoadCancelledError                a newer `reload` or `unload` ended this load
    ├── EngineDeadError                   the worker or the engine's thread died
    │   └── WorkerStartError              … before it was ready
    ├── ServerError                       a server of OpenAI's API fails or cannot be reached
    ├── EngineTerminatedError             a call after `terminate`
    ├── EngineForkedError (RuntimeError)  a call in a process that was forked from the engine's
    ├── ProtocolError                     a message that breaks the protocol
    └── InternalEngineError               a bug in the engine; carries the remote traceback

Every error carries what OpenAI's errors carry (`message`, `code`, `param`) and crosses the wire as
those fields and its class name, so the proxy raises the class that the engine raised.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, ClassVar, Final, Self

from mlc_widget.api.ipython_traceback import render_traceback

_LONGEST: Final = 4000
_ITS_END: Final = 1000
"""Characters of a message about a model, and of its end, which says what to do."""


class MLCEngineError(Exception):
    """Base class of all errors that an engine raises.

    Attributes:
        message: What is wrong and what to do about it, in one readable text.
        code: A short stable identifier, such as ``"model_not_found"``.
        param: The request field (dotted path) or the file at fault, if there is one.
        request_id: The request that failed, if there was one.
    """

    default_code: ClassVar[str] = "engine_error"
    is_bug: ClassVar[bool] = False  # then its whole traceback is of interest

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.param = param
        self.request_id = request_id

    def _render_traceback_(self) -> list[str]:
        """The lines that IPython shows; called by IPython."""
        return render_traceback(self)

    def copy(self) -> Self:
        """A copy to raise again, with the same cause and a traceback of its own."""
        other = copy.copy(self)
        other.__cause__, other.__suppress_context__ = self.__cause__, self.__suppress_context__
        return other


class BadRequestError(MLCEngineError, ValueError):
    """The request is wrong. `param` names the field; the message has the value and what to do."""

    default_code = "invalid_request_error"

    @classmethod
    def several_are_loaded(cls, models: Iterable[str]) -> Self:
        """The error where a request names no model and several are loaded; `models` are these."""
        return cls(
            f"model: several models are loaded; name one of {', '.join(models)}.", param="model"
        )


class UnsupportedFieldError(BadRequestError):
    """The field is known, but the runtime that serves this model cannot honour it."""

    default_code = "unsupported_field"


class ContextLengthExceededError(BadRequestError):
    """The prompt, or prompt plus `max_tokens`, does not fit the context window."""

    default_code = "context_length_exceeded"


class ModelError(MLCEngineError):
    """Something about the model, not about the request.

    The message may quote what the model's files hold, so that a long one is cut in its middle.
    """

    default_code = "model_error"

    def __init__(self, message: str, **fields: Any) -> None:
        if len(message) > _LONGEST:
            message = f"{message[: _LONGEST - _ITS_END - 3]} … {message[-_ITS_END:]}"
        super().__init__(message, **fields)


class ModelNotFoundError(ModelError):
    """No folder, built-in model or file of that name."""

    default_code = "model_not_found"


class ModelDownloadError(ModelError):
    """The download failed: no network, no access or no disk space. A retry continues it."""

    default_code = "download_failed"


class ModelFormatError(ModelError):
    """A file of the model folder is missing, malformed or truncated; `param` is its path."""

    default_code = "model_format_error"


class UnsupportedModelError(ModelError):
    """The model is well-formed, but of an architecture, quantization or template not supported."""

    default_code = "unsupported_model"


class ModelNotLoadedError(ModelError):
    """A request came before any model was loaded, or named a model that is not loaded."""

    default_code = "model_not_loaded"

    @classmethod
    def none_is_loaded(cls, failure: str = "") -> Self:
        """The error where no model is loaded; `failure` is the message of the last failed load."""
        why = f" The last failure: {failure}" if failure else ""
        return cls(f"No model is loaded: call reload(model_id) first.{why}")


class RuntimeUnavailableError(MLCEngineError):
    """A package, driver or device that the runtime needs is missing; the message says which."""

    default_code = "runtime_unavailable"


class MCPServerError(MLCEngineError):
    """A server of the Model Context Protocol did not start, answer in time, or stay alive.

    The message names the server and ends with its last output.
    """

    default_code = "mcp_server_error"


class InsufficientMemoryError(MLCEngineError):
    """Weights and KV cache do not fit; the message has the numbers in bytes."""

    default_code = "insufficient_memory"


class LoadCancelledError(MLCEngineError):
    """A newer `reload`, an `unload` or a `terminate` cancelled this load."""

    default_code = "load_cancelled"


class EngineDeadError(MLCEngineError):
    """The worker process or the engine's thread died, and the request could not continue."""

    default_code = "engine_dead"


class WorkerStartError(EngineDeadError):
    """The worker died or timed out before it was ready; the message ends with its last output."""

    default_code = "worker_start_failed"


class ServerError(MLCEngineError):
    """The server that an engine is on cannot be reached, refuses this user, or failed."""

    default_code = "server_error"


class EngineTerminatedError(MLCEngineError):
    """The engine was terminated; make a new one."""

    default_code = "engine_terminated"


class EngineForkedError(MLCEngineError, RuntimeError):
    """The engine belongs to the process that this one was forked from; make a new one here."""

    default_code = "engine_forked"


class ProtocolError(MLCEngineError):
    """A message breaks the protocol: a gap in `seq`, an unknown kind, another version."""

    default_code = "protocol_error"


class InternalEngineError(MLCEngineError):
    """An unexpected exception inside the engine. Its cause holds the (remote) traceback."""

    default_code = "internal_error"
    is_bug = True
