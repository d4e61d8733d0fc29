"""Measuring and evaluating models on held-out data."""
