"""Checkpoints and exports: the files of a model's parameters, written and read."""
