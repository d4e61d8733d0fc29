"""Laboratories: questions about training, answered by a graph of commands."""
