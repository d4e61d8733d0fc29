"""What a small model says of each sequence, on disk."""
