"""Metrics, progress, times, traces and versions of a run."""
