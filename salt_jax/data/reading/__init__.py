"""The input pipeline of a stage: from prepared sequences to batches on the mesh."""
