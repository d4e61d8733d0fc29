"""What gin_config needs around gin: finding files, naming what is idle, messages."""
