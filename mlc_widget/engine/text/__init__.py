"""Between text and token ids: tokenizers, and tokens turned back into text as they arrive."""
