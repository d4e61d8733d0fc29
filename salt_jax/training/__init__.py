"""The training program, its update, the loop around it, and resuming a run."""
