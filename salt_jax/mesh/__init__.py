"""The devices, and where arrays live on them."""
