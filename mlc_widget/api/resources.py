"""OpenAI's resources (`chat.completions`, `completions`, `embeddings`, `models`) on an engine core.

Awaited and blocking versions have the same fields. OpenAI's API reference defines what each field
means; `api.requests` checks the values before any work starts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

from mlc_widget.api import responses
from mlc_widget.api.copies import ENGINES, NotCopyable
from mlc_widget.api.core import EngineCore, RequestKind
from mlc_widget.api.home_loop import HomeLoop
from mlc_widget.api.refusals import checked
from mlc_widget.api.request_params import ChatParams, CompletionParams, EmbeddingParams
from mlc_widget.api.requests import JSONDict, check_chat, check_completion, check_embedding
from mlc_widget.api.streams import AsyncStream, Stream, StreamBuffer

if TYPE_CHECKING:
    from openai.types import Completion, CreateEmbeddingResponse, Model
    from openai.types.chat import ChatCompletion, ChatCompletionChunk


class _Part(NotCopyable):
    _instead = ENGINES

    def __repr__(self) -> str:
        names = {name for name in dir(self) if not name.startswith("_")}
        return f"<{type(self).__name__} of an engine: {', '.join(sorted(names))}>"


class _Resource(_Part):
    def __init__(self, core: EngineCore, home: HomeLoop) -> None:
        self._core = core
        self._home = home

    async def _open(self, kind: RequestKind, request: JSONDict) -> StreamBuffer:
        return StreamBuffer(self._home, await self._core.open_stream(kind, request))


class AsyncChatCompletions(_Resource):
    """``engine.chat.completions``."""

    @overload
    async def create(
        self,
        *,
        messages: Sequence[Mapping[str, Any]],
        stream: Literal[False] | None = ...,
        **params: Unpack[ChatParams],
    ) -> ChatCompletion: ...
    @overload
    async def create(
        self,
        *,
        messages: Sequence[Mapping[str, Any]],
        stream: Literal[True],
        **params: Unpack[ChatParams],
    ) -> AsyncStream[ChatCompletionChunk]: ...
    async def create(
        self,
        *,
        messages: Sequence[Mapping[str, Any]],
        stream: bool | None = None,
        **params: Unpack[ChatParams],
    ) -> ChatCompletion | AsyncStream[ChatCompletionChunk]:
        """Answer a conversation, as OpenAI's chat completions do.

        Args:
            messages: The conversation: mappings with ``role`` and ``content``, or the message
                objects of earlier answers.
            stream: Whether to return chunks while the answer is generated.
            params: Other fields of the request.

        Returns:
            The whole answer or, with ``stream=True``, a stream of its chunks.

        Raises:
            BadRequestError: A field is invalid; raised before any work is done.
            ContextLengthExceededError: The conversation does not fit into the context window.
            ModelNotLoadedError: No model is loaded, or not the one that ``model`` names.
            EngineDeadError: The engine died during this request, which could not continue in
                another worker.
            EngineTerminatedError: The engine has been terminated.
        """
        request = checked(
            self._core, check_chat, {"messages": messages, "stream": stream, **params}
        )
        if request.get("stream"):
            opening = partial(self._open, "chat", request)
            relay = await self._home.wait(opening, abandoned=StreamBuffer.close)
            return AsyncStream(relay, responses.chat_completion_chunk)
        return responses.chat_completion(
            await self._home.wait(partial(self._core.request, "chat", request))
        )


class ChatCompletions(_Resource):
    """``engine.chat.completions``, blocking."""

    @overload
    def create(
        self,
        *,
        messages: Sequence[Mapping[str, Any]],
        stream: Literal[False] | None = ...,
        **params: Unpack[ChatParams],
    ) -> ChatCompletion: ...
    @overload
    def create(
        self,
        *,
        messages: Sequence[Mapping[str, Any]],
        stream: Literal[True],
        **params: Unpack[ChatParams],
    ) -> Stream[ChatCompletionChunk]: ...
    def create(
        self,
        *,
        messages: Sequence[Mapping[str, Any]],
        stream: bool | None = None,
        **params: Unpack[ChatParams],
    ) -> ChatCompletion | Stream[ChatCompletionChunk]:
        """As `AsyncChatCompletions.create`, blocking the calling thread."""
        request = checked(
            self._core, check_chat, {"messages": messages, "stream": stream, **params}
        )
        if request.get("stream"):
            opening = partial(self._open, "chat", request)
            relay = self._home.wait_blocking(opening, abandoned=StreamBuffer.close)
            return Stream(relay, responses.chat_completion_chunk)
        return responses.chat_completion(
            self._home.wait_blocking(partial(self._core.request, "chat", request))
        )


class AsyncCompletions(_Resource):
    """``engine.completions``."""

    @overload
    async def create(
        self,
        *,
        prompt: str | Sequence[int] | Sequence[str | Sequence[int]],
        stream: Literal[False] | None = ...,
        **params: Unpack[CompletionParams],
    ) -> Completion: ...
    @overload
    async def create(
        self,
        *,
        prompt: str | Sequence[int] | Sequence[str | Sequence[int]],
        stream: Literal[True],
        **params: Unpack[CompletionParams],
    ) -> AsyncStream[Completion]: ...
    async def create(
        self,
        *,
        prompt: str | Sequence[int] | Sequence[str | Sequence[int]],
        stream: bool | None = None,
        **params: Unpack[CompletionParams],
    ) -> Completion | AsyncStream[Completion]:
        """Continue texts or token ids as they are, without a conversation template.

        Args:
            prompt: A text, a list of token ids, or a list of texts and lists of token ids. Each
                prompt gets ``n`` choices: choice ``i`` belongs to prompt ``i // n``.
            stream: Whether to return chunks while the text is generated.
            params: Other fields of the request.

        Returns:
            The completion or, with ``stream=True``, a stream of its chunks.

        Raises:
            BadRequestError, ContextLengthExceededError, ModelNotLoadedError, EngineDeadError,
                EngineTerminatedError: As for `AsyncChatCompletions.create`.
        """
        request = checked(
            self._core, check_completion, {"prompt": prompt, "stream": stream, **params}
        )
        if request.get("stream"):
            opening = partial(self._open, "completion", request)
            relay = await self._home.wait(opening, abandoned=StreamBuffer.close)
            return AsyncStream(relay, responses.completion)
        return responses.completion(
            await self._home.wait(partial(self._core.request, "completion", request))
        )


class Completions(_Resource):
    """``engine.completions``, blocking."""

    @overload
    def create(
        self,
        *,
        prompt: str | Sequence[int] | Sequence[str | Sequence[int]],
        stream: Literal[False] | None = ...,
        **params: Unpack[CompletionParams],
    ) -> Completion: ...
    @overload
    def create(
        self,
        *,
        prompt: str | Sequence[int] | Sequence[str | Sequence[int]],
        stream: Literal[True],
        **params: Unpack[CompletionParams],
    ) -> Stream[Completion]: ...
    def create(
        self,
        *,
        prompt: str | Sequence[int] | Sequence[str | Sequence[int]],
        stream: bool | None = None,
        **params: Unpack[CompletionParams],
    ) -> Completion | Stream[Completion]:
        """As `AsyncCompletions.create`, blocking the calling thread."""
        request = checked(
            self._core, check_completion, {"prompt": prompt, "stream": stream, **params}
        )
        if request.get("stream"):
            opening = partial(self._open, "completion", request)
            relay = self._home.wait_blocking(opening, abandoned=StreamBuffer.close)
            return Stream(relay, responses.completion)
        return responses.completion(
            self._home.wait_blocking(partial(self._core.request, "completion", request))
        )


class AsyncEmbeddings(_Resource):
    """``engine.embeddings``."""

    async def create(
        self,
        *,
        input: str | Sequence[Any],
        **params: Unpack[EmbeddingParams],
    ) -> CreateEmbeddingResponse:
        """Compute embeddings of texts or token ids.

        Args:
            input: A text, a list of token ids, or a list of texts and lists of token ids.
            params: Other fields of the request.

        Returns:
            One vector for each input, in their order: a list of floats or, with
            ``encoding_format="base64"``, its little-endian float32 values in base64. With
            ``dimensions``, it has that many components and length 1; otherwise it is the model's.

        Raises:
            BadRequestError: A field is invalid; the message names it and its value.
            ContextLengthExceededError: An input does not fit into the context window, and
                ``truncate`` is not set.
            UnsupportedModelError: The loaded model does not compute embeddings.
            ModelNotLoadedError: No model is loaded, or not the one that ``model`` names.
        """
        request = checked(self._core, check_embedding, {"input": input, **params})
        return responses.embedding_response(
            await self._home.wait(partial(self._core.request, "embedding", request))
        )


class Embeddings(_Resource):
    """``engine.embeddings``, blocking."""

    def create(
        self,
        *,
        input: str | Sequence[Any],
        **params: Unpack[EmbeddingParams],
    ) -> CreateEmbeddingResponse:
        """As `AsyncEmbeddings.create`, blocking the calling thread."""
        request = checked(self._core, check_embedding, {"input": input, **params})
        return responses.embedding_response(
            self._home.wait_blocking(partial(self._core.request, "embedding", request))
        )


class AsyncModels(_Resource):
    """``engine.models``."""

    async def list(self) -> list[Model]:
        """The loaded models; `id` is what was passed to `reload`."""
        return [responses.model(m) for m in await self._home.wait(self._core.list_models)]


class Models(_Resource):
    """``engine.models``, blocking."""

    def list(self) -> list[Model]:
        """As `AsyncModels.list`, blocking the calling thread."""
        return [responses.model(m) for m in self._home.wait_blocking(self._core.list_models)]


class AsyncChat(_Part):
    """``engine.chat``."""

    def __init__(self, core: EngineCore, home: HomeLoop) -> None:
        self.completions = AsyncChatCompletions(core, home)


class Chat(_Part):
    """``engine.chat``, blocking."""

    def __init__(self, core: EngineCore, home: HomeLoop) -> None:
        self.completions = ChatCompletions(core, home)
