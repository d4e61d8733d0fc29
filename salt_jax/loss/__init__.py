"""The SALT loss: a dense reference, and in chunks of tokens on a mesh."""
