"""`engine.serve()` and ``mlc_widget serve``: OpenAI's API over HTTP, answered by an engine."""
