"""The device mesh, and the sharding of arrays over it."""
