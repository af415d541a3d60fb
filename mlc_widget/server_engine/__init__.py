"""The server engines: the same interface on a server of OpenAI's API, wherever it is."""
