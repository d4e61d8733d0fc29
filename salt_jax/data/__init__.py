"""Data: from text on disk to batches on the mesh."""
