"""Optimizers, and schedules of what they use."""
