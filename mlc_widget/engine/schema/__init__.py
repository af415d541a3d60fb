"""From checked JSON schemas to grammars."""
