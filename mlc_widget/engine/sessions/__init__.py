"""Journals on disk, from which answers continue after the process that wrote them has died."""
