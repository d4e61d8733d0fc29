"""A check of this machine's accelerator: what is right, and how fast it is."""
