"""Text generation: prompts are prefilled once, then tokens are decoded one by one."""
