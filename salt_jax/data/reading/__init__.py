"""What a stage reads: from sequences to batches on the mesh."""
