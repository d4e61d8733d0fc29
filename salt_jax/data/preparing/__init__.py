"""From a corpus of any size to prepared sequences on disk."""
