"""Which sequences to keep, given their scores."""
