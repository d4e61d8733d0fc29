"""From text on disk to batches on the mesh."""
