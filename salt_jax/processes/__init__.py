"""A job of several processes: who is in it, whether they agree, and how it ends."""
