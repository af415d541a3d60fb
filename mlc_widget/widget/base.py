"""The bases of all widgets: the bundle, the two channels from the page, and an engine's state."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import threading
import uuid
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import anywidget
import ipywidgets
import traitlets

from mlc_widget.api.copies import NotCopyable
from mlc_widget.api.engine_link import EngineLink, EngineSnapshot
from mlc_widget.api.errors import BadRequestError
from mlc_widget.api.request_values import bad
from mlc_widget.api.requests import JSONDict
from mlc_widget.widget import control
from mlc_widget.widget.bundle import Bundle, current_bundle, loader
from mlc_widget.widget.intents import Handler, IntentDispatcher
from mlc_widget.widget.link import link_of
from mlc_widget.widget.page_session import current_page_session
from mlc_widget.widget.state import error_json
from mlc_widget.widget.throttle import Throttle

_log = logging.getLogger(__name__)
_PROGRESS_INTERVAL_S = 0.1


def inert(value: Any) -> Any:
    """Encode JSON so that it contains no ``<``; the page decodes it.

    The state of a widget is saved in the notebook and from there written into the script tags of
    exported pages, by programs that have not always kept ``</script>`` from ending the tag.
    U+E03C is the escape: followed by 1 it means ``<``, followed by 0 itself.
    """
    if isinstance(value, str):
        if "<" not in value and "\ue03c" not in value:
            return value
        return value.replace("\ue03c", "\ue03c0").replace("<", "\ue03c1")
    if isinstance(value, Mapping):
        return {key: inert(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [inert(item) for item in value]
    return value


def mirror(name: str) -> Any:
    """A synced trait whose value is computed by `PageWidget._mirrors[name]` whenever it is read.

    The value comes from the I/O thread's state at the time of reading, so a page that asks for the
    state (after a reload, say) gets it as it is now, and no trait is ever written by two threads.
    """

    def read(_value: object, widget: PageWidget) -> JSONDict:
        shown: JSONDict = inert(widget._mirrors[name]())
        return shown

    return traitlets.Dict(read_only=True).tag(sync=True, to_json=read)


class PageWidget(NotCopyable, anywidget.AnyWidget):
    """A widget of the bundle, which takes intents from the page.

    Args:
        call_soon: Calls a function on the I/O thread.
        mirrors: What computes each trait that was made by `mirror`.

    Traits (all for the page; none is meant to be set):
        _bundle: The front end's code.
        _view: Which view to draw.
        _comm_id: This widget's comm, for the control channel.
        _control: Whether the kernel listens for it on the control channel.
    """

    _instead = "it is part of a page. Make another one with the same engine."
    _esm = loader()
    _bundle = traitlets.Instance(Bundle, read_only=True).tag(
        sync=True, **ipywidgets.widget_serialization
    )
    _view = traitlets.Unicode(read_only=True).tag(sync=True)
    _comm_id = traitlets.Unicode(read_only=True).tag(sync=True)
    _control = traitlets.Bool(False, read_only=True).tag(sync=True)

    def __init__(
        self, call_soon: Callable[..., object], mirrors: Mapping[str, Callable[[], JSONDict]]
    ) -> None:
        self._call_soon = call_soon
        self._out = threading.RLock()
        self._page = current_page_session()
        self._mirrors = dict(mirrors)
        self._desk = IntentDispatcher(self._intents(), self.send)
        self.set_trait("_bundle", current_bundle())
        comm_id = uuid.uuid4().hex
        self.set_trait("_comm_id", comm_id)
        self.set_trait("_control", control.listen(comm_id, self._take))
        super().__init__(model_id=comm_id)
        self.on_msg(lambda _widget, content, _buffers: self._take(content))
        # ipykernel 7.4 answers a comm on the subshell that last wrote to it, which is the main one
        # while a cell runs; without this, messages go where the page sends them.
        if hasattr(self.comm, "_reply_subshell_for"):
            self.comm._reply_subshell_for = None

    def _intents(self) -> Mapping[str, Handler]:
        """The handlers of the page's intents."""
        return {"resync": lambda _: None}

    def _take(self, content: Any) -> None:
        """Hand a message from the page to the I/O thread. On any thread."""
        self._call_soon(self._desk.take, content)

    def _send(self, msg: Any, buffers: Any = None) -> None:
        """Send to the page, from any thread, one message at a time."""
        self._page.run(lambda: self._send_now(msg, buffers))

    def _send_now(self, msg: Any, buffers: Any) -> None:
        try:
            with self._out:
                super()._send(msg, buffers=buffers)
        except Exception:  # the page may miss a message; the engine must not miss a beat
            _log.exception("a message to the page could not be sent")

    def close(self) -> None:
        """Remove the widget from the page."""
        if self.comm is not None:
            control.forget(self._comm_id)
        super().close()


class EngineWidget(PageWidget):
    """A widget that shows an engine.

    Traits, beside those of `PageWidget`:
        _engine: ``{"rev", "state", "model", "device", "window", "memory_bytes",
            "memory_used_bytes", "gpu", "runtime", "defaults", "progress", "unloaded", "error",
            "failed", "hang"}``: the memory of the worker's machine, and how much of it the worker
            uses;
            ``gpu`` is ``{"name", "memory_bytes", "free_bytes", "model_bytes"}`` or None;
            ``defaults`` are the settings in the model's configuration; ``failed`` is ``{"model",
            "error"}`` of a load that left the model as it was, or None; ``unloaded`` says
            that ``model`` was loaded and no longer is; ``hang`` is ``{"part", "seconds"}`` or None.
    """

    _engine = mirror("_engine")

    def __init__(self, engine: object, model: str | None = None) -> None:
        self._link: EngineLink = link_of(engine)
        self._view_of = EngineMirror(self._link.snapshot, model)
        self._push_engine = Throttle(lambda: self.send_state("_engine"), _PROGRESS_INTERVAL_S)
        self._unobserve: Callable[[], object] | None = None
        self._tasks: set[asyncio.Future[Any]] = set()
        mirrors = {"_engine": self._view_of.to_json, **self._more_mirrors()}
        super().__init__(self._link.call_soon, mirrors)
        self._link.call_soon(self._attach)

    @property
    def engine_link(self) -> EngineLink:
        """The link to the engine."""
        return self._link

    def _more_mirrors(self) -> Mapping[str, Callable[[], JSONDict]]:
        """The subclass's mirrored traits."""
        return {}

    def _intents(self) -> Mapping[str, Handler]:
        """The handlers of the page's intents."""
        return {
            "cancel_load": lambda _: self._link.cancel_load(),
            "load": lambda intent: self._load(intent.get("model")),
            "restart": lambda _: self._background(self._link.restart()),
            "resync": lambda _: None,
        }

    def _load(self, model: Any) -> None:
        """Load a model in place of the loaded ones or, given None, reload the last one."""
        if model is None and not self._view_of.model:
            raise BadRequestError("model: none has been loaded yet; choose one.", param="model")
        if model is None:
            self._background(self._link.reload_last())
        elif isinstance(model, str) and model.strip():
            self._link.begin_reload((model,))
        else:
            raise bad("model", model, "must be a model's name.")

    def _background(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run a task on the I/O thread; if it fails, the engine's own state shows that."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)

        def done(task: asyncio.Future[Any]) -> None:
            self._tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                _log.debug("in the background of a widget: %r", error)

        task.add_done_callback(done)

    def _attach(self) -> None:
        """Start following the engine. On the I/O thread."""
        self._unobserve = self._link.observe(self._on_engine)
        self._on_engine(self._link.snapshot)
        if self._link.snapshot.state == "ready":
            self._background(self._describe())

    def _on_engine(self, snapshot: EngineSnapshot) -> None:
        phase_changed = self._view_of.follow(snapshot)
        self._push_engine.poke()
        if phase_changed:
            self._push_engine.flush()
            if snapshot.state == "ready":
                self._background(self._describe())

    async def _describe(self) -> None:
        """Ask the worker for details of the loaded model. On the I/O thread."""
        models = await self._link.list_models()
        info = await self._link.device_info()
        self._view_of.describe(models, info)
        self._push_engine.poke()

    def close(self) -> None:
        """Remove the widget from the page and stop following the engine, which keeps running."""
        if self.comm is not None:
            with contextlib.suppress(RuntimeError):  # the I/O thread has ended with the process
                self._link.call_soon(self._detach)
        super().close()

    def _detach(self) -> None:
        """Stop following the engine. On the I/O thread."""
        self._push_engine.cancel()
        if self._unobserve is not None:
            self._unobserve()
            self._unobserve = None


class EngineMirror:
    """The engine as the page sees it. Written on the I/O thread, read on any.

    Args:
        snapshot: The engine's state.
        chosen: Which model is shown, if the engine has several; None for all.
    """

    def __init__(self, snapshot: EngineSnapshot, chosen: str | None = None) -> None:
        self._rev = 0
        self._chosen = chosen
        self._model = snapshot.model_id or ""
        self._snapshot = snapshot
        self._details: JSONDict = {}
        self._json = self._shape()

    @property
    def model(self) -> str:
        """The chosen model, or the last loaded or requested one; several are joined by commas."""
        return self._chosen or self._model

    def choose(self, model: str | None) -> None:
        """Show one of the engine's models, or all."""
        self._chosen = model
        self._rev += 1
        self._json = self._shape()

    def describe(self, models: Sequence[JSONDict], info: JSONDict) -> None:
        """Add the details that the worker reports."""
        chosen = [model for model in models if model.get("id") == self._chosen]
        about = next(iter(chosen or models), {})
        self._details = {
            "window": about.get("context_window_size"),
            "defaults": about.get("default_sampling_params"),
            "memory_bytes": info.get("memory_bytes"),
            "memory_used_bytes": info.get("memory_used_bytes"),
            "gpu": info.get("device_name")
            and {
                "name": info["device_name"],
                "memory_bytes": info.get("device_memory_bytes"),
                "free_bytes": info.get("device_memory_free_bytes"),
                "model_bytes": info.get("model_memory_bytes"),
            },
            "runtime": info.get("runtime"),
        }
        self._rev += 1
        self._json = self._shape()

    def follow(self, snapshot: EngineSnapshot) -> bool:
        """Take a new snapshot; returns whether anything but a load's progress has changed."""
        old = self._snapshot
        if snapshot.state == "terminated" and old.error is not None:
            # Why it failed says more than that the engine, which nobody got, has ended with it.
            snapshot = dataclasses.replace(snapshot, error=old.error)
        self._snapshot = snapshot
        self._rev += 1
        # A load that failed has no model any more, but it is still that model's load.
        self._model = snapshot.model_id or self._model
        self._json = self._shape()
        return (old.state, old.model_id, old.error, old.hang, old.failed) != (
            snapshot.state,
            snapshot.model_id,
            snapshot.error,
            snapshot.hang,
            snapshot.failed,
        )

    def to_json(self) -> JSONDict:
        """The current state, in the page's format."""
        hang = self._snapshot.hang
        shown = None if hang is None else {"part": hang.part, "seconds": hang.seconds}
        return {**self._json, "hang": shown}

    def _shape(self) -> JSONDict:
        snapshot = self._snapshot
        report = snapshot.progress
        return {
            "rev": self._rev,
            "state": snapshot.state,
            "model": self.model,
            "device": snapshot.device or "",
            "window": self._details.get("window"),
            "defaults": self._details.get("defaults") or {},
            "memory_bytes": self._details.get("memory_bytes"),
            "memory_used_bytes": self._details.get("memory_used_bytes"),
            "gpu": self._details.get("gpu"),
            "runtime": self._details.get("runtime") or "",
            "unloaded": bool(self._model) and _is_empty(snapshot),
            "error": error_json(snapshot.error),
            "failed": snapshot.failed
            and {
                "model": snapshot.failed.model_id,
                "error": error_json(snapshot.failed.error),
            },
            "progress": report
            and {
                "progress": report.progress,
                "text": report.text,
                "phase": report.phase,
                "elapsed": report.time_elapsed,
                "bytes_done": report.bytes_done,
                "bytes_total": report.bytes_total,
                "bytes_per_s": report.bytes_per_s,
                "eta_s": report.eta_s,
                "warning": report.warning,
            },
        }


def _is_empty(snapshot: EngineSnapshot) -> bool:
    """Whether no model is loaded, nor about to be, and nothing has failed."""
    return snapshot.state == "idle" and snapshot.model_id is None and snapshot.error is None
