"""Compiling a run for a topology ahead of time: memory, FLOPs and communication."""
