"""One module a command: its options, its flags, what it runs."""
