"""A model writes: prompts are read once, and tokens are added one by one."""
