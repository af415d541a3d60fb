"""A direct engine on mlc_llm; ``python direct.py MODEL_FOLDER``. It leaves without terminating."""

from __future__ import annotations

import sys

from mlc_widget import MLCEngine
from mlc_widget.api.errors import EngineDeadError


def main() -> None:
    folder = sys.argv[1]
    engine = MLCEngine(runtime="mlc_llm", runtime_options={"device": "cpu"})
    engine.reload(folder)
    try:
        engine.reload(folder, {"context_window_size": 100})
    except EngineDeadError as error:
        print(error.code)
    answer = engine.completions.create(prompt="Hello", max_tokens=5)
    print(answer.choices[0].finish_reason)
    stream = engine.completions.create(prompt="Hello", max_tokens=2000, stream=True)
    print(len(next(iter(stream)).choices), flush=True)


if __name__ == "__main__":
    main()
