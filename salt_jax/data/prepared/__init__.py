"""Sequences on disk, readable by id."""
