"""Bias and variance of soft labels, measured where they act: in the gradient."""
