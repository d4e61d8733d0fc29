"""The SALT objective, dense and in chunks of tokens."""
