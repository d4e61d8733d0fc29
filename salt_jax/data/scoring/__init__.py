"""Scores of prepared sequences by a small model, on disk."""
