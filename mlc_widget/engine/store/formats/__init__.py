"""Readers of model files in formats other than MLC's."""
