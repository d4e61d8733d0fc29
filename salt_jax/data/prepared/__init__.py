"""Prepared sequences on disk, readable by id."""
