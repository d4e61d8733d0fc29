"""From a corpus to sequences on disk, at any size."""
