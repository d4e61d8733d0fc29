"""Selection of sequences by their scores."""
