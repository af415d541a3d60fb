"""Turns a model_id into verified files on disk."""
