"""Helpers of gin_config: file lookup, unused bindings and error messages."""
