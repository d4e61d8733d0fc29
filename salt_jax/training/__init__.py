"""A run of updates: its program, its step, its records, its resumption."""
