"""From a model_id to verified files on disk."""
