"""Finds the logit processors of a model.

They are registered where the model runs, never sent there: by an installed package, through the
entry point group ``mlc_widget.logit_processors`` (the entry's name is the model id, or ``*`` for
every model), or by the configuration of the direct engine or of the worker.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Final

from mlc_widget.api.errors import BadRequestError
from mlc_widget.api.logit_processor import LogitProcessorFactory

ENTRY_POINTS: Final = "mlc_widget.logit_processors"


def find_logit_processor(
    model_id: str, configured: Mapping[str, LogitProcessorFactory] | None
) -> LogitProcessorFactory | None:
    """The factory of a model's logit processors, from the configuration or an installed package.

    The configuration comes first; an entry for the model id comes before ``*``.
    """
    for name in (model_id, "*"):
        if configured and name in configured:
            return configured[name]
        for found in entry_points(group=ENTRY_POINTS, name=name):
            factory: LogitProcessorFactory = found.load()
            return factory
    return None


def import_object(path: str, param: str) -> Any:
    """Import the object at ``package.module:Name``.

    Raises:
        BadRequestError: There is none.
    """
    module, _, name = path.partition(":")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise BadRequestError(
            f"{param} = {path!r}: give package.module:Name of an object that can be imported where "
            f"the models run ({error}).",
            param=param,
        ) from None
