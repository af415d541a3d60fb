from __future__ import annotations

from mlc_llm.standin.faults import faults

from .config import EngineConfig
from .engine import AsyncMLCEngine

if not faults().no_embeddings:
    from .embedding_engine import AsyncEmbeddingEngine

__all__ = ["AsyncEmbeddingEngine", "AsyncMLCEngine", "EngineConfig"]
