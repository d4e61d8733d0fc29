"""SALT: pre-training a large language model with early help from a small one."""
