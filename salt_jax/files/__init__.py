"""Files that survive a crash, and that say when they are damaged."""
