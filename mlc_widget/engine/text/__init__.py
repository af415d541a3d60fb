"""Conversion between text and token ids: tokenizers and incremental detokenization."""
