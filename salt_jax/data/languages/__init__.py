"""Languages that are made, so that their next-token distributions are known."""
